"""The embedded engine and a real OPA server decide alike: on every test of the library, and on made-up inputs with odd
numbers, texts, types and depths, all policies of the library in force."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import pytest_asyncio

from policies.authoring.opa_tool import OpaTool
from policies.authoring.sources import tree_to_build
from policies.authoring.testing import run_tests
from policies.bundle import Bundle
from policies.engines.embedded import EmbeddedEngine
from policies.model import Action, Decision, DecisionInput, Mode
from policies.service import PolicySet
from tests.policies.odd_inputs import deep_input, long_input, odd_input
from tests.policies.support import ALWAYS, CONTRADICTS, UNORDERED, built, opa_engine, opa_server

pytestmark = [pytest.mark.opa, pytest.mark.asyncio(loop_scope="module")]

INPUTS = 2_000
SEED = 20261121
SECONDS = 60.0

DATA: dict[str, dict[str, Any]] = {
    "interlock.tools": {"agents": {"reader": ["read_*"]}, "teams": {"web": ["fetch", "task"]}, "never": ["pay"]},
    "interlock.approvals": {"tools": ["pay", "send_*"], "above": {"pay": {"amount": 100}}},
    "interlock.models": {
        "models": ["tiny"],
        "limits": {"temperature": 1, "n": 2, "max_tokens": 100},
        "tool_choice": ["auto"],
    },
    "interlock.spend": {"limits": {"step": 100, "tokens": 2**53, "cost_usd": 5}, "budget_share": 0.5},
    "interlock.uncertain_calls": {"least": 0.4},
    "interlock.answer_links": {"hosts": ["example.com"], "links": True},
    "interlock.answer_format": {"json": ["a"], "scripts": ["Latin"], "most_characters": 200},
    "interlock.argument_schema": {"tools": ["*"]},
    "interlock.changed_tools": {"tools": ["*"]},
    "interlock.delegation": {"most": 2, "agents": {"lead": ["tester"]}},
    "interlock.call_rate": {"most": 2},
    "interlock.concealment": {"watch": True},
    "interlock.sql": {"watch": True},
    "interlock.hidden_text": {"watch": True},
    "interlock.prompt_leak": {"watch": True},
    "interlock.injected_results": {"watch": True},
    "interlock.egress": {"agents": {"reader": ["example.com"]}},
}
"""What wakes every policy."""


class Both:
    """The same policies on both engines."""

    def __init__(self, bundle: Bundle, url: str) -> None:
        modes = {entry.name: Mode.ENFORCE for entry in bundle.policies}
        self.embedded = PolicySet(bundle, EmbeddedEngine(bundle, SECONDS), modes, timeout_seconds=SECONDS)
        self.served = PolicySet(bundle, opa_engine(bundle, url, seconds=SECONDS), modes, timeout_seconds=SECONDS)

    async def decide(self, question: DecisionInput) -> Decision:
        """What both say of it; anything but the same is a failure."""
        here, there = await self.embedded.decide(question), await self.served.decide(question)
        assert _plain(here) == _plain(there), question
        return here


def _plain(decision: Decision) -> dict[str, Any]:
    """A decision without what tells the engines apart: name, time, and the words of an error."""
    said = decision.model_dump(exclude={"engine", "duration_us"})
    said["errors"] = [(error.policy, error.cause) for error in decision.errors]
    return said


@pytest.fixture(scope="module")
def library(library_bundle: Bundle) -> Bundle:
    return library_bundle.with_data(DATA)


@pytest.fixture(scope="module")
def url(opa_binary: Path, library: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with opa_server(opa_binary, tmp_path_factory.mktemp("opa"), library) as url:
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def both(library: Bundle, url: str) -> AsyncIterator[Both]:
    made = Both(library, url)
    await made.served.start()
    yield made
    await made.served.close()
    await made.embedded.close()


async def test_every_test_of_the_library_passes_on_both_engines(opa_binary: Path) -> None:
    tree = tree_to_build(None)
    results = run_tests(tree, OpaTool(opa_binary))
    assert [result for result in results if not result.ok] == []
    tested = {result.package.removesuffix("_test").removeprefix("interlock.policies.") for result in results}
    assert tested == set(tree.policies)


async def test_every_policy_is_asked(both: Both) -> None:
    assert both.embedded.idle == both.served.idle == {}


async def test_both_engines_decide_alike_on_made_up_inputs(both: Both) -> None:
    random = Random(SEED)
    fired: set[str] = set()
    errors = 0
    for _ in range(INPUTS):
        decision = await both.decide(odd_input(random))
        fired |= {found.policy for found in decision.findings}
        errors += bool(decision.errors)
    assert fired == set(tree_to_build(None).policies)
    assert errors < INPUTS / 100


@pytest.mark.parametrize("depth", [60, 200, 10_000])
async def test_both_engines_decide_alike_on_a_deep_value(both: Both, depth: int) -> None:
    decision = await both.decide(deep_input(Random(depth), depth))
    assert decision.action is Action.DENY


@pytest.mark.parametrize("seed", range(4))
async def test_both_engines_decide_alike_on_a_megabyte(both: Both, seed: int) -> None:
    await both.decide(long_input(Random(seed)))


async def test_a_lone_surrogate_is_denied_by_both_alike(both: Both) -> None:
    question = odd_input(Random(1))
    lone = question.model_copy(update={"identity": question.identity.model_copy(update={"agent": "\ud800"})})
    decision = await both.decide(lone)
    assert decision.action is Action.DENY and decision.errors


async def test_policies_of_two_teams_stand_beside_one_that_fails_on_both_engines(
    opa_binary: Path, tmp_path: Path
) -> None:
    files = {
        "red/first/policy.rego": ALWAYS.replace("acme.", "red.").format(name="first", action="deny"),
        "blue/second/policy.rego": ALWAYS.replace("acme.", "blue.").format(name="second", action="flag"),
        "acme/contradicts/policy.rego": CONTRADICTS,
    }
    bundle = built(opa_binary, tmp_path / "policies", files)
    random = Random(SEED)
    with opa_server(opa_binary, tmp_path / "opa", bundle) as url:
        both = Both(bundle, url)
        await both.served.start()
        for _ in range(20):
            question = odd_input(random)
            if question.call is None or not question.call.arguments:
                continue
            decision = await both.decide(question)
            assert {found.policy for found in decision.findings} == {"red.first", "blue.second"}
            assert [(error.policy, error.cause) for error in decision.errors] == [("acme.contradicts", "policy")]
            assert decision.rule == "red.first/first"
        await both.served.close()
        await both.embedded.close()


async def test_sets_come_in_the_same_order_from_both_engines(opa_binary: Path, tmp_path: Path) -> None:
    bundle = built(opa_binary, tmp_path / "policies", {"acme/unordered/policy.rego": UNORDERED})
    random = Random(SEED)
    question = next(made for made in iter(lambda: odd_input(random), None) if made.call is not None)
    with opa_server(opa_binary, tmp_path / "opa", bundle) as url:
        both = Both(bundle, url)
        await both.served.start()
        decision = await both.decide(question)
        await both.served.close()
        await both.embedded.close()
    messages = [found.finding.message for found in decision.findings]
    assert messages == sorted(messages) and len(messages) == 5
    for found in decision.findings:
        assert found.finding.tags == sorted(found.finding.tags) and len(found.finding.tags) == 5
        places = [(redaction.path, redaction.start) for redaction in found.finding.redactions]
        wanted = [(n, start) for n in range(41) for start in ((None,) if n <= 12 else ()) + (n % 3,)]
        assert places == [(f"/list/{n}/text", start) for n, start in wanted]
