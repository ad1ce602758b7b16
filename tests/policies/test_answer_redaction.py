"""What a decision about an answer masks, and what it cannot."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.answer_redaction import mask_arguments, masks_of_response, masks_of_text, splices
from policies.model import Action, Decision, Finding, Mode, PolicyFinding, Redaction, Severity, Stage
from policies.redaction import CannotRedact
from serving.whole_matches import WholeHit
from serving.wire.masking import masked

SAID = "Ask ☂ kim@corp.dk now".encode()


def decision(*redactions: dict[str, Any], action: Action = Action.REDACT, **how: Any) -> Decision:
    finding = Finding(
        id="it",
        severity=Severity.LOW,
        message="No.",
        action=action,
        redactions=[Redaction.model_validate(one) for one in redactions],
    )
    found = PolicyFinding(policy="team.rules", mode=how.pop("mode", Mode.ENFORCE), finding=finding, **how)
    return Decision(stage=Stage.OUTPUT, action=action, findings=[found])


def text_of(*redactions: dict[str, Any], left: int = 0) -> str:
    return masked(SAID.decode(), masks_of_text(decision(*redactions), SAID, left))


def test_a_text_is_masked_by_the_bytes_of_a_signal_or_by_its_code_points() -> None:
    assert text_of({"path": "", "start": 8, "end": 19}) == "Ask ☂ [redacted] now"
    assert text_of({"path": "/text", "start": 6, "end": 17}) == "Ask ☂ [redacted] now"
    assert text_of({"path": "", "start": 5, "end": 6, "replacement": "x"}) == "Ask x kim@corp.dk now", (
        "all of a character"
    )
    assert text_of({"path": ""}) == text_of({"path": "/text"}) == "[redacted]"
    assert text_of({"path": "/text", "end": 3, "replacement": ""}) == " ☂ kim@corp.dk now"


@pytest.mark.parametrize(
    "redaction",
    [
        {"path": "/messages/0/text"},
        {"path": "", "start": 3, "end": 3},
        {"path": "", "start": -1, "end": 3},
        {"path": "", "start": 9, "end": 99},
        {"path": "/text", "start": 0, "end": 22},
        {"path": "/text", "start": 5, "end": 4},
    ],
)
def test_a_text_without_such_a_place_cannot_be_masked(redaction: dict[str, Any]) -> None:
    with pytest.raises(CannotRedact):
        masks_of_text(decision(redaction), SAID)


def test_what_has_left_cannot_be_masked() -> None:
    with pytest.raises(CannotRedact, match="has left"):
        masks_of_text(decision({"path": "", "start": 8, "end": 19}), SAID, 9)
    assert masks_of_text(decision({"path": "", "start": 8, "end": 19}), SAID, 8)


def test_a_match_whose_end_is_not_known_cannot_be_masked_and_stops_no_other() -> None:
    """What no redaction names, another policy reads: one in shadow must not end the answer."""
    mail, wide = WholeHit("pii", "email", "low", 8, 19), WholeHit("secrets", "jwt", "high", 4, 12, False)
    assert masks_of_text(decision({"path": "", "start": 8, "end": 19}), SAID, 0, [wide, mail])
    for start, end in ((4, 12), (9, 19), (0, 5)):
        with pytest.raises(CannotRedact, match="end is not known"):
            masks_of_text(decision({"path": "", "start": start, "end": end}), SAID, 0, [wide, mail])
    assert masks_of_text(decision({"path": "", "start": 0, "end": 3}), SAID, 0, [wide, mail])


def test_only_enforced_findings_count_and_none_without_a_place() -> None:
    there = {"path": ""}
    assert masks_of_text(decision(there, mode=Mode.SHADOW), SAID) == ()
    assert masks_of_text(decision(there, exception="team/e1"), SAID) == ()
    with pytest.raises(CannotRedact, match="names no place"):
        masks_of_text(decision(), SAID)
    with pytest.raises(CannotRedact, match="withholds"):
        masks_of_text(decision(there, action=Action.QUARANTINE), SAID)


def test_a_whole_answer_is_masked_by_code_points_of_its_texts() -> None:
    made = masks_of_response(
        decision({"path": "/text", "start": 4, "end": 5}, {"path": "/reasoning"}), {"text": SAID, "reasoning": b"Hm."}
    )
    assert masked(SAID.decode(), made["text"]) == "Ask [redacted] kim@corp.dk now"
    assert masked("Hm.", made["reasoning"]) == "[redacted]"
    for path in ("", "/calls/0/arguments/path"):
        with pytest.raises(CannotRedact):
            masks_of_response(decision({"path": path}), {"text": SAID, "reasoning": b""})


VALUES = st.recursive(
    st.one_of(st.text('ab"\\ é\U0001f600/~', max_size=8), st.integers(), st.none(), st.booleans()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text("a/~", max_size=3), inner, max_size=3)
    ),
)


def strings(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], str]]:
    if isinstance(value, str):
        return [(path, value)]
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for step, inner in steps for found in strings(inner, (*path, step))]


@given(value=st.dictionaries(st.text("a/~", max_size=3), VALUES, max_size=4), ascii_only=st.booleans(), data=st.data())
def test_a_string_of_the_arguments_is_masked_and_every_other_byte_stays(
    value: dict[str, Any], ascii_only: bool, data: st.DataObject
) -> None:
    known = strings(value)
    if not known:
        return
    path, said = data.draw(st.sampled_from(known))
    pointer = "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)
    start = data.draw(st.integers(0, len(said)))
    end = data.draw(st.integers(start, len(said)).filter(lambda end: end > start or not said))
    raw = json.dumps(value, ensure_ascii=ascii_only, separators=(", ", ":"))
    made = mask_arguments(decision({"path": pointer, "start": start, "end": end, "replacement": "☂"}), raw)
    wanted = said[:start] + "☂" + said[end:] if said else said
    where: Any = value
    for step in path[:-1]:
        where = where[step]
    where[path[-1]] = wanted
    assert json.loads(made.text) == value
    assert masked(raw, splices(raw, made.text)) == made.text
    assert made.places == (pointer,)


@pytest.mark.parametrize("path", ["", "/", "/n", "/no", "/list", "/list/01", "/list/9", "/list/-", "/list/0/x", "text"])
def test_what_is_no_string_of_the_arguments_cannot_be_masked(path: str) -> None:
    with pytest.raises(CannotRedact):
        mask_arguments(decision({"path": path}), '{"n":1,"list":["a"],"text":"x"}')


def test_a_string_that_is_spelt_in_escapes_is_masked_as_it_reads() -> None:
    raw = '{"a":"\\u006bim\\ud83d\\ude00","b":"kim"}'
    made = mask_arguments(decision({"path": "/a", "start": 0, "end": 3}), raw)
    assert made.text == '{"a":"[redacted]\U0001f600","b":"kim"}'
