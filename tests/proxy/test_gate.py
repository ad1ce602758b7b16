"""The gate on scripted streams in vLLM's wire form, told as conversations: events in, bytes and questions out."""

from __future__ import annotations

import json
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.gate import Gate
from proxy.gated_choice import Answer
from serving.wire.chat_stream import read_event
from serving.wire.chat_writer import ChatWriter
from tests.support.chat import VOCABULARY, Call, Say, read_stream, stream
from tests.support.talk import CANARY, REFUSED
from tests.support.wire import captures

BAD = Call("run_shell", f'{{"command": "rm -rf /srv/{CANARY}"}}')
GOOD = Call("get_weather", '{"city": "Oslo ☂"}')
ALSO = Call("read_file", '{"path": "notes.md"}')


class Conversation:
    """Feeds a gate and answers its questions as ``verdict`` says, at once or when told."""

    def __init__(self, gate: Gate, *, late: bool = False) -> None:
        self.gate = gate
        self.late = late
        self.sent: list[bytes] = []
        self.asked = []
        self.open: deque = deque()

    def client_gets(self) -> bytes:
        self.sent += self.gate.take()
        return b"".join(self.sent)

    def upstream_says(self, *events: bytes) -> None:
        for raw in events:
            self.gate.feed(read_event(raw))
            self._questions()
            self.client_gets()

    def _questions(self) -> None:
        for question in self.gate.questions():
            self.asked.append(question)
            self.open.append(question)
        while self.open and not self.late:
            self.decide()

    def decide(self) -> None:
        question = self.open.popleft()
        bad = CANARY in question.call.arguments or question.problem is not None
        self.gate.answer(question.ticket, Answer(REFUSED) if bad else Answer())
        self.client_gets()


def conversation(*, late: bool = False, **options: object) -> Conversation:
    return Conversation(Gate(ChatWriter(), **{"watch_tokens": True, **options}), late=late)


STREAMS = [c for c in captures() if (c.response.header("content-type") or "").startswith("text/event-stream")]


@pytest.mark.parametrize("capture", STREAMS, ids=lambda c: c.name)
def test_a_recorded_stream_without_refusals_passes_byte_for_byte(capture) -> None:
    body = capture.response.body
    talk = conversation()
    talk.upstream_says(*[part + b"\n\n" for part in body.split(b"\n\n")[:-1]])
    assert talk.gate.end()
    assert talk.client_gets() == body


def test_text_flows_while_a_call_waits() -> None:
    events = stream(Say("Let me look.", "I will clean up now.\n", (BAD,)), usage=False)
    talk = conversation(late=True)
    first_call = next(i for i, e in enumerate(events) if b"tool_calls" in e)
    talk.upstream_says(*events[:first_call])
    assert talk.client_gets() == b"".join(events[:first_call])
    talk.upstream_says(*events[first_call:])
    assert talk.client_gets() == b"".join(events[:first_call])
    talk.decide()
    assert CANARY.encode() not in talk.client_gets()
    assert REFUSED in read_stream(talk.client_gets())[0].text


def test_an_allowed_call_arrives_byte_for_byte() -> None:
    events = stream(Say("Think.", "Text.", (GOOD, ALSO)), logprobs=True, token_ids=True)
    talk = conversation()
    talk.upstream_says(*events)
    assert talk.client_gets() == b"".join(events)
    assert [q.call.name for q in talk.asked] == ["get_weather", "read_file"]
    assert all(q.call.complete for q in talk.asked)


def test_a_call_is_complete_when_the_next_begins_and_not_when_its_json_parses() -> None:
    events = stream(Say(calls=(GOOD, ALSO)), usage=False)
    talk = conversation()
    second = next(i for i, e in enumerate(events) if b'"index":1' in e)
    talk.upstream_says(*events[:second])
    assert talk.asked == []
    talk.upstream_says(events[second])
    assert [q.call.index for q in talk.asked] == [0]


def test_the_other_choice_flows_on_while_one_is_held() -> None:
    events = stream(Say(calls=(BAD,)), Say(text="one two three four five six seven eight nine ten"), usage=False)
    talk = conversation(late=True)
    talk.upstream_says(*events[:-1])
    read = read_stream(talk.client_gets())
    assert read[1].text.endswith("ten")
    assert read[0].calls == {}


