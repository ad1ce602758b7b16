"""What several workers share, as the exchange sees it: which run, may it begin, what fires.

One worker has it all in its own process, and then nothing here ever suspends. With more, ``proxy.workers`` has the
same behind a socket. The budgets' and breakers' own interface is ``proxy.breakers.store``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from proxy.run import Run
from proxy.runs import RunBook, Sighting
from serving.wire.request import ChatRequest
from tracing.alerts import Severity
from tracing.records import Alerted


class Runs(Protocol):
    async def identify(
        self, agent: str, request: ChatRequest, named: str | None, tools: Mapping[str, str] | None = None
    ) -> Sighting:
        """The run of a request, as :meth:`proxy.runs.RunBook.identify` finds it."""

    def begun(self, run: Run) -> None:
        """Another exchange of a run that is known; a request that was identified has begun with that."""

    def settled(self, run: Run, tokens: int, cost: float) -> None:
        """An exchange of the run is over, and has used this: said once of each that has begun."""

    def left(self, sighting: Sighting, text: str, calls: Iterable[tuple[str | None, str, str]] = ()) -> None:
        """Says what the client was given for one choice, before its last byte leaves."""


class OwnRuns:
    """The runs of the only worker."""

    def __init__(self, book: RunBook) -> None:
        self._book = book
        self.left, self.begun, self.settled = book.left, book.begun, book.settled

    async def identify(
        self, agent: str, request: ChatRequest, named: str | None, tools: Mapping[str, str] | None = None
    ) -> Sighting:
        return self._book.identify(agent, request, named, tools)


class Alerts(Protocol):
    """What fires now (``tracing.alerts.AlertBook``). A record that comes back is the caller's to write down."""

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
    ) -> Alerted | None: ...

    def resolve(self, cause: str, subject: str, agent: str) -> Alerted | None: ...

    def expire(self) -> list[Alerted]: ...
