"""How sure the model was: the probabilities of the tokens that spell a tool call's name and arguments.

Tokens come with their bytes, and all of them together are the *raw model text*: reasoning, tags and tool syntax
included. A tool call, though, comes as its parser read it: with its arguments decoded and written again. So each
call is first looked for in the raw text (with the reader of ``shadow_calls``, which knows every family's syntax),
then each argument inside the call, by the structure of the JSON where it is JSON. What is not found exactly once is
said to be unaligned, and why; nothing is guessed.

A trail keeps the text and eight bytes a token. The work for a call is linear in the text since the call before it.
"""

from __future__ import annotations

import codecs
import json
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from itertools import accumulate
from math import exp, fsum
from typing import Any

import msgspec

from serving.wire import splice, strict
from serving.wire.shadow_calls.block import ShadowCall
from serving.wire.shadow_calls.reader import ShadowReader
from serving.wire.vocabulary import TokensShown

NO_CALL = "the call is not in the model's text"
MANY_CALLS = "the call is in the model's text more often than in the answer"
NOT_WHOLE = "the call is not whole"
NO_VALUE = "the value is not in the call's text"
MANY_VALUES = "the value is in the call's text more than once"
NO_TEXT = "the tokens do not spell a text"

_THOUGHT = b"</think>"


class Sureness(msgspec.Struct, frozen=True):
    """Least and mean probability of ``tokens`` tokens, 0 to 1."""

    least: float
    mean: float
    tokens: int


class ArgumentSureness(msgspec.Struct, frozen=True):
    """One argument: its JSON pointer, and how sure its value is or why that cannot be told."""

    path: str
    sure: Sureness | None
    unaligned: str | None = None


class CallSureness(msgspec.Struct, frozen=True):
    """One call. ``name`` is None where the name is unaligned; ``unaligned`` says why there are no arguments."""

    answer: Sureness
    name: Sureness | None = None
    arguments: tuple[ArgumentSureness, ...] = ()
    unaligned: str | None = None


Calls = Callable[[], Iterable[tuple[int, str, str]]]
"""Index, name and arguments of every call of an answer, as far as they have come."""


