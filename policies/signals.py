"""Signals of a surface: which patterns matched where, never the matched text itself.

Rego does no heavy text matching. The pattern sets (``serving.patterns``) are run over every string of a tool
call's arguments, decoded, and over the text as the model wrote it, so that what only shows in one of the two
is found too. A call that was cut off, or is no strict JSON, is read a third time: as it was written, with its
JSON escapes decoded, whether they stand in a value, a key or in neither.

A string may be JSON in its turn (a request's body, a notebook's cell), and have escapes of its own. Secrets and
personal data are looked for in what those decode to, too, as deep as ``UNESCAPED_DEEP``.

The strings of a call are scanned as one text, and a pattern that has been found ``MOST_HITS`` times in a call is
not looked for again: policies need to know that it is there, not how often. So the work is linear in the call's
bytes whatever stands in it.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from policies.model import CallFacts, Severity, Signal
from serving.patterns import PatternSet
from serving.stream_patterns import StreamHit

RAW_PATH = ""
"""The path of a hit in the text as the model wrote it: the whole surface, as a JSON pointer says it."""

MOST_HITS = 16
"""Hits of one pattern that are counted per call, the first ones."""

MOST_MASKED = 1000
"""Hits of one pattern that are given with their places for one message."""

BETWEEN = '"\n"'
"""Stands between two strings that are scanned as one text: no secret goes on behind a quote and a new line."""

UNESCAPED_DEEP = 2
"""How often the escapes in an argument's string are decoded once more."""

UNESCAPED_SETS = frozenset({"secrets", "pii"})
"""The sets that are looked for there. Those that normalise decode by themselves."""

_ESCAPE = re.compile(r"\\(?:u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|(.))", re.S)
_HIDING = re.compile(r"\\(?:u[0-9a-fA-F]{4}|/)")
"""Escapes that may stand for a letter, a digit or a slash of a secret, at any depth."""

