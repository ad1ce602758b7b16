"""Framing is a function of the bytes, never of how they arrive."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from serving.wire.sse import Framer, data_of


def cut(data: bytes, places: list[int]) -> list[bytes]:
    marks = sorted({0, len(data), *(p % (len(data) + 1) for p in places)})
    return [data[a:b] for a, b in itertools.pairwise(marks)]


@given(
    st.lists(st.sampled_from([b"data: {}", b"event: x", b": c", b"\n", b"\n\n", b"\r\n", b"\r", b"a"])),
    st.lists(st.integers(0, 200)),
)
def test_no_byte_is_lost_or_moved(parts: list[bytes], places: list[int]) -> None:
    data = b"".join(parts)
    framer = Framer()
    got = b"".join(b"".join(framer.feed(piece)) for piece in cut(data, places))
    assert got + framer.rest() == data


@given(
    st.lists(st.sampled_from([b'data: {"a":1}\n\n', b"data: [DONE]\n\n", b"event: e\ndata: x\n\n"])),
    st.lists(st.integers(0, 200)),
)
def test_events_are_the_same_at_any_chunking(parts: list[bytes], places: list[int]) -> None:
    framer = Framer()
    events = [event for piece in cut(b"".join(parts), places) for event in framer.feed(piece)]
    assert events == parts
    assert framer.pending == 0


def test_other_line_ends_of_the_specification_end_an_event_too() -> None:
    framer = Framer()
    assert framer.feed(b"data: a\r\n\r\ndata: b\r\rdata: c\n\n") == [b"data: a\r\n\r\n", b"data: b\r\r", b"data: c\n\n"]


def test_several_data_lines_are_one_payload() -> None:
    assert data_of(b"event: x\ndata: {\ndata:}\n\n") == b"{\n}"
    assert data_of(b": comment\n\n") is None
