"""Checks beside the exchange: asked in their own time, never waited for.

How to think about it. ``submit`` puts a job into a bounded queue and returns; a few workers take jobs out and
ask the check. Every job ends in exactly one ``Verdict``, given to ``on_verdict`` on the event loop:

* what the check found: ``passed``, ``modified`` or ``blocked``;
* ``error``: it could not look (the detail says the kind), the circuit is open (``circuit open``), or it
  passed what it saw of a text that had to be cut (``truncated``): a part unseen is not a pass;
* ``timeout``: its time ran out, counted from submission. A job that spent its time in the queue is not sent;
* ``dropped``: the queue was full (told within ``submit``), or the scheduler was closed.

The clock and the sleep are passed in, so that all of this is tested without waiting.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable

import msgspec

from checks.circuit import Circuit
from checks.verdict import Check, CheckFailed, CheckJob, Finding, Status, Verdict
from checks.windows import MOST_WINDOWS, windows

log = logging.getLogger("interlock.checks")


class _Waiting(msgspec.Struct, frozen=True):
    """A job in the queue, reduced to what will be sent: the queue's memory is bounded by it."""

    job: CheckJob
    pieces: tuple[str, ...]
    cut: bool
    submitted: float


class CheckScheduler:
    """One queue before one check.

    ``queue``: jobs that may wait; ``concurrency``: jobs asked at once; ``timeout_seconds``: from submission
    to verdict. A text above ``max_text_bytes`` is asked in at most ``max_windows`` overlapping pieces.
    After ``failures`` errors or time-outs in a row the check is left alone for ``cool_down_seconds``.

    ``on_verdict`` must be quick; it is called on the event loop, for a full queue within ``submit``.
    ``counts`` has the number of verdicts by status, ``pending`` the jobs without one.
    """

    def __init__(
        self,
        check: Check,
        *,
        queue: int,
        concurrency: int,
        timeout_seconds: float,
        on_verdict: Callable[[Verdict], None],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        max_text_bytes: int = 32 * 1024,
        max_windows: int = MOST_WINDOWS,
        failures: int = 5,
        cool_down_seconds: float = 10.0,
    ) -> None:
        self.circuit = Circuit(failures=failures, cool_down_seconds=cool_down_seconds, clock=clock)
        self.counts: Counter[Status] = Counter()
        self._check = check
        self._room = queue
        self._concurrency = concurrency
        self._timeout = timeout_seconds
        self._on_verdict = on_verdict
        self._clock = clock
        self._sleep = sleep
        self._max_text_bytes = max_text_bytes
        self._max_windows = max_windows
        self._queue: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._asked = 0
        self._workers: list[asyncio.Task[None]] = []
        self._closed = False

    @property
    def pending(self) -> int:
        return len(self._queue) + self._asked

    def submit(self, job: CheckJob) -> None:
        """Ask about ``job`` when there is time. Returns at once, whatever the load."""
        submitted = self._clock()
        if self._closed:
            self._report(job, "dropped", "closed", submitted)
        elif len(self._queue) >= self._room:
            self._report(job, "dropped", "queue full", submitted)
        else:
            pieces, cut = windows(job.text, size=self._max_text_bytes, most=self._max_windows)
            slim = msgspec.structs.replace(job, text="")
            self._queue.append(_Waiting(slim, pieces, cut or job.cut, submitted))
            self._arrived.set()

    async def start(self) -> None:
        """Begin to work. Jobs submitted before have waited in the queue, and their time has run."""
        if not self._workers and not self._closed:
            self._workers = [
                asyncio.create_task(self._work(), name=f"check {self._check.name} {number}")
                for number in range(self._concurrency)
            ]

    async def close(self, grace: float) -> None:
        """Take no more jobs, give those at hand ``grace`` seconds, then report the rest as dropped."""
        self._closed = True
        if self._workers and self.pending:
            self._idle.clear()
            await _first(self._idle.wait(), self._sleep(grace))
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.cancel()
        if workers:
            await asyncio.wait(workers)
        while self._queue:
            waiting = self._queue.popleft()
            self._report(waiting.job, "dropped", "closed", waiting.submitted)

    async def _work(self) -> None:
        while True:
            while not self._queue:
                self._arrived.clear()
                await self._arrived.wait()
            waiting = self._queue.popleft()
            self._asked += 1
            try:
                status, detail, looked = await self._judge(waiting)
            except asyncio.CancelledError:
                self._report(waiting.job, "dropped", "closed", waiting.submitted)
                raise
            except Exception:
                log.exception("the check %s failed by a fault of its own", self._check.name)
                self.circuit.failed()
                status, detail, looked = "error", "internal", None
            finally:
                self._asked -= 1
                if not self.pending:
                    self._idle.set()
            try:
                self._report(waiting.job, status, detail, waiting.submitted, looked)
            except Exception:
                log.exception("a verdict of the check %s was not taken", self._check.name)

    async def _judge(self, waiting: _Waiting) -> tuple[Status, str | None, Finding | None]:
        """Status and detail, and what was found if it looked."""
        left = waiting.submitted + self._timeout - self._clock()
        if left <= 0:
            return "timeout", "waited", None
        if not self.circuit.ask():
            return "error", "circuit open", None
        looking = asyncio.ensure_future(self._look(waiting))
        try:
            await _first(looking, self._sleep(left))
            if not looking.done():
                self.circuit.failed()
                return "timeout", "no answer", None
            finding = looking.result()
        except CheckFailed as failure:
            self.circuit.abandoned() if failure.by_text else self.circuit.failed()
            return "error", failure.kind, None
        except asyncio.CancelledError:
            self.circuit.abandoned()
            raise
        finally:
            looking.cancel()
        self.circuit.succeeded()
        if waiting.cut and finding.status != "blocked":
            return "error", "truncated", finding
        return finding.status, finding.detail, finding

    async def _look(self, waiting: _Waiting) -> Finding:
        """The strictest finding over all pieces, with the tokens of all and the surest score; a block ends it."""
        worst, tokens, scores = Finding("passed"), 0, list[float]()
        for piece in waiting.pieces:
            finding = await self._check.look(waiting.job.direction, piece, waiting.job.scene)
            tokens += finding.tokens
            if finding.score is not None:
                scores.append(finding.score)
            if finding.status != "passed":
                worst = finding
            if finding.status == "blocked":
                break
        return Finding(worst.status, worst.detail, tokens, max(scores, default=None))

    def _report(
        self, job: CheckJob, status: Status, detail: str | None, submitted: float, looked: Finding | None = None
    ) -> None:
        self.counts[status] += 1
        micros = round((self._clock() - submitted) * 1e6)
        tokens, score = (looked.tokens, looked.score) if looked is not None else (0, None)
        self._on_verdict(Verdict(job.ref, self._check.name, job.surface, status, detail, micros, tokens, score))


async def _first(one: Awaitable[object], other: Awaitable[object]) -> None:
    """Until either is done; what is ours of the other is cancelled."""
    tasks = [asyncio.ensure_future(one), asyncio.ensure_future(other)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
