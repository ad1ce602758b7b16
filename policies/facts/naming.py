"""Whether a text asks for what a tool does: by the tool's own name, or by what it is called and described to do.

"Please list the files in my Dropbox" names ``DropboxListFilesAndFolders``: it says what is to be done (list: so do get,
find, show) and to what (Dropbox, files). Words are compared without endings, verbs by groups of like meaning
(``naming.yaml``). A word that many of the offered tools share says little; a text names the tools that fit it best, not
every tool that shares a word with it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

import yaml

from policies.facts.value_forms import squeezed
from serving.wire.request import SentTool

NAMES = 1.6
"""Points from which on a clause names a tool. A noun of its name is 1, one of its description 0.5."""
ASKS = 1.2
"""The same for a clause of the user's: who may ask need not ask in the tool's own words."""
VERB = 0.7
"""Points for the verb."""
ALIKE = 0.9
"""Points for a noun of like meaning."""
BEST = 0.7
"""A tool must have this share of the points of the tool that fits the clause best."""
CERTAIN = 2.0
"""Points for values of the call with which nothing more is asked."""
ANY = "any"
"""The group of verbs that may mean any other."""
READ = 600
"""Characters of a tool's description that are read."""
MOST_WORDS = 4000
"""Words of a text that are compared, the first ones."""
SHORT, MOST_SAID = 256, 1024
"""Answers about texts of up to so many characters are kept, so many of them."""

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_a-zA-Z]+")
_CLAUSE = re.compile(r"[.!?;\n]+(?:\s|$)|\\n|,? (?:and then|then|after that|afterwards|and also|and) ")
_POLITE = frozenset({"pleas", "kindly", "then", "now", "also", "and", "next", "first", "final"})
_ENDINGS = (("ies", "y"), ("sses", "ss"), ("ches", "ch"), ("shes", "sh"), ("xes", "x"), ("s", ""))


_DELEGATES = re.compile(
    r"\b(?:(?:fix|resolve|solve|address|close)\b[^.!?\n]{0,40}?\b(?:issues?|tickets?|bugs?|problems?|tasks?)|"
    r"(?:follow|carry out|perform|complete|execute|implement|do|handle|act on|work (?:through|on)|go through|"
    r"take care of|fulfil|comply with|process|apply|deal with|attend to)\b[^.!?\n]{0,60}?\b(?:instructions?|steps|"
    r"tasks?|to-?dos?|checklist|guide|readme|tickets?|requests?|action items?|"
    r"what(?:ever)? [\w ]{1,30}? (?:says?|asks?|wants?|tells?|needs?|requires?)))\b",
    re.I,
)


def delegates(text: str) -> bool:
    """Whether a user hands a task over to what a tool will return: "do what the ticket says"."""
    return _DELEGATES.search(text) is not None


class Words(NamedTuple):
    """``verbs`` are groups of verbs that occur, ``nouns`` the words without endings, ``groups`` what they are about."""

    verbs: frozenset[str]
    nouns: frozenset[str]
    groups: frozenset[str]


def _spells(tool: ToolWords, whole: bytes) -> bool:
    return len(tool.name) >= 5 and tool.name in whole


class _Data(NamedTuple):
    """``verbs``: verb → its groups; ``nouns``: noun → its group; ``fits``: group of nouns → group of verbs that a tool
    of that noun has too; ``brings``: the other way; ``nothing``: words that say nothing."""

    verbs: dict[str, frozenset[str]]
    nouns: dict[str, str]
    fits: dict[str, str]
    brings: dict[str, str]
    nothing: frozenset[str]


@cache
def _data() -> _Data:
    document = yaml.safe_load(Path(__file__).with_name("naming.yaml").read_text("utf-8"))
    groups: dict[str, set[str]] = {}
    for group, verbs in document["verbs"].items():
        for verb in str(verbs).split():
            groups.setdefault(stem(verb), set()).add(group)
    return _Data(
        verbs={verb: frozenset(names) for verb, names in groups.items()},
        nouns={stem(noun): group for group, nouns in document["nouns"].items() for noun in nouns.split()},
        fits=document["fits"],
        brings=document["brings"],
        nothing=frozenset(stem(word) for word in str(document["nothing"]).split()),
    )


@lru_cache(maxsize=16384)
def stem(word: str) -> str:
    """A word without the endings that English puts on nouns and verbs."""
    word = word.lower()
    if len(word) <= 3:
        return word
    for ending, instead in _ENDINGS:
        if word.endswith(ending) and not word.endswith(("ss", "us", "is")):
            word = word[: -len(ending)] + instead
            break
    for ending in ("ing", "ed"):
        if word.endswith(ending) and len(word) > len(ending) + 2:
            word = word[: -len(ending)]
            if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz":
                word = word[:-1]
            break
    return word[:-1] if word.endswith("e") and len(word) > 3 else word


def words_of(text: str) -> list[str]:
    """The words of a text without endings; ``camelCase`` and ``snake_case`` are several."""
    return [stem(found[0]) for found, _ in zip(_WORD.finditer(text), range(MOST_WORDS), strict=False)]


