"""Pattern sets: what a secret or a piece of personal data looks like, found in linear time.

A set is data (``policies/patterns/*.yaml``): per pattern an id, an RE2 expression, a severity and tags, and
where the expression alone would find too much: ``keywords`` (one of them must stand in the text, in any case),
``entropy`` (least bits per character of the match) and ``check`` (a checksum). If the expression has a group
named ``secret``, the hit is that group; else the whole match.

Scanning is two steps, both RE2, so no text can make either slow: one automaton of all patterns says which of
them match at all, mostly none; only those are then run one by one for their places.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import re2
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving import checksums
from serving.checksums import iban, luhn, ssn
from serving.plain import decoded_parts, normalised
from serving.readings import Inside, inside_of, readings
from serving.regex_shape import Shape, shape_of

__all__ = [
    "Hit",
    "Pattern",
    "PatternError",
    "PatternSet",
    "iban",
    "luhn",
    "redact",
    "shipped_patterns",
    "ssn",
    "stands",
]

SHIPPED = Path(__file__).parent.parent / "policies" / "patterns"

AUTOMATON_BYTES = 64 * 1024 * 1024
"""Room for each automaton's states. Far more than the shipped sets need: an automaton without room to begin
finds nothing at all."""

_WITHOUT_WIDTH = "\u200b\u200c\u200d\u2060\ufeff\u00ad"
_DISGUISE = re.compile(f"%([2-7][0-9a-fA-F])|[{_WITHOUT_WIDTH}]")
"""What hides a secret from an expression and not from who receives it: URL encoding, characters without width."""

MOST_WEIGHED = 4000
"""Matches of one pattern that are weighed where only some hits are wanted. Weighing one takes 10 to 30 µs."""

NEXT = 1024
"""Characters of a match that begins within what stood behind another one."""

SeverityName = Literal["info", "low", "medium", "high", "critical"]


class PatternError(ValueError):
    """A pattern file that cannot be used: which file, which pattern, what is wrong."""


class Pattern(BaseModel):
    """One pattern. ``regex`` is RE2 syntax (no look-around, no back-references)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,48}$")]
    regex: Annotated[str, Field(min_length=1)]
    severity: SeverityName = "high"
    tags: list[str] = []
    keywords: list[str] = []
    entropy: Annotated[float, Field(ge=0, le=8)] = 0.0
    check: (
        Literal["luhn", "iban", "ssn", "br_cpf", "es_dni", "fr_nir", "it_codice_fiscale", "ean13", "nl_bsn", "verhoeff"]
        | Literal["iso7064_11_10", "se_luhn"]
        | None
    ) = None
    unless: Annotated[list[str], Field(description="A match that contains one of these is none.")] = []
    surfaces: Annotated[
        list[Literal["arguments", "text"]],
        Field(min_length=1, description="Where it is looked for: a tool call's arguments, text that the model writes."),
    ] = ["arguments", "text"]

    @property
    def weighed(self) -> bool:
        """Whether a match is looked at before it is a hit: then its whole text must be there."""
        return bool(self.entropy or self.unless or self.check)

    @property
    def max_width(self) -> int | None:
        """The greatest number of UTF-8 bytes from a match's beginning to where it is certain; None: no limit, as for a
        match that needs a keyword which may stand anywhere.

        Raises :class:`serving.regex_shape.ShapeError` for an expression that no stream can be scanned for."""
        shape = self.shape()
        return None if self.awaits(shape) else shape.width

    def shape(self) -> Shape:
        return shape_of(self.regex, shortest=not self.weighed, together=self.check is not None)

    def awaits(self, shape: Shape) -> bool:
        """Whether a match needs a keyword beside it: one that does not stand in every match already."""
        return bool(self.keywords) and not any(word in text for word in self.keywords for text in shape.literals)


class Hit(NamedTuple):
    """``start`` and ``end`` are code points of the scanned text."""

    id: str
    start: int
    end: int
    severity: SeverityName


