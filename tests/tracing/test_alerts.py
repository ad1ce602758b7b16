"""Alerts: one per cause."""

from __future__ import annotations

from tracing.alerts import Alert, AlertBook
from tracing.records import Alerted


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000_000

    def __call__(self) -> int:
        return self.now

    def pass_seconds(self, seconds: float) -> None:
        self.now += int(seconds * 1e9)


def fire(book: AlertBook, agent: str = "coder", cause: str = "loop", subject: str = "repeat") -> Alerted | None:
    return book.fire(cause, subject, agent, summary="the same call again", evidence={"calls": 3})


def test_a_cause_alerts_once_while_it_fires() -> None:
    book = AlertBook(clock=Clock())
    first = fire(book)
    assert first is not None
    assert [fire(book) for _ in range(1000)] == [None] * 1000
    (firing,) = book.firing()
    assert firing.evidence == {"calls": 3, "count": 1001}


def test_another_cause_subject_or_agent_is_another_alert() -> None:
    book = AlertBook(clock=Clock())
    marks = [fire(book), fire(book, agent="b"), fire(book, cause="budget"), fire(book, subject="cycle")]
    assert len({record.fingerprint for record in marks if record}) == 4


def test_after_it_was_resolved_it_fires_anew() -> None:
    clock = Clock()
    book = AlertBook(clock=clock)
    first = fire(book)
    clock.pass_seconds(5)
    resolved = book.resolve("loop", "repeat", "coder")
    assert first is not None
    assert resolved is not None
    assert (resolved.state, resolved.fingerprint, resolved.since_ns) == ("resolved", first.fingerprint, first.since_ns)
    assert resolved.time_ns == first.time_ns + 5_000_000_000
    assert book.resolve("loop", "repeat", "coder") is None
    assert fire(book) is not None


def test_what_has_been_quiet_for_long_is_resolved() -> None:
    clock = Clock()
    book = AlertBook(clock=clock, quiet_seconds=60)
    fire(book)
    clock.pass_seconds(50)
    fire(book)
    clock.pass_seconds(50)
    assert book.expire() == []
    clock.pass_seconds(11)
    assert [record.state for record in book.expire()] == ["resolved"]
    assert book.firing() == []


def test_more_than_five_agents_with_one_cause_become_one_fleet_alert() -> None:
    book = AlertBook(clock=Clock())
    records = [fire(book, agent=f"agent-{number}") for number in range(20)]
    sent = [record for record in records if record is not None]
    assert [record.agent for record in sent] == ["agent-0", "agent-1", "agent-2", "agent-3", "agent-4", "*"]
    assert sent[-1].evidence["agent_count"] == 6
    assert sent[-1].summary == "6 agents: the same call again"


def test_an_acknowledged_alert_says_so_once() -> None:
    book = AlertBook(clock=Clock())
    record = fire(book)
    assert record is not None
    acknowledged = book.acknowledge(record.fingerprint)
    assert acknowledged is not None
    assert acknowledged.state == "acknowledged"
    assert book.acknowledge(record.fingerprint) is None
    assert book.acknowledge("unknown") is None
    assert fire(book) is None


def test_the_fingerprint_is_the_same_after_a_restart() -> None:
    first, second = fire(AlertBook(clock=Clock())), fire(AlertBook(clock=Clock()))
    assert first is not None
    assert second is not None
    assert first.fingerprint == second.fingerprint


def test_what_is_sent_is_the_published_model() -> None:
    record = fire(AlertBook(clock=Clock()))
    assert record is not None
    alert = Alert.of(record, "one")
    assert Alert.model_validate_json(alert.model_dump_json()) == alert
    assert set(Alert.model_json_schema()["properties"]) >= {"fingerprint", "state", "cause", "release"}
