"""On a real vLLM: other people's clients run their tool loops through Interlock as without it, and a cut is an abort.

A cut is seen where it counts: the number of running requests in vLLM's own metrics, asked for every few milliseconds on
vLLM's own port, while its number of finished ones stays. The model is told to go on after its end, where the API has a
field for that, so that nothing but an abort ends a request so early.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
import pytest_asyncio
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI

from proxy.app import Interlock
from serving.tiny.dialogue import Script
from serving.tiny.harness import Harness
from serving.tiny.scripts import CANARY, COMPARE, COUNT, DISK, KEY, LEAK_PROMPT, REPAIR, SANDWICH_FIRST, WEATHER
from tests.policies.support import built
from tests.support.apis import heard
from tests.support.interlock import port_of, running
from tests.support.messages import MessagesHarness
from tests.support.raw import send
from tests.support.served import metric_sum, until
from tests.support.servers import VllmServer
from tests.support.vllm_requests import http
from tests.support.wire import parse
from tracing.records import Decided
from tracing.segments import read

pytestmark = [pytest.mark.vllm, pytest.mark.opa, pytest.mark.asyncio(loop_scope="module")]

SOON = 0.1
TRIES = 5
"""The quickest of some aborts is held against ``SOON``: a late one may be the machine's doing, all of them not. (The
Messages API has no field against an early end: there only a long answer shows an abort, that of the killed run.)"""
NO_END: dict[str, Any] = {"logit_bias": {"2": -100}, "ignore_eos": True}
ADMIN = {"admin_token": "operators-only"}
HOLDS = {"none": "none", "tail": "tail(24)", "all": "all"}
KEYS = """\
# METADATA
# title: No keys in what the model says and thinks
# custom:
#   severity: high
#   hold: {hold}
#   patterns: [secrets/aws_access_key_id]
package interlock.policies.team.{name}

finding := {{"id": "key", "severity": "high", "action": "deny", "message": "It named a key.", "tags": []}}

output contains finding if some signal in input.signals

reasoning contains finding if some signal in input.signals
"""
STOP = """\
package interlock.policies.team.stop

