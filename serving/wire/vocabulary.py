"""The neutral words that every dialect of vLLM's wire is read into.

A reader takes bytes in any chunking and yields :class:`Event` objects: the unit is the whole server-sent
event, with its exact bytes, and with what it says as :class:`ChoiceDelta` objects, one per choice that it
speaks of. Whoever passes an event on passes ``raw``, so nothing is parsed and written again.

These are plain data on the hot path (one object per token), hence ``msgspec.Struct``, and out of the garbage
collector's sight: none of them can be part of a cycle.
"""

from __future__ import annotations

from typing import Any

import msgspec


class ToolDelta(msgspec.Struct, frozen=True, gc=False):
    """A piece of one tool call. ``index`` counts the calls of its choice from 0, whatever the API counts. ``id`` and
    ``name`` come with its first piece only. ``done``: the API says that the call ends here."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""
    done: bool = False


class TokensShown(msgspec.Struct, frozen=True, gc=False):
    """Tokens that an answer shows with their logprobs: what they spell together, how many bytes each spells (none for
    the first parts of a character of several bytes) and the natural logarithm of each one's probability."""

    spelled: bytes
    lengths: tuple[int, ...]
    logprobs: tuple[float, ...]


class ChoiceDelta(msgspec.Struct, frozen=True, gc=False):
    """What one event says about one choice.

    ``text`` and ``reasoning`` are None where the event does not carry the field or carries null. ``finish`` is in the
    words of chat completions (``stop``, ``length``, ``tool_calls`` …) in every API.
    ``tokens`` is how many tokens the event shows in logprobs or token ids (0: it shows neither); ``shown`` says them,
    with logprobs.
    """

    choice: int
    text: str | None = None
    reasoning: str | None = None
    tools: tuple[ToolDelta, ...] = ()
    finish: str | None = None
    tokens: int = 0
    logprob_text: str | None = None
    token_ids: tuple[int, ...] = ()
    shown: TokensShown | None = None


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Token counts as vLLM reports them; ``cached`` and ``reasoning`` are parts of the two totals."""

    prompt: int
    completion: int
    cached: int = 0
    reasoning: int = 0


class Event(msgspec.Struct, frozen=True, gc=False):
    """One server-sent event: its exact bytes, terminator included, and what it says.

    ``kind``: "delta" (choices), "usage" (no choices), "error", "done" (``[DONE]``), "comment", or
    "unknown" (not understood: the setting for unjudged answers decides). In an API whose stream ends with an event
    of its own, "done" is that event. ``own`` is for the dialect's writer: what its reader knows of the event beside.
    ``count``: how many events these are; more than one only where they differ in a text alone
    (``serving.wire.text_run``), and ``choices`` then says what they say together.
    """

    raw: bytes
    kind: str
    choices: tuple[ChoiceDelta, ...] = ()
    usage: Usage | None = None
    error: Any = None
    answer_id: str | None = None
    own: Any = None
    count: int = 1


class ToolCall(msgspec.Struct):
    """A whole tool call, accumulated. ``complete`` is False if the answer was cut off inside it."""

    choice: int
    index: int
    id: str | None
    name: str
    arguments: str
    complete: bool = True
