"""How policies are asked: who takes long, or fails, costs the others nothing."""

from __future__ import annotations

from typing import Any

import pytest

from policies.asking import APART_SECONDS, LARGE_BYTES, PATIENCE_SECONDS, Asking
from policies.engines.base import EngineError
from policies.model import Mode, Stage

CALL = Stage.TOOL_CALL
MODES = {
    "a.slow": Mode.ENFORCE,
    "b.quick": Mode.ENFORCE,
    "c.quick": Mode.ENFORCE,
    "s.slow": Mode.SHADOW,
    "w.quick": Mode.WARN,
}
FOUND = [{"id": "no", "severity": "high", "message": "Do it otherwise.", "action": "deny", "tags": []}]


class Timed:
    """An engine whose clock goes on by what each policy needs; together they need what all of ``there`` need."""

    def __init__(self, needs: dict[str, float], there: list[str], name: str = "embedded") -> None:
        self.name = name
        self.now = 100.0
        self.needs = needs
        self.there = there
        self.asked: list[tuple[str, float]] = []

    def clock(self) -> float:
        return self.now

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def ask_all(self, stage: Stage, document: bytes, seconds: float = 0, exchange: str = "") -> dict[str, Any]:
        self._spend("all", sum(self.needs.get(name, 0.0) for name in self.there), seconds)
        return dict.fromkeys(self.there, FOUND)

    async def ask_one(self, policy: str, stage: Stage, document: bytes, seconds: float = 0, exchange: str = "") -> Any:
        self._spend(policy, self.needs.get(policy, 0.0), seconds)
        return FOUND

    def _spend(self, who: str, needs: float, seconds: float) -> None:
        self.asked.append((who, round(seconds, 3)))
        self.now += min(needs, max(seconds, 0.0))
        if needs > seconds:
            raise EngineError("engine" if self.name == "opa" else "input", "too long", late=self.name == "opa")

    @property
    def names(self) -> list[str]:
        return [who for who, _ in self.asked]


async def ask(asking: Asking, *names: str, later: set[str] | None = None, document: bytes = b"{}") -> dict[str, str]:
    answers = await asking.answers(CALL, document, frozenset(names), "x", later)
    return {name: "failed" if isinstance(answer, EngineError) else "found" for name, answer in answers.items()}


@pytest.mark.parametrize("name", ["embedded", "opa"])
async def test_one_that_only_records_makes_nobody_wait_for_it_and_fails_nobody(name: str) -> None:
    engine = Timed({"s.slow": 9.0}, ["b.quick", "c.quick", "s.slow"], name)
    asking = Asking(engine, MODES, 0.5, engine.clock)
    later: set[str] = set()
    assert await ask(asking, *engine.there, later=later) == {"b.quick": "found", "c.quick": "found"}
    assert later == {"s.slow"} and engine.names == ["all", "b.quick", "c.quick"]
    assert engine.now - 100.0 == pytest.approx(0.25), "once"
    later.clear()
    assert await ask(asking, *engine.there, later=later) == {"b.quick": "found", "c.quick": "found"}
    assert later == {"s.slow"} and engine.now - 100.0 == pytest.approx(0.25), "and then no more"
    engine.now += APART_SECONDS
    engine.needs.clear()
    later.clear()
    assert set(await ask(asking, *engine.there, later=later)) == set(engine.there) and not later
    assert engine.names[-1] == "all"


async def test_where_none_is_enforced_the_wait_is_short_even_at_the_first_time() -> None:
    engine = Timed({"s.slow": 9.0}, ["s.slow", "w.quick"])
    asking = Asking(engine, MODES, 0.5, engine.clock)
    later: set[str] = set()
    assert await ask(asking, *engine.there, later=later) == {}
    assert later == {"s.slow", "w.quick"} and engine.now - 100.0 == pytest.approx(PATIENCE_SECONDS)
    assert await ask(asking, *engine.there) == {"s.slow": "failed", "w.quick": "found"}, "when nobody waits"


async def test_about_a_large_input_those_that_only_record_are_asked_later() -> None:
    engine = Timed({}, ["b.quick", "w.quick"])
    asking = Asking(engine, MODES, 0.5, engine.clock)
    later: set[str] = set()
    large = b" " * (LARGE_BYTES + 1)
    assert await ask(asking, *engine.there, later=later, document=large) == {"b.quick": "found"}
    assert later == {"w.quick"} and engine.names == ["b.quick"]
    assert set(await ask(asking, *engine.there, document=large)) == set(engine.there), "when nobody waits"
    assert set(await ask(asking, "b.quick", later=set(), document=large)) == {"b.quick"}
    assert engine.names == ["b.quick", "all", "all"]


async def test_one_that_is_switched_off_and_takes_long_costs_that_once() -> None:
    engine = Timed({"o.off": 9.0}, ["b.quick", "o.off"])
    asking = Asking(engine, MODES, 0.5, engine.clock)
    for _ in range(3):
        assert await ask(asking, "b.quick", later=set()) == {"b.quick": "found"}
    assert engine.now - 100.0 == pytest.approx(0.25)


@pytest.mark.parametrize("name", ["embedded", "opa"])
async def test_an_enforced_one_that_takes_long_leaves_the_others_findings_standing(name: str) -> None:
    engine = Timed({"a.slow": 9.0}, ["a.slow", "b.quick", "c.quick"], name)
    answers = await ask(Asking(engine, MODES, 0.6, engine.clock), *engine.there)
    assert answers == {"a.slow": "failed", "b.quick": "found", "c.quick": "found"}
    assert engine.now - 100.0 == pytest.approx(0.6), "one deadline for all together"


async def test_what_quick_ones_leave_of_the_time_is_for_those_that_need_it() -> None:
    engine = Timed({"a.slow": 0.2}, ["a.slow", "b.quick", "c.quick"])
    engine.needs["o.off"] = 9.0
    engine.there.append("o.off")
    answers = await ask(Asking(engine, MODES, 0.6, engine.clock), "a.slow", "b.quick", "c.quick")
    assert answers == dict.fromkeys(["a.slow", "b.quick", "c.quick"], "found")
    assert engine.names == ["all", "a.slow", "b.quick", "c.quick", "a.slow"]


async def test_a_server_that_is_away_is_not_asked_again() -> None:
    class Away(Timed):
        def _spend(self, who: str, needs: float, seconds: float) -> None:
            self.asked.append((who, seconds))
            raise EngineError("engine", "OPA is not reachable", True)

    engine = Away({}, [], "opa")
    later: set[str] = set()
    asking = Asking(engine, MODES, 0.5, engine.clock)
    assert await ask(asking, "b.quick", "s.slow", later=later) == {"b.quick": "failed", "s.slow": "failed"}
    assert engine.names == ["all"] and not later
