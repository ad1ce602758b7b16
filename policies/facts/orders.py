"""Passages of a text that give orders to a model, though the text is data: a web page, a mail, a tool's result.

    for passage in passages(result): passage.start, passage.end, passage.kinds, passage.score

No word alone makes an order. A sentence is looked at if it begins as an order or a question does, or says what is only
said to a model ("ignore the instructions above", ``<|im_start|>``). What it has then adds up to log odds: what it asks
for, for whom, who is spoken to, whether it stands where data should stand, whether it has anything to do with what is
around it. The words and weights are data (``orders.yaml``); nothing is learnt, so every score can be explained
(:meth:`Detector.explain`).

The text is read as it is or, where it hides letters (zero width, look-alikes, full width, tags, escapes), without what
hides them (``serving.plain``); and what is encoded in it (base64, hexadecimal) is read as well.

Linear in the text: one automaton (Hyperscan) reads each byte once, and at most :func:`most_weighed` sentences are
weighed. A text that has more is an order from there on: so nobody hides one behind ten thousand others.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from functools import cache
from heapq import merge
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import re2
import yaml

from policies.facts.order_features import Features
from policies.facts.order_heads import Heads
from policies.facts.order_surroundings import AROUND, related, standing
from policies.facts.sentences import FIELD, Sentence, Sentences
from serving.block_scan import BlockScan
from serving.plain import ENCODED, decoded_parts, plain

GIVES_ORDERS = 0.5
"""From this score on a passage counts as one that gives orders."""

MOST_SENTENCES = 2000
SENTENCE_PER = 150
"""Sentences of a text that are weighed: so many, or one for so many characters where that is more."""
PLACES_PER_SENTENCE = 16
"""Places of a text that are asked for their sentence, for each sentence that is weighed: several are in one."""
SHORTEST, SHORTEST_UNSPACED = 8, 4
"""Characters of the shortest sentence, and of one in a script that puts no blanks between words."""
MANY = 8
"""So many ordinary orders within ``AROUND`` characters on each side make a manual."""

MOST_OF_FIELD = 600
MOST_PASSAGE = 2000
"""Characters of the same field behind an order that still belong to it ("My number is 12345."); behind an override."""
MOST_CALL = 400
AUTOMATON_BYTES = 32 * 1024 * 1024
"""Room for the states of each automaton; they are made as texts need them."""
_DATA = Path(__file__).with_name("orders.yaml")
_BLANKS = re.compile(r"(?:\\[nrt]|\s)+")
_NO_WORDS = frozenset("[<#={|-/\"'\\ \n")
_FOLD_TO_ASCII = (("\u017f", "s"), ("\u212a", "k"))
"""Letters that are not ASCII, and yet an s and a k without regard to case."""
_ENCODED, _CALL, _ABROAD = 0, 1, 2
_OF_VERBS = 0
_STRAIGHT = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "\u00a0": " "})
_SURROGATE = re.compile("[\ud800-\udfff]")
_UNSPACED = re.compile("[\u0e00-\u0eff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]")
_HOLE = re.compile(r"\{([a-z_]+)\}")
_SIGNS = re.compile(r"[\[<#={|-][\[<#={|/\"'\\ -]*$")
"""What stands before a sentence and may be part of a marker."""

_STRONG = frozenset({"override", "role", "marker", "concealment", "prompt_leak", "address", "answer", "tool"})
_DOUBTFUL = (-0.8, 0.8)
"""Log odds at which it is asked whether a sentence has to do with what is around it."""

_LONG = frozenset({"override", "role", "marker"})


class Passage(NamedTuple):
    """``start`` and ``end`` are code points of the text; ``score`` is 0 to 1; ``kinds`` say what it has, sorted."""

    start: int
    end: int
    kinds: tuple[str, ...]
    score: float


class _Scanned(NamedTuple):
    """A text, read once, with letters of ASCII for those that fold to them. ``may_have``: what it may have and its
    places do not show; ``places``: where, in code points, a sentence may be one to look at, in order; ``unread``: from
    where on nothing was read, since there were too many."""

    text: str
    may_have: list[int]
    places: list[int]
    unread: int | None


class _Read(NamedTuple):
    """A sentence that is looked at: as it is ``written``, with the signs before it; what its beginning has."""

    sentence: Sentence
    written: str
    head: set[str]


class _LookedAt(NamedTuple):
    """``abroad``: whether any sentence may be one in another language than English; ``unread``: from where on no
    sentence was looked at, since there were too many."""

    sentences: Sentences
    each: list[_Read]
    abroad: bool
    unread: int | None


class _Weighed(NamedTuple):
    sentence: Sentence
    odds: float
    kinds: frozenset[str]
    features: tuple[str, ...]


class Detector:
    """The words and weights of a file, compiled. Use from any thread."""

    def __init__(self, path: Path = _DATA) -> None:
        document = yaml.safe_load(path.read_text("utf-8"))
        words = {name: tuple(listed.split(", ")) for name, listed in document["words"].items()}
        self._heads = Heads(words)
        holes = {name: "|".join(sorted(listed, key=lambda word: (-len(word), word))) for name, listed in words.items()}
        parts: dict[str, str] = document["parts"]
        while parts:
            ready = {name: part for name, part in parts.items() if not any(h in parts for h in _HOLE.findall(part))}
            if not ready:
                raise ValueError(f"{path}: parts that use each other: {', '.join(parts)}")
            holes.update((name, _filled(part, holes)) for name, part in ready.items())
            parts = {name: part for name, part in parts.items() if name not in ready}
        self._bias = float(document["bias"])
        self._context: dict[str, float] = document["context"]
        self._of_feature: list[tuple[str, str | None, float]] = [
            (entry["id"], entry.get("kind"), float(entry["weight"])) for entry in document["features"]
        ]
        self._of_head: dict[str, tuple[str | None, float]] = {
            name: (entry.get("kind"), float(entry["weight"])) for name, entry in document["heads"].items()
        }
        options = re2.Options()
        options.max_mem = AUTOMATON_BYTES
        options.never_capture = True
        options.case_sensitive = False
        options.log_errors = False
        self._direct = re2.compile(document["direct"]["regex"], options)
        self._direct_score = float(document["direct"]["score"])
        abroad_triggers = [_filled(trigger, holes) for trigger in document["triggers_abroad"]]
        self._triggers_abroad = re2.compile("|".join(abroad_triggers), options)
        here: dict[int, str] = {}
        abroad: dict[int, str] = {}
        for number, entry in enumerate(document["features"]):
            (abroad if entry.get("abroad") else here)[number] = _filled(entry["regex"], holes)
        self._features, self._features_abroad = Features(here, options), Features(abroad, options)
        self._scan = BlockScan(
            once=[ENCODED, document["direct"]["regex"], *abroad_triggers],
            every=[_filled(trigger, holes) for trigger in [document["trigger_of_verbs"], *document["triggers"]]],
        )

    def passages(self, text: str, least: float = GIVES_ORDERS) -> list[Passage]:
        """The passages with a score of ``least`` or more, by place; none overlaps another."""
        if len(text) < SHORTEST_UNSPACED:
            return []
        try:
            scanned = self._scanned(text)
        except UnicodeEncodeError:
            text = _SURROGATE.sub("\ufffd", text)
            scanned = self._scanned(text)
        undisguised = plain(text)
        if undisguised is None:
            found = self._passages(scanned, least)
        else:
            found = [
                passage._replace(
                    start=undisguised.original(passage.start),
                    end=undisguised.original(passage.end),
                    kinds=tuple(sorted({*passage.kinds, "disguised"})) if undisguised.hidden else passage.kinds,
                )
                for passage in self._passages(self._scanned(undisguised.text), least)
            ]
        for start, end, inner in decoded_parts(text) if _ENCODED in scanned.may_have else ():
            hidden = self._passages(self._scanned(inner), least)
            if hidden:
                kinds = {kind for passage in hidden for kind in passage.kinds} | {"encoded"}
                found.append(Passage(start, end, tuple(sorted(kinds)), max(passage.score for passage in hidden)))
        return _joined(found)

    def weights(self) -> dict[str, float]:
        """Every weight by its name."""
        named = {name: weight for name, _, weight in self._of_feature}
        of_head = {name: weight for name, (_, weight) in self._of_head.items()}
        return {"bias": self._bias, **self._context, **named, **of_head}

    def explain(self, text: str) -> list[tuple[str, float, tuple[str, ...]]]:
        """Every sentence that was looked at, its score and what it has; without what is undisguised or decoded."""
        return [
            (text[one.sentence.start : one.sentence.end], _score(one.odds), one.features)
            for one in self._weighed(self._looked_at(self._scanned(text)))
        ]

    def _scanned(self, text: str) -> _Scanned:
        """Raises :class:`UnicodeEncodeError` for half a surrogate pair."""
        if not text.isascii():
            for letter, ascii_letter in _FOLD_TO_ASCII:
                text = text.replace(letter, ascii_letter)
        data = text.encode()
        may_have, found, more = self._scan.found(data, PLACES_PER_SENTENCE * most_weighed(text))
        places = [end - 1 for end, _ in found]
        if len(data) != len(text):
            places = [*_in_code_points(data, places)]
        may_begin = self._heads.may_begin
        some = [
            place
            for place, (_, number) in zip(places, found, strict=True)
            if number != _OF_VERBS or may_begin(text, place)
        ]
        return _Scanned(text, may_have, some, places[-1] if more else None)

    def _passages(self, scanned: _Scanned, least: float) -> list[Passage]:
        text = scanned.text
        found: list[Passage] = []
        if scanned.places or scanned.may_have or not text.isascii():
            looked_at = self._looked_at(scanned)
            for one in self._weighed(looked_at):
                score = _score(one.odds)
                if score >= least:
                    end = _end(looked_at.sentences, one)
                    found.append(Passage(one.sentence.start, end, tuple(sorted(one.kinds)), score))
            if looked_at.unread is not None:
                found.append(Passage(looked_at.unread, len(text), ("many",), 1.0))
        if _CALL in scanned.may_have and self._direct_score >= least:
            found += self._calls(text)
        return found

    def _calls(self, text: str) -> list[Passage]:
        """Calls of tools as models write them, to the end of their lines."""
        found: list[Passage] = []
        for match in islice(self._direct.finditer(text), MOST_SENTENCES):
            start, end = match.span()
            line = text.find("\n", end, end + MOST_CALL)
            found.append(
                Passage(start, line if line >= 0 else min(len(text), end + MOST_CALL), ("tool",), self._direct_score)
            )
        return found

    def _looked_at(self, scanned: _Scanned) -> _LookedAt:
        text, places = scanned.text, scanned.places
        abroad: list[int] = []
        if not text.isascii() or any(found >= _ABROAD for found in scanned.may_have):
            data = text.encode()
            abroad = list(_in_code_points(data, (found.end() - 1 for found in self._triggers_abroad.finditer(data))))
            places = [*merge(places, abroad)]
        sentences = Sentences(text)
        unread = scanned.unread
        most = most_weighed(text)
        each: list[_Read] = []
        done = -1
        for place in places:
            if place < done:
                continue
            sentence = sentences.around(place)
            start, end, opens, closes = sentence
            done = max(done, end)
            if end - start < SHORTEST and (end - start < SHORTEST_UNSPACED or not _UNSPACED.search(text, start, end)):
                continue
            written = _straight(text[start:end])
            brief = opens == closes == FIELD and written.count(" ") < 2 and written[0].isalnum()
            if brief and (written.isascii() or not _UNSPACED.search(written)):
                continue  # "return requested"
            signs = _SIGNS.search(text, max(0, start - 12), start) if start and text[start - 1] in _NO_WORDS else None
            each.append(_Read(sentence, signs[0] + written if signs else written, self._heads.of(written)))
            if len(each) == most:
                unread = end
                break
        return _LookedAt(sentences, each, bool(abroad), unread)

    def _weighed(self, looked_at: _LookedAt) -> Iterator[_Weighed]:
        ordinary = [read.sentence.start for read in looked_at.each if read.head]
        for read in looked_at.each:
            has = self._features.of(read.written)
            if looked_at.abroad:
                has += self._features_abroad.of(read.written)
            yield self._weigh(looked_at.sentences, read, sorted(has), ordinary)

    def _weigh(self, sentences: Sentences, read: _Read, has: list[int], ordinary: list[int]) -> _Weighed:
        odds = self._bias
        kinds: set[str] = set()
        names: list[str] = []
        sentence, _, head = read
        for index in has:
            name, kind, weight = self._of_feature[index]
            odds += weight
            names.append(name)
            if kind is not None:
                kinds.add(kind)
        if "your_answer" in names and head & {"act", "make", "alter", "answer_form"}:
            head = {*head, "answer_altered"}
        for name in sorted(head):
            kind, weight = self._of_head[name]
            odds += weight
            names.append(name)
            if kind is not None:
                kinds.add(kind)
        if not kinds:
            return _Weighed(sentence, odds, frozenset(), tuple(names))
        for name in standing(sentences.text, sentence):
            odds += self._context[name]
            names.append(name)
        if not kinds & _STRONG:
            start = sentence.start
            if bisect_right(ordinary, start + AROUND) - bisect_left(ordinary, start - AROUND) > MANY:
                odds += self._context["manual"]
                names.append("manual")
        if _DOUBTFUL[0] < odds < _DOUBTFUL[1]:
            relation = related(sentences.text, sentence)
            if relation is not None:
                odds += self._context[relation]
                names.append(relation)
        return _Weighed(sentence, odds, frozenset(kinds), tuple(names))


def most_weighed(text: str) -> int:
    return max(MOST_SENTENCES, len(text) // SENTENCE_PER)


def _in_code_points(data: bytes, places: Iterable[int]) -> Iterator[int]:
    """Places in UTF-8, in order, as places in the text."""
    at = place = 0
    for end in places:
        place += len(data[at:end].decode("utf-8", "ignore"))
        at = end
        yield place


def _filled(expression: str, holes: dict[str, str]) -> str:
    return _HOLE.sub(lambda hole: f"(?:{holes[hole[1]]})", expression)


def _straight(text: str) -> str:
    """With blanks made one and quotes made straight."""
    if not text.isprintable() or "\\" in text or "  " in text:
        text = _BLANKS.sub(" ", text)
    return text if text.isascii() else text.translate(_STRAIGHT)


def _score(odds: float) -> float:
    return round(1 / (1 + math.exp(-odds)), 3)


def _end(sentences: Sentences, weighed: _Weighed) -> int:
    """Where what belongs to a sentence ends: the next ones in its field; behind an override or a marker those on the
    next lines too."""
    over_lines = bool(weighed.kinds & _LONG)
    return sentences.extent(weighed.sentence, MOST_PASSAGE if over_lines else MOST_OF_FIELD, over_lines)


def _joined(found: list[Passage]) -> list[Passage]:
    joined: list[Passage] = []
    for passage in sorted(found, key=lambda passage: (passage.start, -passage.end)):
        if joined and passage.start <= joined[-1].end:
            last = joined[-1]
            joined[-1] = Passage(
                last.start,
                max(last.end, passage.end),
                tuple(sorted({*last.kinds, *passage.kinds})),
                max(last.score, passage.score),
            )
        else:
            joined.append(passage)
    return joined


@cache
def shipped_detector() -> Detector:
    return Detector()


def passages(text: str, *, least: float = GIVES_ORDERS) -> list[Passage]:
    """The passages of a text that give orders, by the words and weights that come with Interlock."""
    return shipped_detector().passages(text, least)
