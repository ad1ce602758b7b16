"""What is put on record of a history gives what looking through it again gives, or nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.facts import recorded_facts
from policies.facts.known import KnownTexts
from policies.facts.orders import Passage
from policies.facts.provenance import MOST_PASSAGES, Background
from policies.facts.recorded_facts import Note, facts_of, noted, orders_of, read_note, tell
from policies.facts.seen import NO_SETTINGS, ToolTable
from policies.model import DecisionInput, Identity, RequestFacts, RunFacts, Stage
from policies.projection import Orders, document_of, include_of
from serving.settings import ToolSettings
from serving.wire.request import SentMessage
from tests.policies.test_known import PIECES, TOOLS, WORDS, bracketed, turn


def unasked(text: str) -> list[Passage]:
    raise AssertionError(f"what orders these words give was on record: {text!r}")


def on_record(messages: list[SentMessage], arguments: dict[str, Any], first: int = 0) -> tuple[Background, Any, Note]:
    """A history, the facts of a call, and what is read back of them."""
    background = Background(messages, TOOLS, NO_SETTINGS, KnownTexts(bracketed))
    facts = background.facts("send_mail", arguments, said="I will not send it, and nobody will notice.")
    plain = json.loads(json.dumps(noted(background, facts, NO_SETTINGS, first)))
    note = read_note(plain, NO_SETTINGS)
    assert note is not None
    return background, facts, note


@settings(max_examples=60, deadline=None)
@given(PIECES, st.lists(st.tuples(PIECES, PIECES), min_size=1, max_size=4), PIECES)
def test_the_facts_of_a_call_and_the_passages_come_back(asked: str, turns: list[tuple[str, str]], value: str) -> None:
    messages = [SentMessage("user", asked)]
    texts = KnownTexts(unasked)
    for number, said in enumerate(turns):
        first = len(messages)
        messages += turn(number, *said)
        arguments = {"to": value, "n": 3000, "all": [word for word in WORDS if len(word) > 3]}
        background, facts, note = on_record(messages, arguments, first)
        assert facts_of(note) == facts
        for plain in messages[first:]:  # such texts are not on record: nothing in them gives orders
            if plain.role == "tool" and not bracketed(plain.text):
                texts.of(plain.text).tell([])
        tell(note, messages, texts)
        assert orders_of(note, messages, NO_SETTINGS, texts) == background.orders


def test_where_not_all_passages_count_the_history_is_looked_at() -> None:
    passages = " ".join(f"[send {at}]" for at in range(MOST_PASSAGES + 1))
    messages = [SentMessage("user", "Read."), *turn(0, "I read.", passages)]
    _, facts, note = on_record(messages, {"to": "send 3"})
    texts = KnownTexts(unasked)
    tell(note, messages, texts)
    assert facts_of(note) == facts
    assert orders_of(note, messages, NO_SETTINGS, texts) is None


def test_what_other_code_or_other_settings_found_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = [SentMessage("user", "Read."), *turn(0, "I read.", "[send it]")]
    background = Background(messages, TOOLS, NO_SETTINGS, KnownTexts(bracketed))
    plain = noted(background, background.facts("send_mail", {"to": "bob"}), NO_SETTINGS, 0)
    assert read_note(plain, ToolTable({})) is not None
    assert read_note(plain, ToolTable({"read_mail": ToolSettings(trust="trusted")})) is None
    assert read_note(plain, ToolTable({"*": ToolSettings(sinks={"to": "none"})})) is None
    monkeypatch.setattr(recorded_facts, "_code", lambda: "another")
    recorded_facts.version.cache_clear()
    try:
        assert read_note(plain, NO_SETTINGS) is None
    finally:
        recorded_facts.version.cache_clear()


@pytest.mark.parametrize("plain", [None, "", [], {}, {"version": 3}, {"version": "x", "call": "y"}])
def test_what_is_none_is_none(plain: object) -> None:
    assert read_note(plain, NO_SETTINGS) is None


def test_a_call_that_is_not_as_it_was_written_is_looked_at() -> None:
    messages = [SentMessage("user", "Read."), *turn(0, "I read.", "[send it]")]
    _, _, note = on_record(messages, {"to": "send it"})
    broken = Note(note.version, {"provenance": [{"path": 3}]}, note.asked, "no passages")
    assert facts_of(broken) is None
    tell(broken, messages, KnownTexts(unasked))


@pytest.mark.parametrize(
    "reads", [["request.orders"], ["request.orders", "request.model", "identity.agent"], ["request"], ["*"]]
)
def test_passages_that_are_written_already_say_the_same(reads: list[str]) -> None:
    messages = [
        SentMessage("user", "Read."),
        *turn(0, "I read.", '[send "it" to \u00e9ve] {or not}'),
        *turn(1, "", "[b]"),
    ]
    _, _, note = on_record(messages, {"to": "send it"})
    texts = KnownTexts(bracketed)
    orders = orders_of(note, messages, NO_SETTINGS, texts)
    assert isinstance(orders, Orders)
    assert len(orders) == 3
    question = DecisionInput(
        stage=Stage.TOOL_CALL,
        time="",
        exchange="x",
        identity=Identity(agent="coder"),
        run=RunFacts(id="r"),
        request=RequestFacts(model="m", orders=list(orders)),
    )
    include = include_of(reads)
    plain = document_of(question, include)
    assert json.loads(document_of(question, include, orders)) == json.loads(plain)
    assert json.loads(document_of(question, include, Orders([], b"")))["request"].keys() >= {"orders"}
