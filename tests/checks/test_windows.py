"""Long texts in overlapping pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from checks.windows import windows


@given(st.text(max_size=600), st.integers(16, 64), st.integers(1, 6))
def test_the_pieces_are_bounded_and_together_they_are_the_text_unless_said(text: str, size: int, most: int) -> None:
    pieces, cut = windows(text, size=size, most=most, overlap=8)
    assert 1 <= len(pieces) <= most
    assert all(len(piece.encode()) <= size for piece in pieces)
    assert all(piece in text for piece in pieces)
    room = (size - 8) * (most - 1) + size
    assert cut == (len(text.encode()) > room)


@given(st.text(min_size=100, max_size=400), st.data())
def test_what_is_no_longer_than_the_overlap_is_whole_in_some_piece(text: str, data: st.DataObject) -> None:
    pieces, cut = windows(text, size=128, most=1000, overlap=32)
    assert not cut
    start = data.draw(st.integers(0, len(text) - 1))
    needle = text[start : start + 7]  # at most 28 bytes; a border may cost 3 more
    assert any(needle in piece for piece in pieces)


def test_a_lone_surrogate_becomes_a_question_mark() -> None:
    assert windows("a\ud800b", size=100, most=1) == (("a?b",), False)