def test_usage_and_done_wait_for_what_is_held() -> None:
    talk = conversation(late=True)
    talk.upstream_says(*stream(Say(calls=(BAD,)), usage=True))
    assert b"[DONE]" not in talk.client_gets()
    talk.decide()
    assert talk.client_gets().endswith(b"data: [DONE]\n\n")
    assert b'"usage"' in talk.sent[-2]


def test_an_error_event_drops_what_is_held_and_passes_at_once() -> None:
    events = stream(Say(text="Hi.", calls=(BAD,)), usage=False)
    talk = conversation(late=True)
    talk.upstream_says(
        *events[:-3], b'data: {"error": {"message": "engine died", "code": 500}}\n\n', b"data: [DONE]\n\n"
    )
    got = talk.client_gets()
    assert CANARY.encode() not in got
    assert got.endswith(b'"code": 500}}\n\ndata: [DONE]\n\n')


def test_a_stream_that_breaks_off_drops_what_is_held() -> None:
    events = stream(Say(text="Hi.", calls=(GOOD,)), usage=False)
    talk = conversation()
    talk.upstream_says(*events[:-3])
    assert not talk.gate.end()
    assert b"tool_calls" not in talk.client_gets()


def test_a_call_cut_off_by_length_is_asked_about_as_incomplete() -> None:
    talk = conversation()
    talk.upstream_says(*stream(Say(calls=(Call("run_shell", '{"command": "rm -'),), finish="length")))
    (question,) = talk.asked
    assert not question.call.complete
    assert question.call.arguments == '{"command": "rm -'
    assert read_stream(talk.client_gets())[0].finish == "length"


def test_a_piece_for_a_call_that_has_ended_ends_the_answer() -> None:
    events = stream(Say(calls=(GOOD, ALSO)), usage=False)
    late_piece = next(e for e in events if b'"index":0,"function":{"arguments"' in e)
    second = next(i for i, e in enumerate(events) if b'"index":1,"function":{"arguments"' in e)
    talk = conversation()
    talk.upstream_says(*events[: second + 1], late_piece)
    assert talk.gate.over
    assert talk.client_gets().endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize(("old", "new"), [('"name":"ls"', '"name":"exec"'), ("tool-0000", "tool-1111")])
def test_a_call_whose_name_or_id_changes_is_unfit(old: str, new: str) -> None:
    events = stream(Say(calls=(Call("ls", "{}"),)), usage=False)
    first = next(i for i, e in enumerate(events) if b'"name":"ls"' in e)
    again = events[first].replace(old.encode(), new.encode())
    talk = conversation()
    talk.upstream_says(*events[: first + 1], again, *events[first + 1 :])
    (question,) = talk.asked
    assert question.problem == "renamed"
    assert read_stream(talk.client_gets())[0].calls == {}


def test_a_call_larger_than_what_may_be_held_is_unfit_and_memory_stays_bounded() -> None:
    huge = Call("run_shell", json.dumps({"command": "x" * 40_000}))
    talk = conversation(held_limit=20_000)
    most = 0
    for event in stream(Say(text="Go.", calls=(huge, GOOD))):
        talk.upstream_says(event)
        most = max(most, talk.gate.held_bytes)
    assert most < 21_000
    assert talk.asked[0].problem == "held_bytes"
    read = read_stream(talk.client_gets())[0]
    assert [call["name"] for call in read.calls.values()] == ["get_weather"]
    assert "xxxx" not in read.everything()


def test_without_hold_everything_passes_at_once_and_is_asked_about_all_the_same() -> None:
    events = stream(Say(text="Hi", calls=(BAD, GOOD)), logprobs=True, interval=5)
    talk = conversation(hold=False, late=True)
    talk.upstream_says(*events)
    assert talk.client_gets() == b"".join(events)
    assert len(talk.asked) == 2


def test_terminate_ends_all_choices_as_an_answer_ends() -> None:
    events = stream(Say(text="One", calls=(BAD,)), Say(text="two " * 30), usage=False)
    talk = conversation(late=True)
    talk.upstream_says(*events[:-1])
    talk.gate.answer(talk.open.popleft().ticket, Answer("Stopped.", cut=True))
    read = read_stream(talk.client_gets())
    assert read[0].text == "One\n\nStopped."
    assert {choice.finish for choice in read.values()} == {"stop"}
    assert talk.client_gets().endswith(b"data: [DONE]\n\n")
    before = talk.client_gets()
    talk.upstream_says(events[-1])
    assert talk.client_gets() == before


