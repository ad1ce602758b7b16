"""The dialects of completions and of batches of chats: what their requests, streams and answers say, and changes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serving.wire.batch import Batch
from serving.wire.completions import Completions
from serving.wire.dialect import Coerced, UpstreamRefuses
from serving.wire.masking import Mask
from serving.wire.request import ChatRequest
from serving.wire.vocabulary import Event, Usage
from serving.wire.writer import ChoiceChange, EventChange
from tests.support.fields import field_problem
from tests.support.wire import captures

COMPLETIONS = Completions()
BATCH = Batch()
RECORDED = {c.name: c for c in captures() if c.request.start.startswith("POST /v1/completions ")}


def request(**fields: Any) -> ChatRequest:
    read = COMPLETIONS.request({"prompt": "Once", **fields})
    assert isinstance(read, ChatRequest)
    return read


def events(body: bytes) -> list[Event]:
    reader, _ = COMPLETIONS.stream(request())
    found = reader.feed(body)
    assert reader.rest() == b""
    return found


def test_there_are_recordings() -> None:
    assert {"completions", "completions_stream"} <= RECORDED.keys()


def test_a_recorded_request_is_read() -> None:
    for capture in RECORDED.values():
        read = COMPLETIONS.request(json.loads(capture.request.body))
        assert isinstance(read, ChatRequest)
        assert [m.role for m in read.messages] == ["user"]


def test_a_recorded_stream_says_its_text() -> None:
    body = RECORDED["completions_stream"].response.body
    found = events(body)
    assert b"".join(event.raw for event in found) == body
    assert found[-1].kind == "done"
    text = "".join(delta.text or "" for event in found for delta in event.choices)
    assert text.startswith("<think>\nA greeting.")


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_any_chunking_gives_the_same_events(size: int) -> None:
    body = RECORDED["completions_stream"].response.body
    reader, _ = COMPLETIONS.stream(request())
    found = [event for at in range(0, len(body), size) for event in reader.feed(body[at : at + size])]
    assert found == events(body)


def test_a_recorded_answer_says_its_text() -> None:
    answer = COMPLETIONS.answer(RECORDED["completions"].response.body)
    assert answer is not None
    assert [choice.text for choice in answer.choices] == ["<think>\nA greeting."]
    assert (answer.choices[0].finish, answer.usage) == ("length", Usage(12, 8))


@pytest.mark.parametrize("field", ["message", "delta", "tool_calls"])
def test_an_answer_that_another_reader_may_take_for_a_call_is_not_understood(field: str) -> None:
    choice = {"index": 0, "text": "x", "finish_reason": "stop", field: {"x": 1}}
    assert COMPLETIONS.answer(json.dumps({"choices": [choice]}).encode()) is None
    assert events(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")[0].kind == "unknown"


def test_a_cut_stream_ends_like_a_completion() -> None:
    body = RECORDED["completions_stream"].response.body
    template = events(body)[0]
    _, writer = COMPLETIONS.stream(request())
    said = events(writer.text(template, 0, "No.") + writer.finish(template, 0, "stop") + writer.ending())
    assert [(d.text, d.finish) for e in said for d in e.choices] == [("No.", None), ("", "stop")]
    assert said[0].answer_id == template.answer_id
    assert said[-1].kind == "done"


def test_tokens_can_be_hidden_and_what_has_nothing_left_to_say_goes() -> None:
    choice = {"index": 0, "text": "", "logprobs": {"tokens": ["x"]}, "finish_reason": None, "token_ids": [7]}
    (event,) = events(b"data: " + json.dumps({"id": "c", "choices": [choice]}).encode() + b"\n\n")
    assert (event.choices[0].tokens, event.choices[0].logprob_text) == (1, "x")
    _, writer = COMPLETIONS.stream(request())
    assert writer.change(event, EventChange(0, hide_tokens=True)) is None


def test_a_cut_answer_keeps_nothing_of_its_text() -> None:
    body = RECORDED["completions"].response.body
    changed = COMPLETIONS.whole(request()).whole(body, [ChoiceChange(0, {}, 0, "stop", cut="No.")])
    choice = json.loads(changed)["choices"][0]
    assert (choice["text"], choice["finish_reason"], choice["logprobs"]) == ("No.", "stop", None)
    assert json.loads(changed)["usage"] == json.loads(body)["usage"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"stream": "yes"}, "stream"),
        ({"n": "2"}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [["1"]]}, "prompt"),
        ({"prompt": [1.0, 2.0]}, "prompt"),
        ({"max_tokens": "5"}, "max_tokens"),
    ],
)
def test_what_vllm_would_coerce_is_refused(fields: dict[str, Any], field: str) -> None:
    read = COMPLETIONS.request({"prompt": "Once", **fields})
    assert isinstance(read, Coerced)
    assert read.field == field


@pytest.mark.parametrize(
    "body", [[], {}, {"prompt": None}, {"prompt": ""}, {"prompt": "x", "n": None}, {"prompt": {"a": 1}}]
)
def test_what_vllm_refuses_is_its_own_to_refuse(body: Any) -> None:
    assert isinstance(COMPLETIONS.request(body), UpstreamRefuses)


@pytest.mark.parametrize("prompt", [[1, 2, 3], [[1], [2]]])
def test_prompts_of_token_ids_hide_the_request(prompt: Any) -> None:
    problem = field_problem({"prompt": prompt}, {"request"}, COMPLETIONS.fields)
    assert problem is not None
    assert problem.param == "prompt"
    assert field_problem({"prompt": prompt}, {"tool_call"}, COMPLETIONS.fields) is None


def test_choices_are_counted_over_prompts() -> None:
    assert request(prompt=["a", "b"], n=3).n == 6
    assert request(prompt=[1, 2, 3]).n == 1
    assert request(prompt=[[1], [2]]).n == 2
    assert request().limit == 16


def test_a_batch_is_its_conversations() -> None:
    read = BATCH.request({"messages": [[{"role": "user", "content": "a"}], [{"role": "user", "content": "b"}]]})
    assert isinstance(read, ChatRequest)
    assert ([m.text for m in read.messages], read.n) == (["a", "b"], 2)


@pytest.mark.parametrize(
    "body",
    [
        {"messages": []},
        {"messages": [{"role": "user", "content": "a"}]},
        {"messages": [[]]},
        {"messages": [[{"role": "user", "content": "a"}]], "stream": True},
        {"messages": [[{"role": "user", "content": "a"}]], "n": 2},
    ],
)
def test_a_batch_that_vllm_refuses_is_its_own_to_refuse(body: Any) -> None:
    assert isinstance(BATCH.request(body), UpstreamRefuses)


def test_media_in_any_conversation_of_a_batch_are_seen() -> None:
    media = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    body = {"messages": [[{"role": "user", "content": "a"}], media]}
    problem = field_problem(body, {"request"}, BATCH.fields)
    assert problem is not None
    assert "media" in problem.message


def test_bytes_that_are_no_text_are_not_understood() -> None:
    reader, _ = COMPLETIONS.stream(request())
    (event,) = reader.feed(b'data: {"choices":[{"index":0,"text":"\xed\xa0\xbd"}]}\n\n')
    assert event.kind == "unknown"


def test_tokens_by_number_are_hidden_with_no_alternatives_too() -> None:
    fields = {"model": "m", "prompt": "Once", "logprobs": 0, "return_tokens_as_token_ids": True}
    found = field_problem(fields, frozenset({"text"}), COMPLETIONS.fields)
    assert found is not None
    assert found.param == "return_tokens_as_token_ids"


@pytest.mark.parametrize("cut", [None, "It ended here."])
def test_an_echoed_prompt_is_gone_from_the_lists_of_the_prompt_too(cut: str | None) -> None:
    own = {"prompt_logprobs": [None, {"7": {"logprob": -1.5, "rank": 1, "decoded_token": "key"}}]}
    said = {"index": 0, "text": "the key is", "logprobs": None, "finish_reason": "stop"}
    body = json.dumps({"choices": [{**said, **own, "prompt_token_ids": [5, 7], "token_ids": [9]}]}).encode()
    change = ChoiceChange(0, {}, 0, "stop", cut=cut, texts={"text": [Mask(4, 7, "[gone]")]})
    given = json.loads(COMPLETIONS.whole(request(echo=True)).whole(body, [change]))["choices"][0]
    assert given["text"] == (cut or "the [gone] is")
    assert given["prompt_logprobs"] is given["prompt_token_ids"] is given["token_ids"] is None


@pytest.mark.parametrize("hide", [False, True])
def test_the_prompt_of_an_event_that_may_show_what_is_masked_goes_with_its_tokens(hide: bool) -> None:
    said = {"index": 0, "text": "the key is", "logprobs": None, "finish_reason": None, "prompt_token_ids": [5, 7]}
    (event,) = events(b"data: " + json.dumps({"choices": [said | {"token_ids": [9]}]}).encode() + b"\n\n")
    _, writer = COMPLETIONS.stream(request(echo=True, stream=True))
    changed = writer.change(event, EventChange(0, hide_tokens=hide, texts={"text": "the [gone] is"}))
    assert changed is not None
    given = json.loads(changed.removeprefix(b"data: "))["choices"][0]
    assert given["text"] == "the [gone] is"
    assert (given["prompt_token_ids"], given["token_ids"]) == ((None, None) if hide else ([5, 7], [9]))
