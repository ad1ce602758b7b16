"""The parent of several workers: it keeps what they share, watches them, and has the operators' listener.

No request of an agent comes by here. Order of starting: the children, the record, the desk, the workers, the
operators' listener. A worker that ends is started again, at growing intervals, and somebody is told. Ending is the
way back: the workers drain, all at once, and everything else ends after them.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import Callable

from policies.service import effective_bundle
from proxy.launches import Launches
from proxy.operators import Operators
from proxy.plane import every, make_recorder, open_journal
from proxy.recorder import Recorder
from proxy.reloading import with_bundle
from proxy.setup import State, in_private_folder, introduction, listen_admin
from proxy.workers.bundles import BundleServers
from proxy.workers.desk import Desk
from proxy.workers.order import command, order
from proxy.workers.ports import reserve
from serving.launch.process import Backoff, Child, ChildFailed, ChildSpec, ChildState, Watch
from serving.settings import Settings
from tracing.abandoned import settle_abandoned
from tracing.alerts import AlertBook
from tracing.journal import Journal
from tracing.metrics import Metrics
from tracing.worker_metrics import VARIABLE, WorkerMetrics

_SOCKET = "parent.sock"
_ENDING_SECONDS = 10.0
"""What a worker needs beyond ``drain_seconds`` to end what streams, and to write everything down."""


async def _bundle_servers(settings: Settings, launches: Launches) -> BundleServers:
    """Begins with the server that was launched at the start."""

    async def digest() -> str:
        return (await asyncio.to_thread(effective_bundle, settings.policies, settings.agents)).digest

    servers = BundleServers(launches.serve_bundle, digest)
    assert launches.end_opa is not None
    servers.add(await digest(), settings.policies, launches.end_opa)
    return servers


class Parent:
    """``start``, then ``stop``; ``url`` and ``admin_url`` in between."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.draining = False
        self.url = ""
        self.admin_url = ""
        self.notices: list[str] = []
        self._stack = contextlib.AsyncExitStack()
        self._children: dict[int, Child] = {}
        self._desk: Desk | None = None
        self._journal: Journal | None = None
        self._servers: BundleServers | None = None

    async def start(self) -> None:
        """Raises what is wrong with the settings or the surroundings, with everything stopped again."""
        try:
            await self._start()
        except BaseException:
            await self._stop_workers()
            await self._stack.aclose()
            raise

    async def _start(self) -> None:
        settings = self.settings = in_private_folder(self.settings)
        port = reserve(settings.listen.host, settings.listen.port, self._keep)
        listen = settings.listen.model_copy(update={"port": port})
        settings = settings.model_copy(update={"listen": listen})
        settings = await with_bundle(settings, self.notices)
        own_opa = settings.policies.engine == "opa" and settings.policies.opa_url is None
        launches = Launches(self._stack, self.notices)
        settings = await launches.start(settings)
        if own_opa:
            servers = self._servers = await _bundle_servers(settings, launches)
            self._stack.push_async_callback(servers.close)
        journal = self._journal = open_journal(settings)
        self._stack.callback(journal.close)
        settle_abandoned(settings.state_dir, range(settings.workers + 1))
        metrics = Metrics()
        metrics.watch_journal(journal)
        shared = WorkerMetrics(settings.state_dir, metrics)
        alerts = AlertBook()
        recorder = make_recorder(settings, journal, metrics, alerts)
        self._stack.push_async_callback(every(60.0, recorder.expire_alerts))
        state = State(settings)
        await self._start_workers(settings, state, recorder, metrics, shared)
        assert self._desk is not None
        host = f"[{listen.host}]" if ":" in listen.host else listen.host
        self.url = f"http://{host}:{port}"
        operators = Operators(
            settings,
            runs=state.runs,
            admission=state.admission,
            recorder=recorder,
            not_ready=self._not_ready,
            render=shared.render,
            cut=self._desk.cut,
            approvals=self._desk.approvals,
            alerts=alerts,
        )
        self.admin_url = await listen_admin(settings, operators, self._stack)
        self.notices += introduction(settings, self.url, self.admin_url, self._desk.policies)
        self.notices.append(f"{settings.workers} workers, logs in {settings.state_dir / 'logs'}")

    async def stop(self) -> None:
        """The workers drain; then everything else ends."""
        self.draining = True
        await self._stop_workers()
        await self._stack.aclose()

    async def _stop_workers(self) -> None:
        await asyncio.gather(*(child.stop() for child in self._children.values()))

    async def _start_workers(
        self, settings: Settings, state: State, recorder: Recorder, metrics: Metrics, shared: WorkerMetrics
    ) -> None:
        numbers = range(1, settings.workers + 1)
        tokens = {number: secrets.token_urlsafe(32) for number in numbers}
        path = settings.state_dir / _SOCKET
        desk = self._desk = Desk(state, recorder, tokens, self._is_worker, self._servers)
        self._stack.callback(desk.close)
        desk.listen(path)
        metrics.watch("workers_ready", "Workers that take connections.", lambda: float(len(desk.ready)))

        def watched(number: int, state: ChildState) -> None:
            if state in ("waiting", "stopped") and (pid := desk.pids.pop(number, None)) is not None:
                shared.ended(pid)
            if state == "waiting" and not self.draining:
                metrics.worker_ended()
                recorder.fire(
                    "worker_down",
                    "workers",
                    "*",
                    summary="A worker ended by itself and is started again; what it had under way was broken off.",
                    evidence={"worker": number, "restarts": self._children[number].restarts},
                )

        for number in numbers:
            self._children[number] = self._child(number, settings, tokens[number], desk, shared, watched)
        for child in self._children.values():
            child.start()
        for number, child in self._children.items():
            try:
                await child.wait_ready()
            except ChildFailed:
                if (why := desk.failures.get(number)) is not None:
                    raise ValueError(why) from None
                raise

    def _child(
        self,
        number: int,
        settings: Settings,
        token: str,
        desk: Desk,
        shared: WorkerMetrics,
        watched: Callable[[int, ChildState], None],
    ) -> Child:
        async def alive() -> bool:
            return desk.alive(number)

        return Child(
            ChildSpec(
                f"worker {number}",
                command(number),
                env={VARIABLE: str(shared.folder)},
                stdin=order(number, settings.state_dir / _SOCKET, token, settings, asks_opa=self._servers is not None),
                log=settings.state_dir / "logs" / f"worker-{number}.log",
            ),
            probe=alive,
            watch=Watch(ready=120.0, every=2.0, stop=settings.listen.drain_seconds + _ENDING_SECONDS),
            backoff=Backoff(first=0.1, ceiling=30.0),
            on_state=lambda state: watched(number, state),
        )

    def _keep(self, sock: socket.socket) -> None:
        self._stack.callback(sock.close)

    def _is_worker(self, number: int, pid: int) -> bool:
        child = self._children.get(number)
        return child is not None and child.pid == pid

    def _not_ready(self) -> str | None:
        assert self._desk is not None and self._journal is not None
        if self.draining:
            return "stopping"
        if not self._desk.ready:
            return "no worker takes connections"
        trouble = self._journal.failure or self._desk.trouble
        return None if trouble is None else f"the journal cannot be written: {trouble}"