def test_a_refused_answer_by_error_setting_ends_with_an_error_event() -> None:
    talk = conversation(late=True)
    talk.upstream_says(*stream(Say(text="Hi", calls=(BAD,))))
    talk.gate.answer(talk.open.popleft().ticket, Answer("No.", error=True))
    parts = talk.client_gets().split(b"\n\n")
    assert json.loads(parts[-3][6:])["error"]["code"] == "policy_denied"
    assert parts[-2] == b"data: [DONE]"


def test_an_event_that_speaks_of_several_choices_is_gated_for_each() -> None:
    one = stream(Say(calls=(BAD,)), usage=False)
    two = stream(Say(text="fine, all is well with me here"), usage=False)
    both = []
    for a, b in zip(one[1:-1], two[1:-1], strict=False):
        first, second = json.loads(a[6:]), json.loads(b[6:])
        second["choices"][0]["index"] = 1
        first["choices"] += second["choices"]
        both.append(b"data: " + json.dumps(first, separators=(",", ":")).encode() + b"\n\n")
    talk = conversation(late=True)
    talk.upstream_says(one[0], *both)
    assert CANARY.encode() not in talk.client_gets()
    assert read_stream(talk.client_gets())[1].text.startswith("fine, all")


SAYS = st.lists(
    st.builds(
        Say,
        reasoning=st.sampled_from(["", "I look.\n", "Überlege … 🌤️ ok"]),
        text=st.sampled_from(["", "\n\n", "I will clean up now.\n", "Grüße 🌤️\n"]),
        calls=st.lists(st.sampled_from([BAD, GOOD, ALSO]), max_size=4).map(tuple),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=150, deadline=None)
@given(
    SAYS,
    st.booleans(),
    st.booleans(),
    st.sampled_from([0, 2]),
    st.integers(1, 9),
    st.booleans(),
    st.lists(st.booleans(), max_size=80),
)
def test_a_refused_call_never_arrives_by_any_channel(
    says: list[Say], logprobs: bool, token_ids: bool, top: int, interval: int, usage: bool, timing: list[bool]
) -> None:
    """… and what is not refused arrives in order, with no gap in the indices."""
    events = stream(
        *says, logprobs=logprobs, token_ids=token_ids, top=top if logprobs else 0, interval=interval, usage=usage
    )
    direct = read_stream(b"".join(events))
    for number, say in enumerate(says):
        assert (CANARY in direct[number].everything()) == (BAD in say.calls)
    talk = conversation(late=True)
    for place, event in enumerate(events):
        talk.upstream_says(event)
        if place < len(timing) and timing[place] and talk.open:
            talk.decide()
    while talk.open:
        talk.decide()
    assert talk.gate.end()
    got = talk.client_gets()
    assert got.endswith(b"data: [DONE]\n\n")
    assert talk.gate.held_bytes == 0
    reads = read_stream(got)
    for number, say in enumerate(says):
        read, kept = reads[number], [c for c in say.calls if c is not BAD]
        assert CANARY not in read.everything()
        assert "rm -rf" not in read.everything()
        assert read.reasoning == say.reasoning
        assert read.text.startswith(say.text)
        assert read.text.count(REFUSED) == say.calls.count(BAD)
        assert sorted(read.calls) == list(range(len(kept)))
        assert [(c["name"], c["arguments"]) for _, c in sorted(read.calls.items())] == [
            (c.name, c.arguments) for c in kept
        ]
        if kept or not say.calls:
            assert read.finish == say.reason
        else:
            assert read.finish == "stop"
        if BAD not in say.calls:
            assert read.logprob_text == direct[number].logprob_text
            assert read.ids == direct[number].ids
    if not any(BAD in say.calls for say in says) and len(says) == 1:
        assert got == b"".join(events)


def test_the_vocabulary_of_the_scripts_decodes_what_it_encodes() -> None:
    read = read_stream(b"".join(stream(Say(calls=(BAD,)), token_ids=True)))[0]
    assert CANARY in VOCABULARY.decode(read.ids)


def test_tokens_that_nothing_explains_cannot_be_held_without_end() -> None:
    talk = conversation(held_limit=5_000)
    event = stream(Say(reasoning="Hm."), logprobs=True, usage=False)[1]  # the tokens of <think>: no text says them
    assert read_event(event).choices[0].tokens
    assert not read_event(event).choices[0].reasoning
    for _ in range(100):
        talk.gate.feed(read_event(event))
    assert talk.gate.over
    assert talk.gate.held_bytes == 0
    assert b"longer than what may be held" in b"".join(talk.gate.take())