_CONTROLS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def strings_in(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every string in ``value`` with its JSON pointer (RFC 6901), the keys of objects too."""
    pending: list[tuple[str, Any]] = [(path, value)]
    while pending:
        where, item = pending.pop()
        if isinstance(item, str):
            yield where, item
        elif isinstance(item, dict):
            for key, part in item.items():
                below = f"{where}/{key.replace('~', '~0').replace('/', '~1')}"
                yield below, key
                pending.append((below, part))
        elif isinstance(item, list):
            pending += ((f"{where}/{index}", part) for index, part in enumerate(item))


def signals_of_hits(hits: Iterable[StreamHit]) -> list[Signal]:
    """What a scanner found in a text that is still being written."""
    return [
        Signal(set=hit.set, id=hit.id, severity=Severity(hit.severity), start=hit.start, end=hit.end) for hit in hits
    ]


def unescaped(raw: str) -> str:
    """``raw`` with every JSON escape (RFC 8259, section 7) decoded, inside literals and out, in one pass. An escape
    that is none, or that the text's end cuts off, stays as it stands."""
    return _ESCAPE.sub(_decoded, raw) if "\\" in raw else raw


def _decoded(escape: re.Match[str]) -> str:
    high, low, unit, other = escape.groups()
    if high is not None:
        return chr(0x10000 + ((int(high, 16) - 0xD800) << 10) + (int(low, 16) - 0xDC00))
    if unit is not None:
        code = int(unit, 16)
        return escape[0] if 0xD800 <= code < 0xE000 else chr(code)
    return escape[0] if other == "u" else _CONTROLS.get(other, other)


def signals_of_messages(texts: Sequence[str], patterns: Sequence[PatternSet]) -> list[Signal]:
    """Signals of a request's messages, with their places, so that they can be masked: one for each hit, in order,
    ``MOST_MASKED`` of a pattern in a message at most; then all of the message is one more hit of that pattern."""
    signals: list[Signal] = []
    for index, text in enumerate(texts):
        for kind in patterns:
            counts: Counter[str] = Counter()
            for hit in kind.scan(text, MOST_MASKED):
                counts[hit.id] += 1
                all_of_it = counts[hit.id] == MOST_MASKED
                signals.append(
                    Signal(
                        set=kind.name,
                        id=hit.id,
                        severity=Severity(hit.severity),
                        path=f"/messages/{index}/text",
                        start=0 if all_of_it else hit.start,
                        end=len(text) if all_of_it else hit.end,
                    )
                )
    return signals


def signals_of_call(call: CallFacts, patterns: Sequence[PatternSet]) -> list[Signal]:
    """Signals of one call, one per pattern and place, ``MOST_HITS`` of a pattern at most. The only one at a place says
    where in that string, if it is no key. A call that is not complete usually has no arguments; then the text as it was
    written, and that text without escapes, is all there is. A name that the request did not offer is the model's text
    too."""
    places = [*strings_in(call.arguments)] if call.arguments is not None else []
    values, starts = _joined(places)
    deeper = _unescaped_again(places) if _HIDING.search(values) else []
    decoded, begins = _joined(deeper)
    written = [call.raw] if call.offered else [call.raw, call.name]
    if not call.complete and "\\" in call.raw:
        written.append(unescaped(call.raw))
    signals: list[Signal] = []
    for patterns_of_kind in patterns:
        found: Counter[tuple[str, str, str]] = Counter()
        spans: dict[tuple[str, str, str], tuple[int, int]] = {}
        seen = {pattern.id for pattern in patterns_of_kind.patterns if "arguments" not in pattern.surfaces}
        for hit in patterns_of_kind.scan(values, MOST_HITS, frozenset(seen)):
            nth = bisect_right(starts, hit.start) - 1
            path, text = places[nth]
            key = (hit.id, path, hit.severity)
            start, end = hit.start - starts[nth], hit.end - starts[nth]
            before = spans.get(key)
            if before is not None and start < before[1] and end <= len(text):  # two readings of one place
                spans[key] = (before[0], max(before[1], end))
                continue
            found[key] += 1
            if end <= len(text) and text != path.rpartition("/")[2].replace("~1", "/").replace("~0", "~"):
                spans[key] = (start, end)
            seen.add(hit.id)
        if deeper and patterns_of_kind.name in UNESCAPED_SETS:
            for hit in patterns_of_kind.scan(decoded, MOST_HITS, frozenset(seen)):
                found[(hit.id, deeper[bisect_right(begins, hit.start) - 1][0], hit.severity)] += 1
            seen.update(pattern for pattern, _, _ in found)
        for text in written:
            hits = patterns_of_kind.scan(text, MOST_HITS, frozenset(seen))
            found.update((hit.id, RAW_PATH, hit.severity) for hit in hits)
            seen.update(hit.id for hit in hits)
        for (pattern, path, severity), count in sorted(found.items()):
            span = spans.get((pattern, path, severity)) if count == 1 else None
            signals.append(
                Signal(
                    set=patterns_of_kind.name,
                    id=pattern,
                    severity=Severity(severity),
                    path=path,
                    count=count,
                    start=span[0] if span else None,
                    end=span[1] if span else None,
                )
            )
    return signals


def _joined(places: Sequence[tuple[str, str]]) -> tuple[str, list[int]]:
    """The texts as one, and where each begins in it."""
    starts: list[int] = []
    at = 0
    for _, text in places:
        starts.append(at)
        at += len(text) + len(BETWEEN)
    return BETWEEN.join(text for _, text in places), starts


def _unescaped_again(places: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The strings that have escapes of their own that hide something, as these decode, and as those of that do."""
    found: list[tuple[str, str]] = []
    for path, text in places:
        for _ in range(UNESCAPED_DEEP):
            if not _HIDING.search(text):
                break
            text = unescaped(text)
            found.append((path, text))
    return found
