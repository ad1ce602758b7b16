"""What was worked out of texts, kept for when they come again.

    texts = KnownTexts(candidates, most_bytes)        # one for all requests
    texts.of(message.text).passages

A run shows its whole history with every request, so a text is looked at once, not once per turn. All of it is a
function of the text alone (and of what else the key names); nothing here can change an answer, forgetting it neither.
Oldest use first, what takes more than ``most_bytes`` is forgotten. Safe for threads.
"""

from __future__ import annotations

import math
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from hashlib import blake2b
from typing import NamedTuple, TypeVar
from zlib import crc32

from pydantic import TypeAdapter

from policies.facts.naming import ToolNames, delegates
from policies.facts.orders import GIVES_ORDERS, Passage, passages
from policies.facts.places import Cut
from policies.facts.seen import Piece
from policies.facts.value_forms import squeezed, values_in
from policies.model import OrderPassage, Trust

DOUBTFUL = 0.05
"""From this score on a passage is held against a call: that it names the call may settle what it is."""
NAMED, TAKEN = 1.0, 1.6
"""Log odds by which a passage is surer to be an order if it names the call, and if the call takes a value that stands
in nothing but such passages."""

MOST_BYTES = 16 * 1024 * 1024
"""Of texts and what is known of them, unless told otherwise."""
_PER_TEXT = 1024
_PER_CHARACTER = 4
_MOST_NAMED, _MOST_ORDERS = 128, 4
"""Answers that are kept of one text."""

_ORDERS = TypeAdapter(list[OrderPassage])

Detect = Callable[[str], Sequence[Passage]]
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


def candidates(text: str) -> list[Passage]:
    """The passages of a text that give orders, doubtful ones too."""
    return passages(text, least=DOUBTFUL)


class Told(NamedTuple):
    """The passages of a text that give orders, doubtful ones too: where they are, their words, how sure each is as
    policies see it, and how sure it is an order for a call that it names. ``orders``: one of them is not doubtful."""

    passages: tuple[Passage, ...]
    words: tuple[str, ...]
    scores: tuple[float, ...]
    sure: tuple[float, ...]
    orders: bool

    @classmethod
    def of(cls, text: str, passages: Sequence[Passage]) -> Told:
        found = tuple([passage for passage in passages if passage.score >= DOUBTFUL])
        if not found:
            return NOTHING
        scores = tuple([round(passage.score, 3) for passage in found])
        words = tuple([text[passage.start : passage.end] for passage in found])
        return cls(found, words, scores, tuple(map(surely, scores)), max(scores) >= GIVES_ORDERS)


NOTHING = Told((), (), (), (), False)


