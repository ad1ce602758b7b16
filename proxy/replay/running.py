"""Runs stored exchanges through a policy set: the journal in, a :class:`Tally` out, one exchange at a time."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial

import msgspec
from pydantic import ValidationError

from policies.bundle import Bundle
from policies.engines.base import Engine
from policies.engines.embedded import EmbeddedEngine
from policies.facts.seen import ToolTable
from policies.model import Mode
from policies.modes import unknown_policies
from policies.rollout import Exempt, Rollout
from policies.service import PolicySet, with_settings
from proxy.replay.asking import Histories
from proxy.replay.judging import Rejudge, Said
from proxy.replay.missing import Missing
from proxy.replay.stored import Stored, stored
from proxy.replay.tally import Tally, stopped, stopped_then
from proxy.replay.turns import InTurns
from serving.patterns import shipped_redactor
from serving.settings import Settings
from serving.text import printable
from tracing.exchange import Exchange

EXCERPT = 160
PATIENCE = 5.0
"""Seconds that one decision may take at least: nobody waits for it, and a busy machine must not look like a denial."""

TOGETHER, TOGETHER_BYTES = 16, 4_000_000
"""Exchanges that are asked about together, and bytes of their requests from which on there are no more."""
TEXTS_BYTES = 64 * 1024 * 1024
"""Of texts, and of what is known of them: a run shows the same ones with every request."""

_SCANNED = 2000
_COLLECTED = 100_000, 50, 1000  # objects, as gc.set_threshold takes them


@dataclass
class Replay:
    """What came of it. ``modes`` are those of an agent that nothing is said of; ``seconds`` is all of the time that it
    took, ``engine_seconds`` that of the answers."""

    tally: Tally
    bundle: Bundle
    modes: Mapping[str, Mode]
    seconds: float = 0.0
    engine_seconds: float = 0.0
    questions: int = 0


class Sets:
    """The policies of one bundle as they would be in force, for each agent its set, on the embedded engine.

    ``rollout``: what says the modes and exceptions; None: every policy is enforced. ``changed``: modes that count
    instead, for every agent. ``only``: no other policies, and these enforced unless ``changed`` says something else.
    Raises what ``Policies.load`` raises.
    """

    def __init__(
        self,
        bundle: Bundle,
        settings: Settings,
        *,
        rollout: Rollout | None = None,
        changed: Mapping[str, str] | None = None,
        only: Collection[str] = (),
        engine: Callable[[Bundle, float], Engine] = EmbeddedEngine,
    ) -> None:
        self.bundle = with_settings(bundle, settings.policies, settings.agents)
        self.only = frozenset(only)
        self.tools = ToolTable(settings.tools)
        self._names = [entry.name for entry in bundle.policies]
        self._rollout = rollout
        self._changed = dict(changed or {})
        unknown_policies(self._names, [*self._changed, *only], "the command")
        self._seconds = max(settings.policies.timeout_seconds, PATIENCE)
        self._engine = InTurns(engine(self.bundle, self._seconds))
        self._made: dict[tuple[str, str | None], PolicySet] = {}
        self.of("", None)  # what is wrong with it shows now

    def modes(self, agent: str, team: str | None) -> dict[str, Mode]:
        """The modes of the policies in force."""
        if self.only or self._rollout is None:
            wanted = {name: Mode.ENFORCE for name in self._names if not self.only or name in self.only}
        else:
            wanted = self._rollout.modes(self._names, agent, team)
        for name, mode in self._changed.items():
            wanted.pop(name, None)
            if mode != "off":
                wanted[name] = Mode(mode)
        return wanted

    def differing(self, other: Sets, agent: str, team: str | None) -> frozenset[str]:
        """The policies that count otherwise for this agent than in ``other``; all, if exceptions do."""
        mine, theirs = self.modes(agent, team), other.modes(agent, team)
        if self._exceptions(agent, team) != other._exceptions(agent, team):
            return frozenset({*mine, *theirs})
        return frozenset({name for name in {*mine, *theirs} if mine.get(name) is not theirs.get(name)})

    def _exceptions(self, agent: str, team: str | None) -> list[tuple[str, Exempt]]:
        found = self._rollout.exceptions(agent, team) if self._rollout is not None else ()
        return [(one.name, one.written) for one in found]

    def of(self, agent: str, team: str | None) -> PolicySet:
        if self._rollout is None:
            agent, team = "", None
        known = self._made.get((agent, team))
        if known is None:
            exceptions = self._rollout.exceptions(agent, team) if self._rollout is not None else ()
            known = self._made[agent, team] = PolicySet(
                self.bundle,
                self._engine,
                self.modes(agent, team),
                timeout_seconds=self._seconds,
                exceptions=exceptions,
            )
        return known

    @property
    def seconds(self) -> float:
        """The time that the engine's answers took."""
        return self._engine.seconds

    async def close(self) -> None:
        await self._engine.close()


