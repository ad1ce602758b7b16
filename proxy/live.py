"""What runs now in this process: what a kill cuts, what a shutdown ends, and what it waits for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from proxy.exchange import Exchange
from proxy.streamed import Killed, Stopping

LEAVING_SECONDS = 2.0
"""How long the last words of a stream that was ended may take to leave: a client that takes nothing is then cut off."""

KILLED = "Interlock ended this answer here (rule: run_killed): an operator stopped this run. Tell the user."

_log = logging.getLogger(__name__)


class _Stream(NamedTuple):
    end: Callable[[Stopping | Killed], None]
    leave: Callable[[], None]


class _Epoch:
    """The requests that began between two changes of the policies."""

    __slots__ = ("empty", "underway")

    def __init__(self) -> None:
        self.underway = 0
        self.empty: asyncio.Event | None = None


class Live:
    """``idle`` is set while no request is under way."""

    def __init__(self) -> None:
        self._exchanges: dict[str, Exchange] = {}
        self._streams: dict[str, _Stream] = {}
        self._settling: set[asyncio.Task[None]] = set()
        self._underway = 0
        self._epoch = _Epoch()
        self._epochs: list[_Epoch] = []
        self.idle = asyncio.Event()
        self.idle.set()

    def request_begun(self) -> _Epoch:
        """Gives what :meth:`request_over` is to be told."""
        self._underway += 1
        self.idle.clear()
        self._epoch.underway += 1
        return self._epoch

    def request_over(self, epoch: _Epoch) -> None:
        self._underway -= 1
        epoch.underway -= 1
        if not epoch.underway and epoch.empty is not None:
            epoch.empty.set()
        if not self._underway:
            self.idle.set()

    async def passed(self) -> None:
        """Wait until every request that is under way now is over, and on record."""
        begun, self._epoch = self._epoch, _Epoch()
        epochs = [epoch for epoch in (*self._epochs, begun) if epoch.underway]
        self._epochs = epochs
        for epoch in epochs:  # one of an earlier epoch may have got its judge late: its body took so long
            if epoch.underway:
                epoch.empty = epoch.empty or asyncio.Event()
                await epoch.empty.wait()
        settling = set(self._settling)
        if settling:
            await asyncio.wait(settling)

    def admitted(self, x: Exchange) -> None:
        """From here on a kill finds the exchange. Called in the task that it is handled in."""
        x.waiting = asyncio.current_task()
        self._exchanges[x.id] = x

    def over(self, x: Exchange) -> None:
        self._exchanges.pop(x.id, None)

    @contextmanager
    def streaming(
        self, x: Exchange, end: Callable[[Stopping | Killed], None], leave: Callable[[], None]
    ) -> Iterator[None]:
        """While an answer flows, to its last byte: ``end`` is told what ends it, and the task is left alone. If it is
        not over soon, because the client reads nothing, ``leave`` breaks the client's connection off."""
        x.waiting = None
        self._streams[x.id] = _Stream(end, leave)
        try:
            yield
        finally:
            self._streams.pop(x.id, None)

    def stop_streams(self) -> None:
        """End what still flows as the model server's own SIGTERM would."""
        for name in list(self._streams):
            self._end(name, Stopping())

    def cut(self, agent: str | None, run: str | None) -> None:
        """End what runs now of a killed run, of an agent, or (both None) everything: a stream is cut, and what has
        not begun to answer is refused."""
        for x in list(self._exchanges.values()):
            if agent not in (None, x.agent) or run not in (None, x.sighting.run.id):
                continue
            x.killed = True
            if x.id in self._streams:
                self._end(x.id, Killed(KILLED))
            elif x.waiting is not None:
                x.waiting.cancel()

    def _end(self, name: str, problem: Stopping | Killed) -> None:
        stream = self._streams[name]
        stream.end(problem)
        asyncio.get_running_loop().call_later(LEAVING_SECONDS, self._leave, name, stream)

    def _leave(self, name: str, stream: _Stream) -> None:
        if self._streams.get(name) is stream:
            stream.leave()

    def later(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Do this in a task of its own, which no disconnect cancels."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._settling.add(task)
        task.add_done_callback(self._done)

    async def settled(self) -> None:
        """Wait until every exchange that is over is on record."""
        while self._settling:
            await asyncio.wait(self._settling)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._settling.discard(task)
        if not task.cancelled() and (problem := task.exception()) is not None:
            _log.error("settling failed", exc_info=problem)
