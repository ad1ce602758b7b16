"""Runs, loops, budgets and operators through a whole Interlock, with the openai SDK as the harness."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import openai
import pytest

from proxy.app import Interlock
from tests.support.chat import Call, Say, read_stream, stream, whole
from tests.support.interlock import port_of, running
from tests.support.raw import ScriptedUpstream, scripted, send
from tests.support.served import until
from tests.support.serving import HEAD, TOOLS, answering, ask, by_request, post, streaming
from tests.support.wire import parse
from tracing.records import Settled
from tracing.segments import read as read_journal

ASK = {"role": "user", "content": "Wait until the build is green."}


def fresh_ids():
    """An upstream whose tool-call ids differ from answer to answer, as vLLM's do."""
    counter = itertools.count()

    def answer(body: dict):
        results = [m for m in body["messages"] if m["role"] == "tool"]
        say = Say(text="The build is green.") if results and results[-1]["content"] == "green" else POLL
        number = b"chatcmpl-tool-%016x" % (next(counter) + 1)
        return streaming([e.replace(b"chatcmpl-tool-0000000000000000", number) for e in stream(say)])

    return by_request(answer)


POLL = Say("I look at the build.\n", "", (Call("run_shell", '{"command": "make status"}'),))


@asynccontextmanager
async def interlock(tmp_path: Path, script, **sections) -> AsyncIterator[tuple[Interlock, ScriptedUpstream]]:
    breakers = {"slow_seconds": 0, **sections.pop("breakers", {})}
    async with (
        scripted(script) as upstream,
        running(upstream.url, tmp_path / "state", breakers=breakers, **sections) as whole_thing,
    ):
        yield whole_thing, upstream


class Agent:
    """A harness: asks, runs the tool calls, sends the results back."""

    def __init__(self, port: int, results) -> None:
        self.client = openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
        self.messages = [ASK]
        self.results = results

    async def turn(self) -> bool:
        """One exchange; False when the agent is done."""
        async with self.client.chat.completions.stream(model="tiny", messages=self.messages, tools=TOOLS) as answer:
            final = await answer.get_final_completion()
        message = final.choices[0].message
        self.messages.append(message.model_dump(exclude_none=True, include={"role", "content", "tool_calls"}))
        for call in message.tool_calls or []:
            self.messages.append({"role": "tool", "tool_call_id": call.id, "content": next(self.results)})
        return bool(message.tool_calls)

    async def run(self) -> int:
        turns = 1
        while await self.turn():
            turns += 1
        return turns


async def test_of_two_agents_with_identical_prompts_only_the_looping_one_is_tripped(tmp_path: Path) -> None:
    async with interlock(tmp_path, fresh_ids()) as (it, upstream):
        port = port_of(it)
        looping = Agent(port, itertools.repeat("pending"))
        working = Agent(port, iter([*(f"{n} %" for n in range(0, 100, 20)), "green"]))
        looped, worked = await asyncio.gather(looping.run(), working.run(), return_exceptions=True)
        assert worked == 7
        assert isinstance(looped, openai.RateLimitError)
        assert looped.code == "loop_detected"
        assert looped.response.headers["x-should-retry"] == "false"
        calls = [m for m in looping.messages if m.get("tool_calls")]
        assert len(calls) == 4  # the first and three repeats
        before = len(upstream.requests)
        with pytest.raises(openai.RateLimitError):
            await looping.turn()
        assert len(upstream.requests) == before


async def test_polling_with_changing_results_is_no_loop(tmp_path: Path) -> None:
    async with interlock(tmp_path, fresh_ids()) as (it, _):
        agent = Agent(port_of(it), iter([*(str(n) for n in range(12)), "green"]))
        assert await agent.run() == 14


async def test_an_operator_releases_and_kills_a_run(tmp_path: Path) -> None:
    listen = {"admin_token": "operators-only"}
    async with interlock(tmp_path, fresh_ids(), listen=listen) as (it, _):
        agent = Agent(port_of(it), itertools.chain(["pending"] * 4, itertools.repeat("still pending")))
        with pytest.raises(openai.RateLimitError):
            await agent.run()
        async with aiohttp.ClientSession(headers={"Authorization": "Bearer operators-only"}) as admin:
            order = {"operator": "ann", "reason": "looked at it"}
            (run,) = (await (await admin.get(f"{it.admin_url}/v1/runs")).json())["runs"]
            assert run["tripped"] == "loop_detected"
            answer = await admin.post(f"{it.admin_url}/v1/runs/{run['id']}/release", json=order)
            assert answer.status == 200
            await agent.turn()
            answer = await admin.post(f"{it.admin_url}/v1/runs/{run['id']}/kill", json=order)
            assert answer.status == 200
        with pytest.raises(openai.PermissionDeniedError) as denied:
            await agent.turn()
        assert denied.value.code == "run_killed"