class _Rejudges:
    """One :class:`Rejudge` for each policy set."""

    def __init__(self, sets: Sets, depth: int) -> None:
        self._sets = sets
        self._depth = depth
        self._histories = Histories(sets.tools, TEXTS_BYTES)
        self._made: dict[int, Rejudge] = {}

    async def exchange(self, x: Stored) -> list[Said]:
        policies = self._sets.of(x.agent, x.team)
        rejudge = self._made.get(id(policies))
        if rejudge is None:
            rejudge = self._made[id(policies)] = Rejudge(
                policies, json_depth=self._depth, tools=self._sets.tools, histories=self._histories
            )
        return await rejudge.exchange(x)

    @property
    def questions(self) -> int:
        return sum(one.questions for one in self._made.values())


async def replay(
    exchanges: Iterable[Exchange],
    sets: Sets,
    *,
    against: Sets | None = None,
    depth: int,
    examples: int = 3,
    tell: Callable[[int], None] | None = None,
) -> Replay:
    """``against``: what these policies say counts as what was decided then, in place of the record. Where the sets have
    only some policies, only what those stopped then can be newly allowed. ``tell`` is called now and then with the
    number so far. Both sets are closed in the end."""
    with _seldom_collected():
        return await _replay(exchanges, sets, against, depth, Tally(examples, sets.only), tell)


async def _replay(
    exchanges: Iterable[Exchange],
    sets: Sets,
    against: Sets | None,
    depth: int,
    tally: Tally,
    tell: Callable[[int], None] | None,
) -> Replay:
    began = time.perf_counter()
    rejudges = _Rejudges(sets, depth)
    before = _Rejudges(against, depth) if against is not None else None

    same = against is not None and against.bundle.digest == sets.bundle.digest

    async def asked(x: Stored) -> tuple[list[Said], dict[str, str]] | Exception:
        try:
            said = await rejudges.exchange(x)
            if before is None or against is None:
                return said, stopped_then(x)
            other = await before.exchange(x)
            wanted = sets.differing(against, x.agent, x.team) if same else None
            return _with_gaps(said, other, wanted), stopped(other)
        except (ValidationError, TypeError, ValueError, AttributeError) as error:
            return error

    for group in _groups(exchanges):
        answers = await asyncio.gather(*(asked(x) for x in group))
        for x, answer in zip(group, answers, strict=True):
            if isinstance(answer, Exception):
                tally.unreadable(x, answer)
                continue
            said, then = answer
            tally.add(x, then, said, partial(_excerpts, x, said))
            if tell is not None and tally.exchanges % 256 == 0:
                tell(tally.exchanges)
    for one in (sets, against):
        if one is not None:
            await one.close()
    seconds = time.perf_counter() - began
    return Replay(tally, sets.bundle, sets.modes("", None), seconds, sets.seconds, rejudges.questions)


def _with_gaps(said: list[Said], other: list[Said], wanted: Set[str] | None) -> list[Said]:
    """``said`` with what is not known on the other side either: it may be no change, or one. ``wanted``: the policies
    that count otherwise there; what the rest say, known or not, is the same on both sides and changes nothing."""
    theirs: dict[str, list[Missing]] = {}
    for one in other:
        theirs.setdefault(one.place, []).extend(gap for gap in one.missing if gap.enforced)
    found = []
    for one in said:
        gaps = {gap.policy: gap for gap in (*one.missing, *theirs.pop(one.place, ()))}
        missing = tuple([gap for gap in gaps.values() if wanted is None or gap.policy in wanted])
        found.append(one if missing == one.missing else msgspec.structs.replace(one, missing=missing))
    return found


def _groups(exchanges: Iterable[Exchange]) -> Iterator[list[Stored]]:
    """Those that are asked about together."""
    group: list[Stored] = []
    size = 0
    for exchange in exchanges:
        x = stored(exchange)
        if x is None:
            continue
        group.append(x)
        size += exchange.opened.request_bytes if exchange.opened is not None else 0
        if len(group) == TOGETHER or size > TOGETHER_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


@contextmanager
def _seldom_collected() -> Iterator[None]:
    """Looking for what only circles keep alive takes a tenth of the time: exchanges make none."""
    usual = gc.get_threshold()
    gc.set_threshold(*_COLLECTED)
    try:
        yield
    finally:
        gc.set_threshold(*usual)


def _excerpts(x: Stored, said: Iterable[Said]) -> dict[str, str]:
    """A masked line for each place that something stops or stopped."""
    found = {one.place: masked(f"{one.about.name} {one.about.arguments}") for one in said if one.about is not None}
    for call in x.calls:
        if call.in_text is None:
            place = f"call {call.call.choice}.{call.call.index}"
            found.setdefault(place, masked(f"{call.call.name} {call.call.arguments}"))
    if x.news:
        found["request"] = masked(f"{x.news[-1].role}: {x.news[-1].text}")
    return found


def masked(text: str) -> str:
    """One line without secrets, bounded."""
    return printable(_redactor()(text[:_SCANNED]), EXCERPT)


@lru_cache(maxsize=1)
def _redactor() -> Callable[[str], str]:
    return shipped_redactor()
