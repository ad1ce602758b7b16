"""CPU time and memory of a process and of all that it started, from /proc."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Stat:
    """One line of /proc/PID/stat; seconds. ``reaped``: the CPU time of children that have ended."""

    pid: int
    parent: int
    cpu: float
    reaped: float


@dataclass(frozen=True, slots=True)
class Usage:
    """``cpu`` seconds and ``rss`` bytes of a whole tree; ``root_cpu``: of its first process alone."""

    cpu: float
    root_cpu: float
    rss: int


def parse_stat(text: str, ticks: int = _TICKS) -> Stat:
    """See proc_pid_stat(5). The name in parentheses may itself hold blanks and parentheses."""
    pid = int(text.split(" ", 1)[0])
    fields = text[text.rindex(")") + 2 :].split()
    user, system, children_user, children_system = (int(field) for field in fields[11:15])
    return Stat(pid, int(fields[1]), (user + system) / ticks, (children_user + children_system) / ticks)


def tree(root: int, stats: dict[int, Stat]) -> list[Stat]:
    """``root`` and its descendants among ``stats``."""
    children: dict[int, list[int]] = {}
    for stat in stats.values():
        children.setdefault(stat.parent, []).append(stat.pid)
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        if pid in stats:
            found.append(stats[pid])
            waiting += children.get(pid, [])
    return found


def processes() -> dict[int, Stat]:
    """Every process that can be seen, by pid."""
    stats = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                stat = parse_stat((entry / "stat").read_text())
                stats[stat.pid] = stat
    return stats


def usage(root: int) -> Usage:
    """What the tree below ``root`` has used by now."""
    members = tree(root, processes())
    own = next((stat.cpu for stat in members if stat.pid == root), 0.0)
    return Usage(
        cpu=sum(stat.cpu + stat.reaped for stat in members),
        root_cpu=own,
        rss=sum(rss(stat.pid) for stat in members),
    )


def rss(pid: int) -> int:
    with suppress(FileNotFoundError, ProcessLookupError):
        return int((_PROC / str(pid) / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0
