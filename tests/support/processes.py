"""Real servers as child processes of a test: started on a free loopback port, proved ours, stopped by pid.

A port that is free when it is asked for may be taken when the server binds it, and then another program would
answer the health check in its place. So a server counts as started only when it answers *and* the listening
socket belongs to the process that we started or to one of its descendants.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

LISTEN = "0A"  # the state's number in /proc/net/tcp


class StartError(AssertionError):
    """A server did not come up; says how it ended and the end of its log."""


@dataclass(frozen=True)
class Server:
    """A running server. ``log`` is the file that has what it printed."""

    url: str
    port: int
    pid: int
    log: Path


def free_port() -> int:
    """A loopback port that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(url: str, timeout: float = 2.0) -> bool:
    """Whether a GET of ``url`` is answered with a 2xx."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            return 200 <= int(answer.status) < 300
    except (urllib.error.URLError, OSError):
        return False


def session_of(pid: int) -> list[int]:
    """Every live process of the session that ``pid`` leads."""
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(ProcessLookupError, PermissionError):
                if os.getsid(int(entry.name)) == pid:
                    members.append(int(entry.name))
    return members


def listens(pid: int, port: int) -> bool:
    """Whether ``pid``, or a process of the session that it leads, holds the listening socket of ``port``."""
    rows = [
        row.split()
        for table in ("tcp", "tcp6")
        if (path := Path("/proc/net") / table).exists()
        for row in path.read_text().splitlines()[1:]
    ]
    sockets = {f"socket:[{row[9]}]" for row in rows if row[3] == LISTEN and int(row[1].rpartition(":")[2], 16) == port}
    for member in session_of(pid):
        with suppress(FileNotFoundError, PermissionError):
            for descriptor in Path(f"/proc/{member}/fd").iterdir():
                with suppress(FileNotFoundError):
                    if str(descriptor.readlink()) in sockets:
                        return True
    return False


def stop(process: subprocess.Popen[bytes], seconds: float = 15.0) -> None:
    """SIGTERM to the process; then SIGKILL to whatever of its session is left."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
    for member in session_of(process.pid):
        with suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)
    process.wait()


@contextmanager
def running(
    command: Sequence[str | Path],
    port: int,
    *,
    log: Path,
    health: str | Callable[[], bool] = "/health",
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    seconds: float = 60.0,
) -> Iterator[Server]:
    """Run ``command``, which must listen on loopback ``port``, while the block lasts.

    ``health``: a path that is answered with a 2xx once it is ready, or a callable. ``env`` is its whole
    environment (null: ours). ``seconds``: how long the start may take; then, or when it exits, ``StartError``.
    """
    url = f"http://127.0.0.1:{port}"
    ready = health if callable(health) else lambda: answers(f"{url}{health}")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=None if env is None else dict(env),
            cwd=cwd,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + seconds
        while not (listens(process.pid, port) and ready()):
            if process.poll() is not None or time.monotonic() > deadline:
                how = "is not ready" if process.poll() is None else f"exited with {process.returncode}"
                tail = log.read_text(errors="replace")[-4000:]
                raise StartError(f"{command[0]} {how}; its log ends:\n{tail}")
            time.sleep(0.1)
        yield Server(url, port, process.pid, log)
    finally:
        stop(process)
