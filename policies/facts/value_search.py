"""Looks in a history for the values that one tool call has, and says of each whose words it stands in.

    search = ValueSearch(places, planned_before)      # for each call anew
    search.values_of(leaves_with_their_sinks)
    search.values, search.unplaced

First all values are looked for as a whole, then those that stand nowhere, span by span. The history is read once for
each of the two, however many values there are (``policies.facts.places``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from policies.facts.places import Needle, Places, Stretch
from policies.facts.seen import OWN, TOLD
from policies.facts.value_forms import (
    SHORTEST,
    SHORTEST_SQUEEZED,
    Leaf,
    Relation,
    Span,
    date_forms,
    decoded_forms,
    host_of,
    number_forms,
    significant,
    spans,
    squeezed,
)
from policies.model import Origin, Sink, ValueProvenance

MOST_NEEDLES = 4096
"""Texts that are looked for, for one call: each value and each span has a few forms."""

_CLOSEST: tuple[Relation, ...] = ("whole", "part", "host", "normalised", "decoded")
_Key = tuple[int, str, int | None]
"""A stretch: its message, the source and the passage."""


class _At(NamedTuple):
    stretch: Stretch
    relation: Relation


class _Wanted(NamedTuple):
    """A value, or a span of one, with the needles that stand for it."""

    leaf: Leaf
    sink: Sink | None
    span: Span | None
    needles: list[tuple[Needle, Relation | None]]

    @property
    def text(self) -> str:
        return self.leaf.text if self.span is None else self.span.text


class ValueSearch:
    """What was found of the values of one call. ``passages_of``: passage → how much of the call stands there and was
    named by nobody else; ``only_in``: passages that hold a value which stands in nothing but passages; ``texts``: of
    each of ``values`` what it says; ``tainted`` is for who finds that one of them comes from an order that is gone."""

    def __init__(self, places: Places, planned_before: int) -> None:
        self._places = places
        self._planned_before = planned_before
        self._left = MOST_NEEDLES
        self.passages_of: dict[int, float] = {}
        self.only_in: set[int] = set()
        self.values: list[ValueProvenance] = []
        self.texts: list[str] = []
        self.tainted = False
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
        told = any(origin.source in TOLD for origin in origins)
        planned = any(origin.source in OWN and origin.message < self._planned_before for origin in origins)
        if not told and not planned:
            for passage in {at.stretch.passage for at in found.values() if at.stretch.passage is not None}:
                weight = 1.0 if len(item.text) >= 4 else 0.5
                self.passages_of[passage] = self.passages_of.get(passage, 0.0) + weight
                if all(at.stretch.passage is not None for at in found.values()):
                    self.only_in.add(passage)
        self.texts.append(item.text)
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
