"""What a request for ``/v1/messages`` says, and which are forwarded for vLLM to refuse or refused here.

All of the corpus is compared with what vLLM's own code makes of it.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.request_fields import hidden
from serving.wire.dialect import Coerced, UpstreamRefuses
from serving.wire.messages import Messages
from serving.wire.messages_request import read_messages_request
from serving.wire.request import ChatRequest, SentCall, SentMessage
from serving.wire.strict import classify
from tests.serving.wire.messages_corpus import (
    ASKED,
    BASE,
    CORPUS,
    FIELD_NAMES,
    FIELDS,
    IMAGE,
    MESSAGES,
    TOOL,
    assistant,
    result,
    said,
    user,
)
from tests.support.fields import field_problem
from tests.support.servers import plain_environment
from tests.support.wire import Capture, captures

RECORDED = [c for c in captures() if c.request.start.startswith("POST /v1/messages HTTP")]
SCRIPT = Path(__file__).with_name("vllm_messages.py")


def view(body: dict[str, Any]) -> ChatRequest:
    request = read_messages_request(body)
    assert isinstance(request, ChatRequest), request
    return request


def test_there_are_recorded_requests() -> None:
    assert len(RECORDED) >= 12


@pytest.mark.parametrize("capture", RECORDED, ids=lambda c: c.name)
def test_a_recorded_request_that_vllm_took_has_a_view_and_none_is_refused_here(capture: Capture) -> None:
    reading = classify(capture.request.body)
    assert reading.verdict != "lax"
    outcome = read_messages_request(reading.value) if reading.verdict == "strict" else None
    assert not isinstance(outcome, Coerced)
    if capture.response.start.split()[1] == "200":
        assert isinstance(outcome, ChatRequest)
        assert outcome.stream == (capture.response.header("content-type") or "").startswith("text/event-stream")


def test_recorded_requests_that_vllm_s_validation_refused_are_known_as_such() -> None:
    refused = {
        c.name: outcome.field
        for c in RECORDED
        if (reading := classify(c.request.body)).verdict == "strict"
        and isinstance(outcome := read_messages_request(reading.value), UpstreamRefuses)
    }
    assert refused == {"messages_missing_max_tokens": "max_tokens"}


def test_a_turn_becomes_messages_as_vllm_makes_them() -> None:
    request = view(MESSAGES["thinking, text, calls"])
    assert request.messages == (
        SentMessage("user", "Go"),
        SentMessage(
            "assistant",
            "I will\nlook.",
            reasoning="Hm. Yes.",
            calls=(
                SentCall("t1", "run", '{"c": "ls", "n": 1.5, "u": "ü\\n"}'),
                SentCall("t2", "run", '{"c": "pwd"}'),
            ),
        ),
        SentMessage("tool", "a.txt", tool_call_id="t1"),
        SentMessage("tool", "/", tool_call_id="t2"),
        SentMessage("user", "Go on."),
    )


def test_an_image_stays_with_the_result_that_it_came_in() -> None:
    request = view(said(ASKED, user(result([IMAGE]), result([IMAGE], tool_use_id="t2"))))
    assert [(m.role, m.tool_call_id, m.media) for m in request.messages[1:]] == [
        ("tool", "t1", ("image_url",)),
        ("tool", "t2", ("image_url",)),
    ]


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("max_tokens: '1'", "max_tokens"),
        ("stream: 1", "stream"),
        ("stream: 'yes'", "stream"),
        ("temperature: '1'", "temperature"),
        ("a tool with a flag of words", "tools[0].strict"),
        ("tool_choice: {'type': 'auto', 'disable_parallel_tool_use': 'yes'}", "tool_choice.disable_parallel_tool_use"),
        ("tool_result.is_error: 'yes'", "messages[1].content[0].is_error"),
        ("a call of a user", "messages[0].content"),
    ],
)
def test_what_vllm_would_coerce_is_refused_here(name: str, field: str) -> None:
    outcome = read_messages_request(CORPUS[name])
    assert isinstance(outcome, Coerced)
    assert outcome.field == field


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"chat_template_kwargs": {"note": "text"}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"continue_final_message": True}}, "chat_template_kwargs"),
        ({"kv_transfer_params": {"prompt_token_ids": [1]}}, "kv_transfer_params"),
        ({"ec_transfer_params": {"a": 1}}, "ec_transfer_params"),
        ({"messages": [user(IMAGE)]}, "messages[].content[]"),
        ({"messages": [user(result([IMAGE]))]}, "messages[].content[]"),
        ({"tools": [{**TOOL, "type": "bash_20250124"}]}, "tools[].type"),
        ({"mcp_servers": [{"url": "http://x"}]}, "mcp_servers"),
        ({"container": "c"}, "container"),
    ],
)
def test_fields_that_hide_something_are_named(more: dict[str, Any], param: str) -> None:
    problem = field_problem({**BASE, **more}, {"request", "tool_call"}, Messages.fields)
    assert problem is not None
    assert problem.param == param


@pytest.mark.parametrize(
    "more",
    [
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"thinking": {"type": "disabled"}},
        {"thinking": {"type": "adaptive", "display": "omitted"}},
        {"tools": [{**TOOL, "type": "custom"}]},
        {"mcp_servers": [], "container": None},
        {"include_reasoning": False, "chat_template": "ignored by vLLM on this path"},
        {"messages": [ASKED, assistant({"type": "text", "text": "Sure: {"})]},
    ],
)
def test_fields_that_hide_nothing_pass(more: dict[str, Any]) -> None:
    assert (
        field_problem({**BASE, **more}, {"request", "tool_result", "tool_call", "reasoning"}, Messages.fields) is None
    )


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3000) | st.floats(allow_nan=False) | st.sampled_from(["", "1", "yes"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "name", "text", "x"]), inner),
    max_leaves=6,
)
_KINDS = ["text", "image", "tool_use", "tool_result", "thinking", "tool_addition", "tool_removal", "tool_reference"]
_BLOCK = st.fixed_dictionaries(
    {"type": st.sampled_from(_KINDS) | _ANY},
    optional={
        name: _ANY | st.lists(st.fixed_dictionaries({"type": st.sampled_from(_KINDS)}, optional={"text": _ANY}))
        for name in ("text", "thinking", "input", "content", "source", "tool", "id", "name", "tool_use_id", "is_error")
    },
)
_MESSAGE = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "system"]) | _ANY,
        "content": st.text(max_size=3) | st.lists(_BLOCK, max_size=3) | _ANY,
    }
)
_BODY = st.fixed_dictionaries(
    {
        "model": st.just("m") | _ANY,
        "max_tokens": st.just(2000) | _ANY,
        "messages": st.lists(_MESSAGE, max_size=3) | _ANY,
    },
    optional={
        **dict.fromkeys((name for name in FIELD_NAMES if name not in BASE), _ANY),
        "system": st.lists(_BLOCK, max_size=2) | _ANY,
    },
)


@settings(max_examples=300, deadline=None)
@given(_BODY | _ANY)
def test_a_body_of_any_shape_has_one_of_the_three_outcomes(body: Any) -> None:
    outcome = read_messages_request(body)
    assert isinstance(outcome, ChatRequest | Coerced | UpstreamRefuses)
    if isinstance(outcome, ChatRequest):
        assert all(problem.message for problem in hidden(body, Messages.fields))
        json.dumps([outcome.tool_choice, outcome.sampling, outcome.limit, [m.text for m in outcome.messages]])


# -- against vLLM's own code ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vllm_says(vllm_env: Path) -> dict[str, Any]:
    """What vLLM makes of each body of the corpus."""
    done = subprocess.run(
        [vllm_env / "bin" / "python", SCRIPT],
        input=json.dumps(list(CORPUS.values())),
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        env=plain_environment(VLLM_LOGGING_LEVEL="ERROR", HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1"),
    )
    return dict(zip(CORPUS, json.loads(done.stdout.splitlines()[-1]), strict=True))


@pytest.mark.vllm
def test_every_body_is_read_as_vllm_reads_it_or_refused(vllm_says: dict[str, Any]) -> None:
    assert sum("error" in said for said in vllm_says.values()) > 200
    assert sum("error" not in said for said in vllm_says.values()) > 150
    wrong = {}
    for name, theirs in vllm_says.items():
        ours = read_messages_request(CORPUS[name])
        if isinstance(ours, Coerced):
            continue
        if isinstance(ours, UpstreamRefuses) or "error" in theirs:
            if isinstance(ours, UpstreamRefuses) is not ("error" in theirs) and name not in REFUSED_BY_VLLM_ALONE:
                wrong[name] = (ours, theirs)
        elif _ours(ours) != _theirs(theirs):
            wrong[name] = (_ours(ours), _theirs(theirs))
    assert wrong == {}


@pytest.mark.vllm
def test_few_bodies_that_vllm_takes_are_refused_here(vllm_says: dict[str, Any]) -> None:
    """… and those only because their types are coerced or because vLLM itself reads them oddly."""
    refused = [n for n, said in vllm_says.items() if "error" not in said if not isinstance(read(n), ChatRequest)]
    odd = [name for name in refused if name not in FIELDS and "is_error" not in name]
    assert odd == ["a call of a user", "a user's thought", "a tool with a flag of words"]


REFUSED_BY_VLLM_ALONE = {"stop_sequences: ['a', 'a', 'a', 'a', 'a']", "cache_salt: ''"}
"""Judged and forwarded; the client gets vLLM's own words."""


