"""The exporter: a process of its own that tails the journal and sends what is made from it.

    python -m tracing.exporter --state-dir DIR --settings-json - [--parent PID]

The settings (with the sinks' credentials) come over stdin or from a private file, never as arguments or
variables. Whoever starts it makes both with :func:`exporter_command` and :func:`exporter_settings`, and starts
it again when it ends. It runs at low priority, ends on SIGTERM after one last pass, and ends by itself when its
parent is gone, so that a killed Interlock leaves none behind. Of two on one state folder the second waits.

Its memory is in ``<state>/exporter/``: one place per sink, and ``status.json`` with how each does.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from serving.allocator import calm_allocator
from serving.settings import AlertSettings, TracingSettings
from tracing.delivery import AlertDelivery, Delivery, SpanDelivery
from tracing.feed import Feed, Place
from tracing.folders import replace_file
from tracing.places import Places, sink_name
from tracing.sinks import MlflowSink, SinkAway, SpanSink
from tracing.spans import resource
from tracing.webhook import Webhook

_log = logging.getLogger("interlock.exporter")

# What ``python -m tracing.exporter`` does, but from the folder that this file is in: neither the folder that
# Interlock was started in nor a variable has a say in which code gets the sinks' credentials.
_START = """
import runpy, sys
sys.path.insert(0, sys.argv.pop(1))
runpy.run_module("tracing.exporter", run_name="__main__", alter_sys=True)
"""
_POLL_SECONDS = 0.25
_STATUS_SECONDS = 5.0
_AFTER_A_FAULT_SECONDS = 5.0
_LAST_PASS_SECONDS = 5.0
_ALERT_BACKFILL_SECONDS = 600.0


class OtlpTarget(msgspec.Struct, frozen=True):
    endpoint: str
    headers: dict[str, str] = {}


class MlflowTarget(msgspec.Struct, frozen=True):
    url: str
    experiment: str
    token: str | None = None


class WebhookTarget(msgspec.Struct, frozen=True):
    url: str
    secret: str


class ExporterSettings(msgspec.Struct, frozen=True):
    """What the exporter is told. Holds credentials: for stdin or a 0600 file only."""

    instance: str = "local"
    version: str = ""
    otlp: list[OtlpTarget] = []
    mlflow: MlflowTarget | None = None
    webhooks: list[WebhookTarget] = []
    grace_seconds: float = 10.0


def exporter_settings(
    tracing: TracingSettings, alerts: AlertSettings, *, instance: str = "local", version: str = ""
) -> bytes:
    """The exporter's settings as JSON, credentials in clear."""
    mlflow = tracing.mlflow
    return msgspec.json.encode(
        ExporterSettings(
            instance=instance,
            version=version,
            otlp=[
                OtlpTarget(one.endpoint, {name: value.get_secret_value() for name, value in one.headers.items()})
                for one in tracing.otlp
            ],
            mlflow=None
            if mlflow is None
            else MlflowTarget(mlflow.url, mlflow.experiment, mlflow.token.get_secret_value() if mlflow.token else None),
            webhooks=[WebhookTarget(hook.url, hook.secret.get_secret_value()) for hook in alerts.webhooks],
        )
    )


def exporter_command(state_dir: Path, parent: int | None = None) -> list[str]:
    """How to start it; write the settings to its stdin and close it. ``parent``: this process, if not given."""
    return [
        sys.executable,
        "-P",
        "-c",
        _START,
        str(Path(__file__).parent.parent),
        "--state-dir",
        str(state_dir),
        "--settings-json",
        "-",
        "--parent",
        str(parent or os.getpid()),
    ]


