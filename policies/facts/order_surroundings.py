"""What stands around a sentence: whether it is alone where it stands, and has to do with what is beside it."""

from __future__ import annotations

import re
from operator import itemgetter

from policies.facts.sentences import FIELD, LINE, STOP, TEXT, Sentence

AROUND = 500
"""Characters on each side that a sentence is compared with."""

_BESIDE = 80
SHORTEST_WORD = 4
"""Letters of a word that says something."""
_WORD = re.compile(rf"[^\W\d_]{{{SHORTEST_WORD},}}")
_LETTERS = b"abcdefghijklmnopqrstuvwxyz"
_NO_LETTERS = bytes(byte if byte in _LETTERS else 32 for byte in range(256))
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
_BEGINNING = itemgetter(slice(0, 5))
_FEWEST, _FEWEST_AROUND = 2, 8
"""Words of content that a sentence and what is around it must have to be compared."""


def standing(text: str, sentence: Sentence) -> list[str]:
    """How a sentence stands in its text, by the names of ``orders.yaml``."""
    names = ["field_start"] if sentence.opens == FIELD else []
    if sentence.opens != STOP and sentence.closes != STOP:
        names.append("line_alone")
        if sentence.opens in (LINE, TEXT) and sentence.closes in (LINE, TEXT):
            start, end = sentence.start, sentence.end
            before, behind = text[max(0, start - _BESIDE) : start].rstrip(), text[end : end + _BESIDE].lstrip()
            if not before or not behind:
                names.append("edge")
            if not before and _HEADER.match(behind):
                names.append("before_header")
            if before and behind and before[-1].isalnum() | (before[-1] == ",") and behind[0].islower():
                names.append("interrupts")
    return names


def related(text: str, sentence: Sentence) -> str | None:
    """Whether the sentence has anything to do with what is around it; None where that cannot be told."""
    start, end = sentence.start, sentence.end
    words = _content(text[start:end])
    if len(words) < _FEWEST:
        return None
    around = _content(f"{text[max(0, start - AROUND) : start]} {text[end : end + AROUND]}")
    if len(around) < _FEWEST_AROUND:
        return None
    shared = len(words & around) / len(words)
    return "unrelated" if shared == 0 else "related" if shared >= 0.5 else None


def _content(text: str) -> set[str]:
    """The words that say what a text is about, by their first five letters."""
    lowered = text.lower()
    if lowered.isascii():
        words = set(lowered.encode().translate(_NO_LETTERS).decode().split())
        return {word[:5] for word in words - _COMMON if len(word) >= SHORTEST_WORD}
    return set(map(_BEGINNING, set(_WORD.findall(lowered)) - _COMMON))
