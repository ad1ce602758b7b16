"""The official SDKs take masked answers, streamed by their accumulators and whole, and what they send back at the next
turn is known as what was given: the run goes on, and nothing of it is new."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
import pytest_asyncio

from proxy.runs import RunBook, Sighting
from tests.support import chat, messages, responses
from tests.support.chat import Call, Say
from tests.support.masking import KEY, MASK, masking
from tests.support.serving import answering, streaming
from tests.support.text_stage import TextStage

pytestmark = [pytest.mark.opa, pytest.mark.asyncio(loop_scope="module")]

SAY = Say("Hm.", f"The key is {KEY}, I look.", (Call("read_file", json.dumps({"path": f"/tmp/{KEY} ☂"})),))
TEXT = f"The key is {MASK}, I look."
ARGUMENTS = {"path": f"/tmp/{MASK} ☂"}
DONE = Say(text="Done.")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(opa_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TextStage]:
    async with masking(opa_binary, tmp_path_factory.mktemp("turns"), ["tail"]) as stages:
        yield stages["tail"]


@pytest.fixture
def sightings(monkeypatch: pytest.MonkeyPatch) -> list[Sighting]:
    """How each request's history was known."""
    seen: list[Sighting] = []
    identify = RunBook.identify

    def look(self: RunBook, *args: Any, **named: Any) -> Sighting:
        seen.append(identify(self, *args, **named))
        return seen[-1]

    monkeypatch.setattr(RunBook, "identify", look)
    return seen


def known(sightings: list[Sighting], before: int) -> None:
    first, second = sightings
    assert second.run is first.run
    assert second.new_from == before, "the answer is known"


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_chat_goes_on(stage: TextStage, sightings: list[Sighting], streamed: bool) -> None:
    history: list[Any] = [{"role": "user", "content": f"Look {streamed}."}]
    asked: dict[str, Any] = {"model": "tiny", "tools": chat_tools(), "logprobs": True}
    async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{stage.port}/v1", api_key="x", max_retries=0) as client:
        if streamed:
            stage.script = streaming(chat.stream(SAY, logprobs=True, token_ids=True))
            async with client.chat.completions.stream(messages=history, **asked) as helper:
                async for _ in helper:
                    pass
                final: Any = await helper.get_final_completion()
        else:
            stage.script = answering(chat.whole(SAY, logprobs=True, token_ids=True))
            final = await client.chat.completions.create(messages=history, **asked)
        message = final.choices[0].message
        (call,) = message.tool_calls
        assert (message.content, json.loads(call.function.arguments)) == (TEXT, ARGUMENTS)
        assert final.choices[0].finish_reason == "tool_calls"
        assert "I" in [token.token for token in final.choices[0].logprobs.content]
        history.append(message.model_dump(exclude_none=True, exclude={"parsed"}))
        history[-1]["tool_calls"] = [
            {"id": call.id, "type": "function", "function": call.function.model_dump(include={"name", "arguments"})}
        ]
        history.append({"role": "tool", "tool_call_id": call.id, "content": "ok"})
        stage.script = answering(chat.whole(DONE))
        await client.chat.completions.create(messages=history, model="tiny", tools=chat_tools())
    known(sightings, 2)


def chat_tools() -> list[Any]:
    return [{"type": "function", "function": {"name": "read_file", "parameters": {"type": "object", "properties": {}}}}]


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_message_goes_on(stage: TextStage, sightings: list[Sighting], streamed: bool) -> None:
    history: list[Any] = [{"role": "user", "content": f"Look, {streamed}."}]
    asked: dict[str, Any] = {"model": "tiny", "max_tokens": 300, "tools": messages.TOOLS}
    async with anthropic.AsyncAnthropic(
        base_url=f"http://127.0.0.1:{stage.port}", api_key="x", max_retries=0
    ) as client:
        if streamed:
            stage.script = streaming(messages.stream(SAY))
            async with client.messages.stream(messages=history, **asked) as helper:
                message: Any = await helper.get_final_message()
        else:
            stage.script = answering(messages.whole(SAY))
            message = await client.messages.create(messages=history, **asked)
        said = "".join(block.text for block in message.content if block.type == "text")
        (call,) = [block for block in message.content if block.type == "tool_use"]
        assert (said, call.input, message.stop_reason) == (TEXT, ARGUMENTS, "tool_use")
        history.append({"role": "assistant", "content": messages.blocks_of(message)})
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "ok"}
        history.append({"role": "user", "content": [result]})
        stage.script = answering(messages.whole(DONE))
        await client.messages.create(messages=history, **asked)
    known(sightings, 2)


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_response_goes_on(stage: TextStage, sightings: list[Sighting], streamed: bool) -> None:
    history: list[Any] = [{"role": "user", "content": f"Look: {streamed}."}]
    asked: dict[str, Any] = {"model": "tiny", "tools": responses.TOOLS}
    async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{stage.port}/v1", api_key="x", max_retries=0) as client:
        if streamed:
            stage.script = streaming(responses.stream(SAY))
            async with client.responses.stream(input=history, **asked) as helper:
                async for _ in helper:
                    pass
                final: Any = await helper.get_final_response()
        else:
            stage.script = answering(responses.whole(SAY))
            final = await client.responses.create(input=history, **asked)
        (call,) = [item for item in final.output if item.type == "function_call"]
        assert (final.output_text, json.loads(call.arguments), final.status) == (TEXT, ARGUMENTS, "completed")
        assert KEY not in final.model_dump_json()
        history += [item.model_dump(exclude_none=True, exclude={"parsed_arguments"}) for item in final.output]
        history.append({"type": "function_call_output", "call_id": call.call_id, "output": "ok"})
        stage.script = answering(responses.whole(DONE))
        await client.responses.create(input=history, **asked)
    known(sightings, 2)
