"""The wire between a worker and its parent, without a socket."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.breakers.loops import LoopState
from proxy.history import Step
from proxy.workers import words
from serving.frames import LONGEST, BadFrame, Frames, frame

WORDS: list[tuple[int, words.FromWorker]] = [
    (1, words.Hello("token", 3)),
    (0, words.WentOn("run-1", LoopState((b"a",), ((b"a", 2),)), (Step("id", "look", "{}", b"r", None),))),
    (7, words.Find("alice", b"x" * 64, b".a.", {1: [b"k"]}, None)),
    (0, words.Beat(None)),
]


@given(st.lists(st.integers(1, 40), min_size=1))
def test_words_come_out_as_they_went_in_however_they_are_cut(sizes: list[int]) -> None:
    raw, frames, got, at = b"".join(frame(*word) for word in WORDS), Frames(), [], 0
    while at < len(raw):
        for size in sizes:
            got += [(n, msgspec.msgpack.decode(b, type=words.FromWorker)) for n, b in frames.feed(raw[at : at + size])]
            at += size
    assert got == WORDS


def test_half_a_surrogate_pair_of_a_models_words_breaks_no_connection() -> None:
    raw = frame(0, words.Noted("run-1", finding="x\ud800y"))
    ((_, body),) = Frames().feed(raw)
    assert msgspec.msgpack.decode(body, type=words.FromWorker) == words.Noted("run-1", finding="x?y")


@pytest.mark.parametrize("raw", [(LONGEST + 1).to_bytes(4, "big"), b"\0\0\0\x02\x91\x01", b"\0\0\0\x01\xc1"])
def test_what_is_no_frame_is_refused(raw: bytes) -> None:
    with pytest.raises(BadFrame):
        list(Frames().feed(raw))
