"""What the benchmark sends: requests that differ from one another, and the upstream's answers.

Every request has a number of its own in its last message, so that no cache of whole bodies can flatter anyone.
Numbers have a fixed width: requests of a kind, and answers of a kind, are all of one length. A request that
says ``tool_choice: required`` is answered with a tool call that carries a number too, so that each needs a
decision of its own.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["whole", "stream", "whole-call", "stream-call"]
KINDS: tuple[Kind, ...] = ("whole", "stream", "whole-call", "stream-call")

_DIGITS = 9
_SLOT = "0" * _DIGITS
_TOOL = {
    "type": "function",
    "function": {
        "name": "bash",
        "description": "Run a command in a shell.",
        "parameters": {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]},
    },
}
_SYSTEM = "You are a careful agent that works in a repository. " * 40
_REQUIRED = b'"tool_choice":"required"'
_STREAM = b'"stream":true'


def _dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class Numbered:
    """Bytes with a place for a number."""

    before: bytes
    after: bytes

    @classmethod
    def around(cls, data: bytes) -> Numbered:
        """``data`` with the number's place in it exactly once."""
        before, after = data.split(_SLOT.encode())
        return cls(before, after)

    def number(self, number: int) -> bytes:
        return b"%s%0*d%s" % (self.before, _DIGITS, number % 10**_DIGITS, self.after)


@dataclass(frozen=True, slots=True)
class Shape:
    """What is out of the ordinary about an exchange. ``history``: bytes of earlier messages in the request.
    ``events``: pieces of text in the stream (0: as many as the run's streams have). ``pace_ms``: the upstream sends one
    event in so many milliseconds (0: as fast as it can), and each says when it was sent."""

    history: int = 0
    events: int = 0
    pace_ms: int = 0


PLAIN = Shape()
_MARK = re.compile(rb'"user":"shape:(\d+):(\d+)"')


def shape_of(body: bytes) -> Shape:
    """What a request asks of the upstream."""
    found = _MARK.search(body[:200])
    return Shape(events=int(found[1]), pace_ms=int(found[2])) if found else PLAIN


def request(kind: Kind, host: str, shape: Shape = PLAIN) -> Numbered:
    """A whole HTTP request, about 2.4 KB and the history."""
    body: dict[str, Any] = {"model": "tiny", "stream": kind.startswith("stream")}
    if shape.events or shape.pace_ms:
        body["user"] = f"shape:{shape.events}:{shape.pace_ms}"
    if kind.startswith("stream"):
        body["stream_options"] = {"include_usage": True}
    if kind.endswith("call"):
        body["tool_choice"] = "required"
    body["messages"] = [
        {"role": "system", "content": _SYSTEM},
        *_history(shape.history),
        {"role": "user", "content": f"Look into case {_SLOT} and say what you find."},
    ]
    body["tools"] = [_TOOL]
    payload = _dump(body)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(payload)}\r\n\r\n"
    )
    return Numbered.around(head.encode() + payload)


