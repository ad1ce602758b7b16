"""The data plane of one process: what an exchange passes through, from the listener to the journal.

Order of starting: the judges, the record (so that nothing happens that could not be written down), the relay, the
listener. Ending is the way back: no new connections, what runs may finish within ``drain_seconds``, what still
streams then ends as the model server's own SIGTERM would end it, everything is settled, and the journal is closed
last.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from policies.engines.base import EngineError
from policies.in_force import Policies
from policies.model import BudgetFacts, CheckFact
from policies.service import PolicySet
from proxy import __version__
from proxy.approvals import Approvals
from proxy.backgrounds import Histories
from proxy.beside import Beside
from proxy.breakers.admission import Admission
from proxy.carry import CarryingServer, Upstream
from proxy.coverage import CoverageWatch
from proxy.desks import desks
from proxy.exchange import Exchange
from proxy.identity import ANONYMOUS, Identifier
from proxy.judge import Judge
from proxy.judges import Judges
from proxy.recorder import Recorder
from proxy.relay import Relay
from proxy.reloading import Ends, Reloader, Serve, Stamp, fetched_bundle, serials_of, stamp_of
from proxy.server_time import ShareMeter
from proxy.state import Alerts, Runs
from serving.patterns import shipped_redactor
from serving.settings import Settings
from tracing.captures import CaptureModes, Captures
from tracing.journal import Journal, JournalClosed
from tracing.metrics import Metrics
from tracing.prices import PriceBook
from tracing.writer_link import WriterLink
from tracing.writer_process import WriterProcess

_CHECKS_GRACE = 2.0
_STREAMS_GRACE = 2.0
_CHAINS_TRIED = 16
_PATIENCE = 5.0  # seconds for the writer of a process that was killed to have written what it was handed


class DataPlane:
    """``start``, ``listen``, then ``stop``. ``settings`` say where everything runs that others launched.

    ``worker``: the number of the journal's chain, where there are several; then the data port is shared with the
    other workers. ``serve`` and ``end_served``: of an OPA of our own, what starts another one, and what ends the one
    that the settings name. ``waits`` is told what waits for approval, and its id when it no longer does.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        runs: Runs,
        admission: Admission,
        alerts: Alerts | None = None,
        share: ShareMeter | None = None,
        worker: int = 0,
        serve: Serve | None = None,
        end_served: Ends | None = None,
        waits: Callable[[dict[str, Any] | str], None] = lambda _: None,
    ) -> None:
        self.settings = settings
        self._waits = waits
        self._serve = serve
        self._end_served = end_served
        self._loaded: Stamp = ()
        self.metrics = Metrics()
        self.url = ""
        self.judges: Judges | None = None
        self._worker = worker
        self._runs = runs
        self._admission = admission
        self._alerts = alerts
        self._share = share
        self._stack = contextlib.AsyncExitStack()
        self._runner: web.ServerRunner | None = None

    async def start(self) -> None:
        """Everything but the listener. Raises what is wrong with the settings or the surroundings, with everything
        stopped again."""
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise

    async def _start(self) -> None:
        settings, metrics = self.settings, self.metrics
        writer = WriterProcess()  # comes up while the policies do
        self._stack.callback(writer.end)
        self._loaded = stamp_of(settings.policies)
        policies = Policies.load(settings.policies, settings.agents, serials_of(settings))
        await policies.start()
        self._stack.push_async_callback(self._close_policies, policies)
        if self._serve is not None:
            await self._require_served(policies)
        policies.taken()
        journal = self.journal = open_writer(settings, writer, self._worker, policies.digest, policies.rollout.digest)
        self._stack.callback(journal.close)
        metrics.watch_journal(journal)
        recorder = self.recorder = make_recorder(settings, journal, metrics, self._alerts)
        beside = Beside(recorder, metrics, CoverageWatch(settings.alerts, recorder))
        await self._start_checks(settings, beside)
        admission = self._admission

        async def facts(x: Exchange) -> tuple[list[CheckFact], list[BudgetFacts]]:
            return beside.facts(x), await admission.budgets(x.agent, x.sighting.run.id)

        histories = self.histories = Histories(settings.tools, settings.state_dir)
        self._stack.callback(histories.close)

        approvals = self.approvals = Approvals(settings.policies.approval, recorder, changed=self._waits)

        def judge(policies: PolicySet) -> Judge:
            return Judge(
                policies,
                settings.policies,
                recorder,
                metrics,
                json_depth=settings.limits.json_depth,
                facts=facts,
                histories=histories,
                approvals=approvals,
            )

        judges = self.judges = Judges(policies, judge)
        upstream = Upstream(settings.upstream, settings.limits)
        self._stack.push_async_callback(upstream.close)
        self.relay = Relay(
            settings,
            upstream=upstream,
            identifier=Identifier(settings),
            runs=self._runs,
            admission=admission,
            judges=judges,
            recorder=recorder,
            beside=beside,
            metrics=metrics,
            share=self._share,
        )
        self._stack.push_async_callback(self.relay.live.settled)
        self._stack.push_async_callback(every(60.0, recorder.expire_alerts))
        self._stack.push_async_callback(every(2.0, self.relay.holes.give_back))
        recorder.exceptions_end(policies)
        self._stack.push_async_callback(every(300.0, lambda: recorder.exceptions_end(judges.policies)))
        if settings.policies.reload_seconds:
            self._watch_policies(settings, judges, recorder)

    async def _require_served(self, policies: Policies) -> None:
        """An OPA of our own has the bundle that was read, or that has changed in between: ``RuntimeError``."""
        try:
            await policies.prove()
        except EngineError as problem:
            raise RuntimeError(f"the OPA that was launched cannot be asked: {problem}") from None

    async def _close_policies(self, first: Policies) -> None:
        """Those in force; the ones that were loaded first, if the start did not come further."""
        await (self.judges.policies if self.judges is not None else first).close()

    def _watch_policies(self, settings: Settings, judges: Judges, recorder: Recorder) -> None:
        reloader = Reloader(
            settings,
            judges,
            self.relay.live,
            recorder,
            self._loaded,
            fetched=fetched_bundle(settings),
            serve=self._serve,
            end=self._end_served,
        )
        watching = asyncio.create_task(reloader.watch())

        async def end() -> None:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
            await self.relay.live.settled()  # what is asked last about an answer is asked of the set it began with
            await reloader.close()

        self._stack.push_async_callback(end)

    async def listen(self) -> None:
        """Take connections; ``url`` says where."""
        _calm_collector()
        listen = self.settings.listen
        server = CarryingServer(self.relay.handle, self.settings.limits)
        runner = self._runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=1.0)
        self._stack.push_async_callback(runner.cleanup)
        await runner.setup()
        shared = True if self._worker else None
        await web.TCPSite(runner, listen.host, listen.port, backlog=2048, reuse_address=True, reuse_port=shared).start()
        self.url = url_of(runner)

    async def stop(self) -> None:
        """Drain, end, settle, close."""
        if self._runner is not None:
            for site in list(self._runner.sites):
                await site.stop()
            await self._until_idle(self.settings.listen.drain_seconds)
            self.relay.live.stop_streams()
            await self._until_idle(_STREAMS_GRACE)
        await self._stack.aclose()

    def describe(self) -> str:
        """The policies in force, in one line."""
        assert self.judges is not None, "it was started"
        policies = self.judges.policies
        of_all = policies.of(ANONYMOUS, None)
        modes = ", ".join(
            f"{name} {mode.value}" for name, mode in sorted(of_all.modes.items()) if name not in of_all.idle
        )
        said = f"policies ({policies.engine}, bundle {policies.digest.removeprefix('sha256:')[:12]}): {modes}"
        if of_all.idle:
            said += f"; not asked, because `policies.data` gives them nothing: {', '.join(of_all.idle)}"
        if self.settings.policies.rollout is not None:
            said += f"; by the roll-out {self.settings.policies.rollout} some agents may have others"
        if policies.strangers:
            said += f"; the roll-out names agents that the settings do not have: {', '.join(policies.strangers)}"
        return said

    async def _until_idle(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.relay.live.idle.wait()

    async def _start_checks(self, settings: Settings, beside: Beside) -> None:
        for desk in desks(settings, beside.verdict):
            self._stack.push_async_callback(desk.session.close)
            self._stack.push_async_callback(desk.scheduler.close, _CHECKS_GRACE)
            await desk.scheduler.start()
            beside.desks.append(desk)


def open_journal(settings: Settings) -> Journal:
    """The chain of a process that serves nobody itself, and so may write it itself."""
    tracing = settings.tracing
    return Journal.open(
        settings.state_dir, fsync=tracing.fsync, segment_bytes=tracing.segment_bytes, version=__version__
    )


def open_writer(
    settings: Settings, process: WriterProcess | None, worker: int = 0, bundle: str = "", rollout: str = ""
) -> WriterLink:
    """The chain of this process, written by ``process``. Where the parent of a worker was killed, the worker of that
    number may still be ending: then the chain is the next one of another round (``worker`` plus a multiple of 1000)."""
    tries = [worker + 1000 * lap for lap in range(_CHAINS_TRIED)] if worker else [0]
    for number in tries:
        with contextlib.suppress(JournalClosed) if number != tries[-1] else contextlib.nullcontext():
            return WriterLink.open(
                settings.state_dir,
                worker=number,
                fsync=settings.tracing.fsync,
                segment_bytes=settings.tracing.segment_bytes,
                modes=_capture_modes(settings),
                patience=_PATIENCE if number == tries[-1] else _PATIENCE / 10,
                version=__version__,
                bundle=bundle,
                rollout=rollout,
                process=process if number == tries[0] else None,
            )
    raise AssertionError("the last one was opened, or raised")


def make_recorder(
    settings: Settings, journal: Journal | WriterLink, metrics: Metrics, alerts: Alerts | None = None
) -> Recorder:
    """What writes to this journal, each agent's content as its settings want it."""
    modes = _capture_modes(settings)
    return Recorder(
        journal,
        modes=modes,
        captures=Captures(modes, settings.state_dir, shipped_redactor()),
        prices=PriceBook.load(settings.tracing.prices),
        metrics=metrics,
        alerts=alerts,
    )


def _capture_modes(settings: Settings) -> CaptureModes:
    own = {name: agent.capture for name, agent in settings.agents.items() if agent.capture is not None}
    return CaptureModes(settings.tracing.capture, own, settings.tracing.capture_bytes)


def _calm_collector() -> None:
    """What was made by now stays: the garbage collector need not look at it again. And look less often: what an
    exchange leaves behind is freed by counting references, all but a few cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def every(seconds: float, what: Callable[[], object]) -> Callable[[], Awaitable[None]]:
    """Do it again and again; gives what ends that."""

    async def repeat() -> None:
        while True:
            await asyncio.sleep(seconds)
            what()

    task = asyncio.create_task(repeat())

    async def end() -> None:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    return end


def url_of(runner: web.BaseRunner) -> str:
    """Where a runner listens."""
    host, port, *_ = runner.addresses[0]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
