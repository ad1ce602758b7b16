"""The starter policies on both engines: what they stop, what they let by, and that the engines agree."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from policies.authoring.build import build
from policies.authoring.opa_tool import OpaTool
from policies.authoring.sources import LIBRARY, tree_to_build
from policies.bundle import LIBRARY_BUNDLE, Bundle
from policies.engines.embedded import EmbeddedEngine
from policies.in_force import Policies
from policies.model import Action, CallFacts, Decision, DecisionInput, Mode, Signal, Stage
from policies.service import PolicySet
from serving.patterns import shipped_patterns
from serving.settings import AgentSettings, PolicySettings
from tests.policies.questions import about, call, shell
from tests.policies.support import modes_of, opa_engine, opa_server

AGENTS = {"reader": AgentSettings(tools=["read_file"])}
SECRET = Signal(set="secrets", id="github_token", path="/command")


def cases(name: str) -> list[Any]:
    found: list[Any] = json.loads((LIBRARY / "interlock" / "shell" / f"{name}.json").read_text())[name]
    return found


def as_call(case: Any) -> CallFacts:
    return call("run_shell", {"command": case}) if isinstance(case, str) else call(case["name"], case["arguments"])


@pytest.fixture(scope="module")
def policies() -> PolicySet:
    """The settings' defaults, but for one agent that has a list of tools."""
    return Policies.load(PolicySettings(timeout_seconds=60), AGENTS).of("anonymous", None)


