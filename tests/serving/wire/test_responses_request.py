"""How a request to ``/v1/responses`` is read: as messages, tools and fields that every part of Interlock knows."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serving.request_fields import hidden
from serving.wire.dialect import Coerced, UpstreamRefuses
from serving.wire.request import ChatRequest, SentCall, SentMessage, SentTool
from serving.wire.responses_request import FIELDS, read_responses_request
from tests.support.wire import captures

ASKED = [c for c in captures() if c.request.start.startswith("POST /v1/responses ")]


def read(**fields: Any) -> ChatRequest:
    view = read_responses_request({"model": "tiny", "input": "Hi", **fields})
    assert isinstance(view, ChatRequest)
    return view


@pytest.mark.parametrize("capture", ASKED, ids=lambda c: c.name)
def test_every_recorded_request_is_understood(capture) -> None:
    view = read_responses_request(json.loads(capture.request.body))
    assert isinstance(view, ChatRequest)
    assert view.messages


def test_a_text_is_a_users_message_behind_the_instructions() -> None:
    view = read(instructions="Be kind.", max_output_tokens=7, include=["message.output_text.logprobs"], top_logprobs=2)
    assert view.messages == (SentMessage("system", "Be kind."), SentMessage("user", "Hi"))
    assert (view.limit, view.logprobs, view.top_logprobs, view.tool_choice) == (7, True, 2, "none")


def test_the_items_of_an_assistants_turn_are_one_message() -> None:
    view = read(
        input=[
            {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "One. "}]},
            {"type": "message", "role": "assistant", "content": "Two."},
            {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
            {"type": "function_call", "call_id": "c2", "name": "look", "namespace": "far", "arguments": "{}"},
            {"type": "custom_tool_call", "call_id": "c3", "name": "patch", "input": 'say "x"'},
            {"type": "function_call_output", "call_id": "c1", "output": "seen"},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "far seen"}]},
            {"type": "custom_tool_call_output", "call_id": "c3", "output": "done"},
            {"role": "developer", "content": "Mind the gap."},
        ]
    )
    calls = (
        SentCall("c1", "look", "{}"),
        SentCall("c2", "far__look", "{}"),
        SentCall("c3", "patch", '{"input": "say \\"x\\""}'),
    )
    assert view.messages == (
        SentMessage("user", "a\nb"),
        SentMessage("assistant", "One. Two.", reasoning="Hm.", calls=calls),
        SentMessage("tool", "seen", tool_call_id="c1"),
        SentMessage("tool", "far seen", tool_call_id="c2"),
        SentMessage("tool", "done", tool_call_id="c3"),
        SentMessage("developer", "Mind the gap."),
    )


def test_tools_are_named_as_the_model_reads_them() -> None:
    look = {"type": "function", "name": "look", "parameters": {"type": "object"}, "description": "Looks."}
    view = read(tools=[look, {"type": "namespace", "name": "far", "description": "", "tools": [look]}])
    assert view.tools == (
        SentTool("look", "Looks.", {"type": "object"}),
        SentTool("far__look", "Looks.", {"type": "object"}),
    )
    assert view.tool_choice == "auto"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"stream": "true"}, "stream"),
        ({"background": 1}, "background"),
        ({"store": "no"}, "store"),
        ({"include_reasoning": "off"}, "include_reasoning"),
        ({"max_output_tokens": "5"}, "max_output_tokens"),
        ({"temperature": "0.5"}, "temperature"),
        ({"top_logprobs": True}, "top_logprobs"),
        ({"input": [{"role": "user", "content": "a", "reasoning": "b"}]}, "input[0].reasoning"),
        ({"input": [{"type": None, "role": "user", "content": "a"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"text": "a"}]}]}, "input[0].content[0].type"),
    ],
)
def test_what_vllm_would_coerce_is_named(fields: dict[str, Any], field: str) -> None:
    view = read_responses_request({"input": "Hi", **fields})
    assert isinstance(view, Coerced)
    assert view.field == field


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        {"input": None},
        {"input": 5},
        {"input": {"role": "user"}},
        {"input": ["Hi"]},
        {"input": [{"role": "tool", "content": "x"}]},
        {"input": [{"type": "item_reference", "id": "msg_1"}]},
        {"input": [{"type": "function_call", "call_id": "c", "name": "look", "arguments": {}}]},
        {"input": [{"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "zzz"}]},
        {"input": "Hi", "prompt": {"id": "p"}},
        {"input": "Hi", "tools": None},
        {"input": "Hi", "tools": [{"type": "function"}]},
        {"input": "Hi", "stream": "perhaps"},
        {"input": "Hi", "request_id": None},
    ],
)
def test_what_vllm_refuses_is_left_to_it(value: Any) -> None:
    assert isinstance(read_responses_request(value), UpstreamRefuses)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"include_reasoning": False}, "include_reasoning"),
        ({"chat_template_kwargs": {"hint": "text"}}, "chat_template_kwargs"),
        ({"kv_transfer_params": {"prompt_token_ids": [1]}}, "kv_transfer_params"),
        ({"previous_input_messages": [{"role": "user"}]}, "previous_input_messages"),
        ({"previous_response_id": "resp_1", "enable_response_messages": True}, "enable_response_messages"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input[].content[]"),
        ({"input": [{"type": "function_call_output", "output": [{"type": "input_file"}]}]}, "input[].content[]"),
        ({"input": [{"role": "assistant", "content": "I", "status": "incomplete"}]}, "input[].status"),
        ({"tools": [{"type": "web_search"}]}, "tools[].type"),
        ({"tools": [{"type": "namespace", "name": "x", "tools": [{"type": "mcp"}]}]}, "tools[].type"),
        ({"tools": [{"type": "custom", "name": "x"}]}, "tools[].custom"),
    ],
)
def test_fields_that_hide_something_have_a_rule(fields: dict[str, Any], param: str) -> None:
    assert [found.param for found in hidden({"input": "Hi", **fields}, FIELDS)] == [param]


def test_a_plain_request_hides_nothing() -> None:
    for capture in ASKED:
        asked = json.loads(capture.request.body)
        asked.pop("previous_response_id", None)
        for more in ({}, {"enable_response_messages": True}, {"previous_response_id": "resp_1"}):
            assert list(hidden({**asked, **more}, FIELDS)) == []
