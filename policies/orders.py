"""Passages of a text that give orders to a model, though the text is data: a web page, a mail, a tool's result.

    for passage in passages(result): passage.start, passage.end, passage.kinds, passage.score

No word alone makes an order. A sentence is looked at if it begins as an order or a question does, or says what is only
said to a model ("ignore the instructions above", ``<|im_start|>``). What it has then adds up to log odds: what it asks
for, for whom, who is spoken to, whether it stands where data should stand, whether it has anything to do with what is
around it. The words and weights are data (``orders.yaml``); nothing is learnt, so every score can be explained
(:meth:`Detector.explain`).

The text is read as it is or, where it hides letters (zero width, look-alikes, full width, tags, escapes), without what
hides them (``serving.plain``); and what is encoded in it (base64, hexadecimal) is read as well.

Linear in the text: one automaton (RE2) reads each byte once, and at most :func:`most_weighed` sentences are weighed. A
text that has more is an order from there on: so nobody hides one behind ten thousand others.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from functools import cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import re2
import yaml

from policies.order_heads import Heads
from policies.sentences import FIELD, LINE, STOP, TEXT, Sentence, Sentences
from serving.plain import decoded_parts, plain

GIVES_ORDERS = 0.5
"""From this score on a passage counts as one that gives orders."""

MOST_SENTENCES = 2000
SENTENCE_PER = 150
"""Sentences of a text that are weighed: so many, or one for so many characters where that is more."""
AROUND = 500
"""Characters on each side that a sentence is compared with."""

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
_STRAIGHT = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "\u00a0": " "})
_WORD = re.compile(r"[^\W\d_]{4,}")
_SURROGATE = re.compile("[\ud800-\udfff]")
_HOLE = re.compile(r"\{([a-z_]+)\}")
_SIGNS = re.compile(r"[\[<#={|-][\[<#={|/\"'\\ -]*$")
"""What stands before a sentence and may be part of a marker."""

_HEADER = re.compile(
    r"\s*(?:subject|from|to|date|received|sent|hi|hello|dear|hey|good (?:morning|afternoon|evening))\b", re.I
)
_COMMON = frozenset(
    {
        "about",
        "after",
        "also",
        "been",
        "before",
        "being",
        "both",
        "could",
        "does",
        "each",
        "from",
        "have",
        "here",
        "into",
    }
    | {
        "just",
        "like",
        "make",
        "more",
        "most",
        "must",
        "need",
        "only",
        "other",
        "over",
        "please",
        "same",
        "shall",
        "should",
    }
    | {"some", "such", "than", "that", "their", "them", "then", "there", "these", "they", "this", "those", "through"}
    | {
        "under",
        "very",
        "want",
        "were",
        "what",
        "when",
        "where",
        "which",
        "while",
        "will",
        "with",
        "would",
        "your",
        "yours",
    }
)
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
        self._features: list[tuple[str, str | None, float]] = [
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
        self._triggers = re2.compile("|".join(_filled(trigger, holes) for trigger in document["triggers"]), options)
        self._direct = re2.compile(document["direct"]["regex"], options)
        self._direct_score = float(document["direct"]["score"])
        self._sentence = re2.Set.SearchSet(options)
        for entry in document["features"]:
            self._sentence.Add(_filled(entry["regex"], holes))
        self._sentence.Compile()

    def passages(self, text: str, least: float = GIVES_ORDERS) -> list[Passage]:
        """The passages with a score of ``least`` or more, by place; none overlaps another."""
        if len(text) < 8:
            return []
        if not text.isascii():
            text = _SURROGATE.sub("\ufffd", text)
        undisguised = plain(text)
        if undisguised is None:
            found = self._passages(text, least)
        else:
            found = [
                passage._replace(
                    start=undisguised.original(passage.start),
                    end=undisguised.original(passage.end),
                    kinds=tuple(sorted({*passage.kinds, "disguised"})) if undisguised.hidden else passage.kinds,
                )
                for passage in self._passages(undisguised.text, least)
            ]
        for start, end, inner in decoded_parts(text):
            hidden = self._passages(inner, least)
            if hidden:
                kinds = {kind for passage in hidden for kind in passage.kinds} | {"encoded"}
                found.append(Passage(start, end, tuple(sorted(kinds)), max(passage.score for passage in hidden)))
        return _joined(found)

    def weights(self) -> dict[str, float]:
        """Every weight by its name."""
        named = {name: weight for name, _, weight in self._features}
        of_head = {name: weight for name, (_, weight) in self._of_head.items()}
        return {"bias": self._bias, **self._context, **named, **of_head}

    def explain(self, text: str) -> list[tuple[str, float, tuple[str, ...]]]:
        """Every sentence that was looked at, its score and what it has; without what is undisguised or decoded."""
        return [
            (text[w.sentence.start : w.sentence.end], _score(w.odds), w.features)
            for w in self._weighed(Sentences(text))
        ]

    def _passages(self, text: str, least: float) -> list[Passage]:
        sentences = Sentences(text)
        weighed = self._weighed(sentences)
        found: list[Passage] = []
        for one in weighed:
            score = _score(one.odds)
            if score < least:
                continue
            start, end = _extent(sentences, one)
            found.append(Passage(start, end, tuple(sorted(one.kinds)), score))
        if self._direct_score >= least:
            found += self._calls(text)
        if len(weighed) == most_weighed(text):
            found.append(Passage(weighed[-1].sentence.end, len(text), ("many",), 1.0))
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

    def _weighed(self, sentences: Sentences) -> list[_Weighed]:
        text = sentences.text
        places = self._places(text)
        most = most_weighed(text)
        first: list[tuple[Sentence, frozenset[int], set[str]]] = []
        done = -1
        for place in places:
            if place < done:
                continue
            sentence = sentences.around(place)
            done = max(done, sentence.end)
            if sentence.end - sentence.start < 8:
                continue
            written = _BLANKS.sub(" ", text[sentence.start : sentence.end]).translate(_STRAIGHT)
            if sentence.opens == sentence.closes == FIELD and written.count(" ") < 2 and written[0].isalnum():
                continue  # "return requested"
            head = self._heads.of(written)
            signs = _SIGNS.search(text, max(0, sentence.start - 12), sentence.start)
            has = frozenset(self._sentence.Match(signs[0] + written if signs else written) or ())
            first.append((sentence, has, head))
            if len(first) == most:
                break
        ordinary = [sentence.start for sentence, _, head in first if head]
        return [self._weigh(sentences, sentence, has, head, ordinary) for sentence, has, head in first]

    def _weigh(
        self, sentences: Sentences, sentence: Sentence, has: frozenset[int], head: set[str], ordinary: list[int]
    ) -> _Weighed:
        odds = self._bias
        kinds: set[str] = set()
        names: list[str] = []
        for index in sorted(has):
            name, kind, weight = self._features[index]
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
        for name in self._surroundings(sentences, sentence, kinds, ordinary):
            odds += self._context[name]
            names.append(name)
        if _DOUBTFUL[0] < odds < _DOUBTFUL[1]:
            related = self._related(sentences.text, sentence)
            if related is not None:
                odds += self._context[related]
                names.append(related)
        return _Weighed(sentence, odds, frozenset(kinds), tuple(names))

    def _surroundings(
        self, sentences: Sentences, sentence: Sentence, kinds: set[str], ordinary: list[int]
    ) -> list[str]:
        text, start, end = sentences.text, sentence.start, sentence.end
        names: list[str] = []
        if sentence.opens == FIELD:
            names.append("field_start")
        alone = sentence.opens != STOP and sentence.closes != STOP
        if alone:
            names.append("line_alone")
            before, behind = text[max(0, start - 80) : start].rstrip(), text[end : end + 80].lstrip()
            if sentence.opens in (LINE, TEXT) and sentence.closes in (LINE, TEXT):
                if not before or not behind:
                    names.append("edge")
                if not before and _HEADER.match(behind):
                    names.append("before_header")
                if before and behind and before[-1].isalnum() | (before[-1] == ",") and behind[0].islower():
                    names.append("interrupts")
        near = bisect_right(ordinary, start + AROUND) - bisect_left(ordinary, start - AROUND)
        if near > MANY and not kinds & _STRONG:
            names.append("manual")
        return names

    @staticmethod
    def _related(text: str, sentence: Sentence) -> str | None:
        """Whether the sentence has anything to do with what is around it; None where that cannot be told."""
        start, end = sentence.start, sentence.end
        words = _content(text[start:end])
        around = _content(text[max(0, start - AROUND) : start]) | _content(text[end : end + AROUND])
        if len(words) < 2 or len(around) < 8:
            return None
        shared = len(words & around) / len(words)
        return "unrelated" if shared == 0 else "related" if shared >= 0.5 else None

    def _places(self, text: str) -> list[int]:
        """Where in the text, in code points, a sentence may be one to look at, in order."""
        data = text.encode()
        ends = [found.end() - 1 for found in self._triggers.finditer(data)]
        if len(data) == len(text):
            return ends
        places: list[int] = []
        at = place = 0
        for end in ends:
            place += len(data[at:end].decode("utf-8", "ignore"))
            at = end
            places.append(place)
        return places


def most_weighed(text: str) -> int:
    return max(MOST_SENTENCES, len(text) // SENTENCE_PER)


def _filled(expression: str, holes: dict[str, str]) -> str:
    return _HOLE.sub(lambda hole: f"(?:{holes[hole[1]]})", expression)


def _content(text: str) -> set[str]:
    """The words that say what a text is about, by their first five letters."""
    return {word[:5] for word in _WORD.findall(text.lower()) if word not in _COMMON}


def _score(odds: float) -> float:
    return round(1 / (1 + math.exp(-odds)), 3)


def _extent(sentences: Sentences, weighed: _Weighed) -> tuple[int, int]:
    """The sentence, and what belongs to it: the next ones in its field; behind an override or a marker those on the
    next lines too."""
    start, end = weighed.sentence.start, weighed.sentence.end
    here: Sentence | None = weighed.sentence
    over_lines = bool(weighed.kinds & _LONG)
    most = MOST_PASSAGE if over_lines else MOST_OF_FIELD
    while here is not None and end - start < most:
        here = sentences.after(here, over_lines)
        if here is not None:
            end = min(here.end, start + most)
    return start, end


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
