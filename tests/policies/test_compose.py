"""How many answers become one decision."""

from __future__ import annotations

import itertools
import random

import pytest

from policies.compose import STRICTNESS, compose, findings_of
from policies.engines.base import EngineError
from policies.model import Action, Finding, Mode, Severity, Stage

ENFORCE, WARN, SHADOW = Mode.ENFORCE, Mode.WARN, Mode.SHADOW


def finding(action: Action | str, id: str = "rule", severity: str = "high") -> Finding:
    return Finding(id=id, severity=Severity(severity), message="Use another way.", action=Action(action))


def test_no_findings_allow() -> None:
    decision = compose(Stage.TOOL_CALL, {"a.b": ENFORCE}, {"a.b": []})
    assert decision.action is Action.ALLOW
    assert decision.rule is None
    assert decision.refusal is None
    assert decision.asked == ["a.b"]


@pytest.mark.parametrize("pair", list(itertools.permutations(Action, 2)))
def test_the_strictest_action_of_two_policies_wins(pair: tuple[Action, Action]) -> None:
    first, second = pair
    answers: dict[str, list[Finding] | EngineError] = {"a.a": [finding(first)], "b.b": [finding(second)]}
    decision = compose(Stage.TOOL_CALL, {"a.a": ENFORCE, "b.b": ENFORCE}, answers)
    assert STRICTNESS[decision.action] == max(STRICTNESS[first], STRICTNESS[second])
    assert len(decision.findings) == 2


@pytest.mark.parametrize("mode", [WARN, SHADOW])
def test_what_is_not_enforced_is_recorded_and_changes_nothing(mode: Mode) -> None:
    decision = compose(Stage.TOOL_CALL, {"a.b": mode}, {"a.b": [finding("terminate")]})
    assert decision.action is Action.ALLOW
    assert [(entry.policy, entry.mode) for entry in decision.findings] == [("a.b", mode)]


def test_an_enforced_flag_beside_a_shadow_denial_flags() -> None:
    answers: dict[str, list[Finding] | EngineError] = {"a.a": [finding("deny")], "b.b": [finding("flag")]}
    decision = compose(Stage.TOOL_CALL, {"a.a": SHADOW, "b.b": ENFORCE}, answers)
    assert decision.action is Action.FLAG
    assert decision.rule == "b.b/rule"
    assert decision.refusal is None


def test_of_two_denials_the_more_severe_gives_the_rule() -> None:
    answers: dict[str, list[Finding] | EngineError] = {
        "a.a": [finding("deny", "mild", "low")],
        "b.b": [finding("deny", "grave", "critical")],
    }
    decision = compose(Stage.TOOL_CALL, {"a.a": ENFORCE, "b.b": ENFORCE}, answers)
    assert decision.rule == "b.b/grave"


@pytest.mark.parametrize("action", ["deny", "terminate", "approve"])
def test_a_refusal_says_the_rule_what_was_not_done_and_what_to_do_instead(action: str) -> None:
    decision = compose(Stage.TOOL_CALL, {"a.b": ENFORCE}, {"a.b": [finding(action)]})
    assert decision.refuses
    assert decision.refusal == "Blocked by policy a.b/rule. The tool call was not executed. Use another way."
    assert decision.code == "policy_denied"


def test_an_engine_that_is_not_there_denies_as_unavailable() -> None:
    error = EngineError("engine", "OPA is not reachable")
    decision = compose(Stage.TOOL_CALL, {"a.b": ENFORCE}, {"a.b": error})
    assert (decision.action, decision.code, decision.rule) == (Action.DENY, "judge_unavailable", "a.b/on_error")
    assert decision.refusal is not None and "a.b/on_error" in decision.refusal
    assert [(entry.cause, entry.message) for entry in decision.errors] == [("engine", "OPA is not reachable")]


def test_an_input_that_cannot_be_judged_is_a_plain_denial() -> None:
    decision = compose(Stage.TOOL_CALL, {"a.b": ENFORCE}, {"a.b": EngineError("input", "too large")})
    assert (decision.action, decision.code) == (Action.DENY, "policy_denied")