async def test_a_killed_run_stays_killed_whatever_else_its_agent_asks(tmp_path: Path) -> None:
    """More runs than are kept come after it."""
    sections = {"listen": {"admin_token": "operators-only"}, "breakers": {"runs_kept": 5}}
    async with interlock(tmp_path, fresh_ids(), **sections) as (it, _):
        agent = Agent(port_of(it), itertools.repeat("pending"))
        await agent.turn()
        async with aiohttp.ClientSession(headers={"Authorization": "Bearer operators-only"}) as admin:
            (run,) = (await (await admin.get(f"{it.admin_url}/v1/runs")).json())["runs"]
            order = {"operator": "ann", "reason": "looked at it"}
            assert (await admin.post(f"{it.admin_url}/v1/runs/{run['id']}/kill", json=order)).status == 200
            for number in range(12):
                other = Agent(port_of(it), itertools.repeat("green"))
                other.messages = [{"role": "user", "content": f"Case {number}"}]
                await other.turn()
            kept = (await (await admin.get(f"{it.admin_url}/v1/runs")).json())["runs"]
            assert len(kept) == 5 and run["id"] in [one["id"] for one in kept]
        with pytest.raises(openai.PermissionDeniedError) as denied:
            await agent.turn()
        assert denied.value.code == "run_killed"


