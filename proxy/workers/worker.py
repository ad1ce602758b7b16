"""A worker process: the data plane, with what is shared behind a socket to the parent.

It ends in good order on SIGTERM, and when the parent is gone: then it takes no more connections and admits nothing,
what is under way may finish, and the process exits. The parent starts it again, if there is one.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import signal
import sys
import time
from pathlib import Path
from typing import Any

import uvloop
from pydantic import SecretStr

from proxy.approvals import AlreadyDecided, UnknownApproval
from proxy.plane import DataPlane
from proxy.reloading import Ends
from proxy.workers import words
from proxy.workers.link import Link, connect
from proxy.workers.order import Order, read_order
from proxy.workers.remote import Caller, RemoteAdmission, RemoteAlerts, RemoteRuns, RemoteShare, RemoteStore
from serving.allocator import calm_allocator
from serving.settings import PolicySettings, Settings
from tracing.journal import JournalError
from tracing.prices import PriceBook

_log = logging.getLogger("interlock.worker")
_BEAT_SECONDS = 1.0


class Worker:
    """``run`` until it is told to end, or the parent is gone; gives the exit code."""

    def __init__(self, order: Order, settings: Settings) -> None:
        self._order = order
        self._settings = settings
        self._parent = Caller(self._noticed)
        self._plane: DataPlane | None = None
        self._runs: RemoteRuns | None = None
        self._admission: RemoteAdmission | None = None
        self._share: RemoteShare | None = None
        self._answering: set[asyncio.Task[None]] = set()
        self._wanted: dict[int, asyncio.Future[words.Served]] = {}
        self._numbers = itertools.count(1)

    async def run(self, ended: asyncio.Event) -> int:
        link = Link(connect(Path(self._order.socket)), self._parent.heard, self._parent.lost)
        self._parent.use(link)
        welcome: words.Welcome = await self._parent.ask(
            words.Hello(self._order.token, self._order.number), words.Welcome
        )
        beating = asyncio.create_task(self._beat())
        try:
            plane = await self._start(welcome.key)
            self._parent.tell(words.Ready(plane.describe()))
            await _either(ended, self._parent.gone)
            if self._parent.gone.is_set():
                _log.error("the parent is gone: nothing is admitted any more, what is under way may finish")
            await plane.stop()
        except (OSError, ValueError, RuntimeError) as error:  # what the parent's own start would have said
            self._parent.tell(words.Failed(str(error)))
            raise
        finally:
            beating.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await beating
            link.close()
        return 0

    async def _start(self, key: bytes) -> DataPlane:
        settings, parent = self._settings, self._parent
        end_served = None
        if self._order.asks_opa:  # the one of the order may have ended since
            served, end_served = await self._serve()
            settings = settings.model_copy(update={"policies": served})
        store = RemoteStore(parent)
        self._runs = RemoteRuns(parent, key, store)
        self._admission = RemoteAdmission(settings.breakers, settings.agents, parent, store)
        if PriceBook.load(settings.tracing.prices).by_time:
            self._share = RemoteShare(parent, time.monotonic)
        plane = DataPlane(
            settings,
            runs=self._runs,
            admission=self._admission,
            alerts=RemoteAlerts(parent),
            share=self._share,
            worker=self._order.number,
            waits=self._waits,
            serve=self._serve if self._order.asks_opa else None,
            end_served=end_served,
        )
        await plane.start()
        try:
            await plane.listen()
        except BaseException:
            await plane.stop()
            raise
        self._plane = plane
        return plane

    def _noticed(self, word: words.FromParent) -> None:
        match word:
            case words.Cut(agent, run):
                if self._admission is not None:
                    self._admission.cut(agent, run)
                if self._plane is not None:
                    self._plane.relay.live.cut(agent, run)
            case words.Noted():
                if self._runs is not None:
                    self._runs.noted(word)
            case words.Approve():
                task = asyncio.get_running_loop().create_task(self._answer(word))
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)
            case words.Served():
                if (wanted := self._wanted.pop(word.number, None)) is not None and not wanted.done():
                    wanted.set_result(word)
            case words.Others(exchanges):
                if self._share is not None:
                    self._share.others(exchanges)

    async def _serve(self) -> tuple[PolicySettings, Ends]:
        """A server of the parent's with the bundle as it is on disk now. ``RuntimeError`` if there is none."""
        number = next(self._numbers)
        served: asyncio.Future[words.Served] = asyncio.get_running_loop().create_future()
        self._wanted[number] = served
        self._parent.tell(words.Serve(number))
        await _either(served, self._parent.gone)
        if not served.done():
            raise RuntimeError("the parent is gone")
        word = served.result()
        if word.problem is not None:
            raise RuntimeError(word.problem)

        async def end() -> None:
            self._parent.tell(words.DoneWith(word.url))

        where = {"opa_url": word.url, "opa_token": SecretStr(word.token)}
        return self._settings.policies.model_copy(update=where), end

    def _waits(self, what: dict[str, Any] | str) -> None:
        self._parent.tell(words.WaitsNoMore(what) if isinstance(what, str) else words.Waits(what))

    async def _answer(self, word: words.Approve) -> None:
        """An operator's answer to what waits here; the parent is told what became of it, whatever that is."""
        answered = words.Approved(word.number, trouble="it could not be answered")
        try:
            if self._plane is None:
                raise UnknownApproval
            done = await self._plane.approvals.settle(
                word.name, approve=word.approve, operator=word.operator, reason=word.reason
            )
            answered = words.Approved(word.number, done=dict(done))
        except UnknownApproval:
            answered = words.Approved(word.number)
        except AlreadyDecided as first:
            answered = words.Approved(word.number, first=(first.operator, first.action))
        except JournalError as problem:
            answered = words.Approved(word.number, trouble=str(problem))
        finally:
            self._parent.tell(answered)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(_BEAT_SECONDS)
            self._parent.check()
            plane = self._plane
            if plane is not None:
                plane.metrics.tick()
            self._parent.tell(words.Beat(plane.journal.failure if plane is not None else None))


async def _either(*events: asyncio.Event | asyncio.Future[Any]) -> None:
    waiting = [
        asyncio.create_task(event.wait()) if isinstance(event, asyncio.Event) else asyncio.shield(event)
        for event in events
    ]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()


async def main(order: Order, settings: Settings) -> int:
    """Run as a process."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    loop.add_signal_handler(signal.SIGINT, lambda: None)  # a terminal's ^C is for the parent, which ends us
    return await Worker(order, settings).run(ended)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    calm_allocator()
    sys.exit(uvloop.run(main(*read_order(sys.stdin.buffer.read()))))
