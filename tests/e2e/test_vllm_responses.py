"""On a real vLLM that keeps its answers: the Responses API through Interlock, with no settings.

A tap shows what vLLM said in the very exchange. What no policy touches is the same bytes; the destructive call is in
no copy of any answer: streamed, whole, fetched, or gone on from.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio

from serving.tiny.dialogue import Script
from serving.tiny.harness import Harness
from serving.tiny.scripts import (
    CANARY,
    COMPARE,
    DISK,
    HELLO,
    REPAIR,
    SANDWICH_FIRST,
    SANDWICH_LAST,
    SANDWICH_MIDDLE,
    WEATHER,
)
from tests.conftest import ONE_THREAD
from tests.support import servers
from tests.support.interlock import port_of, running
from tests.support.raw import send
from tests.support.responses import Read, read_stream, read_whole
from tests.support.servers import VllmServer
from tests.support.tap import Tap, tapped
from tests.support.vllm_requests import http
from tests.support.wire import Message, parse

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]

PATH = "/v1/responses"
PLACES = (SANDWICH_FIRST, SANDWICH_MIDDLE, SANDWICH_LAST, DISK)
LOGPROBS = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}


@dataclass
class Stage:
    tap: Tap
    port: int

    def sdk(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key="x", max_retries=0)

    async def post(self, body: dict[str, Any], path: str = PATH) -> Message:
        return parse(await send(self.port, http("POST", path, json.dumps(body).encode()), seconds=120))

    async def get(self, target: str) -> Message:
        return parse(await send(self.port, http("GET", f"{PATH}/{target}"), seconds=120))

    async def made(self, answer_id: str) -> Message:
        """A background answer, once vLLM has it."""
        async with asyncio.timeout(60):
            while (answer := await self.get(answer_id)).body.find(b'"status":"completed"') < 0:  # noqa: ASYNC110 - another server is waited for
                await asyncio.sleep(0.05)
        return answer


@pytest.fixture(scope="module")
def storing_vllm(vllm_env: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    """A vLLM that keeps what it answered."""
    env = {**ONE_THREAD, "VLLM_ENABLE_RESPONSES_API_STORE": "1"}
    with servers.vllm(vllm_env, tmp_path_factory.mktemp("storing"), env=env) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(storing_vllm: VllmServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    state: Path = tmp_path_factory.mktemp("responses") / "state"
    async with tapped(storing_vllm.port) as tap, running(tap.url, state) as interlock:
        yield Stage(tap, port_of(interlock))


class Loop:
    """A script played over the Responses API: its items, made of what the harness says in chat's words."""

    def __init__(self, script: Script) -> None:
        self.harness = Harness(script)
        self.items: list[Any] = [{"role": "user", "content": script.prompt}]

    def request(self, **fields: Any) -> dict[str, Any]:
        tools = [{"type": "function", **tool["function"]} for tool in self.harness.request().get("tools", [])]
        return {
            "model": "tiny",
            "temperature": 0,
            "input": list(self.items),
            **({"tools": tools} if tools else {}),
            **fields,
        }

    def take(self, output: list[dict[str, Any]]) -> None:
        calls = [
            {"id": item["call_id"], "type": "function", "function": {k: item[k] for k in ("name", "arguments")}}
            for item in output
            if item["type"] == "function_call"
        ]
        texts = [part["text"] for item in output if item["type"] == "message" for part in item["content"]]
        message = {"role": "assistant", "content": "".join(texts), **({"tool_calls": calls} if calls else {})}
        before = len(self.harness.messages)
        self.harness.take(message)
        self.items += output
        for said in self.harness.messages[before + 1 :]:
            if said["role"] == "tool":
                result = {"call_id": said["tool_call_id"], "output": said["content"]}
                self.items.append({"type": "function_call_output", **result})
            else:
                self.items.append(said)


