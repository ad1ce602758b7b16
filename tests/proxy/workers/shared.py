"""A parent's desk and its workers' sides in one event loop, over real sockets."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

from proxy.breakers.admission import Admission
from proxy.breakers.store import MemoryStore
from proxy.plane import make_recorder, open_journal
from proxy.runs import RunBook, Sighting
from proxy.setup import State
from proxy.workers import words
from proxy.workers.desk import Desk
from proxy.workers.link import Link, connect
from proxy.workers.remote import Caller, RemoteAdmission, RemoteAlerts, RemoteRuns, RemoteStore
from serving.settings import Settings
from tests.proxy.breakers.made_up import Clock, request
from tracing.journal import Journal
from tracing.metrics import Metrics

KEY = b"key"


class MadeUpState(State):
    """With a clock that only the test moves, and runs numbered from 1."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        numbers = count(1)
        self.key = KEY
        self.store = MemoryStore(clock)
        self.runs = RunBook(settings.breakers, clock, lambda: f"run-{next(numbers)}", KEY, self._forgotten)
        self.admission = Admission(settings.breakers, settings.agents, self.store, clock)


class Side:
    """One worker's side of the connection."""

    def __init__(self, settings: Settings) -> None:
        self.notices: list[words.FromParent] = []
        self.caller = Caller(self._noticed)
        self.store = RemoteStore(self.caller)
        self.runs = RemoteRuns(self.caller, KEY, self.store)
        self.admission = RemoteAdmission(settings.breakers, settings.agents, self.caller, self.store)
        self.alerts = RemoteAlerts(self.caller)

    async def join(self, path: Path, number: int, token: str) -> Any:
        self.link = Link(connect(path), self.caller.heard, self.caller.lost)
        self.caller.use(self.link)
        return await self.caller.ask(words.Hello(token, number), words.Welcome)

    async def told(self) -> None:
        """Until the parent has read everything that was sent before."""
        await self.store.read([])

    def _noticed(self, word: words.FromParent) -> None:
        self.notices.append(word)
        if isinstance(word, words.Cut):
            self.admission.cut(word.agent, word.run)
        if isinstance(word, words.Noted):
            self.runs.noted(word)


class Shared:
    """A desk with ``sides`` of workers 1, 2, …"""

    def __init__(self, settings: Settings, path: Path, journal: Journal) -> None:
        self.settings = settings
        self.path = path
        self.clock = Clock()
        self.state = MadeUpState(settings, self.clock)
        self.recorder = make_recorder(settings, journal, Metrics())
        self.journal = journal
        self.pids = {os.getpid()}
        self.desk = Desk(self.state, self.recorder, {1: "one", 2: "two"}, lambda number, pid: pid in self.pids)
        self.sides: list[Side] = []

    async def side(self, number: int) -> Side:
        side = Side(self.settings)
        await side.join(self.path, number, {1: "one", 2: "two"}[number])
        self.sides.append(side)
        return side


@asynccontextmanager
async def shared(folder: Path, **sections: Any) -> AsyncIterator[Shared]:
    """Settings as the YAML file has them."""
    settings = Settings.model_validate({"state_dir": folder / "state", **sections})
    journal = open_journal(settings)
    made = Shared(settings, folder / "desk.sock", journal)
    made.desk.listen(made.path)
    try:
        yield made
    finally:
        for side in made.sides:
            side.link.close()
        made.desk.close()
        await asyncio.sleep(0)
        journal.close()


class ManyBooks:
    """As one book to an agent's harness, whose every request and every answer goes by another worker."""

    def __init__(self, sides: Sequence[Side]) -> None:
        self._sides = sides
        self._turn = 0

    async def identify(self, agent: str, *messages: Any, named: str | None = None) -> Sighting:
        self._turn += 1
        return await self._sides[self._turn % len(self._sides)].runs.identify(agent, request(*messages), named)

    def left(self, sighting: Sighting, text: str, calls: Iterable[tuple[str | None, str, str]] = ()) -> None:
        self._sides[self._turn % len(self._sides)].runs.left(sighting, text, calls)
