"""What MLflow's own client reads back of exchanges with a real vLLM: the content, the cost, and one whole tree.

vLLM reports its own spans to the tests' collector, which hands them on to MLflow with the experiment that MLflow
asks every sender for.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
import pytest_asyncio

from serving.tiny.dialogue import Script
from serving.tiny.harness import Harness
from serving.tiny.scripts import DISK, WEATHER
from tests.support.collector import Collector
from tests.support.interlock import port_of, running
from tests.support.mlflow_reader import parts, span, traces
from tests.support.processes import Server
from tests.support.servers import VllmServer
from tests.support.tap import tapped
from tracing.sinks import find_experiment

pytestmark = [pytest.mark.vllm, pytest.mark.mlflow, pytest.mark.asyncio(loop_scope="module")]

EXPERIMENT = "exchanges with vLLM"
PRICES = """
version: "2026-11 test"
models:
  - {match: tiny, input: 2.0, cached: 0.5, output: 8.0, reasoning: 10.0}
"""
CALLER = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"

Trace = dict[str, Any]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def told(
    vllm_server: VllmServer,
    vllm_spans: Collector,
    mlflow_server: Server,
    mlflow_env: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[dict[str, Trace]]:
    """Three exchanges, as MLflow's client has them."""
    folder: Path = tmp_path_factory.mktemp("mlflow-live")
    prices = folder / "prices.yaml"
    prices.write_text(PRICES)
    async with aiohttp.ClientSession() as session:
        experiment = await find_experiment(session, mlflow_server.url, EXPERIMENT, {})
    vllm_spans.hand_on(f"{mlflow_server.url}/v1/traces", {"x-mlflow-experiment-id": experiment})
    tracing = {"prices": str(prices), "mlflow": {"url": mlflow_server.url, "experiment": EXPERIMENT}}
    ids: dict[str, str] = {}
    try:
        async with tapped(vllm_server.port) as tap, running(tap.url, folder / "state", tracing=tracing) as interlock:
            base = f"http://127.0.0.1:{port_of(interlock)}/v1"
            async with openai.AsyncOpenAI(base_url=base, api_key="any", max_retries=0) as client:
                for name, script, headers in (
                    ("alone", WEATHER, {}),
                    ("joined", WEATHER, {"traceparent": CALLER}),
                    ("refused", DISK, {}),
                ):
                    await ask(client, script, headers)
                    ids[name] = (tap.last.request.header("traceparent") or "").split("-")[1]
            found = await until_whole(set(ids.values()), mlflow_env, mlflow_server.url)
    finally:
        vllm_spans.hand_on(None)
    yield {name: found[trace_id] for name, trace_id in ids.items()} | {"ids": ids}


async def ask(client: openai.AsyncOpenAI, script: Script, headers: dict[str, str]) -> None:
    """One streamed exchange with its usage."""
    body = Harness(script).request(stream=True, stream_options={"include_usage": True})
    async for _ in await client.chat.completions.create(**body, extra_headers=headers):
        pass


async def until_whole(wanted: set[str], lane: Path, url: str) -> dict[str, Trace]:
    """The traces, once each has our spans and vLLM's."""
    async with asyncio.timeout(240):
        while True:
            found = await asyncio.to_thread(traces, lane, url, EXPERIMENT)
            names = {trace_id: {one["name"] for one in trace["spans"]} for trace_id, trace in found.items()}
            if all({"chat tiny", "llm_request"} <= names.get(trace_id, set()) for trace_id in wanted):
                return found
            await asyncio.sleep(1)


WITH_AND_WITHOUT = pytest.mark.parametrize("name", ["alone", "joined"])


@WITH_AND_WITHOUT
async def test_the_content_is_read_back(told: dict[str, Trace], name: str) -> None:
    chat = span(told[name], "chat tiny")
    assert [part["content"] for part in parts(chat["inputs"], "text")] == [WEATHER.prompt]
    assert [part["content"].strip() for part in parts(chat["outputs"], "reasoning")] == [WEATHER.turns[0].reasoning]
    (call,) = parts(chat["outputs"], "tool_call")
    assert (call["name"], call["arguments"]) == ("get_weather", {"city": "Paris"})
    (tool,) = (one for one in told[name]["spans"] if one["type"] == "TOOL")
    assert tool["name"] == "execute_tool get_weather"
    assert tool["attributes"]["gen_ai.tool.call.arguments"] == {"city": "Paris"}


@WITH_AND_WITHOUT
async def test_the_usage_is_vllms_and_the_cost_is_the_price_books(told: dict[str, Trace], name: str) -> None:
    usage, cost = told[name]["usage"], told[name]["cost"]
    model = span(told[name], "llm_request")["attributes"]
    assert usage["input_tokens"] == model["gen_ai.usage.prompt_tokens"] > 0
    assert usage["output_tokens"] == model["gen_ai.usage.completion_tokens"] > 0
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    reasoning = span(told[name], "chat tiny")["attributes"]["gen_ai.usage.reasoning.output_tokens"]
    assert 0 < reasoning < usage["output_tokens"]
    spent = (usage["output_tokens"] - reasoning) * 8e-6 + reasoning * 10e-6
    assert cost["input_cost"] == pytest.approx(usage["input_tokens"] * 2e-6)
    assert cost["output_cost"] == pytest.approx(spent)
    assert cost["total_cost"] == pytest.approx(cost["input_cost"] + cost["output_cost"])


@pytest.mark.parametrize("name", ["alone", "joined", "refused"])
async def test_vllms_own_span_is_below_the_model_call(told: dict[str, Trace], name: str) -> None:
    root, chat = span(told[name], "invoke_agent anonymous"), span(told[name], "chat tiny")
    assert chat["parent"] == root["id"]
    assert span(told[name], "llm_request")["parent"] == chat["id"]


async def test_without_a_traceparent_the_trace_is_its_own(told: dict[str, Trace]) -> None:
    assert span(told["alone"], "invoke_agent anonymous")["parent"] is None
    assert told["ids"]["alone"] != told["ids"]["refused"]


async def test_with_a_traceparent_the_trace_is_the_callers(told: dict[str, Trace]) -> None:
    _, trace_id, parent, _ = CALLER.split("-")
    assert told["ids"]["joined"] == trace_id
    assert span(told["joined"], "invoke_agent anonymous")["parent"] == parent


async def test_a_refused_call_is_seen_as_refused_and_not_quoted(told: dict[str, Trace]) -> None:
    refused = told["refused"]
    (tool,) = (one for one in refused["spans"] if one["type"] == "TOOL")
    assert tool["attributes"]["interlock.call.outcome"] == "denied"
    assert tool["status"] == "ERROR"
    assert refused["tags"]["interlock.outcome"] == "denied"
    assert refused["tags"]["interlock.rule"].startswith("interlock.shell/")
    assert "policy tool_call" in {one["name"] for one in refused["spans"]}