class KnownText:
    """One text, and what is known of it by now."""

    def __init__(self, text: str, detect: Detect) -> None:
        self.text = text
        self._detect = detect
        self._told: Told | None = None
        self._cuts: tuple[Sequence[int] | None, Cut] | None = None
        self._orders: dict[tuple[int, str | None, Trust | None, bool], tuple[OrderPassage, ...]] = {}
        self._written: dict[tuple[int, str | None, Trust | None, bool], bytes] = {}
        self._named: dict[tuple[ToolNames, str, float], bool] = {}

    @property
    def told(self) -> Told:
        """The passages in it that give orders, doubtful ones too."""
        if self._told is None:
            self._told = Told.of(self.text, self._detect(self.text))
        return self._told

    def tell(self, passages: Sequence[Passage]) -> None:
        """They are known from elsewhere."""
        if self._told is None:
            self._told = Told.of(self.text, passages)

    def read(self) -> None:
        """Work out what the facts about any call will ask of it, where it is a tool's result."""
        (self.cut() if self.told.passages else self.uncut).read()

    @cached_property
    def mark(self) -> bytes:
        """By which it is known again without its words."""
        return blake2b(self.text.encode("utf-8", "surrogatepass"), digest_size=12).digest()

    @cached_property
    def values(self) -> tuple[int, ...]:
        """Hashes of the values in it that a summary may repeat."""
        return tuple(map(crc32, values_in(self.text)))

    @cached_property
    def squeezed(self) -> bytes:
        return squeezed(self.text)

    @cached_property
    def delegates(self) -> bool:
        """Whether it hands a task over to what a tool will return."""
        return delegates(self.text)

    def cut(self, some: Sequence[int] | None = None) -> Cut:
        """Cut at its passages; ``some``: at these alone, as they are numbered here."""
        known = self._cuts
        if known is None or known[0] != some:
            marks = [
                (passage.start, passage.end, score >= GIVES_ORDERS)
                for passage, score in zip(self.told.passages, self.told.scores, strict=True)
            ]
            known = self._cuts = some, Cut(self.text, marks if some is None else [marks[nth] for nth in some])
        return known[1]

    @cached_property
    def uncut(self) -> Cut:
        return Cut(self.text)

    def orders(self, piece: Piece, asked: bool) -> tuple[OrderPassage, ...]:
        """Its passages as policies see them, where it is the text of ``piece``."""
        key = piece.message, piece.tool, piece.trust, asked
        known = self._orders.get(key)
        if known is None:
            told = {
                "message": piece.message,
                "tool": piece.tool,
                "trust": piece.trust or "untrusted",
                "asked": asked,
            }
            made = [
                {**told, "start": start, "end": end, "kinds": list(kinds), "score": round(score, 3)}
                for start, end, kinds, score in self.told.passages
            ]
            known = tuple(_ORDERS.validate_python(made))
            _keep(self._orders, key, known, _MOST_ORDERS)
        return known

    def orders_written(self, piece: Piece, asked: bool) -> bytes:
        """The same as JSON, with commas between them. Raises ``PydanticSerializationError``."""
        key = piece.message, piece.tool, piece.trust, asked
        known = self._written.get(key)
        if known is None:
            known = _ORDERS.dump_json([*self.orders(piece, asked)])[1:-1]
            _keep(self._written, key, known, _MOST_ORDERS)
        return known

    def names(self, tools: ToolNames, tool: str, least: float) -> bool:
        """Whether it asks for ``tool``."""
        key = tools, tool, least
        known = self._named.get(key)
        if known is None:
            known = tools.named(self.text, tool, least=least)
            _keep(self._named, key, known, _MOST_NAMED)
        return known


def _keep(book: dict[_Key, _Value], key: _Key, value: _Value, most: int) -> None:
    if len(book) >= most:
        book.clear()
    book[key] = value


@lru_cache(maxsize=4096)
def surely(score: float, *, taken: bool = False) -> float:
    """How sure it is that a passage is an order for the call, if it names it. ``taken``: the call takes a value that
    stands in nothing but such passages."""
    score = min(max(score, 1e-4), 1 - 1e-4)
    odds = math.log(score / (1 - score)) + NAMED + (TAKEN if taken else 0.0)
    return round(1 / (1 + math.exp(-odds)), 3)


class KnownTexts:
    """The texts that came last."""

    def __init__(self, detect: Detect = candidates, most_bytes: int = MOST_BYTES) -> None:
        self._detect = detect
        self._left = self._most = most_bytes
        self._known: OrderedDict[str, KnownText] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, text: str) -> KnownText:
        """What is known of ``text``."""
        with self._lock:
            known = self._known.get(text)
            if known is not None:
                self._known.move_to_end(text)
                return known
            known = KnownText(text, self._detect)
            weight = _weight(text)
            if weight > self._most // 2:
                return known
            self._known[text] = known
            self._left -= weight
            while self._left < 0:
                self._left += _weight(self._known.popitem(last=False)[0])
            return known


def _weight(text: str) -> int:
    return _PER_TEXT + sys.getsizeof(text) + _PER_CHARACTER * len(text)
