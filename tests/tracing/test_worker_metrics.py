"""Metrics of several processes as one text, whatever becomes of the processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.lanes import ROOT
from tests.support.served import metric_sum
from tests.support.servers import plain_environment
from tracing.metrics import Metrics
from tracing.worker_metrics import VARIABLE, WorkerMetrics

WORK = """
import os, sys
from tracing.metrics import Metrics
metrics = Metrics()
for _ in range(int(sys.argv[1])):
    metrics.opened()
    metrics.opened()
    metrics.settled("alice", "done")
    metrics.added(0.002)
metrics.budget("alice", "agent", "tokens", float(sys.argv[1]), 100.0)
print(os.getpid(), flush=True)
sys.stdin.read()
"""


class Process:
    """A worker that has counted ``times`` exchanges, of which one is still under way, and waits to be killed."""

    def __init__(self, folder: Path, times: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORK, str(times)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=plain_environment(PYTHONPATH=str(ROOT), **{VARIABLE: str(folder)}),
        )
        assert self.process.stdout is not None
        self.pid = int(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def test_counts_of_workers_are_added_and_stay_when_one_is_killed(tmp_path: Path) -> None:
    own = Metrics()
    shared = WorkerMetrics(tmp_path, own)
    first, second = Process(shared.folder, 3), Process(shared.folder, 4)
    own.worker_ended()

    def value(metric: str, **labels: str) -> float:
        return metric_sum(shared.render().decode(), metric, **labels)

    for _ in range(2):
        assert value("interlock_exchanges_total", agent="alice", ending="done") == 7
        assert value("interlock_added_seconds_count") == 7
        assert value("interlock_added_seconds_bucket", le="0.0025") == 7
        assert value("interlock_added_seconds_bucket", le="0.001") == 0
        assert value("interlock_active_exchanges") == 7
        assert value("interlock_budget_used_ratio") == 0.04
        assert value("interlock_worker_restarts_total") == 1
        first.kill()  # nothing changes until somebody has seen it
    shared.ended(first.pid)
    assert value("interlock_exchanges_total") == 7
    assert value("interlock_active_exchanges") == 4
    third = Process(shared.folder, 5)
    assert value("interlock_exchanges_total") == 12
    assert value("interlock_added_seconds_bucket", le="0.0025") == 12
    for process in (second, third):
        process.kill()
        shared.ended(process.pid)
    assert value("interlock_exchanges_total") == 12
    assert value("interlock_added_seconds_sum") == pytest.approx(12 * 0.002)
    assert value("interlock_active_exchanges") == 0
    assert sorted(path.name for path in shared.folder.iterdir()) == [
        "counter_ended.db",
        "gauge_mostrecent_ended.db",
        "histogram_ended.db",
    ]
    assert shared.folder.stat().st_mode & 0o077 == 0


def test_the_text_is_what_one_worker_gives(tmp_path: Path) -> None:
    """The same families with the same help and types, in the same order."""
    shared = WorkerMetrics(tmp_path, Metrics())
    process = Process(shared.folder, 1)

    def heads(text: bytes) -> list[str]:
        return [line for line in text.decode().splitlines() if line.startswith("#") and "_created" not in line]

    try:
        assert heads(shared.render()) == heads(Metrics().render())
    finally:
        process.kill()
