"""On a real vLLM: ``/v1/messages`` through Interlock. What no policy touched is the same, byte for byte; the
destructive call never arrives; Anthropic's SDK runs its tool loops unchanged; a cut ends the answer for vLLM too.

A tap between Interlock and vLLM shows what vLLM said in the very exchange.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import anthropic
import pytest
import pytest_asyncio

from proxy.app import Interlock
from serving.tiny.dialogue import Script
from serving.tiny.scripts import (
    CANARY,
    COMPARE,
    COUNT,
    DISK,
    HELLO,
    REPAIR,
    SANDWICH_FIRST,
    SANDWICH_LAST,
    SANDWICH_MIDDLE,
    WEATHER,
)
from tests.support.chat import Read
from tests.support.events import events
from tests.support.interlock import port_of, running
from tests.support.messages import MessagesHarness, blocks_of
from tests.support.raw import send
from tests.support.served import metric_sum, until
from tests.support.servers import VllmServer
from tests.support.tap import Tap, tapped
from tests.support.vllm_requests import http
from tests.support.wire import Message, parse

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]

PATH = "/v1/messages"
PLACES = (SANDWICH_FIRST, SANDWICH_MIDDLE, SANDWICH_LAST, DISK)
PAIRS = 12
"""How often a pair is asked for at most, until vLLM groups its tokens into events alike in both."""


@dataclass
class Stage:
    vllm: VllmServer
    tap: Tap
    interlock: Interlock

    @property
    def port(self) -> int:
        return port_of(self.interlock)

    def sdk(self) -> anthropic.AsyncAnthropic:
        return anthropic.AsyncAnthropic(base_url=f"http://127.0.0.1:{self.port}", api_key="x", max_retries=0)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(vllm_server: VllmServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    state: Path = tmp_path_factory.mktemp("messages") / "state"
    async with tapped(vllm_server.port) as tap, running(tap.url, state) as interlock:
        yield Stage(vllm_server, tap, interlock)


def post(body: dict[str, Any] | bytes, path: str = PATH) -> bytes:
    return http("POST", path, body if isinstance(body, bytes) else json.dumps(body).encode(), "anthropic-version: 2023")


def _first(script: Script, **fields: Any) -> dict[str, Any]:
    return MessagesHarness(script).request(**fields)


def _second(script: Script, **fields: Any) -> dict[str, Any]:
    """The request that brings the first turn's results."""
    harness, turn = MessagesHarness(script), script.turns[0]
    blocks: list[dict[str, Any]] = [{"type": "thinking", "thinking": turn.reasoning, "signature": "x"}]
    blocks += [
        {"type": "tool_use", "id": f"toolu_{i}", "name": call.name, "input": dict(call.arguments)}
        for i, call in enumerate(turn.calls)
    ]
    harness.take(blocks)
    return harness.request(**fields)


NAMED = {"type": "tool", "name": "get_weather"}
BODIES: dict[str, dict[str, Any]] = {
    "a greeting": _first(HELLO),
    "a system prompt": _first(HELLO, system=[{"type": "text", "text": "Be brief."}]),
    "a call": _first(WEATHER),
    "two calls": _first(COMPARE),
    "a tool's result": _second(WEATHER),
    "two results": _second(COMPARE),
    "a named tool": _first(WEATHER, tool_choice=NAMED),
    "any tool": _first(WEATHER, tool_choice={"type": "any"}),
    "no tool": _first(WEATHER, tool_choice={"type": "none"}),
    "one call at a time": _first(COMPARE, tool_choice={"type": "auto", "disable_parallel_tool_use": True}),
    "no thoughts": _first(HELLO, chat_template_kwargs={"enable_thinking": False}),
    "thinking disabled": _first(HELLO, thinking={"type": "disabled"}),
    "a stop sequence": _first(COUNT, stop_sequences=["12"]),
    "cut off in its thoughts": _first(HELLO, max_tokens=5),
    "cut off in a call": _first(WEATHER, max_tokens=38),
    "cut off in the second call": _first(COMPARE, max_tokens=58),
    "unknown fields": _first(HELLO, xyzzy=[1], metadata={"user_id": "u"}),
    "an unknown model": {**_first(HELLO), "model": "nope"},
    "no max_tokens": {k: v for k, v in _first(HELLO).items() if k != "max_tokens"},
    "a wrong role": {**_first(HELLO), "messages": [{"role": "tool", "content": "x"}]},
    "too long": {**_first(HELLO), "messages": [{"role": "user", "content": "hello world " * 1500}]},
}
ASKS = {f"{name}, streamed": {**body, "stream": True} for name, body in BODIES.items()} | BODIES
_MADE_ANEW = re.compile(rb'"(id|signature)":"(?:chatcmpl-(?:tool-)?[0-9a-f]{16}|[0-9a-f]{32})"')


