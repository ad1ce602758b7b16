"""On a real vLLM: how answers flow through Interlock, and that SDKs run their tool loops.

That every answer is the same through Interlock as direct, ``test_contract_command.py`` shows on the whole matrix.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest
import pytest_asyncio

from serving.tiny.harness import Harness
from serving.tiny.scripts import COUNT, REPAIR
from tests.support.interlock import port_of, running
from tests.support.servers import VllmServer
from tests.support.tap import Tap, tapped
from tests.support.vllm_requests import chat
from tests.support.wire import parse

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]


@dataclass
class Stage:
    """A tap before vLLM, and Interlock with no settings."""

    tap: Tap
    port: int


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(vllm_server: VllmServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    state: Path = tmp_path_factory.mktemp("contract")
    async with (
        tapped(vllm_server.port) as tap,
        running(tap.url, state / "enforcing") as enforcing,
    ):
        yield Stage(tap, port_of(enforcing))


async def test_a_stream_arrives_event_by_event(stage: Stage) -> None:
    """The tap hands an event on only when the client has the one before it: whoever kept one back would wait
    for ever."""
    arrived = asyncio.Condition()
    handed_on = received = 0

    async def step(piece: bytes) -> None:
        nonlocal handed_on
        handed_on += piece.count(b"\n\n\r\n")
        async with asyncio.timeout(30), arrived:
            await arrived.wait_for(lambda: received >= handed_on)

    request = chat(Harness(COUNT).request(stream=True, stream_options={"include_usage": True}))
    stage.tap.step = step
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", stage.port)
        writer.write(request)
        raw = b""
        async with asyncio.timeout(120):
            while data := await reader.read(65536):
                raw += data
                async with arrived:
                    received = raw.count(b"\n\n\r\n")
                    arrived.notify_all()
        writer.close()
    finally:
        stage.tap.step = None
    assert parse(raw).body == stage.tap.last.response.body
    assert received == handed_on > 40


async def test_a_client_that_goes_away_is_gone_for_vllm_too(stage: Stage) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", stage.port)
    writer.write(chat(Harness(COUNT).request(stream=True, ignore_eos=True, max_tokens=1900)))
    await reader.readuntil(b"\n\n\r\n")
    passed = stage.tap.last
    writer.transport.abort()
    async with asyncio.timeout(30):
        while not passed.gone:  # noqa: ASYNC110 - another server's socket is what is waited for
            await asyncio.sleep(0.01)
    assert not passed.response.whole


def tool_loop_is_right(messages: list[dict[str, object]]) -> None:
    assert [message["role"] for message in messages] == ["user", *["assistant", "tool"] * 4, "assistant"]
    assert messages[-1]["content"] == f"\n\n{REPAIR.turns[-1].text}"


async def test_the_asynchronous_sdk_runs_a_whole_tool_loop(stage: Stage) -> None:
    harness = Harness(REPAIR)
    async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{stage.port}/v1", api_key="x") as client:
        while not harness.done:
            answer = await client.chat.completions.create(**harness.request())
            harness.take(answer.choices[0].message.model_dump(exclude_none=True))
    tool_loop_is_right(harness.messages)


async def test_the_synchronous_sdk_runs_a_whole_tool_loop_streamed(stage: Stage) -> None:
    harness = Harness(REPAIR)

    def loop() -> None:
        with openai.OpenAI(base_url=f"http://127.0.0.1:{stage.port}/v1", api_key="x") as client:
            while not harness.done:
                with client.chat.completions.stream(**harness.request()) as stream:
                    for _ in stream:
                        pass
                    message = stream.get_final_completion().choices[0].message
                harness.take(message.model_dump(exclude_none=True, exclude={"parsed"}))

    await asyncio.to_thread(loop)
    tool_loop_is_right(harness.messages)
