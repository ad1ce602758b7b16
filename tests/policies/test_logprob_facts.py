"""A rule about how sure the model was: one line of Rego, the same in both engines, silent where nothing is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from policies.engines.embedded import EmbeddedEngine
from policies.model import (
    Action,
    ArgumentProbability,
    CallLogprobs,
    Mode,
    Probability,
    Stage,
    UnalignedArgument,
)
from policies.service import PolicySet
from tests.policies.questions import about, call
from tests.policies.support import built, opa_engine, opa_server
from tests.support.processes import free_port

UNSURE = """\
package interlock.policies.acme.unsure

tool_call contains {
	"id": "path",
	"severity": "high",
	"action": "deny",
	"message": "Look up the path first.",
	"tags": [],
} if {
	input.call.name == "delete"
	some argument in input.call.logprobs.arguments
	argument.path == "/path"
	argument.min < 0.5
}
"""

SURE = Probability(min=0.9, mean=0.95, tokens=40)


def facts(*arguments: ArgumentProbability | UnalignedArgument) -> CallLogprobs:
    return CallLogprobs(answer=SURE, name=SURE, arguments=list(arguments))


def chance(path: str, least: float) -> ArgumentProbability:
    return ArgumentProbability(path=path, min=least, mean=0.9, tokens=3)


CASES = [
    (facts(chance("/path", 0.4)), Action.DENY),
    (facts(chance("/force", 0.9), chance("/path", 0.499999)), Action.DENY),
    (facts(chance("/path", 0.5)), Action.ALLOW),
    (facts(chance("/force", 0.1)), Action.ALLOW),
    (facts(UnalignedArgument(path="/path", unaligned="the value is not in the call's text")), Action.ALLOW),
    (CallLogprobs(answer=SURE, unaligned="the call is not whole"), Action.ALLOW),
    (None, Action.ALLOW),
]


@pytest.mark.parametrize("engine", ["embedded", "opa"])
async def test_deletes_a_path_it_was_not_sure_of(opa_binary: Path, tmp_path: Path, engine: str) -> None:
    bundle = built(opa_binary, tmp_path / "mine", {"acme/unsure/policy.rego": UNSURE})
    assert bundle.policies[0].stages[Stage.TOOL_CALL] == ["call.logprobs.arguments", "call.name"]

    async def ask(policies: PolicySet) -> list[Action]:
        given = call("delete", {"path": "/a", "force": True})
        asked = [about(given.model_copy(update={"logprobs": found})) for found, _ in CASES]
        await policies.start()
        try:
            return [(await policies.decide(question)).action for question in asked]
        finally:
            await policies.close()

    if engine == "embedded":
        done = await ask(PolicySet(bundle, EmbeddedEngine(bundle, 20.0), {"acme.unsure": Mode.ENFORCE}))
    else:
        with opa_server(opa_binary, tmp_path, bundle, free_port()) as url:
            done = await ask(PolicySet(bundle, opa_engine(bundle, url), {"acme.unsure": Mode.ENFORCE}))
    assert done == [expected for _, expected in CASES]


async def test_only_an_enforced_policy_that_names_them_wants_logprobs(opa_binary: Path, tmp_path: Path) -> None:
    anything = UNSURE.replace("acme.unsure", "acme.any").partition("if {")[0] + "if input[_] == 1\n"
    files = {"acme/unsure/policy.rego": UNSURE, "acme/any/policy.rego": anything}
    bundle = built(opa_binary, tmp_path / "mine", files)
    engine = EmbeddedEngine(bundle, 20.0)

    def wants(**modes: Mode) -> tuple[bool, bool]:
        made = PolicySet(bundle, engine, {f"acme.{name}": mode for name, mode in modes.items()})
        return made.wants(Stage.TOOL_CALL, "call.logprobs"), made.reads_field(Stage.TOOL_CALL, "call.logprobs")

    assert wants(unsure=Mode.ENFORCE) == (True, True)
    assert wants(unsure=Mode.SHADOW) == (False, True)
    assert wants(unsure=Mode.WARN, any=Mode.ENFORCE) == (False, True)
    assert wants(any=Mode.ENFORCE) == (False, True)
