"""Asks the matrix in pairs, first directly, then through the proxy, and says what differs case by case.

How to think about it. One pair proves little where a server may not repeat itself: a busy vLLM now and then puts two
tokens into one event, and the first of two equal prompts fills a cache that the second finds. So a case that differs
is asked for again, and only what differs between *every* answer of one side and *every* answer of the other counts.
What the server's own answers differ in among themselves is ``unsteady``: said, and not the proxy's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import combinations
from statistics import median
from typing import Literal

from proxy.contract.answer import Answer, NoAnswer
from proxy.contract.cases import Ask
from proxy.contract.client import Request, Target, ask
from proxy.contract.compare import UNSTEADY, Difference, FirstBytes, compare, first_bytes
from proxy.contract.pace import Pace, buffered, pace
from proxy.contract.tap import Tap

Verdict = Literal["same", "differs", "unsteady", "not offered"]


class CannotRun(Exception):
    """The matrix cannot be asked; says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The two answers to a request, and, with a tap, in what it did not reach the server as it was sent."""

    direct: Answer
    through: Answer | NoAnswer
    request: list[Difference]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one case. ``detail`` says why it was not offered, or in what the server is unsteady."""

    ask: Ask
    verdict: Verdict
    status: int | None = None
    differences: tuple[Difference, ...] = ()
    first: FirstBytes | None = None
    detail: str = ""
    pairs: int = 0
    pace: tuple[Pace, Pace] | None = None


@dataclass(slots=True)
class Run:
    """Two servers, the model to ask for, and how patient to be. ``longest``: tokens that the model takes.
    ``tap``: stands between the proxy and the server, so that requests are compared too."""

    direct: Target
    proxy: Target
    model: str
    longest: int | None
    tries: int = 4
    seconds: float = 120.0
    tap: Tap | None = None
    outcomes: list[Outcome] = field(default_factory=list)

    async def through(self, asks: Iterable[Ask], done: Callable[[Outcome], None] = lambda outcome: None) -> None:
        """Ask one case after the other. Raises :class:`CannotRun` where the server itself stops answering."""
        for one in asks:
            self.outcomes.append(await self._case(one))
            done(self.outcomes[-1])

    async def _case(self, one: Ask) -> Outcome:
        request = one.request(self.model, self.longest)
        if request is None:
            return Outcome(one, "not offered", detail="the server does not say how long a prompt may be")
        pairs: list[Pair] = []
        while len(pairs) < self.tries:
            direct = await self._directly(one, request)
            if not pairs and direct.status >= 400 and one.needs and not one.case.error:
                detail = f"{', '.join(one.needs)}: the server answers {direct.status} {direct.reason}"
                return Outcome(one, "not offered", direct.status, detail=detail)
            pairs.append(await self._proxied(direct, request))
            common = self._common(pairs)
            if not common:
                break
            if len(pairs) > 1 and not self._may_be_chance(pairs, common):
                break
        return self._outcome(one, pairs)

    async def _directly(self, one: Ask, request: Request) -> Answer:
        try:
            return await ask(self.direct, request, self.seconds)
        except NoAnswer as error:
            raise CannotRun(f"{self.direct.url} does not answer `{one.name}`: {error}") from None

    async def _proxied(self, direct: Answer, request: Request) -> Pair:
        if self.tap is not None:
            self.tap.clear()
        through: Answer | NoAnswer
        try:
            through = await ask(self.proxy, request, self.seconds)
        except NoAnswer as error:
            through = error
        return Pair(direct, through, self.tap.changed(request, self.proxy) if self.tap is not None else [])

    def _between(self, direct: Answer, through: Answer | NoAnswer) -> list[Difference]:
        if isinstance(through, NoAnswer):
            return [Difference("no answer", "", direct.start, str(through))]
        authorities = self.direct.authority, self.proxy.authority
        return compare(direct, through, authorities)

    def _common(self, pairs: list[Pair]) -> list[Difference]:
        """What each answer of one side differs in from each of the other, as it was in the first pair."""
        found = self._between(pairs[0].direct, pairs[0].through)
        for one in pairs:
            for other in pairs:
                keys = {difference.key for difference in self._between(one.direct, other.through)} if found else set()
                found = [difference for difference in found if difference.key in keys]
        keys = set.intersection(*({difference.key for difference in pair.request} for pair in pairs))
        return found + [difference for difference in pairs[0].request if difference.key in keys] + _held(pairs)

    def _may_be_chance(self, pairs: list[Pair], common: list[Difference]) -> bool:
        """Whether one more pair could show that a difference is none."""
        kinds = {difference.kind for difference in common}
        if kinds == {"events"} or "buffered" in kinds:
            return True
        throughs = [pair.through for pair in pairs]
        varies = _among_themselves([pair.direct for pair in pairs])
        varies |= _among_themselves([answer for answer in throughs if isinstance(answer, Answer)])
        lost = any(isinstance(answer, NoAnswer) for answer in throughs)
        return any(one.kind in UNSTEADY and (lost or one.key in varies) for one in common)

    def _outcome(self, one: Ask, pairs: list[Pair]) -> Outcome:
        direct, through = pairs[0].direct, pairs[0].through
        common, own = self._common(pairs), _among_themselves([pair.direct for pair in pairs])
        theirs = tuple(difference for difference in common if difference.key not in own)
        unsteady = sorted({" ".join(difference.key).strip() for difference in common if difference.key in own})
        paces = None if isinstance(through, NoAnswer) else (pace(direct), pace(through))
        timed = (paces[0], paces[1]) if paces and paces[0] and paces[1] else None
        first = None
        if theirs and isinstance(through, Answer):
            first = first_bytes(direct, through, (self.direct.authority, self.proxy.authority))
        return Outcome(
            one,
            "differs" if theirs else "unsteady" if unsteady else "same",
            direct.status,
            theirs,
            first,
            ", ".join(unsteady),
            len(pairs),
            timed,
        )


def _held(pairs: list[Pair]) -> list[Difference]:
    """Whether every stream through the proxy was held, beside the quickest of the server's own: a machine that is
    busy for a moment makes neither of the two."""
    directs = [one for one in (pace(pair.direct) for pair in pairs) if one is not None]
    if not directs:
        return []
    quickest = min(directs, key=lambda one: one.last)
    throughs = [None if isinstance(pair.through, NoAnswer) else pace(pair.through) for pair in pairs]
    held = [buffered(quickest, through) for through in throughs]
    return held[0] if all(held) else []


def _among_themselves(answers: list[Answer]) -> set[tuple[str, str]]:
    """What the answers of one side differ in."""
    return {one.key for left, right in combinations(answers, 2) for one in compare(left, right)}


def first_event(outcomes: Iterable[Outcome]) -> tuple[int, float, float] | None:
    """Of how many streams, and the median time to the first event directly and through the proxy, in seconds."""
    paces = [outcome.pace for outcome in outcomes if outcome.pace is not None]
    if not paces:
        return None
    return len(paces), median(one.first for one, _ in paces), median(other.first for _, other in paces)
