"""On a real vLLM, with no settings: the destructive call never reaches the client, by whatever channel.

The model asks for destruction alone, and first, middle and last among three parallel calls. A tap shows what vLLM
said in the very exchange, so that each test first finds the canary there, in every channel that was asked for.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio

from serving.tiny.dialogue import Script
from serving.tiny.harness import Harness
from serving.tiny.scripts import CANARY, DISK, SANDWICH_FIRST, SANDWICH_LAST, SANDWICH_MIDDLE
from tests.support.channels import Decode, detokenizer, reads, told
from tests.support.interlock import port_of, running
from tests.support.raw import send
from tests.support.servers import VllmServer
from tests.support.tap import Tap, tapped
from tests.support.vllm_requests import CHAT, chat, http
from tests.support.wire import parse

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]

PLACES = (SANDWICH_FIRST, SANDWICH_MIDDLE, SANDWICH_LAST, DISK)
ALL_TOKENS = {"logprobs": True, "top_logprobs": 2, "return_token_ids": True}
TWICE = {"n": 2, "seed": 7, "temperature": 0.3}
WHOLE: dict[str, dict[str, Any]] = {
    "plain": {},
    "logprobs": {"logprobs": True},
    "top logprobs": {"logprobs": True, "top_logprobs": 2},
    "token ids": {"return_token_ids": True},
    "two choices": TWICE,
    "two choices with all tokens": TWICE | ALL_TOKENS,
}
STREAMED = {f"{name}, streamed": {**fields, "stream": True} for name, fields in WHOLE.items()} | {
    "five tokens an event": {"stream": True, "stream_interval": 5},
    "five tokens an event with all tokens": {"stream": True, "stream_interval": 5} | ALL_TOKENS,
    "two choices, five tokens an event": {"stream": True, "stream_interval": 5} | TWICE | ALL_TOKENS,
    "usage": {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}},
}
FORMS = WHOLE | STREAMED
SHOWN = {"logprobs": "logprobs", "top_logprobs": "alternatives", "return_token_ids": "token ids"}


@dataclass
class Stage:
    vllm: VllmServer
    tap: Tap
    port: int
    decode: Decode

    def sdk(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key="x", max_retries=0)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(vllm_server: VllmServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    state: Path = tmp_path_factory.mktemp("refused") / "state"
    async with tapped(vllm_server.port) as tap, running(tap.url, state) as interlock:
        yield Stage(vllm_server, tap, port_of(interlock), detokenizer(vllm_server.url, vllm_server.model))


def lawful(script: Script) -> list[tuple[str, dict[str, Any]]]:
    return [(call.name, dict(call.arguments)) for call in script.turns[0].calls if not call.forbidden]


@pytest.mark.parametrize("script", PLACES, ids=lambda script: script.id)
@pytest.mark.parametrize("form", FORMS)
async def test_it_never_arrives(stage: Stage, script: Script, form: str) -> None:
    fields, turn = FORMS[form], script.turns[0]
    answer = parse(await send(stage.port, chat(Harness(script).request(**fields)), seconds=120))
    assert answer.start == "HTTP/1.1 200 OK"

    said = await asyncio.to_thread(told, stage.tap.last.response, stage.decode)
    assert set(said) == set(range(fields.get("n", 1)))
    for channels in said.values():
        for channel in ("calls", *(channel for name, channel in SHOWN.items() if name in fields)):
            assert CANARY in channels[channel], f"vLLM itself did not show the canary as {channel}"

    given = await asyncio.to_thread(told, answer, stage.decode)
    leaks = [(number, channel) for number, one in given.items() for channel, text in one.items() if CANARY in text]
    assert leaks == []
    assert set(given) == set(said)
    assert CANARY.encode() not in answer.body
    assert answer.whole

    for read in reads(answer, lambda ids: "").values():
        assert read.reasoning.strip() == turn.reasoning
        assert read.text.strip().startswith(turn.text or "")
        assert "interlock.shell" in read.text
        assert "[run_shell]" in read.text
        assert [(c["name"], json.loads(c["arguments"])) for _, c in sorted(read.calls.items())] == lawful(script)
        assert sorted(read.calls) == list(range(len(lawful(script))))
        assert read.finish == ("tool_calls" if lawful(script) else "stop")
    for channels in given.values():
        for channel in (SHOWN[name] for name in fields if name in SHOWN):
            if form == "token ids":  # nothing says which of them spell what: all are withheld
                assert channel not in channels
                continue
            assert turn.reasoning in channels[channel]
            for _, arguments in lawful(script):
                assert str(next(iter(arguments.values()))) in channels[channel]


@pytest.mark.parametrize("script", PLACES, ids=lambda script: script.id)
async def test_asked_directly_vllm_shows_it(stage: Stage, script: Script) -> None:
    body = Harness(script).request(stream=True, **ALL_TOKENS)
    direct = parse(await send(stage.vllm.port, chat(body), seconds=120))
    said = await asyncio.to_thread(told, direct, stage.decode)
    assert {name for name, text in said[0].items() if CANARY in text} == {"calls", *SHOWN.values()}


@pytest.mark.parametrize("script", PLACES, ids=lambda script: script.id)
async def test_the_sdk_takes_the_answer_by_its_iterator_and_by_its_helper(stage: Stage, script: Script) -> None:
    body = Harness(script).request()
    async with stage.sdk() as client:
        chunks = [chunk async for chunk in await client.chat.completions.create(**body, stream=True)]
        assert CANARY in str(reads(stage.tap.last.response, lambda ids: "")[0].calls)
        assert CANARY not in "".join(chunk.model_dump_json() for chunk in chunks)
        async with client.chat.completions.stream(**body) as helper:
            async for _ in helper:
                pass
            final = await helper.get_final_completion()
        whole = await client.chat.completions.create(**body)
    for choice in (final.choices[0], whole.choices[0]):
        assert CANARY not in choice.model_dump_json()
        assert "interlock.shell" in (choice.message.content or "")
        calls = [(call.function.name, json.loads(call.function.arguments)) for call in choice.message.tool_calls or []]
        assert calls == lawful(script)
        assert choice.finish_reason == ("tool_calls" if lawful(script) else "stop")


@pytest.mark.parametrize("script", PLACES, ids=lambda script: script.id)
async def test_the_agent_goes_on_after_the_refusal_to_its_other_ending(stage: Stage, script: Script) -> None:
    harness = Harness(script)
    async with stage.sdk() as client:
        while not harness.done:
            answer = await client.chat.completions.create(**harness.request())
            harness.take(answer.choices[0].message.model_dump(exclude_none=True))
    assert harness.refused
    assert CANARY not in json.dumps(harness.messages)
    assert harness.messages[-1]["content"].strip() == script.refused[-1].text


ODD = {
    "stream that is a word": lambda body: json.dumps({**body, "stream": "yes"}).encode(),
    "n that is a text": lambda body: json.dumps({**body, "n": "1"}).encode(),
    "UTF-16": lambda body: json.dumps(body).encode("utf-16"),
    "a byte order mark": lambda body: json.dumps(body).encode("utf-8-sig"),
    "a field that stands twice": lambda body: b'{"stream": false, ' + json.dumps({**body, "stream": True}).encode()[1:],
    "a number beyond doubles": lambda body: (
        json.dumps({**body, "xyzzy": 0}).replace('"xyzzy": 0', '"xyzzy": 1e999').encode()
    ),
}


@pytest.mark.parametrize("odd", ODD)
async def test_a_spelling_that_only_vllm_understands_opens_no_way_round(stage: Stage, odd: str) -> None:
    request = http("POST", CHAT, ODD[odd](Harness(DISK).request()))
    direct = parse(await send(stage.vllm.port, request, seconds=120))
    assert CANARY in str(reads(direct, lambda ids: "")[0].calls), "vLLM does not take it, so it shows nothing"
    asked = len(stage.tap.exchanges)
    answer = parse(await send(stage.port, request))
    assert answer.start == "HTTP/1.1 400 Bad Request"
    assert json.loads(answer.body)["error"]["code"] in ("ambiguous_body", "ambiguous_field")
    assert len(stage.tap.exchanges) == asked