def _history(size: int) -> list[dict[str, Any]]:
    """Turns of about 2 KB each. Their texts differ, and the run's first one has a number of its own."""
    turns: list[dict[str, Any]] = []
    for place in range(size // 2048):
        role = "assistant" if place % 2 else "user"
        turns.append(
            {"role": role, "content": f"Turn {place}: " + f"line {place} of the log says that all is well. " * 43}
        )
    return turns


def kind_of(body: bytes) -> Kind:
    """Which answer a request asks for."""
    if _REQUIRED in body:
        return "stream-call" if _STREAM in body else "whole-call"
    return "stream" if _STREAM in body else "whole"


class Answers:
    """The upstream's answers. ``name`` is in every one: who answers with it was asked by this run.
    ``events``: how many pieces of text a stream has."""

    def __init__(self, name: str, events: int) -> None:
        self._base = {"id": f"chatcmpl-{name}", "created": 1763600000, "model": "tiny"}
        self._usage = {"prompt_tokens": 500, "total_tokens": 500 + events, "completion_tokens": events}
        self.whole = self._whole({"content": "hello " * 200, "tool_calls": []}, "stop")
        arguments = _dump({"command": f"ls -la build/{_SLOT}"}).decode()
        call = {"id": "call-1", "type": "function", "function": {"name": "bash", "arguments": arguments}}
        self.whole_call = Numbered.around(self._whole({"content": None, "tool_calls": [call]}, "tool_calls"))
        self.stream = self._stream([{"content": f" token{n}"} for n in range(events)], "stop")
        function = {"name": "bash", "arguments": ""}
        pieces: list[dict[str, Any]] = [{"content": f" token{n}"} for n in range(8)]
        pieces.append({"tool_calls": [{"index": 0, "id": "call-1", "type": "function", "function": function}]})
        pieces += [_piece('{"command":"'), _piece("ls -la "), _piece(f"build/{_SLOT}"), _piece('"}')]
        self._call_events = self._stream(pieces, "tool_calls")
        place = next(n for n, event in enumerate(self._call_events) if _SLOT.encode() in event)
        self._call_place, self._numbered_event = place, Numbered.around(self._call_events[place])

    def long_stream(self, events: int) -> list[bytes]:
        """A stream with ``events`` pieces of text."""
        return self._stream([{"content": f" token{n % 1000}"} for n in range(events)], "stop")

    def stamped(self) -> bytes:
        """One event that says when it was made, by the machine's monotonic clock."""
        return STAMP_BEFORE + b"%020d" % time.monotonic_ns() + _STAMP_AFTER

    def call_events(self, number: int) -> list[bytes]:
        """The events of a streamed tool call."""
        events = list(self._call_events)
        events[self._call_place] = self._numbered_event.number(number)
        return events

    def _whole(self, message: dict[str, Any], finish: str) -> bytes:
        choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
        body = {**self._base, "object": "chat.completion", "choices": [choice], "usage": self._usage}
        return _dump(body)

    def _stream(self, deltas: list[dict[str, Any]], finish: str) -> list[bytes]:
        base = {**self._base, "object": "chat.completion.chunk"}
        events = []
        for delta in [{"role": "assistant", "content": ""}, *deltas]:
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None, "token_ids": None}
            events.append(_event({**base, "choices": [choice]}))
        last = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": finish, "stop_reason": None}
        events.append(_event({**base, "choices": [last]}))
        events.append(_event({**base, "choices": [], "usage": self._usage}))
        events.append(b"data: [DONE]\n\n")
        return events


STAMP_BEFORE = b'data: {"id":"chatcmpl-paced","object":"chat.completion.chunk","created":1763600000,"model":"tiny",'
STAMP_BEFORE += b'"choices":[{"index":0,"delta":{"content":" sent at '
_STAMP_AFTER = b'"},"logprobs":null,"finish_reason":null,"token_ids":null}]}\n\n'


def stamps_in(data: bytes) -> list[int]:
    """When the stamped events that stand whole in ``data`` were made."""
    return [int(found) for found in re.findall(rb" sent at (\d{20})", data)]


def _piece(arguments: str) -> dict[str, Any]:
    return {"tool_calls": [{"index": 0, "function": {"arguments": arguments}}]}


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + _dump(chunk) + b"\n\n"


def chunked(data: bytes) -> bytes:
    """One piece of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"


class BodyReader:
    """The body of one HTTP answer, just well enough to know when it is over and whether it is right.

    :meth:`feed` says whether the answer is over. ``size`` counts the body's bytes as they were sent, with the
    framing of chunks; ``tail`` is the end of what came."""

    __slots__ = ("_chunked", "_head", "_length", "body_began", "size", "status", "tail")

    def __init__(self) -> None:
        self.status = 0
        self.size = 0
        self.tail = b""
        self.body_began = False
        self._head = b""
        self._chunked = False
        self._length = 0

    def feed(self, data: bytes) -> bool:
        if not self.status:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return False
            data = self._head[end + 4 :]
            self._read_head(self._head[:end].lower())
            self._head = b""
        self.size += len(data)
        self.body_began = self.body_began or bool(data)
        self.tail = data[-64:] if len(data) >= 64 else (self.tail + data)[-64:]
        if self._chunked:
            return self.tail.endswith(b"\r\n" + LAST_CHUNK) or self.tail == LAST_CHUNK
        return self.size >= self._length

    def _read_head(self, head: bytes) -> None:
        self.status = int(head[9:12])
        self._chunked = b"\r\ntransfer-encoding: chunked" in head
        at = head.find(b"\r\ncontent-length:")
        self._length = int(head[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0


def unchunked(body: bytes) -> bytes:
    """A chunked body without its framing. Raises ``ValueError`` if it is not whole."""
    parts: list[bytes] = []
    while True:
        size, found, body = body.partition(b"\r\n")
        length = int(size, 16)
        if not found or len(body) < length + 2:
            raise ValueError("the chunked body is not whole")
        if not length:
            return b"".join(parts)
        parts.append(body[:length])
        body = body[length + 2 :]
