"""The gate on streams of ``/v1/responses``: a forbidden call first, middle, last, at any chunking and timing."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.gated_choice import Answer
from serving.wire.request import ChatRequest
from serving.wire.responses import Responses
from tests.support.chat import Call, Say
from tests.support.responses import Read, read_stream, stream
from tests.support.talk import CANARY, REFUSED, SHUT, Talk
from tests.support.text_rule import SECRET, Rule
from tests.support.wire import captures

BAD = Call("run_shell", f'{{"command": "rm -rf /srv/{CANARY}"}}')
GOOD = Call("get_weather", '{"city": "Oslo ☂"}')
ALSO = Call("read_file", '{"path": "notes.md"}')


class Conversation(Talk):
    def __init__(self, *, after: int | None = None, **options: Any) -> None:
        super().__init__(*Responses().stream(ChatRequest(model="tiny", messages=(), after=after)), **options)


STREAMS = [c for c in captures() if c.response.body.startswith(b"event: response.created")]


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
    assert talk.client_gets() + talk.reader.rest() == body


def test_the_scripted_streams_are_what_vllm_writes() -> None:
    recorded = next(c for c in STREAMS if c.name == "responses_tool_parallel_stream").response.body
    shapes = [set(json.loads(part.partition(b"data: ")[2])) for part in recorded.split(b"\n\n")[:-1]]
    say = Say("\nTwo cities.\n", "\n\n", (GOOD, GOOD))
    kinds = {
        json.loads(e.partition(b"data: ")[2])["type"]: set(json.loads(e.partition(b"data: ")[2])) for e in stream(say)
    }
    assert kinds.keys() == {json.loads(p.partition(b"data: ")[2])["type"] for p in recorded.split(b"\n\n")[:-1]}
    assert all(shape in shapes for shape in kinds.values())


def test_text_flows_while_a_call_waits_and_the_refusal_takes_its_place() -> None:
    events = stream(Say("Let me look.", "I will clean up now.\n", (BAD, GOOD)))
    first_call = next(i for i, e in enumerate(events) if b"function_call" in e)
    talk = Conversation(late=True)
    talk.upstream_says(*events)
    assert talk.client_gets() == b"".join(events[:first_call])
    talk.decide()
    talk.decide()
    read = read_stream(talk.client_gets())
    assert CANARY not in read.raw
    assert [item["type"] for item in read.output] == ["reasoning", "message", "message", "function_call"]
    assert read.output[2]["content"][0]["text"] == "\n\n" + REFUSED


def test_a_call_is_complete_when_its_item_ends() -> None:
    events = stream(Say(calls=(GOOD,)))
    done = next(i for i, e in enumerate(events) if b"event: response.output_item.done" in e)
    talk = Conversation(late=True)
    talk.upstream_says(*events[:done])
    assert talk.asked == []
    talk.upstream_says(events[done])
    assert [question.call.complete for question in talk.asked] == [True]


def test_a_call_cut_off_by_length_is_asked_about_as_incomplete() -> None:
    talk = Conversation()
    events = stream(Say(calls=(GOOD, Call("run_shell", '{"command": "rm -')), finish="length"))
    talk.upstream_says(*events)
    assert [question.call.complete for question in talk.asked] == [True, False]
    assert talk.client_gets() == b"".join(events)


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '{"a": 1} {', '["a"]', '{"a": NaN}', '{"a": "\\ud800"}'])
def test_a_malformed_call_that_is_over_is_complete_even_if_the_answer_was_cut_off(text: str) -> None:
    talk = Conversation()
    talk.upstream_says(*stream(Say(calls=(Call("run_shell", text),), finish="length")))
    assert [question.call.complete for question in talk.asked] == [True]


def _changed(event: bytes, **fields: Any) -> bytes:
    head, _, data = event.partition(b"\ndata: ")
    return head + b"\ndata: " + json.dumps({**json.loads(data), **fields}).encode() + b"\n\n"


def test_a_copy_that_says_something_else_is_unknown() -> None:
    say = Say("Hm.", "Hi.", (GOOD,))
    events = stream(say)
    calls = [i for i, e in enumerate(events) if b"function_call_arguments.done" in e]
    item = json.loads(events[calls[0] + 1].partition(b"\ndata: ")[2])["item"]
    final = json.loads(events[-1].partition(b"\ndata: ")[2])["response"]
    bad = f'{{"command":"{CANARY}"}}'
    other = {**final, "output": [*final["output"][:-1], {**final["output"][-1], "arguments": bad}]}
    more = {**final, "output": [*final["output"], {**final["output"][-1], "id": "fc_9", "call_id": "c9"}]}
    custom = {"type": "custom_tool_call", "id": "ctc_1", "call_id": "c", "name": "patch", "input": "x"}
    forged = [
        (calls[0], _changed(events[calls[0]], arguments=bad)),
        (calls[0], _changed(events[calls[0]], name="run_shell")),
        (calls[0] + 1, _changed(events[calls[0] + 1], item={**item, "arguments": bad})),
        (calls[0] + 1, _changed(events[calls[0] + 1], item={**item, "name": "run_shell"})),
        (calls[0] + 1, _changed(events[calls[0] + 1], item={**item, "call_id": "another"})),
        (len(events) - 1, _changed(events[-1], response=other)),
        (len(events) - 1, _changed(events[-1], response=more)),
        (len(events) - 1, _changed(events[-1], response={**final, "output": [*final["output"], custom]})),
        (calls[0], events[calls[0]].replace(b"arguments.done", b"arguments.delta", 1)),
        (2, _changed(events[2], item=custom)),
    ]
    for place, event in forged:
        reader, _ = Responses().stream(ChatRequest(model="tiny", messages=()))
        kinds = [said.kind for piece in [*events[:place], event] for said in reader.feed(piece)]
        assert kinds[-1] == "unknown", event
        assert "unknown" not in kinds[:-1]


def test_where_it_may_pass_another_kind_of_call_keeps_its_place() -> None:
    events = stream(Say("Hm.", "Hi.", (BAD,)))
    at, sequence = 3, len(events) - 1
    custom = {"type": "custom_tool_call", "id": "ctc_1", "call_id": "c", "name": "patch", "input": ""}
    said = [
        {"type": "response.output_item.added", "item": custom},
        {"type": "response.custom_tool_call_input.delta", "item_id": "ctc_1", "delta": "x"},
        {"type": "response.custom_tool_call_input.done", "item_id": "ctc_1", "input": "x"},
        {"type": "response.output_item.done", "item": {**custom, "input": "x"}},
    ]
    more = [
        f"event: {one['type']}\ndata: ".encode()
        + json.dumps({**one, "output_index": at, "sequence_number": sequence + n}).encode()
        + b"\n\n"
        for n, one in enumerate(said)
    ]
    final = json.loads(events[-1].partition(b"\ndata: ")[2])["response"]
    output = [*final["output"], said[3]["item"]]
    last = _changed(events[-1], sequence_number=sequence + 4, response={**final, "output": output})
    for cut in (False, True):
        talk = Conversation(late=True)
        for event in [*events[:-1], *more, *([] if cut else [last])]:
            (read,) = talk.reader.feed(event)
            assert (read.kind == "unknown") == (event in more)
            talk.gate.feed(read)
        talk.open.extend(talk.gate.questions())
        talk.decide()
        if cut:
            talk.gate.cut("Stopped.")
        assert talk.gate.end()
        given = [json.loads(part.partition(b"\ndata: ")[2]) for part in talk.client_gets().split(b"\n\n")[:-1]]
        assert [one["sequence_number"] for one in given] == list(range(len(given)))
        opened = [one["output_index"] for one in given if one["type"] == "response.output_item.added"]
        assert opened == list(range(len(opened)))
        types = [item["type"] for item in given[-1]["response"]["output"]]
        assert types == ["reasoning", "message", "message", "custom_tool_call", *(["message"] if cut else [])]
        assert CANARY not in json.dumps(given)


def test_terminate_closes_what_is_open_and_ends_as_an_answer_ends() -> None:
    events = stream(Say("Hm. ", "One", (BAD,)))
    talk = Conversation(late=True)
    talk.upstream_says(*events[:-1])
    talk.gate.answer(talk.open.popleft().ticket, Answer("Stopped.", cut=True))
    read = read_stream(talk.client_gets())
    assert (read.text, read.reasoning, read.calls, read.status) == ("One\n\nStopped.", "Hm. ", [], "completed")


def test_a_cut_at_any_place_is_a_whole_answer() -> None:
    events = stream(Say("Hm. ", "One two", (GOOD, BAD)), interval=2)
    for place in range(1, len(events)):
        talk = Conversation(late=True)
        talk.upstream_says(*events[:place])
        while talk.open:
            talk.decide()
        talk.gate.cut("The budget is spent.", finish="length")
        read = read_stream(talk.client_gets())
        assert CANARY not in read.raw
        assert read.text.endswith("The budget is spent.")
        assert (read.status, read.incomplete) == ("incomplete", "max_output_tokens")


def test_a_cut_in_a_call_that_nobody_holds_leaves_no_call_to_make() -> None:
    events = stream(Say("Hm. ", "One two", (GOOD,)))
    for place in range(1, len(events)):
        talk = Conversation(hold=False, late=True)
        talk.upstream_says(*events[:place])
        talk.gate.cut("The budget is spent.", finish="length")
        read = read_stream(talk.client_gets())
        assert read.text.endswith("The budget is spent.")
        done = b"event: response.output_item.done" in events[place - 1] and b"function_call" in events[place - 1]
        assert [call["status"] for call in read.calls] in ([], ["completed"] if done else ["incomplete"])


def test_a_refused_answer_by_error_setting_ends_with_an_error_event() -> None:
    talk = Conversation(late=True)
    talk.upstream_says(*stream(Say(text="Hi", calls=(BAD,))))
    before = len(talk.client_gets().split(b"\n\n")) - 1
    talk.gate.answer(talk.open.popleft().ticket, Answer("No.", error=True))
    last = talk.client_gets().split(b"\n\n")[-2]
    assert last.startswith(b"event: error\ndata: ")
    said = json.loads(last.partition(b"data: ")[2])
    assert (said["type"], said["code"], said["message"]) == ("error", "policy_denied", "No.")
    assert said["sequence_number"] == before


def test_by_setting_the_answer_is_incomplete_by_content_filter() -> None:
    talk = Conversation(closing="content_filter")
    talk.upstream_says(*stream(Say(text="Hi", calls=(BAD,))))
    read = read_stream(talk.client_gets())
    assert (read.status, read.incomplete) == ("incomplete", "content_filter")


def test_without_hold_everything_passes_at_once_and_is_asked_about_all_the_same() -> None:
    events = stream(Say(text="Hi", calls=(BAD, GOOD)))
    talk = Conversation(hold=False, late=True)
    talk.upstream_says(*events)
    assert talk.client_gets() == b"".join(events)
    assert len(talk.asked) == 2


def test_a_client_that_comes_back_gets_what_it_has_not_had() -> None:
    """Its numbers are those of what it was given, not the model server's."""
    events = stream(Say("Hm.", "Hi.", (BAD, GOOD)))
    talk = Conversation()
    talk.upstream_says(*events)
    given = [part + b"\n\n" for part in talk.client_gets().split(b"\n\n")[:-1]]
    assert len(given) != len(events)
    for after in range(len(given)):
        again = Conversation(after=after)
        again.upstream_says(*events)
        assert again.client_gets() == b"".join(given[after + 1 :])