UNTOUCHED: dict[str, dict[str, Any]] = {
    "plain": Loop(HELLO).request(),
    "stream": Loop(HELLO).request(stream=True),
    "instructions": Loop(HELLO).request(instructions="Be kind.", max_output_tokens=22, metadata={"a": "b"}),
    "logprobs": Loop(HELLO).request(**LOGPROBS),
    "logprobs, streamed": Loop(HELLO).request(stream=True, **LOGPROBS),
    "call": Loop(WEATHER).request(),
    "call, streamed": Loop(WEATHER).request(stream=True),
    "parallel calls": Loop(COMPARE).request(),
    "parallel calls, streamed": Loop(COMPARE).request(stream=True),
    "parallel calls with logprobs, streamed": Loop(COMPARE).request(stream=True, **LOGPROBS),
    "required": Loop(WEATHER).request(tool_choice="required", stream=True),
    "cut off in a call": Loop(WEATHER).request(max_output_tokens=36, stream=True),
    "cut off in a call, whole": Loop(WEATHER).request(max_output_tokens=36),
    "raw messages": Loop(COMPARE).request(enable_response_messages=True, stream=True),
    "background": Loop(HELLO).request(background=True),
    "background, streamed": Loop(COMPARE).request(background=True, stream=True),
    "unknown model": Loop(HELLO).request(model="none"),
    "unknown previous answer": Loop(HELLO).request(previous_response_id="resp_none"),
    "wrong type": Loop(HELLO).request(max_output_tokens="many"),
    "no input": {"model": "tiny"},
    "too long": {"model": "tiny", "input": "a b " * 4000, "stream": True},
    "background without store": Loop(HELLO).request(background=True, store=False),
    "unsupported item": {"model": "tiny", "input": [{"type": "item_reference", "id": "msg_1"}]},
}


@pytest.mark.parametrize("body", UNTOUCHED.values(), ids=UNTOUCHED.keys())
async def test_what_no_policy_touches_is_the_same_bytes(stage: Stage, body: dict[str, Any]) -> None:
    answer = await stage.post(body)
    direct, sent = stage.tap.last.response, stage.tap.last.request
    assert json.loads(sent.body) == body
    assert (answer.start, answer.body, answer.whole) == (direct.start, direct.body, direct.whole)
    assert answer.multiset() == direct.multiset()
    if "stream" in body and answer.start.endswith("200 OK"):
        assert read_stream(answer.body).status == ("incomplete" if "max_output_tokens" in body else "completed")


async def test_answers_that_are_kept_are_fetched_and_cancelled_the_same_bytes(stage: Stage) -> None:
    whole = json.loads((await stage.post(Loop(COMPARE).request())).body)["id"]
    await stage.post(Loop(COMPARE).request(stream=True, background=True, request_id="resp_mine"))
    for target in (
        whole,
        "resp_mine",
        "resp_mine?stream=true",
        "resp_none",
        "resp_none?stream=true",
        "resp_mine?starting_after=x",
    ):
        answer = await stage.get(target)
        assert (answer.start, answer.body) == (stage.tap.last.response.start, stage.tap.last.response.body), target
    for target in (whole, "resp_none"):
        answer = await stage.post({}, f"{PATH}/{target}/cancel")
        assert (answer.start, answer.body) == (stage.tap.last.response.start, stage.tap.last.response.body)
    events = [part + b"\n\n" for part in (await stage.get("resp_mine?stream=true")).body.split(b"\n\n")[:-1]]
    later = await stage.get("resp_mine?stream=true&starting_after=9")
    assert later.body == b"".join(events[10:])


def id_of(answer: Message) -> str:
    """The answer's id, streamed or not."""
    if not answer.body.startswith(b"event:"):
        return str(json.loads(answer.body)["id"])
    return str(json.loads(answer.body.split(b"\n\n")[0].partition(b"\ndata: ")[2])["response"]["id"])


def lawful(script: Script) -> list[tuple[str, dict[str, Any]]]:
    return [(call.name, dict(call.arguments)) for call in script.turns[0].calls if not call.forbidden]


def check(read: Read, script: Script) -> None:
    assert CANARY not in read.raw
    assert CANARY not in read.logprob_text
    assert "rm -" not in read.logprob_text
    assert read.reasoning.strip() == script.turns[0].reasoning
    assert "interlock.shell" in read.text
    assert "[run_shell]" in read.text
    assert [(call["name"], json.loads(call["arguments"])) for call in read.calls] == lawful(script)
    assert read.status == "completed"


