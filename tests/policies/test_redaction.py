"""What a decision about a request changes in its messages, and what it cannot."""

from __future__ import annotations

from typing import Any

import pytest

from policies.model import Action, Decision, Finding, Mode, PolicyFinding, Redaction, Severity, Stage
from policies.redaction import CannotRedact, changes_of
from serving.wire.message_texts import TextChange

TEXTS = ["Hello.", "My key is abc, not def."]


def found(
    action: str, *redactions: dict[str, Any], mode: Mode = Mode.ENFORCE, exception: str | None = None
) -> Decision:
    finding = Finding(
        id="rule",
        severity=Severity.HIGH,
        message="It held a key.",
        action=Action(action),
        redactions=[Redaction.model_validate(one) for one in redactions],
    )
    one = PolicyFinding(policy="a.b", mode=mode, finding=finding, exception=exception)
    return Decision(stage=Stage.REQUEST, action=Action(action), findings=[one])


def test_spans_are_masked_in_order_and_joined_where_they_overlap() -> None:
    spans = [(19, 22), (10, 13), (11, 16), (10, 13)]
    decision = found("redact", *({"path": "/messages/1/text", "start": a, "end": b} for a, b in spans))
    (change,) = changes_of(decision, TEXTS).values()
    assert change.spans == ((10, 16, "[redacted]"), (19, 22, "[redacted]"))
    assert change.of(TEXTS[1]) == "My key is [redacted]ot [redacted]."


def test_without_a_span_all_of_it_is_masked() -> None:
    assert changes_of(found("redact", {"path": "/messages/0"}), TEXTS) == {0: TextChange(spans=((0, 6, "[redacted]"),))}


def test_a_quarantine_puts_a_notice_in_its_place_that_says_nothing_of_the_content() -> None:
    changes = changes_of(found("quarantine", {"path": "/messages/1", "replacement": "ignored"}), TEXTS)
    assert changes == {
        1: TextChange(
            whole="[Withheld by policy a.b/rule. This content was not given to the model. It held a key.]",
        )
    }


@pytest.mark.parametrize("quiet", [{"mode": Mode.SHADOW}, {"mode": Mode.WARN}, {"exception": "platform/one"}])
def test_what_is_not_enforced_changes_nothing(quiet: dict[str, Any]) -> None:
    assert changes_of(found("quarantine", {"path": "/messages/1"}, **quiet), TEXTS) == {}


@pytest.mark.parametrize(
    "redaction",
    [
        {"path": "/messages/2"},
        {"path": "/messages/-1"},
        {"path": "/messages/01"},
        {"path": "/messages"},
        {"path": ""},
        {"path": "/tools/0"},
        {"path": "/messages/0/text/x"},
        {"path": "/messages/0/text", "start": 4, "end": 2},
        {"path": "/messages/0/text", "start": 0, "end": 7},
        {"path": "/messages/0/text", "start": -1, "end": 2},
        {"path": "/messages/0/text", "start": 2, "end": 2},
    ],
)
def test_a_place_that_is_none_cannot_be_changed(redaction: dict[str, Any]) -> None:
    with pytest.raises(CannotRedact):
        changes_of(found("redact", redaction), TEXTS)


def test_a_finding_that_names_no_place_cannot_be_followed() -> None:
    with pytest.raises(CannotRedact):
        changes_of(found("quarantine"), TEXTS)
