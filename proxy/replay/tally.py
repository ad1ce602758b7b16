"""Counts what changes when stored exchanges are judged again: a plain object that is told one exchange at a time.

A *place* is where something can be stopped: the request, a call, a text of a choice. What is newly denied passed then
and is stopped now; what is newly allowed was stopped then and passes now. A place about which an enforced policy
cannot be asked is neither: it is unanswerable, with the reason. Memory does not grow with the number of exchanges.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

import msgspec

from policies.model import Mode
from proxy.replay.judging import Said
from proxy.replay.stored import Stored

Kind = Literal["newly_denied", "newly_allowed", "other_rule"]
STOPS = frozenset({"approve", "deny", "terminate", "redact", "quarantine"})


class Change(msgspec.Struct, frozen=True):
    """One place whose outcome changes, or where something is found that stops nothing (``recorded``). ``rule`` is the
    one that stops it now, of what is newly allowed the one that stopped it then; ``excerpt`` is masked."""

    kind: Kind | Literal["recorded"]
    rule: str
    exchange: str
    opened_ns: int
    agent: str
    place: str
    excerpt: str = ""

    @property
    def day(self) -> str:
        return datetime.fromtimestamp(self.opened_ns / 1e9, UTC).date().isoformat()


class Lost(msgspec.Struct, frozen=True):
    """A reason why a policy could not be asked."""

    policy: str
    field: str
    why: str


@dataclass
class Tally:
    """``exchanges`` were looked at, ``judged`` of them came as far as the policies; ``changed`` and ``unanswerable``
    count exchanges, ``changes`` and ``lost`` places. ``examples``: the first few changes of each kind and rule.
    ``findings`` counts those that stop nothing (rule, mode, action), ``found`` the same by rule, agent and day.
    ``only``: the policies that were asked, if others had a say then; what those stopped is not newly allowed."""

    kept: int = 3
    only: frozenset[str] = frozenset()
    exchanges: int = 0
    judged: int = 0
    unanswerable: int = 0
    first_ns: int = 0
    last_ns: int = 0
    changed: Counter[Kind] = field(default_factory=Counter)
    changes: Counter[tuple[Kind, str, str, str]] = field(default_factory=Counter)
    lost: Counter[Lost] = field(default_factory=Counter)
    lost_examples: dict[Lost, list[str]] = field(default_factory=dict)
    findings: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    found: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    found_examples: dict[str, list[Change]] = field(default_factory=dict)
    examples: dict[tuple[Kind, str], list[Change]] = field(default_factory=dict)

    @property
    def answerable(self) -> float:
        """The share of judged exchanges of which every question could be asked; 1 if there are none."""
        return 1 - self.unanswerable / self.judged if self.judged else 1.0

    def count(self, kind: Kind) -> int:
        """Places."""
        return sum(number for (one, *_), number in self.changes.items() if one == kind)

    def add(
        self, x: Stored, before: Mapping[str, str], said: Iterable[Said], excerpts: Callable[[], Mapping[str, str]]
    ) -> None:
        """One exchange. ``before``: what was stopped then, place → rule; ``excerpts`` gives them by place."""
        self.exchanges += 1
        self.first_ns = min(self.first_ns or x.opened_ns, x.opened_ns)
        self.last_ns = max(self.last_ns, x.opened_ns)
        if not x.judged:
            return
        self.judged += 1
        said = list(said)
        now = stopped(said)
        others = {place for place, rule in before.items() if self._of_another(rule)}
        open_places = self._lost(x, said, {*now, *others})
        asked = {one.place for one in said}
        ended = any(_ends(one) for one in said)
        kinds: set[Kind] = set()
        for place, rule in now.items():
            was = before.get(place)
            if was is None:
                kinds.add(self._change("newly_denied", rule, x, place, excerpts))
            elif was != rule:
                kinds.add(self._change("other_rule", rule, x, place, excerpts))
        for place, rule in before.items():
            moot = (ended and place not in asked) or place in others
            if place not in now and place not in open_places and "answer" not in open_places and not moot:
                kinds.add(self._change("newly_allowed", rule, x, place, excerpts))
        self.changed.update(kinds)
        self._findings(x, said, excerpts)

    def unreadable(self, x: Stored, error: Exception) -> None:
        """An exchange whose record does not say what such a record says."""
        self.exchanges += 1
        self.judged += 1
        self.unanswerable += 1
        self._note(Lost("*", "*", f"its record cannot be read ({type(error).__name__})"), x.id)

    def _change(self, kind: Kind, rule: str, x: Stored, place: str, excerpts: Callable[[], Mapping[str, str]]) -> Kind:
        change = Change(kind, rule, x.id, x.opened_ns, x.agent, place)
        self.changes[kind, rule, x.agent, change.day] += 1
        examples = self.examples.setdefault((kind, rule), [])
        if len(examples) < self.kept:
            examples.append(msgspec.structs.replace(change, excerpt=excerpts().get(place, "")))
        return kind

    def _of_another(self, rule: str) -> bool:
        """Whether what stopped it then is none of the policies that are asked: that is neither a denial nor a pass."""
        return bool(self.only) and rule.partition("/")[0] not in self.only

    def _lost(self, x: Stored, said: list[Said], known: Collection[str]) -> set[str]:
        """The places of which it is not known whether they would be stopped; those ``known`` are left out."""
        places: set[str] = set()
        for one in said:
            for missing in one.missing:
                if missing.enforced and one.place not in known:
                    self._note(Lost(missing.policy, missing.field, missing.why), x.id)
                    if not one.recorded:
                        places.add(one.place)
        self.unanswerable += bool(places)
        return places

    def _note(self, lost: Lost, exchange: str) -> None:
        self.lost[lost] += 1
        examples = self.lost_examples.setdefault(lost, [])
        if len(examples) < self.kept and exchange not in examples:
            examples.append(exchange)

    def _findings(self, x: Stored, said: list[Said], excerpts: Callable[[], Mapping[str, str]]) -> None:
        for one in said:
            for found in one.decision.findings if one.decision is not None else ():
                if found.mode is not Mode.ENFORCE or one.stopped_by is None:
                    rule = f"{found.policy}/{found.finding.id}"
                    self.findings[rule, found.mode.value, found.finding.action.value] += 1
                    change = Change("recorded", rule, x.id, x.opened_ns, x.agent, one.place)
                    self.found[rule, x.agent, change.day] += 1
                    examples = self.found_examples.setdefault(rule, [])
                    if len(examples) < self.kept:
                        examples.append(msgspec.structs.replace(change, excerpt=excerpts().get(one.place, "")))


def stopped(said: Iterable[Said]) -> dict[str, str]:
    """What is stopped, place → rule."""
    found: dict[str, str] = {}
    for one in said:
        if one.stopped_by is not None:
            found.setdefault(one.place, one.stopped_by)
    return found


def stopped_then(x: Stored) -> dict[str, str]:
    """What was stopped when it was live, place → rule."""
    found: dict[str, str] = {}
    if x.refused_by is not None:
        found["request"] = x.refused_by
    for call in x.calls:
        if call.stopped:
            where = f"{call.call.choice}.{call.call.index}"
            if call.in_text is not None:
                where = f"{call.call.index} in the {call.in_text} of choice {call.call.choice}"
            found[f"call {where}"] = call.rule or call.outcome
    masked = {decided.surface for decided in x.decided if decided.masked}
    stages = ("reasoning", "output") if x.request.stream else ("reasoning", "output", "response")
    for decided in x.decided:
        if decided.stage not in stages or (decided.action == "redact" and decided.surface in masked):
            continue
        if decided.action in STOPS:
            found.setdefault(decided.surface, decided.rule or decided.action)
    return found


def _ends(one: Said) -> bool:
    """Whether what comes after it would not have come."""
    if one.stopped_by is None:
        return False
    return not one.place.startswith("call") or (one.decision is not None and one.decision.action == "terminate")
