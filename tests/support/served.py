"""A whole Interlock as the process that a user starts: ``interlock serve``, with its terminal in a file.

What a test does to a process (SIGKILL, a full disk, reading everything that it printed) needs one of its own.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.lanes import ROOT
from tests.support.processes import StartError
from tests.support.servers import plain_environment
from tracing.records import AnyRecord
from tracing.segments import Entry, read

COMMAND = (sys.executable, "-m", "proxy.cli")
_LISTENING = re.compile(r"listening on http://127\.0\.0\.1:(\d+), admin on (http://\S+)")


@dataclass
class Served:
    """A running Interlock. ``terminal`` has what it printed to both of its streams."""

    port: int
    admin_url: str
    state: Path
    terminal: Path
    process: subprocess.Popen[bytes]

    async def admin(self, path: str, token: str | None = None) -> tuple[int, str]:
        """Status and text of a GET on the operators' listener."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with (
            aiohttp.ClientSession() as session,
            session.get(self.admin_url + path, headers=headers) as answer,
        ):
            return answer.status, await answer.text()

    async def count(self, metric: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        _, text = await self.admin("/metrics")
        return metric_sum(text, metric, **labels)

    def records(self, *kinds: type[AnyRecord]) -> list[Any]:
        """What is in the journal by now, in order."""
        return [entry.record for entry in self.entries() if not kinds or isinstance(entry.record, kinds)]

    def entries(self) -> list[Entry]:
        return list(read(self.state, []))

    def children(self) -> dict[str, int]:
        return children_of(self.process.pid)


def children_of(parent: int) -> dict[str, int]:
    """Pids of what an Interlock launched in the process ``parent``, by name."""
    marks = {"opa": b" run --server", "nemo": b"nemo_boot", "exporter": b"exporter"}
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            above = int(stat.read_text().rpartition(")")[2].split()[1])
            words = (stat.parent / "cmdline").read_bytes().replace(b"\0", b" ")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if above == parent:
            found |= {name: int(stat.parent.name) for name, mark in marks.items() if mark in words}
    return found


def metric_sum(text: str, metric: str, **labels: str) -> float:
    """The sum over Prometheus' text of the samples of ``metric`` that have these labels."""
    total = 0.0
    for line in text.splitlines():
        name, _, value = line.rpartition(" ")
        given = dict(re.findall(r'(\w+)="([^"]*)"', name))
        if name.partition("{")[0] == metric and labels.items() <= given.items():
            total += float(value)
    return total


async def until(condition: Any, seconds: float = 120.0) -> None:
    """Wait for another process: until ``condition()`` (plain or a coroutine's) is true."""
    async with asyncio.timeout(seconds):
        while True:
            answer = condition()
            if asyncio.iscoroutine(answer):
                answer = await answer
            if answer:
                return
            await asyncio.sleep(0.05)


def command_line(upstream: str, state: Path, config: Path) -> list[str]:
    return [
        *(*COMMAND, "serve", "--upstream", upstream, "--config", str(config)),
        *("--port", "0", "--admin-port", "0", "--state-dir", str(state)),
    ]


@asynccontextmanager
async def served(upstream: str, folder: Path, *, state: Path | None = None, **sections: Any) -> AsyncIterator[Served]:
    """``sections`` are settings as the YAML file has them. Ended by SIGTERM if the test did not end it."""
    state = state or folder / "state"
    process, terminal = _start(upstream, folder, state, {"listen": {"drain_seconds": 0.2}, **sections})
    try:
        port, admin_url = await _listening(process, terminal)
        yield Served(port, admin_url, state, terminal, process)
    finally:
        await asyncio.to_thread(_end, process)


def _start(upstream: str, folder: Path, state: Path, sections: dict[str, Any]) -> tuple[subprocess.Popen[bytes], Path]:
    folder.mkdir(parents=True, exist_ok=True)
    config, terminal = folder / "interlock.yaml", folder / f"terminal-{time.monotonic_ns()}"
    config.write_text(json.dumps(sections))
    config.chmod(0o600)
    with terminal.open("wb") as output:
        process = subprocess.Popen(
            command_line(upstream, state, config),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=plain_environment(PYTHONPATH=str(ROOT)),
            cwd=folder,
            start_new_session=True,
        )
    return process, terminal


async def _listening(process: subprocess.Popen[bytes], terminal: Path) -> tuple[int, str]:
    deadline = time.monotonic() + 180
    while (match := _LISTENING.search(printed(terminal))) is None:
        if process.poll() is not None or time.monotonic() > deadline:
            tail = printed(terminal)[-4000:]
            raise StartError(f"interlock serve does not listen ({process.poll()}); it printed:\n{tail}")
        await asyncio.sleep(0.05)
    return int(match[1]), match[2]


def printed(terminal: Path) -> str:
    return terminal.read_text(errors="replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
