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
the model, a value has the origin that it has there, and those that it had (``policies.facts.replaced``), as far as the
run remembers them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from policies.facts.known import NOTHING, KnownText, KnownTexts, surely
from policies.facts.mismatch import conceals, refuses
from policies.facts.naming import ASKS, NAMES, tool_names
from policies.facts.orders import GIVES_ORDERS, Passage
from policies.facts.places import Cut, Places
from policies.facts.replaced import Gone, Shown
from policies.facts.seen import OWN, TOLD, Piece, Source, ToolTable, calls_of_results, pieces_of
from policies.facts.sinks import sink_of
from policies.facts.value_forms import SHORTEST, leaves, squeezed
from policies.facts.value_search import ValueSearch
from policies.model import CallMismatch, CallNamed, OrderedBy, OrderPassage, UnplacedValue, ValueProvenance
from serving.wire.request import SentCall, SentMessage, SentTool

MOST_VALUES = 2048
"""Values of one call that are looked at."""
MOST_PASSAGES = 256
"""Passages of one request that count, the surest ones."""
MOST_NAMING = 32
"""Passages that are asked whether they name the call, the surest ones."""
MOST_ENDS = 4096
"""Characters at the beginning and at the end of a message that are read for what it asks for."""
MOST_READ = 32 * 1024
"""Characters of the latest messages of one role that are read for what they ask for, beside the first message."""

_STRING = re.compile(r'(?<=[:\[,])\s*(?:"((?:[^"\\]|\\.)*)"|\d+)')
_GIVEN: tuple[Source, ...] = ("tool", "call")


class Facts(NamedTuple):
    provenance: list[ValueProvenance]
    unplaced: list[UnplacedValue]
    named: CallNamed
    mismatch: CallMismatch
    note: dict[str, Any] | None = None
    """What is put on record of them (``policies.facts.recorded_facts``)."""


