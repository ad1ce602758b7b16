"""Finding exchanges in the journal: what ``interlock audit list`` and ``show`` ask."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from tracing.exchange import Exchange
from tracing.records import Opened, Record
from tracing.segments import Entry, ReadFault, read

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def find_exchanges(
    state_dir: Path,
    *,
    agent: str | None = None,
    run: str | None = None,
    since_ns: int = 0,
    denied: bool = False,
    faults: list[ReadFault] | None = None,
) -> Iterator[Exchange]:
    """Exchanges in the order of their opening, chain by chain; all conditions must hold. Yielded when they
    are settled, what is still open last."""

    def wanted(exchange: Exchange) -> bool:
        opened = exchange.opened
        return (
            opened is not None
            and (agent is None or opened.agent == agent)
            and (run is None or opened.run.startswith(run))
            and opened.time_ns >= since_ns
            and (not denied or exchange.denied)
        )

    running: dict[str, Exchange] = {}
    for entry in read(state_dir, faults, since_ns):
        exchange = running.get(entry.record.exchange)
        if exchange is None:
            if not isinstance(entry.record, Opened):
                continue  # of no exchange, or a late verdict on one that was settled
            exchange = running[entry.record.exchange] = Exchange(entry.record.exchange)
        exchange.add(entry.record)
        if exchange.settled is not None and running.pop(exchange.id) and wanted(exchange):
            yield exchange
    yield from (exchange for exchange in running.values() if wanted(exchange))


def entries_of(state_dir: Path, prefix: str, faults: list[ReadFault] | None = None) -> dict[str, list[Entry]]:
    """Every record of the exchanges whose id begins with ``prefix``, by exchange, in the journal's order."""
    found: dict[str, list[Entry]] = {}
    for entry in read(state_dir, faults):
        if entry.record.exchange.startswith(prefix):
            found.setdefault(entry.record.exchange, []).append(entry)
    return found


def parse_since(text: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> int:
    """Nanoseconds since the epoch from ``90m``, ``24h``, ``7d`` (ago) or an ISO date or time (UTC if it names
    no zone). ``ValueError`` else."""
    if match := re.fullmatch(r"(\d+)([smhdw])", text.strip()):
        return int((now().timestamp() - int(match[1]) * _UNITS[match[2]]) * 1e9)
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise ValueError(f"{text!r}: expected an age like 90m, 24h, 7d, or a date like 2026-11-21T14:00") from error
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1e9)


def facts(record: Record) -> dict[str, object]:
    """The fields of a record that hold something, but for its time and exchange."""
    return {
        name: value
        for name in record.__struct_fields__
        if name not in ("time_ns", "exchange") and (value := getattr(record, name)) not in (None, "", 0, [], {})
    }
