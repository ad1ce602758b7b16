"""One call and what is masked of it: asked again until nothing is found, and refused where masks cannot hide it."""

from __future__ import annotations

import json

import pytest

from policies.inputs import call_facts, object_of
from policies.model import Action, CallFacts, Decision, Finding, Mode, PolicyFinding, Redaction, Severity, Signal, Stage
from policies.redaction import CannotRedact
from policies.signals import signals_of_call
from proxy.masked_answers import masked_call
from serving.patterns import shipped_patterns
from serving.wire.vocabulary import ToolCall

CARD = "4111111111111111"
MASK = "[card]"


def facts_of(call: ToolCall) -> CallFacts:
    return call_facts(call, object_of(call.arguments, 64), (), None, None, False, compared=False)


def signals(facts: CallFacts) -> list[Signal]:
    return [one for one in signals_of_call(facts, shipped_patterns()) if one.id == "payment_card"]


async def decide(facts: CallFacts) -> Decision:
    """A policy that hands the signals' places on."""
    masks = [Redaction(path=s.path, start=s.start, end=s.end, replacement=MASK) for s in signals(facts)]
    if not masks:
        return Decision(stage=Stage.TOOL_CALL, action=Action.ALLOW)
    finding = Finding(id="card", severity=Severity.LOW, message="No.", action=Action.REDACT, redactions=masks)
    found = PolicyFinding(policy="team.cards", mode=Mode.ENFORCE, finding=finding)
    return Decision(stage=Stage.TOOL_CALL, action=Action.REDACT, rule="team.cards/card", findings=[found])


async def given(arguments: object) -> object:
    call = ToolCall(0, 0, "call-1", "pay", json.dumps(arguments), True)
    facts = facts_of(call)
    masked, _ = await masked_call(call, facts, await decide(facts), signals=signals, facts_of=facts_of, decide=decide)
    return json.loads(masked.arguments)


async def test_a_value_is_masked_wherever_it_stands() -> None:
    assert await given({"0": CARD, "all": [f"a {CARD}", {"1": [CARD]}]}) == {
        "0": MASK,
        "all": [f"a {MASK}", {"1": [MASK]}],
    }


@pytest.mark.parametrize("value", ["x", MASK, CARD, [CARD], {"a": "x"}, 1])
@pytest.mark.parametrize("name", [CARD, "4111 1111 1111 1111"])
async def test_a_name_that_is_itself_a_match_cannot_be_masked(name: str, value: object) -> None:
    """Digits alone are a name too, and not the place in a list."""
    for arguments in ({name: value}, {"a": [{name: value}]}):
        with pytest.raises(CannotRedact):
            await given(arguments)
