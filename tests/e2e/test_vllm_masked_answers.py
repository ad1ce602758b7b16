"""On a real vLLM: a key that the model says, thinks and hands to a tool is masked, in every channel of the answer, and
the answer goes on. A tap shows that vLLM did say it in the very exchange."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
import pytest_asyncio

from serving.tiny.harness import Harness, message_of
from serving.tiny.scripts import KEY, LEAK_PROMPT, LEAK_TEXT
from tests.policies.support import built
from tests.support import completions
from tests.support.apis import heard
from tests.support.channels import Decode, detokenizer, reads, told
from tests.support.interlock import port_of, running
from tests.support.masking import MASK, POLICY, tokens_fit
from tests.support.messages import MessagesHarness
from tests.support.raw import send
from tests.support.servers import VllmServer
from tests.support.tap import Tap, tapped
from tests.support.text_stage import HOLDS
from tests.support.vllm_requests import chat, http
from tests.support.wire import parse

pytestmark = [pytest.mark.vllm, pytest.mark.opa, pytest.mark.asyncio(loop_scope="module")]

ALL_TOKENS: dict[str, Any] = {"logprobs": True, "top_logprobs": 2, "return_token_ids": True}
FORMS: dict[str, dict[str, Any]] = {
    "whole": {},
    "whole with all tokens": ALL_TOKENS,
    "whole, two choices": {"n": 2, "seed": 7, "temperature": 0.3, **ALL_TOKENS},
    "streamed": {"stream": True},
    "streamed with all tokens": {"stream": True, **ALL_TOKENS},
    "streamed with token ids": {"stream": True, "return_token_ids": True},
    "streamed, five tokens an event": {"stream": True, "stream_interval": 5, **ALL_TOKENS},
    "streamed, two choices": {"stream": True, "n": 2, "seed": 7, "temperature": 0.3, **ALL_TOKENS},
}


@dataclass
class Stage:
    tap: Tap
    port: int
    decode: Decode


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["tail", "all"])
async def stage(
    request: pytest.FixtureRequest, vllm_server: VllmServer, opa_binary: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stage]:
    hold, folder = request.param, tmp_path_factory.mktemp("masked")
    source = {f"team/hold_{hold}/policy.rego": POLICY.format(name=f"hold_{hold}", hold=HOLDS[hold])}
    built(opa_binary, folder / "sources", source, with_library=True).write(folder / "bundle")
    policies = {"bundle": folder / "bundle", "modes": {f"team.hold_{hold}": "enforce", "interlock.secrets": "off"}}
    async with tapped(vllm_server.port) as tap, running(tap.url, folder / "state", policies=policies) as interlock:
        yield Stage(tap, port_of(interlock), detokenizer(vllm_server.url, vllm_server.model))


def saying_it(**fields: Any) -> dict[str, Any]:
    """The request at which the model says the key in its answer's text."""
    harness = Harness(LEAK_TEXT)
    harness.take(message_of(LEAK_TEXT.turns[0]))
    return harness.request(**fields)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("where", ["text", "reasoning and call"])
async def test_the_key_is_masked_in_every_channel(stage: Stage, form: str, where: str) -> None:
    fields = FORMS[form]
    body = saying_it(**fields) if where == "text" else Harness(LEAK_PROMPT).request(**fields)
    answer = parse(await send(stage.port, chat(body), seconds=120))
    assert answer.start == "HTTP/1.1 200 OK"
    assert answer.whole
    said = await asyncio.to_thread(told, stage.tap.last.response, stage.decode)
    given = await asyncio.to_thread(told, answer, stage.decode)
    channels = ["text"] if where == "text" else ["reasoning", "calls"]
    for number, one in said.items():
        for channel in channels:
            assert KEY in one[channel], "vLLM itself did not say it"
            assert given[number][channel] == one[channel].replace(KEY, MASK)
        for channel in ("logprobs", "token ids"):
            assert (KEY in one[channel]) if channel in one else True
        pieces = {KEY[at : at + 4] for at in range(len(KEY) - 3)}
        leaks = {channel: text for channel, text in given[number].items() if any(piece in text for piece in pieces)}
        assert leaks == {}
        if "logprobs" in fields:
            assert given[number]["logprobs"], "other tokens stay"
    before, after = reads(stage.tap.last.response, lambda ids: ""), reads(answer, lambda ids: "")
    assert {number: read.finish for number, read in after.items()} == {n: read.finish for n, read in before.items()}
    tokens_fit(answer.body)


