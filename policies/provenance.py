"""Where every value of a tool call comes from, held against all that the model had seen.

    background = Background(messages, tools, ToolTable(settings.tools))     # once per request
    facts = background.facts("send_email", {"to": "eve@example.org"})       # once per call

A pure function of the history, the offered tools, the settings and the call. Each value is looked for as it is,
squeezed (case, white space, punctuation, Unicode forms) and decoded; what stands nowhere as a whole is looked for span
by span. All origins are given, not the first one alone.

The cost is linear in the history. Of a call with thousands of values not all are looked for; those that are not are
listed in ``unplaced``, as are values that are too short to say anything. Sinks come first.

What cannot be seen: a value that was put into other words, or made out of several; and whose words a summary repeats.
In a history that a client has shortened, where a tool's result is gone and its text stands in a message of the user or
the model, a value has the origin that it has there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal, NamedTuple

from policies.mismatch import conceals, refuses
from policies.model import (
    CallMismatch,
    CallNamed,
    OrderedBy,
    OrderPassage,
    Origin,
    Sink,
    UnplacedValue,
    ValueProvenance,
)
from policies.naming import ASKS, NAMES, ToolNames, delegates
from policies.orders import GIVES_ORDERS, Passage, passages
from policies.places import Needle, Places, Stretch
from policies.seen import Piece, Source, ToolTable, calls_of_results, pieces_of
from policies.value_forms import (
    SHORTEST,
    SHORTEST_SQUEEZED,
    Leaf,
    Relation,
    Span,
    date_forms,
    decoded_forms,
    host_of,
    leaves,
    number_forms,
    significant,
    spans,
    squeezed,
)
from serving.wire.request import SentCall, SentMessage, SentTool

MOST_VALUES = 2048
"""Values of one call that are looked at."""
MOST_NEEDLES = 4096
"""Texts that are looked for, for one call: each value and each span has a few forms."""
MOST_PASSAGES = 256
"""Passages of one request that count, the surest ones."""
DOUBTFUL = 0.05
"""From this score on a passage is held against a call: that it names the call may settle what it is."""
NAMED, TAKEN = 1.0, 1.6
"""Log odds by which a passage is surer to be an order if it names the call, and if the call takes a value that stands
in nothing but such passages."""
MOST_NAMING = 32
"""Passages that are asked whether they name the call, the surest ones."""
MOST_ENDS = 4096
"""Characters at the beginning and at the end of a message that are read for what it asks for."""
MOST_READ = 32 * 1024
"""Characters of the latest messages of one role that are read for what they ask for, beside the first message."""

_SINK_NAMES: dict[Sink, str] = {
    "recipient": "to cc bcc recipient recipients email emails mail address addresses phone payee iban account attendee "
    "attendees participant participants invitee invitees receiver contact contacts guest guests member members user "
    "users username wallet beneficiary destination",
    "url": "url urls uri link links href webhook endpoint callback website site domain domains host",
    "path": "path paths file files filename folder directory dir",
    "command": "command commands cmd script code shell query sql expression program",
}
_SINK_OF: dict[str, Sink] = {word: sink for sink, words in _SINK_NAMES.items() for word in words.split()}
_STRING = re.compile(r'(?<=[:\[,])\s*(?:"((?:[^"\\]|\\.)*)"|\d+)')
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_MAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_LINK = re.compile(r"(?:[a-z][a-z0-9+.-]{1,15}://|www\.)\S+", re.I)


_CLOSEST: tuple[Relation, ...] = ("whole", "part", "host", "normalised", "decoded")
_Key = tuple[int, str, int | None]


class _At(NamedTuple):
    stretch: Stretch
    relation: Relation


def candidates(text: str) -> list[Passage]:
    """The passages of a text that give orders, doubtful ones too."""
    return passages(text, least=DOUBTFUL)


class Facts(NamedTuple):
    provenance: list[ValueProvenance]
    unplaced: list[UnplacedValue]
    named: CallNamed
    mismatch: CallMismatch


class Background:
    """What the model had seen before its answer; ``size`` characters of it."""

    def __init__(
        self,
        messages: Sequence[SentMessage],
        tools: Sequence[SentTool],
        table: ToolTable,
        detect: Callable[[str], Sequence[Passage]] = candidates,
    ) -> None:
        self._table = table
        self._pieces = pieces_of(messages, table)
        self._names = ToolNames(tools)
        self._said: dict[Source, list[str]] = {}
        found = orders_in(self._pieces, detect, DOUBTFUL)
        calls = calls_of_results(messages)
        asked = {message: self._asked(calls[message]) for message in {order.message for _, order in found}}
        self.orders = [order.model_copy(update={"asked": asked[order.message]}) for _, order in found]
        passages_at = [(nth, order.start, order.end, order.score >= GIVES_ORDERS) for nth, order in found]
        self._places = Places(self._pieces, passages_at)
        self._texts = [self._pieces[nth].text[order.start : order.end] for nth, order in found]
        self.size = self._places.size
        first = min((order.message for order in self.orders if order.score >= GIVES_ORDERS), default=None)
        self._planned_before = len(messages) if first is None else first

    def _asked(self, call: SentCall | None) -> bool:
        """Whether the user named what a result was fetched with, or the tool that gave it."""
        if call is None:
            return False
        told = self._told("user")
        whole = squeezed("\n".join(told))
        values = [squeezed(text) for text in _STRING.findall(call.arguments)]
        if any(len(value) >= SHORTEST and value in whole for value in values):
            return True
        return any(self._names.named(text, call.name, least=ASKS) for text in told)

    def words(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """The words of each passage, with its kinds: to be shown to who looks into a decision."""
        return tuple([(text, tuple(order.kinds)) for text, order in zip(self._texts, self.orders, strict=True)])

    def facts(self, tool: str, arguments: Mapping[str, Any] | None, raw: str = "", said: str = "") -> Facts:
        """What is known of a call to ``tool``. ``raw`` is the text of arguments that are no object (a call that was cut
        off); ``said`` what the answer said and thought before it."""
        search = _Search(self._places, self._planned_before)
        sinks = self._table.sinks(tool)
        found = [*islice(leaves(raw if arguments is None else dict(arguments)), MOST_VALUES + 1)]
        if len(found) > MOST_VALUES:
            search.unplaced[""] = "many_values"
        known = [(leaf, sink_of(leaf, sinks)) for leaf in found[:MOST_VALUES]]
        search.values_of(sorted(known, key=lambda pair: pair[1] is None))
        named = self._named(tool, search)
        mismatch = CallMismatch(
            refuses=refuses(said, lambda text: self._names.named(text, tool)),
            conceals=conceals(said),
            ordered_only=bool(named.by_orders) and not (named.by_user or named.by_plan),
        )
        unplaced = [UnplacedValue(path=path, reason=reason) for path, reason in search.unplaced.items()]
        return Facts(search.values, unplaced, named, mismatch)

    def _named(self, tool: str, search: _Search) -> CallNamed:
        return CallNamed(
            by_user=self._says("user", tool, ASKS),
            delegated=any(delegates(text) for text in self._told("user")),
            by_system=self._says("system", tool),
            by_plan=self._says("assistant", tool) or self._says("reasoning", tool),
            by_orders=[
                OrderedBy(order=at, sure=self._sure(at, search))
                for at in sorted(range(len(self._texts)), key=lambda at: -self._sure(at, search))[:MOST_NAMING]
                if self._names.named(self._texts[at], tool, search.passages_of.get(at, 0.0))
            ],
        )

    def _sure(self, at: int, search: _Search) -> float:
        """How sure it is that a passage is an order for the call, if it names it."""
        score = min(max(self.orders[at].score, 1e-4), 1 - 1e-4)
        odds = math.log(score / (1 - score)) + NAMED + (TAKEN if at in search.only_in else 0.0)
        return round(1 / (1 + math.exp(-odds)), 3)

    def _says(self, source: Source, tool: str, least: float = NAMES) -> bool:
        return any(self._names.named(text, tool, least=least) for text in self._told(source))

    def _told(self, source: Source) -> list[str]:
        """What somebody said, as far as it is read for what it asks for: the first message and the latest ones."""
        known = self._said.get(source)
        if known is None:
            own = source in ("assistant", "reasoning")
            texts = [
                _ends(piece.text)
                for piece in self._pieces
                if piece.source == source and (not own or piece.message < self._planned_before)
            ]
            left = MOST_READ
            known = self._said[source] = texts[:1]
            for text in reversed(texts[1:]):
                left -= len(text)
                if left < 0:
                    break
                known.append(text)
        return known


class _Wanted(NamedTuple):
    """A value, or a span of one, with the needles that stand for it."""

    leaf: Leaf
    sink: Sink | None
    span: Span | None
    needles: list[tuple[Needle, Relation | None]]

    @property
    def text(self) -> str:
        return self.leaf.text if self.span is None else self.span.text


class _Search:
    """Looks for the values of one call: first for all of them as a whole, then for spans of those that stand nowhere.
    ``passages_of``: passage → how much of the call stands there and was named by nobody else; ``only_in``: passages
    that hold a value which stands in nothing but passages."""

    def __init__(self, places: Places, planned_before: int) -> None:
        self._places = places
        self._planned_before = planned_before
        self._left = MOST_NEEDLES
        self.passages_of: dict[int, float] = {}
        self.only_in: set[int] = set()
        self.values: list[ValueProvenance] = []
        self.unplaced: dict[str, Literal["short", "many_values", "many_parts", "many_places"]] = {}

    def values_of(self, leaves: Iterable[tuple[Leaf, Sink | None]]) -> None:
        wanted: list[_Wanted] = []
        for leaf, sink in leaves:
            if significant(leaf.text) < SHORTEST:
                if leaf.text.strip():
                    self.unplaced[leaf.path] = "short"
                continue
            self._want(wanted, leaf, sink, None)
        spread: list[_Wanted] = []
        for item, origins in self._origins(wanted):
            self._say(item, origins)
            if origins or item.leaf.number:
                continue
            parts, cut = spans(item.leaf.text)
            if cut:
                self.unplaced.setdefault(item.leaf.path, "many_parts")
            for span in parts:
                self._want(spread, item.leaf, item.sink, span)
        for item, origins in self._origins(spread):
            if origins:
                self._say(item, origins)

    def _want(self, wanted: list[_Wanted], leaf: Leaf, sink: Sink | None, span: Span | None) -> None:
        needles = [*_needles(leaf, span)]
        self._left -= len(needles)
        if self._left < 0:
            self.unplaced.setdefault(leaf.path, "many_values")
        else:
            wanted.append(_Wanted(leaf, sink, span, needles))

    def _origins(self, wanted: Sequence[_Wanted]) -> Iterator[tuple[_Wanted, dict[_Key, _At]]]:
        """All stretches that hold each of ``wanted``, with the closest relation."""
        found = iter(self._places.find([needle for item in wanted for needle, _ in item.needles]))
        for item in wanted:
            origins: dict[_Key, _At] = {}
            for _, relation in item.needles:
                places, more = next(found)
                if more:
                    self.unplaced.setdefault(item.leaf.path, "many_places")
                for place in places:
                    stretch = place.stretch
                    how = relation or ("whole" if place.whole else "part")
                    key = (stretch.piece.message, stretch.piece.source, stretch.passage)
                    known = origins.get(key)
                    if known is None or _CLOSEST.index(how) < _CLOSEST.index(known.relation):
                        origins[key] = _At(stretch, how)
            yield item, origins

    def _say(self, item: _Wanted, found: Mapping[_Key, _At]) -> None:
        origins = [
            Origin(
                source=at.stretch.piece.source,
                tool=at.stretch.piece.tool,
                message=at.stretch.piece.message,
                trust=at.stretch.piece.trust,
                relation=at.relation,
                orders=at.stretch.shelf == "orders",
                order=at.stretch.passage,
            )
            for at in found.values()
        ]
        told = any(origin.source in ("user", "system") for origin in origins)
        planned = any(
            origin.source in ("assistant", "reasoning") and origin.message < self._planned_before for origin in origins
        )
        if not told and not planned:
            for passage in {at.stretch.passage for at in found.values() if at.stretch.passage is not None}:
                weight = 1.0 if len(item.text) >= 4 else 0.5
                self.passages_of[passage] = self.passages_of.get(passage, 0.0) + weight
                if all(at.stretch.passage is not None for at in found.values()):
                    self.only_in.add(passage)
        self.values.append(
            ValueProvenance(
                path=item.leaf.path,
                start=None if item.span is None else item.span.start,
                end=None if item.span is None else item.span.end,
                origins=origins,
                sink=item.sink,
                by_user=told,
                by_plan=planned,
            )
        )


def _needles(leaf: Leaf, span: Span | None) -> Iterator[tuple[Needle, Relation | None]]:
    """What to look for, each with the relation of a find; None: `whole` or `part`, as it stands there."""
    text = leaf.text if span is None else span.text
    host: Relation | None = "host" if span is not None and span.host else None
    plain = text.strip().encode("utf-8", "surrogatepass")
    if b"\x00" not in plain:
        yield Needle("plain", plain, leaf.number), host
    if leaf.number:
        for form in number_forms(text):
            yield Needle("plain", form.encode(), True), "normalised"
        return
    tight = squeezed(text)
    if len(tight) >= SHORTEST_SQUEEZED:
        yield Needle("squeezed", tight), host or "normalised"
        yield Needle("decoded", tight), host or "decoded"
    for form in decoded_forms(text):
        if len(tight := squeezed(form)) >= SHORTEST_SQUEEZED:
            yield Needle("squeezed", tight), "decoded"
    for form in date_forms(text):
        yield Needle("squeezed", squeezed(form)), "normalised"
    if span is None and (found := host_of(text)) is not None:
        yield Needle("plain", found.text.removeprefix("www.").encode("utf-8", "surrogatepass")), "host"


def orders_in(
    pieces: Sequence[Piece], detect: Callable[[str], Sequence[Passage]] = candidates, least: float = GIVES_ORDERS
) -> list[tuple[int, OrderPassage]]:
    """The passages of tool results that give orders, with the number of the piece in which each stands; the surest ones
    if there are more than :data:`MOST_PASSAGES`."""
    found = [
        (
            nth,
            OrderPassage(
                message=piece.message,
                tool=piece.tool,
                trust=piece.trust or "untrusted",
                start=passage.start,
                end=passage.end,
                kinds=list(passage.kinds),
                score=round(passage.score, 3),
            ),
        )
        for nth, piece in enumerate(pieces)
        if piece.source == "tool"
        for passage in detect(piece.text)
        if passage.score >= least
    ]
    if len(found) > MOST_PASSAGES:
        found = sorted(sorted(found, key=lambda pair: -pair[1].score)[:MOST_PASSAGES], key=lambda pair: pair[0])
    return found


def sink_of(leaf: Leaf, settings: Mapping[str, Sink | Literal["none"]]) -> Sink | None:
    """What an argument decides: by the settings, else by the name of its innermost key, else by what it looks like."""
    for name in reversed(leaf.names):
        if name in settings:
            said = settings[name]
            return None if said == "none" else said
    if leaf.names:
        named = [_SINK_OF[word] for part in _WORD.findall(leaf.names[-1]) if (word := part.lower()) in _SINK_OF]
        if named:
            return named[-1]
    if not leaf.number and len(leaf.text) < 2048:
        text = leaf.text.strip()
        if _MAIL.fullmatch(text):
            return "recipient"
        if _LINK.fullmatch(text):
            return "url"
    return None


def _ends(text: str) -> str:
    return text if len(text) <= 2 * MOST_ENDS else f"{text[:MOST_ENDS]}\n{text[-MOST_ENDS:]}"