def read(name: str) -> object:
    return read_messages_request(CORPUS[name])


def _ours(request: ChatRequest) -> dict[str, Any]:
    return {
        "messages": [
            (m.role, m.text, m.reasoning, [(c.name, json.loads(c.arguments)) for c in m.calls], m.tool_call_id, m.media)
            for m in request.messages
        ],
        "tools": [(tool.name, tool.description, tool.parameters) for tool in request.tools],
        "tool_choice": request.tool_choice,
        "limit": request.limit,
        "stream": request.stream,
        "sampling": request.sampling,
    }


def _theirs(chat: dict[str, Any]) -> dict[str, Any]:
    found: list[tuple[Any, ...]] = []
    for message in chat["messages"]:
        parts = message.get("content") or ""
        parts = [{"type": "text", "text": parts}] if isinstance(parts, str) else parts
        texts = [part.get("text", part.get("name")) for part in parts if part["type"] in ("text", "tool_reference")]
        media = tuple(part["type"] for part in parts if part["type"] == "image_url")
        calls = [
            (call["function"]["name"], json.loads(call["function"]["arguments"]))
            for call in message.get("tool_calls") or ()
        ]
        text, call_id = "\n".join(texts), message.get("tool_call_id")
        last = found[-1] if found else None
        if last and last[0] == "tool" and message["role"] == "user" and media and not texts:
            found[-1] = (*last[:5], media)  # images of a result, which we leave with it
        elif last and last[0] == "tool" and message["role"] == "tool" and parts[0]["type"] == "tool_reference":
            found[-1] = ("tool", "\n".join([*filter(None, [last[1]]), text]), *last[2:])
        else:
            found.append((message["role"], text, message.get("reasoning"), calls, call_id, media))
    sampling = {name: chat[name] for name in ("temperature", "top_p", "top_k", "stop", "reasoning_effort")}
    if sampling["reasoning_effort"] == "none":  # vLLM's word for `thinking: disabled`, by its settings
        del sampling["reasoning_effort"]
    return {
        "messages": found,
        "tools": [
            (f["name"], f.get("description"), f.get("parameters"))
            for f in (tool["function"] for tool in chat["tools"] or ())
        ],
        "tool_choice": chat["tool_choice"] or "none",
        "limit": chat["max_tokens"],
        "stream": bool(chat["stream"]),
        "sampling": {name: value for name, value in sampling.items() if value is not None},
    }
