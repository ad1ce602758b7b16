"""The policies in force as the proxy sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from policies.bundle import Bundle, Manifest, PolicyEntry, configured
from policies.engines.base import EngineError
from policies.engines.embedded import EmbeddedEngine
from policies.in_force import rollout_of
from policies.model import Action, Mode, Signal, Stage
from policies.modes import UnknownPolicyError, rollout_digest
from policies.rollout import Rollout
from policies.service import PolicySet, effective_bundle
from serving.settings import AgentSettings, PolicySettings
from tests.policies.questions import about, at_stage, call, shell
from tests.policies.support import ALWAYS, CONTRADICTS, built

FLAG = {"id": "seen", "severity": "low", "message": "m", "action": "flag", "tags": []}
DENY = {"id": "no", "severity": "high", "message": "Do it otherwise.", "action": "deny", "tags": []}


class ScriptedEngine:
    """Answers what it was given; counts the questions and keeps their documents."""

    name = "scripted"

    def __init__(self, together: Any, alone: dict[str, Any] | None = None) -> None:
        self.together = together
        self.alone = alone or {}
        self.documents: list[bytes] = []
        self.asked_alone: list[str] = []
        self.seconds: list[float] = []

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def ask_all(self, stage: Stage, document: bytes, seconds: float = 0, exchange: str = "") -> dict[str, Any]:
        self.seconds.append(seconds)
        self.documents.append(document)
        if isinstance(self.together, EngineError):
            raise self.together
        answer: dict[str, Any] = self.together
        return answer

    async def ask_one(self, policy: str, stage: Stage, document: bytes, seconds: float = 0, exchange: str = "") -> Any:
        self.seconds.append(seconds)
        self.asked_alone.append(policy)
        answer = self.alone[policy]
        if isinstance(answer, EngineError):
            raise answer
        return answer


def policy_set(engine: ScriptedEngine, reads: dict[str, list[str]], mode: Mode = Mode.ENFORCE) -> PolicySet:
    entries = [PolicyEntry(name=name, stages={Stage.TOOL_CALL: fields}) for name, fields in reads.items()]
    manifest = Manifest(digest="sha256:x", opa="1", wasm_sha256="", policies=entries)
    return PolicySet(Bundle(manifest, {}, {}, b""), engine, dict.fromkeys(reads, mode), clock=lambda: 0.0)


async def test_a_stage_is_sent_only_what_its_policies_read() -> None:
    engine = ScriptedEngine({"a.a": [], "b.b": []})
    policies = policy_set(engine, {"a.a": ["call.name"], "b.b": ["identity.agent", "run"]})
    await policies.decide(shell("git status", agent="ci"))
    assert engine.documents == [
        b'{"identity":{"agent":"ci"},"run":{"id":"run-1","step":0,"tool_calls":0,"tokens":0,"cost_usd":0.0,'
        b'"seconds":0.0,"recent_calls":[],"findings":[]},"call":{"name":"run_shell"}}'
    ]


async def test_a_policy_whose_reads_are_unknown_is_sent_everything() -> None:
    engine = ScriptedEngine({"a.a": []})
    policies = policy_set(engine, {"a.a": ["*"]})
    assert policies.reads(Stage.TOOL_CALL) == {"*"}
    question = shell("git status")
    await policies.decide(question)
    assert engine.documents == [question.model_dump_json().encode()]


async def test_the_same_projected_question_is_asked_once() -> None:
    engine = ScriptedEngine({"a.a": [DENY]})
    policies = policy_set(engine, {"a.a": ["call.arguments"]})
    first = await policies.decide(shell("ls", exchange="x-1"))
    second = await policies.decide(shell("ls", exchange="x-2"))
    assert first == second
    assert len(engine.documents) == 1
    await policies.decide(shell("pwd"))
    assert len(engine.documents) == 2


async def test_a_failure_is_not_remembered() -> None:
    engine = ScriptedEngine(EngineError("engine", "slow"), {"a.a": EngineError("engine", "slow")})
    policies = policy_set(engine, {"a.a": ["call.name"]})
    failed = await policies.decide(shell("ls"))
    assert (failed.action, failed.code) == (Action.DENY, "judge_unavailable")
    engine.together = {"a.a": []}
    assert (await policies.decide(shell("ls"))).action is Action.ALLOW


async def test_where_all_together_fail_each_is_asked_alone() -> None:
    alone = {"a.a": EngineError("policy", "conflict"), "b.b": [DENY]}
    engine = ScriptedEngine(EngineError("policy", "conflict"), alone)
    policies = policy_set(engine, {"a.a": ["call.name"], "b.b": ["call.name"]})
    decision = await policies.decide(shell("ls"))
    assert engine.asked_alone == ["a.a", "b.b"]
    assert decision.rule == "b.b/no"
    assert [(error.policy, error.cause) for error in decision.errors] == [("a.a", "policy")]


async def test_a_call_that_takes_too_long_to_judge_is_told_so_and_not_that_all_is_well() -> None:
    slow = EngineError("input", "evaluation exceeded its time limit")
    decision = await policy_set(ScriptedEngine(slow, {"a.a": slow}), {"a.a": ["call.name"]}).decide(shell("ls"))
    assert (decision.action, decision.code) == (Action.DENY, "policy_denied")
    assert decision.refusal is not None
    assert "not in the time there is" in decision.refusal
    assert "Nothing is wrong" not in decision.refusal


async def test_an_answer_of_the_wrong_shape_is_an_error_of_that_policy_alone() -> None:
    engine = ScriptedEngine({"a.a": [{"action": "allow"}], "b.b": [FLAG]})
    policies = policy_set(engine, {"a.a": ["call.name"], "b.b": ["call.name"]})
    decision = await policies.decide(shell("ls"))
    assert decision.action is Action.DENY
    assert [entry.finding.id for entry in decision.findings] == ["seen"]
    assert engine.asked_alone == []


async def test_a_policy_that_is_missing_from_the_answer_is_asked_alone() -> None:
    engine = ScriptedEngine({"b.b": []}, {"a.a": [DENY]})
    decision = await policy_set(engine, {"a.a": ["call.name"], "b.b": ["call.name"]}).decide(shell("ls"))
    assert decision.rule == "a.a/no"


async def test_a_policy_that_reads_only_signals_is_not_asked_without_one() -> None:
    engine = ScriptedEngine({"a.a": [DENY]})
    policies = policy_set(engine, {"a.a": ["signals"]})
    without = await policies.decide(shell("ls"))
    assert (without.action, without.asked, engine.documents) == (Action.ALLOW, [], [])
    signals = [Signal(set="secrets", id="jwt", path="/command")]
    assert (await policies.decide(shell("ls", signals=signals))).action is Action.DENY


async def test_a_stage_that_no_policy_has_is_not_asked() -> None:
    engine = ScriptedEngine({})
    policies = policy_set(engine, {"a.a": ["call.name"]})
    decision = await policies.decide(at_stage(Stage.RESPONSE))
    assert (decision.action, decision.asked, engine.documents) == (Action.ALLOW, [], [])
    assert not policies.in_force(Stage.RESPONSE)
    assert policies.in_force(Stage.TOOL_CALL) and policies.enforced(Stage.TOOL_CALL)


def test_in_shadow_is_in_force_but_not_enforced() -> None:
    policies = policy_set(ScriptedEngine({}), {"a.a": ["call.name"]}, Mode.SHADOW)
    assert policies.in_force(Stage.TOOL_CALL) and not policies.enforced(Stage.TOOL_CALL)


def test_a_field_is_read_if_a_part_or_a_whole_of_it_is() -> None:
    policies = policy_set(ScriptedEngine({}), {"a.a": ["call.arguments", "run"]})
    assert policies.reads_field(Stage.TOOL_CALL, "call")
    assert policies.reads_field(Stage.TOOL_CALL, "run.steps")
    assert not policies.reads_field(Stage.TOOL_CALL, "call.name")
    assert not policies.reads_field(Stage.REQUEST, "call")


async def test_an_input_that_is_no_json_is_denied_without_asking() -> None:
    engine = ScriptedEngine({"a.a": []})
    policies = policy_set(engine, {"a.a": ["call.arguments"]})
    decision = await policies.decide(about(call("run_shell", {"command": "ls \ud800"}, raw="{}")))
    assert (decision.action, decision.code, engine.documents) == (Action.DENY, "policy_denied", [])
    assert [error.cause for error in decision.errors] == ["input"]


async def test_a_decision_names_engine_bundle_and_rollout() -> None:
    policies = policy_set(ScriptedEngine({"a.a": []}), {"a.a": ["call.name"]})
    decision = await policies.decide(shell("ls"))
    assert (decision.engine, decision.bundle) == ("scripted", "sha256:x")
    assert decision.rollout == rollout_digest({"a.a": Mode.ENFORCE})


def test_a_policy_without_a_mode_is_in_shadow_and_one_that_is_off_is_gone() -> None:
    modes = Rollout.of_modes({"acme.old": "off"}).modes(["acme.new", "interlock.shell", "acme.old"], "x", None)
    assert modes == {"acme.new": Mode.SHADOW, "interlock.shell": Mode.ENFORCE}


def test_a_mode_for_a_policy_that_is_not_there_is_an_error() -> None:
    with pytest.raises(UnknownPolicyError, match=r"policies\.modes names interlock\.shel\b"):
        rollout_of(PolicySettings(modes={"interlock.shel": "off"}), Bundle.load())


def test_the_rollout_digest_changes_with_modes() -> None:
    assert rollout_digest({"a.b": Mode.SHADOW}) != rollout_digest({"a.b": Mode.ENFORCE})


def test_tools_of_agents_become_data_of_the_tools_policy() -> None:
    agents = {"ci": AgentSettings(tools=["b", "a"]), "free": AgentSettings()}
    bundle = effective_bundle(PolicySettings(), agents)
    assert bundle.data["interlock"]["tools"]["agents"] == {"ci": ["a", "b"]}
    assert effective_bundle(PolicySettings(), {}).digest == Bundle.load().digest


@pytest.mark.opa
async def test_a_policy_that_contradicts_itself_leaves_the_others_standing(opa_binary: Path, tmp_path: Path) -> None:
    bundle = built(
        opa_binary,
        tmp_path / "policies",
        {
            "acme/contradicts/policy.rego": CONTRADICTS,
            "acme/first/policy.rego": ALWAYS.format(name="first", action="flag"),
            "acme/second/policy.rego": ALWAYS.format(name="second", action="deny"),
        },
    )
    names = [entry.name for entry in bundle.policies]
    policies = PolicySet(bundle, EmbeddedEngine(bundle, 20), dict.fromkeys(names, Mode.ENFORCE))
    decision = await policies.decide(shell("ls"))
    assert decision.rule == "acme.second/second"
    assert {entry.finding.id for entry in decision.findings} == {"first", "second"}
    assert [(error.policy, error.cause) for error in decision.errors] == [("acme.contradicts", "policy")]
    shadowed = PolicySet(bundle, EmbeddedEngine(bundle, 20), dict.fromkeys(names, Mode.SHADOW))
    assert (await shadowed.decide(shell("ls"))).action is Action.ALLOW
    await policies.close()
    await shadowed.close()


def test_what_no_policy_reads_is_shown_to_none() -> None:
    policies = policy_set(ScriptedEngine({}), {"a.a": ["call.name", "run.step"], "b.b": ["signals"]})

    assert [
        part for part in ("call", "run", "signals", "request", "time") if policies.shown(Stage.TOOL_CALL, part)
    ] == [
        "call",
        "run",
        "signals",
    ]
    assert policy_set(ScriptedEngine({}), {"a.a": ["*"]}).shown(Stage.TOOL_CALL, "request")


async def test_policies_that_find_nothing_again_are_still_asked_each_time() -> None:
    engine = ScriptedEngine({"a.a": []})
    policies = policy_set(engine, {"a.a": ["call.arguments"]})
    first = await policies.decide(shell("ls"))
    engine.together = {"a.a": [DENY]}
    second = await policies.decide(shell("pwd"))
    engine.together = {"a.a": []}
    third = await policies.decide(shell("id"))

    assert [one.action for one in (first, second, third)] == [Action.ALLOW, Action.DENY, Action.ALLOW]
    assert third.model_dump(exclude={"duration_us"}) == first.model_dump(exclude={"duration_us"})
    assert len(engine.documents) == 3


def needing(data: dict[str, Any], *needs: str) -> PolicySet:
    entry = PolicyEntry(
        name="a.a", stages={Stage.REQUEST: ["request.tools"], Stage.TOOL_CALL: ["call.name"]}, needs=list(needs)
    )
    manifest = Manifest(digest="sha256:x", opa="1", wasm_sha256="", policies=[entry])
    return PolicySet(Bundle(manifest, {}, data, b""), ScriptedEngine({"a.a": [DENY]}), {"a.a": Mode.ENFORCE})


@pytest.mark.parametrize("empty", [None, [], {}, "", 0, False])
async def test_a_policy_whose_data_is_empty_is_not_asked_and_reads_nothing(empty: Any) -> None:
    policies = needing({"a": {"a": {"list": empty, "other": [1]}}}, "list", "missing")

    assert not policies.in_force(Stage.REQUEST) and not policies.enforced(Stage.TOOL_CALL)
    assert policies.reads(Stage.REQUEST) == frozenset()
    assert policies.idle == {"a.a": ["list", "missing"]}
    decision = await policies.decide(shell("ls"))
    assert (decision.action, decision.asked) == (Action.ALLOW, [])


@pytest.mark.parametrize("data", [{"list": ["x"]}, {"more": {"x": 1}}, {"list": [], "more": 0.5}])
async def test_a_policy_is_asked_as_soon_as_one_of_what_it_needs_is_set(data: dict[str, Any]) -> None:
    policies = needing({"a": {"a": data}}, "list", "more")

    assert policies.enforced(Stage.REQUEST) and policies.idle == {}
    assert (await policies.decide(shell("ls"))).action is Action.DENY


def test_settings_wake_a_policy_of_the_library() -> None:
    without = effective_bundle(PolicySettings(), {})
    given = effective_bundle(PolicySettings(data={"interlock.models": {"models": ["tiny"]}}), {})
    entry = without.policy("interlock.models")
    assert not configured(entry, without.data) and configured(entry, given.data)
    assert configured(without.policy("interlock.shell"), {})
