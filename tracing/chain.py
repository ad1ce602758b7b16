"""One line of the journal: how a record is written, chained and checked. Pure.

A line is one JSON object, and its fields stand in this order and spelling::

    {"seq":7,"prev":"<64 hex>","record":{…},"hash":"<64 hex>"}
    {"seq":8,"prev":"<64 hex>","record":{…},"seal":"<64 hex>","hash":"<64 hex>","key":"<64 hex>","content":{…}}

``hash`` is SHA-256 over the line's bytes before ``,"hash":``; ``prev`` is the hash of the line before, in
whichever segment or epoch that stands, so that the lines of one writer are one chain. The first line's
``prev`` is :func:`genesis` of the writer's name. ``seq`` counts the lines of a writer from 0 and never
restarts.

The record's content stands outside the hash: the chain covers its *seal*, HMAC-SHA256 of the content's bytes
under a random ``key`` of that line. To erase content is to blank key and content in place: every hash stays
valid, and the seal alone gives nothing to guess from.

A line is checked by taking it apart, writing it anew and comparing the bytes, so that no second spelling of
the same facts passes.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import os
from typing import Any, TypeVar

import msgspec

from tracing.records import AnyRecord, Record

_encoder = msgspec.json.Encoder()

ERASED = "erased"
"""``capture_error`` of a record that is read back when its content has been erased."""

OneRecord = TypeVar("OneRecord", bound=Record)


class Parts(msgspec.Struct, frozen=True):
    """A line taken apart; ``record`` and ``content`` are the exact bytes."""

    seq: int
    prev: str
    record: msgspec.Raw
    hash: str
    seal: str | None = None
    key: str | None = None
    content: msgspec.Raw = msgspec.Raw()


class Line(msgspec.Struct, frozen=True):
    """A line as its readers want it: the content is back in the record."""

    seq: int
    prev: str
    record: AnyRecord
    hash: str
    seal: str | None = None
    content: dict[str, Any] | None = None


class LineFault(Exception):
    """A line is not what the journal wrote; the message says how it shows."""


_parts = msgspec.json.Decoder(Parts)
_line = msgspec.json.Decoder(Line)


def genesis(instance: str, worker: int) -> str:
    """What stands for ``prev`` in a writer's first line."""
    return hashlib.sha256(f"interlock journal 1\n{instance}\n{worker}".encode()).hexdigest()


def write_line(seq: int, prev: str, record: Record) -> tuple[bytes, str]:
    """The line (newline included) and its hash. ``msgspec`` errors if the record cannot be JSON."""
    content = {name: value for name in record.CONTENT if (value := getattr(record, name))}
    if not content:
        return _assemble(seq, prev, _encoder.encode(record), None, None, b"")
    bare = _encoder.encode(without_content(record))
    key = os.urandom(32).hex()
    body = _encoder.encode(content)
    return _assemble(seq, prev, bare, _seal(key, body), key, body)


def without_content(record: OneRecord, error: str | None = None) -> OneRecord:
    """The record's facts alone; ``error`` says why, if the content was to be kept."""
    facts = msgspec.structs.replace(record, **_blank(type(record)))
    return facts if error is None else msgspec.structs.replace(facts, capture_error=error)


def read_line(line: bytes) -> Line:
    """The line with its record whole. Does not check the chain. :class:`LineFault` if it is no line."""
    try:
        read = _line.decode(line)
        if not read.content:
            if read.seal is None:
                return read
            return msgspec.structs.replace(read, record=msgspec.structs.replace(read.record, capture_error=ERASED))
        names = {name: read.content[name] for name in read.record.CONTENT if name in read.content}
        whole = msgspec.structs.replace(read.record, **names)
        return Line(seq=read.seq, prev=read.prev, record=whole, hash=read.hash)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise LineFault(f"not a journal line ({type(error).__name__})") from error


def check_line(line: bytes) -> Parts:
    """The line's parts if it is, byte for byte, a line that the journal can have written and its hash and
    seal are right; else :class:`LineFault`. Says nothing of its place in the chain."""
    try:
        parts = _parts.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise LineFault("not a journal line") from error
    record = bytes(parts.record)
    content = bytes(parts.content)
    anew, digest = _assemble(parts.seq, parts.prev, record, parts.seal, parts.key, content)
    if digest != parts.hash:
        raise LineFault("the record was changed: its hash is wrong")
    if anew != line:
        raise LineFault("the line was changed: its bytes are not what the journal writes")
    if parts.seal is not None and (parts.key is None or not hmac.compare_digest(_seal(parts.key, content), parts.seal)):
        raise LineFault("the content was changed: its seal is wrong")
    return parts


@functools.cache
def _blank(kind: type[Record]) -> dict[str, Any]:
    """What a record of this kind holds in its content fields when it has no content."""
    return {name: getattr(kind(time_ns=0), name) for name in kind.CONTENT}


def _assemble(
    seq: int, prev: str, record: bytes, seal: str | None, key: str | None, content: bytes
) -> tuple[bytes, str]:
    covered = b'{"seq":%d,"prev":"%s","record":%s' % (seq, prev.encode(), record)
    if seal is not None:
        covered += b',"seal":"%s"' % seal.encode()
    digest = hashlib.sha256(covered).hexdigest()
    ending = b"}\n"
    if key is not None:
        ending = b',"key":"%s","content":%s}\n' % (key.encode(), content)
    return covered + b',"hash":"%s"' % digest.encode() + ending, digest


def _seal(key: str, content: bytes) -> str:
    return hmac.digest(key.encode(), content, "sha256").hex()
