"""Spans of a text that get other words, piece by piece."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from serving.wire.masking import (
    Mask,
    each_masked,
    join_in,
    joined,
    masked,
    shift_of,
    spelled_areas,
    touches,
    touching_tokens,
)

TEXT = st.text("ab ☂é\U0001f600", max_size=40)


@st.composite
def masked_texts(draw: st.DrawFn) -> tuple[str, list[Mask]]:
    """A text and spans of it, in whole characters, that may overlap."""
    text = draw(TEXT)
    places = st.integers(0, len(text))
    spans = draw(st.lists(st.tuples(places, places, st.sampled_from(["", "[x]", "☂"])), max_size=5))
    return text, [
        Mask(len(text[: min(a, b)].encode()), len(text[: max(a, b)].encode()), words) for a, b, words in spans
    ]


@given(masked_texts(), st.lists(st.integers(1, 7), min_size=1))
def test_pieces_say_together_what_the_whole_says(of: tuple[str, list[Mask]], sizes: list[int]) -> None:
    text, spans = of
    masks = joined(spans)
    parts, rest = [], text
    for size in sizes * len(text):
        if not rest:
            break
        parts.append(rest[:size])
        rest = rest[size:]
    assert "".join(each_masked(parts, masks)) == masked(text, masks)


@given(masked_texts())
def test_what_is_masked_is_gone_and_the_rest_stays(of: tuple[str, list[Mask]]) -> None:
    text, spans = of
    raw, masks = text.encode(), joined(spans)
    gone = {at for start, end, _ in spans for at in range(start, end)}
    kept = bytes(byte for at, byte in enumerate(raw) if at not in gone)
    assert masked(text, tuple(mask._replace(words="") for mask in masks)).encode() == kept
    assert {at for at in range(len(raw)) if touches(masks, at, at + 1)} == gone
    assert sum(shift_of(raw, mask) for mask in masks) == len(masked(text, masks)) - len(text)
    assert all(one.end <= other.start for one, other in pairwise(masks))


@given(masked_texts(), st.integers(1, 3))
def test_masks_that_come_one_after_the_other_are_those_that_come_at_once(of: tuple[str, list[Mask]], size: int) -> None:
    _, spans = of
    known: list[Mask] = []
    for at in range(0, len(spans), size):
        join_in(known, joined(spans[at : at + size]))
    assert [mask[:2] for mask in known] == [mask[:2] for mask in joined(spans)]


def test_spans_that_overlap_are_one_with_the_words_of_the_first() -> None:
    assert joined([(4, 9, "b"), (0, 5, "a"), (9, 9, "none"), (12, 13, "c")]) == (Mask(0, 9, "a"), Mask(12, 13, "c"))


@given(st.lists(st.binary(max_size=4)), st.lists(st.tuples(st.integers(0, 20), st.integers(1, 9)), max_size=3))
def test_tokens_that_spell_any_byte_of_an_area_touch_it(pieces: list[bytes], stretches: list[tuple[int, int]]) -> None:
    areas = [(start, start + size) for start, size in stretches]
    wanted = set()
    at = 0
    for place, piece in enumerate(pieces):
        for start, stop in areas:
            if any(start <= byte < stop for byte in range(at, at + max(1, len(piece)))):
                wanted.add(place)
        at += len(piece)
    found = touching_tokens(pieces, areas)
    assert found == wanted


def test_a_text_that_stands_twice_in_what_the_tokens_spell_has_no_certain_place() -> None:
    masks = (Mask(1, 2, "x"),)
    assert spelled_areas(b"<think>abc</think>", {"abc": masks}) == [(8, 9)]
    assert spelled_areas(b"abc abc", {"abc": masks}) is None
    assert spelled_areas(b"ab", {"abc": masks}) is None
