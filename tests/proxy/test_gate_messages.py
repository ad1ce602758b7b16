"""The gate on streams of ``/v1/messages``: a forbidden call first, middle, last, at any chunking and timing."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.gated_choice import Answer
from serving.wire.messages import Messages
from serving.wire.request import ChatRequest
from tests.support.chat import Call, Say
from tests.support.messages import (
    PROMPT_TOKENS,
    block_delta,
    block_start,
    block_stop,
    end,
    event,
    read_stream,
    start,
    stream,
)
from tests.support.talk import CANARY, REFUSED, SHUT, Talk
from tests.support.text_rule import SECRET, Rule
from tests.support.wire import captures

BAD = Call("run_shell", f'{{"command": "rm -rf /srv/{CANARY}"}}')
GOOD = Call("get_weather", '{"city": "Oslo ☂"}')
ALSO = Call("read_file", '{"path": "notes.md"}')
NONE = Call("look_around", "")


class Conversation(Talk):
    def __init__(self, **options: Any) -> None:
        super().__init__(*Messages().stream(ChatRequest(model="tiny", messages=())), **options)


STREAMS = [c for c in captures() if c.response.body.startswith(b"event: message_start")]


def test_there_are_recordings() -> None:
    assert len(STREAMS) >= 4


@pytest.mark.parametrize("capture", STREAMS, ids=lambda c: c.name)
@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 12_000), max_size=12))
def test_a_recorded_stream_without_refusals_passes_byte_for_byte(capture, cuts: list[int]) -> None:
    body = capture.response.body
    places = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    talk = Conversation()
    talk.upstream_says(*(body[a:b] for a, b in itertools.pairwise(places)))
    assert talk.gate.end()
    assert talk.client_gets() == body


def test_text_flows_while_a_call_waits_and_the_refusal_takes_its_block() -> None:
    events = stream(Say("Let me look.", "I will clean up now.\n", (BAD, GOOD)))
    first_call = next(i for i, e in enumerate(events) if b"tool_use" in e)
    talk = Conversation(late=True)
    talk.upstream_says(*events)
    assert talk.client_gets() == b"".join(events[:first_call])
    talk.decide()
    talk.decide()
    got = talk.client_gets()
    assert CANARY.encode() not in got
    assert block_start(2, type="text", text="") + block_delta(2, type="text_delta", text="\n\n" + REFUSED) in got
    kept = b"".join(events[events.index(next(e for e in events if b"get_weather" in e)) :])
    assert got.endswith(kept), "the call that stays keeps its bytes, its index and the end of the message"


def test_a_call_is_complete_when_its_block_stops() -> None:
    events = stream(Say(calls=(GOOD,)))
    stop = events.index(block_stop(0))
    talk = Conversation(late=True)
    talk.upstream_says(*events[:stop])
    assert talk.asked == []
    talk.upstream_says(events[stop])
    assert [question.call.complete for question in talk.asked] == [True]


def test_a_call_without_arguments_means_an_empty_object() -> None:
    talk = Conversation()
    events = stream(Say(calls=(NONE,)))
    talk.upstream_says(*events)
    (question,) = talk.asked
    assert (question.call.arguments, question.call.complete) == ("{}", True)
    assert talk.client_gets() == b"".join(events)


def test_a_call_whose_block_begins_with_its_input_is_read_from_there() -> None:
    value = {"command": f"rm -rf /srv/{CANARY}"}
    talk = Conversation()
    talk.upstream_says(
        start(),
        block_start(0, type="tool_use", id="toolu_1", name="run_shell", input=value),
        block_delta(0, type="input_json_delta", partial_json=""),
        block_stop(0),
        *end("tool_use"),
    )
    assert json.loads(talk.asked[0].call.arguments) == value
    assert read_stream(talk.client_gets()).text == REFUSED


def test_a_call_cut_off_by_length_is_asked_about_as_incomplete() -> None:
    talk = Conversation()
    events = stream(
        Say(
            calls=(
                GOOD,
                Call("run_shell", '{"command": "rm -'),
            ),
            finish="length",
        )
    )
    talk.upstream_says(*events)
    assert [question.call.complete for question in talk.asked] == [True, False]
    assert talk.client_gets() == b"".join(events)


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '{"a": 1} {', '["a"]', '{"a": NaN}', '{"a": "\\ud800"}'])
def test_a_malformed_call_that_is_over_is_complete_even_if_the_answer_was_cut_off(text: str) -> None:
    talk = Conversation()
    talk.upstream_says(*stream(Say(calls=(Call("run_shell", text),), finish="length")))
    assert [question.call.complete for question in talk.asked] == [True]


def test_terminate_closes_what_is_open_and_ends_as_an_answer_ends() -> None:
    events = stream(Say("Hm. ", "One", (BAD,)))
    talk = Conversation(late=True)
    talk.upstream_says(*events[:-2])
    talk.gate.answer(talk.open.popleft().ticket, Answer("Stopped.", cut=True))
    read = read_stream(talk.client_gets())
    assert (read.text, read.reasoning, read.calls, read.finish) == ("One\n\nStopped.", "Hm. ", {}, "end_turn")


def test_a_cut_at_any_place_is_a_whole_message() -> None:
    events = stream(Say("Hm. ", "One two", (GOOD, BAD)), interval=2)
    for place in range(1, len(events)):
        talk = Conversation(late=True)
        talk.upstream_says(*events[:place])
        while talk.open:
            talk.decide()
        talk.gate.cut("The budget is spent.", finish="length")
        read = read_stream(talk.client_gets())
        assert CANARY not in read.everything()
        if place < len(events) - 1:
            assert read.text.endswith("The budget is spent.")
            assert read.finish == "max_tokens"
        counted = re.findall(rb'"usage":\{"input_tokens":(\d+),"output_tokens":(\d+)', talk.client_gets())[-1]
        assert int(counted[0]) == PROMPT_TOKENS


def test_a_cut_before_the_message_began_is_an_error() -> None:
    talk = Conversation()
    talk.gate.cut("Stopped.")
    (got,) = talk.gate.take()
    assert got.startswith(b"event: error\ndata: ")
    assert json.loads(got.partition(b"data: ")[2])["error"]["code"] == "run_killed"


def test_a_refused_answer_by_error_setting_ends_with_an_error_event() -> None:
    talk = Conversation(late=True)
    talk.upstream_says(*stream(Say(text="Hi", calls=(BAD,))))
    talk.gate.answer(talk.open.popleft().ticket, Answer("No.", error=True))
    last = talk.client_gets().split(b"\n\n")[-2]
    assert last.startswith(b"event: error\ndata: ")
    assert json.loads(last.partition(b"data: ")[2]) == {
        "type": "error",
        "error": {"type": "permission_error", "message": "No.", "code": "policy_denied"},
    }


def test_by_setting_the_stop_reason_is_refusal() -> None:
    talk = Conversation(closing="content_filter")
    talk.upstream_says(*stream(Say(text="Hi", calls=(BAD,))))
    assert read_stream(talk.client_gets()).finish == "refusal"


def test_what_is_not_understood_keeps_its_place_where_it_may_pass() -> None:
    events = stream(Say(calls=(GOOD,)))
    odd = [block_start(1, type="server_tool_use", id="x", name="y", input={}), block_stop(1)]
    after = [block_start(2, type="text", text=""), block_delta(2, type="text_delta", text="Hi"), block_stop(2)]
    body = [*events[:-2], *odd, event({"type": "ping"}), *after, *events[-2:]]
    talk = Conversation(late=True)
    talk.upstream_says(*body, unknown=True)
    assert talk.client_gets() == events[0]
    talk.decide()
    assert talk.client_gets() == b"".join(body)


def test_a_cut_closes_a_block_that_is_not_understood() -> None:
    talk = Conversation()
    talk.upstream_says(start(), block_start(0, type="server_tool_use", id="x", name="y", input={}), unknown=True)
    talk.gate.cut("Stopped.")
    assert read_stream(talk.client_gets()).text == "Stopped."


def test_without_hold_everything_passes_at_once_and_is_asked_about_all_the_same() -> None:
    events = stream(Say(text="Hi", calls=(BAD, GOOD)))
    talk = Conversation(hold=False, late=True)
    talk.upstream_says(*events)
    assert talk.client_gets() == b"".join(events)
    assert len(talk.asked) == 2


SAYS = st.builds(
    Say,
    reasoning=st.sampled_from(["", "I look.\n", "Überlege … 🌤️ ok"]),
    text=st.sampled_from(["", "\n\n", "I will clean up now.\n", "Grüße 🌤️\n"]),
    calls=st.lists(st.sampled_from([BAD, GOOD, ALSO, NONE]), max_size=4).map(tuple),
)


@settings(max_examples=300, deadline=None)
@given(
    SAYS,
    st.integers(1, 9),
    st.lists(st.integers(1, 400), max_size=60),
    st.lists(st.booleans(), max_size=60),
)
def test_a_refused_call_never_arrives(say: Say, interval: int, sizes: list[int], timing: list[bool]) -> None:
    """… and what is not refused arrives in order, under its own index, at any chunking and timing."""
    body = b"".join(stream(say, interval=interval))
    assert (CANARY in read_stream(body).everything()) == (BAD in say.calls)
    talk = Conversation(late=True)
    talk.upstream_says_all(body, sizes, timing)
    assert talk.gate.end()
    got = talk.client_gets()
    assert talk.gate.held_bytes == 0
    if BAD not in say.calls:
        assert got == body
    read, kept = read_stream(got), [c for c in say.calls if c is not BAD]
    assert CANARY not in read.everything()
    assert "rm -rf" not in read.everything()
    assert read.reasoning == say.reasoning
    assert read.text.startswith(say.text)
    assert read.text.count(REFUSED) == say.calls.count(BAD)
    assert [(c["name"], c["arguments"]) for _, c in sorted(read.calls.items())] == [(c.name, c.arguments) for c in kept]
    assert read.finish == ("tool_use" if kept else "end_turn")


@settings(max_examples=200, deadline=None)
@given(
    st.builds(
        Say,
        reasoning=st.sampled_from(["", "I look.\n", f"It is {SECRET}."]),
        text=st.sampled_from(["", "\n\n", "All is well.\n", f"The key is {SECRET}, and more.", SECRET]),
        calls=st.lists(st.sampled_from([BAD, GOOD]), max_size=2).map(tuple),
    ),
    st.sampled_from([len(SECRET), 40, None]),
    st.integers(1, 5),
    st.lists(st.integers(1, 400), max_size=40),
    st.lists(st.booleans(), max_size=40),
)
def test_no_byte_of_a_match_leaves_under_a_hold_and_the_message_is_whole(
    say: Say, hold: int | None, interval: int, sizes: list[int], timing: list[bool]
) -> None:
    body = b"".join(stream(say, interval=interval))
    talk = Conversation(late=True, texts={"text": Rule(hold), "reasoning": Rule(hold)})
    talk.upstream_says_all(body, sizes, timing)
    got = talk.client_gets()
    read = read_stream(got)
    said = say.reasoning + say.text
    if SECRET not in said:
        assert BAD in say.calls or got == body
        return
    assert read.text.endswith(SHUT)
    assert read.finish == "end_turn"
    assert read.calls == {}
    given = read.reasoning + read.text.removesuffix(SHUT)
    assert not any(SECRET[:n] in given for n in range(2, len(SECRET)))
