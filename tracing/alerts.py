"""Alerts: one per cause while it fires, not one per event. Pure; the clock is passed in.

The fingerprint of an alert is its cause class (``loop``, ``budget``, ``judge_unavailable`` …), its subject (the
rule, or the dependency that fails) and the agent. What fires again while it is firing is counted and says
nothing. When more than ``fleet`` agents fire with one cause and subject, one fleet alert (agent ``*``) takes
their place. An alert ends when it is resolved, or when it has not fired again for ``quiet_seconds``.

Whoever gets a record back appends it to the journal; the exporter sends it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from tracing.records import Alerted

State = Literal["firing", "acknowledged", "resolved"]
Severity = Literal["info", "low", "medium", "high", "critical"]

FLEET = "*"


class Alert(BaseModel):
    """An alert as the webhook sends it; its JSON Schema is published. Times are in nanoseconds since the
    epoch. ``release`` says how the run or agent is released."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal["1.0"] = "1.0"
    fingerprint: str
    state: State
    severity: Severity
    cause: str
    subject: str
    agent: str = Field(description="`*`: a fleet alert, of more than five agents.")
    run: str
    summary: str
    evidence: dict[str, Any]
    since_ns: int
    time_ns: int
    exchange: str
    spent_usd: float | None
    forecast: str | None
    release: str
    instance: str

    @classmethod
    def of(cls, record: Alerted, instance: str) -> Alert:
        """From the journal's record."""
        return cls(
            fingerprint=record.fingerprint,
            state=_STATES.get(record.state, "firing"),
            severity=_SEVERITIES.get(record.severity, "high"),
            cause=record.cause,
            subject=record.subject,
            agent=record.agent,
            run=record.run,
            summary=record.summary,
            evidence=record.evidence,
            since_ns=record.since_ns,
            time_ns=record.time_ns,
            exchange=record.exchange,
            spent_usd=record.spent_usd,
            forecast=record.forecast,
            release=record.release,
            instance=instance,
        )


_STATES: dict[str, State] = {"firing": "firing", "acknowledged": "acknowledged", "resolved": "resolved"}
_SEVERITIES: dict[str, Severity] = {
    "info": "info",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "critical": "critical",
}


class _Firing(msgspec.Struct):
    record: Alerted
    last_ns: int
    count: int = 1


def fingerprint(cause: str, subject: str, agent: str) -> str:
    """16 hex digits that are the same for the same cause, subject and agent, also after a restart."""
    return hashlib.sha256(f"{cause}\n{subject}\n{agent}".encode()).hexdigest()[:16]


class AlertBook:
    """What fires now. One per worker."""

    def __init__(
        self, *, clock: Callable[[], int] = time.time_ns, fleet: int = 5, quiet_seconds: float = 900.0
    ) -> None:
        self._clock = clock
        self._fleet = fleet
        self._quiet_ns = int(quiet_seconds * 1e9)
        self._firing: dict[str, _Firing] = {}

    def fire(
        self,
        cause: str,
        subject: str,
        agent: str,
        *,
        summary: str,
        severity: Severity = "high",
        run: str = "",
        exchange: str = "",
        evidence: dict[str, Any] | None = None,
        spent_usd: float | None = None,
        forecast: str | None = None,
        release: str = "",
    ) -> Alerted | None:
        """Something happened; gives the record of a new alert, or None if this cause fires already.

        ``summary`` and ``evidence`` go to people and webhooks: captured (redacted) text only.
        """
        now = self._clock()
        shared = self._firing.get(fingerprint(cause, subject, FLEET))
        own = self._firing.get(fingerprint(cause, subject, agent))
        if own is not None or shared is not None:
            for firing in (own, shared):
                if firing is not None:
                    firing.last_ns = now
                    firing.count += 1
            return None
        agents = {
            firing.record.agent
            for firing in self._firing.values()
            if (firing.record.cause, firing.record.subject) == (cause, subject)
        }
        if len(agents) >= self._fleet:
            named = sorted(agents | {agent})
            evidence = {"agents": named[:20], "agent_count": len(named), "latest": evidence or {}}
            summary = f"{len(named)} agents: {summary}"
            agent = FLEET
        record = Alerted(
            time_ns=now,
            exchange=exchange,
            fingerprint=fingerprint(cause, subject, agent),
            state="firing",
            cause=cause,
            subject=subject,
            agent=agent,
            run=run,
            severity=severity,
            summary=summary,
            evidence=evidence or {},
            since_ns=now,
            spent_usd=spent_usd,
            forecast=forecast,
            release=release,
        )
        self._firing[record.fingerprint] = _Firing(record, now)
        return record

    def resolve(self, cause: str, subject: str, agent: str) -> Alerted | None:
        """The cause is gone; None if it was not firing."""
        return self._end(fingerprint(cause, subject, agent))

    def acknowledge(self, mark: str) -> Alerted | None:
        """Somebody looks after the alert with this fingerprint; None if there is none or one who does."""
        firing = self._firing.get(mark)
        if firing is None or firing.record.state == "acknowledged":
            return None
        firing.record = msgspec.structs.replace(firing.record, state="acknowledged", time_ns=self._clock())
        return firing.record

    def expire(self) -> list[Alerted]:
        """End what has been quiet for long; called now and then."""
        now = self._clock()
        quiet = [mark for mark, firing in self._firing.items() if now - firing.last_ns >= self._quiet_ns]
        return [record for mark in quiet if (record := self._end(mark)) is not None]

    def firing(self) -> list[Alerted]:
        """What fires now, acknowledged alerts too, oldest first; ``evidence`` says how often."""
        return [
            msgspec.structs.replace(firing.record, evidence={**firing.record.evidence, "count": firing.count})
            for firing in self._firing.values()
        ]

    def _end(self, mark: str) -> Alerted | None:
        firing = self._firing.pop(mark, None)
        if firing is None:
            return None
        evidence = {**firing.record.evidence, "count": firing.count}
        return msgspec.structs.replace(firing.record, state="resolved", time_ns=self._clock(), evidence=evidence)
