"""A conversation's history in one canonical form, and what happened in it.

Calls to a model server are stateless: each carries the whole history again. To know a history when it comes
back, it is reduced to what a client has no reason to change: roles, texts without outer whitespace (those of
answers without any), tool calls as id, name and arguments (however their JSON was written), results with the id
of their call. Never reasoning: some clients send it back and some do not. Each message's form is hashed onto the
hash of what stands before it, so that one number stands for "this history up to here", and all prefixes of a
history of n bytes are hashed in one pass over the n bytes.

:func:`turns` tells what happened: which results came back for which calls, and when somebody spoke.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from serving.wire.request import SentCall, SentMessage
from serving.wire.strict import read

DIGEST_BYTES = 16
REMEMBERED_CHARACTERS = 2048
"""Arguments come back with every request of a run; up to this length their canonical form is remembered."""

ASSISTANT = "assistant"
TOOL = "tool"


class Step(msgspec.Struct, frozen=True):
    """A tool's result with the call that it answers.

    ``arguments`` are canonical (:func:`canonical_arguments`). ``result`` is the digest of the result's text
    without outer whitespace and ``pair`` that of call and result together. Both are None where there is
    nothing to compare: a result that holds an image, or whose call is not in sight.
    """

    call_id: str | None
    name: str
    arguments: str
    result: bytes | None
    pair: bytes | None


class Turn(msgspec.Struct, frozen=True):
    """The results of one assistant turn's calls, or (no steps) a new word from outside: user or system."""

    steps: tuple[Step, ...] = ()


def canonical_arguments(text: str) -> str:
    """Arguments with sorted keys and no whitespace; no text at all reads as no arguments. What is not JSON
    under the strict reading (a key twice, NaN, cut off …) stands for itself."""
    return _canonical_short(text) if len(text) <= REMEMBERED_CHARACTERS else _canonical(text)


def _canonical(text: str) -> str:
    if not text.strip():
        return "{}"
    try:
        return msgspec.json.encode(read(text.encode()), order="sorted").decode()
    except ValueError:
        return text


_canonical_short = lru_cache(maxsize=2048)(_canonical)


def canonical(message: SentMessage) -> list[Any]:
    """A message's canonical form, to be hashed by :func:`digest`.

    A name is part of it but on assistant messages, where clients add one of their own to what was answered.
    """
    if message.role == ASSISTANT:
        return answer_form(message.text, message.calls)
    if message.role == TOOL:
        return [TOOL, message.text.strip(), message.tool_call_id, message.name, message.media]
    return [message.role, message.text.strip(), message.name, message.media]


def answer_form(text: str, calls: Sequence[SentCall]) -> list[Any]:
    """The canonical form of an assistant message. White space within its text does not count: what was given as
    several blocks of text, or as one, is joined in other ways when it comes back."""
    return [
        ASSISTANT,
        "".join(text.split()),
        [[call.id, call.name, canonical_arguments(call.arguments)] for call in calls],
    ]


def digest(key: bytes, form: Any) -> bytes:
    """A keyed digest (BLAKE2b, 16 bytes) of lists of texts. ``key``: at most 64 bytes."""
    hasher = hashlib.blake2b(key=key, digest_size=DIGEST_BYTES)
    try:
        hasher.update(msgspec.msgpack.encode(form))
    except UnicodeEncodeError:  # half a surrogate pair has no UTF-8 form, so it cannot collide with one
        hasher.update(repr(form).encode("ascii", "backslashreplace"))
    return hasher.digest()


def prefixes(seed: bytes, messages: Sequence[SentMessage]) -> list[bytes]:
    """``[i]`` stands for the first ``i`` messages under this seed; one longer than ``messages``."""
    chain = [seed]
    for message in messages:
        chain.append(digest(chain[-1], canonical(message)))
    return chain


class _Waiting:
    """Calls whose results may still come. As many results as calls, in whatever order, are one pass."""

    def __init__(self, calls: Sequence[SentCall] = ()) -> None:
        self._calls = calls
        self._next = 0
        self._taken = bytearray(len(calls))
        self._places: dict[str | None, deque[int]] = {}
        for place, call in enumerate(calls):
            self._places.setdefault(call.id, deque()).append(place)

    def take(self, message: SentMessage) -> SentCall | None:
        """The call that a result answers: by its id, or in order where the result names none."""
        if message.tool_call_id is not None:
            places = self._places.get(message.tool_call_id)
            while places:
                place = places.popleft()
                if not self._taken[place]:
                    return self._took(place)
            return None
        while self._next < len(self._calls) and self._taken[self._next]:
            self._next += 1
        return self._took(self._next) if self._next < len(self._calls) else None

    def _took(self, place: int) -> SentCall:
        self._taken[place] = True
        return self._calls[place]


def turns(messages: Sequence[SentMessage], start: int, key: bytes) -> Iterator[Turn]:
    """What happened from message ``start`` on; calls that stand before it are known to their results."""
    waiting = _waiting(messages, start)
    steps: list[Step] = []
    for message in messages[start:]:
        if message.role == TOOL:
            steps.append(_step(message, waiting, key))
            continue
        if steps:
            yield Turn(tuple(steps))
            steps = []
        waiting = _Waiting(message.calls if message.role == ASSISTANT else ())
        if message.role != ASSISTANT:
            yield Turn()
    if steps:
        yield Turn(tuple(steps))


def _waiting(messages: Sequence[SentMessage], start: int) -> _Waiting:
    """The calls before ``start`` whose results may still come."""
    begin = start
    while begin > 0 and messages[begin - 1].role == TOOL:
        begin -= 1
    if begin == 0 or messages[begin - 1].role != ASSISTANT:
        return _Waiting()
    waiting = _Waiting(messages[begin - 1].calls)
    for message in messages[begin:start]:
        waiting.take(message)
    return waiting


def _step(message: SentMessage, waiting: _Waiting, key: bytes) -> Step:
    call = waiting.take(message)
    if call is None:
        return Step(message.tool_call_id, message.name or "", "", None, None)
    arguments = canonical_arguments(call.arguments)
    if message.media:
        return Step(call.id, call.name, arguments, None, None)
    result = digest(key, message.text.strip())
    return Step(call.id, call.name, arguments, result, digest(key, [call.name, arguments, result]))
