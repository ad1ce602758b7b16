"""What a chat request says, and which requests are forwarded for vLLM to refuse or refused here.

The outcomes were compared with vLLM 0.32's own ``ChatCompletionRequest`` and message reading.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from serving.wire.chat_request import Coerced, UpstreamRefuses, read_chat_request
from serving.wire.request import ChatRequest, SentCall
from serving.wire.strict import classify
from tests.support.wire import Capture, captures

CHATS = [c for c in captures() if c.request.start.startswith("POST /v1/chat/completions HTTP")]
HELLO = [{"role": "user", "content": "Hello!"}]
TOOL = {"type": "function", "function": {"name": "run", "description": "Run it", "parameters": {"type": "object"}}}


def view(**fields: Any) -> ChatRequest:
    request = read_chat_request({"messages": HELLO, **fields})
    assert isinstance(request, ChatRequest)
    return request


def message(**fields: Any) -> Any:
    request = read_chat_request({"messages": [{"role": "user", **fields}]})
    return request.messages[0] if isinstance(request, ChatRequest) else request


def test_there_are_recorded_chat_requests() -> None:
    assert len(CHATS) >= 60


@pytest.mark.parametrize("capture", CHATS, ids=lambda c: c.name)
def test_a_recorded_request_that_vllm_took_has_a_view_and_none_is_refused_here(capture: Capture) -> None:
    reading = classify(capture.request.body)
    assert reading.verdict != "lax"
    outcome = read_chat_request(reading.value) if reading.verdict == "strict" else None
    assert not isinstance(outcome, Coerced)
    if capture.response.start.split()[1] == "200":
        assert isinstance(outcome, ChatRequest)
        assert outcome.stream == (capture.response.header("content-type") or "").startswith("text/event-stream")


def test_recorded_requests_that_vllm_s_validation_refused_are_known_as_such() -> None:
    refused = {
        c.name: outcome.field
        for c in CHATS
        if (reading := classify(c.request.body)).verdict == "strict"
        and isinstance(outcome := read_chat_request(reading.value), UpstreamRefuses)
    }
    assert refused == {"err_missing_messages": "messages", "err_bad_json_stream": "messages"}


def test_a_bare_request_has_vllm_s_defaults() -> None:
    request = view()
    assert request.model is None
    assert (request.stream, request.n, request.limit, request.tool_choice) == (False, 1, None, "none")
    assert not request.shows_tokens
    assert not request.calls_possible
    assert request.fields == {"messages"}


def test_every_field_that_matters_is_read() -> None:
    request = view(
        model="m",
        stream=True,
        stream_options={"include_usage": True},
        n=2,
        max_tokens=9,
        logprobs=True,
        top_logprobs=3,
        return_token_ids=True,
        tools=[TOOL],
        temperature=0.5,
        seed=7,
        stop=["a"],
        x_unknown={"y": 1},
    )
    assert (request.model, request.stream, request.include_usage, request.n) == ("m", True, True, 2)
    assert (request.limit, request.logprobs, request.top_logprobs, request.token_ids) == (9, True, 3, True)
    assert (request.tools[0].name, request.tools[0].parameters) == ("run", {"type": "object"})
    assert (request.tool_choice, request.calls_possible) == ("auto", True)
    assert request.sampling == {"temperature": 0.5, "seed": 7, "stop": ["a"]}
    assert "x_unknown" in request.fields


def test_null_is_the_same_as_absent_where_vllm_takes_null() -> None:
    request = view(stream=None, n=None, max_tokens=None, logprobs=None, top_logprobs=None, tools=None, stop=None)
    assert (request.stream, request.n, request.limit, request.top_logprobs) == (False, 1, None, 0)
    assert request.sampling == {}


def test_max_completion_tokens_goes_before_max_tokens() -> None:
    assert view(max_tokens=5, max_completion_tokens=7).limit == 7
    assert view(max_tokens=5, max_completion_tokens=0).limit == 0
    assert view(max_tokens=5, max_completion_tokens=None).limit == 5


def test_a_null_tool_choice_with_tools_may_still_call() -> None:
    assert view(tools=[TOOL], tool_choice=None).calls_possible
    assert not view(tools=[TOOL], tool_choice="none").calls_possible


def test_a_whole_number_written_as_a_float_is_read_as_vllm_reads_it() -> None:
    request = view(n=2.0, max_tokens=5.0)
    assert (request.n, request.limit) == (2, 5)
    assert type(request.n) is int


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stream", "yes"),
        ("stream", "TRUE"),
        ("stream", 1),
        ("stream", 0),
        ("stream", 1.0),
        ("n", "2"),
        ("n", " 2 "),
        ("n", True),
        ("n", 1e300),
        ("max_tokens", "5"),
        ("max_completion_tokens", "5.0"),
        ("logprobs", "true"),
        ("top_logprobs", True),
        ("return_token_ids", "on"),
        ("include_reasoning", "off"),
        ("include_reasoning", 0),
        ("continue_final_message", "1"),
        ("temperature", "0.5"),
        ("temperature", "inf"),
        ("logprob_token_ids", ["1"]),
        ("stream_options", {"include_usage": "yes"}),
    ],
)
def test_a_value_that_vllm_would_coerce_is_refused_by_name(name: str, value: Any) -> None:
    outcome = read_chat_request({"messages": HELLO, "stream": True, name: value})
    assert isinstance(outcome, Coerced)
    assert outcome.field.startswith(name)
    assert outcome.message.startswith("must be")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stream", "maybe"),
        ("stream", 2),
        ("stream", []),
        ("n", 1.5),
        ("n", "two"),
        ("n", {}),
        ("max_tokens", "many"),
        ("temperature", "hot"),
        ("include_reasoning", None),
        ("model", 5),
        ("messages", "x"),
        ("messages", None),
        ("messages", {}),
        ("messages", [5]),
        ("messages", [{"content": "x"}]),
        ("messages", [{"role": 5, "content": "x"}]),
        ("messages", [{"role": "user", "content": 5}]),
        ("tools", []),
        ("tools", {}),
        ("tools", ["run"]),
        ("tools", [{"type": "custom", "function": TOOL["function"]}]),
        ("tools", [{"type": "function"}]),
        ("tools", [{"type": "function", "function": {"name": 5}}]),
        ("tools", [{"type": "function", "function": {"name": "f", "parameters": "{}"}}]),
        ("tool_choice", "sometimes"),
        ("tool_choice", {"function": {}}),
        ("stream_options", "x"),
        ("stop", [5]),
        ("kv_transfer_params", []),
    ],
)
def test_a_value_that_vllm_refuses_is_left_to_vllm(name: str, value: Any) -> None:
    outcome = read_chat_request({"messages": HELLO, name: value})
    assert isinstance(outcome, UpstreamRefuses)
    assert outcome.field.startswith(name)


@pytest.mark.parametrize("body", [[], "x", 5, None, True])
def test_a_body_that_is_no_object_is_left_to_vllm(body: Any) -> None:
    assert isinstance(read_chat_request(body), UpstreamRefuses)


def test_a_coerced_field_is_refused_although_vllm_would_refuse_another() -> None:
    assert isinstance(read_chat_request({"n": [], "stream": "yes"}), Coerced)
    assert isinstance(read_chat_request({"stream": 1, "messages": None}), Coerced)


@pytest.mark.parametrize(
    ("content", "text", "media"),
    [
        (None, "", ()),
        ("x", "x", ()),
        ([], "", ()),
        (["a", "b"], "a\nb", ()),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "a\nb", ()),
        ([{"type": "text", "text": None}, {"type": "text"}, "b"], "b", ()),
        ([{"type": "refusal", "refusal": "no"}], "no", ()),
        ([{"type": "thinking", "thinking": "hm", "text": "unread"}], "hm", ()),
        ([{"type": "input_text", "text": "a"}, {"type": "output_text", "text": "b"}], "a\nb", ()),
        ([{"type": "tool_reference", "name": "run"}], "run", ()),
        ([{"type": "image_url", "image_url": {"url": "data:"}}, {"type": "text", "text": "a"}], "a", ("image_url",)),
        ([{"image_url": "data:"}], "", ("image_url",)),
        ([{"type": "text", "text": "a", "image_url": "u", "uuid": "k"}], "a", ("image_url",)),
        ([{"type": "weird", "text": "a"}], "", ("weird",)),
    ],
)
def test_content_parts_become_text_and_named_media(content: Any, text: str, media: tuple[str, ...]) -> None:
    found = message(content=content)
    assert (found.text, found.media) == (text, media)


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"content": {}}, ".content"),
        ({"content": [5]}, ".content[0]"),
        ({"content": ["a", {"type": 5}]}, ".content[1].type"),
        ({"content": [{"text": "a"}]}, ".content[0].type"),
        ({"content": [{"type": "text", "text": ["rm"]}]}, ".content[0].text"),
        ({"reasoning": 5}, ".reasoning"),
        ({"reasoning_content": ["x"]}, ".reasoning_content"),
        ({"tool_call_id": 5}, ".tool_call_id"),
        ({"name": 5}, ".name"),
        ({"author": {"role": "user"}}, ".author"),
        ({"tool_calls": {}}, ".tool_calls"),
        ({"tool_calls": ["x"]}, ".tool_calls[0]"),
        ({"tool_calls": [{"id": "a"}]}, ".tool_calls[0].function"),
        ({"tool_calls": [{"function": {"name": 5}}]}, ".tool_calls[0].function.name"),
        ({"tool_calls": [{"function": {"name": "f", "arguments": {}}}]}, ".tool_calls[0].function.arguments"),
        ({"tool_calls": [{"id": 5, "function": {"name": "f"}}]}, ".tool_calls[0].id"),
    ],
)
def test_a_message_whose_reading_hangs_on_the_server_is_refused_with_its_path(
    fields: dict[str, Any], where: str
) -> None:
    outcome = message(**fields)
    assert isinstance(outcome, Coerced)
    assert outcome.field == f"messages[0]{where}"


def test_a_tool_loop_is_read_with_calls_results_and_reasoning() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "run", "arguments": '{"a":1}'}}
    request = read_chat_request(
        {
            "messages": [
                {"role": "system", "content": "Be brief.", "name": "boss"},
                {"role": "assistant", "content": None, "reasoning_content": "Think.", "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "done"}]},
                {"role": "assistant", "reasoning": "New.", "reasoning_content": "Old.", "tool_calls": None},
            ]
        }
    )
    assert isinstance(request, ChatRequest)
    system, asked, result, last = request.messages
    assert (system.role, system.text, system.name) == ("system", "Be brief.", "boss")
    assert (asked.text, asked.reasoning) == ("", "Think.")
    assert asked.calls == (SentCall(id="c1", name="run", arguments='{"a":1}'),)
    assert (result.role, result.text, result.tool_call_id) == ("tool", "done", "c1")
    assert (last.reasoning, last.calls) == ("New.", ())


def test_broken_arguments_in_the_history_are_kept_as_sent() -> None:
    found = message(tool_calls=[{"function": {"name": "f", "arguments": "{bad"}}, {"function": {"name": "g"}}])
    assert [call.arguments for call in found.calls] == ["{bad", ""]


def test_every_top_level_field_is_named_known_or_not() -> None:
    assert view(functions=[{"name": "old"}], x=None).fields == {"messages", "functions", "x"}


def test_the_value_is_read_and_not_changed() -> None:
    value = {"messages": [{"role": "assistant", "reasoning_content": "x", "content": ["a"]}], "tools": [TOOL]}
    before = json.dumps(value)
    read_chat_request(value)
    assert json.dumps(value) == before
