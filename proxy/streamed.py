"""Takes one streamed answer from the model server through the gate to the client.

One loop: bytes → events → gate → bytes, and whatever the gate asks is judged in tasks beside it, so that what
does not wait for a verdict flows on. Nothing is read from upstream while too much is held or the client does
not take what it is given.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

import aiohttp

from proxy.exchange import Exchange
from proxy.flow import each
from proxy.gate import Gate
from proxy.gated_choice import Answer, Question, TextQuestion
from proxy.plain_lane import PlainLane
from serving.wire.dialect import ReadsRuns, ShowsFrame, StreamReader
from serving.wire.splice import Unspliceable
from serving.wire.vocabulary import Usage


class Client(Protocol):
    """Where what may leave is sent to (``proxy.flow.Outlet``)."""

    def give(self, data: bytes) -> bool:
        """Send it; whether more may be given before :meth:`drained`."""

    async def drained(self) -> None:
        """It has taken enough of what it was given."""


AskJudge = Callable[[Exchange, Question | TextQuestion], Awaitable[Answer]]
Extend = Callable[[Exchange], Awaitable[str | None]]

_STOPPED = "The server is shutting down."
_EXTEND_EVERY = 64  # events between two looks at the budget


class UpstreamBroke(Exception):
    """The model server's answer ended in the middle, without an error event of its own."""


class Stopping(Exception):
    """Set on an upstream's content to end its stream as the model server's own SIGTERM would."""


class Killed(Exception):
    """Set on an upstream's content to cut its stream; ``str()`` is what the agent is told."""


