"""The worker's metrics: what they count, and that no label is written by the traffic."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tracing.journal import Journal
from tracing.metrics import Metrics
from tracing.prices import Cost
from tracing.records import Decided


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return float(sample.value)
    return None


def test_exchanges_decisions_refusals_and_checks_are_counted() -> None:
    metrics = Metrics()
    metrics.opened()
    metrics.opened()
    metrics.settled("coder", "done")
    metrics.decision("tool_call", "deny", "interlock.shell")
    metrics.decision("tool_call", "deny", "interlock.shell")
    metrics.judge_error("opa", "timeout")
    metrics.refused("budget_exhausted")
    metrics.check("nemo", "passed")
    metrics.check("nemo", "dropped")
    metrics.call("denied")
    metrics.tripped("coder", "loop")
    metrics.coverage("tool_call", "judged")
    metrics.alerted("loop", "high")
    assert value(metrics, "interlock_active_exchanges") == 1
    assert value(metrics, "interlock_exchanges_total", agent="coder", ending="done") == 1
    assert (
        value(
            metrics,
            "interlock_decisions_total",
            stage="tool_call",
            action="deny",
            policy="interlock.shell",
            mode="enforce",
        )
        == 2
    )
    assert value(metrics, "interlock_judge_errors_total", engine="opa", cause="timeout") == 1
    assert value(metrics, "interlock_refusals_total", code="budget_exhausted") == 1
    assert value(metrics, "interlock_checks_total", check="nemo", status="dropped") == 1
    assert value(metrics, "interlock_checks_dropped_total", check="nemo") == 1
    metrics.check("llm", "passed", 420)
    metrics.check("llm", "error")
    assert value(metrics, "interlock_check_tokens_total", check="llm") == 420
    assert value(metrics, "interlock_tool_calls_total", outcome="denied") == 1
    assert value(metrics, "interlock_breaker_trips_total", agent="coder", cause="loop") == 1
    assert value(metrics, "interlock_coverage_total", surface="tool_call", state="judged") == 1


def test_tokens_and_cost_add_up_and_an_unknown_cost_is_counted_as_unknown() -> None:
    metrics = Metrics()
    metrics.tokens("coder", prompt=100, completion=50, reasoning=20)
    metrics.tokens("coder", prompt=1, completion=0)
    metrics.cost("coder", Cost(known=True, book="b", total=0.25))
    metrics.cost("coder", Cost(known=False, book="b"))
    assert value(metrics, "interlock_tokens_total", agent="coder", kind="prompt") == 101
    assert value(metrics, "interlock_tokens_total", agent="coder", kind="reasoning") == 20
    assert value(metrics, "interlock_tokens_total", agent="coder", kind="cached") is None
    assert value(metrics, "interlock_cost_usd_total", agent="coder") == 0.25
    assert value(metrics, "interlock_unpriced_exchanges_total", agent="coder") == 1


def test_times_are_histograms_and_budgets_ratios() -> None:
    metrics = Metrics()
    metrics.held(0.003)
    metrics.added(0.0004)
    metrics.budget("coder", "run", "tokens", 750, 1000)
    assert value(metrics, "interlock_held_seconds_bucket", le="0.0025") == 0
    assert value(metrics, "interlock_held_seconds_bucket", le="0.005") == 1
    assert value(metrics, "interlock_added_seconds_count") == 1
    assert value(metrics, "interlock_budget_used_ratio", agent="coder", scope="run", unit="tokens") == 0.75


@pytest.mark.parametrize("name", ["a\nb", 'x"} 1\ninjected{y="', "\u202ereversed", "n" * 5000, ""])
def test_a_label_is_one_bounded_line_whatever_it_is_given(name: str) -> None:
    metrics = Metrics()
    metrics.settled(name, "done")
    families = list(text_string_to_metric_families(metrics.render().decode()))
    (label,) = (
        sample.labels["agent"]
        for family in families
        for sample in family.samples
        if sample.name == "interlock_exchanges_total"
    )
    assert label.isprintable()
    assert 0 < len(label) <= 80


def test_too_many_values_of_a_label_become_other() -> None:
    metrics = Metrics()
    for number in range(1000):
        metrics.settled(f"agent-{number}", "done")
    text = metrics.render().decode()
    assert text.count("interlock_exchanges_total{") == 201
    assert value(metrics, "interlock_exchanges_total", agent="other", ending="done") == 800


async def test_the_journals_lag_bytes_and_health_are_shown(tmp_path: Path) -> None:
    metrics = Metrics()
    journal = Journal.open(tmp_path, instance="one", linger=0.0)
    metrics.watch_journal(journal)
    await journal.commit(journal.append(Decided(time_ns=1, exchange="x")))
    await asyncio.sleep(0)
    assert value(metrics, "interlock_journal_pending_records") == 0
    assert value(metrics, "interlock_journal_failed") == 0
    assert (value(metrics, "interlock_journal_written_bytes") or 0) > 100
    journal.close()


def test_two_workers_metrics_do_not_meet() -> None:
    first, second = Metrics(), Metrics()
    first.settled("coder", "done")
    assert value(second, "interlock_exchanges_total", agent="coder", ending="done") is None


def test_a_number_that_someone_else_keeps_is_read_at_each_scrape() -> None:
    metrics, queue = Metrics(), [1, 2]
    metrics.watch("check_queue", "Checks that wait.", lambda: float(len(queue)))
    assert value(metrics, "interlock_check_queue") == 2
    queue.append(3)
    assert value(metrics, "interlock_check_queue") == 3
