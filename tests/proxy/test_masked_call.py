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
    return [one for one in signals_of_call(facts, shipped_patterns()) if one.id in ("payment_card", "private_key")]


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


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("In 2026 4111 1111 1111 1111 12/27 123", f"In 2026 {MASK} 12/27 123"),
        ("to 6759 6498 2643 8453 6759 6498 2643 8453.", f"to {MASK}."),
        ("4111 1111 1111 1111, 4111 1111 1111 1111", MASK),
    ],
)
async def test_of_a_number_beside_others_only_the_number_is_masked(text: str, masked: str) -> None:
    """Where two are read as a third between them, all of it is one place; of several places all of the value goes."""
    assert await given({"note": text}) == {"note": masked}


@pytest.mark.parametrize("value", ["x", MASK, CARD, [CARD], {"a": "x"}, 1])
@pytest.mark.parametrize("name", [CARD, "4111 1111 1111 1111"])
async def test_a_name_that_is_itself_a_match_cannot_be_masked(name: str, value: object) -> None:
    """Digits alone are a name too, and not the place in a list."""
    for arguments in ({name: value}, {"a": [{name: value}]}):
        with pytest.raises(CannotRedact):
            await given(arguments)


ESCAPED = "".join(f"\\u{ord(letter):04x}" for letter in CARD)


async def test_what_a_string_hides_behind_its_own_escapes_is_masked_with_all_of_it() -> None:
    body = json.dumps({"to": "x"}).replace("x", ESCAPED)
    assert json.loads(body) == {"to": CARD}
    assert await given({"a": "b", "body": body}) == {"a": "b", "body": MASK}
    assert await given({"a": f"{CARD} b", "body": json.dumps([body])}) == {"a": f"{MASK} b", "body": MASK}


async def test_a_name_that_hides_a_match_behind_escapes_cannot_be_masked() -> None:
    with pytest.raises(CannotRedact):
        await given({ESCAPED: "x"})


LINES = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n" * 4
BEGIN, END = "-----BEGIN PRIVATE KEY-----\n", "-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    "arguments",
    [
        {"first": BEGIN + LINES, "rest": LINES + END},
        {"parts": [BEGIN, LINES, END]},
        {"a": f"{BEGIN}{LINES}{END} and {BEGIN}{LINES}", "b": LINES},
    ],
)
async def test_a_key_that_may_go_on_in_another_string_cannot_be_masked(arguments: object) -> None:
    with pytest.raises(CannotRedact):
        await given(arguments)


async def test_a_whole_key_is_masked() -> None:
    assert await given({"a": f"It is {BEGIN}{LINES}{END}so.", "b": "-----BEGIN CERTIFICATE-----"}) == {
        "a": f"It is {MASK}\nso.",
        "b": "-----BEGIN CERTIFICATE-----",
    }