class StreamedAnswer:
    """``judge`` answers the gate's questions. ``extend`` looks at the budget now and then and gives None, or
    the text with which the answer is to be cut. ``ended(choice)`` is called before the last bytes of a choice leave,
    ``begun`` before the answer's id does. ``limit``: bytes of one event, or of held events, beyond which
    nothing more is read or the answer is given up. ``alive_seconds``: a client that has waited so long for a verdict is
    told that the stream lives, again and again."""

    def __init__(
        self,
        exchange: Exchange,
        reader: StreamReader,
        gate: Gate,
        *,
        judge: AskJudge,
        extend: Extend | None,
        ended: Callable[[int], None],
        begun: Callable[[], None] | None = None,
        unjudged_passes: bool,
        limit: int,
        alive_seconds: float | None = None,
    ) -> None:
        self._x = exchange
        self._alive_seconds = alive_seconds
        self._gate = gate
        self._judge = judge
        self._extend = extend
        self._ended = ended
        self._begun = begun
        self._unjudged_passes = unjudged_passes
        self._limit = limit
        self._longest = limit + 2 * exchange.request_bytes  # some APIs repeat what they were asked
        self._broke = False
        self._stopped = False
        self._killed: str | None = None
        self._halted: asyncio.Future[None] | None = None
        self._reader = reader
        if gate.takes_runs and isinstance(reader, ReadsRuns):
            reader.runs = True
        self._frames: ShowsFrame | None = None
        if gate.takes_runs and exchange.undo is None and isinstance(reader, ShowsFrame):
            self._frames = reader
        self._lane: PlainLane | None = None
        self._verdicts: set[asyncio.Task[None]] = set()
        self._next_extend: float = _EXTEND_EVERY if extend is not None else math.inf
        self._told: set[int] = set()

    def end(self, content: aiohttp.StreamReader, problem: Stopping | Killed) -> None:
        """End it from outside, also where nothing is read any more and only a verdict is waited for."""
        content.set_exception(problem)
        if self._halted is not None and not self._halted.done():
            self._halted.set_result(None)

    async def run(self, content: aiohttp.StreamReader, client: Client) -> None:
        """Until the answer is over, cut, or broken (:class:`UpstreamBroke`: nothing more may be sent)."""
        try:
            await self._run(content, client)
        finally:
            for task in self._verdicts:
                task.cancel()
            self._x.held_ns, self._x.held_since = self._x.held(time.perf_counter_ns()), 0

    async def _run(self, content: aiohttp.StreamReader, client: Client) -> None:
        gate = self._gate
        read: asyncio.Task[bytes] | None = None
        over = False  # upstream has nothing more to say
        halted = self._halted = asyncio.get_running_loop().create_future()
        try:
            while not gate.over:
                goes_on = True
                if read is None and not self._verdicts and not over:
                    goes_on = await self._flow(content, client)
                else:
                    if read is None and not over and gate.held_bytes <= self._limit:
                        read = asyncio.ensure_future(self._read(content))
                    waits: set[asyncio.Task[bytes] | asyncio.Task[None] | asyncio.Future[None]] = {*self._verdicts}
                    if read is not None:
                        waits.add(read)
                    if not waits:
                        break
                    waits.add(halted)
                    alive = self._alive_seconds if self._verdicts else None
                    done, _ = await asyncio.wait(waits, timeout=alive, return_when=asyncio.FIRST_COMPLETED)
                    if not done:
                        client.give(gate.alive)
                        await client.drained()
                        continue
                    self._verdicts = {task for task in self._verdicts if not _finished(task)}
                    if read is not None and read.done():
                        goes_on = self._take(read.result())
                        read = None
                    elif read is None and halted.done() and (problem := content.exception()) is not None:
                        goes_on = self._ended_by(problem)
                if not goes_on:
                    over = True
                    if self._x.undo is not None:
                        for event in self._x.undo.rest():
                            gate.feed(event)
                    if self._stopped:
                        gate.abort(500, None, _STOPPED)
                    elif self._killed is not None:
                        self._x.cut_text = self._killed
                        gate.cut(self._killed)
                    elif self._broke or not gate.end():
                        self._broke = True  # what was held is gone
                        break
                else:
                    await self._look_at_budget()
                self._ask()
                await self._give(client)
        finally:
            if read is not None:
                read.cancel()
        if self._broke or not gate.end():
            await self._give(client)
            raise UpstreamBroke
        await self._give(client)  # a verdict may have ended it while the last bytes were written
        rest = self._reader.rest()
        if rest and not gate.over:
            if not self._unjudged_passes and not self._reader.harmless(rest):
                raise UpstreamBroke  # an event without its end, which some clients would act on
            client.give(rest)
            await client.drained()

    async def _flow(self, content: aiohttp.StreamReader, client: Client) -> bool:
        """Take what comes and give what may leave, until something has to be waited for; whether more may come."""
        if self._x.ahead:
            return self._take(await self._read(content))

        def take(data: bytes) -> bool:
            lane = self._lane
            if lane is not None and lane.takes(data):
                if not lane.full:
                    return client.give(data)
                self._tell_lane()
                ready = client.give(data)
            else:
                self._tell_lane()
                self._take(data)
                if self._gate.over or self._gate.asks:
                    return False
                ready = self._give_now(client)
            self._open_lane()
            return ready and self._x.seen.events < self._next_extend

        try:
            return await each(content, take)
        except (aiohttp.ClientError, Stopping, Killed) as problem:
            return self._ended_by(problem)
        finally:
            self._tell_lane()

    def _open_lane(self) -> None:
        """What comes next may take the short way, or may not."""
        frame = self._frames.frame() if self._frames is not None else None
        if frame is None or not self._gate.idle(frame.choice) or self._begun is not None:
            self._lane = None
            return
        if self._lane is None or self._lane.frame is not frame:
            self._lane = PlainLane(frame)
        self._lane.open(self._next_extend - self._x.seen.events)

    def _tell_lane(self) -> None:
        """What took the short way becomes known to all."""
        if self._lane is not None and (size := self._lane.size):
            self._x.answer_bytes += size
            event = self._lane.told()
            assert event is not None
            self._x.seen.add(event)
            self._gate.feed(event)

    async def _read(self, content: aiohttp.StreamReader) -> bytes:
        """The next bytes; nothing when there are no more, for whatever reason."""
        if self._x.ahead:
            ahead, self._x.ahead = self._x.ahead, b""
            return ahead
        try:
            return await content.readany()
        except (aiohttp.ClientError, Stopping, Killed) as problem:
            self._ended_by(problem)
        return b""

    def _ended_by(self, problem: BaseException) -> bool:
        """Why there is nothing more to read."""
        if isinstance(problem, Killed):
            self._killed = str(problem)
        elif isinstance(problem, Stopping):
            self._stopped = True
        else:
            self._broke = True
        return False

    def _take(self, data: bytes) -> bool:
        """Feed the gate; False where there are no data, because there are no more."""
        x, gate = self._x, self._gate
        if not data:
            return False
        if not x.first_byte_ns:
            x.first_byte_ns = time.time_ns()
        for event in self._reader.feed(data):
            if event.kind == "unknown" and not self._unjudged_passes:
                gate.abort(502, "unjudged_answer", "The model server sent an event that cannot be judged.")
                return True
            x.seen.add(event)
            try:
                for given in (event,) if x.undo is None else x.undo.event(event):
                    gate.feed(given)
            except Unspliceable:
                self._give_up()
                return True
        if self._reader.pending > self._longest:
            gate.abort(502, "unjudged_answer", "The model server sent an event that is too large to judge.")
        return True

    async def _look_at_budget(self) -> None:
        x = self._x
        if self._extend is None or x.seen.events < self._next_extend or self._gate.over:
            return
        self._next_extend = x.seen.events + _EXTEND_EVERY
        text = await self._extend(x)
        if text is not None:
            x.cut_text = text
            usage = Usage(0, x.seen.tokens) if x.request.include_usage else None
            self._gate.cut(text, finish="length", usage=x.seen.usage or usage)

    def _ask(self) -> None:
        for question in self._gate.questions():
            self._verdicts.add(asyncio.ensure_future(self._answer(question)))

    async def _answer(self, question: Question | TextQuestion) -> None:
        answer = await self._judge(self._x, question)
        if self._gate.over:
            return
        if answer.cut:
            self._x.cut_text = answer.refusal
        try:
            self._gate.answer(question.ticket, answer)
        except Unspliceable:
            self._give_up()

    def _give_up(self) -> None:
        """A refusal cannot be written into this answer: nothing of what is held may leave."""
        self._gate.abort(502, "unjudged_answer", "The model server sent an event that cannot be changed.")

    async def _give(self, client: Client) -> None:
        self._give_now(client)
        await client.drained()

    def _give_now(self, client: Client) -> bool:
        """Give what may leave; whether the client takes more."""
        x, gate = self._x, self._gate
        if gate.held_bytes or x.held_since:
            self._watch_hold()
        out = gate.take()
        if not out:
            return True
        if self._begun is not None and x.seen.answer_id is not None:
            self._begun()
            self._begun = None
        if x.seen.finished or gate.over:
            self._tell_ended()
        data = out[0] if len(out) == 1 else b"".join(out)
        if not data:
            return True
        x.answer_bytes += len(data)
        return client.give(data)

    def _tell_ended(self) -> None:
        for number, seen in self._x.seen.choices.items():
            finished = seen.finish is not None or self._gate.over
            if finished and number not in self._told and self._gate.settled(number):
                self._told.add(number)
                self._ended(number)

    def _watch_hold(self) -> None:
        x = self._x
        if self._gate.holding:
            x.held_since = x.held_since or time.perf_counter_ns()
        elif x.held_since:
            x.held_ns, x.held_since = x.held(time.perf_counter_ns()), 0


def _finished(task: asyncio.Task[None]) -> bool:
    if not task.done():
        return False
    task.result()
    return True
