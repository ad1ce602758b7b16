"""Every way in which an expression may read a run of groups: where a number with a checksum may stand.

A search takes the first match that it can have, the longest, and goes on behind it. Of numbers in groups that is often
the wrong one: in ``4000 4111 1111 1111 1111`` the first four groups have the form of a card, and only the last four
are one. So where a checksum says which match is meant, the expression is tried at the beginning of every group, and
may end with an earlier one. A group is what stands between characters that are no letters and no digits.

The cost is linear: an expression that is wider than ``MOST_WIDE`` bytes is not tried so, and a beginning has
``MOST_ENDS`` ends at most. What is read at a place does not depend on what stands further before it, so all who search
find the same, wherever they begin.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from serving.regex_characters import BEYOND
from serving.regex_shape import ShapeError, head_of, shape_of

MOST_WIDE = 128
"""Bytes of the widest match of an expression that is tried at every group."""

MOST_ENDS = 4


class Inside(NamedTuple):
    """``starts`` matches the first byte of all that an expression may begin with; ``least`` is the number of letters
    and digits of its shortest match, and ``earlier`` matches from a beginning to the end of the last group but one, if
    there are as many; ``looser`` matches what the expression does and more, with fewer states."""

    starts: re.Pattern[bytes]
    least: int
    earlier: re.Pattern[bytes]
    looser: str


def inside_of(regex: str) -> Inside | None:
    """What is needed to try an expression at every group. None: it is too wide, or does not begin with a group
    (``\\b`` and a character), or its form is not known."""
    try:
        shape = shape_of(regex, shortest=False, together=True)
        head = head_of(regex)
    except ShapeError:
        return None
    if head is None or not head.first or shape.width is None or shape.width > MOST_WIDE:
        return None
    starts = re.compile(rf"{head.first}(?<=\b{head.first})(?={head.then})".encode("ascii"))
    earlier = re.compile(rb"(?:\W*\w){%d,}(?=\W)" % head.least)
    return Inside(starts, head.least, earlier, regex if BEYOND in shape.trigger else shape.trigger)


def readings(expression: Any, inside: Inside, data: bytes, at: int, end: int) -> Iterator[tuple[int, int, Any]]:
    """The matches (RE2's, over bytes) that begin with a group in ``data[at:end]`` and end there: begin, end, match; by
    their beginning, of those that begin together the longest first."""
    for begins in inside.starts.finditer(data, at, end):
        start = begins.start()
        if end - start < inside.least:
            return
        match = expression.match(data, start, end)
        if match is None:
            continue
        stop = match.end()
        yield start, stop, match
        for _ in range(MOST_ENDS - 1):
            earlier = inside.earlier.match(data, start, stop)
            match = expression.match(data, start, earlier.end()) if earlier else None
            if match is None or match.end() <= start:
                break
            stop = match.end()
            if not (data[stop - 1 : stop].isalnum() and data[stop : stop + 1].isalnum()):
                yield start, stop, match
