"""The gate under text policies: what waits, what leaves and what a hit ends, on scripted streams."""

from __future__ import annotations

import json
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.gate import Gate
from proxy.gated_choice import Answer, TextQuestion
from proxy.gated_text import TextRule
from serving.wire.chat_stream import read_event
from serving.wire.chat_writer import ChatWriter
from tests.support.chat import Call, Say, read_stream, stream
from tests.support.talk import SHUT
from tests.support.text_rule import SECRET, Rule

LOOK = Call("get_weather", '{"city": "Oslo"}')


class Talk:
    """Feeds a gate; every text question with hits is answered with a cut, unless ``allow``."""

    def __init__(self, *, late: bool = False, allow: bool = False, hold: bool = True, **rules: TextRule) -> None:
        self.gate = Gate(ChatWriter(), hold=hold, watch_tokens=True, texts=rules)  # type: ignore[arg-type]
        self.late, self.allow = late, allow
        self.got = b""
        self.asked: list[TextQuestion] = []
        self.open: deque[object] = deque()

    def says(self, *events: bytes) -> None:
        for raw in events:
            self.gate.feed(read_event(raw))
            for question in self.gate.questions():
                self.open.append(question)
                if isinstance(question, TextQuestion):
                    self.asked.append(question)
            while self.open and not self.late:
                self.decide()
            self.got += b"".join(self.gate.take())

    def decide(self) -> None:
        question = self.open.popleft()
        stops = isinstance(question, TextQuestion) and not self.allow and bool(question.found.hits)
        self.gate.answer(question.ticket, Answer(SHUT, cut=True) if stops else Answer())  # type: ignore[attr-defined]
        self.got += b"".join(self.gate.take())


def test_without_hold_nothing_comes_after_the_event_that_completed_the_match() -> None:
    events = stream(Say(text=f"The key is {SECRET}, and more of it."))
    talk = Talk(late=True, text=Rule())
    completes = next(i for i, e in enumerate(events) if b'"content":"11"' in e or b'"content":"4711"' in e)
    talk.says(*events)
    assert talk.got == b"".join(events[: completes + 1])
    (question,) = talk.asked
    assert question.found.left == question.found.size == len(f"The key is {SECRET}")
    talk.decide()
    read = read_stream(talk.got)[0]
    assert read.text == f"The key is {SECRET}\n\n{SHUT}"
    assert (read.finish, talk.got.endswith(b"data: [DONE]\n\n")) == ("stop", True)


def test_an_allowed_hit_changes_nothing() -> None:
    events = stream(Say("Thinking.", f"The key is {SECRET}, and more.", (LOOK,)), usage=True)
    for hold in (0, 20, None):
        talk = Talk(allow=True, text=Rule(hold), reasoning=Rule(hold))
        talk.says(*events)
        assert talk.got == b"".join(events)
        assert len(talk.asked) == 1


def test_a_tail_stays_behind_and_leaves_when_the_text_is_over() -> None:
    events = stream(Say("Short.", "x " * 40, (LOOK,)), usage=False)
    talk = Talk(late=True, text=Rule(10), reasoning=Rule(10))
    call = next(i for i, e in enumerate(events) if b"tool_calls" in e)
    talk.says(*events[:call])
    assert 60 <= len(read_stream(talk.got)[0].text) <= 70
    assert read_stream(talk.got)[0].reasoning == "Short."
    talk.says(events[call])
    assert read_stream(talk.got)[0].text == "x " * 40


def test_text_that_waits_for_its_end_is_asked_about_once_and_whole() -> None:
    events = stream(Say("", "One two three.", (LOOK,)), usage=True)
    talk = Talk(late=True, text=Rule(None, None, at_end=True))
    talk.says(*events)
    assert read_stream(talk.got)[0].text == ""
    assert [q.found.ended for q in talk.asked] == [True]
    while talk.open:
        talk.decide()
    assert talk.got == b"".join(events)


def test_text_that_is_too_long_to_wait_for_ends_the_answer() -> None:
    talk = Talk(text=Rule(None))
    talk.gate._limit = 20_000
    talk.says(*stream(Say(text="word " * 2000)))
    assert talk.gate.over
    assert "longer than what may be held" in read_stream(talk.got)[0].text
    assert "word" not in read_stream(talk.got)[0].text


