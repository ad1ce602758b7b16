"""The body of a streamed answer on its way through: what comes is given on in the turn in which it comes, however the
connection cuts it, and whatever took the short way is known to all before anybody asks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.exchange import Exchange
from proxy.flow import Answering, Content, Outlet
from proxy.gate import Gate
from proxy.gated_choice import Answer, Question, TextQuestion
from proxy.streamed import Killed, StreamedAnswer, UpstreamBroke
from tests.proxy.test_streamed import exchange
from tests.support.chat import read_stream

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_LAST = b"0\r\n\r\n"
_DONE = b"data: [DONE]\n\n"
_OFFERED = frozenset({"look"})


class Wire:
    """A transport that keeps what is written, and whether reading is paused."""

    def __init__(self) -> None:
        self.got = b""
        self.reads = True
        self.closing = False

    def write(self, data: bytes) -> None:
        self.got += data

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def close(self) -> None:
        self.closing = True

    def get_extra_info(self, _name: str) -> None:
        return None


class ClientSide:
    """What of a request's protocol and writer the way out touches."""

    def __init__(self) -> None:
        self.wire = self.transport = Wire()
        self.protocol = self.writer = self
        self.chunked = True
        self._paused = False
        self._goes_on = asyncio.Event()
        self._goes_on.set()

    def stop(self) -> None:
        self._paused = True
        self._goes_on.clear()

    def go_on(self) -> None:
        self._paused = False
        self._goes_on.set()

    async def drain(self) -> None:
        await self._goes_on.wait()


class Through:
    """One answer between two connections. ``arrives`` is one read from the model server."""

    def __init__(self, *, lane: bool = True, verdict: Answer | None = None, x: Exchange | None = None) -> None:
        self.x = x or exchange()
        self.server, self.client = Wire(), ClientSide()
        self.connection = Answering(loop=asyncio.get_running_loop())
        self.connection.connection_made(cast(Any, self.server))
        self.connection.set_response_params(read_until_eof=True, auto_decompress=False, read_bufsize=16 * 1024)
        self.connection.data_received(_HEAD)
        answer = cast(Any, type("Answer", (), {})())
        ((_message, answer.content), _size) = cast(Any, self.connection._buffer.popleft())
        Content.of(answer)
        self.content: aiohttp.StreamReader = answer.content
        reader, writer = self.x.dialect.stream(self.x.request)
        self.gate = Gate(writer, offered=_OFFERED)
        self.fed = 0
        feed = self.gate.feed

        def counted(event: Any) -> None:
            self.fed += 1
            feed(event)

        cast(Any, self.gate).feed = counted

        async def judge(_x: Exchange, _question: Question | TextQuestion) -> Answer:
            await asyncio.sleep(0)
            return verdict or Answer()

        self.flow = StreamedAnswer(
            self.x,
            reader,
            self.gate,
            judge=judge,
            extend=None,
            ended=lambda _number: None,
            unjudged_passes=False,
            limit=1 << 20,
        )
        if not lane:
            self.flow._frames = None
        self.task = asyncio.ensure_future(self.flow.run(self.content, Outlet(cast(Any, self.client))))

    def arrives(self, data: bytes) -> None:
        if data:
            self.connection.data_received(data)

    async def over(self) -> None:
        """The answer has ended as it was to end."""
        async with asyncio.timeout(5):
            await self.task

    @property
    def body(self) -> bytes:
        """What the client has by now."""
        rest, parts = self.client.wire.got, []
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            parts.append(rest[: int(size, 16)])
            assert rest[int(size, 16) :][:2] == b"\r\n"
            rest = rest[int(size, 16) + 2 :]
        return b"".join(parts)

    @property
    def seen(self) -> Any:
        seen = self.x.seen
        choices = {n: (c.said, c.thought, c.finish, c.tokens, c.calls) for n, c in seen.choices.items()}
        return choices, seen.events, seen.usage, seen.answer_id, self.x.answer_bytes, self.gate.held_bytes


async def turn() -> None:
    for _ in range(4):
        await asyncio.sleep(0)


def event(delta: dict[str, Any], *, index: int = 0, finish: str | None = None, ascii_only: bool = False) -> bytes:
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish, "token_ids": None}
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(chunk, separators=(",", ":"), ensure_ascii=ascii_only).encode() + b"\n\n"


def text(said: str, **how: Any) -> bytes:
    return event({"content": said}, **how)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def ending(*numbers: int) -> list[bytes]:
    return [*(event({}, index=number, finish="stop") for number in numbers), _DONE]


@pytest.mark.parametrize("lane", [False, True])
async def test_what_comes_leaves_before_anything_else_has_its_turn(lane: bool) -> None:
    through = Through(lane=lane)
    await turn()
    sent = [event({"role": "assistant", "content": ""}), *(text(f" token{n}") for n in range(200))]
    for place, piece in enumerate(sent):
        through.arrives(chunk(piece))
        assert through.body == b"".join(sent[: place + 1])
    through.arrives(b"".join(map(chunk, ending(0))) + _LAST)
    await through.over()
    assert through.body == b"".join([*sent, *ending(0)])
    assert through.x.seen.choices[0].said == "".join(f" token{n}" for n in range(200))
    assert through.x.seen.events == 203
    assert (through.fed < 20) is lane, "the gate is told of runs, or of each event"


