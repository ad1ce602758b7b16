"""The scheduler, on a clock that only the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from checks.scheduler import CheckScheduler
from checks.verdict import CheckFailed, CheckJob, Direction, Finding, Scene, Verdict


class Time:
    """A clock and its sleep. ``pass_`` moves it, wakes who slept long enough, and lets everybody run."""

    def __init__(self) -> None:
        self.now = 0.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        future = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now + seconds, future))
        await future

    async def pass_(self, seconds: float) -> None:
        await settle()
        self.now += seconds
        for due, future in self._sleepers:
            if due <= self.now and not future.done():
                future.set_result(None)
        await settle()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


class FakeCheck:
    """Says what it is told to: a finding, a failure, or nothing until ``answer`` is called."""

    name = "fake"

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.scenes: list[Scene | None] = []
        self.says: Callable[[str], Finding | Exception | None] = lambda text: Finding("passed")
        self._open: dict[str, asyncio.Future[Finding]] = {}

    async def look(self, direction: Direction, text: str, scene: Scene | None = None) -> Finding:
        self.asked.append(text)
        self.scenes.append(scene)
        said = self.says(text)
        if said is None:
            self._open[text] = asyncio.get_running_loop().create_future()
            return await self._open[text]
        if isinstance(said, Exception):
            raise said
        return said

    def answer(self, text: str, finding: Finding) -> None:
        self._open.pop(text).set_result(finding)


class Desk:
    """A scheduler with all that surrounds it."""

    def __init__(self, **options: int | float) -> None:
        self.time = Time()
        self.check = FakeCheck()
        self.verdicts: list[Verdict] = []
        settings = {
            "queue": 2,
            "concurrency": 1,
            "timeout_seconds": 5.0,
            "failures": 3,
            "cool_down_seconds": 10.0,
        } | options
        self.scheduler = CheckScheduler(
            self.check,
            on_verdict=self.verdicts.append,
            clock=self.time.clock,
            sleep=self.time.sleep,
            **settings,  # type: ignore[arg-type]
        )

    def submit(self, *texts: str) -> None:
        for text in texts:
            self.scheduler.submit(CheckJob(ref=text[:20], surface="tool_result", direction="input", text=text))

    @property
    def said(self) -> list[tuple[str, str, str | None]]:
        return [(v.ref, v.status, v.detail) for v in self.verdicts]


@pytest.fixture
async def desks() -> AsyncIterator[Callable[..., Desk]]:
    made: list[Desk] = []

    def make(**options: int | float) -> Desk:
        made.append(Desk(**options))
        return made[-1]

    yield make
    for desk in made:
        closing = asyncio.ensure_future(desk.scheduler.close(0))
        await desk.time.pass_(0)
        await closing


Made = Callable[..., Desk]


async def test_what_the_check_finds_is_the_verdict_with_its_time(desks: Made) -> None:
    desk = desks()
    desk.check.says = lambda text: None
    await desk.scheduler.start()
    desk.submit("a")
    await desk.time.pass_(0.25)
    desk.check.answer("a", Finding("blocked", "rail x"))
    await settle()
    assert desk.verdicts == [Verdict("a", "fake", "tool_result", "blocked", "rail x", 250_000)]
    assert desk.scheduler.pending == 0


async def test_a_full_queue_drops_at_once_and_what_waits_is_still_asked(desks: Made) -> None:
    desk = desks(queue=2)
    desk.check.says = lambda text: None
    await desk.scheduler.start()
    desk.submit("a")
    await settle()
    desk.submit("b", "c", "d", "e")
    assert desk.said == [("d", "dropped", "queue full"), ("e", "dropped", "queue full")]
    assert desk.scheduler.counts["dropped"] == 2
    desk.check.says = lambda text: Finding("passed")
    desk.check.answer("a", Finding("passed"))
    await settle()
    assert desk.said[2:] == [("a", "passed", None), ("b", "passed", None), ("c", "passed", None)]


async def test_jobs_submitted_before_the_start_are_asked_after_it(desks: Made) -> None:
    desk = desks()
    desk.submit("a")
    await settle()
    assert desk.check.asked == []
    await desk.scheduler.start()
    await settle()
    assert desk.said == [("a", "passed", None)]


async def test_no_more_are_asked_at_once_than_the_concurrency(desks: Made) -> None:
    desk = desks(concurrency=2, queue=10)
    desk.check.says = lambda text: None
    await desk.scheduler.start()
    desk.submit("a", "b", "c")
    await settle()
    assert desk.check.asked == ["a", "b"]
    desk.check.answer("b", Finding("passed"))
    await settle()
    assert desk.check.asked == ["a", "b", "c"]


async def test_a_check_that_does_not_answer_in_time_is_a_timeout_and_never_a_pass(desks: Made) -> None:
    desk = desks(timeout_seconds=5.0)
    desk.check.says = lambda text: None
    await desk.scheduler.start()
    desk.submit("a")
    await desk.time.pass_(4.9)
    assert desk.said == []
    await desk.time.pass_(0.2)
    assert desk.said == [("a", "timeout", "no answer")]


async def test_a_job_that_waited_too_long_is_not_sent(desks: Made) -> None:
    desk = desks(timeout_seconds=5.0)
    desk.check.says = lambda text: None
    await desk.scheduler.start()
    desk.submit("a", "b")
    await desk.time.pass_(6)
    assert desk.said == [("a", "timeout", "no answer"), ("b", "timeout", "waited")]
    assert desk.check.asked == ["a"]


async def test_the_time_in_the_queue_counts(desks: Made) -> None:
    desk = desks(timeout_seconds=5.0)
    desk.check.says = lambda text: None
    await desk.scheduler.start()
    desk.submit("a", "b")
    await desk.time.pass_(3)
    desk.check.answer("a", Finding("passed"))
    await settle()
    await desk.time.pass_(2.5)
    assert desk.said == [("a", "passed", None), ("b", "timeout", "no answer")]


async def test_a_failure_is_an_error_with_its_kind_and_a_fault_of_ours_is_too(desks: Made) -> None:
    desk = desks()
    desk.check.says = lambda text: CheckFailed("http 503") if text == "a" else RuntimeError("a bug")
    await desk.scheduler.start()
    desk.submit("a", "b")
    await settle()
    assert desk.said == [("a", "error", "http 503"), ("b", "error", "internal")]


async def test_after_failures_in_a_row_the_check_is_left_alone_then_probed(desks: Made) -> None:
    desk = desks(queue=10, concurrency=2, failures=3, cool_down_seconds=10.0)
    desk.check.says = lambda text: CheckFailed("connect")
    await desk.scheduler.start()
    for text in "abcd":
        desk.submit(text)
        await settle()
    assert [detail for _, _, detail in desk.said] == ["connect", "connect", "connect", "circuit open"]
    assert desk.check.asked == ["a", "b", "c"]
    assert desk.scheduler.circuit.state == "open"

    await desk.time.pass_(10)
    desk.check.says = lambda text: None
    desk.submit("e", "f")
    await settle()
    assert desk.check.asked[3:] == ["e"], "one probe, and one only"
    assert desk.said[4:] == [("f", "error", "circuit open")]
    desk.check.answer("e", Finding("passed"))
    await settle()
    assert desk.scheduler.circuit.state == "closed"
    desk.check.says = lambda text: Finding("blocked", "r")
    desk.submit("g")
    await settle()
    assert desk.said[-2:] == [("e", "passed", None), ("g", "blocked", "r")]


async def test_a_probe_that_fails_opens_the_circuit_again_and_a_success_in_between_keeps_it_closed(desks: Made) -> None:
    desk = desks(queue=10, failures=2, cool_down_seconds=10.0)
    await desk.scheduler.start()
    for text, says in (("a", CheckFailed("x")), ("b", Finding("passed")), ("c", CheckFailed("x"))):
        desk.check.says = lambda _, says=says: says  # type: ignore[misc]
        desk.submit(text)
        await settle()
    assert desk.scheduler.circuit.state == "closed"
    desk.check.says = lambda text: CheckFailed("x")
    desk.submit("d")
    await desk.time.pass_(10)
    desk.submit("e", "f")
    await settle()
    assert desk.said[-2:] == [("e", "error", "x"), ("f", "error", "circuit open")]


async def test_a_slow_check_opens_the_circuit_too(desks: Made) -> None:
    desk = desks(failures=1, timeout_seconds=1.0)
    desk.check.says = lambda text: None
    await desk.scheduler.start()
    desk.submit("a")
    await desk.time.pass_(1)
    desk.submit("b")
    await settle()
    assert desk.said == [("a", "timeout", "no answer"), ("b", "error", "circuit open")]


async def test_a_long_text_is_asked_in_pieces_and_one_block_is_enough(desks: Made) -> None:
    desk = desks(max_text_bytes=4096, max_windows=3)
    desk.check.says = lambda text: Finding("blocked", "r") if "EVIL" in text else Finding("passed")
    await desk.scheduler.start()
    desk.submit("x" * 4094 + "EVIL" + "y" * 1000, "x" * 5000)
    await settle()
    assert [(status, detail) for _, status, detail in desk.said] == [("blocked", "r"), ("passed", None)]
    assert len(desk.check.asked) == 4


async def test_a_text_that_was_cut_and_passed_is_not_a_pass(desks: Made) -> None:
    desk = desks(max_text_bytes=4096, max_windows=2)
    desk.check.says = lambda text: Finding("blocked", "r") if "EVIL" in text else Finding("passed")
    await desk.scheduler.start()
    desk.submit("x" * 20_000 + "EVIL", "EVIL" + "x" * 20_000)
    await settle()
    assert [(status, detail) for _, status, detail in desk.said] == [("error", "truncated"), ("blocked", "r")]
    assert desk.scheduler.circuit.state == "closed"


async def test_what_was_left_out_before_is_a_cut_too(desks: Made) -> None:
    desk = desks()
    await desk.scheduler.start()
    desk.scheduler.submit(CheckJob("a", "tool_call", "output", "short", Scene("user: hi", "call"), cut=True))
    await settle()
    assert desk.said == [("a", "error", "truncated")]
    assert desk.check.scenes == [Scene("user: hi", "call")]


async def test_the_tokens_of_all_pieces_and_the_surest_score_are_told(desks: Made) -> None:
    desk = desks(max_text_bytes=4096)
    scores = iter((0.1, 0.4, 0.2))
    desk.check.says = lambda text: Finding("passed", None, 100, next(scores))
    await desk.scheduler.start()
    desk.submit("x" * 9000)
    await settle()
    [verdict] = desk.verdicts
    assert (verdict.status, verdict.tokens, verdict.score) == ("passed", 300, 0.4)


async def test_a_text_that_cannot_be_asked_about_says_nothing_of_the_check(desks: Made) -> None:
    desk = desks(failures=1)
    desk.check.says = lambda text: CheckFailed("http 400", by_text=True) if text == "long" else Finding("passed")
    await desk.scheduler.start()
    for text in ("long", "long", "short"):
        desk.submit(text)
        await settle()
    assert desk.said == [("long", "error", "http 400")] * 2 + [("short", "passed", None)]


async def test_closing_waits_for_what_is_at_hand_within_its_grace(desks: Made) -> None:
    desk = desks()
    desk.check.says = lambda text: None
    await desk.scheduler.start()
    desk.submit("a")
    await settle()
    closing = asyncio.ensure_future(desk.scheduler.close(3))
    await desk.time.pass_(1)
    desk.submit("late")
    desk.check.answer("a", Finding("passed"))
    await closing
    assert desk.said == [("late", "dropped", "closed"), ("a", "passed", None)]


async def test_what_is_left_when_the_grace_ends_is_dropped_and_said(desks: Made) -> None:
    desk = desks()
    desk.check.says = lambda text: None
    await desk.scheduler.start()
    desk.submit("a", "b")
    await settle()
    closing = asyncio.ensure_future(desk.scheduler.close(3))
    await settle()
    await desk.time.pass_(3)
    await closing
    assert desk.said == [("a", "dropped", "closed"), ("b", "dropped", "closed")]
    assert desk.scheduler.pending == 0


async def test_a_taker_of_verdicts_that_fails_stops_no_worker(desks: Made) -> None:
    desk = desks()
    taken: list[Verdict] = []

    def take(verdict: Verdict) -> None:
        taken.append(verdict)
        raise RuntimeError("not mine")

    desk.scheduler._on_verdict = take
    await desk.scheduler.start()
    desk.submit("a", "b")
    await settle()
    assert [v.ref for v in taken] == ["a", "b"]