@pytest.mark.parametrize(
    "fields",
    [{}, {"stream": True}, {"stream": True, "stream_interval": 5}, {"stream": True, "stop": ["never said"]}],
    ids=["whole", "streamed", "five tokens an event", "text behind its tokens"],
)
async def test_a_completion_is_masked_with_its_tokens(stage: Stage, fields: dict[str, Any]) -> None:
    prompt = await asyncio.to_thread(rendered, stage, saying_it())
    streamed = "stream" in fields
    asked = {"model": "tiny", "prompt": prompt, "max_tokens": 200, "temperature": 0, **fields}
    body = json.dumps({**asked, "logprobs": 2, "return_token_ids": True}).encode()
    answer = parse(await send(stage.port, http("POST", "/v1/completions", body), seconds=120))
    assert answer.start == "HTTP/1.1 200 OK", answer.body
    read_by = completions.read_stream if streamed else completions.read_whole
    before, after = read_by(stage.tap.last.response.body)[0], read_by(answer.body)[0]
    assert KEY in before.text
    assert KEY in before.logprob_text
    assert (after.text, after.finish) == (before.text.replace(KEY, MASK), before.finish)
    shown = await asyncio.to_thread(stage.decode, after.ids)
    pieces = [KEY[at : at + 4] for at in range(len(KEY) - 3)]
    assert not any(piece in said for piece in pieces for said in (after.logprob_text, shown))
    if "stop" not in fields:  # of text that lags nobody can say which tokens it is
        assert "eu-1" in after.logprob_text, "other tokens stay"
        tokens_fit(answer.body)


def rendered(stage: Stage, body: dict[str, Any]) -> str:
    """The prompt that vLLM makes of a chat."""
    asked = json.dumps({name: body[name] for name in ("model", "messages", "tools")}).encode()
    url = f"http://127.0.0.1:{stage.port}/tokenize"
    with urllib.request.urlopen(urllib.request.Request(url, asked, {"content-type": "application/json"})) as answer:
        return stage.decode(json.load(answer)["tokens"])


@pytest.mark.parametrize("streamed", [True, False])
async def test_the_sdks_read_it_on_the_other_apis(stage: Stage, streamed: bool) -> None:
    tools = [{"type": "function", **tool["function"]} for tool in Harness(LEAK_PROMPT).request()["tools"]]
    asked: dict[str, Any] = {"model": "tiny", "temperature": 0, "input": LEAK_PROMPT.prompt, "tools": tools}
    async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{stage.port}/v1", api_key="x", max_retries=0) as client:
        if streamed:
            async with client.responses.stream(**asked) as helper:
                response: Any = await helper.get_final_response()
        else:
            response = await client.responses.create(**asked)
    assert any(KEY in said for said in heard(stage.tap.last.response.body).values())
    (call,) = [item for item in response.output if item.type == "function_call"]
    assert json.loads(call.arguments) == {"to": "kim@partner.example", "body": f"Use {MASK}"}
    assert KEY not in json.dumps([item.model_dump() for item in response.output])
    body = MessagesHarness(LEAK_PROMPT).request(extra_body={"temperature": 0})
    del body["temperature"]
    async with anthropic.AsyncAnthropic(
        base_url=f"http://127.0.0.1:{stage.port}", api_key="x", max_retries=0
    ) as client:
        if streamed:
            async with client.messages.stream(**body) as streaming:
                message: Any = await streaming.get_final_message()
        else:
            message = await client.messages.create(**body)
    assert any(KEY in said for said in heard(stage.tap.last.response.body).values())
    (block,) = [block for block in message.content if block.type == "tool_use"]
    assert block.input == {"to": "kim@partner.example", "body": f"Use {MASK}"}
    assert message.stop_reason == "tool_use"
    assert KEY not in message.model_dump_json()
