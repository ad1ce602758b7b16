"""A second opinion on what the policies judged: which cases are put to a check, how, and what that would add.

The check is a desk as live traffic has it (:mod:`proxy.desks`): the same questions, pieces, deadline and breaker. Asked
are the attacks that were let by, the benign cases that were stopped, and as many benign ones that were not.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec

from checks.scenes import RESULTS
from checks.verdict import CheckJob
from checks.verdict import Verdict as Said
from proxy.desks import Desk
from proxy.efficacy.judging import Verdict
from serving.wire.vocabulary import ToolCall

LEAST_BENIGN = 20
_SURFACES = ("tool_result", "tool_call")

Kind = Literal["attack", "benign", "twin", "stopped wrongly"]


class Opinion(msgspec.Struct, frozen=True):
    """What a check said of one case on one surface, one verdict a question."""

    verdict: Verdict
    surface: str
    said: tuple[Said, ...]

    @property
    def strictest(self) -> Said:
        """``blocked`` before what could not be judged before a pass."""
        return min(self.said, key=lambda one: {"blocked": 0, "passed": 2, "modified": 2}.get(one.status, 1))

    @property
    def blocked(self) -> bool:
        return self.strictest.status == "blocked"

    @property
    def decided(self) -> bool:
        return self.strictest.status in ("blocked", "passed", "modified")


class Addition(msgspec.Struct):
    """What one check would add to what the policies do with cases of one source.

    ``cases`` of which the policies stop ``stopped``; ``open``: those that the check could change (attacks let by,
    benign ones not stopped; of ``stopped wrongly`` all) and has a question about, of which ``asked`` were put to it;
    ``blocked`` and ``undecided`` of these.
    """

    source: str
    kind: Kind
    surface: str
    cases: int
    stopped: int
    open: int
    asked: int = 0
    blocked: int = 0
    undecided: int = 0

    @property
    def share(self) -> float | None:
        """At which part of the cases policies or check speak up, reckoned from those asked. An attack that the check
        could not decide counts as let by; of benign ones it says nothing (None: of none did it)."""
        decided = self.asked - (0 if self.kind == "attack" else self.undecided)
        if self.kind == "stopped wrongly":
            return self.stopped / self.cases
        return (self.stopped + self.open * self.blocked / decided) / self.cases if decided else None

    @property
    def at_most(self) -> float:
        """Of the open ones, how many it may block at most, as far as those say that were asked (95 %)."""
        return wilson(self.blocked, self.asked - self.undecided)


def wilson(hits: int, of: int, z: float = 1.96) -> float:
    """The upper end of the interval in which a share lies of which ``hits`` of ``of`` were seen."""
    if not of:
        return 1.0
    share, square = hits / of, z * z
    middle, width = share + square / (2 * of), z * math.sqrt(share * (1 - share) / of + square / (4 * of * of))
    return min(1.0, (middle + width) / (1 + square / of))


def kind_of(verdict: Verdict) -> Kind:
    if verdict.case.bad:
        return "attack"
    if verdict.stopped:
        return "stopped wrongly"
    return "twin" if verdict.case.twin else "benign"


def has_results(verdict: Verdict) -> bool:
    return any(message.role in RESULTS and message.text.strip() for message in verdict.case.request.messages)


def chosen(verdicts: Sequence[Verdict], most: int | None, benign: int | None) -> list[Verdict]:
    """What is put to the check: of each source at most ``most`` attacks that were let by and as many that were stopped
    wrongly; and ``benign`` others (None: as many as these attacks, at least :data:`LEAST_BENIGN`), spread evenly over
    the sources. Which, digests of the ids decide. A case without a result in sight is none: nothing is asked then."""
    groups: dict[tuple[Kind, str], list[Verdict]] = {}
    for verdict in sorted(verdicts, key=lambda one: hashlib.sha256(one.case.id.encode()).digest()):
        if not (verdict.case.bad and verdict.stopped) and has_results(verdict):
            groups.setdefault((kind_of(verdict), verdict.case.source), []).append(verdict)
    ordered = sorted(groups.items())
    wrong = [one for (kind, _), found in ordered if kind in ("attack", "stopped wrongly") for one in found[:most]]
    others = [found for (kind, _), found in ordered if kind in ("benign", "twin")]
    wanted = max(sum(one.case.bad for one in wrong), LEAST_BENIGN) if benign is None else benign
    return wrong + _spread(others, wanted)


def _spread(groups: Sequence[Sequence[Verdict]], wanted: int) -> list[Verdict]:
    """``wanted`` of the groups together, from each as many as from the next as far as it has them."""
    taken = [0] * len(groups)
    for _ in range(min(wanted, sum(map(len, groups)))):
        fewest = min((count, at) for at, count in enumerate(taken) if count < len(groups[at]))[1]
        taken[fewest] += 1
    return [one for group, count in zip(groups, taken, strict=True) for one in group[:count]]


def jobs_of(verdict: Verdict, desk: Desk) -> list[CheckJob]:
    """What live traffic would ask about the case: each result when it comes, the call when it is made."""
    case = verdict.case
    messages = case.request.messages
    jobs = desk.questions.request(case.id, messages, messages)
    if case.call is not None:
        call = ToolCall(0, 0, None, case.call.name, json.dumps(case.call.arguments))
        jobs += desk.questions.answer(case.id, None, [call])
    desk.questions.forget(case.id)
    return [job for job in jobs if job.surface in _SURFACES]


class Asking:
    """Puts cases to a desk, no more questions at once than it has hands. ``desk`` must be made with :meth:`take`."""

    def __init__(self, concurrency: int) -> None:
        self._free = asyncio.Semaphore(concurrency)
        self._said: dict[str, Said] = {}

    def take(self, said: Said) -> None:
        self._said[said.ref] = said
        self._free.release()

    async def opinions(self, verdicts: Iterable[Verdict], desk: Desk) -> list[Opinion]:
        asked: list[tuple[Verdict, str, list[str]]] = []
        number = 0
        await desk.scheduler.start()
        for verdict in verdicts:
            refs: dict[str, list[str]] = {}
            for job in jobs_of(verdict, desk):
                await self._free.acquire()
                refs.setdefault(job.surface, []).append(ref := str(number))
                number += 1
                desk.scheduler.submit(msgspec.structs.replace(job, ref=ref))
            asked += [(verdict, surface, refs[surface]) for surface in refs]
        await self._until(number)
        return [Opinion(one, surface, tuple(self._said[ref] for ref in refs)) for one, surface, refs in asked]

    async def _until(self, number: int) -> None:
        while len(self._said) < number:
            await self._free.acquire()


def additions(verdicts: Sequence[Verdict], opinions: Iterable[Opinion]) -> list[Addition]:
    """By source, kind and surface; benign ones and twins also of all sources together (source ``all``)."""
    found: dict[tuple[str, Kind, str], Addition] = {}
    for opinion in opinions:
        kind, source = kind_of(opinion.verdict), opinion.verdict.case.source
        row = found.get((source, kind, opinion.surface))
        if row is None:
            row = found[source, kind, opinion.surface] = _row(verdicts, source, kind, opinion.surface)
        row.asked += 1
        row.blocked += opinion.blocked
        row.undecided += not opinion.decided
    rows = [found[key] for key in sorted(found)]
    pooled = {(kind, surface) for _, kind, surface in found if kind in ("benign", "twin")}
    return rows + [_all(kind, surface, rows) for kind, surface in sorted(pooled)]


def _row(verdicts: Iterable[Verdict], source: str, kind: Kind, surface: str) -> Addition:
    """Counts of the policies alone, over all cases of the source that are of the kind. Benign ones and twins are
    counted with those that were stopped wrongly, which are a kind of their own too."""

    def alike(one: Verdict) -> bool:
        case = one.case
        if kind == "stopped wrongly":
            return one.stopped and not case.bad
        return case.bad == (kind == "attack") and case.twin == (kind == "twin")

    found = [one for one in verdicts if one.case.source == source and alike(one)]
    stopped = sum(one.stopped for one in found)
    changeable = [one for one in found if one.stopped == (kind == "stopped wrongly") and has_results(one)]
    return Addition(source, kind, surface, len(found), stopped, len(changeable))


def _all(kind: Kind, surface: str, rows: Iterable[Addition]) -> Addition:
    total = Addition("all", kind, surface, 0, 0, 0)
    for row in rows:
        if (row.kind, row.surface) == (kind, surface):
            for field in ("cases", "stopped", "open", "asked", "blocked", "undecided"):
                setattr(total, field, getattr(total, field) + getattr(row, field))
    return total


class Cost(msgspec.Struct):
    """What the questions cost: tokens read and written, and milliseconds until the verdict, of those that were
    answered; ``failed``: why the others were not, with how many."""

    questions: int
    tokens_mean: float
    tokens_most: int
    ms_median: float
    ms_p95: float
    failed: dict[str, int]


def cost(opinions: Iterable[Opinion]) -> Cost:
    said = [one for opinion in opinions for one in opinion.said]
    answered = [one for one in said if one.status in ("passed", "modified", "blocked")]
    failed = Counter(f"{one.status}: {one.detail}" for one in said if one not in answered)
    tokens = [one.tokens for one in answered] or [0]
    micros = sorted(one.micros for one in answered) or [0]
    return Cost(
        questions=len(said),
        tokens_mean=round(sum(tokens) / len(tokens), 1),
        tokens_most=max(tokens),
        ms_median=round(micros[len(micros) // 2] / 1e3, 1),
        ms_p95=round(micros[math.ceil(0.95 * len(micros)) - 1] / 1e3, 1),
        failed=dict(sorted(failed.items())),
    )


def as_json(found: Sequence[Addition], opinions: Sequence[Opinion]) -> dict[str, Any]:
    return {
        "rows": [{**msgspec.to_builtins(row), "share": row.share, "at_most": row.at_most} for row in found],
        "cost": msgspec.to_builtins(cost(opinions)),
        "cases": [
            {
                "id": one.verdict.case.id,
                "kind": kind_of(one.verdict),
                "surface": one.surface,
                "status": one.strictest.status,
                "detail": one.strictest.detail,
                "score": one.strictest.score,
            }
            for one in opinions
        ],
    }