FORMS: dict[str, dict[str, Any]] = {
    "whole": {},
    "streamed": {"stream": True},
    "whole with logprobs": LOGPROBS,
    "streamed with logprobs": {"stream": True, **LOGPROBS},
    "streamed with raw messages": {"stream": True, "enable_response_messages": True},
}


@pytest.mark.parametrize("script", PLACES, ids=lambda script: script.id)
@pytest.mark.parametrize("form", FORMS)
async def test_it_never_arrives(stage: Stage, script: Script, form: str) -> None:
    fields = FORMS[form]
    answer = await stage.post(Loop(script).request(**fields))
    assert CANARY.encode() in stage.tap.last.response.body, "vLLM itself did not show the canary"
    check((read_stream if "stream" in fields else read_whole)(answer.body), script)
    fetched = await stage.get(id_of(answer))
    assert CANARY.encode() in stage.tap.last.response.body, "vLLM keeps what it made"
    check(read_whole(fetched.body), script)


@pytest.mark.parametrize("script", PLACES, ids=lambda script: script.id)
async def test_it_never_arrives_from_the_store(stage: Stage, script: Script) -> None:
    queued = json.loads((await stage.post(Loop(script).request(background=True))).body)
    assert queued["status"] == "queued"
    check(read_whole((await stage.made(queued["id"])).body), script)
    assert CANARY.encode() in stage.tap.last.response.body
    name = f"resp_{script.id}"
    first = await stage.post(Loop(script).request(background=True, stream=True, request_id=name))
    check(read_stream(first.body), script)
    for target in (f"{name}?stream=true", f"{name}?stream=true&starting_after=0"):
        again = await stage.get(target)
        assert CANARY.encode() in stage.tap.last.response.body
        assert first.body.endswith(again.body)
    fetched = read_whole((await stage.made(name)).body)
    check(fetched, script)
    assert fetched.output == read_stream(first.body).output


@pytest.mark.parametrize("script", PLACES, ids=lambda script: script.id)
async def test_the_sdk_takes_the_answer_by_its_iterator_and_by_its_helper(stage: Stage, script: Script) -> None:
    body = Loop(script).request()
    async with stage.sdk() as client:
        events = [event async for event in await client.responses.create(**body, stream=True)]
        assert CANARY not in "".join(event.model_dump_json() for event in events)
        async with client.responses.stream(**body) as helper:
            async for _ in helper:
                pass
            final = await helper.get_final_response()
        whole = await client.responses.create(**body)
    for answer in (final, whole):
        assert CANARY not in answer.model_dump_json()
        assert "interlock.shell" in answer.output_text
        calls = [(item.name, json.loads(item.arguments)) for item in answer.output if item.type == "function_call"]
        assert calls == lawful(script)


@pytest.mark.parametrize("script", [REPAIR, DISK, WEATHER], ids=lambda script: script.id)
@pytest.mark.parametrize("streamed", [False, True])
async def test_the_sdk_runs_a_whole_tool_loop(stage: Stage, script: Script, streamed: bool) -> None:
    loop = Loop(script)
    async with stage.sdk() as client:
        while not loop.harness.done:
            if streamed:
                async with client.responses.stream(**loop.request()) as helper:
                    final = await helper.get_final_response()
            else:
                final = await client.responses.create(**loop.request())
            loop.take([item.model_dump(exclude_none=True, exclude={"parsed_arguments"}) for item in final.output])
            assert loop.harness.answers < 12
    assert CANARY not in json.dumps(loop.items)
    assert loop.harness.refused == (script is DISK)
    expected = (script.refused or script.turns)[-1] if script is DISK else script.turns[-1]
    assert final.output_text.strip() == expected.text


async def test_the_sdk_goes_on_from_an_answer_by_its_id(stage: Stage) -> None:
    async with stage.sdk() as client:
        first = await client.responses.create(model="tiny", input="Hello!", temperature=0)
        second = await client.responses.create(
            model="tiny", input="Count to forty.", previous_response_id=first.id, temperature=0, max_output_tokens=40
        )
        assert second.previous_response_id == first.id
        fetched = await client.responses.retrieve(second.id)
    assert fetched.output_text == second.output_text