tool_call contains {
	"id": "shell",
	"severity": "high",
	"action": "terminate",
	"message": "No shell here.",
	"tags": [],
} if input.call.name == "run_shell"
"""


# -- tool loops ------------------------------------------------------------------------------------------


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def plain(vllm_server: VllmServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Interlock]:
    """No settings."""
    async with running(vllm_server.url, tmp_path_factory.mktemp("plain") / "state") as interlock:
        yield interlock


async def langchain_loop(url: str, script: Script, *, responses: bool, streamed: bool) -> list[tuple[str, Any]]:
    """What the model said and called, turn by turn."""
    harness = Harness(script)
    model = ChatOpenAI(
        model="tiny",
        base_url=f"{url}/v1",
        api_key="x",  # type: ignore[arg-type]
        temperature=0,
        max_retries=0,
        use_responses_api=responses,
    ).bind_tools(harness.request()["tools"])
    messages: list[AnyMessage] = [HumanMessage(script.prompt)]
    turns: list[tuple[str, Any]] = []
    while not harness.done:
        if streamed:
            answer: Any = None
            async for chunk in model.astream(messages):
                answer = chunk if answer is None else answer + chunk
        else:
            answer = await model.ainvoke(messages)
        assert isinstance(answer, AIMessage)
        messages.append(answer)
        calls = [(call["name"], call["args"]) for call in answer.tool_calls]
        turns.append((answer.text.strip(), calls))
        before = len(harness.messages)
        said = [
            {"id": call["id"], "function": {"name": call["name"], "arguments": json.dumps(call["args"])}}
            for call in answer.tool_calls
        ]
        harness.take({"role": "assistant", "content": answer.text} | ({"tool_calls": said} if said else {}))
        for message in harness.messages[before + 1 :]:
            if message["role"] == "tool":
                messages.append(ToolMessage(message["content"], tool_call_id=message["tool_call_id"]))
            else:
                messages.append(HumanMessage(message["content"]))
    return turns


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("responses", [False, True])
@pytest.mark.parametrize("script", [WEATHER, COMPARE, REPAIR], ids=lambda script: script.id)
async def test_langchain_runs_a_tool_loop_as_without_interlock(
    vllm_server: VllmServer, plain: Interlock, script: Script, responses: bool, streamed: bool
) -> None:
    direct = await langchain_loop(vllm_server.url, script, responses=responses, streamed=streamed)
    through = await langchain_loop(plain.url, script, responses=responses, streamed=streamed)
    assert through == direct
    assert [[(call.name, dict(call.arguments)) for call in turn.calls] for turn in script.turns] == [
        calls for _, calls in through
    ]
    assert through[-1][0] == script.turns[-1].text


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("responses", [False, True])
async def test_langchain_goes_on_after_a_refusal(plain: Interlock, responses: bool, streamed: bool) -> None:
    turns = await langchain_loop(plain.url, DISK, responses=responses, streamed=streamed)
    assert CANARY not in str(turns)
    assert "interlock.shell" in turns[0][0]
    assert turns[-1][0] == DISK.refused[-1].text


@pytest.mark.parametrize("script", [WEATHER, COMPARE, REPAIR], ids=lambda script: script.id)
async def test_openai_s_stream_helper_runs_a_tool_loop_as_without_interlock(
    vllm_server: VllmServer, plain: Interlock, script: Script
) -> None:
    async def loop(url: str) -> list[Any]:
        harness = Harness(script)
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client:
            while not harness.done:
                async with client.chat.completions.stream(**harness.request()) as helper:
                    async for _ in helper:
                        pass
                    final = await helper.get_final_completion()
                message = final.choices[0].message.model_dump(exclude_none=True, exclude={"parsed"})
                for call in message.get("tool_calls", []):
                    call["function"].pop("parsed_arguments", None)
                harness.take(message)
        for message in harness.messages:  # vLLM makes ids of its own each time
            message.pop("tool_call_id", None)
            for call in message.get("tool_calls", []):
                call.pop("id")
        return harness.messages

    through = await loop(plain.url)
    assert through == await loop(vllm_server.url)
    assert through[-1]["content"].strip() == script.turns[-1].text


# -- a cut is an abort -----------------------------------------------------------------------------------


@dataclass
class Watch:
    """vLLM's running requests: (when the answer had come, how many)."""

    url: str
    samples: list[tuple[float, float]] = field(default_factory=list)

    async def look(self, session: aiohttp.ClientSession) -> float:
        async with session.get(f"{self.url}/metrics") as answer:
            return metric_sum(await answer.text(), "vllm:num_requests_running")

    async def poll(self) -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                number = await self.look(session)
                self.samples.append((time.perf_counter(), number))
                await asyncio.sleep(0.003)

    async def finished(self) -> float:
        """The requests that came to an end of their own."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}/metrics") as answer:
            return metric_sum(await answer.text(), "vllm:request_success_total")

    async def idle(self) -> None:
        async def none() -> bool:
            async with aiohttp.ClientSession() as session:
                return await self.look(session) == 0

        await until(none, 60)

    async def time_to_none(self, cut: Callable[[], Awaitable[float]]) -> float:
        """Seconds from the moment that ``cut`` gives until nothing ran any more; for ever, if it came to its end.
        ``cut`` gives NaN where the answer's end was the first."""
        await self.idle()
        before = await self.finished()
        self.samples.clear()
        polling = asyncio.ensure_future(self.poll())
        try:
            moment = await cut()
            late = time.perf_counter() + 3 * SOON  # the metric may lag behind
            await until(lambda: self.samples[-1][0] > late and self.samples[-1][1] == 0, 30)
        finally:
            polling.cancel()
        if math.isnan(moment) or await self.finished() != before:
            return math.inf
        ran = max([moment, *(when for when, number in self.samples if number)])
        return next(when for when, _ in self.samples if when > ran) - moment


async def soon(what: str, watch: Watch, cut: Callable[[], Awaitable[float]], *, ends_soon: bool = False) -> None:
    """``ends_soon``: vLLM may well be done before it can be aborted, so only the cut itself is looked at."""
    if ends_soon:
        await cut()
        await watch.idle()
        return
    taken = []
    for _ in range(TRIES):
        taken.append(await watch.time_to_none(cut))
        if taken[-1] < SOON:
            return
    raise AssertionError(f"{what}: vLLM went on for {[round(one, 3) for one in taken]} seconds after the cut")


@asynccontextmanager
async def enforcing(vllm: VllmServer, opa_binary: Path, folder: Path, hold: str) -> AsyncIterator[Interlock]:
    sources = {f"team/hold_{name}/policy.rego": KEYS.format(hold=HOLDS[name], name=f"hold_{name}") for name in HOLDS}
    sources["team/stop/policy.rego"] = STOP
    built(opa_binary, folder / "sources", sources).write(folder / "bundle")
    modes = {f"team.hold_{hold}": "enforce", "team.stop": "enforce"}
    policies = {"bundle": folder / "bundle", "modes": modes, "timeout_seconds": 5}
    async with running(vllm.url, folder / "state", policies=policies, listen=ADMIN) as interlock:
        yield interlock


async def completion_prompt(vllm: VllmServer, body: dict[str, Any]) -> str:
    """The prompt that the chat template makes of a chat request."""
    async with aiohttp.ClientSession(vllm.url) as session:
        asked = {key: body[key] for key in ("model", "messages", "tools") if key in body}
        async with session.post("/tokenize", json=asked) as answer:
            tokens = (await answer.json())["tokens"]
        async with session.post("/detokenize", json={"model": vllm.model, "tokens": tokens}) as answer:
            prompt: str = (await answer.json())["prompt"]
    return prompt


