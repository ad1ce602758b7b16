"""Asking the model server for more than the client did, and taking every trace of that out of the answer again.

What may be asked for: logprobs (chat completions), and exact usage of a stream (chat completions and completions). The
request is changed by splicing, so vLLM reads everything else as the client wrote it. In the answer, vLLM 0.32 does
these things differently then, and each is undone, as ``tests/e2e/test_vllm_injection.py`` proves on pairs of runs:

* ``logprobs`` is an object in each choice that has tokens; without, it is null in the same place.
* A token without visible text (a tag, a tool call's syntax, part of a character) has an event of its own, with an empty
  delta; without, it has none, unless token ids were asked for.
* Usage comes as one more event behind the last. A server that forces usage on everybody shows it in every event, and
  that one too; then it stays.
* ``system_fingerprint`` stands in that last event; without, at the end of each event with a finish reason. It is the
  same for a server's whole life: :class:`Fingerprint` remembers it. Until it is known, the events from the first finish
  reason on wait for the usage event, which follows the last of them at once.

Messages, Responses and whole answers always have their usage; Messages has no logprobs, and Responses none for the
tokens of tool calls, so nothing is asked for there.
"""

from __future__ import annotations

import json

import msgspec

from serving.wire import splice
from serving.wire.request import ChatRequest
from serving.wire.vocabulary import Event

_CHAT = "chat"
_WITH_USAGE = frozenset({"chat", "completions"})
_LOGPROBS = b'"logprobs":{'
_BEHIND_LOGPROBS = b',"finish_reason":'
_EMPTY = b'"delta":{}'
_END = b"}\n\n"


class Fingerprint:
    """What one model server writes as ``system_fingerprint``: None if it writes none. Shared by all exchanges."""

    __slots__ = ("known", "value")

    def __init__(self) -> None:
        self.known = False
        self.value: bytes | None = None

    def learn(self, value: bytes | None) -> None:
        self.known, self.value = True, value


class Injected(msgspec.Struct, frozen=True):
    """A request body with more in it than the client sent: ``logprobs``, ``usage``, or both."""

    body: bytes
    logprobs: bool
    usage: bool


def inject(api: str, body: bytes, request: ChatRequest, *, logprobs: bool, usage: bool) -> Injected | None:
    """``body`` with what is wanted and the client did not ask for; None if there is nothing to add.

    Raises :class:`splice.Unspliceable` for a body that the strict reading does not take.
    """
    logprobs = logprobs and can_show_logprobs(api, request) and not request.logprobs
    usage = usage and api in _WITH_USAGE and request.stream and not request.include_usage
    if not logprobs and not usage:
        return None
    root = splice.root(body)
    edits: list[splice.Edit] = []
    if logprobs:
        edits.append(splice.set_member(body, root, "logprobs", True))
        top = splice.member(body, root, "top_logprobs")
        if top is not None:
            edits.append(splice.replace(top.value, 0))  # null would make vLLM fail
    if usage:
        edits += _ask_usage(body, root)
    return Injected(splice.apply(body, edits), logprobs, usage)


def can_show_logprobs(api: str, request: ChatRequest) -> bool:
    """Whether answers to such a request can show the logprobs of tool calls at all."""
    return api == _CHAT and "use_beam_search" not in request.fields


def _ask_usage(body: bytes, root: splice.Span) -> list[splice.Edit]:
    options = splice.member(body, root, "stream_options")
    if options is None:
        return [splice.set_member(body, root, "stream_options", {"include_usage": True})]
    if body[options.value.start] != ord("{"):
        return [splice.replace(options.value, {"include_usage": True})]
    edits = [splice.set_member(body, options.value, "include_usage", True)]
    continuous = splice.member(body, options.value, "continuous_usage_stats")
    if continuous is not None:  # without usage it means nothing
        edits.append(splice.replace(continuous.value, False))
    return edits


