"""Compares two answers of a real server byte by byte, but for the values that it makes anew for each answer.

Those values are listed here by JSON path, each with the shape that it must have; nothing else is masked. The
masking itself is done on the bytes, so that spacing, key order, number spelling and escapes stay compared.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tests.support.wire import Message

CHAT_ID = r"chatcmpl-[0-9a-f]{16}"
CALL_ID = r"chatcmpl-tool-[0-9a-f]{16}"
SECONDS = r"1[0-9]{9}"

MASKED: Mapping[str, str] = {
    "id": CHAT_ID,
    "created": SECONDS,
    "choices[].message.tool_calls[].id": CALL_ID,
    "choices[].delta.tool_calls[].id": CALL_ID,
}
"""JSON path → the shape (a regular expression for the whole) of the value there."""

MODELS_MASKED: Mapping[str, str] = {
    "data[].created": SECONDS,
    "data[].permission[].id": r"modelperm-[0-9a-f]{16}",
    "data[].permission[].created": SECONDS,
}
"""The same for ``/v1/models``."""

DATE = r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT"


def events(body: bytes) -> list[bytes]:
    """The events of a stream with their blank lines; a rest without one is the last."""
    return re.findall(rb".*?\n\n|.+", body, re.S)


def headers(message: Message) -> list[tuple[str, str]]:
    """The header multiset; the date's value is checked and masked."""
    found = []
    for name, value in message.multiset():
        if name == "date":
            assert re.fullmatch(DATE, value), value
            value = "<date>"
        found.append((name, value))
    return found


def masked(document: bytes, paths: Mapping[str, str] = MASKED) -> bytes:
    """``document`` (JSON) with the values at ``paths`` replaced in place. A value of another shape fails."""
    value = json.loads(document)
    varying: set[tuple[str, str | int]] = set()
    for path, shape in paths.items():
        for found in _at(value, path.split(".")):
            assert re.fullmatch(shape, str(found)), f"{path} is {found!r}"
            varying.add((path.rpartition(".")[2], found))
    for key, found in varying:
        old = f'"{key}":{json.dumps(found)}'.encode()
        assert old in document, f"{key} is not spelled as vLLM spells it"
        document = document.replace(old, f'"{key}":<masked>'.encode())
    return document


def masked_event(event: bytes, paths: Mapping[str, str] = MASKED) -> bytes:
    """The same for the data of one event of a stream."""
    data = event.removeprefix(b"data: ")
    return b"data: " + masked(data, paths) if data.startswith(b"{") else event


def by_choice(body: bytes, paths: Mapping[str, str] = MASKED) -> dict[int | None, list[bytes]]:
    """The masked events of a stream for each choice, in their order; under None those without choices."""
    found: dict[int | None, list[bytes]] = {}
    for event in events(body):
        data = event.removeprefix(b"data: ").strip()
        choices = json.loads(data)["choices"] if data.startswith(b"{") and b'"choices"' in data else []
        numbers = {choice["index"] for choice in choices}
        assert len(numbers) < 2, "an event of several choices"
        found.setdefault(numbers.pop() if numbers else None, []).append(masked_event(event, paths))
    return found


def joined(body: bytes) -> dict[int, dict[str, Any]]:
    """What a stream says, without how it is cut into events: joined strings and lists, choice by choice. Equal
    for two answers of which vLLM only grouped the tokens into events differently."""
    said: dict[int, dict[str, Any]] = {}
    for event in events(body):
        data = event.removeprefix(b"data: ").strip()
        if not data.startswith(b"{"):
            continue
        for choice in json.loads(data).get("choices", []):
            _merge(said.setdefault(choice["index"], {}), {**choice, "index": 0})
    return said


def _merge(into: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        if key == "tool_calls" and isinstance(value, list):
            calls = into.setdefault(key, {})
            for call in value:
                said = {name: inner for name, inner in call.items() if name not in ("id", "index")}
                _merge(calls.setdefault(call["index"], {}), said)
        elif isinstance(value, dict):
            if not isinstance(into.get(key), dict):
                into[key] = {}
            _merge(into[key], value)
        elif isinstance(value, str | list) and isinstance(into.get(key), type(value)):
            into[key] = into[key] + value
        elif value is not None or key not in into:
            into[key] = value


def _at(value: Any, path: list[str]) -> Iterator[str | int]:
    name, rest = path[0], path[1:]
    inner = value.get(name.removesuffix("[]")) if isinstance(value, dict) else None
    for one in inner if name.endswith("[]") and isinstance(inner, list) else [inner]:
        if rest:
            yield from _at(one, rest)
        elif one is not None:
            yield one
