"""One refusal on every API: a call that was left in plain text never arrives, streamed or whole, in text or reasoning;
and the SDKs, their stream accumulators too, take an answer that a policy on text has cut.

Scripted answers in vLLM's wire form, through a whole Interlock with the policies that ship. (What becomes of a refused
tool call on each API is in the ``test_refused_*`` files beside this one.)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
import pytest_asyncio

from tests.policies.support import built
from tests.support import messages, responses, serving
from tests.support.apis import APIS, heard
from tests.support.chat import Call, Say
from tests.support.interlock import port_of, running
from tests.support.raw import Script, scripted, send
from tests.support.serving import answering, post, streaming
from tests.support.wire import parse

pytestmark = pytest.mark.asyncio(loop_scope="module")

CANARY = "canary-7f3a91"
BAD = Call("run_shell", f'{{"command":"rm -rf /srv/{CANARY}"}}')
GOOD = Call("get_weather", '{"city":"Oslo"}')
KEY = "AKIA" + "Z7FAKE2DEMO3KEY5"
WRITTEN = {
    "hermes": f'<tool_call>\n{{"name": "run_shell", "arguments": {BAD.arguments}}}\n</tool_call>',
    "hermes on one line": f'<tool_call>{{"name":"run_shell","arguments":{BAD.arguments}}}</tool_call>',
    "llama": f'<|python_tag|>{{"name": "run_shell", "parameters": {BAD.arguments}}}',
    "mistral": f'[TOOL_CALLS][{{"name": "run_shell", "arguments": {BAD.arguments}}}]',
    "never closed": f'<tool_call>\n{{"name": "run_shell", "arguments": {BAD.arguments}}}',
}
HARMLESS = '<tool_call>\n{"name": "run_shell", "arguments": {"command": "pytest -q"}}\n</tool_call>'
SURFACES = [(name, surface) for name, api in APIS.items() for surface in api.says]
POLICY = """\
# METADATA
# title: No keys in what the model says
# custom:
#   severity: high
#   hold: {hold}
#   patterns: [secrets/aws_access_key_id]
package interlock.policies.team.keys

