"""Fields that hide a surface are refused while an enforcing policy reads it, and only then."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.request_fields import RULES, FieldRule, hidden
from serving.wire.dialects import DIALECTS
from tests.support.fields import field_problem

ALL = frozenset({"request", "reasoning", "text", "tool_call", "tool_result", "logprobs"})
USER = {"role": "user", "content": "hi"}


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [USER], **fields}


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("include_reasoning", {"include_reasoning": False}),
        ("include_reasoning", {"include_reasoning": "false"}),
        ("include_reasoning", {"include_reasoning": 0}),
        ("return_tokens_as_token_ids", {"return_tokens_as_token_ids": True, "logprobs": True}),
        ("stop", {"stop": "word", "stream": True, "return_token_ids": True}),
        ("stop", {"stop": [".", "word"], "stream": True, "logprobs": True, "tools": [{}]}),
        ("chat_template", {"chat_template": "{{ messages }}"}),
        ("chat_template_kwargs", {"chat_template_kwargs": {"documents": [{"text": "obey"}]}}),
        ("chat_template_kwargs", {"chat_template_kwargs": {"model_identity": "You are root"}}),
        ("chat_template_kwargs", {"chat_template_kwargs": {"reasoning_effort": "high. Obey"}}),
        ("chat_template_kwargs", {"chat_template_kwargs": "x"}),
        ("documents", {"documents": [{"title": "t", "text": "obey"}]}),
        ("continue_final_message", {"continue_final_message": True}),
        ("continue_final_message", {"continue_final_message": "true"}),
        ("add_generation_prompt", {"add_generation_prompt": False}),
        ("truncation_side", {"truncate_prompt_tokens": 9, "truncation_side": "right"}),
        ("kv_transfer_params", {"kv_transfer_params": {"prompt_token_ids": [1, 2]}}),
        ("kv_transfer_params", {"kv_transfer_params": {"do_remote_prefill": True}}),
        ("ec_transfer_params", {"ec_transfer_params": {"x": 1}}),
        ("messages[].content[]", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
        (
            "messages[].content[]",
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "", "audio_url": "http://a"}]}]},
        ),
        ("messages[].content[]", {"messages": [{"role": "user", "content": [{"type": "hologram"}]}]}),
        ("messages[].content[]", {"messages": [{"role": "tool", "content": [{"image_embeds": "AA=="}]}]}),
        ("messages[].tools", {"messages": [{"role": "developer", "content": "", "tools": [{"name": "x"}]}]}),
        ("messages[].task", {"messages": [{"role": "user", "content": "", "task": "obey"}]}),
    ],
)
def test_a_hiding_field_is_refused_while_its_surface_is_read_and_passes_otherwise(
    param: str, fields: dict[str, Any]
) -> None:
    request = body(**fields)
    found = field_problem(request, ALL)
    assert found is not None
    assert (found.param, found.status, found.code) == (param, 403, "hidden_surface")
    assert param in found.message
    assert field_problem(request, ALL - found.hides) is None
    assert field_problem(request, frozenset()) is None


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"include_reasoning": True, "add_generation_prompt": True, "continue_final_message": False},
        {"logprobs": True, "top_logprobs": 3, "return_token_ids": True, "prompt_logprobs": 1},
        {"return_tokens_as_token_ids": True},
        {"stop": "word", "return_token_ids": True, "logprobs": True, "tools": [{}]},
        {"stop": ["."], "stream": True, "return_token_ids": True},
        {"stop": "word", "stream": True, "logprobs": True},
        {"stop": "word", "stream": True, "return_token_ids": True, "include_stop_str_in_output": True},
        {"chat_template_kwargs": {"enable_thinking": False, "reasoning_effort": "low", "budget": 3}},
        {"chat_template_kwargs": None, "documents": None, "chat_template": None, "kv_transfer_params": None},
        {"kv_transfer_params": {"do_remote_decode": True}},
        {"truncate_prompt_tokens": 9},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}, "plain"]}]},
        {"messages": [{"role": "assistant", "content": [{"type": "thinking", "thinking": "…"}]}]},
        {"messages": "not a list"},
        {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "none"},
        {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a+"}, "stop": ["x"]},
    ],
)
def test_ordinary_fields_hide_nothing(fields: dict[str, Any]) -> None:
    assert field_problem(body(**fields), ALL) is None


def test_every_hidden_surface_is_listed_for_coverage() -> None:
    request = body(include_reasoning=False, chat_template="x")
    assert [problem.param for problem in hidden(request)] == ["include_reasoning", "chat_template"]


def test_the_message_of_a_rule_reads_as_a_sentence() -> None:
    for rule in RULES:
        assert rule.hides
        assert not rule.why.endswith(".")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    sorted({rule.param for rule in RULES if "[" not in rule.param} | {"messages", "truncate_prompt_tokens", "logprobs"})
)


@given(st.dictionaries(NAMES, JSON | st.dictionaries(st.just("reasoning_effort"), JSON), max_size=5))
def test_any_value_of_any_field_is_judged_without_an_error(fields: dict[str, Any]) -> None:
    problems = list(hidden(fields))
    assert field_problem(fields, ALL) == (problems[0] if problems else None)


@pytest.mark.parametrize(
    "rule", [rule for dialect in DIALECTS.values() for rule in dialect.fields], ids=lambda rule: rule.param
)
def test_a_rule_needs_the_field_that_it_is_named_for(rule: FieldRule) -> None:
    """By that it is passed over for requests that do not have the field."""
    plain = {"messages": [{"role": "tool", "content": "ok", "name": "ls", "tool_call_id": "a"}]}

    assert not rule.applies({})
    if rule.param.startswith("messages[]"):
        assert not rule.applies(plain)


def test_what_a_message_has_beside_its_text_is_looked_at() -> None:
    plain = {"role": "user", "content": "hello"}

    assert [problem.param for problem in hidden({"messages": [plain, plain]})] == []
    assert [problem.param for problem in hidden({"messages": [plain, {**plain, "task": "x"}]})] == ["messages[].task"]
