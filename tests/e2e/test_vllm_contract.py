"""On a real vLLM: what no policy touched is the same through Interlock as direct, request and answer.

Each request is sent to vLLM directly and through Interlock, one after the other, at temperature 0 or seeded. A tap
between Interlock and vLLM shows besides what vLLM said in that very exchange: there, nothing is masked at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest
import pytest_asyncio

from serving.tiny.harness import Harness
from serving.tiny.scripts import COUNT, REPAIR
from tests.support.interlock import port_of, running
from tests.support.masked import by_choice, events, headers, joined, masked, masked_event
from tests.support.raw import send
from tests.support.servers import VllmServer
from tests.support.tap import Tap, tapped
from tests.support.vllm_requests import ASKS, Ask, chat
from tests.support.wire import Message, parse

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]

PAIRS = 12
"""How often a pair is asked for at most. A busy vLLM now and then puts two tokens into one event; such a pair shows
nothing about Interlock, and is asked for again. Any other difference fails at once."""

RECORDING = dict.fromkeys(("interlock.shell", "interlock.secrets"), "shadow")


@dataclass
class Stage:
    """vLLM, a tap before it, and Interlock with no settings (``port``) and where policies only record."""

    vllm_port: int
    tap: Tap
    port: int
    recording_port: int


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(vllm_server: VllmServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    state: Path = tmp_path_factory.mktemp("contract")
    async with (
        tapped(vllm_server.port) as tap,
        running(tap.url, state / "enforcing") as enforcing,
        running(tap.url, state / "recording", policies={"modes": RECORDING}) as recording,
    ):
        yield Stage(vllm_server.port, tap, port_of(enforcing), port_of(recording))


@pytest.mark.parametrize("ask", ASKS, ids=lambda ask: ask.name)
async def test_it_is_the_same_through_interlock_as_direct(ask: Ask, stage: Stage) -> None:
    for _ in range(PAIRS):
        direct = parse(await send(stage.vllm_port, ask.raw))
        before = len(stage.tap.exchanges)
        through = parse(await send(stage.recording_port if ask.hides else stage.port, ask.raw))
        assert len(stage.tap.exchanges) == before + 1, f"vLLM was not asked; the client got {through.body[:300]!r}"
        arrives_unchanged(parse(ask.raw), stage.tap.last.request)
        is_what_vllm_said(stage.tap.last.response, through)
        assert fails(direct) is ask.error, direct.start
        assert through.start == direct.start
        assert headers(through) == headers(direct)
        if comparable(through, ask.masks) == comparable(direct, ask.masks):
            break
        if not only_cut_otherwise(direct, through):
            assert comparable(through, ask.masks) == comparable(direct, ask.masks)
    else:
        pytest.fail("vLLM cut no two answers alike")


def arrives_unchanged(sent: Message, arrived: Message) -> None:
    """The request at vLLM is the client's, byte for byte but for hop-by-hop headers."""
    assert arrived.start == sent.start
    framing = ["content-length"] if sent.chunked else []
    assert arrived.multiset(*framing) == sent.multiset(*framing)
    assert arrived.body == sent.body


def is_what_vllm_said(said: Message, given: Message) -> None:
    assert given.start == said.start
    assert given.multiset() == said.multiset()
    assert given.whole == said.whole
    if given.body != said.body:  # while a call of one choice is judged, another choice may overtake it
        assert streams(said)
        assert len(by_choice(said.body)) > 2
        assert by_choice(given.body, {}) == by_choice(said.body, {})


def streams(answer: Message) -> bool:
    return (answer.header("content-type") or "").startswith("text/event-stream")


def fails(answer: Message) -> bool:
    """By its status, or, where vLLM had begun to stream, by an error in its stream."""
    return not answer.start.startswith("HTTP/1.1 2") or b'data: {"error"' in answer.body


def only_cut_otherwise(one: Message, other: Message) -> bool:
    """Whether two streams say the same and only have their tokens in other events."""
    return streams(one) and streams(other) and joined(one.body) == joined(other.body)


def comparable(answer: Message, masks: Mapping[str, str]) -> object:
    """The body with the listed values masked; of several choices, the events of each in their order."""
    if not streams(answer):
        return masked(answer.body, masks) if answer.body.startswith(b"{") else answer.body
    choices = by_choice(answer.body, masks)
    if len(choices) > 2:
        return choices
    return [masked_event(event, masks) for event in events(answer.body)]


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