class PatternSet:
    """All patterns of one kind. Instances hold compiled automata: build once, use from any thread."""

    def __init__(
        self, name: str, patterns: Sequence[Pattern], *, default: bool = True, normalise: bool = False
    ) -> None:
        """``default``: policies that name no set are asked for it. ``normalise``: it is looked for in the text as it
        would read without look-alike letters, compatibility forms and escapes too, and in base64 and hexadecimal.

        Raises :class:`PatternError` for an expression that RE2 does not take or that matches nothing (an empty match is
        found everywhere)."""
        self.name = name
        self.default = default
        self.normalise = normalise
        self.patterns = tuple(patterns)
        options = re2.Options()
        options.log_errors = False
        options.max_mem = AUTOMATON_BYTES
        self._which = re2.Set.SearchSet(options)
        self._where: list[tuple[Any, int]] = []
        self._inside: list[Inside | None] = []
        for pattern in self.patterns:
            try:
                expression = re2.compile(pattern.regex, options)
            except re2.error as error:
                raise PatternError(f"{name}: pattern {pattern.id}: {error}") from error
            if expression.search("") is not None:
                raise PatternError(f"{name}: pattern {pattern.id} matches the empty text")
            inside = inside_of(pattern.regex) if pattern.check else None
            self._which.Add(inside.looser if inside else pattern.regex)
            self._where.append((expression, expression.groupindex.get("secret", 0)))
            self._inside.append(inside)
        if self.patterns:
            self._which.Compile()

    @classmethod
    def from_file(cls, path: Path) -> PatternSet:
        """Read ``{default, normalise, patterns: [...]}``; the set is named after the file."""
        try:
            document = yaml.safe_load(path.read_text("utf-8"))
            entries = document["patterns"]
            patterns = [Pattern.model_validate(entry) for entry in entries]
            default, normalise = bool(document.get("default", True)), bool(document.get("normalise", False))
        except (OSError, yaml.YAMLError, KeyError, TypeError, ValidationError) as error:
            raise PatternError(f"{path}: {error}") from error
        return cls(path.stem, patterns, default=default, normalise=normalise)

    def expression(self, index: int) -> tuple[Any, int]:
        """The compiled expression of a pattern, and the group of it that is the hit."""
        return self._where[index]

    def inside(self, index: int) -> Inside | None:
        """How a pattern is tried at every group; None: it is not, its matches are those that a search finds."""
        return self._inside[index]

    def scan(self, text: str, most: int | None = None, without: Set[str] = frozenset()) -> list[Hit]:
        """The hits, by place: all, or the first ``most`` of each pattern; none of the patterns in ``without``.
        Linear in the text; hits of different patterns may overlap.

        With ``most``, a pattern's ``MOST_WEIGHED`` th match is a hit whatever its entropy, words and checksum say:
        a text that brings so many look-alikes is not to be weighed to its end, and not to be let by unseen."""
        if not text or not self.patterns:
            return []
        hits = self._scan(text, most, without)
        if self.normalise:
            return self._scan_normalised(text, hits, most, without)
        if _may_be_disguised(text) and _DISGUISE.search(text):
            plain = _DISGUISE.sub(lambda found: chr(int(found[1], 16)) if found[1] else "", text)
            found_plain = self._scan(plain, most, without)
            shifts = _shifts(text) if found_plain else []
            known = {(hit.id, hit.start) for hit in hits}
            for hit in found_plain:
                moved = hit._replace(start=_original(hit.start, shifts), end=_original(hit.end, shifts))
                if (moved.id, moved.start) not in known:
                    hits.append(moved)
            hits.sort(key=lambda hit: (hit.start, hit.end, hit.id))
        return hits

    def _scan_normalised(self, text: str, hits: list[Hit], most: int | None, without: Set[str]) -> list[Hit]:
        known = {(hit.id, hit.start) for hit in hits}
        plain = normalised(text)
        for hit in self._scan(plain.text, most, without) if plain is not None else ():
            moved = hit._replace(start=plain.original(hit.start), end=plain.original(hit.end)) if plain else hit
            if (moved.id, moved.start) not in known:
                hits.append(moved)
        for start, end, inner in decoded_parts(text):
            hits += (hit._replace(start=start, end=end) for hit in self._scan(inner, 1, without))
        hits.sort(key=lambda hit: (hit.start, hit.end, hit.id))
        return hits

    def _scan(self, text: str, most: int | None, without: Set[str]) -> list[Hit]:
        which = self._which.Match(text)
        if not which:
            return []
        lowered = text.lower()
        hits: list[Hit] = []
        for index in which:
            pattern = self.patterns[index]
            if pattern.id in without:
                continue
            if pattern.keywords and not any(word in lowered for word in pattern.keywords):
                continue
            expression, group = self._where[index]
            weighed = None if most is None else MOST_WEIGHED
            inside = self._inside[index]
            if inside is None:
                found = _hits(pattern, expression, group, text, weighed)
            else:
                found = _inner_hits(pattern, expression, group, inside, text, weighed)
            hits += islice(found, most)
        hits.sort(key=lambda hit: (hit.start, hit.end, hit.id))
        return hits

    def redact(self, text: str) -> str:
        """``text`` with every hit replaced by ``[redacted:<id>]``."""
        return redact(text, self.scan(text))


def redact(text: str, hits: Iterable[Hit]) -> str:
    """Replace the hits in ``text``; hits that overlap are one, under the id of the widest."""
    merged: list[Hit] = []
    for hit in sorted(hits, key=lambda hit: (hit.start, -hit.end)):
        if merged and hit.start < merged[-1].end:
            last = merged[-1]
            wider = hit if hit.end - hit.start > last.end - last.start else last
            merged[-1] = wider._replace(start=last.start, end=max(last.end, hit.end))
        else:
            merged.append(hit)
    parts: list[str] = []
    done = 0
    for hit in merged:
        parts += (text[done : hit.start], f"[redacted:{hit.id}]")
        done = hit.end
    parts.append(text[done:])
    return "".join(parts)


DEFAULT_SETS = ("secrets", "pii")