async def test_a_stream_of_a_killed_run_is_cut(tmp_path: Path) -> None:
    gone, started = asyncio.Event(), asyncio.Event()
    events = stream(Say(text="word " * 5000))

    async def script(_request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        try:
            for event in events:
                writer.write(b"%x\r\n%s\r\n" % (len(event), event))
                await writer.drain()
                started.set()
                await asyncio.sleep(0.005)
        except ConnectionError:
            gone.set()
            raise

    listen = {"admin_token": "operators-only"}
    async with interlock(tmp_path, script, listen=listen) as (it, _):
        asking = asyncio.ensure_future(send(port_of(it), post(ask(stream=True))))
        async with asyncio.timeout(20):
            await started.wait()
            async with aiohttp.ClientSession(headers={"Authorization": "Bearer operators-only"}) as admin:
                order = {"operator": "ann", "reason": "enough"}
                assert (await admin.post(f"{it.admin_url}/v1/all/kill", json=order)).status == 200
            answer = parse(await asking)
            await gone.wait()
    read = read_stream(answer.body)[0]
    assert "run_killed" in read.text
    assert read.finish == "stop"
    assert answer.body.endswith(b"data: [DONE]\n\n")


async def test_a_kill_reaches_a_stream_whose_client_reads_nothing(tmp_path: Path) -> None:
    """What it was given stands in its way: the last words do not get through, and it is cut off."""
    gone, blocked = asyncio.Event(), asyncio.Event()
    event = stream(Say(text="word"))[1]
    many = (b"%x\r\n%s\r\n" % (len(event), event)) * 200

    async def script(_request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        try:
            while True:
                writer.write(many)
                try:
                    async with asyncio.timeout(1):
                        await writer.drain()
                except TimeoutError:
                    blocked.set()
                    await writer.drain()
        except ConnectionError:
            gone.set()
            raise

    listen = {"admin_token": "operators-only"}
    async with interlock(tmp_path, script, listen=listen) as (it, _):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, ("127.0.0.1", port_of(it)))
        await loop.sock_sendall(client, post(ask(stream=True)))
        async with asyncio.timeout(60):
            await blocked.wait()
            async with aiohttp.ClientSession(headers={"Authorization": "Bearer operators-only"}) as admin:
                order = {"operator": "ann", "reason": "enough"}
                assert (await admin.post(f"{it.admin_url}/v1/all/kill", json=order)).status == 200
            await gone.wait()
            with suppress(ConnectionError):
                while await loop.sock_recv(client, 65536):
                    pass
        client.close()
        await until(lambda: settled(tmp_path), 20)
    assert [record.ending for record in settled(tmp_path)] == ["cut"]


@pytest.mark.parametrize("hangs", [False, True])
@pytest.mark.parametrize(
    "head",
    [
        HEAD.replace(b"text/event-stream", b"text/plain"),
        HEAD.replace(b"200 OK", b"500 Internal Server Error"),
        HEAD.replace(b"200 OK", b"429 Too Many Requests").replace(b"text/event-stream", b"application/json"),
    ],
)
async def test_a_kill_breaks_off_an_answer_that_nobody_judges(tmp_path: Path, head: bytes, hangs: bool) -> None:
    """Of a kind that cannot be judged, or an error, which passes as it is; while it flows, and while nothing comes."""
    gone, started, broken_off = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def script(_request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        try:
            while True:
                writer.write(b"5\r\nword \r\n")
                await writer.drain()
                started.set()
                if hangs:
                    await broken_off.wait()
                await asyncio.sleep(0.005)
        except ConnectionError:
            gone.set()
            raise

    listen = {"admin_token": "operators-only"}
    async with interlock(tmp_path, script, listen=listen, unjudged="allow") as (it, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(it))
        writer.write(post(ask(stream=True)))
        async with asyncio.timeout(30):
            await started.wait()
            await reader.readuntil(b"word")
            async with aiohttp.ClientSession(headers={"Authorization": "Bearer operators-only"}) as admin:
                order = {"operator": "ann", "reason": "enough"}
                assert (await admin.post(f"{it.admin_url}/v1/all/kill", json=order)).status == 200
            with suppress(ConnectionError):
                while await reader.read(65536):
                    pass
            broken_off.set()
            await gone.wait()
        writer.close()
        await until(lambda: settled(tmp_path), 20)
    assert [record.ending for record in settled(tmp_path)] == ["cut"]


def settled(state: Path) -> list[Settled]:
    return [entry.record for entry in read_journal(state / "state") if isinstance(entry.record, Settled)]


async def test_a_stream_is_cut_by_length_where_its_budget_ends(tmp_path: Path) -> None:
    events = stream(Say(text="word " * 3000))
    agents = {"anonymous": {"run_tokens": 1000}}
    async with interlock(tmp_path, streaming(events), agents=agents) as (it, _):
        answer = parse(await send(port_of(it), post(ask(stream=True))))
        read = read_stream(answer.body)[0]
        assert read.finish == "length"
        assert "budget_exhausted" in read.text
        assert len(read.text) < 1000 * 5
        assert answer.body.endswith(b"data: [DONE]\n\n")


async def test_an_exhausted_budget_refuses_without_asking_the_model(tmp_path: Path) -> None:
    script = answering(whole(Say(text="ok")))
    agents = {"coder": {"keys": ["ilk-1"], "tokens": 700}}
    async with interlock(tmp_path, script, agents=agents) as (it, upstream):
        key = "Authorization: Bearer ilk-1"
        first = parse(await send(port_of(it), post(ask(max_tokens=10), key)))
        assert first.start == "HTTP/1.1 200 OK"
        assert upstream.last.header("authorization") is None
        for _ in range(3):
            answer = parse(await send(port_of(it), post(ask(max_tokens=10), key)))
        assert answer.start == "HTTP/1.1 429 Too Many Requests"
        assert json.loads(answer.body)["error"]["code"] == "budget_exhausted"
        assert answer.header("x-should-retry") == "false"
        assert int(answer.header("retry-after") or 0) >= 1


async def test_without_a_known_key_nothing_is_forwarded(tmp_path: Path) -> None:
    script = answering(whole(Say(text="ok")))
    async with interlock(tmp_path, script, agents={"coder": {"keys": ["ilk-1"]}}) as (it, upstream):
        for headers in ([], ["Authorization: Bearer wrong"]):
            answer = parse(await send(port_of(it), post(ask(), *headers)))
            assert answer.start.startswith("HTTP/1.1 401")
        assert upstream.requests == []


@pytest.mark.parametrize("streamed", [True, False])
async def test_what_waits_for_the_model_is_refused_when_its_run_is_killed(tmp_path: Path, streamed: bool) -> None:
    asked = asyncio.Event()

    async def script(_request: bytes, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await asyncio.sleep(10)  # the model is still thinking

    listen = {"admin_token": "operators-only"}
    async with interlock(tmp_path, script, listen=listen) as (it, _):
        asking = asyncio.ensure_future(send(port_of(it), post(ask(stream=streamed))))
        async with asyncio.timeout(20):
            await asked.wait()
            async with aiohttp.ClientSession(headers={"Authorization": "Bearer operators-only"}) as admin:
                order = {"operator": "ann", "reason": "enough"}
                assert (await admin.post(f"{it.admin_url}/v1/all/kill", json=order)).status == 200
            answer = parse(await asking)
    assert answer.start == "HTTP/1.1 403 Forbidden"
    assert json.loads(answer.body)["error"]["code"] == "run_killed"
