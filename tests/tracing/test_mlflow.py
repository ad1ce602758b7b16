"""What MLflow's own client reads back of an exchange, from a real MLflow server."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags

from tests.support import servers
from tests.support.mlflow_reader import parts, span, traces
from tests.support.processes import Server, free_port
from tests.tracing.exchanges import MS, refused, span_id, trace_id, whole
from tracing.exporter import Exporter, ExporterSettings, MlflowTarget
from tracing.journal import Journal
from tracing.records import AnyRecord
from tracing.sinks import MlflowSink, SinkAway

pytestmark = pytest.mark.mlflow


async def append(state: Path, *records: list[AnyRecord]) -> None:
    journal = Journal.open(state, instance="one")
    for exchange in records:
        for record in exchange:
            last = journal.append(record)
    await journal.commit(last)
    journal.close()


async def export(state: Path, url: str, experiment: str) -> None:
    """Run the exporter until its sink has taken everything."""
    target = MlflowTarget(url, experiment)
    exporter = Exporter(state, ExporterSettings(instance="one", version="test", mlflow=target))
    running = asyncio.create_task(exporter.run())
    await asyncio.sleep(0)
    exporter.stop()
    await running


def begin() -> int:
    """A little while ago: a new sink passes over what is old."""
    return time.time_ns() - 10_000 * MS


async def test_mlflow_reads_back_messages_reasoning_calls_usage_and_cost(
    mlflow_server: Server, mlflow_env: Path, tmp_path: Path
) -> None:
    await append(tmp_path, whole("plain", begin()), refused("refused", begin()))
    await export(tmp_path, mlflow_server.url, "read back")
    found = traces(mlflow_env, mlflow_server.url, "read back")
    trace = found[trace_id("plain")]
    chat = span(trace, "chat tiny")
    root = span(trace, "invoke_agent coder")

    assert (root["id"], root["parent"], root["type"]) == (span_id("plain"), None, "AGENT")
    assert (chat["id"], chat["parent"], chat["type"]) == (span_id("plainmodel"), root["id"], "CHAT_MODEL")
    assert parts(chat["inputs"], "text")[1]["content"] == "Clean the build folder."
    assert parts(chat["inputs"], "tool_call_response")[0]["response"] == "build src"
    assert parts(chat["outputs"], "reasoning")[0]["content"] == "The build folder can go; src must stay."
    assert parts(chat["outputs"], "tool_call")[0]["arguments"] == {"cmd": "make clean"}
    assert trace["usage"] == {
        "input_tokens": 347,
        "output_tokens": 45,
        "total_tokens": 392,
        "cache_read_input_tokens": 16,
    }
    assert trace["cost"] == {"input_cost": 0.0003, "output_cost": 0.0002, "total_cost": 0.0005}
    assert trace["state"] == "OK"
    assert "Clean the build folder." in trace["request_preview"]
    assert "Cleaning up." in trace["response_preview"]
    assert trace["metadata"]["mlflow.trace.session"] == "run-1"
    assert trace["tags"]["interlock.outcome"] == "denied"
    assert trace["tags"]["interlock.rule"] == "interlock.shell/destructive"

    calls = [one for one in trace["spans"] if one["type"] == "TOOL"]
    assert [(one["attributes"]["interlock.call.outcome"], one["status"]) for one in calls] == [
        ("allowed", "UNSET"),
        ("denied", "ERROR"),
    ]
    assert {one["name"] for one in trace["spans"] if one["type"] == "GUARDRAIL"} == {
        "policy request",
        "policy tool_call",
        "check nemo",
    }
    refusal = found[trace_id("refused")]
    assert [one["name"] for one in refusal["spans"]] == ["invoke_agent coder"]
    assert refusal["tags"]["interlock.rule"] == "interlock.tools/not_allowed"


def vllm_span(name: str) -> ReadableSpan:
    """The span that vLLM reports of a request that came with our traceparent."""

    def context(span: str) -> SpanContext:
        return SpanContext(int(trace_id(name), 16), int(span, 16), True, TraceFlags(TraceFlags.SAMPLED))

    return ReadableSpan(
        name="llm_request",
        context=context(span_id(name + "vllm")),
        parent=context(span_id(name + "model")),
        resource=Resource({"service.name": "unknown_service:python"}),
        attributes={"gen_ai.usage.prompt_tokens": 347, "gen_ai.usage.completion_tokens": 45},
        kind=SpanKind.SERVER,
        start_time=begin(),
        end_time=begin() + MS,
    )


async def test_with_a_callers_traceparent_the_spans_join_its_trace(
    mlflow_server: Server, mlflow_env: Path, tmp_path: Path
) -> None:
    """vLLM's own span, as it exports it, is there already, and its tokens are not counted twice."""
    caller = span_id("caller")
    await append(tmp_path, whole("joined", begin(), parent_id=caller))
    async with aiohttp.ClientSession() as session:
        await MlflowSink(session, mlflow_server.url, "joined", None).send([vllm_span("joined")])
    await export(tmp_path, mlflow_server.url, "joined")
    trace = traces(mlflow_env, mlflow_server.url, "joined")[trace_id("joined")]
    assert span(trace, "llm_request")["parent"] == span_id("joinedmodel")
    assert span(trace, "invoke_agent coder")["parent"] == caller
    chat = span(trace, "chat tiny")
    assert parts(chat["outputs"], "reasoning")
    assert parts(chat["outputs"], "tool_call")
    assert trace["usage"]["total_tokens"] == 392
    assert trace["cost"]["total_cost"] == 0.0005
    assert trace["metadata"]["mlflow.trace.session"] == "run-1"