class Uninjector:
    """Gives one answer the form that it would have had without the injection.

    Every event goes through :meth:`event`; what comes out is what the client may have, in order. Raises
    :class:`splice.Unspliceable` for what is no such answer.
    """

    __slots__ = ("_fingerprint", "_forced", "_logprobs", "_shows_ids", "_usage", "_waiting")

    def __init__(self, injected: Injected, request: ChatRequest, fingerprint: Fingerprint) -> None:
        self._logprobs = injected.logprobs
        self._usage = injected.usage
        self._shows_ids = request.token_ids
        self._fingerprint = fingerprint
        self._forced = False
        self._waiting: list[Event] | None = None

    def event(self, event: Event) -> list[Event]:
        if event.kind == "delta":
            made = self._delta(event)
            if made is None:
                return []
            if self._waiting is not None:
                self._waiting.append(made)
                return []
            return [made]
        if event.kind == "usage" and self._usage and not self._forced:
            self._fingerprint.learn(_fingerprint_of(event.raw))
            return self.rest()
        return [*self.rest(), event]

    def rest(self) -> list[Event]:
        """What still waits: for an end that does not come as it should."""
        waiting, self._waiting = self._waiting or [], None
        return [self._signed(event) for event in waiting]

    def whole(self, body: bytes) -> bytes:
        """A whole answer."""
        if not self._logprobs:
            return body
        edits = []
        choices = splice.locate(body, ("choices",))
        for choice in splice.elements(body, choices) if choices is not None else ():
            found = splice.member(body, choice, "logprobs")
            if found is not None:
                edits.append(splice.replace(found.value, None))
        return splice.apply(body, edits)

    def _delta(self, event: Event) -> Event | None:
        raw, choices, usage = event.raw, event.choices, event.usage
        if self._logprobs:
            nothing = raw.count(_EMPTY) == len(choices) and all(choice.finish is None for choice in choices)
            if nothing and not self._shows_ids:
                return None
            raw = without_logprobs(raw)
            choices = tuple(
                [
                    msgspec.structs.replace(choice, tokens=len(choice.token_ids), logprob_text=None, shown=None)
                    if choice.shown is not None
                    else choice
                    for choice in choices
                ]
            )
        if self._usage and usage is not None:
            self._forced = True
        made = event if raw is event.raw else Event(raw, event.kind, choices, usage, event.error, event.answer_id)
        if not self._usage or self._forced or all(choice.finish is None for choice in choices):
            return made
        if self._fingerprint.known:
            return self._signed(made)
        if self._waiting is None:
            self._waiting = []
        return made

    def _signed(self, event: Event) -> Event:
        """With the fingerprint, where vLLM writes it in a stream without usage."""
        value = self._fingerprint.value
        if value is None or all(choice.finish is None for choice in event.choices):
            return event
        if not event.raw.endswith(_END):
            raise splice.Unspliceable("an event that does not end as vLLM's do")
        raw = b'%s,"system_fingerprint":%s%s' % (event.raw[: -len(_END)], value, _END)
        return msgspec.structs.replace(event, raw=raw)


def without_logprobs(raw: bytes) -> bytes:
    """An event in which each choice's ``logprobs`` is null. In JSON a quote inside a string has a backslash before
    it, so what looks like a key here is one."""
    begin = raw.find(_LOGPROBS)
    while begin >= 0:
        begin += len(_LOGPROBS) - 1
        end = raw.find(_BEHIND_LOGPROBS, begin)
        if end < 0 or raw[end - 1 : end] != b"}":
            raise splice.Unspliceable("logprobs that do not end where vLLM's do")
        raw = b"".join((raw[:begin], b"null", raw[end:]))
        begin = raw.find(_LOGPROBS, begin)
    return raw


def _fingerprint_of(raw: bytes) -> bytes | None:
    """The fingerprint in a usage event, as it is written there."""
    document = splice.root(raw, splice.data_span(raw))
    found = splice.member(raw, document, "system_fingerprint")
    if found is None or json.loads(raw[found.value.start : found.value.end]) is None:
        return None
    return raw[found.value.start : found.value.end]