@pytest.fixture(scope="module")
def library_url(opa_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with opa_server(opa_binary, tmp_path_factory.mktemp("opa"), Bundle.load()) as url:
        yield url


@pytest.fixture
async def on_both(
    library_url: str, library_bundle: Bundle, library_engine: EmbeddedEngine
) -> AsyncIterator[tuple[PolicySet, PolicySet]]:
    bundle = library_bundle
    modes = modes_of(bundle)
    served = PolicySet(bundle, opa_engine(bundle, library_url), modes)
    await served.start()
    yield PolicySet(bundle, library_engine, modes), served
    await served.close()


def shell_rules(decision: Decision) -> set[str]:
    return {entry.finding.id for entry in decision.findings if entry.policy == "interlock.shell"}


async def test_every_destructive_command_is_denied(policies: PolicySet) -> None:
    listed = cases("destructive")
    assert len(listed) >= 40
    for case in listed:
        decision = await policies.decide(about(as_call(case)))
        assert decision.action is Action.DENY, case
        assert not decision.errors, case


async def test_at_least_99_of_100_ordinary_commands_are_let_by(policies: PolicySet) -> None:
    listed = cases("ordinary")
    assert len(listed) >= 200
    stopped = [case for case in listed if (await policies.decide(about(as_call(case)))).action is not Action.ALLOW]
    assert len(stopped) <= len(listed) / 100, stopped


def test_no_case_is_on_both_lists() -> None:
    texts = [json.dumps(case) for name in ("destructive", "ordinary") for case in cases(name)]
    assert len(texts) == len(set(texts))


@pytest.mark.opa
async def test_both_engines_give_the_same_decision_on_every_case(on_both: tuple[PolicySet, PolicySet]) -> None:
    embedded, served = on_both
    questions: list[DecisionInput] = [
        about(as_call(case)) for name in ("destructive", "ordinary") for case in cases(name)
    ]
    questions += [shell(value) for value in ODD_VALUES]
    questions += [shell("ls", signals=[SECRET]), about(call("read_file", {"path": "/etc/shadow"}), agent="reader")]
    for question in questions:
        here, there = await embedded.decide(question), await served.decide(question)
        assert here.errors == there.errors == [], question.call
        same = {"engine": "", "duration_us": 0}
        assert here.model_copy(update=same) == there.model_copy(update=same), question.call


ODD_VALUES: list[Any] = [
    ["rm -rf", "/srv/data"],
    [["rm"], ["-rf", ["/srv/data"]]],
    {"line": "rm -rf /srv/data"},
    {"a": {"b": [{"c": "rm -rf /srv/data"}]}},
    7,
    1.5,
    10**30,
    True,
    None,
    "",
    [],
    {},
    "rm -rf /srv/\u0000data",
    "🙂 rm -rf /",
    "'" * 50,
    "$" * 200,
    "((((((",
    "`" * 99,
    "a=1; " * 60 + "$a",
    "{" * 40 + "}" * 40,
    "x" * 5000,
]


@pytest.mark.parametrize(
    "value",
    [
        "rm -rf /srv/data",
        ["rm -rf /srv/data"],
        ["rm", "-rf", "/srv/data"],
        {"x": "rm -rf /srv/data"},
        {"x": [{"y": "rm -rf /srv/data"}]},
        [[["rm -rf /srv/data"]]],
    ],
)
async def test_a_command_hides_in_no_type(policies: PolicySet, value: Any) -> None:
    decision = await policies.decide(shell(value))
    assert decision.rule == "interlock.shell/destructive_command"


@pytest.mark.parametrize("value", [7, 1.5, None, True, [], {}, ""])
async def test_values_without_text_are_let_by_without_error(policies: PolicySet, value: Any) -> None:
    decision = await policies.decide(shell(value))
    assert decision.action is Action.ALLOW
    assert not decision.errors


@pytest.mark.parametrize(
    "raw",
    [
        '{"command": "rm -rf /srv/data',
        '{"command": "rm -rf /srv/data"',
        '{"command": ["rm", "-rf", "/srv/da',
        '{"command": "ls\\nrm -rf /srv/data',
        '{"command": "rm \\u002drf /srv/data',
        "rm -rf /srv/data",
    ],
)
async def test_a_call_that_was_cut_off_is_judged_by_its_text(policies: PolicySet, raw: str) -> None:
    decision = await policies.decide(about(call("run_shell", None, raw)))
    assert decision.rule == "interlock.shell/destructive_command"


async def test_the_canary_of_the_demo_is_denied_and_never_quoted(policies: PolicySet) -> None:
    decision = await policies.decide(shell("rm -rf /srv/canary-7f3a91"))
    assert decision.rule == "interlock.shell/destructive_command"
    assert decision.refusal is not None
    assert decision.refusal.startswith("Blocked by policy interlock.shell/destructive_command. The tool call was not")
    assert "canary" not in decision.model_dump_json()


async def test_a_secret_in_the_arguments_is_denied(policies: PolicySet) -> None:
    facts = call("http_post", {"body": {"token": "ghp_" + "a1B2" * 9}})
    signals = policies.signals(facts)
    assert {(signal.set, signal.path) for signal in signals} >= {("secrets", "/body/token")}
    decision = await policies.decide(about(facts, signals=signals))
    assert decision.rule == "interlock.secrets/secret_in_arguments"
    assert "ghp_" not in decision.model_dump_json()


async def test_tools_and_paths_only_watch_until_they_are_enforced(policies: PolicySet) -> None:
    question = about(call("write_file", {"path": "/etc/passwd"}), agent="reader")
    decision = await policies.decide(question)
    assert decision.action is Action.ALLOW
    assert {(entry.policy, entry.mode) for entry in decision.findings} == {
        ("interlock.paths", Mode.SHADOW),
        ("interlock.tools", Mode.SHADOW),
    }
    settings = PolicySettings(timeout_seconds=20, modes={"interlock.tools": "enforce", "interlock.paths": "off"})
    strict = Policies.load(settings, AGENTS).of("anonymous", None)
    decision = await strict.decide(question)
    assert decision.rule == "interlock.tools/tool_not_allowed"
    assert {entry.policy for entry in decision.findings} == {"interlock.tools"}
    await strict.close()


async def test_settings_say_what_the_workspace_is(policies: PolicySet) -> None:
    settings = PolicySettings(
        timeout_seconds=20,
        modes={"interlock.paths": "enforce"},
        data={"interlock.paths": {"workspace": ["/data/project"]}},
    )
    own = Policies.load(settings).of("anonymous", None)
    assert own.digest != policies.digest
    inside = await own.decide(about(call("read_file", {"path": "/data/project/a.txt"})))
    outside = await own.decide(about(call("read_file", {"path": "/workspace/a.txt"})))
    assert (inside.action, outside.action) == (Action.ALLOW, Action.DENY)
    await own.close()


@pytest.mark.opa
def test_the_shipped_bundle_is_what_the_sources_give(opa_binary: Path) -> None:
    made = build(tree_to_build(None), OpaTool(opa_binary))
    shipped = {
        path.relative_to(LIBRARY_BUNDLE).as_posix(): path.read_bytes()
        for path in LIBRARY_BUNDLE.rglob("*")
        if path.is_file()
    }
    files = made.files()
    assert sorted(shipped) == sorted(files)
    for name in sorted(set(files) - {"policy.wasm", "manifest.json"}):
        assert shipped[name] == files[name], f"{name} is stale: interlock policy build -o policies/library.bundle"
    if Bundle.load().manifest.opa == made.manifest.opa:
        assert shipped["policy.wasm"] == files["policy.wasm"], "policy.wasm is stale"


def test_only_shell_and_secrets_are_enforced_without_settings(policies: PolicySet) -> None:
    enforced = {name for name, mode in policies.modes.items() if mode is Mode.ENFORCE}
    assert enforced == {"interlock.shell", "interlock.secrets"}
    assert policies.enforced(Stage.TOOL_CALL)
    assert not policies.in_force(Stage.REQUEST)
    assert policies.reads(Stage.REQUEST) == frozenset()


def test_no_shipped_policy_reads_all_of_a_call(policies: PolicySet) -> None:
    """Who reads all of it reads the tools' schemas too, which then wait in memory for every answer's end."""
    reading = dict(policies.asked(Stage.TOOL_CALL))
    assert "interlock.paths" in reading
    assert [name for name, reads in reading.items() if reads & {"call", "request", "*"}] == []


def test_the_shipped_sets_are_secrets_and_pii() -> None:
    assert [patterns.name for patterns in shipped_patterns()] == ["secrets", "pii"]
