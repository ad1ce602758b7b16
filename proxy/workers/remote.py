"""The worker's side: what is shared, behind the same interfaces as in process, asked of the parent.

Without the parent nothing is admitted: no run can be found, no breaker read, no budget held. What is under way ends as
far as it can without asking: it streams on, unless a budget binds it and would have to be extended.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakValueDictionary

import msgspec

from policies.model import BudgetFacts, CheckFact
from proxy.breakers.admission import Admission, Admitted, Denied, circuit_keys
from proxy.breakers.budgets import Estimate
from proxy.breakers.store import Charge, Shortage
from proxy.history import Step, canonical_arguments
from proxy.refusals import Refuse
from proxy.run import RECENT_ARGUMENTS, RECENT_CALLS, Run
from proxy.runs import NAME, Found, Sighting, sight
from proxy.server_time import ShareMeter
from proxy.shape import Shape, answered, call_keys, seed_of
from proxy.workers import words
from proxy.workers.link import Link
from serving.frames import NOTICE
from serving.settings import AgentSettings, BreakerSettings
from serving.wire.message_texts import TextChange
from serving.wire.request import ChatRequest, SentCall
from serving.wire.vocabulary import Usage
from tracing.records import Alerted

_log = logging.getLogger("interlock.worker")
_notices = msgspec.msgpack.Decoder(words.FromParent)

DEADLINE = 10.0
"""Seconds that the parent may take for an answer; a parent that takes longer counts as gone."""
_BEHIND_SECONDS = 0.25
_JUST_READ_MOST = 1024
_RETRY_SECONDS = 5


class ParentGone(Exception):
    """The parent cannot be asked (any more)."""


class Caller:
    """Asks the parent. ``noticed`` gets its notices, ``gone`` is set when the connection has ended."""

    def __init__(self, noticed: Callable[[words.FromParent], None]) -> None:
        self._noticed = noticed
        self._link: Link | None = None
        self._last = 0
        self._open: dict[int, tuple[asyncio.Future[Any], type | Any, float]] = {}
        self.gone = asyncio.Event()

    def use(self, link: Link) -> None:
        self._link = link

    def ask(self, word: words.FromWorker, kind: Any) -> asyncio.Future[Any]:
        """The answer, of type ``kind``; :class:`ParentGone` if there will be none. May be dropped."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._last += 1
        self._open[self._last] = (answer, kind, time.monotonic())
        if self._link is None or self._link.closed:
            self.lost()
        else:
            self._link.send(self._last, word)
        return answer

    def tell(self, word: words.FromWorker) -> None:
        """Without an answer. What is told to a parent that is gone is lost with it."""
        if self._link is not None:
            self._link.post(NOTICE, word)

    def tell_first(self, word: words.FromWorker) -> None:
        """Like ``tell``, and it is on its way before this returns, unless the parent is far behind."""
        if self._link is not None:
            self._link.send(NOTICE, word)
            self._link.push(_BEHIND_SECONDS)

    def heard(self, number: int, body: msgspec.Raw) -> None:
        if number == NOTICE:
            self._noticed(_notices.decode(body))
            return
        answer, kind, _ = self._open.pop(-number, (None, None, 0.0))
        if answer is not None and not answer.done():
            answer.set_result(msgspec.msgpack.decode(body, type=kind))

    def lost(self) -> None:
        self.gone.set()
        for answer, _, _ in self._open.values():
            if not answer.done():
                answer.set_exception(ParentGone())
                answer.exception()  # who asked may have gone as well
        self._open.clear()

    def check(self) -> None:
        """Give up a parent that does not answer; called every second or so."""
        oldest = next((asked for _, _, asked in self._open.values()), None)
        if oldest is not None and time.monotonic() - oldest > DEADLINE and self._link is not None:
            _log.error("the parent has not answered for %.0f s", DEADLINE)
            self._link.close()