def deliveries(
    state_dir: Path, settings: ExporterSettings, session: aiohttp.ClientSession
) -> dict[str, Callable[[], Delivery]]:
    """Every sink of the settings by name, as a function that makes its delivery from the remembered place."""
    places = Places(state_dir)
    source = resource(settings.instance, settings.version)

    def place(name: str) -> Place | None:
        remembered = places.load(name)
        return remembered.place if remembered else None

    def spans(name: str, sink: SpanSink) -> Callable[[], Delivery]:
        def make() -> Delivery:
            feed = Feed(state_dir, place(name), grace_seconds=settings.grace_seconds)
            return SpanDelivery(name, sink, feed, places, source, asyncio.sleep)

        return make

    def alerts(name: str, webhook: Webhook | None) -> Callable[[], Delivery]:
        def make() -> Delivery:
            feed = Feed(state_dir, place(name), backfill_seconds=_ALERT_BACKFILL_SECONDS, alerts_only=True)
            return AlertDelivery(name, webhook, feed, places, settings.instance, asyncio.sleep, time.time_ns)

        return make

    made: dict[str, Callable[[], Delivery]] = {"log": alerts("log", None)}
    for target in settings.otlp:
        name = sink_name("otlp", target.endpoint)
        made[name] = spans(name, SpanSink(session, target.endpoint, target.headers))
    if settings.mlflow is not None:
        mlflow = settings.mlflow
        name = sink_name("mlflow", f"{mlflow.url}\n{mlflow.experiment}")
        made[name] = spans(name, MlflowSink(session, mlflow.url, mlflow.experiment, mlflow.token))
    for hook in settings.webhooks:
        name = sink_name("webhook", hook.url)
        made[name] = alerts(name, Webhook(session, hook.url, hook.secret))
    return made


class Exporter:
    """All sinks, until :meth:`stop`."""

    def __init__(self, state_dir: Path, settings: ExporterSettings, parent: int | None = None) -> None:
        self._state_dir = state_dir
        self._settings = settings
        self._parent = parent
        self._stopping = asyncio.Event()
        self._running: dict[str, Delivery] = {}

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    def stop(self) -> None:
        self._stopping.set()
        for delivery in self._running.values():
            delivery.stop()

    async def run(self) -> None:
        """Until stopped, or until the parent is gone; then one last pass, bounded in time."""
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
            made = deliveries(self._state_dir, self._settings, session)
            tasks = [asyncio.create_task(self._keep_running(name, make)) for name, make in made.items()]
            await self._watch()
            self.stop()
            _, late = await asyncio.wait(tasks, timeout=_LAST_PASS_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._write_status()

    async def _watch(self) -> None:
        last_status = 0.0
        while not self._stopping.is_set():
            if self._parent is not None and os.getppid() != self._parent:
                return
            if time.monotonic() - last_status >= _STATUS_SECONDS:
                last_status = time.monotonic()
                self._write_status()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), 0.5)

    async def _keep_running(self, name: str, make: Callable[[], Delivery]) -> None:
        """One sink's task: a fault of ours in it must not end the others, nor itself for ever."""
        while True:
            try:
                delivery = self._running[name] = make()
                if self._stopping.is_set():
                    delivery.stop()
                await self._deliver(delivery)
                return
            except SinkAway:
                return  # only while stopping: what it misses waits on the disk
            except Exception as fault:
                _log.error("%s failed (%s); it begins again at its place", name, type(fault).__name__)
                if self._stopping.is_set():
                    return
                await asyncio.sleep(_AFTER_A_FAULT_SECONDS)

    async def _deliver(self, delivery: Delivery) -> None:
        while True:
            delivered = await delivery.step()
            if delivered:
                continue
            if self._stopping.is_set():
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _POLL_SECONDS)

    def _write_status(self) -> None:
        status: dict[str, Any] = {
            "pid": os.getpid(),
            "time_ns": time.time_ns(),
            "sinks": {name: delivery.status for name, delivery in self._running.items()},
        }
        with suppress(OSError):
            replace_file(self._state_dir / "exporter" / "status.json", msgspec.json.encode(status))


async def main(state_dir: Path, settings: ExporterSettings, parent: int | None) -> None:
    """Run as a process: signals, and the lock."""
    exporter = Exporter(state_dir, settings, parent)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, exporter.stop)
    loop.add_signal_handler(signal.SIGINT, lambda: None)  # a terminal's ^C is for the parent, which ends us
    lock = os.open(Places(state_dir).folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while not _locked(lock):
            if exporter.stopping or (parent is not None and os.getppid() != parent):
                return
            await asyncio.sleep(_POLL_SECONDS)
        await exporter.run()
    finally:
        os.close(lock)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tracing.exporter", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--settings-json", default="-", help="a private file, or - for stdin")
    parser.add_argument("--parent", type=int, help="end when this process is no longer the parent")
    return parser.parse_args()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    calm_allocator()
    given = _arguments()
    raw = sys.stdin.buffer.read() if given.settings_json == "-" else Path(given.settings_json).read_bytes()
    with suppress(PermissionError):
        os.nice(10)
    asyncio.run(main(given.state_dir.expanduser(), msgspec.json.decode(raw, type=ExporterSettings), given.parent))