@cache
def shipped_set(name: str) -> PatternSet:
    """One of the sets that come with Interlock. Raises :class:`PatternError` for a name that none has."""
    if name not in shipped_names():
        raise PatternError(f"there is no pattern set {name}; there are {', '.join(sorted(shipped_names()))}")
    return PatternSet.from_file(SHIPPED / f"{name}.yaml")


@cache
def shipped_names() -> frozenset[str]:
    return frozenset(path.stem for path in SHIPPED.glob("*.yaml"))


@cache
def named_only() -> frozenset[str]:
    """The shipped sets that only policies which name them are asked for."""
    return shipped_names() - {*DEFAULT_SETS}


def shipped_patterns(named: Iterable[str] = ()) -> tuple[PatternSet, ...]:
    """``secrets`` and ``pii``, the sets that every policy is asked for unless it names others, and that redact what is
    recorded; after them those of ``named`` (``shell``, ``sql/drops``) that come with Interlock. Only these are read."""
    more = {name.split("/")[0] for name in named}
    return tuple(shipped_set(name) for name in (*DEFAULT_SETS, *sorted(more & named_only())))


def shipped_redactor(names: Sequence[str] = DEFAULT_SETS) -> Callable[[str], str]:
    """One function that masks everything that the shipped sets of these names find."""
    sets = tuple(shipped_set(name) for name in names)

    def mask(text: str) -> str:
        hits = [hit for patterns in sets for hit in patterns.scan(text)]
        return redact(text, hits) if hits else text

    return mask


def _hits(pattern: Pattern, expression: Any, group: int, text: str, weighed: int | None) -> Iterator[Hit]:
    refused: set[str] = set()  # a placeholder that is repeated is weighed once
    for nth, (start, end) in enumerate(_spans(expression, group, text), 1):
        found = text[start:end]
        if nth == weighed:
            yield Hit(pattern.id, start, end, pattern.severity)
            return
        if found in refused:
            continue
        if stands(pattern, found):
            yield Hit(pattern.id, start, end, pattern.severity)
        else:
            refused.add(found)


def _inner_hits(
    pattern: Pattern, expression: Any, group: int, inside: Inside, text: str, weighed: int | None
) -> Iterator[Hit]:
    """As :func:`_hits`, of all that the expression may read. These may overlap: which of two that have their checksum
    is meant, nobody knows."""
    data = text.encode()
    last = done = place = 0
    for nth, (start, end, match) in enumerate(readings(expression, inside, data, 0, len(data)), 1):
        if group:
            start, end = match.span(group)
        if end <= last or (not stands(pattern, data[start:end].decode()) and nth != weighed):
            continue
        last = end
        place += len(data[done:start].decode()) if len(data) > len(text) else start - done
        done = start
        yield Hit(pattern.id, place, place + len(data[start:end].decode()), pattern.severity)
        if nth == weighed:
            return


def _spans(expression: Any, group: int, text: str) -> Iterator[tuple[int, int]]:
    """Where an expression matches, or its ``group`` in it. What must stand behind the group may be what the next match
    begins with, as the line's end between two numbers of a list: so it is looked at again."""
    done = 0
    for match in expression.finditer(text):
        (start, end), behind = match.span(group), match.end()
        if start < done:
            continue
        while start < end:
            yield start, end
            done = end
            again = expression.match(text[end : end + NEXT]) if end < behind else None
            if again is None or again.end() == NEXT:
                break
            start, end, behind = end + again.start(group), end + again.end(group), end + again.end()


def _may_be_disguised(text: str) -> bool:
    """The cheap question before an expression that looks at every character."""
    return "%" in text or (not text.isascii() and any(character in text for character in _WITHOUT_WIDTH))


def _shifts(text: str) -> list[tuple[int, int]]:
    """Where in the text without disguise what begins that stands where in ``text``."""
    shifts = [(0, 0)]
    at = done = 0
    for found in _DISGUISE.finditer(text):
        start, end = found.span()
        at += start - done
        if found[1]:
            shifts.append((at, start))
            at += 1
        shifts.append((at, end))
        done = end
    return shifts


def _original(place: int, shifts: list[tuple[int, int]]) -> int:
    at, original = shifts[bisect_right(shifts, place, key=lambda shift: shift[0]) - 1]
    return original + place - at


def stands(pattern: Pattern, found: str) -> bool:
    """Whether what the expression found has the entropy, the words and the checksum that the pattern asks for."""
    if pattern.entropy and entropy(found) < pattern.entropy:
        return False
    if pattern.unless:
        lowered = found.lower()
        if any(word in lowered for word in pattern.unless):
            return False
    return pattern.check is None or _CHECKS[pattern.check](found)


def entropy(text: str) -> float:
    """Shannon entropy of the characters, in bits per character."""
    total = len(text)
    return -sum(n / total * math.log2(n / total) for n in Counter(text).values())


_CHECKS: dict[str, Callable[[str], bool]] = {name: getattr(checksums, name) for name in checksums.__all__}