def test_the_other_choice_flows_on_while_one_waits_for_its_verdict() -> None:
    events = stream(Say(text=f"{SECRET} and so on"), Say(text="one two three four five six seven eight"), usage=False)
    talk = Talk(late=True, text=Rule())
    talk.says(*events[:-1])
    read = read_stream(talk.got)
    assert (read[0].text, read[1].text) == (SECRET, "one two three four five six seven eight")


@settings(max_examples=150, deadline=None)
@given(
    before=st.text("ab \n☂é", max_size=30),
    after=st.text("ab \n☂é", max_size=30),
    surface=st.sampled_from(["text", "reasoning"]),
    hold=st.sampled_from([0, len(SECRET), 40, None]),
    interval=st.integers(1, 7),
    logprobs=st.booleans(),
    ids=st.booleans(),
    calls=st.booleans(),
    twice=st.booleans(),
    late=st.booleans(),
)
def test_no_byte_of_a_match_leaves_under_a_hold(
    before: str,
    after: str,
    surface: str,
    hold: int | None,
    interval: int,
    logprobs: bool,
    ids: bool,
    calls: bool,
    twice: bool,
    late: bool,
) -> None:
    said = before + SECRET + after
    say = Say(
        reasoning=said if surface == "reasoning" else "",
        text=said if surface == "text" else "Fine.",
        calls=(LOOK,) if calls else (),
    )
    events = stream(
        *([say, Say(text="other " * 5)] if twice else [say]), interval=interval, logprobs=logprobs, token_ids=ids
    )
    talk = Talk(late=late, **{surface: Rule(hold)})
    talk.says(*events)
    while talk.open:
        talk.decide()
    assert talk.gate.end()
    read = read_stream(talk.got)[0]
    given_text = read.text if surface == "text" else read.reasoning
    assert read.text.endswith(SHUT)
    if hold == 0:  # an event whose tokens say more than its text waits all the same, and goes with the cut
        (question,) = talk.asked
        closing = SHUT if given_text == SHUT else f"\n\n{SHUT}"  # nothing was said before it
        assert question.found.left == len(given_text.removesuffix(closing).encode())
        assert len(given_text.partition(SECRET)[2].removesuffix(SHUT).strip()) <= 4 * interval
    else:
        shown = read.everything().replace(SHUT, "")
        assert not any(SECRET[:n] in shown for n in range(3, len(SECRET) + 1))


ERROR = b'data: {"error":{"message":"boom","type":"InternalServerError","param":null,"code":500}}\n\n'


@pytest.mark.parametrize("hold", [0, 40, None])
def test_a_verdict_that_comes_after_an_error_says_nothing_more(hold: int | None) -> None:
    first, *events = stream(Say(text=f"so {SECRET}"), usage=False)
    talk = Talk(late=True, text=Rule(hold, at_end=True))
    talk.says(first, *events[:-2], ERROR, events[-1])
    while talk.open:
        talk.decide()
    assert talk.got.endswith(ERROR + events[-1])
    assert talk.got.count(b"[DONE]") == 1
    assert talk.gate.end()


def test_a_comment_behind_the_end_does_not_break_off_what_waits_for_a_verdict() -> None:
    events = [*stream(Say(text=f"so {SECRET}"), usage=False), b": ping\n\n"]
    talk = Talk(late=True, allow=True, text=Rule(40))
    talk.says(*events)
    assert talk.gate.end()
    while talk.open:
        talk.decide()
    assert talk.got == b"".join(events)


def test_where_only_texts_are_stopped_calls_that_take_turns_pass() -> None:
    def piece(index: int, **says: object) -> bytes:
        delta = {"tool_calls": [{"index": index, **says}]}
        return b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode() + b"\n\n"

    begun = [piece(i, id=f"c{i}", function={"name": "get_weather", "arguments": "{"}) for i in range(2)]
    events = [*begun, *(piece(i, function={"arguments": "}"}) for i in range(2)), *stream(Say(), usage=False)[-2:]]
    talk = Talk(text=Rule(40), hold=False)
    talk.says(*events)
    assert talk.got == b"".join(events)