def comparable(body: bytes) -> bytes:
    return _MADE_ANEW.sub(rb'"\1":<made anew>', body)


@pytest.mark.parametrize("name", ASKS)
async def test_it_is_the_same_through_interlock_as_direct(stage: Stage, name: str) -> None:
    raw = post(ASKS[name])
    for _ in range(PAIRS):
        direct = parse(await send(stage.vllm.port, raw, seconds=120))
        before = len(stage.tap.exchanges)
        through = parse(await send(stage.port, raw, seconds=120))
        assert len(stage.tap.exchanges) == before + 1, f"vLLM was not asked; the client got {through.body[:300]!r}"
        arrived, said = stage.tap.last.request, stage.tap.last.response
        assert (arrived.start, arrived.multiset(), arrived.body) == (
            parse(raw).start,
            parse(raw).multiset(),
            parse(raw).body,
        )
        assert (through.start, through.multiset(), through.body) == (said.start, said.multiset(), said.body)
        assert (through.start, through.multiset("date")) == (direct.start, direct.multiset("date"))
        if comparable(through.body) == comparable(direct.body):
            break
        assert through.body.startswith(b"event: ")
        assert len(events(through.body)) != len(events(direct.body)), "they differ in more than their grouping"
    else:
        pytest.fail("vLLM grouped no two answers alike")


def reads(answer: Message) -> Read:
    """What a client reads: streamed, or whole."""
    read = Read()
    if not answer.body.startswith(b"event: "):
        message = json.loads(answer.body)
        blocks, read.finish = message["content"], message["stop_reason"]
        for block in blocks:
            read.text += block.get("text", "")
            read.reasoning += block.get("thinking", "")
            if block["type"] == "tool_use":
                read.calls[len(read.calls)] = {"name": block["name"], "arguments": json.dumps(block["input"])}
        return read
    for event in events(answer.body):
        value = json.loads(event.partition(b"\ndata: ")[2])
        if value["type"] == "content_block_start" and value["content_block"]["type"] == "tool_use":
            read.calls[len(read.calls)] = {"name": value["content_block"]["name"], "arguments": ""}
        delta = value.get("delta", {})
        read.text += delta.get("text", "")
        read.reasoning += delta.get("thinking", "")
        read.finish = delta.get("stop_reason", read.finish)
        if "partial_json" in delta:
            read.calls[len(read.calls) - 1]["arguments"] += delta["partial_json"]
    return read


def lawful(script: Script) -> list[tuple[str, dict[str, Any]]]:
    return [(call.name, dict(call.arguments)) for call in script.turns[0].calls if not call.forbidden]


@pytest.mark.parametrize("script", PLACES, ids=lambda script: script.id)
@pytest.mark.parametrize("streamed", [True, False])
async def test_the_forbidden_call_never_arrives(stage: Stage, script: Script, streamed: bool) -> None:
    answer = parse(await send(stage.port, post(_first(script, stream=streamed)), seconds=120))
    assert answer.start == "HTTP/1.1 200 OK"
    assert CANARY in str(reads(stage.tap.last.response).calls), "vLLM itself did not show the canary"
    assert CANARY.encode() not in answer.body
    assert answer.whole
    read = reads(answer)
    assert read.reasoning.strip() == script.turns[0].reasoning
    assert "[run_shell]" in read.text
    assert "interlock.shell" in read.text
    calls = [(call["name"], json.loads(call["arguments"])) for _, call in sorted(read.calls.items())]
    assert calls == lawful(script)
    assert read.finish == ("tool_use" if lawful(script) else "end_turn")


