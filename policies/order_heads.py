"""How a sentence begins that is an order: what stands before the verb, the verb, and what the verb is about.

    heads.of('IMPORTANT: you must now send my keys') == {"toward", "act", "mine"}

An expression of all verbs after all that may stand before them would be too large for any automaton; a few look-ups per
sentence are enough."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise

MOST_CHARACTERS = 300
"""Of a sentence, that are read."""
MOST_BEFORE = 8
"""Phrases that may stand before the verb."""
MOST_BEGINNINGS = 6

_TOKEN = re.compile(r"[^\W\d_][\w'-]*|[$€£¥#@]?\d[\w.,:/-]*|[^\w\s]")
_PAUSES = frozenset(",:;.!-*#>_)(]['\"`")
_BEGINS = frozenset(":;!?.")
_POSSESSIVE = re.compile(r"'s?$")
_MINE = frozenset({"my", "me", "i", "mine", "i'm", "i've", "myself"})
_MAKES = frozenset({"give", "tell", "show", "find", "help", "need", "want", "make", "write", "say"})
_IN_WAYS = frozenset(
    {"in", "with", "using", "by", "as", "like", "only", "backwards", "backward", "without", "the", "via", "through"}
    | {"entirely", "back", "to", "always", "everything", "exclusively", "solely", "nothing", "but"}
)


class Heads:
    def __init__(self, words: Mapping[str, tuple[str, ...]]) -> None:
        """``words`` are the lists of ``orders.yaml``."""
        self._before: dict[str, list[tuple[tuple[str, ...], str]]] = {}
        for kind in ("politely", "toward", "vocative", "filler"):
            for phrase in words[kind]:
                tokens = tuple(phrase.split())
                self._before.setdefault(tokens[0], []).append((tokens, kind))
        for phrases in self._before.values():
            phrases.sort(key=lambda phrase: -len(phrase[0]))
        self._reader: dict[str, list[tuple[str, ...]]] = {}
        for phrase in words["reader"]:
            tokens = tuple(phrase.split())
            self._reader.setdefault(tokens[0], []).append(tokens)
        self._words = {name: frozenset(listed) for name, listed in words.items()}

    def of(self, sentence: str) -> set[str]:
        """What the sentence's beginning has, by the names of ``orders.yaml``; empty if it is no order."""
        tokens = _TOKEN.findall(sentence, 0, MOST_CHARACTERS)
        lowered = [token.lower() for token in tokens]
        best: set[str] = set()
        for start in self._beginnings(tokens, lowered):
            found = self._read(tokens, lowered, start)
            if len(found) > len(best):
                best = found
        return best

    def _beginnings(self, tokens: list[str], lowered: list[str]) -> list[int]:
        starts = [0]
        for place, token in enumerate(lowered[1:], 1):
            before = lowered[place - 1]
            anew = before == "," and (token in ("then", "and") or tokens[place][0].isupper())
            if token in self._words["politely"] or before in _BEGINS or anew:
                starts.append(place)
        return starts[:MOST_BEGINNINGS]

    def _read(self, tokens: list[str], lowered: list[str], at: int) -> set[str]:
        has: set[str] = set()
        for _ in range(MOST_BEFORE):
            while at < len(lowered) and lowered[at] in _PAUSES:
                at += 1
            phrase = self._phrase(lowered, at, self._before)
            if phrase is None:
                if at < len(lowered) - 1 and lowered[at].endswith("ly") and len(lowered[at]) > 4:
                    at += 1
                    continue
                break
            length, kind = phrase
            if kind != "filler":
                has.add("please" if kind == "politely" else kind)
            at += length
        if at >= len(lowered) - 1:
            return set()
        verb, following = lowered[at], lowered[at + 1]
        rest = lowered[at + 1 :]
        words = self._words
        sure = bool(has) or following in words["object"] or self._is_object(tokens[at + 1], following)
        if verb in words["act"] or (verb in words["act_or_noun"] and sure):
            has.add("act")
        if verb in words["make"] or (verb in words["make_or_noun"] and sure):
            has.add("make")
        if verb in words["assist"] and sure:
            has.add("assist")
        if verb in words["alter"]:
            has.add("alter")
        about = frozenset(rest)
        if verb in words["say"] and (following in _IN_WAYS or following in "\"'") and "me" not in rest[:2]:
            has.add("answer_form")
        if verb in words["respell"] and about & words["letters"]:
            has.add("respells")
        if ("make" in has or verb in _MAKES) and frozenset(rest[:9]) & words["work"]:
            has.add("work")
        if "make" in has and (following in "\"'" or any(a in ":" and b in "\"'`" for a, b in pairwise(rest))):
            has.add("quoted")
        if (
            self._phrase(lowered, at, {key: [(p, "") for p in value] for key, value in self._reader_at(verb)})
            is not None
        ):
            has.add("to_reader")
        if has & {"please", "toward"} and not has & {"act", "make", "alter"} and verb.isalpha():
            has.add("asked")
        if has & {"act", "make", "alter", "asked"} and about & _MINE:
            has.add("mine")
        return has if has & {"act", "make", "alter", "asked", "answer_form", "respells", "work", "to_reader"} else set()

    def _reader_at(self, verb: str) -> list[tuple[str, list[tuple[str, ...]]]]:
        return [(verb, self._reader[verb])] if verb in self._reader else []

    @staticmethod
    def _is_object(token: str, lowered: str) -> bool:
        return (
            not token[0].islower() and (token[0].isdigit() or token[0] in "$€£¥#@\"'<(" or token[0].isupper())
        ) or bool(_POSSESSIVE.search(lowered))

    @staticmethod
    def _phrase(
        lowered: list[str], at: int, phrases: Mapping[str, list[tuple[tuple[str, ...], str]]]
    ) -> tuple[int, str] | None:
        if at >= len(lowered):
            return None
        for phrase, kind in phrases.get(lowered[at], ()):
            if tuple(lowered[at : at + len(phrase)]) == phrase:
                return len(phrase), kind
        return None