output contains finding if {{
	some signal in input.signals
	finding := {{"id": "key", "severity": "high", "action": "deny", "message": "It named a key.", "tags": []}}
}}
"""


class Stage:
    def __init__(self) -> None:
        self.script: Script
        self.port = 0

    async def play(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        await self.script(request, writer)

    async def asks(self, name: str, say: Say, *, stream: bool, interval: int = 1) -> tuple[bytes, bytes]:
        """What the model server sent, and what the client got."""
        api = APIS[name]
        events = api.events(say, interval) if stream else [api.body(say)]
        self.script = streaming(events) if stream else answering(events[0])
        answer = parse(await send(self.port, post(api.ask(stream=stream), path=api.path)))
        assert answer.start == "HTTP/1.1 200 OK", answer.body
        assert answer.whole
        return b"".join(events), answer.body


@asynccontextmanager
async def staged(state: Path, **sections: Any) -> AsyncIterator[Stage]:
    stage = Stage()
    async with scripted(stage.play) as upstream, running(upstream.url, state, **sections) as interlock:
        stage.port = port_of(interlock)
        yield stage


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with staged(tmp_path_factory.mktemp("everywhere") / "state") as stage:
        yield stage


def say_in(surface: str, text: str, calls: tuple[Call, ...] = ()) -> Say:
    return Say(text, "So be it.", calls) if surface == "reasoning" else Say("Hm, well.", text, calls)


def tools_of(name: str) -> tuple[Call, ...]:
    return () if "completions" in name or name == "batch" else (GOOD,)


@pytest.mark.parametrize(("name", "surface"), SURFACES)
@pytest.mark.parametrize("written", WRITTEN)
async def test_a_call_that_is_left_in_plain_text_never_arrives(
    stage: Stage, name: str, surface: str, written: str
) -> None:
    api = APIS[name]
    for calls in {(), tools_of(name)}:
        say = say_in(surface, f"Let me see. {WRITTEN[written]}", calls)
        forms = [(True, 1), (True, 5), (False, 1)] if api.stream is not None else [(False, 1)]
        for stream, interval in forms:
            sent, body = await stage.asks(name, say, stream=stream, interval=interval)
            assert CANARY in str(heard(sent))
            told = heard(body)
            assert CANARY not in str(told), (stream, interval)
            assert "rm -rf" not in str(told).replace("`rm -rf", "")
            assert all("interlock.shell" in said for said in api.said(told, "text", stream=stream))


@pytest.mark.parametrize(("name", "surface"), SURFACES)
async def test_a_lawful_call_that_is_left_in_plain_text_passes(stage: Stage, name: str, surface: str) -> None:
    api = APIS[name]
    say = say_in(surface, f"Let me see. {HARMLESS} Done.", tools_of(name))
    for stream in (True, False) if api.stream is not None else (False,):
        sent, body = await stage.asks(name, say, stream=stream)
        if api.choices == 1 or not stream:
            assert body == sent
        else:
            assert sorted(body.split(b"\n\n")) == sorted(sent.split(b"\n\n"))


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("stream", [True, False])
async def test_by_invocations_a_forbidden_call_never_arrives_either(stage: Stage, place: int, stream: bool) -> None:
    calls = [GOOD, Call("run_shell", '{"command":"pytest -q"}')]
    calls.insert(place, BAD)
    say = Say("I look.\n", "I will clean up now.\n", tuple(calls))
    sent, body = await stage.asks("chat by /invocations", say, stream=stream)
    assert CANARY in str(heard(sent))
    assert CANARY not in str(heard(body))
    assert b"interlock.shell" in body
    assert b"get_weather" in body


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["none", "tail(24)", "all"])
async def keyed(
    request: pytest.FixtureRequest, opa_binary: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stage]:
    """A policy on text is in force, with each hold."""
    folder = tmp_path_factory.mktemp("keyed")
    built(opa_binary, folder / "sources", {"team/keys/policy.rego": POLICY.format(hold=request.param)}).write(
        folder / "bundle"
    )
    policies = {"bundle": folder / "bundle", "modes": {"team.keys": "enforce"}}
    async with staged(folder / "state", policies=policies) as stage:
        yield stage


CUT = Say("Let me look.", f"The key is {KEY} and some more of it. " * 3, (GOOD,))


@pytest.mark.opa
async def test_openai_s_accumulators_take_a_cut_answer(keyed: Stage) -> None:
    async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{keyed.port}/v1", api_key="x", max_retries=0) as client:
        keyed.script = streaming(APIS["chat"].events(CUT))
        asked: Any = [{"role": "user", "content": "Clean up."}]
        async with client.chat.completions.stream(model="tiny", messages=asked, tools=serving.TOOLS) as helper:
            async for _ in helper:
                pass
            final = await helper.get_final_completion()
        choice = final.choices[0]
        assert "It named a key." in (choice.message.content or "")
        assert (choice.finish_reason, choice.message.tool_calls or []) == ("stop", [])

        keyed.script = streaming(APIS["completions"].events(CUT))
        chunks = [
            chunk async for chunk in await client.completions.create(model="tiny", prompt="Clean up.", stream=True)
        ]
        assert "It named a key." in "".join(chunk.choices[0].text for chunk in chunks)
        assert chunks[-1].choices[0].finish_reason == "stop"

        keyed.script = streaming(APIS["responses"].events(CUT))
        async with client.responses.stream(model="tiny", input="Clean up.", tools=responses.TOOLS) as told:
            events = [event async for event in told]
            response = await told.get_final_response()
        assert "It named a key." in response.output_text
        assert response.status == "completed"
        assert [item.type for item in response.output if item.type == "function_call"] == []
        assert [event.sequence_number for event in events if event.type.startswith("response.")] == sorted(
            event.sequence_number for event in events if event.type.startswith("response.")
        )


@pytest.mark.opa
async def test_anthropic_s_accumulator_takes_a_cut_answer(keyed: Stage) -> None:
    keyed.script = streaming(APIS["messages"].events(CUT))
    async with (
        anthropic.AsyncAnthropic(base_url=f"http://127.0.0.1:{keyed.port}", api_key="x", max_retries=0) as client,
        client.messages.stream(
            model="tiny", max_tokens=300, messages=[{"role": "user", "content": "Clean up."}], tools=messages.TOOLS
        ) as helper,
    ):
        said = [text async for text in helper.text_stream]
        message = await helper.get_final_message()
    assert "It named a key." in "".join(said)
    assert message.stop_reason == "end_turn"
    assert {block.type for block in message.content} <= {"thinking", "text"}