class RemoteStore:
    """``proxy.breakers.store.Store``. ``read``, ``swap`` and ``used`` raise :class:`ParentGone`; a hold that cannot be
    taken is a shortage."""

    def __init__(self, parent: Caller) -> None:
        self._parent = parent
        self._just_read: dict[str, tuple[list[str], list[bytes | None]]] = {}
        self.changes = 0

    def just_read(self, keys: list[str], values: list[bytes | None], changes: int) -> None:
        """These values came with the answer to something that was asked when ``changes`` was this; whoever reads these
        very keys next has them."""
        if changes != self.changes:
            return
        if len(self._just_read) >= _JUST_READ_MOST:
            self._just_read.clear()
        self._just_read[keys[-1]] = (keys, values)

    def forget(self) -> None:
        """An operator has changed something: what came before it may be out of date."""
        self.changes += 1
        self._just_read.clear()

    async def read(self, keys: Sequence[str]) -> list[bytes | None]:
        known = self._just_read.pop(keys[-1], None) if keys else None
        if known is not None and known[0] == keys:
            return known[1]
        values: list[bytes | None] = await self._parent.ask(words.Read(list(keys)), list[bytes | None])
        return values

    async def swap(self, key: str, old: bytes | None, new: bytes | None, seconds: float | None = None) -> bool:
        swapped: bool = await self._parent.ask(words.Swap(key, old, new, seconds), bool)
        return swapped

    async def hold(self, charges: Sequence[Charge]) -> Shortage | None:
        answer = self._parent.ask(words.Hold(list(charges)), Shortage | None)
        try:
            short: Shortage | None = await asyncio.shield(answer)
        except asyncio.CancelledError:
            answer.add_done_callback(lambda done: self._give_back(done, charges))
            raise
        except ParentGone:
            return Shortage(0, charges[0].limit)
        return short

    async def settle(self, held: Sequence[Charge], spent: Sequence[float]) -> None:
        self._parent.tell(words.Settle(list(held), list(spent)))

    async def used(self, charges: Sequence[Charge]) -> list[float]:
        amounts: list[float] = await self._parent.ask(words.Used(list(charges)), list[float]) if charges else []
        return amounts

    def _give_back(self, done: asyncio.Future[Any], charges: Sequence[Charge]) -> None:
        """Whoever wanted it has gone while it was asked for."""
        if not done.cancelled() and done.exception() is None and done.result() is None:
            self._parent.tell(words.Settle(list(charges), [0.0] * len(charges)))


class RemoteRun(Run):
    """A run of the parent's as it stood when a request of it was last seen here. What this worker adds is told."""

    parent: Caller

    def add_finding(self, finding: str) -> None:
        if finding not in self.findings:
            super().add_finding(finding)
            self.parent.tell(words.Noted(self.id, finding=finding))

    def add_check(self, fact: CheckFact) -> None:
        super().add_check(fact)
        self.parent.tell(words.Noted(self.id, check=fact.model_dump(mode="json")))

    def add_changes(self, changes: Mapping[str, TextChange]) -> None:
        super().add_changes(changes)
        self.parent.tell_first(words.Noted(self.id, changes=dict(changes)))

    def noted(self, word: words.Noted) -> None:
        """Another worker has added it."""
        if word.finding is not None:
            super().add_finding(word.finding)
        if word.check is not None:
            super().add_check(CheckFact.model_validate(word.check))
        if word.changes is not None:
            self.told_changes(word.changes)

    def now(self, state: words.RunNow) -> None:
        """As the parent has it."""
        self.started, self.seen, self.step = state.started, state.seen, state.step
        self.tokens, self.cost, self.tool_calls = state.tokens, state.cost, state.tool_calls
        self.tripped, self.findings = state.tripped, state.findings
        self.checks = tuple([CheckFact.model_validate(check) for check in state.checks])
        self.loop, self.recent, self.changes = state.loop, state.recent, state.changes


class RemoteRuns:
    """``proxy.state.Runs``. Exchanges of one run that are under way here share one :class:`RemoteRun`."""

    def __init__(self, parent: Caller, key: bytes, store: RemoteStore) -> None:
        self._parent = parent
        self._store = store
        self._key = key
        self._known: WeakValueDictionary[str, RemoteRun] = WeakValueDictionary()

    async def identify(
        self, agent: str, request: ChatRequest, named: str | None, tools: Mapping[str, str] | None = None
    ) -> Sighting:
        """``Refuse`` if the parent is gone."""
        seed = seed_of(self._key, agent)
        messages = request.messages
        shape = Shape.of(seed, messages)
        calls = {at: keys for at, said in enumerate(messages) if said.calls and (keys := call_keys(seed, said))}
        name = named if named is not None and NAME.fullmatch(named) else None
        changes = self._store.changes
        offered = dict(tools or {})
        answer = self._parent.ask(
            words.Find(agent, b"".join(shape.chain), shape.speakers, calls, name, offered), words.Place
        )
        try:
            place: words.Place = await asyncio.shield(answer)
        except asyncio.CancelledError:
            answer.add_done_callback(self._given_up)
            raise
        except ParentGone:
            raise gone() from None
        run = self._run(place.run)
        self._store.just_read(circuit_keys(agent, run.id), place.circuits, changes)
        found = Found(run, place.start, place.loop, place.new_from, place.evidence, frozenset(place.changed_tools))
        sighting = sight(messages, shape, found, self._key)
        run.went_on(sighting.loop, sighting.steps)
        self._parent.tell(words.WentOn(run.id, sighting.loop, tuple(map(_short, sighting.steps[-RECENT_CALLS:]))))
        return sighting

    def left(self, sighting: Sighting, text: str, calls: Iterable[tuple[str | None, str, str]] = ()) -> None:
        run = sighting.run
        sent = [SentCall(*call) for call in calls]
        for call in sent:
            run.called(call)
        point = answered(seed_of(self._key, run.agent), sighting.head, text, sent)
        short = [SentCall(call.id, call.name, canonical_arguments(call.arguments)[:RECENT_ARGUMENTS]) for call in sent]
        word = words.Left(run.id, sighting.head, sighting.loop, sighting.assistant_seen, point, short)
        self._parent.tell_first(word)

    def begun(self, run: Run) -> None:
        self._parent.tell(words.Began(run.id))

    def settled(self, run: Run, tokens: int, cost: float) -> None:
        run.settle(tokens, cost)
        self._parent.tell(words.Spent(run.id, tokens, cost))

    def _given_up(self, found: asyncio.Future[words.Place]) -> None:
        """The client has gone while its run was asked for."""
        if not found.cancelled() and found.exception() is None:
            self._parent.tell(words.Spent(found.result().run.id, 0, 0.0))

    def noted(self, word: words.Noted) -> None:
        if (run := self._known.get(word.run)) is not None:
            run.noted(word)

    def _run(self, state: words.RunNow) -> RemoteRun:
        run = self._known.get(state.id)
        if run is None:
            run = RemoteRun(state.id, state.agent, state.started, state.seen)
            run.parent = self._parent
            self._known[run.id] = run
        run.now(state)
        return run