SAYS = st.builds(
    Say,
    reasoning=st.sampled_from(["", "I look.\n", "Überlege … 🌤️ ok"]),
    text=st.sampled_from(["", "\n\n", "I will clean up now.\n", "Grüße 🌤️\n"]),
    calls=st.lists(st.sampled_from([BAD, GOOD, ALSO]), max_size=4).map(tuple),
)


@settings(max_examples=300, deadline=None)
@given(
    SAYS,
    st.integers(1, 9),
    st.sampled_from([None, 0, 2]),
    st.lists(st.integers(1, 400), max_size=60),
    st.lists(st.booleans(), max_size=60),
)
def test_a_refused_call_never_arrives(
    say: Say, interval: int, top: int | None, sizes: list[int], timing: list[bool]
) -> None:
    """… and what is not refused arrives in order, in its own place, at any chunking and timing."""
    body = b"".join(stream(say, interval=interval, logprobs=top is not None, top=top or 0))
    assert (CANARY in read_stream(body).raw) == (BAD in say.calls)
    talk = Conversation(late=True, watch_tokens=top is not None)
    talk.upstream_says_all(body, sizes, timing)
    assert talk.gate.end()
    got = talk.client_gets()
    assert talk.gate.held_bytes == 0
    if BAD not in say.calls:
        assert got == body
    _check(read_stream(got), say)


