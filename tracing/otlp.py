"""Spans as the bytes of an OTLP export request (opentelemetry-proto, ``trace/v1/trace.proto``).

The protobuf classes make an object for every attribute of every span and then walk them all again; at a hundred
attributes per exchange that was more work than all else that the exporter does. These few fields are written
directly. A span has no events and no links here, and a value is a string, a number, a truth value or a list of them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

_HAS_IS_REMOTE, _IS_REMOTE = 0x100, 0x200  # SpanFlags
_SHORT = 12  # characters; ids are longer, and would push out what comes again
_double = struct.Struct("<d").pack
_TIMES = struct.Struct("<BQBQ").pack
_FLAGS = struct.Struct("<BBI").pack


def encode_spans(spans: Sequence[ReadableSpan]) -> bytes:
    """An ``ExportTraceServiceRequest``; spans that stand together with the same resource are in one group."""
    groups: list[tuple[Resource, InstrumentationScope | None, list[bytes]]] = []
    for span in spans:
        source, scope = span.resource, span.instrumentation_scope
        if not groups or groups[-1][0] is not source or groups[-1][1] is not scope:
            groups.append((source, scope, []))
        groups[-1][2].append(_field(0x12, _span(span)))
    return b"".join(_field(0x0A, _resource_spans(*group)) for group in groups)


def _resource_spans(source: Resource, scope: InstrumentationScope | None, spans: Iterable[bytes]) -> bytes:
    named = b"" if scope is None else _text(0x0A, scope.name) + _text(0x12, scope.version or "")
    resource = _field(0x0A, _attributes(0x0A, source.attributes))
    return resource + _field(0x12, _field(0x0A, named) + b"".join(spans))


def _span(span: ReadableSpan) -> bytes:
    context, parent, status = span.context, span.parent, span.status
    assert context is not None
    parts = [
        b"\x0a\x10",
        context.trace_id.to_bytes(16, "big"),
        b"\x12\x08",
        context.span_id.to_bytes(8, "big"),
        b"\x22\x08" + parent.span_id.to_bytes(8, "big") if parent is not None else b"",
        _text(0x2A, span.name),
        b"\x30" + _varint(span.kind.value + 1),  # OTLP counts from "unspecified"
        _TIMES(0x39, span.start_time or 0, 0x41, span.end_time or 0),
        _attributes(0x4A, span.attributes or {}),
    ]
    told = _text(0x12, status.description or "")
    if status.status_code.value:
        told += b"\x18" + _varint(status.status_code.value)
    parts.append(_field(0x7A, told))
    remote = parent is not None and parent.is_remote
    parts.append(_FLAGS(0x85, 0x01, _HAS_IS_REMOTE | (_IS_REMOTE if remote else 0)))
    return b"".join(parts)


def _attributes(tag: int, attributes: Mapping[str, Any]) -> bytes:
    parts = []
    for name, value in attributes.items():
        key, said = _key(name), _short(value) if value.__class__ is str and len(value) <= _SHORT else _value(value)
        length = _varint(len(said))
        parts.append(b"%c%b%b\x12%b%b" % (tag, _varint(len(key) + 1 + len(length) + len(said)), key, length, said))
    return b"".join(parts)


@lru_cache(maxsize=1024)
def _key(name: str) -> bytes:
    return _text(0x0A, name)


@lru_cache(maxsize=256)
def _short(value: str) -> bytes:
    """Names, which come with every span."""
    return _value(value)


def _value(value: Any) -> bytes:
    """An ``AnyValue``."""
    if value.__class__ is str:
        return _field(0x0A, value.encode("utf-8", "replace"))
    if value.__class__ is bool:
        return b"\x10\x01" if value else b"\x10\x00"
    if value.__class__ is int:
        return b"\x18" + _varint(value & 0xFFFFFFFFFFFFFFFF)
    if value.__class__ is float:
        return b"\x21" + _double(value)
    return _field(0x2A, b"".join(_field(0x0A, _value(one)) for one in value))


def _text(tag: int, text: str) -> bytes:
    return _field(tag, text.encode("utf-8", "replace")) if text else b""


def _field(tag: int, body: bytes) -> bytes:
    return b"%c%b%b" % (tag, _varint(len(body)), body)


_SMALL = tuple(bytes([number]) for number in range(128)) + tuple(
    bytes([number & 0x7F | 0x80, number >> 7]) for number in range(128, 16384)
)


def _varint(number: int) -> bytes:
    if number < 16384:
        return _SMALL[number]
    digits = bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    return bytes(digits)