async def test_an_mlflow_that_is_down_gets_its_traces_when_it_is_back(mlflow_env: Path, tmp_path: Path) -> None:
    port = free_port()
    folder = tmp_path / "mlflow"
    folder.mkdir()
    state = tmp_path / "state"
    await append(state, whole("while down", begin()))
    target = MlflowTarget(f"http://127.0.0.1:{port}", "down")
    exporter = Exporter(state, ExporterSettings(mlflow=target))
    running = asyncio.create_task(exporter.run())
    try:
        await until(lambda: sink(state)["away"] == "ClientConnectorError")
        with servers.mlflow(mlflow_env, folder, port=port) as server:
            await until(lambda: sink(state)["delivered"] > 0)
            found = await asyncio.to_thread(traces, mlflow_env, server.url, "down")
    finally:
        exporter.stop()
        await running
    assert set(found) == {trace_id("while down")}


def sink(state: Path) -> dict[str, Any]:
    """How the exporter says that its MLflow sink does."""
    nothing = {"away": None, "delivered": 0}
    try:
        status = json.loads((state / "exporter" / "status.json").read_bytes())
    except FileNotFoundError:
        return nothing
    return next((dict(one) for name, one in status["sinks"].items() if name.startswith("mlflow")), nothing)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not condition():  # noqa: ASYNC110 - another process's file is all that there is to wait for
            await asyncio.sleep(0.2)


async def test_an_experiment_that_was_deleted_is_not_made_anew(mlflow_server: Server, tmp_path: Path) -> None:
    api = f"{mlflow_server.url}/api/2.0/mlflow/experiments"
    async with aiohttp.ClientSession() as session:
        sink = MlflowSink(session, mlflow_server.url, "gone", None)
        await sink.send([vllm_span("gone")])
        found = await session.get(f"{api}/get-by-name", params={"experiment_name": "gone"})
        number = (await found.json())["experiment"]["experiment_id"]
        await session.post(f"{api}/delete", json={"experiment_id": number})
        again = MlflowSink(session, mlflow_server.url, "gone", None)
        with pytest.raises(SinkAway, match="was deleted; restore it"):
            await again.send([vllm_span("gone")])
        await session.post(f"{api}/restore", json={"experiment_id": number})
        await again.send([vllm_span("gone")])