@pytest.mark.parametrize("script", PLACES, ids=lambda script: script.id)
@pytest.mark.parametrize("streamed", [True, False])
async def test_the_sdk_goes_on_after_the_refusal_to_the_other_ending(
    stage: Stage, script: Script, streamed: bool
) -> None:
    harness = MessagesHarness(script)
    await _loop(stage, harness, streamed=streamed)
    assert harness.script.refused
    assert CANARY not in json.dumps(harness.messages)
    assert harness.messages[-1]["content"][-1]["text"].strip() == script.refused[-1].text


@pytest.mark.parametrize("streamed", [True, False])
async def test_the_sdk_runs_a_whole_tool_loop(stage: Stage, streamed: bool) -> None:
    harness = MessagesHarness(REPAIR)
    await _loop(stage, harness, streamed=streamed)
    assert [message["role"] for message in harness.messages] == ["user", *["assistant", "user"] * 4, "assistant"]
    assert harness.messages[-1]["content"][-1]["text"] == f"\n\n{REPAIR.turns[-1].text}"


def by_sdk(body: dict[str, Any]) -> dict[str, Any]:
    """The SDK knows no sampling fields any more; vLLM does."""
    body = dict(body)
    return {"extra_body": {"temperature": body.pop("temperature")}, **body}


async def _loop(stage: Stage, harness: MessagesHarness, *, streamed: bool) -> None:
    async with stage.sdk() as client:
        while not harness.done:
            if streamed:
                async with client.messages.stream(**by_sdk(harness.request())) as helper:
                    message = await helper.get_final_message()
            else:
                message = await client.messages.create(**by_sdk(harness.request()))
            harness.take(blocks_of(message))


async def test_counting_tokens_is_vllms(stage: Stage) -> None:
    body = {k: v for k, v in _first(WEATHER).items() if k in ("model", "messages", "tools")}
    raw = post(body, f"{PATH}/count_tokens")
    direct, through = [parse(await send(port, raw)) for port in (stage.vllm.port, stage.port)]
    assert through.body == direct.body
    assert json.loads(through.body)["input_tokens"] > 20


async def test_a_cut_ends_the_answer_for_vllm_too(vllm_server: VllmServer, tmp_path: Path) -> None:
    async def waits() -> bool:
        async with aiohttp.ClientSession() as session, session.get(f"{vllm_server.url}/metrics") as answer:
            return metric_sum(await answer.text(), "vllm:num_requests_running") == 0

    async def kill(url: str) -> None:
        async with aiohttp.ClientSession(headers={"Authorization": "Bearer operators-only"}) as admin:
            order = {"operator": "ann", "reason": "enough"}
            assert (await admin.post(f"{url}/v1/all/kill", json=order)).status == 200

    async def cut(url: str, stage: Stage) -> Any:
        async with stage.sdk() as client, client.messages.stream(**by_sdk(_first(COUNT))) as helper:
            deltas = 0
            async for event in helper:
                deltas += event.type == "content_block_delta"
                if deltas == 1 and event.type == "content_block_delta":
                    await kill(url)
            return await helper.get_final_message()

    listen = {"admin_token": "operators-only"}
    for attempt in range(5):  # vLLM may have said all of it before the order comes
        async with (
            tapped(vllm_server.port) as tap,
            running(tap.url, tmp_path / f"state{attempt}", listen=listen) as interlock,
        ):
            message = await cut(interlock.admin_url, Stage(vllm_server, tap, interlock))
            if tap.last.response.whole:
                continue
            await until(lambda: tap.last.gone, 10)
            await until(waits, 10)
            break
    else:
        pytest.fail("no answer was cut while it was made")
    assert message.stop_reason == "end_turn"
    assert message.content[-1].type == "text"
    assert "run_killed" in message.content[-1].text
    assert message.usage.output_tokens >= 1
