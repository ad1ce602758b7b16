"""Fail-open within a budget: how much passes, of which policies, and never because of an input."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.bundle import Bundle, Manifest, PolicyEntry
from policies.engines.base import EngineError
from policies.fail_open import FailOpen
from policies.model import Action, Mode, Severity, Stage
from policies.service import PolicySet
from serving.settings import FailOpenSettings
from tests.policies.questions import about, call
from tests.policies.test_service import ScriptedEngine

SETTINGS = FailOpenSettings(share=0.1, window_seconds=100, least=20)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def decided(fail_open: FailOpen, number: int, agent: str = "a", policy: str = "x.y") -> None:
    for _ in range(number):
        fail_open.asked(agent, [policy])


def test_nothing_passes_before_there_are_enough_decisions() -> None:
    fail_open = FailOpen(SETTINGS, Clock())
    decided(fail_open, 19)
    assert not fail_open.passes("a", "x.y", Severity.LOW)
    decided(fail_open, 1)
    assert [fail_open.passes("a", "x.y", Severity.LOW) for _ in range(4)] == [True, True, False, False]


def test_the_budget_is_each_agents_and_policys_own() -> None:
    fail_open = FailOpen(SETTINGS, Clock())
    decided(fail_open, 100)
    assert not fail_open.passes("b", "x.y", Severity.LOW)
    assert not fail_open.passes("a", "x.z", Severity.LOW)
    assert fail_open.passes("a", "x.y", Severity.LOW)


@pytest.mark.parametrize(
    ("severity", "passes"),
    [
        (Severity.INFO, True),
        (Severity.LOW, True),
        (Severity.MEDIUM, True),
        (Severity.HIGH, False),
        (Severity.CRITICAL, False),
        (None, False),
    ],
)
def test_severe_policies_never_pass(severity: Severity | None, passes: bool) -> None:
    fail_open = FailOpen(SETTINGS, Clock())
    decided(fail_open, 1000)
    assert fail_open.passes("a", "x.y", severity) is passes


def test_what_is_older_than_the_window_counts_no_more() -> None:
    clock = Clock()
    fail_open = FailOpen(SETTINGS, clock)
    decided(fail_open, 40)
    assert [fail_open.passes("a", "x.y", Severity.LOW) for _ in range(5)].count(True) == 4
    clock.now += 120
    assert not fail_open.passes("a", "x.y", Severity.LOW)
    decided(fail_open, 20)
    assert fail_open.passes("a", "x.y", Severity.LOW)


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(0, 40), st.integers(0, 5)), max_size=40))
def test_within_any_window_no_more_than_the_share_passes(steps: list[tuple[float, int, int]]) -> None:
    clock, passed, asked = Clock(), [], []
    fail_open = FailOpen(SETTINGS, clock)
    for wait, decisions, tries in steps:
        clock.now += wait
        decided(fail_open, decisions)
        asked += [clock.now] * decisions
        for _ in range(tries):
            if fail_open.passes("a", "x.y", Severity.LOW):
                passed.append(clock.now)
                recent = [moment for moment in asked if moment > clock.now - SETTINGS.window_seconds]
                spent = [moment for moment in passed if moment > clock.now - 0.9 * SETTINGS.window_seconds]
                assert len(spent) <= SETTINGS.share * len(recent)
                assert len(recent) >= SETTINGS.least


GONE = EngineError("engine", "not reachable", excusable=True)


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (GONE, True),
        (EngineError("engine", "too slow"), False),
        (EngineError("input", "too deep"), False),
        (EngineError("policy", "contradiction"), False),
    ],
)
async def test_a_decision_that_could_not_be_had_says_that_it_passed(error: EngineError, passes: bool) -> None:
    entry = PolicyEntry(name="x.y", severity=Severity.LOW, stages={Stage.TOOL_CALL: ["call.name"]})
    manifest = Manifest(digest="sha256:x", opa="1", wasm_sha256="", policies=[entry])
    engine = ScriptedEngine(error, {"x.y": error})
    modes = {"x.y": Mode.ENFORCE}
    policies = PolicySet(
        Bundle(manifest, {}, {}, b""), engine, modes, fail_open=FailOpen(SETTINGS, Clock()), clock=lambda: 0.0
    )
    made = [await policies.decide(about(call("t", {}), agent="a")) for _ in range(30)]
    assert [decision.action for decision in made[:19]] == [Action.DENY] * 19
    assert [decision.action for decision in made].count(Action.ALLOW) == (3 if passes else 0)
    for decision in made:
        (failed,) = decision.errors
        assert failed.passed is (decision.action is Action.ALLOW)


async def test_without_the_setting_nothing_passes() -> None:
    entry = PolicyEntry(name="x.y", severity=Severity.LOW, stages={Stage.TOOL_CALL: ["call.name"]})
    manifest = Manifest(digest="sha256:x", opa="1", wasm_sha256="", policies=[entry])
    policies = PolicySet(Bundle(manifest, {}, {}, b""), ScriptedEngine(GONE, {"x.y": GONE}), {"x.y": Mode.ENFORCE})
    assert {(await policies.decide(about(call("t", {})))).action for _ in range(300)} == {Action.DENY}
