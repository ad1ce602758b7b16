"""Where and with what a run was made, and what else the machine did meanwhile."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench import proc

_LIBRARIES = ("interlock", "aiohttp", "uvloop", "msgspec", "opa-py-wasm")


def versions(nginx: str | None) -> dict[str, str]:
    """Name → version of what matters for the figures."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    if nginx is not None:
        said = subprocess.run([nginx, "-v"], capture_output=True, text=True, check=False)
        found["nginx"] = (said.stderr + said.stdout).strip().rpartition("/")[2]
    return found


def describe(folder: Path) -> str:
    """The machine in one line; ``folder`` is where Interlock writes."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    cores = len(os.sched_getaffinity(0))
    return (
        f"{cores} cores of {model}, {memory:.0f} GiB, Linux {platform.release()}, "
        f"state on {file_system(folder.resolve(), Path('/proc/self/mounts').read_text())}"
    )


def file_system(folder: Path, mounts: str) -> str:
    """The type of the file system that holds ``folder``; ``mounts`` as /proc/self/mounts has them."""
    rows = [line.split(" ") for line in mounts.splitlines()]
    holding = [row for row in rows if folder.is_relative_to(row[1])]
    return max(holding, key=lambda row: len(row[1]))[2] if holding else "an unknown file system"


@dataclass(frozen=True, slots=True)
class Moment:
    """CPU seconds since the machine's start, all of it and ours (this process and what it started)."""

    at: float
    busy: float
    ours: float


def moment() -> Moment:
    ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle = ticks[3] + ticks[4]
    return Moment(time.monotonic(), (sum(ticks) - idle) / os.sysconf("SC_CLK_TCK"), proc.usage(os.getpid()).cpu)


def others(began: Moment, ended: Moment) -> float:
    """Cores that other programs kept busy between two moments, on average."""
    seconds = ended.at - began.at
    return max(0.0, (ended.busy - began.busy) - (ended.ours - began.ours)) / seconds if seconds else 0.0


def command() -> str:
    """How this run was started."""
    return " ".join(["python", "-m", "bench", *sys.argv[1:]])
