"""Results are read beside the event loop while the model works; what is not read then is read when a call comes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from policies.facts.known import KnownTexts
from policies.facts.orders import Passage
from proxy import read_ahead
from proxy.read_ahead import SHORT, ReadAhead
from tests.support.served import until

LONG = "Milk, bread and a long list of what else there is to buy. " * 100


class Detector:
    """Finds nothing; says what it was asked about, and waits until it may."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []
        self.may_read = threading.Event()

    def __call__(self, text: str) -> Sequence[Passage]:
        self.asked.append((text, threading.get_ident()))
        assert self.may_read.wait(20)
        return []


async def test_it_is_read_beside_the_loop_and_known_when_it_is_asked_for() -> None:
    detector = Detector()
    texts = KnownTexts(detector)
    ahead = ReadAhead(texts)
    try:
        ahead.begin("x", [LONG, "b" + LONG])
        waiting = asyncio.create_task(ahead.end("x"))
        await asyncio.sleep(0)
        assert not waiting.done()
        detector.may_read.set()
        await waiting
        assert [text for text, _ in detector.asked] == [LONG, "b" + LONG]
        assert threading.get_ident() not in [thread for _, thread in detector.asked]
        assert texts.of(LONG).told.passages == ()
        assert len(detector.asked) == 2
        await ahead.end("x")
    finally:
        ahead.close()


async def test_what_is_read_in_a_moment_and_what_is_too_much_is_left_to_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    detector = Detector()
    ahead = ReadAhead(KnownTexts(detector))
    monkeypatch.setattr(read_ahead, "MOST_WAITING", 2 * len(LONG))
    try:
        ahead.begin("short", ["a" * (SHORT - 1)])
        await ahead.end("short")
        ahead.begin("one", [LONG])
        ahead.begin("two", ["b" + LONG])
        await ahead.end("two")
        detector.may_read.set()
        await ahead.end("one")
        assert [text for text, _ in detector.asked] == [LONG]
        ahead.begin("two", ["b" + LONG])  # there is room again
        await ahead.end("two")
        assert [text for text, _ in detector.asked] == [LONG, "b" + LONG]
    finally:
        ahead.close()


async def test_what_waits_when_it_is_closed_is_not_read() -> None:
    detector = Detector()
    ahead = ReadAhead(KnownTexts(detector))
    ahead.begin("one", [LONG])
    await until(lambda: detector.asked)
    ahead.begin("two", ["b" + LONG])
    ahead.close()
    detector.may_read.set()
    await ahead.end("one")
    await ahead.end("two")
    assert [text for text, _ in detector.asked] == [LONG]


async def test_a_reading_that_fails_holds_nothing_up() -> None:
    def fails(text: str) -> Sequence[Passage]:
        raise MemoryError

    ahead = ReadAhead(KnownTexts(fails))
    try:
        ahead.begin("x", [LONG])
        await ahead.end("x")
        ahead.begin("x", [LONG])
        await ahead.end("x")
    finally:
        ahead.close()
