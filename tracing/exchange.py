"""One exchange, put together from its records."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from tracing.records import AnyRecord, CallOutcome, Checked, Decided, Opened, Record, Refused, Settled

STOPPED = frozenset(("denied", "malformed", "held_bytes", "terminated", "unrecorded"))


class Exchange(msgspec.Struct):
    """The records of one exchange by kind, each in the order of the journal."""

    id: str
    opened: Opened | None = None
    refused: Refused | None = None
    settled: Settled | None = None
    decisions: list[Decided] = []
    calls: list[CallOutcome] = []
    checks: list[Checked] = []
    others: list[Record] = []

    def add(self, record: AnyRecord) -> None:
        match record:
            case Opened():
                self.opened = record
            case Refused():
                self.refused = record
            case Settled():
                self.settled = record
            case Decided():
                self.decisions.append(record)
            case CallOutcome():
                if record.outcome == "unrecorded":  # takes the place of what was decided and did not happen
                    place = (record.choice, record.index)
                    self.calls = [call for call in self.calls if (call.choice, call.index) != place]
                self.calls.append(record)
            case Checked():
                self.checks.append(record)
            case _:
                self.others.append(record)

    @property
    def ending(self) -> str:
        """As settled says it; ``open`` while it runs."""
        return "open" if self.settled is None else self.settled.ending

    @property
    def rule(self) -> str | None:
        """The rule that stopped something: of the refusal, or of the first denied call or strict decision."""
        if self.refused is not None and self.refused.rule:
            return self.refused.rule
        for call in self.calls:
            if call.outcome in STOPPED and call.rule:
                return call.rule
        for decision in self.decisions:
            if decision.action in ("deny", "terminate") and decision.rule:
                return decision.rule
        return None

    @property
    def denied(self) -> bool:
        """Whether anything of it was refused, denied or cut."""
        return (
            self.refused is not None
            or any(call.outcome in STOPPED for call in self.calls)
            or any(decision.action in ("deny", "terminate") for decision in self.decisions)
            or self.ending in ("refused", "cut")
        )

    @property
    def cost(self) -> float | None:
        """In USD; None where it is not known."""
        total = None if self.settled is None else self.settled.cost.get("total")
        return float(total) if isinstance(total, int | float) else None


def utc(time_ns: int) -> str:
    """A time as people read it, in UTC to the millisecond."""
    return datetime.fromtimestamp(time_ns // 1_000_000 / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"
