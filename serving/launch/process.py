"""One supervised child process: started, watched, restarted with back-off, and surely ended.

How to think about it. A ``Child`` is a ``ChildSpec`` (what to run) plus a task that walks one circle for
ever: *starting* → *ready* → (it exits, or its health probe fails too often) → *waiting* (back-off) →
*starting*. ``start`` begins the circle, ``wait_ready`` waits for the first lap and tells the caller what
went wrong in it, ``stop`` leaves the circle from anywhere. A child that fails later is nobody's exception:
its state says so, and whoever talks to it meets a refused connection, which they must stand anyway.

What a child gets and does not get:

* It leads a session and process group of its own, so that a Ctrl-C in the terminal reaches Interlock alone,
  and so that grandchildren (vLLM's engine) can be swept up by the group's id when their parent is gone.
* It is ended by SIGTERM to its pid, then SIGKILL to its group; on Linux it also gets SIGTERM when Interlock
  itself is killed without a chance to say so (``PR_SET_PDEATHSIG``, set by a small shim that then becomes
  the child, because code between fork and exec is unsafe in a process with threads).
* Its environment is ours reduced to a list: no ``INTERLOCK_*`` variable and no credential of ours reaches it
  unless the spec says so. Telemetry is off by every switch that the servers we launch know.
* Its output goes to one file of bounded size, or nowhere. It never goes to our terminal.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import shutil
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import aiohttp

log = logging.getLogger("interlock.launch")

ChildState = Literal["stopped", "starting", "ready", "unhealthy", "waiting"]
Probe = Callable[[], Awaitable[bool]]
Sleep = Callable[[float], Awaitable[None]]

KEPT_VARIABLES = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "LC_*",
    "TZ",
    "TMPDIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
)
TELEMETRY_OFF = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "NEMO_GUARDRAILS_NO_USAGE_STATS": "1",
    "VLLM_NO_USAGE_STATS": "1",
}

# Becomes the child. argv: the pid that must still be our parent, then the child's own argv.
_SHIM = """
import os, signal, sys
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(75)
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.exit(f"cannot run {sys.argv[2]}: {error.strerror}")
"""


class ChildFailed(Exception):
    """A child did not become ready. The message names it, says why, and where its log is."""


@dataclass(frozen=True)
class ChildSpec:
    """What to run.

    ``env`` is set as it is given, on top of what is kept of ours. ``keep`` adds names (``*`` matches) to
    ``KEPT_VARIABLES``. ``log`` null drops the output; else it is a file, made 0600, whose folder is made
    0700. Past ``log_bytes`` the file is moved to ``<log>.1`` and begun again. ``stdin`` is written to its
    standard input, which is then closed: the way to hand it a credential.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    keep: tuple[str, ...] = ()
    cwd: Path | None = None
    log: Path | None = None
    log_bytes: int = 8 * 1024 * 1024
    stdin: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Backoff:
    """Seconds between restarts: ``first``, doubled each time up to ``ceiling``, of which a random half is
    taken off at most. A child that was ready for ``stable_seconds`` begins again at ``first``."""

    first: float = 0.5
    ceiling: float = 60.0
    stable_seconds: float = 60.0

    def seconds(self, failures: int, chance: float) -> float:
        """The pause after the ``failures``-th failure in a row (from 1); ``chance`` is in [0, 1)."""
        full = min(self.ceiling, self.first * 2.0 ** min(failures - 1, 32))
        return full * (1.0 - chance / 2)


@dataclass(frozen=True)
class Watch:
    """How health is watched; all in seconds.

    ``ready``: how long a start may take. ``every``: between two probes of a ready child. After
    ``failures`` probes in a row have failed the child is *unhealthy*, and killed and started again if
    ``restart`` says so. ``stop``: between SIGTERM and SIGKILL.
    """

    ready: float = 60.0
    every: float = 5.0
    starting_every: float = 0.1
    failures: int = 3
    restart: bool = True
    stop: float = 10.0


def reduced_environment(
    keep: Iterable[str] = (),
    extra: Mapping[str, str] | None = None,
    source: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """``source`` (``os.environ``) reduced to the kept names, telemetry off, then ``extra``.

    A pattern never reaches an ``INTERLOCK_*`` variable: those hold our own credentials.
    """
    patterns = (*KEPT_VARIABLES, *keep)
    environment = {
        name: value
        for name, value in (os.environ if source is None else source).items()
        if not name.startswith("INTERLOCK_") and any(fnmatchcase(name, pattern) for pattern in patterns)
    }
    return environment | TELEMETRY_OFF | dict(extra or {})


def free_loopback_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago; a child that finds it taken exits."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def http_probe(url: str, *, timeout_seconds: float = 2.0, headers: Mapping[str, str] | None = None) -> Probe:
    """A probe that is true when ``GET url`` answers 200 in time."""
    timeout = aiohttp.ClientTimeout(total=timeout_seconds)

    async def probe() -> bool:
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
                session.get(url, allow_redirects=False) as answer,
            ):
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    return probe