class Background:
    """What the model had seen before its answer; ``size`` characters of it. ``texts``: what is known of texts that came
    before; ``before``: what it had seen a turn ago, if this may be that and more. Neither changes what is found.
    ``shown``: what the run had shown; ``gone`` is what of that is not there any more, and ``inherited`` its passages,
    the last ones of ``orders``."""

    def __init__(
        self,
        messages: Sequence[SentMessage],
        tools: Sequence[SentTool],
        table: ToolTable,
        texts: KnownTexts | None = None,
        before: Background | None = None,
        shown: Shown | None = None,
    ) -> None:
        self._table = table
        self._texts = texts if texts is not None else KnownTexts()
        self._names = tool_names(tools)
        self._messages = tuple(messages)
        self._told_by: dict[tuple[Source, bool], list[KnownText]] = {}
        self._user_squeezed: bytes | None = None
        if before is None or not self._goes_on(before):
            self._calls: dict[str, SentCall] = {}
            self._pieces: list[Piece] = []
            self._known: list[KnownText] = []
            self.orders: list[OrderPassage] = []
            self._words: list[str] = []
            self._sure: list[float] = []
            self._first_order: int | None = None
            self._add(0, None)
        self.size = self._places.size
        self.gone = shown.gone(self._seen) if shown is not None else None
        self.inherited = self._of_gone(self.gone) if self.gone is not None else []
        self.orders += self.inherited

    @property
    def _seen(self) -> list[tuple[Piece, KnownText]]:
        return [*zip(self._pieces, self._known, strict=True)]

    def show(self, shown: Shown) -> None:
        """Let ``shown`` have what it had seen."""
        asked = {order.message for order in self.orders[: len(self._sure)] if order.asked}
        shown.show(self._seen, asked, self.gone.stands_in if self.gone is not None else ())

    def _of_gone(self, gone: Gone) -> list[OrderPassage]:
        """The passages that are gone, each at the first message that came in their place."""
        return [
            OrderPassage(
                message=min(gone.stands_in),
                tool=tool,
                trust=self._table.trust(tool),
                start=0,
                end=0,
                kinds=list(passage.kinds),
                score=passage.score,
                asked=passage.asked,
            )
            for passage, tool in gone.passages
        ]

    @property
    def _planned_before(self) -> int:
        """The message before which what the model wrote was its own plan."""
        before = len(self._messages) if self._first_order is None else self._first_order
        return before if not self.inherited else min(before, self.inherited[0].message)

    def _goes_on(self, before: Background) -> bool:
        """Whether the history is ``before`` with more behind it that changes nothing of what was found there: then only
        that is looked at."""
        first = len(before._messages)
        same = self._table is before._table and self._texts is before._texts and self._names is before._names
        if not same or self._messages[:first] != before._messages or len(before._sure) >= MOST_PASSAGES:
            return False
        if any(message.role == "user" for message in self._messages[first:]):
            return False
        self._calls = {**before._calls}
        self._pieces, self._known = [*before._pieces], [*before._known]
        self.orders = before.orders[: len(before._sure)]
        self._words, self._sure = [*before._words], [*before._sure]
        self._first_order = before._first_order
        return self._add(first, before._places)

    def _add(self, first: int, before: Places | None) -> bool:
        """Look at the messages from ``first`` on; False if together they have too many passages to be looked at so."""
        messages = self._messages[first:] if first else self._messages
        calls = calls_of_results(messages, self._calls)
        pieces = pieces_of(messages, self._table, calls, first)
        known = [self._texts.of(piece.text) for piece in pieces]
        self._pieces += pieces
        self._known += known
        some_of = _surest(pieces, known, MOST_PASSAGES - len(self.orders))
        if some_of is not None and first:
            return False
        cuts: list[tuple[Piece, Cut, int]] = []
        for nth, (piece, text) in enumerate(zip(pieces, known, strict=True)):
            some = some_of.get(nth, []) if some_of is not None else None
            told = text.told if piece.source == "tool" else NOTHING
            if not told.passages or some == []:
                cuts.append((piece, text.uncut, 0))
                continue
            cuts.append((piece, text.cut(some), len(self.orders)))
            orders = text.orders(piece, self._asked(calls[piece.message - first]))
            self.orders += orders if some is None else [orders[at] for at in some]
            self._words += told.words if some is None else [told.words[at] for at in some]
            self._sure += told.sure if some is None else [told.sure[at] for at in some]
            sure = told.orders if some is None else any(orders[at].score >= GIVES_ORDERS for at in some)
            if sure and self._first_order is None:
                self._first_order = piece.message
        self._places = Places(cuts, before)
        return True

    def _asked(self, call: SentCall | None) -> bool:
        """Whether the user named what a result was fetched with, or the tool that gave it."""
        if call is None:
            return False
        told = self._told("user")
        if self._user_squeezed is None:
            self._user_squeezed = b"".join([text.squeezed for text in told])
        whole = self._user_squeezed
        values = [squeezed(text) for text in _STRING.findall(call.arguments)]
        if any(len(value) >= SHORTEST and value in whole for value in values):
            return True
        return any(text.names(self._names, call.name, ASKS) for text in told)

    def passages_from(self, first: int) -> dict[int, list[Passage]]:
        """The passages of results from message ``first`` on, by the message's number."""
        return {
            piece.message: [*text.told.passages]
            for piece, text in zip(self._pieces, self._known, strict=True)
            if piece.source == "tool" and piece.message >= first and text.told.passages
        }

    def words(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """The words of each passage, with its kinds: to be shown to who looks into a decision."""
        words = [*self._words, *[""] * len(self.inherited)]  # of what is gone they are not known any more
        return tuple([(said, tuple(order.kinds)) for said, order in zip(words, self.orders, strict=True)])

    def facts(self, tool: str, arguments: Mapping[str, Any] | None, raw: str = "", said: str = "") -> Facts:
        """What is known of a call to ``tool``. ``raw`` is the text of arguments that are no object (a call that was cut
        off); ``said`` what the answer said and thought before it."""
        search = ValueSearch(self._places, self._planned_before)
        sinks = self._table.sinks(tool)
        found = [*islice(leaves(raw if arguments is None else dict(arguments)), MOST_VALUES + 1)]
        if len(found) > MOST_VALUES:
            search.unplaced[""] = "many_values"
        known = [(leaf, sink_of(leaf, sinks)) for leaf in found[:MOST_VALUES]]
        search.values_of(sorted(known, key=lambda pair: pair[1] is None))
        if self.gone is not None:
            self._inherit(search, self.gone)
        named = self._named(tool, search)
        mismatch = CallMismatch(
            refuses=refuses(said, lambda text: self._names.named(text, tool)),
            conceals=conceals(said),
            ordered_only=bool(named.by_orders) and not (named.by_user or named.by_plan),
        )
        unplaced = [UnplacedValue(path=path, reason=reason) for path, reason in search.unplaced.items()]
        return Facts(search.values, unplaced, named, mismatch)

    def _inherit(self, search: ValueSearch, gone: Gone) -> None:
        """Values that stand in what came in the place of earlier messages have the origins that they had there; and who
        had not said them there does not say them now."""
        first = len(self.orders) - len(self.inherited)
        for at, (value, text) in enumerate(zip(search.values, search.texts, strict=True)):
            standing = [one for one in value.origins if one.message in gone.stands_in and one.source not in _GIVEN]
            if not standing:
                continue
            had = gone.inherited(text)
            if not had.tools:
                continue
            orders = [first + nth for nth in had.passages]
            of_orders = [(self.orders[order].tool, order) for order in orders]
            of_data = [(tool, None) for tool in sorted(had.tools - {tool for tool, _ in of_orders}, key=str)]
            origins = [
                standing[0].model_copy(
                    update={
                        "source": "tool",
                        "tool": tool,
                        "trust": self._table.trust(tool),
                        "orders": order is not None,
                        "order": order,
                    }
                )
                for tool, order in (*of_orders, *of_data)
            ]
            own = [one for one in value.origins if one.message not in gone.stands_in]
            search.values[at] = value.model_copy(
                update={
                    "origins": [*value.origins, *origins],
                    "by_user": had.told or any(one.source in TOLD for one in own),
                    "by_plan": any(one.source in OWN and one.message < self._planned_before for one in own),
                }
            )
            search.tainted = search.tainted or bool(orders)

    def _named(self, tool: str, search: ValueSearch) -> CallNamed:
        """Where a value comes from an order that is gone, what stands in its place is nobody's own words."""
        own = search.tainted
        return CallNamed(
            by_user=self._says("user", tool, ASKS, own=own),
            delegated=any(text.delegates for text in self._told("user", own)),
            by_system=self._says("system", tool, own=own),
            by_plan=self._says("assistant", tool, own=own) or self._says("reasoning", tool, own=own),
            by_orders=self._by_orders(tool, search),
        )

    def _by_orders(self, tool: str, search: ValueSearch) -> list[OrderedBy]:
        """The passages that name the call, the surest first."""
        sure = self._sure
        if search.only_in:
            sure = [*sure]
            for at in search.only_in:
                sure[at] = surely(self.orders[at].score, taken=True)
        found: list[OrderedBy] = []
        for at in sorted(range(len(sure)), key=sure.__getitem__, reverse=True)[:MOST_NAMING]:
            if self._names.named(self._words[at], tool, search.passages_of.get(at, 0.0)):
                found.append(OrderedBy(order=at, sure=sure[at]))
        return found

    def _says(self, source: Source, tool: str, least: float = NAMES, *, own: bool = False) -> bool:
        return any(text.names(self._names, tool, least) for text in self._told(source, own))

    def _told(self, source: Source, own: bool = False) -> list[KnownText]:
        """What somebody said, as far as it is read for what it asks for: the first message and the latest ones.
        ``own``: without what stands in for what is gone."""
        known = self._told_by.get((source, own))
        if known is None:
            planned = source in OWN
            gone = self.gone.stands_in if own and self.gone is not None else ()
            texts = [
                text if len(piece.text) <= 2 * MOST_ENDS else self._texts.of(_ends(piece.text))
                for piece, text in zip(self._pieces, self._known, strict=True)
                if piece.source == source and (not planned or piece.message < self._planned_before)
                if piece.message not in gone
            ]
            left = MOST_READ
            known = self._told_by[source, own] = texts[:1]
            for text in reversed(texts[1:]):
                left -= len(text.text)
                if left < 0:
                    break
                known.append(text)
        return known


def certain_orders(pieces: Sequence[Piece], texts: KnownTexts) -> list[OrderPassage]:
    """The passages of tool results that give orders, without doubtful ones and without what the rest of the history
    says of them; the surest ones if there are more than :data:`MOST_PASSAGES`."""
    found = [
        (nth, order)
        for nth, piece in enumerate(pieces)
        if piece.source == "tool"
        for order in texts.of(piece.text).orders(piece, asked=False)
        if order.score >= GIVES_ORDERS
    ]
    if len(found) > MOST_PASSAGES:
        found = sorted(sorted(found, key=lambda pair: -pair[1].score)[:MOST_PASSAGES], key=lambda pair: pair[0])
    return [order for _, order in found]


def _surest(pieces: Sequence[Piece], known: Sequence[KnownText], most: int) -> dict[int, list[int]] | None:
    """Of more than ``most`` passages of results the surest ones: number of the piece → numbers in its text. None if
    there are no more."""
    results = [
        (nth, text) for nth, (piece, text) in enumerate(zip(pieces, known, strict=True)) if piece.source == "tool"
    ]
    if sum(len(text.told.passages) for _, text in results) <= most:
        return None
    found = [(-score, nth, at) for nth, text in results for at, score in enumerate(text.told.scores)]
    some: dict[int, list[int]] = {}
    for _, nth, at in sorted(found)[:most]:
        some.setdefault(nth, []).append(at)
    return some


def _ends(text: str) -> str:
    return text if len(text) <= 2 * MOST_ENDS else f"{text[:MOST_ENDS]}\n{text[-MOST_ENDS:]}"