class ToolWords(NamedTuple):
    """What a tool is called and what it does. ``verbs``: groups of the verbs in its name, else of its description's
    first words. ``nouns``: word → weight. ``groups``: group of nouns → the noun of its name that is in it."""

    name: bytes
    verbs: frozenset[str]
    nouns: Mapping[str, float]
    groups: Mapping[str, str]


class ToolNames:
    """The tools that a request offers, by name and description, to be named or not."""

    def __init__(self, tools: Iterable[tuple[str, str | None]]) -> None:
        self._tools = {name: _tool_words(name, description) for name, description in tools}
        self._said: dict[tuple[str, str, float, float], bool] = {}

    def named(self, text: str, name: str, beside: float = 0.0, least: float = NAMES) -> bool:
        """Whether a clause of ``text`` asks for the tool ``name`` rather than for another that is offered. ``beside``
        are points that it has for something else, such as values of the call that stand there; ``least`` those that
        it needs in all."""
        if beside >= CERTAIN:
            return True
        if len(text) > SHORT:
            return self._names(text, name, beside, least)
        key = text, name, beside, least
        known = self._said.get(key)
        if known is None:
            known = self._names(text, name, beside, least)
            if len(self._said) >= MOST_SAID:
                self._said.clear()
            self._said[key] = known
        return known

    def _names(self, text: str, name: str, beside: float, least: float) -> bool:
        own = self._tools.get(name) or _tool_words(name, None)
        if _spells(own, squeezed(text)):
            return True
        for words in {_words(part) for part in _CLAUSE.split(text)}:
            points = self._fit(words, own)
            if points + beside >= least and (beside or points >= BEST * self._best(words)):
                return True
        return False

    def _best(self, words: Words) -> float:
        return max((self._fit(words, tool) for tool in self._tools.values()), default=0.0)

    def _fit(self, words: Words, tool: ToolWords) -> float:
        does = _does(words, tool)
        points = VERB if does else 0.0
        nouns = [(word, weight) for word, weight in tool.nouns.items() if word in words.nouns]
        nouns += [
            (noun, ALIKE) for group, noun in tool.groups.items() if group in words.groups and noun not in words.nouns
        ]
        if nouns:
            alike = [other for other in self._tools.values() if _does(words, other)] if does else self._tools.values()
            points += sum(weight * _rarity(noun, alike) for noun, weight in nouns)
        return points


@lru_cache(maxsize=64)
def _named_tools(tools: tuple[tuple[str, str | None], ...]) -> ToolNames:
    return ToolNames(tools)


def tool_names(tools: Iterable[SentTool]) -> ToolNames:
    """The very same object for tools of the same names and descriptions, if it was asked for not long ago."""
    return _named_tools(tuple([(tool.name, tool.description) for tool in tools]))


def _does(words: Words, tool: ToolWords) -> bool:
    return not words.verbs.isdisjoint(tool.verbs) or (bool(words.verbs) and ANY in tool.verbs)


def _rarity(word: str, tools: Collection[ToolWords]) -> float:
    """1 for a word of one of ``tools``, less the more of them share it."""
    shared = sum(word in tool.nouns for tool in tools)
    return 1.0 if shared <= 1 else max(0.15, 1.0 - math.log(shared) / math.log(len(tools) + 1))


@lru_cache(maxsize=4096)
def _tool_words(name: str, description: str | None) -> ToolWords:
    data = _data()
    own = words_of(name)
    told = words_of((description or "")[:READ])
    verbs = set(data.verbs.get(_verb(own) or _verb(told[:3]) or "", ()))
    nouns: dict[str, float] = {}
    for word in told:
        if len(word) > 2 and word not in data.nothing and word not in data.verbs:
            nouns.setdefault(word, 0.5)
    for at, word in enumerate(own):
        if word not in data.nothing and (word not in data.verbs or at > 0) and len(word) > 1:
            nouns[word] = 1.0
    groups = {group: word for word, weight in nouns.items() if weight == 1.0 and (group := data.nouns.get(word))}
    verbs |= {data.fits[group] for group in groups if group in data.fits}
    return ToolWords(squeezed(name), frozenset(verbs), nouns, groups)


def _verb(words: Sequence[str]) -> str | None:
    """The word that says what is done: the first verb, but a verb that is a noun as well (mail, file) only without
    another."""
    data = _data()
    known = [word for word in words if word in data.verbs]
    return next((word for word in known if word not in data.nouns), known[0] if known else None)


@lru_cache(maxsize=1024)
def _words(sentence: str) -> Words:
    data = _data()
    words = words_of(sentence)
    plain = [word for word in words if word in data.verbs and word not in data.nouns]
    begins = [word for word in words if word not in _POLITE][:1]  # "mail him", not "the mail"
    verbs = frozenset(group for word in plain or begins for group in data.verbs.get(word, ()))
    groups = {data.nouns[word] for word in words if word in data.nouns}
    groups |= {data.brings[verb] for verb in verbs if verb in data.brings}
    return Words(verbs, frozenset(word for word in words if word not in data.nothing), frozenset(groups))
