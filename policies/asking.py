"""How the policies of a stage are asked: all at once, and each alone where that fails.

How to think about it. One question to all costs what one to a single policy does, so that is how it begins. But a
policy that takes long, or fails, must cost the others nothing: so half of the time is left for asking the enforced
ones alone, each with a share of it, and again with what the quick ones left. And a policy that only records must make
nobody wait: what has no answer with the others' is asked ``later``, by whoever waits, when nothing waits any more.
Where all at once took long, the enforced ones are asked alone from the beginning for ``APART_SECONDS``; and so they are
about a large input, which takes each policy long (where they are many, reading it as often would take longer).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from policies.compose import findings_of
from policies.engines.base import Engine, EngineError
from policies.model import Finding, Mode, Stage

PATIENCE_SECONDS = 0.05
"""How long policies are waited for that only record, where none is enforced."""

LONG_SECONDS = 0.03
"""What takes so long and gives no answer is not tried again at once."""

LARGE_BYTES = 32 * 1024
FEW = 4
APART_SECONDS = 60.0
ORDERS_KEPT = 512

Answers = dict[str, list[Finding] | EngineError]


class Asking:
    """Asks ``engine``. ``timeout_seconds``: for one decision, all its policies together; ``clock`` gives seconds."""

    def __init__(
        self, engine: Engine, modes: Mapping[str, Mode], timeout_seconds: float, clock: Callable[[], float]
    ) -> None:
        self._engine = engine
        self._modes = modes
        self._timeout = timeout_seconds
        self._clock = clock
        self._apart: dict[Stage, float] = {}
        self._split: dict[frozenset[str], tuple[list[str], list[str]]] = {}

    async def answers(
        self, stage: Stage, document: bytes, asked: frozenset[str], exchange: str, later: set[str] | None
    ) -> Answers:
        """What each of ``asked`` says. Those that only record and did not answer with the others are put into
        ``later``; without it, they are asked alone as well."""
        ends = self._clock() + self._timeout
        enforced, others = self._parted(asked)
        together = await self._together(stage, document, exchange, enforced, later is not None and bool(others))
        if isinstance(together, EngineError):
            return dict.fromkeys(asked, together)
        answers: Answers = {name: _shaped(together[name]) for name in (*enforced, *others) if name in together}
        answers |= await self._alone(stage, document, exchange, [n for n in enforced if n not in together], ends)
        left = [name for name in others if name not in together]
        if later is None:
            answers |= await self._alone(stage, document, exchange, left, ends)
        else:
            later.update(left)
        return answers

    async def _together(
        self, stage: Stage, document: bytes, exchange: str, enforced: Sequence[str], spares: bool
    ) -> dict[str, Any] | EngineError:
        """What all say at once, nothing where that fails; the failure itself, where no other question can do better.
        ``spares``: there are some that nobody may have to wait for."""
        began, large = self._clock(), len(document) > LARGE_BYTES
        if self._apart.get(stage, -math.inf) > began or (large and spares and len(enforced) <= FEW):
            return {}
        if enforced or not spares:
            most = self._timeout * (0.75 if large else 0.5)
        else:
            most = min(PATIENCE_SECONDS, self._timeout)
        try:
            return await self._engine.ask_all(stage, document, most, exchange)
        except EngineError as error:
            if error.cause == "engine" and not error.late and self._engine.name == "opa":
                return error
            now = self._clock()
            if now - began >= LONG_SECONDS:
                self._apart[stage] = now + APART_SECONDS
        return {}

    async def _alone(self, stage: Stage, document: bytes, exchange: str, names: Sequence[str], ends: float) -> Answers:
        """Each by itself. A server is asked about all at the same time."""

        async def ask(name: str, seconds: float) -> list[Finding] | EngineError:
            try:
                return _shaped(await self._engine.ask_one(name, stage, document, seconds, exchange))
            except EngineError as error:
                return error

        if self._engine.name == "opa" or len(names) == 1:
            left = ends - self._clock()
            return dict(zip(names, await asyncio.gather(*(ask(name, left) for name in names)), strict=True))
        answers: Answers = {}
        slow: list[str] = []
        for nth, name in enumerate(names):
            began = self._clock()
            share = (ends - began) / (2 * (len(names) - nth))
            answers[name] = await ask(name, share)
            if isinstance(answers[name], EngineError) and self._clock() - began >= 0.8 * share:
                slow.append(name)
        for nth, name in enumerate(slow):
            if (left := ends - self._clock()) > 0:
                answers[name] = await ask(name, left / (len(slow) - nth))
        return answers

    def _parted(self, asked: frozenset[str]) -> tuple[list[str], list[str]]:
        """Those that are enforced, and those that only record."""
        known = self._split.get(asked)
        if known is None:
            enforced = sorted(name for name in asked if self._modes[name] is Mode.ENFORCE)
            known = enforced, sorted(asked.difference(enforced))
            if len(self._split) >= ORDERS_KEPT:
                self._split.clear()
            self._split[asked] = known
        return known


def _shaped(answer: Any) -> list[Finding] | EngineError:
    if answer == []:
        return []
    try:
        return findings_of(answer)
    except EngineError as error:
        return error