def test_the_setting_allow_is_for_an_engine_that_is_not_there_only() -> None:
    gone, slow = EngineError("engine", "not reachable", excusable=True), EngineError("engine", "too slow")
    cases = ((gone, Action.ALLOW), (slow, Action.DENY), (EngineError("input", "x"), Action.DENY))
    for error, action in (*cases, (EngineError("policy", "x"), Action.DENY)):
        decision = compose(Stage.TOOL_CALL, {"a.b": ENFORCE}, {"a.b": error}, passes=lambda policy: policy == "a.b")
        assert decision.action is action, error
        assert [entry.passed for entry in decision.errors] == [action is Action.ALLOW]
        assert len(decision.errors) == 1


def test_a_policy_in_shadow_that_fails_changes_nothing() -> None:
    decision = compose(Stage.TOOL_CALL, {"a.b": SHADOW}, {"a.b": EngineError("policy", "x")})
    assert decision.action is Action.ALLOW
    assert len(decision.errors) == 1


def test_one_that_fails_leaves_the_findings_of_others() -> None:
    answers: dict[str, list[Finding] | EngineError] = {
        "a.a": EngineError("policy", "conflict"),
        "b.b": [finding("deny", "real")],
    }
    decision = compose(Stage.TOOL_CALL, {"a.a": ENFORCE, "b.b": ENFORCE}, answers)
    assert decision.rule == "b.b/real"
    assert decision.code == "policy_denied"
    assert len(decision.errors) == 1


_FINE = {"id": "x", "severity": "low", "message": "m", "action": "deny", "tags": []}


@pytest.mark.parametrize(
    "answer",
    [
        None,
        True,
        "deny",
        {},
        {"x": _FINE},
        [[]],
        ["deny"],
        [_FINE | {"action": "block"}],
        [_FINE | {"severity": "awful"}],
        [_FINE | {"message": ""}],
        [_FINE | {"why": "x"}],
        [_FINE | {"id": "Not An Id"}],
        [{key: value for key, value in _FINE.items() if key != "action"}],
    ],
)
def test_any_other_shape_is_an_error_of_the_policy(answer: object) -> None:
    with pytest.raises(EngineError) as caught:
        findings_of(answer)
    assert caught.value.cause == "policy"


def test_an_empty_set_is_no_findings() -> None:
    assert findings_of([]) == []
    assert findings_of([_FINE])[0].action is Action.DENY


def test_redactions_come_in_the_order_in_which_they_are_read() -> None:
    places: list[dict[str, object]] = [
        {"path": "/messages/2/text"},
        {"path": "/messages/2/text", "start": 0},
        {"path": "/messages/2/text", "start": 0, "end": 5},
        {"path": "/messages/2/text", "start": 0, "end": 5, "replacement": "[x]"},
        {"path": "/messages/2/text", "start": 10, "end": 12},
        {"path": "/messages/02/text"},
        {"path": "/messages/10"},
        {"path": "/messages/10/text"},
    ]
    orders = []
    for seed in range(20):
        shuffled = random.Random(seed).sample(places, len(places))
        (found,) = findings_of([_FINE | {"action": "redact", "redactions": shuffled}])
        orders.append([redaction.model_dump(exclude_defaults=True) for redaction in found.redactions])
    assert orders == [orders[0]] * 20
    assert [place for place in orders[0] if place["path"] != "/messages/02/text"] == [
        *places[:1],
        places[2],
        places[3],
        places[1],
        *places[4:5],
        *places[6:],
    ]


def test_of_two_findings_that_weigh_the_same_the_order_given_does_not_decide() -> None:
    two = [_FINE | {"message": "Ask first."}, _FINE | {"message": "Wait."}]
    for answer in (two, two[::-1]):
        decision = compose(Stage.TOOL_CALL, {"a.b": ENFORCE}, {"a.b": findings_of(answer)})
        assert decision.refusal is not None and decision.refusal.endswith("Ask first.")
