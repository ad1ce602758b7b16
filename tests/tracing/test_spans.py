"""The span tree of an exchange, and messages in the GenAI form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from tests.tracing.exchanges import (
    BEGIN,
    MESSAGES,
    MS,
    TOOLS,
    checked,
    opened,
    refused,
    settled,
    span_id,
    trace_id,
    whole,
)
from tracing.exchange import Exchange
from tracing.genai import input_messages, output_messages, tool_definitions
from tracing.records import AnyRecord
from tracing.spans import late_check_span, resource, spans_of

SOURCE = resource("one", "test")


def exchange(records: Sequence[AnyRecord]) -> Exchange:
    made = Exchange(records[0].exchange)
    for record in records:
        made.add(record)
    return made


def by_name(records: Sequence[AnyRecord], *, mlflow: bool = False) -> dict[str, ReadableSpan]:
    return {span.name: span for span in spans_of(exchange(records), SOURCE, mlflow=mlflow)}


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_the_tree_has_the_model_call_the_decisions_the_checks_and_the_calls() -> None:
    spans = spans_of(exchange(whole("x1")), SOURCE)
    assert [(span.name, span.kind) for span in spans] == [
        ("invoke_agent coder", SpanKind.SERVER),
        ("chat tiny", SpanKind.CLIENT),
        ("policy request", SpanKind.INTERNAL),
        ("policy tool_call", SpanKind.INTERNAL),
        ("check nemo", SpanKind.INTERNAL),
        ("execute_tool shell", SpanKind.INTERNAL),
        ("execute_tool shell", SpanKind.INTERNAL),
    ]
    root = spans[0]
    assert root.context is not None
    assert f"{root.context.trace_id:032x}" == trace_id("x1")
    assert {span.parent.span_id for span in spans[1:] if span.parent} == {int(span_id("x1"), 16)}
    assert root.parent is None
    assert len({span.context.span_id for span in spans if span.context}) == 7


def test_a_callers_span_is_the_parent_of_the_root() -> None:
    root = spans_of(exchange(whole("x1", parent_id="00f067aa0ba902b7")), SOURCE)[0]
    assert root.parent is not None
    assert (root.parent.span_id, root.parent.is_remote) == (0x00F067AA0BA902B7, True)


def test_the_same_records_give_the_same_ids() -> None:
    first, second = (spans_of(exchange(whole("x1")), SOURCE) for _ in range(2))
    assert [span.context for span in first] == [span.context for span in second]


def test_the_model_call_has_the_attributes_of_the_conventions() -> None:
    chat = attributes(by_name(whole("x1"))["chat tiny"])
    assert json.loads(chat.pop("gen_ai.input.messages"))[1]["parts"] == [
        {"type": "text", "content": "Clean the build folder."}
    ]
    assert json.loads(chat.pop("gen_ai.output.messages"))[0]["finish_reason"] == "tool_calls"
    assert json.loads(chat.pop("gen_ai.tool.definitions"))[0]["name"] == "shell"
    assert chat == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.agent.name": "coder",
        "gen_ai.conversation.id": "run-1",
        "gen_ai.request.model": "tiny",
        "gen_ai.request.stream": True,
        "gen_ai.request.temperature": 0.0,
        "gen_ai.request.max_tokens": 256,
        "gen_ai.request.seed": 7,
        "gen_ai.request.stop_sequences": ["END"],
        "gen_ai.response.id": "chatcmpl-x1",
        "gen_ai.response.model": "tiny",
        "gen_ai.response.finish_reasons": ["tool_calls"],
        "gen_ai.response.time_to_first_chunk": 0.01,
        "gen_ai.usage.input_tokens": 347,
        "gen_ai.usage.output_tokens": 45,
        "gen_ai.usage.cache_read.input_tokens": 16,
        "gen_ai.usage.reasoning.output_tokens": 12,
        "interlock.exchange": "x1",
        "interlock.cost.usd": 0.0005,
        "interlock.cost.book": "test-1",
    }


def test_the_times_are_the_journals() -> None:
    spans = by_name(whole("x1"))
    root, chat, decision = spans["invoke_agent coder"], spans["chat tiny"], spans["policy tool_call"]
    assert (root.start_time, root.end_time) == (BEGIN, BEGIN + 100 * MS)
    assert (chat.start_time, chat.end_time) == (BEGIN + 2 * MS, BEGIN + 90 * MS)
    assert (decision.start_time, decision.end_time) == (BEGIN + 80 * MS - 180_000, BEGIN + 80 * MS)


def test_a_decision_says_who_was_asked_what_fired_and_under_which_digests() -> None:
    decision = attributes(by_name(whole("x1"))["policy tool_call"])
    assert decision["interlock.policy.action"] == "deny"
    assert decision["interlock.policy.rule"] == "interlock.shell/destructive"
    assert decision["interlock.policy.asked"] == ["interlock.shell", "interlock.secrets"]
    assert decision["interlock.policy.findings"] == ["interlock.shell/destructive enforce deny"]
    assert decision["interlock.policy.bundle"] == "b" * 64


def test_a_blocked_call_is_marked_and_an_allowed_one_is_not() -> None:
    calls = [span for span in spans_of(exchange(whole("x1")), SOURCE) if span.name.startswith("execute_tool")]
    assert [(attributes(span)["interlock.call.blocked"], span.status.status_code) for span in calls] == [
        (False, StatusCode.UNSET),
        (True, StatusCode.ERROR),
    ]
    assert attributes(calls[1])["interlock.call.rule"] == "interlock.shell/destructive"


def test_a_call_that_was_not_held_has_a_span_too() -> None:
    calls = [span for span in spans_of(exchange([opened("x1"), settled("x1")]), SOURCE) if "execute" in span.name]
    assert [attributes(span)["gen_ai.tool.call.id"] for span in calls] == ["call-1", "call-2"]


def test_a_failed_check_is_an_error_and_a_block_is_a_verdict() -> None:
    for status, code in (("blocked", StatusCode.UNSET), ("timeout", StatusCode.ERROR), ("dropped", StatusCode.ERROR)):
        records: list[AnyRecord] = [opened("x1"), checked("x1", status=status), settled("x1")]
        assert by_name(records)["check nemo"].status.status_code is code


def test_what_a_model_found_as_a_check_has_its_score_and_its_tokens() -> None:
    asked = checked("x1", check="llm", status="blocked", tokens=420, score=0.0)
    found = attributes(by_name([opened("x1"), asked, checked("x1"), settled("x1")])["check llm"])
    assert (found["interlock.check.tokens"], found["interlock.check.score"]) == (420, 0.0)
    rails = attributes(by_name([opened("x1"), checked("x1"), settled("x1")])["check nemo"])
    assert not {"interlock.check.tokens", "interlock.check.score"} & set(rails)


def test_a_refused_exchange_has_no_model_call_and_says_why() -> None:
    (root,) = spans_of(exchange(refused("x1")), SOURCE)
    assert attributes(root)["error.type"] == "policy_denied"
    assert attributes(root)["interlock.rule"] == "interlock.tools/not_allowed"
    assert attributes(root)["interlock.denied"] is True


@pytest.mark.parametrize("ending", ["upstream_failed", "interrupted"])
def test_a_broken_exchange_is_an_error(ending: str) -> None:
    root = spans_of(exchange([opened("x1"), settled("x1", ending=ending)]), SOURCE)[0]
    assert root.status.status_code is StatusCode.ERROR
    assert attributes(root)["error.type"] == ending


def test_an_unsampled_exchange_has_no_spans() -> None:
    assert spans_of(exchange(whole("x1", traced=False)), SOURCE) == []
    assert late_check_span(checked("x1", traced=False), SOURCE) is None


def test_an_exchange_without_an_end_has_no_spans() -> None:
    assert spans_of(exchange([opened("x1")]), SOURCE) == []


def test_an_unknown_cost_is_left_out_and_not_zero() -> None:
    chat = attributes(
        by_name([opened("x1"), settled("x1", cost={"known": False, "book": "b"})], mlflow=True)["chat tiny"]
    )
    assert not [name for name in chat if "cost" in name]


def test_for_mlflow_the_root_has_messages_and_tags_and_the_model_call_its_cost() -> None:
    spans = by_name(whole("x1"), mlflow=True)
    root, chat = attributes(spans["invoke_agent coder"]), attributes(spans["chat tiny"])
    assert root["gen_ai.input.messages"] == chat["gen_ai.input.messages"]
    assert root["mlflow.traceTag.interlock.outcome"] == "denied"
    assert json.loads(chat["mlflow.llm.cost"]) == {"input_cost": 0.0003, "output_cost": 0.0002, "total_cost": 0.0005}


def test_messages_take_the_form_of_the_conventions() -> None:
    assert input_messages(MESSAGES) == [
        {"role": "system", "parts": [{"type": "text", "content": "You fix repositories."}]},
        {"role": "user", "parts": [{"type": "text", "content": "Clean the build folder."}]},
        {
            "role": "assistant",
            "parts": [
                {"type": "reasoning", "content": "I should look first."},
                {"type": "tool_call", "id": "call-0", "name": "ls", "arguments": {"path": "."}},
            ],
        },
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "call-0", "response": "build src"}]},
    ]
    assert tool_definitions(TOOLS) == [
        {"type": "function", "name": "shell", "description": "Runs a command.", "parameters": {"type": "object"}}
    ]


@pytest.mark.parametrize("odd", [None, 7, "text", ["a"], {}, {"role": 5, "content": 7}, {"content": [None, 3]}])
def test_messages_of_any_shape_are_carried_and_not_choked_on(odd: Any) -> None:
    json.dumps(input_messages([odd]))
    json.dumps(output_messages([odd]))
    json.dumps(tool_definitions([odd]))


def test_arguments_that_are_no_json_stay_text() -> None:
    (message,) = output_messages(
        [{"tool_calls": [{"id": "c", "name": "f", "arguments": '{"a": '}], "finish_reason": "length"}]
    )
    assert message["parts"] == [{"type": "tool_call", "id": "c", "name": "f", "arguments": '{"a": '}]
