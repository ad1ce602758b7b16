"""Puts Interlock together, starts it, and lets it end in good order.

One worker, the default, is this process with everything in it: what it launched, the data plane, what is kept of
runs and budgets, and the operators' listener. With ``workers`` above 1 this process is their parent
(:mod:`proxy.workers`). Ending is the way back: no new connections, what runs may finish, the children last.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable

import uvloop

from proxy.launches import Launches
from proxy.operators import Operators
from proxy.plane import DataPlane
from proxy.reloading import with_bundle
from proxy.setup import State, in_private_folder, introduction, listen_admin
from proxy.state import OwnRuns
from proxy.workers.parent import Parent
from serving.allocator import calm_allocator
from serving.settings import Settings
from tracing.abandoned import settle_abandoned
from tracing.alerts import AlertBook


class Interlock:
    """One worker with its children. ``start``, then ``stop``; ``url`` and ``admin_url`` in between."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.draining = False
        self._stack = contextlib.AsyncExitStack()
        self._plane: DataPlane | None = None
        self.url = ""
        self.admin_url = ""
        self.notices: list[str] = []

    async def start(self) -> None:
        """Raises what is wrong with the settings or the surroundings, with everything stopped again."""
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise

    async def _start(self) -> None:
        settings = self.settings = in_private_folder(self.settings)
        settings = await with_bundle(settings, self.notices)
        launches = Launches(self._stack, self.notices)
        own_opa = settings.policies.engine == "opa" and settings.policies.opa_url is None
        settings = await launches.start(settings)
        settle_abandoned(settings.state_dir, range(1))
        state = State(settings)
        alerts = AlertBook()
        plane = DataPlane(
            settings,
            runs=OwnRuns(state.runs),
            admission=state.admission,
            alerts=alerts,
            serve=launches.serve_bundle if own_opa else None,
            end_served=launches.end_opa,
        )
        await plane.start()
        self._plane = plane
        self._stack.push_async_callback(plane.stop)
        await plane.listen()
        self.url = plane.url
        operators = Operators(
            settings,
            runs=state.runs,
            admission=state.admission,
            recorder=plane.recorder,
            not_ready=self._not_ready,
            render=plane.metrics.render,
            cut=plane.relay.live.cut,
            approvals=plane.approvals,
            alerts=alerts,
        )
        self.admin_url = await listen_admin(settings, operators, self._stack)
        self.notices += introduction(settings, self.url, self.admin_url, plane.describe())

    def _not_ready(self) -> str | None:
        assert self._plane is not None
        journal = self._plane.journal
        if self.draining:
            return "stopping"
        return None if journal.healthy else f"the journal cannot be written: {journal.failure}"

    async def stop(self) -> None:
        """Drain, end, settle, close."""
        self.draining = True
        if self._plane is not None:
            await self._plane.stop()
        await self._stack.aclose()


async def _serve(settings: Settings, tell: Callable[[str], None]) -> int:
    interlock = Parent(settings) if settings.workers > 1 else Interlock(settings)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    starting = asyncio.create_task(interlock.start())
    waiting = asyncio.create_task(ended.wait())
    await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting
        return 0
    waiting.cancel() if starting.exception() else None
    starting.result()
    for notice in interlock.notices:
        tell(notice)
    await waiting
    tell("stopping: no new connections; what runs may finish")
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)
    await interlock.stop()
    return 0


def serve(settings: Settings, tell: Callable[[str], None] = print) -> int:
    """Run until SIGTERM or SIGINT; gives the exit code. Raises what keeps it from starting."""
    calm_allocator()
    return uvloop.run(_serve(settings, tell))