_PIECES = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8).map(text),
    st.sampled_from([" a", "b c", "é", "字", ""]).map(text),
    st.sampled_from(["<tool_call>", '{"name": "look", "arguments": {}}', "</tool_call>", "[look(a=1)]", "a < b"]).map(
        text
    ),
    st.sampled_from(["hm", "so", "<"]).map(lambda said: event({"reasoning": said})),
    st.sampled_from(["x", "y"]).map(lambda said: text(said, index=1)),
    st.sampled_from([" ü", "\u2028"]).map(lambda said: text(said, ascii_only=True)),
    st.just(b": alive\n\n"),
    st.sampled_from(["{", '"a": 1', "}"]).map(
        lambda piece: event({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "look", "arguments": piece}}]})
    ),
)


@settings(max_examples=50)
@given(
    st.lists(_PIECES, max_size=30),
    st.sampled_from([Answer(), Answer("Not this.", cut=True), Answer("Not this.")]),
    st.data(),
)
def test_the_short_way_gives_and_knows_what_the_long_one_does(
    pieces: Sequence[bytes], verdict: Answer, data: st.DataObject
) -> None:
    sent = [event({"role": "assistant", "content": ""}), *pieces, *ending(0, 1)]
    wire = b"".join(map(chunk, sent)) + _LAST
    cuts = data.draw(st.sets(st.integers(1, len(wire) - 1), max_size=6))
    reads = [*map(chunk, sent[:-1]), chunk(sent[-1]) + _LAST]
    if data.draw(st.booleans()):
        places = [0, *sorted(cuts), len(wire)]
        reads = [wire[begin:end] for begin, end in pairwise(places)]

    async def both() -> None:
        outcomes = []
        for lane in (True, False):
            through = Through(lane=lane, verdict=verdict)
            for read in reads:
                await turn()
                await turn()
                if through.task.done():
                    break
                through.arrives(read)
            try:
                await through.over()
            except UpstreamBroke:
                outcomes.append(("broke", through.body, through.seen))
            else:
                outcomes.append(("over", through.body, through.seen))
        assert outcomes[0] == outcomes[1]

    asyncio.run(both())


async def test_a_kill_comes_after_all_that_has_left() -> None:
    through = Through()
    await turn()
    for n in range(10):
        through.arrives(chunk(text(f" {n}")))
    through.content.set_exception(Killed("Stopped."))
    await through.over()
    assert read_stream(through.body)[0].text == " 0 1 2 3 4 5 6 7 8 9\n\nStopped."
    assert through.x.seen.choices[0].said == " 0 1 2 3 4 5 6 7 8 9"
    assert through.x.answer_bytes == len(through.body)


async def test_a_client_that_does_not_read_is_waited_for() -> None:
    through = Through()
    await turn()
    long = chunk(text(" word" * 100))
    through.arrives(long * 2)
    through.client.stop()
    arrived = 0
    while through.server.reads and arrived < 1000:
        through.arrives(long)
        arrived += 1
        await turn()
    assert 32 <= arrived * len(long) / 1024 <= 64, "KiB that were read for nobody"
    given = len(through.body)
    await turn()
    assert len(through.body) == given
    through.client.go_on()
    await turn()
    assert through.server.reads
    through.arrives(b"".join(map(chunk, ending(0))) + _LAST)
    await through.over()
    assert through.body == text(" word" * 100) * (arrived + 2) + b"".join(ending(0))


async def test_a_client_that_is_gone_ends_it() -> None:
    through = Through()
    await turn()
    through.arrives(chunk(text("a")))
    through.client.wire.close()
    through.arrives(chunk(text("b")))
    with pytest.raises(ConnectionResetError):
        await through.over()
    assert through.body == text("a")


async def test_an_upstream_that_breaks_off_gives_all_that_came() -> None:
    through = Through()
    await turn()
    through.arrives(chunk(text("a")) + chunk(text("b"))[:-20])
    through.connection.connection_lost(ConnectionResetError())
    with pytest.raises(UpstreamBroke):
        await through.over()
    assert through.body == text("a")


@pytest.mark.parametrize("broken", [b"zz\r\n", b"-5\r\nabcde\r\n", b"5;x\r\nabcdefg"])
async def test_what_is_no_chunk_breaks_it_off(broken: bytes) -> None:
    through = Through()
    await turn()
    for n in range(5):
        through.arrives(chunk(text(f"{n}")))
    through.arrives(broken)
    through.connection.connection_lost(None)
    with pytest.raises(UpstreamBroke):
        await through.over()
    assert through.body == b"".join(text(f"{n}") for n in range(5))
