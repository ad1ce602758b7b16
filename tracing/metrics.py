"""What must be seen at once, counted in the worker: the Prometheus metrics of one worker.

Everything that can be made later is made from the journal; these are the numbers that an operator's alert
rules watch. A label never holds text from the traffic: models, tools and runs are no labels, names that come
from settings and policies are bounded in length and number (what is too many becomes ``other``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.text import printable
from tracing.durable_log import DurableLog
from tracing.prices import Cost

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_VALUES_PER_LABEL = 200
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The metrics of one worker, on a registry of their own. Methods are cheap and never raise."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._children: dict[tuple[int, tuple[str, ...]], Counter] = {}
        self._values: dict[tuple[int, int], set[str]] = {}
        self._exchanges = self._counter("exchanges", "Exchanges by how they ended.", "agent", "ending")
        self._decisions = self._counter("decisions", "Policy decisions.", "stage", "action", "policy", "mode")
        self._excepted = self._counter("excepted", "Findings that an exception covered.", "policy", "exception")
        self._calls = self._counter("tool_calls", "Tool calls of answers, by what became of them.", "outcome")
        self._judge_errors = self._counter(
            "judge_errors", "Questions to a policy engine that got no decision.", "engine", "cause"
        )
        self._refusals = self._counter("refusals", "Requests refused before they were forwarded.", "code")
        self._checks = self._counter("checks", "Guardrail checks by status.", "check", "status")
        self._dropped = self._counter(
            "checks_dropped", "Guardrail checks that were never asked, because the queue was full.", "check"
        )
        self._check_tokens = self._counter("check_tokens", "Tokens that models read and wrote as checks.", "check")
        self._trips = self._counter("breaker_trips", "Breakers that opened.", "agent", "cause")
        self._alerts = self._counter("alerts", "Alerts that fired.", "cause", "severity")
        self._waits = self._counter("record_waits", "Requests that waited for the journal to have room for them.")
        self._workers = self._counter("worker_restarts", "Workers that ended by themselves and were started again.")
        self._tokens = self._counter("tokens", "Tokens by kind; reasoning and cached are parts.", "agent", "kind")
        self._cost = self._counter("cost_usd", "What exchanges cost, as far as it is known.", "agent")
        self._unpriced = self._counter("unpriced_exchanges", "Exchanges of models without a price.", "agent")
        self._coverage = self._counter(
            "coverage", "Surfaces of exchanges, and whether they were judged.", "surface", "state"
        )
        self._budget = Gauge(
            "interlock_budget_used_ratio",
            "Part of a budget that is used.",
            ["agent", "scope", "unit"],
            registry=self._registry,
            multiprocess_mode="mostrecent",
        )
        self._held = self._histogram("held_seconds", "How long held events waited for their judge.")
        self._added = self._histogram("added_seconds", "Time that Interlock added before the request was forwarded.")
        self._active = Gauge(
            "interlock_active_exchanges", "Exchanges under way.", registry=self._registry, multiprocess_mode="livesum"
        )
        self._journal_gauges: dict[str, Gauge] = {}
        self._journal: DurableLog | None = None

    def opened(self) -> None:
        self._active.inc()

    def settled(self, agent: str, ending: str) -> None:
        """``ending`` as the ``settled`` record has it."""
        self._active.dec()
        self._count(self._exchanges, agent, ending)

    def decision(self, stage: str, action: str, policy: str = "none", mode: str = "enforce") -> None:
        """``policy`` is the one whose rule decided, ``none`` if no rule fired."""
        self._count(self._decisions, stage, action, policy, mode)

    def excepted(self, policy: str, exception: str) -> None:
        self._count(self._excepted, policy, exception)

    def call(self, outcome: str) -> None:
        self._count(self._calls, outcome)

    def judge_error(self, engine: str, cause: str) -> None:
        self._count(self._judge_errors, engine, cause)

    def refused(self, code: str) -> None:
        self._count(self._refusals, code)

    def waited(self) -> None:
        """A request waited for the journal to have room."""
        self._waits.inc()

    def held(self, seconds: float) -> None:
        self._held.observe(seconds)

    def added(self, seconds: float) -> None:
        self._added.observe(seconds)

    def check(self, name: str, status: str, tokens: int = 0) -> None:
        self._count(self._checks, name, status)
        if tokens:
            self._count(self._check_tokens, name, by=tokens)
        if status == "dropped":
            self._count(self._dropped, name)

    def tripped(self, agent: str, cause: str) -> None:
        self._count(self._trips, agent, cause)

    def worker_ended(self) -> None:
        """A worker ended by itself and is started again."""
        self._workers.inc()

    def alerted(self, cause: str, severity: str) -> None:
        self._count(self._alerts, cause, severity)

    def budget(self, agent: str, scope: str, unit: str, used: float, limit: float) -> None:
        labels = self._bounded(self._budget, (agent, scope, unit))
        self._budget.labels(*labels).set(used / limit if limit > 0 else 1.0)

    def tokens(self, agent: str, *, prompt: int, completion: int, cached: int = 0, reasoning: int = 0) -> None:
        """Token counts of one exchange; ``cached`` is a part of prompt, ``reasoning`` of completion."""
        kinds = (("prompt", prompt), ("completion", completion), ("cached", cached), ("reasoning", reasoning))
        for kind, number in kinds:
            if number > 0:
                self._count(self._tokens, agent, kind, by=number)

    def cost(self, agent: str, cost: Cost) -> None:
        if cost.known and cost.total is not None:
            self._count(self._cost, agent, by=max(cost.total, 0.0))
        else:
            self._count(self._unpriced, agent)

    def coverage(self, surface: str, state: str) -> None:
        """``state``: that of ``proxy.coverage``."""
        self._count(self._coverage, surface, state)

    def watch_journal(self, journal: DurableLog) -> None:
        """Show the journal's lag, bytes and health with every scrape; of a worker's, as of the last ``tick``."""
        if not values.ValueClass._multiprocess:
            self._registry.register(_JournalCollector(journal))
            return
        self._journal = journal
        for name, help_text, mode, _ in _journal_rows(journal):
            self._journal_gauges[name] = Gauge(
                f"interlock_journal_{name}", help_text, registry=self._registry, multiprocess_mode=mode
            )

    def tick(self) -> None:
        """Write down what others count; called every second or so where the metrics are shared by workers."""
        if self._journal is not None:
            for name, _, _, value in _journal_rows(self._journal):
                self._journal_gauges[name].set(value)

    def watch(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """Show a number that someone else keeps (queue lengths, states); ``read`` is called at each scrape."""
        Gauge(f"interlock_{name}", help_text, registry=self._registry).set_function(read)

    def render(self) -> bytes:
        """The exposition text (``CONTENT_TYPE``)."""
        self.tick()
        return generate_latest(self._registry)

    def families(self) -> Iterable[Metric]:
        """The metrics themselves."""
        return self._registry.collect()

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"interlock_{name}", help_text, labels, registry=self._registry)

    def _histogram(self, name: str, help_text: str) -> Histogram:
        return Histogram(f"interlock_{name}", help_text, buckets=_SECONDS, registry=self._registry)

    def _count(self, counter: Counter, *values: str, by: float = 1.0) -> None:
        child = self._children.get((id(counter), values))
        if child is None:
            bounded = self._bounded(counter, values)
            child = counter.labels(*bounded)
            if bounded == values:
                self._children[id(counter), values] = child
        child.inc(by)

    def _bounded(self, metric: Counter | Gauge, values: tuple[str, ...]) -> tuple[str, ...]:
        bounded = []
        for place, value in enumerate(values):
            seen = self._values.setdefault((id(metric), place), set())
            name = printable(value, 80) or "none"
            if name not in seen:
                if len(seen) >= _VALUES_PER_LABEL:
                    name = "other"
                else:
                    seen.add(name)
            bounded.append(name)
        return tuple(bounded)


class _JournalCollector(Collector):
    """Reads the journal when it is asked."""

    def __init__(self, journal: DurableLog) -> None:
        self._journal = journal

    def collect(self) -> Iterable[Metric]:
        for name, help_text, _, value in _journal_rows(self._journal):
            yield GaugeMetricFamily(f"interlock_journal_{name}", help_text, value=value)


_Mode = Literal["livesum", "livemax", "sum"]


def _journal_rows(journal: DurableLog) -> tuple[tuple[str, str, _Mode, float], ...]:
    """(name, what it is, how workers' are put together, value)."""
    return (
        ("pending_records", "Records appended and not yet on disk.", "livesum", journal.pending_records),
        ("pending_bytes", "About how many bytes of records wait for the disk.", "livesum", journal.pending_bytes),
        ("written_bytes", "Bytes written since the start.", "sum", journal.written_bytes),
        (
            "capture_errors",
            "Records written without content, because it could not be redacted.",
            "sum",
            journal.capture_errors,
        ),
        (
            "failed",
            "1 while the journal cannot be written: new exchanges are refused.",
            "livemax",
            int(not journal.healthy),
        ),
    )