class TokenTrail:
    """The tokens of one choice so far. Ask for the calls in their order; an answer once given stays."""

    __slots__ = (
        "_answered",
        "_counts",
        "_decoder",
        "_ends",
        "_found",
        "_least",
        "_logprobs",
        "_raw",
        "_read",
        "_reader",
        "_sum",
    )

    def __init__(self, offered: frozenset[str]) -> None:
        self._raw = bytearray()
        self._ends = array("Q")
        self._logprobs = array("f")
        self._reader: ShadowReader | None = ShadowReader(offered)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._read = 0
        self._found: dict[tuple[str, str], list[ShadowCall]] = {}
        self._counts: dict[tuple[str, str], int] = {}
        self._answered: dict[tuple[int, str, str], CallSureness | None] = {}
        self._least = 1.0
        self._sum = 0.0

    def add(self, shown: TokensShown) -> None:
        begin = len(self._raw)
        self._raw += shown.spelled
        self._ends.extend([begin + end for end in accumulate(shown.lengths)])
        self._logprobs.extend(shown.logprobs)
        for logprob in shown.logprobs:
            chance = exp(logprob)
            self._sum += chance
            self._least = min(self._least, chance)

    def __len__(self) -> int:
        return len(self._ends)

    def answer(self) -> Sureness | None:
        """All tokens so far; None if there are none."""
        count = len(self._ends)
        return Sureness(self._least, self._sum / count, count) if count else None

    def call(
        self, index: int, name: str, arguments: str, known: Calls, *, complete: bool = True, final: bool = False
    ) -> CallSureness | None:
        """The call ``index`` of the answer. ``known`` gives all its calls, to tell one from another that says the same;
        ``final``: no more tokens come. None if the answer has no tokens."""
        asked = (index, name, arguments)  # a call that stands in the text has an index of its own kind
        if asked not in self._answered:
            self._answered[asked] = self._call(index, name, arguments, known, complete, final)
        return self._answered[asked]

    def _call(
        self, index: int, name: str, arguments: str, known: Calls, complete: bool, final: bool
    ) -> CallSureness | None:
        answer = self.answer()
        if answer is None:
            return None
        try:
            said = strict.read_arguments(arguments or "{}")
        except strict.NotStrict:
            return CallSureness(answer, unaligned=NOT_WHOLE)
        if not complete:
            return CallSureness(answer, unaligned=NOT_WHOLE)
        if not self._look(final):
            return CallSureness(answer, unaligned=NO_TEXT)
        key = (name, _loose(said))
        found, count = self._found.get(key, []), self._counts.get(key, 0)
        self._counts[key] = count + 1
        if len(found) <= count:
            return CallSureness(answer, unaligned=NO_CALL)
        if len(found) > 1:
            alike = [other for other, *call in known() if _key(*call) == key]
            if len(alike) != len(found) or index not in alike:
                return CallSureness(answer, unaligned=MANY_CALLS)
            count = alike.index(index)
        region = found[count]
        spans = self._spans(region, said)
        sure = tuple(
            ArgumentSureness(path, self._of(*span), None)
            if isinstance(span, tuple)
            else ArgumentSureness(path, None, span)
            for path, span in spans
        )
        return CallSureness(answer, self._name(region, name), sure)

    # -- where things stand ------------------------------------------------------------------------

    def _look(self, final: bool) -> bool:
        """Reads the calls in the text that came since the last look; False if it is no text."""
        if self._reader is None:
            return False
        try:
            text = self._decoder.decode(bytes(self._raw[self._read :]))
        except UnicodeDecodeError:
            self._reader = None
            return False
        calls = self._reader.feed(text).calls
        self._read = len(self._raw)
        if final:
            calls += self._reader.end().calls
        thought = self._raw.rfind(_THOUGHT)
        for call in calls:
            if call.complete and call.start > thought:
                key = _key(call.name, call.arguments)
                if key is not None:
                    self._found.setdefault(key, []).append(call)
        return True

    def _name(self, region: ShadowCall, name: str) -> Sureness | None:
        """The name, if the call's text beside its arguments has it once."""
        written = name.encode("utf-8", "surrogatepass")
        end = region.end
        if region.said_at is not None:
            end = region.said_at + len(region.arguments.encode("utf-8", "surrogatepass"))
        head = self._places(written, region.at, region.end if region.said_at is None else region.said_at)
        tail = self._places(written, end, region.end)
        places = head + tail
        return self._of(*places[0]) if len(places) == 1 else None

    def _spans(self, region: ShadowCall, said: dict[str, Any]) -> list[tuple[str, tuple[int, int] | str]]:
        """For each argument its JSON pointer, and where its value stands or why that is not known."""
        if region.said_at is not None:
            begin = region.said_at
            raw = bytes(self._raw[begin : region.end])
            try:
                where = splice.Span(0, len(region.arguments.encode("utf-8", "surrogatepass")))
                members = splice.members(raw, splice.root(raw, where))
            except splice.Unspliceable:
                members = []
            places = {one.key: _inside(raw, one.value) for one in members}
            if len(places) == len(members):
                return [
                    (_pointer(key), (begin + places[key][0], begin + places[key][1]) if key in places else NO_VALUE)
                    for key in said
                ]
        return [(_pointer(key), self._occurrence(value, region)) for key, value in said.items()]

    def _occurrence(self, value: Any, region: ShadowCall) -> tuple[int, int] | str:
        places: set[tuple[int, int]] = set()
        for written in _spellings(value):
            places.update(self._places(written, region.at, region.end))
        if not places:
            return NO_VALUE
        widest = max(places, key=lambda place: place[1] - place[0])
        apart = [place for place in places if place[0] < widest[0] or place[1] > widest[1]]
        return MANY_VALUES if apart else widest

    def _places(self, written: bytes, begin: int, end: int) -> list[tuple[int, int]]:
        """The first two places of ``written``; more make no difference."""
        if not written:
            return []
        first = self._raw.find(written, begin, end)
        second = self._raw.find(written, first + 1, end) if first >= 0 else -1
        return [(at, at + len(written)) for at in (first, second) if at >= 0]

    # -- how sure they are -------------------------------------------------------------------------

    def _of(self, begin: int, end: int) -> Sureness | None:
        """The tokens that spell any of the bytes ``[begin, end)``. A token without bytes belongs to the character that
        begins where it stands."""
        first = bisect_right(self._ends, begin)
        while first and self._ends[first - 1] == begin and (self._ends[first - 2] if first > 1 else 0) == begin:
            first -= 1
        return self._sureness(first, bisect_left(self._ends, end) + 1)

    def _sureness(self, first: int, last: int) -> Sureness | None:
        chances = [exp(logprob) for logprob in self._logprobs[first:last]]
        if not chances:
            return None
        return Sureness(min(chances), fsum(chances) / len(chances), len(chances))


def _inside(raw: bytes, span: splice.Span) -> tuple[int, int]:
    """A value's own bytes: those of a text without its quotes, but for an empty one."""
    quoted = raw[span.start] == ord('"') and span.end - span.start > 2
    return (span.start + 1, span.end - 1) if quoted else (span.start, span.end)


def _pointer(key: str) -> str:
    return "/" + key.replace("~", "~0").replace("/", "~1")


def _key(name: str, arguments: str) -> tuple[str, str] | None:
    try:
        return name, _loose(strict.read_arguments(arguments or "{}"))
    except strict.NotStrict:
        return None


def _loose(arguments: dict[str, Any]) -> str:
    """The same for arguments that differ in their order, or in whether a value is a text or the JSON it spells."""
    return json.dumps({key: _read(value) for key, value in arguments.items()}, sort_keys=True)


def _read(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return strict.read(value.strip().encode())
    except (strict.NotStrict, UnicodeEncodeError):
        return value


def _spellings(value: Any) -> set[bytes]:
    """How a value may be written in a form that is no JSON, or in JSON inside a text."""
    if isinstance(value, str):
        said = {value, *(json.dumps(value, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False))}
        said |= {json.dumps(one, ensure_ascii=False)[1:-1] for one in tuple(said)}
    elif isinstance(value, bool) or value is None:
        said = {str(value), json.dumps(value)}
    else:
        said = {json.dumps(value, ensure_ascii=False), json.dumps(value, ensure_ascii=False, separators=(",", ":"))}
    return {one.encode("utf-8", "surrogatepass") for one in said}
