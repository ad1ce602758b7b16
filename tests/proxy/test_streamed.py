"""The loop that takes a streamed answer to the client: a verdict that comes while something else is awaited."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from typing import Any, cast

import pytest

from proxy.exchange import Exchange
from proxy.gate import Gate
from proxy.gated_choice import Answer, Question, TextQuestion
from proxy.runs import RunBook
from proxy.streamed import StreamedAnswer, UpstreamBroke
from proxy.trace_context import TraceContext
from serving.settings import BreakerSettings
from serving.wire.chat import Chat
from serving.wire.dialect import Coerced, UpstreamRefuses
from tests.support.chat import Call, Say, read_stream, stream
from tests.support.nobody import NOBODY

LOOK = Call("get_weather", '{"city": "Oslo"}')
SHUT = "Stopped by rule test/cut."
_TRACE = TraceContext("0" * 32, "0" * 16, "0" * 16, "", True, "")


class Upstream:
    """What the model server sends: each piece is one read."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = [*pieces]

    async def readany(self) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""


class Client:
    """Takes what it is given; after every write it lets the others work for ``turns`` turns of the loop."""

    def __init__(self, turns: int) -> None:
        self.got = b""
        self._turns = turns

    def give(self, data: bytes) -> bool:
        self.got += data
        return not self._turns

    async def drained(self) -> None:
        for _ in range(self._turns):
            await asyncio.sleep(0)


def exchange() -> Exchange:
    dialect = Chat()
    view = dialect.request({"model": "tiny", "messages": [{"role": "user", "content": "Hi."}], "stream": True})
    assert not isinstance(view, Coerced | UpstreamRefuses)
    sighting = RunBook(BreakerSettings(), lambda: 0.0, lambda: "run", b"key").identify("a", view, None)
    return Exchange("x", "a", None, None, NOBODY, dialect, view, sighting, _TRACE, 0, 0)


async def run(
    pieces: Sequence[bytes],
    answer: Answer,
    *,
    turns: int = 0,
    verdict_turns: int = 0,
    request_bytes: int = 0,
    **gate: Any,
) -> bytes:
    """What the client is given where every question gets ``answer`` after ``verdict_turns`` turns."""
    x = exchange()
    x.request_bytes = request_bytes
    reader, writer = x.dialect.stream(x.request)

    async def judge(_x: Exchange, _question: Question | TextQuestion) -> Answer:
        for _ in range(verdict_turns):
            await asyncio.sleep(0)
        return answer

    client = Client(turns)
    flow = StreamedAnswer(
        x,
        reader,
        Gate(writer, **gate),
        judge=judge,
        extend=None,
        ended=lambda _number: None,
        unjudged_passes=False,
        limit=1 << 20,
    )
    async with asyncio.timeout(5):
        await flow.run(cast(Any, Upstream(pieces)), client)
    return client.got


@pytest.mark.parametrize("turns", [0, 3, 30])
@pytest.mark.parametrize("verdict_turns", [0, 1, 2, 5, 20])
async def test_a_cut_reaches_a_client_that_is_slow_to_take_what_came_before(turns: int, verdict_turns: int) -> None:
    events = stream(Say(text="word " * 60), Say(calls=(LOOK,)), usage=False)
    got = await run([*events], Answer(SHUT, cut=True), turns=turns, verdict_turns=verdict_turns)
    assert got.endswith(b"data: [DONE]\n\n")
    assert read_stream(got)[1].text.endswith(SHUT)


async def test_an_answer_that_ends_inside_a_held_call_is_broken_off() -> None:
    events = stream(Say(calls=(LOOK,)), usage=False)
    with pytest.raises(UpstreamBroke):
        await run(events[:-3], Answer())


def chunk(text: str) -> bytes:
    return stream(Say(text="x"), usage=False)[1].replace(b'"content":"x"', b'"content":' + json.dumps(text).encode())


@pytest.mark.parametrize(
    "call",
    [
        '<tool_call>{"name": "get_weather", "arguments": {"city": "Oslo"}}</tool_call>',
        '<|python_tag|>get_weather.call(city="Oslo")<|eom_id|>',
        "<tool_call>get_weather<arg_key>city</arg_key><arg_value>Oslo</arg_value></tool_call>",
        "[get_weather(city='Oslo')]",
    ],
)
@pytest.mark.parametrize("apart", [False, True])
async def test_a_whole_call_in_plain_text_waits_though_it_comes_in_one_read(call: str, apart: bool) -> None:
    first, *_, stop, done = stream(Say(text="x"), usage=False)
    said = [chunk(piece) for piece in re.findall("[a-z]+|.", call)] if apart else [chunk(call)]
    read = b"".join([*said, chunk(" and more"), stop, done])
    given = {"offered": frozenset({"get_weather"})}
    got = read_stream(await run([first + chunk("a"), read], Answer(SHUT, cut=True), verdict_turns=2, **given))[0].text
    assert got.endswith(SHUT) and "more" not in got
    assert "Oslo'" + ")" not in got and "</" not in got and "_id" not in got
    passed = await run([first + chunk("a"), read], Answer(), verdict_turns=2, **given)
    assert passed == first + chunk("a") + read


@pytest.mark.parametrize(("asked", "passes"), [(0, False), (2_000_000, True)])
async def test_an_event_may_be_as_long_as_what_it_repeats(asked: int, passes: bool) -> None:
    first, *_, stop, done = stream(Say(text="x"), usage=False)
    long = first.replace(b"{", b'{"instructions":"' + b"word " * 400_000 + b'",', 1)
    pieces = [long[:1_500_000], long[1_500_000:], stop, done]
    got = await run(pieces, Answer(), request_bytes=asked)
    assert (got == b"".join(pieces)) is passes
    assert passes or b"too large to judge" in got
