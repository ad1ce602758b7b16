"""What is measured, each as real processes on free loopback ports, each proved to be ours before it counts.

A process is started in a session of its own and stopped by its pid. The proof: an exchange of every kind
through the target is asked of this run's upstream (its name is in the answer) and has, but for its numbers, the
very bytes that the upstream gives directly.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import proc
from bench.wire import KINDS, BodyReader, request, unchunked

ROOT = Path(__file__).parents[1]
_START_SECONDS = 60.0
_NEMO_SECONDS = 120.0
_RIVAL_SECONDS = 180.0
_READY = re.compile(r"(?:ready|listening) on http://127\.0\.0\.1:(\d+)")
_ADMIN = re.compile(r"admin on (http://127\.0\.0\.1:\d+)")

_NGINX = """\
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log stderr;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000000;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream model {{ server 127.0.0.1:{upstream}; keepalive 1024; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=2048; client_max_body_size 64m; client_body_buffer_size 2m;
    location / {{
      proxy_pass http://model; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""


class StartError(Exception):
    """A process did not come up, or something else answers in its place."""


@dataclass
class Running:
    """A process of ours. ``log`` has what it printed."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def wait_for(self, pattern: re.Pattern[str], seconds: float = _START_SECONDS) -> re.Match[str]:
        """The first match in what it prints."""
        deadline = time.monotonic() + seconds
        while True:
            printed = self.log.read_text(errors="replace")
            if (match := pattern.search(printed)) is not None:
                return match
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise StartError(f"{self.name} did not start; it printed:\n{printed[-2000:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        """SIGTERM to it; SIGKILL to what is then left of what it started. Nothing else is touched."""
        started = {stat.pid for stat in proc.tree(self.process.pid, proc.processes())}
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(10.0)
        for pid in started:
            if _session(pid) == self.process.pid:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.wait()


def _session(pid: int) -> int:
    with suppress(ProcessLookupError, PermissionError):
        return os.getsid(pid)
    return -1


@dataclass
class Target:
    """``port`` answers for it; ``pid`` is the root of its processes (None: there is nothing between).
    ``notes`` are for the report. ``exact``: it gives the upstream's bytes, and is held to that."""

    name: str
    port: int
    pid: int | None
    admin: str | None = None
    notes: list[str] = field(default_factory=list)
    exact: bool = True

    def usage(self) -> proc.Usage:
        return proc.usage(self.pid) if self.pid is not None else proc.Usage(0.0, 0.0, 0)

    def metrics(self) -> dict[str, float]:
        """Interlock's metrics, by name and labels as they are printed."""
        if self.admin is None:
            return {}
        with urllib.request.urlopen(self.admin + "/metrics", timeout=10.0) as answer:
            return parse_metrics(answer.read().decode())


def parse_metrics(text: str) -> dict[str, float]:
    """A Prometheus exposition: ``name{labels}`` → value."""
    rows = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in rows}


def total(metrics: Mapping[str, float], name: str, *labels: str) -> float:
    """The sum of a metric's values over every row that has all of ``labels`` (``stage="tool_call"``)."""
    return sum(
        value
        for row, value in metrics.items()
        if row.partition("{")[0] == name and all(label in row for label in labels)
    )


class Stage:
    """Starts everything below ``folder`` and stops it, last first, when the block ends."""

    def __init__(self, folder: Path, *, name: str, events: int) -> None:
        self._folder = folder
        self._name = name
        self._events = events
        self._stack = ExitStack()
        self._started: list[Running] = []
        self._direct: list[bytes] = []
        self.upstream = 0
        self._sink = 0

    def __enter__(self) -> Stage:
        with ExitStack() as stack:
            self._stack = stack
            self.upstream = self._python("upstream", "bench.upstream", self._name, str(self._events))[1]
            self._sink = self._python("sink", "bench.sink")[1]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stack.close()

    def sink_seen(self) -> dict[str, int]:
        """``posts`` and ``bytes`` that the collector has taken."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._sink}/", timeout=10.0) as answer:
            seen: dict[str, int] = json.load(answer)
            return seen

    def direct(self) -> Target:
        target = Target("direct", self.upstream, None)
        self._direct = [_exchange(target, place) for place in range(len(KINDS))]
        if not all(self._name.encode() in body for body in self._direct):
            raise StartError("what answers on the upstream's port is not the upstream of this run")
        return target

    def aiohttp(self) -> Target:
        running, port = self._python("aiohttp", "bench.passthrough", f"http://127.0.0.1:{self.upstream}")
        return self._proved(Target("aiohttp", port, running.process.pid))

    def nginx(self, binary: str) -> Target:
        folder = self._folder / "nginx"
        folder.mkdir()
        port = _free_port()
        conf = folder / "nginx.conf"
        conf.write_text(_NGINX.format(folder=folder, port=port, upstream=self.upstream))
        running = self._start("nginx", [binary, "-p", str(folder), "-e", "stderr", "-c", str(conf)])
        _wait_listening(running, port)
        return self._proved(Target("nginx", port, running.process.pid))

    def rival(self, name: str, command: str) -> Target:
        """A proxy of somebody else's. ``command`` starts it, with ``{upstream}`` (a URL), ``{port}`` (where it must
        listen) and ``{folder}`` (its own) filled in. It may write answers anew: only status and ending are checked."""
        folder = self._folder / name
        folder.mkdir()
        port = _free_port()
        filled = command.format(upstream=f"http://127.0.0.1:{self.upstream}", port=port, folder=folder)
        running = self._start(name, shlex.split(filled))
        _wait_listening(running, port, _RIVAL_SECONDS)
        target = Target(name, port, running.process.pid, exact=False)
        for place in range(2):
            _exchange(target, place)
        return target

    def interlock(self, name: str = "interlock", *, nemo: Path | None = None, opa: str | None = None) -> Target:
        """``nemo``: the interpreter of a NeMo Guardrails environment, for a server of its own; ``opa``: the command of
        an OPA server that decides."""
        folder = self._folder / name.replace(" ", "-")
        folder.mkdir()
        settings: dict[str, Any] = {
            "upstream": {"url": f"http://127.0.0.1:{self.upstream}"},
            "listen": {"port": 0, "admin_port": 0},
            "state_dir": str(folder / "state"),
            "tracing": {"fsync": True, "otlp": [{"endpoint": f"http://127.0.0.1:{self._sink}/v1/traces"}]},
        }
        if nemo is not None:
            settings["checks"] = {"nemo": {"launch": True, "python": str(nemo)}}
        if opa is not None:
            settings["policies"] = {"engine": "opa", "opa": opa}
        config = folder / "interlock.yaml"
        config.write_text(json.dumps(settings))  # JSON is YAML
        running = self._start(name, [sys.executable, "-m", "proxy.cli", "serve", "--config", str(config)])
        port = int(running.wait_for(_READY)[1])
        target = Target(name, port, running.process.pid, running.wait_for(_ADMIN)[1])
        self._proved(target)
        if nemo is not None:
            self._wait_checking(target)
        return target

    def stop(self, target: Target) -> None:
        """Stop one target before the others."""
        for running in self._started:
            if running.process.pid == target.pid:
                running.stop()

    # -- parts -------------------------------------------------------------------------------------

    def _python(self, name: str, *arguments: str) -> tuple[Running, int]:
        running = self._start(name, [sys.executable, "-m", *arguments])
        return running, int(running.wait_for(_READY)[1])

    def _start(self, name: str, command: Sequence[str]) -> Running:
        log = self._folder / f"{name.replace(' ', '-')}.log"
        env = {key: value for key, value in os.environ.items() if not key.startswith("INTERLOCK_")}
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        running = Running(name, process, log)
        self._stack.callback(running.stop)
        self._started.append(running)
        return running

    def _proved(self, target: Target) -> Target:
        for place, kind in enumerate(KINDS):
            if _unnumbered(_exchange(target, place)) != _unnumbered(self._direct[place]):
                raise StartError(f"{target.name} does not give the upstream's answer ({kind}); it is not measured")
        return target

    def _wait_checking(self, target: Target) -> None:
        """Until the first check has passed: before that all would be errors, which cost nothing."""
        deadline = time.monotonic() + _NEMO_SECONDS
        while total(target.metrics(), "interlock_checks_total", 'status="passed"') == 0:
            if time.monotonic() > deadline:
                raise StartError(f"{target.name}: no check has passed after {_NEMO_SECONDS:.0f} s")
            time.sleep(1.0)
            _exchange(target, 0)


def _unnumbered(body: bytes) -> bytes:
    return re.sub(rb"build/\d+", b"build/", body)


def _exchange(target: Target, place: int) -> bytes:
    """The body of one exchange; ``place`` in ``KINDS``."""
    kind = KINDS[place]
    reader, received = BodyReader(), b""
    with socket.create_connection(("127.0.0.1", target.port), timeout=30.0) as connection:
        connection.sendall(request(kind, f"127.0.0.1:{target.port}").number(time.time_ns()))
        over = False
        while not over:
            data = connection.recv(1 << 16)
            if not data:
                raise StartError(f"{target.name} broke off ({kind})")
            received += data
            over = reader.feed(data)
    if reader.status != 200:
        raise StartError(f"{target.name} answered {reader.status} ({kind}): {received[-500:]!r}")
    head, _, body = received.partition(b"\r\n\r\n")
    return unchunked(body) if b"transfer-encoding: chunked" in head.lower() else body


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_listening(running: Running, port: int, seconds: float = _START_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return
        if running.process.poll() is not None or time.monotonic() > deadline:
            raise StartError(f"{running.name} did not start: {running.log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.02)