def _check(read: Read, say: Say) -> None:
    kept = [c for c in say.calls if c is not BAD]
    assert CANARY not in read.raw
    assert "rm -rf" not in read.raw
    assert read.reasoning == say.reasoning
    assert read.text.startswith(say.text)
    assert read.text.count(REFUSED) == say.calls.count(BAD)
    assert [(c["name"], c["arguments"]) for c in read.calls] == [(c.name, c.arguments) for c in kept]
    assert read.status == "completed"
    if BAD in say.calls:
        assert "rm -" not in read.logprob_text
        assert "run_shell" not in read.logprob_text.replace(" ", "")


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
    st.booleans(),
    st.lists(st.integers(1, 400), max_size=40),
    st.lists(st.booleans(), max_size=40),
)
def test_no_byte_of_a_match_leaves_under_a_hold_and_the_answer_is_whole(
    say: Say, hold: int | None, interval: int, logprobs: bool, sizes: list[int], timing: list[bool]
) -> None:
    """Neither in the pieces nor in any of their copies."""
    body = b"".join(stream(say, interval=interval, logprobs=logprobs))
    talk = Conversation(late=True, watch_tokens=logprobs, texts={"text": Rule(hold), "reasoning": Rule(hold)})
    talk.upstream_says_all(body, sizes, timing)
    got = talk.client_gets()
    read = read_stream(got)
    if SECRET not in say.reasoning + say.text:
        assert BAD in say.calls or got == body
        return
    assert read.text.endswith(SHUT)
    assert (read.status, read.calls) == ("completed", [])
    given = read.reasoning + read.text.removesuffix(SHUT)
    assert not any(SECRET[:n] in given for n in range(2, len(SECRET)))
    assert "SEC" not in read.raw
    assert "SECR" not in read.logprob_text
