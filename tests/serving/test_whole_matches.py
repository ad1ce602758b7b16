"""Every match whole, in a text that is still being written: the same as in the whole text, at any chunks."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.text_rules import _matches
from serving.patterns import Pattern, PatternSet
from serving.whole_matches import WholeHit, WholeMatches

SET = PatternSet(
    "own",
    [
        Pattern(id="key", regex=r"\bKEY-[0-9]{4,6}\b"),
        Pattern(id="named", regex=r"pass[:=] ?(?P<secret>[a-z]{4,8})"),
        Pattern(id="endless", regex="<<[a-z ]*>>"),
    ],
)
HOLD = 24
ONLY = frozenset({"own/key", "own/named"})


def matches(hold: int | None, names: frozenset[str] | None = ONLY) -> WholeMatches:
    return _matches((SET,), names, hold)


def wanted(text: str, names: frozenset[str] = ONLY) -> list[tuple[str, int, int]]:
    hits = [hit for hit in SET.scan(text) if f"own/{hit.id}" in names]
    return [(hit.id, len(text[: hit.start].encode()), len(text[: hit.end].encode())) for hit in hits]


def spans(hits: list[WholeHit]) -> list[tuple[str, int, int]]:
    return [(hit.id, hit.start, hit.end) for hit in hits]


WORDS = st.lists(
    st.sampled_from(["KEY-1234", "KEY-123456", "KEY-12", "pass: abcdefgh", "pass=abcd", "☂", " ", "é", "x", "-", "K"]),
    max_size=40,
).map("".join)


@pytest.mark.parametrize("hold", [HOLD, None])
@given(text=WORDS, cuts=st.lists(st.integers(1, 30), min_size=1), early=st.booleans())
def test_each_match_is_told_once_and_before_it_may_leave(
    hold: int | None, text: str, cuts: list[int], early: bool
) -> None:
    """``early``: it settles before there is anything; else with the first match that is seen."""
    found, told, free = matches(hold), [], 0
    if early:
        found.settle(0)
    rest = text
    for size in cuts * (len(text) + 1):
        if not rest:
            break
        hits = found.feed(rest[:size])
        rest = rest[size:]
        if hits and not found.settling:
            found.settle(free)
        told += found.settled(False)
        if hold is not None:
            free = found.free(hold)
            assert all(span[1] >= free or span in spans(told) for span in wanted(text) if found.settling)
    if found.end() and not found.settling:
        found.settle(free)
    told += found.settled(True)
    if found.settling:
        assert spans(sorted(told, key=lambda hit: (hit.start, hit.end, hit.id))) == wanted(text)
        assert all(hit.sure for hit in told)
    else:
        assert wanted(text) == []


def test_a_match_that_may_be_wider_than_the_hold_is_not_sure() -> None:
    found = matches(HOLD, None)
    found.settle(0)
    found.feed("<<a b>> KEY-1234 ")
    assert [(hit.id, hit.sure) for hit in found.settled(True)] == [("endless", False), ("key", True)]
    found = matches(None, None)
    found.settle(0)
    found.feed("<<a b>>")
    found.end()
    assert [(hit.id, hit.sure) for hit in found.settled(True)] == [("endless", True)]


def test_what_was_seen_and_is_not_found_again_is_not_sure() -> None:
    """What begins before the text that is kept, for one."""
    found = matches(HOLD)
    assert found.feed("pass: " + "\u200b" * 4000 + "abcdefgh ")
    found.settle(0)
    found._text = found._text[-39:]
    found._base = 6 + 12000 + 9 - 39
    told = found.settled(True)
    assert [(hit.id, hit.sure) for hit in told] == [("named", False)]


def test_a_long_text_without_a_match_is_not_kept() -> None:
    found = matches(HOLD)
    for _ in range(20_000):
        found.feed("word ")
    assert len(found._text) < 10_000
    found.feed("KEY-1234 ")
    found.settle(found.free(HOLD))
    for _ in range(20_000):
        found.feed("word ")
        found.settled(False)
    assert len(found._text) < 10_000


@pytest.mark.parametrize("expression", ["[0-9]{7}", "[0-9a-f]{16}", "1[0-9]{2,8}", "[0-9]{4}(?: [0-9]{4})?"])
@given(seed=st.integers(0, 2**32), size=st.integers(1, 9))
@settings(max_examples=15)
def test_matches_without_anything_between_them_are_those_of_the_whole_text(
    expression: str, seed: int, size: int
) -> None:
    """Where the search begins anew it finds no others, whatever part of the text it has left."""
    own = PatternSet("own", [Pattern(id="run", regex=expression)])
    choose = random.Random(seed)
    text = "".join(choose.choices(" 0123456789" if " " in expression else "0123456789", k=2500))
    found = _matches((own,), None, HOLD)
    found.settle(0)
    told: list[WholeHit] = []
    for at in range(0, len(text), size):
        found.feed(text[at : at + size])
        told += found.settled(False)
    found.end()
    told += found.settled(True)
    covered = {at for hit in told for at in range(hit.start, hit.end)}
    assert covered >= {at for hit in own.scan(text) for at in range(hit.start, hit.end)}