async def request_of(vllm: VllmServer, api: str, script: Script) -> tuple[str, dict[str, Any]]:
    """Path and body of a script's first request, streamed, and as long as the API lets it be."""
    chat = Harness(script).request(stream=True, max_tokens=1500, **NO_END)
    if api == "chat":
        return "/v1/chat/completions", chat
    if api == "completions":
        shared = {name: chat[name] for name in ("model", "temperature", "stream", "max_tokens")}
        return "/v1/completions", {**shared, **NO_END, "prompt": await completion_prompt(vllm, chat)}
    if api == "messages":
        return "/v1/messages", MessagesHarness(script).request(stream=True, max_tokens=1500)
    tools = [{"type": "function", **tool["function"]} for tool in chat.get("tools", [])]
    return "/v1/responses", {
        "model": "tiny",
        "temperature": 0,
        "stream": True,
        **NO_END,
        "max_output_tokens": 1500,
        "input": script.prompt,
        **({"tools": tools} if tools else {}),
    }


APIS = ("chat", "completions", "messages", "responses")


@pytest.mark.parametrize("hold", HOLDS)
async def test_text_that_a_policy_cuts_is_aborted_at_once(
    vllm_server: VllmServer, opa_binary: Path, tmp_path: Path, hold: str
) -> None:
    """The model repeats a key while it reasons, on each API; in a completion that is its text."""
    watch = Watch(vllm_server.url)
    async with enforcing(vllm_server, opa_binary, tmp_path, hold) as interlock:
        for api in APIS:
            path, body = await request_of(vllm_server, api, LEAK_PROMPT)
            given: list[bytes] = []

            async def cut(path: str = path, body: dict[str, Any] = body, given: list[bytes] = given) -> float:
                answer = await send(port_of(interlock), http("POST", path, json.dumps(body).encode()), seconds=60)
                moment = time.perf_counter()
                given.append(parse(answer).body)
                return moment

            await soon(api, watch, cut, ends_soon=api == "messages")
            for body_given in given:
                told = heard(body_given)
                assert "It named a key." in str(told), api
                if hold != "none":
                    assert not any(KEY[:4] in text for text in told.values()), (api, told)
        decided = [entry.record for entry in read(tmp_path / "state") if isinstance(entry.record, Decided)]
        exposed = {(record.surface, record.exposed) for record in decided if record.stage != "tool_call"}
        assert {surface for surface, _ in exposed} == {"reasoning of choice 0", "text of choice 0"}
        assert {number > 0 for _, number in exposed} == {hold == "none"}, exposed


async def test_a_call_that_ends_the_answer_is_aborted_at_once(
    vllm_server: VllmServer, opa_binary: Path, tmp_path: Path
) -> None:
    watch = Watch(vllm_server.url)
    async with enforcing(vllm_server, opa_binary, tmp_path, "none") as interlock:
        for api in ("chat", "messages", "responses"):
            path, body = await request_of(vllm_server, api, SANDWICH_FIRST)

            async def cut(path: str = path, body: dict[str, Any] = body) -> float:
                answer = await send(port_of(interlock), http("POST", path, json.dumps(body).encode()), seconds=60)
                moment = time.perf_counter()
                assert CANARY not in answer.decode()
                assert "No shell here." in answer.decode()
                return moment

            await soon(api, watch, cut, ends_soon=api == "messages")


async def test_a_killed_run_is_aborted_at_once(vllm_server: VllmServer, tmp_path: Path) -> None:
    watch = Watch(vllm_server.url)
    async with (
        running(vllm_server.url, tmp_path / "state", listen=ADMIN) as interlock,
        aiohttp.ClientSession(interlock.admin_url, headers={"Authorization": "Bearer operators-only"}) as admin,
    ):
        order = {"operator": "ann", "reason": "enough"}
        for api in APIS:
            path, body = await request_of(vllm_server, api, COUNT)

            async def cut(path: str = path, body: dict[str, Any] = body) -> float:
                reader, writer = await asyncio.open_connection("127.0.0.1", port_of(interlock))
                writer.write(http("POST", path, json.dumps(body).encode()))
                async with asyncio.timeout(60):
                    given = await reader.readuntil(b"data: ")
                    moment = time.perf_counter()
                    assert (await admin.post("/v1/all/kill", json=order)).status == 200
                    given += await reader.read()
                writer.close()
                assert (await admin.post("/v1/all/release", json=order)).status == 200
                ends = b"message_stop" in given and b"run_killed" not in given
                assert ends or b"run_killed" in given
                return math.nan if ends else moment

            await soon(api, watch, cut)
