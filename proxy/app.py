"""Puts Interlock together, starts it, and lets it end in good order.

Order of starting: the record (so that nothing happens that could not be written down), the judges, the
children, the listeners. Ending is the way back: no new connections, what runs may finish within
``drain_seconds``, what still streams then ends as the model server's own SIGTERM would end it, everything is
settled, and the journal is closed last.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import uvloop
from aiohttp import web
from pydantic import SecretStr

from checks.nemo import CONFIG_ROOT, NemoCheck
from checks.scheduler import CheckScheduler
from policies.model import BudgetFacts, CheckFact
from policies.service import PolicySet, effective_bundle
from proxy import __version__
from proxy.admin import admin_app
from proxy.beside import Beside
from proxy.breakers.admission import Admission
from proxy.breakers.store import MemoryStore
from proxy.carry import CarryingServer, Upstream
from proxy.exchange import Exchange
from proxy.identity import Identifier
from proxy.judge import Judge
from proxy.operators import Operators
from proxy.recorder import Recorder
from proxy.relay import Relay
from proxy.runs import RunBook
from serving.launch.nemo import NemoServer
from serving.launch.opa import OpaServer
from serving.launch.process import Child, ChildSpec
from serving.launch.vllm import VllmServer
from serving.patterns import shipped_redactor
from serving.settings import OtlpSettings, PolicySettings, Settings
from tracing.capture import Capture, Mode
from tracing.exporter import exporter_command, exporter_settings
from tracing.folders import private_folder
from tracing.journal import Journal
from tracing.keys import RunKeys
from tracing.metrics import Metrics
from tracing.prices import PriceBook
from tracing.sinks import SinkAway, find_experiment

_log = logging.getLogger("interlock")

_CHECKS_GRACE = 2.0
_STREAMS_GRACE = 2.0


class Interlock:
    """One worker with its children. ``start``, then ``stop``; ``url`` and ``admin_url`` in between."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.draining = False
        self._stack = contextlib.AsyncExitStack()
        self._relay: Relay | None = None
        self._runner: web.ServerRunner | None = None
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
        state_dir = self.settings.state_dir.expanduser()
        settings = self.settings = self.settings.model_copy(update={"state_dir": state_dir})
        private_folder(state_dir, state_dir)
        settings = await self._launch_model(settings)
        if settings.policies.engine == "opa" and settings.policies.opa_url is None:
            settings = settings.model_copy(update={"policies": await self._launch_opa(settings)})
        policies = PolicySet.load(settings.policies, settings.agents)
        await policies.start()
        self._stack.push_async_callback(policies.close)
        journal = Journal.open(
            state_dir,
            fsync=settings.tracing.fsync,
            segment_bytes=settings.tracing.segment_bytes,
            version=__version__,
            bundle=policies.digest,
            rollout=policies.rollout_digest,
        )
        self._stack.callback(journal.close)
        metrics = Metrics()
        metrics.watch_journal(journal)
        recorder = self._recorder(settings, journal, RunKeys(state_dir), metrics)
        self._start_exporter(settings)

        runs = RunBook(settings.breakers, time.monotonic, lambda: secrets.token_hex(8), secrets.token_bytes(32))
        admission = Admission(settings.breakers, settings.agents, MemoryStore(time.monotonic), time.monotonic)
        beside = Beside(recorder, metrics)
        await self._start_checks(settings, beside)

        async def facts(x: Exchange) -> tuple[list[CheckFact], list[BudgetFacts]]:
            return beside.facts(x), await admission.budgets(x.agent, x.sighting.run.id)

        judge = Judge(
            policies,
            settings.policies,
            recorder,
            metrics,
            json_depth=settings.limits.json_depth,
            facts=facts,
        )
        upstream = Upstream(settings.upstream, settings.limits)
        self._stack.push_async_callback(upstream.close)
        relay = self._relay = Relay(
            settings,
            upstream=upstream,
            identifier=Identifier(settings),
            runs=runs,
            admission=admission,
            judge=judge,
            recorder=recorder,
            beside=beside,
            metrics=metrics,
        )
        self._stack.push_async_callback(relay.settled)
        self._every(60.0, recorder.expire_alerts)

        operators = Operators(
            settings,
            runs=runs,
            admission=admission,
            recorder=recorder,
            metrics=metrics,
            journal=journal,
            draining=lambda: self.draining,
            cut=relay.cut,
        )
        await self._listen(settings, relay, operators)
        self._say(settings, policies)

    async def stop(self) -> None:
        """Drain, end, settle, close."""
        self.draining = True
        if self._runner is not None:
            for site in list(self._runner.sites):
                await site.stop()
        if self._relay is not None:
            await self._until_idle(self.settings.listen.drain_seconds)
            self._relay.stop_streams()
            await self._until_idle(_STREAMS_GRACE)
        await self._stack.aclose()

    async def _until_idle(self, seconds: float) -> None:
        assert self._relay is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._relay.idle.wait()

    # -- parts -------------------------------------------------------------------------------------

    def _recorder(self, settings: Settings, journal: Journal, keys: RunKeys, metrics: Metrics) -> Recorder:
        redact = shipped_redactor()

        def capture(mode: Mode) -> Capture:
            return Capture(mode, redact, keys.key, settings.tracing.capture_bytes)

        return Recorder(
            journal,
            captures={
                name: capture(agent.capture) for name, agent in settings.agents.items() if agent.capture is not None
            },
            default=capture(settings.tracing.capture),
            prices=PriceBook.load(settings.tracing.prices),
            metrics=metrics,
        )

    async def _launch_model(self, settings: Settings) -> Settings:
        if settings.model.name is None:
            return settings
        server = VllmServer(settings, await self._model_traces(settings))
        self._stack.push_async_callback(server.stop)
        upstream = await server.start()
        self.notices.append(f"launched vLLM with {settings.model.name}")
        return settings.model_copy(update={"upstream": upstream})

    async def _model_traces(self, settings: Settings) -> OtlpSettings | None:
        """Where vLLM's own spans go: to the first collector, or where there is none to MLflow, if that is up."""
        mlflow = settings.tracing.mlflow
        if settings.tracing.otlp or mlflow is None:
            return next(iter(settings.tracing.otlp), None)
        headers = {"Authorization": f"Bearer {mlflow.token.get_secret_value()}"} if mlflow.token else {}
        try:
            async with aiohttp.ClientSession() as session:
                experiment = await find_experiment(session, mlflow.url, mlflow.experiment, headers)
        except SinkAway as problem:
            self.notices.append(f"vLLM's own spans are not sent: MLflow: {problem}")
            return None
        secret = {"x-mlflow-experiment-id": experiment, **headers}
        return OtlpSettings(
            endpoint=f"{mlflow.url.rstrip('/')}/v1/traces",
            headers={name: SecretStr(value) for name, value in secret.items()},
        )

    async def _launch_opa(self, settings: Settings) -> PolicySettings:
        """An OPA of our own that serves the very bundle that decisions will be compared with."""
        bundle = settings.state_dir / "opa" / "bundle"
        effective_bundle(settings.policies, settings.agents).write(bundle)
        server = OpaServer(settings.policies, bundle, settings.state_dir)
        self._stack.push_async_callback(server.stop)
        await server.start()
        self.notices.append(f"launched OPA on {server.url}")
        return settings.policies.model_copy(update={"opa_url": server.url, "opa_token": SecretStr(server.token)})

    def _start_exporter(self, settings: Settings) -> None:
        """The exporter is supervised like any child; what it missed it makes up from the journal."""

        async def alive() -> bool:
            return True

        child = Child(
            ChildSpec(
                "exporter",
                tuple(exporter_command(settings.state_dir)),
                stdin=exporter_settings(settings.tracing, settings.alerts, version=__version__),
                log=settings.state_dir / "logs" / "exporter.log",
            ),
            probe=alive,
        )
        self._stack.push_async_callback(child.stop)
        child.start()

    async def _start_checks(self, settings: Settings, beside: Beside) -> None:
        """Checks are never waited for, their server's start neither: until it is up, they are errors."""
        checks, nemo = settings.checks, settings.checks.nemo
        url, token = nemo.url, nemo.token.get_secret_value() if nemo.token else None
        if nemo.launch:
            server = NemoServer(
                nemo.python or Path(sys.executable),
                CONFIG_ROOT,
                config_id=nemo.config_id,
                state_dir=settings.state_dir,
            )
            self._stack.push_async_callback(server.stop)
            server.start()
            url, token = server.url, server.token
        if url is None:
            return
        session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        self._stack.push_async_callback(session.close)
        scheduler = CheckScheduler(
            NemoCheck(session, url, config_id=nemo.config_id, token=token),
            queue=checks.queue,
            concurrency=checks.concurrency,
            timeout_seconds=checks.timeout_seconds,
            max_text_bytes=checks.max_text_bytes,
            on_verdict=beside.verdict,
        )
        self._stack.push_async_callback(scheduler.close, _CHECKS_GRACE)
        await scheduler.start()
        beside.scheduler = scheduler
        self.notices.append(f"NeMo Guardrails at {url} (beside the traffic)")

    async def _listen(self, settings: Settings, relay: Relay, operators: Operators) -> None:
        listen = settings.listen
        server = CarryingServer(relay.handle, settings.limits)
        runner = self._runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=1.0)
        self._stack.push_async_callback(runner.cleanup)
        await runner.setup()
        site = web.TCPSite(runner, listen.host, listen.port, backlog=2048, reuse_address=True)
        await site.start()
        self.url = _url(runner)
        admin = web.AppRunner(admin_app(operators, listen.admin_token), access_log=None, handle_signals=False)
        self._stack.push_async_callback(admin.cleanup)
        await admin.setup()
        await web.TCPSite(admin, listen.admin_host, listen.admin_port).start()
        self.admin_url = _url(admin)

    def _every(self, seconds: float, what: Callable[[], None]) -> None:
        async def repeat() -> None:
            while True:
                await asyncio.sleep(seconds)
                what()

        task = asyncio.create_task(repeat())

        async def end() -> None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

        self._stack.push_async_callback(end)

    def _say(self, settings: Settings, policies: PolicySet) -> None:
        modes = ", ".join(f"{name} {mode.value}" for name, mode in sorted(policies.modes.items()))
        self.notices += [
            f"listening on {self.url}, admin on {self.admin_url}",
            f"upstream {settings.upstream.url}",
            f"policies ({policies.engine}, bundle {policies.digest.removeprefix('sha256:')[:12]}): {modes}",
            f"state in {settings.state_dir.expanduser()}, capture {settings.tracing.capture}",
        ]


def _url(runner: web.BaseRunner) -> str:
    host, port, *_ = runner.addresses[0]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _serve(settings: Settings, tell: Callable[[str], None]) -> int:
    interlock = Interlock(settings)
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
    return uvloop.run(_serve(settings, tell))
