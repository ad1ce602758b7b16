"""What is remembered of answers that the model server keeps: bounded, each agent's own, charged once."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from proxy.answer_book import AnswerBook, read_fetch
from proxy.exchange import Exchange, Kept
from proxy.refusals import Refuse
from proxy.runs import RunBook
from proxy.trace_context import TraceContext
from serving.settings import BreakerSettings
from serving.wire.request import ChatRequest, SentCall, SentMessage, SentTool
from serving.wire.responses import Responses
from serving.wire.vocabulary import Usage
from tests.support.nobody import NOBODY

READS = frozenset({"request"})


class Stage:
    def __init__(self, limit: int = 10_000) -> None:
        self.book = AnswerBook(limit)
        ids = itertools.count()
        self.runs = RunBook(BreakerSettings(), lambda: 0.0, lambda: f"run-{next(ids)}", b"key")

    def ask(self, agent: str = "ann", text: str = "Hi", **fields: Any) -> Exchange:
        view = ChatRequest("tiny", (SentMessage("user", text),), stored=True, **fields)
        view, run, _ = self.book.resume(agent, view, READS)
        sighting = self.runs.identify(agent, view, run)
        trace = TraceContext("0" * 32, "0" * 16, "0" * 16, "", True, "")
        return Exchange("x", agent, None, None, NOBODY, Responses(), view, sighting, trace, 0, 0)

    def answer(self, x: Exchange, answer_id: str, text: str = "Hello.") -> None:
        x.seen.answer_id = answer_id
        self.book.given(x, text, [])
        self.runs.left(x.sighting, text)


def test_a_conversation_grows_from_id_to_id() -> None:
    stage = Stage()
    first = stage.ask(text="One")
    stage.answer(first, "a", "First.")
    second = stage.ask(text="Two", previous="a")
    assert [m.text for m in second.request.messages] == ["One", "First.", "Two"]
    assert second.sighting.run is first.sighting.run
    stage.answer(second, "b", "Second.")
    third = stage.ask(text="Three", previous="b")
    assert [m.text for m in third.request.messages] == ["One", "First.", "Two", "Second.", "Three"]
    assert third.sighting.new_from == 4
    assert third.sighting.run is first.sighting.run


def test_another_agents_id_is_as_unknown_as_none() -> None:
    stage = Stage()
    stage.answer(stage.ask(), "a")
    with pytest.raises(Refuse) as others:
        stage.ask("bob", previous="a")
    with pytest.raises(Refuse) as nobodys:
        stage.ask("bob", previous="none")
    assert (others.value.code, str(others.value)) == (nobodys.value.code, str(nobodys.value))
    with pytest.raises(Refuse):
        stage.book.find("a", "bob")
    assert stage.book.find("none", "bob") is None


def test_it_holds_no_more_than_its_bytes_and_forgets_what_was_not_asked_for_longest() -> None:
    stage = Stage(limit=60_000)
    for number in range(40):
        stage.answer(stage.ask(text="x" * 1000), f"a{number}")
        assert stage.book.find("a0", "ann") is not None
    assert 5 < len(stage.book) < 15
    assert stage.book.find("a1", "ann") is None
    assert stage.book.find("a39", "ann") is not None
    stage.answer(stage.ask(text="x" * 100_000), "large")
    assert len(stage.book) == 0


def test_tools_and_arguments_count_as_much_as_words() -> None:
    stage = Stage(limit=60_000)
    schema = {"type": "object", "properties": {f"field {n}": {"type": "string"} for n in range(20)}}
    for number in range(40):
        stage.answer(stage.ask(tools=(SentTool("look", "d" * 100, schema),)), f"a{number}")
    assert 3 < len(stage.book) < 15
    calls = (SentCall("c", "look", "x" * 3000),)
    for number in range(40):
        asked = stage.ask(text="Hi")
        asked.seen.answer_id = f"b{number}"
        stage.book.given(asked, "", [(call.id, call.name, call.arguments) for call in calls])
    assert len(stage.book) < 6


def test_what_is_not_stored_is_not_remembered() -> None:
    stage = Stage()
    x = stage.ask()
    x.request = ChatRequest("tiny", (), stored=False)
    stage.answer(x, "a")
    assert len(stage.book) == 0


def test_an_answer_is_booked_once() -> None:
    x = Stage().ask()
    kept = Kept("a", "ann", x.request, x.sighting)
    assert kept.owed(Usage(100, 0)) == Usage(100, 0)
    assert kept.owed(Usage(90, 40, 5, 7)) == Usage(0, 40, 0, 7)
    assert kept.owed(Usage(90, 40, 5, 7)) == Usage(0, 0, 0, 0)


@pytest.mark.parametrize(
    ("target", "wanted", "after"),
    [
        ("/v1/responses/resp_A", "/v1/responses/resp_A", None),
        ("/v1/responses/resp_A?stream=true", "/v1/responses/resp_A?stream=true", None),
        ("/v1/responses/resp_A?starting_after=7", "/v1/responses/resp_A", 7),
        ("/v1/responses/resp_A?starting_after=7&stream=true", "/v1/responses/resp_A?stream=true", 7),
        ("/v1/responses/resp_A?a=b&starting%5Fafter=0&&stream=1", "/v1/responses/resp_A?a=b&&stream=1", 0),
        ("/v1/responses/resp_A?starting_after=x", "/v1/responses/resp_A?starting_after=x", None),
        ("/v1/responses/resp_A/cancel", "/v1/responses/resp_A/cancel", None),
    ],
)
def test_what_a_fetch_asks_for(target: str, wanted: str, after: int | None) -> None:
    fetch = read_fetch(target)
    assert (fetch.answer_id, fetch.target, fetch.after) == ("resp_A", wanted, after)
