"""The judge and the model read the same request to ``/v1/responses``: vLLM's own models say what it reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from proxy.history import canonical_arguments
from serving.request_fields import hidden
from serving.wire.dialect import Coerced, UpstreamRefuses
from serving.wire.request import SentCall, SentMessage, SentTool
from serving.wire.responses_request import FIELDS, joined, read_responses_request
from tests.support.responses import TOOLS
from tests.support.vllm_oracle import Oracle, reading

pytestmark = pytest.mark.vllm

REASONING = {"type": "reasoning", "id": "rs", "summary": []}
CALL = {"type": "function_call", "call_id": "c", "name": "look", "arguments": '{"a":1}'}
RESULT = {"type": "function_call_output", "call_id": "c"}
USER = {"role": "user", "content": "Hi"}
ITEMS: list[list[Any]] = [
    [USER],
    [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]}],
    [{"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]}],
    [{"role": "system", "content": "S"}, {"role": "developer", "content": "D"}, USER],
    [USER, CALL, {**RESULT, "output": "x"}],
    [USER, CALL, {**RESULT, "output": [{"type": "input_text", "text": "x"}]}],
    [USER, {**CALL, "namespace": "far"}, {**RESULT, "output": "x"}],
    [USER, CALL, {**CALL, "call_id": "d"}, {**RESULT, "output": "x"}, {**RESULT, "call_id": "d", "output": "y"}],
    [USER, {"type": "function_call_output", "output": "x"}],
    [USER, {"role": "assistant", "content": "A"}, CALL, {**RESULT, "output": "x"}],
    [USER, {"role": "assistant", "content": "A"}, {"role": "assistant", "content": "B"}, USER],
    [USER, {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "A"}]}, USER],
    [
        USER,
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "A"}, {"type": "output_text", "text": "B"}],
        },
        USER,
    ],
    [USER, {"type": "message", "role": "assistant", "content": [{"type": "input_text", "text": "A"}]}, USER],
    [USER, {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "A"}]}, USER],
    [USER, {**REASONING, "content": [{"type": "reasoning_text", "text": "R"}]}, CALL, {**RESULT, "output": "x"}],
    [USER, {**REASONING, "content": [{"type": "reasoning_text", "text": t} for t in "RS"]}, CALL],
    [USER, {**REASONING, "summary": [{"type": "summary_text", "text": "S"}], "content": []}, CALL],
    [USER, {**REASONING, "encrypted_content": "zzz"}],
    [USER, {"type": "custom_tool_call", "call_id": "c", "name": "p", "input": 'say "☂"'}],
    [USER, {"type": "custom_tool_call_output", "call_id": "c", "output": "x"}],
    [{**USER, "tool_calls": [{"id": "1", "type": "function", "function": {"name": "x", "arguments": "{}"}}]}],
    [{**USER, "name": "bob"}],
    [{**USER, "reasoning": "r"}],
    [{**USER, "type": None}],
    [{"role": "tool", "content": "x"}],
    [{"role": "user", "content": None}],
    [{"role": "user", "content": [{"text": "a"}]}],
    [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
    [{**CALL, "role": "user", "content": "hidden"}],
    [{**RESULT, "output": "x", "role": "user", "content": "hidden"}],
    [{**CALL, "arguments": {}}],
    [{**RESULT, "output": {"a": 1}}],
    [{"type": "item_reference", "id": "msg_1"}],
    [{"id": "msg_1"}],
    [{"type": "computer_call", "role": "user", "content": "hidden"}],
    [{"type": "mcp_call", "id": "m", "name": "n", "arguments": "{}", "server_label": "s"}],
    [{"type": "additional_tools", "role": "developer", "tools": [TOOLS[0]]}],
    [{"type": "compaction", "encrypted_content": "x"}],
    ["Hi"],
    [],
]
FIELDS_SENT: list[dict[str, Any]] = [
    *[{name: value} for name in ("stream", "store", "background") for value in (True, False, None, "yes", "x", 1, 2)],
    *[
        {name: value}
        for name in ("max_output_tokens", "seed", "top_k")
        for value in (5, 5.0, 5.5, "5", "x", True, None)
    ],
    *[{name: value} for name in ("temperature", "top_p") for value in (1, 0.5, "0.5", "x", True, None)],
    *[{name: value} for name in ("instructions", "model", "user", "request_id") for value in ("a", "", 5, None, ["a"])],
    *[{"tools": value} for value in (None, [], {}, [{"type": "function"}], [{"type": "bogus", "name": "x"}], TOOLS)],
    {"tools": [{"type": "namespace", "name": "far", "description": "", "tools": [{**TOOLS[0], "strict": True}]}]},
    *[{"tool_choice": value, "tools": TOOLS} for value in ("none", "auto", "required", "bogus", None)],
    {"tool_choice": {"type": "function", "name": "run_shell"}, "tools": TOOLS},
    *[{"include": value} for value in (None, [], ["message.output_text.logprobs"], ["x"], "x")],
    *[{"stop": value} for value in ("a", ["a"], 5, None)],
    {"prompt": {"id": "p"}},
    {"input": ""},
    {"input": None},
    {"input": {"role": "user"}},
    {"input": 5},
    {"reasoning": {"effort": "low"}},
    {"top_logprobs": None},
    {"truncation": "auto"},
]
REQUESTS = [{"input": items} for items in ITEMS] + [{"input": "Hi", **fields} for fields in FIELDS_SENT]


@pytest.fixture(scope="module")
def oracle(vllm_env: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Oracle]:
    with reading(vllm_env, tmp_path_factory.mktemp("reading")) as reader:
        yield reader


@pytest.mark.parametrize("request_body", REQUESTS, ids=lambda body: json.dumps(body)[:90])
def test_both_read_the_same_or_one_refuses(request_body: dict[str, Any], oracle: Oracle) -> None:
    ours = read_responses_request(request_body)
    theirs = oracle.read(json.dumps(request_body).encode(), "/v1/responses")
    if theirs["verdict"] == "refused" or isinstance(ours, Coerced):
        return
    assert not isinstance(ours, UpstreamRefuses), "vLLM takes it, so its answer would be unjudged"
    if any(found.hides & {"request"} for found in hidden(request_body, FIELDS)):
        return
    fields, seen = theirs["fields"], theirs["seen"]
    assert _canonical(ours.messages) == joined(tuple(_message(message) for message in seen["messages"]))
    assert (ours.stream, ours.limit, ours.model) == (
        bool(fields["stream"]),
        fields["max_output_tokens"],
        fields["model"],
    )
    assert ours.stored == (fields["store"] is not False)
    assert ours.logprobs == ("message.output_text.logprobs" in (fields["include"] or []))
    assert {name: value for name, value in ours.sampling.items() if name != "reasoning_effort"} == {
        name: fields[name] for name in ours.sampling if name != "reasoning_effort"
    }
    if ours.tool_choice != "none":
        assert ours.tools == tuple(
            SentTool(one["function"]["name"], one["function"]["description"], one["function"]["parameters"])
            for one in seen["tools"]
        )


def test_enough_is_taken_to_tell() -> None:
    views = [read_responses_request(body) for body in REQUESTS]
    assert sum(isinstance(view, Coerced) for view in views) >= 20
    assert sum(isinstance(view, UpstreamRefuses) for view in views) >= 20
    assert sum(not isinstance(view, Coerced | UpstreamRefuses) for view in views) >= 40


def _canonical(messages: tuple[SentMessage, ...]) -> tuple[SentMessage, ...]:
    """vLLM's renderer has parsed the arguments of calls."""

    def canonical(call: SentCall) -> SentCall:
        return SentCall(call.id, call.name, canonical_arguments(call.arguments))

    return tuple(
        msgspec.structs.replace(message, calls=tuple(canonical(call) for call in message.calls)) for message in messages
    )


def _text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _message(theirs: dict[str, Any]) -> SentMessage:
    content = theirs.get("content") or ""
    text = content if isinstance(content, str) else "\n".join(part["text"] for part in content)
    calls = tuple(
        SentCall(call["id"], call["function"]["name"], canonical_arguments(_text(call["function"]["arguments"])))
        for call in theirs.get("tool_calls") or []
    )
    known = {"role", "content", "tool_calls", "reasoning", "tool_call_id", "type", "phase", "id", "status"}
    assert not set(theirs) - known, "the template is shown what the judge does not see"
    return SentMessage(
        theirs["role"],
        text,
        reasoning=theirs.get("reasoning"),
        calls=calls,
        tool_call_id=theirs.get("tool_call_id"),
    )