def _short(step: Step) -> Step:
    """As much of it as a run remembers."""
    if len(step.arguments) <= RECENT_ARGUMENTS:
        return step
    return msgspec.structs.replace(step, arguments=step.arguments[:RECENT_ARGUMENTS])


class _Asking:
    """An exchange that is being admitted, and whether it was killed meanwhile."""

    def __init__(self, agent: str, run: str) -> None:
        self.agent = agent
        self.run = run
        self.killed = False


class RemoteAdmission(Admission):
    """Admission over a :class:`RemoteStore`, that admits nothing without the parent, and nothing that was killed
    while it asked."""

    def __init__(
        self, settings: BreakerSettings, agents: Mapping[str, AgentSettings], parent: Caller, store: RemoteStore
    ) -> None:
        super().__init__(settings, agents, store, time.monotonic)
        self._remote = store
        self._parent = parent
        self._asking: set[_Asking] = set()

    def cut(self, agent: str | None, run: str | None) -> None:
        """A run, an agent, or (both None) everything was killed."""
        self._remote.forget()
        for asking in self._asking:
            if agent in (None, asking.agent) and run in (None, asking.run):
                asking.killed = True

    async def admit(self, agent: str, sighting: Sighting, estimate: Estimate) -> Admitted | Denied:
        """``Refuse`` if the parent is gone."""
        if self._parent.gone.is_set():
            raise gone()
        run = sighting.run
        asking = _Asking(agent, run.id)
        self._asking.add(asking)
        before = run.tripped
        try:
            answer = await super().admit(agent, sighting, estimate)
            while asking.killed and isinstance(answer, Admitted):
                asking.killed = False
                await self.abandon(answer)
                answer = await super().admit(agent, sighting, estimate)
        except ParentGone:
            raise gone() from None
        finally:
            self._asking.discard(asking)
        if self._parent.gone.is_set():
            raise gone()
        if run.tripped != before:
            self._parent.tell(words.Tripped(run.id, run.tripped))
        return answer

    async def settle(self, admitted: Admitted, used: Usage) -> None:
        try:
            await super().settle(admitted, used)
        except ParentGone:
            _log.warning("what an exchange used could not be booked: the parent is gone")

    async def abandon(self, admitted: Admitted) -> None:
        try:
            await super().abandon(admitted)
        except ParentGone:
            _log.warning("a lease could not be given back: the parent is gone")

    async def budgets(self, agent: str, run: str) -> list[BudgetFacts]:
        """Without the parent, every budget that binds counts as used up."""
        try:
            return await super().budgets(agent, run)
        except ParentGone:
            binding = self._budgets(agent, run)
            return [BudgetFacts(scope=one.scope, unit=one.unit, limit=one.limit, used=one.limit) for one in binding]


class RemoteShare(ShareMeter):
    """The model server's time, of which the other workers' exchanges have their share too."""

    def __init__(self, parent: Caller, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self._parent = parent

    def begin(self) -> float:
        mark = super().begin()
        self._parent.tell(words.Busy(self._active))
        return mark

    def end(self, mark: float) -> float:
        share = super().end(mark)
        self._parent.tell(words.Busy(self._active))
        return share


class RemoteAlerts:
    """``proxy.state.Alerts``: the parent says what is new, and writes it down."""

    def __init__(self, parent: Caller) -> None:
        self._parent = parent

    def fire(self, cause: str, subject: str, agent: str, **what: Any) -> Alerted | None:
        self._parent.tell(words.Fire(cause, subject, agent, what))
        return None

    def resolve(self, cause: str, subject: str, agent: str) -> Alerted | None:
        self._parent.tell(words.Resolve(cause, subject, agent))
        return None

    def expire(self) -> list[Alerted]:
        return []


def gone() -> Refuse:
    """What a request is told when there is nobody to ask whether it may begin."""
    return Refuse(
        "admission_unavailable",
        "Interlock cannot reach the keeper of its budgets and breakers.",
        retry_after=_RETRY_SECONDS,
    )