class Child:
    """One supervised process. ``start``, ``wait_ready``, ``stop``; read ``state``, ``pid``, ``restarts``.

    ``on_state`` is called at each change, on the event loop; it must be quick and not raise.
    """

    def __init__(
        self,
        spec: ChildSpec,
        *,
        probe: Probe,
        watch: Watch | None = None,
        backoff: Backoff | None = None,
        on_state: Callable[[ChildState], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Sleep = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.spec = spec
        self.state: ChildState = "stopped"
        self.restarts = 0
        self._probe = probe
        self._watch = watch or Watch()
        self._backoff = backoff or Backoff()
        self._on_state = on_state
        self._clock = clock
        self._sleep = sleep
        self._chance = chance
        self._process: asyncio.subprocess.Process | None = None
        self._exited: asyncio.Task[int] | None = None
        self._task: asyncio.Task[None] | None = None
        self._first_lap: asyncio.Future[str | None] | None = None

    @property
    def pid(self) -> int | None:
        """Of the running process; null between two."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    def start(self) -> None:
        """Begin to run and watch it. Returns at once; a second call while it runs changes nothing."""
        if self._task is None:
            self._first_lap = asyncio.get_running_loop().create_future()
            self._task = asyncio.create_task(self._supervise(), name=f"child {self.spec.name}")

    async def wait_ready(self) -> None:
        """Wait until the first start succeeded. Raises ``ChildFailed`` when it did not; the child is then
        still supervised and started again until ``stop``."""
        if self._first_lap is None:
            raise ChildFailed(f"{self.spec.name} was not started")
        why = await asyncio.shield(self._first_lap)
        if why is not None:
            raise ChildFailed(why)

    async def stop(self) -> None:
        """End it and its process group, and wait until it is gone. May be called at any time, also twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        await self._end()
        self._settle(f"{self.spec.name} was stopped before it was ready")
        self._enter("stopped")

    async def _supervise(self) -> None:
        failures = 0
        while True:
            self._enter("starting")
            ready_at: float | None = None
            try:
                await self._spawn()
                why = await self._until_ready()
                if why is None:
                    ready_at = self._clock()
                    self._settle(None)
                    self._enter("ready")
                    why = await self._until_broken()
            except OSError as error:
                why = f"cannot be started: {error.strerror or error}"
            except Exception:
                log.exception("supervising %s failed", self.spec.name)
                why = "its supervision failed"
            await self._end()
            stable = ready_at is not None and self._clock() - ready_at >= self._backoff.stable_seconds
            failures = 1 if stable else failures + 1
            pause = self._backoff.seconds(failures, self._chance())
            where = f"; its log is {self.spec.log}" if self.spec.log else ""
            log.warning("%s %s; next start in %.1f s%s", self.spec.name, why, pause, where)
            self._settle(f"{self.spec.name} {why}{where}")
            self._enter("waiting")
            await self._sleep(pause)
            self.restarts += 1

    async def _spawn(self) -> None:
        spec = self.spec
        output = self._open_log() if spec.log else asyncio.subprocess.DEVNULL
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                "-S",
                "-c",
                _SHIM,
                str(os.getpid()),
                *spec.argv,
                stdin=asyncio.subprocess.DEVNULL if spec.stdin is None else asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd=spec.cwd,
                env=reduced_environment(spec.keep, spec.env),
                start_new_session=True,
            )
        finally:
            if output != asyncio.subprocess.DEVNULL:
                os.close(output)
        self._exited = asyncio.create_task(self._process.wait())
        if self._process.stdin is not None and spec.stdin is not None:
            # RuntimeError is uvloop's word for a pipe whose reader has gone already.
            with contextlib.suppress(ConnectionError, RuntimeError):
                self._process.stdin.write(spec.stdin)
                await self._process.stdin.drain()
                self._process.stdin.close()

    async def _until_ready(self) -> str | None:
        """Null when the probe said yes; else why it did not."""
        deadline = self._clock() + self._watch.ready
        while self._clock() < deadline:
            if (code := self._exit_code()) is not None:
                return f"exited {_in_words(code)} before it was ready"
            # A yes from a process that is already gone was said by a stranger on the same port.
            if await self._probe() and self._exit_code() is None:
                return None
            await self._exit_or(self._watch.starting_every)
        return f"was not ready within {self._watch.ready:g} s"

    async def _until_broken(self) -> str:
        failed = 0
        while True:
            await self._exit_or(self._watch.every)
            if (code := self._exit_code()) is not None:
                return f"exited {_in_words(code)}"
            await asyncio.to_thread(self._bound_log)
            if await self._probe():
                failed = 0
                self._enter("ready")
                continue
            failed += 1
            if failed >= self._watch.failures:
                self._enter("unhealthy")
                if self._watch.restart:
                    return f"failed {failed} health probes in a row"

    def _exit_code(self) -> int | None:
        return self._process.returncode if self._process is not None else None

    async def _exit_or(self, seconds: float) -> None:
        """Until the process exits or ``seconds`` have passed."""
        assert self._exited is not None
        pause = asyncio.ensure_future(self._sleep(seconds))
        try:
            await asyncio.wait({self._exited, pause}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            pause.cancel()

    async def _end(self) -> None:
        """SIGTERM to the process, SIGKILL to what is left of its group; wait for it."""
        process = self._process
        if process is None or self._exited is None:
            return
        try:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM)
                await asyncio.wait({self._exited}, timeout=self._watch.stop)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        await asyncio.shield(self._exited)
        self._process = self._exited = None

    def _open_log(self) -> int:
        assert self.spec.log is not None
        self.spec.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._bound_log()
        return os.open(self.spec.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _bound_log(self) -> None:
        """Copy and truncate: the child keeps its descriptor, which appends."""
        path = self.spec.log
        if path is None:
            return
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size > self.spec.log_bytes:
                shutil.copy2(path, path.with_name(path.name + ".1"))
                os.truncate(path, 0)

    def _settle(self, why: str | None) -> None:
        if self._first_lap is not None and not self._first_lap.done():
            self._first_lap.set_result(why)

    def _enter(self, state: ChildState) -> None:
        if state != self.state:
            self.state = state
            if self._on_state is not None:
                self._on_state(state)


def _in_words(code: int) -> str:
    return f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
