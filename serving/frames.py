"""The wire between two processes of Interlock: framed MessagePack, without I/O.

A frame is four bytes of length (big endian) and a MessagePack array of two: a number and a body. A positive number
is a question that wants an answer, its negative the answer, zero a notice that wants none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

NOTICE = 0
LONGEST = 256 * 1024 * 1024
"""Bytes of a frame; the history of the longest request that is taken has less."""

_LENGTH = 4
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[int, msgspec.Raw])


class BadFrame(Exception):
    """The other side does not speak this."""


def frame(number: int, body: object) -> bytes:
    """One frame. ``body``: anything that MessagePack has a form for."""
    try:
        data = _encoder.encode((number, body))
    except UnicodeEncodeError:  # half a surrogate pair, from a model's own words
        data = _encoder.encode((number, _plain(msgspec.to_builtins(body, builtin_types=(bytes,)))))
    return len(data).to_bytes(_LENGTH, "big") + data


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_plain(key): _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


class Frames:
    """Takes bytes in any chunks and gives whole frames as (number, body)."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, msgspec.Raw]]:
        """Raises :class:`BadFrame`."""
        buffer = self._buffer
        buffer += data
        begin = 0
        while len(buffer) - begin >= _LENGTH:
            end = begin + _LENGTH + int.from_bytes(buffer[begin : begin + _LENGTH], "big")
            if end - begin > LONGEST:
                raise BadFrame("too long")
            if len(buffer) < end:
                break
            try:
                yield _decoder.decode(bytes(buffer[begin + _LENGTH : end]))
            except msgspec.MsgspecError as error:
                raise BadFrame("not a number and a body") from error
            begin = end
        del buffer[:begin]
