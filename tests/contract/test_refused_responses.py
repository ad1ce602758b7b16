"""A destructive call never reaches a client of ``/v1/responses``, under the policies that ship (no settings).

Scripted answers in vLLM's wire form, through a whole Interlock with the embedded engine; OpenAI's own SDK takes
every refusal, by its iterator and by its accumulating helper.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
import pytest_asyncio

from tests.support.chat import Call, Say
from tests.support.forbidden import ALSO, BAD, CANARY, GOOD, PLACES
from tests.support.interlock import port_of, running
from tests.support.raw import scripted, send
from tests.support.responses import TOOLS, ask, read_stream, read_whole, stream, whole
from tests.support.serving import answering, post, streaming
from tests.support.stage import Stage
from tests.support.wire import parse

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATH = "/v1/responses"
LOGPROBS = ["message.output_text.logprobs"]


class ResponsesStage(Stage):
    admin = ""

    def client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key="x", max_retries=0)

    async def runs(self) -> dict[str, int]:
        """Each run's id, and how many exchanges it has had."""
        headers = {"Authorization": "Bearer an-operators-token"}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.get(f"{self.admin}/v1/runs?limit=1000") as answer,
        ):
            return {run["id"]: run["steps"] for run in (await answer.json())["runs"]}

    async def post(self, body: dict[str, Any] | bytes) -> Any:
        return parse(await send(self.port, post(body, path=PATH)))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ResponsesStage]:
    stage = ResponsesStage()
    state: Path = tmp_path_factory.mktemp("refused") / "state"
    listen = {"admin_token": "an-operators-token"}
    async with scripted(stage.play) as stage.upstream, running(stage.upstream.url, state, listen=listen) as interlock:
        stage.port, stage.admin = port_of(interlock), interlock.admin_url
        yield stage


def says(place: str) -> tuple[Say, list[Call]]:
    calls = PLACES[place]
    return Say("I look around.\n", "I will clean up now.\n", calls), [c for c in calls if c is not BAD]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("top", "interval"), list(itertools.product([None, 0, 2], [1, 5])))
async def test_it_never_arrives_in_a_stream(stage: ResponsesStage, place: str, top: int | None, interval: int) -> None:
    say, lawful = says(place)
    events = stream(say, logprobs=top is not None, top=top or 0, interval=interval)
    assert CANARY in read_stream(b"".join(events)).raw
    stage.script = streaming(events)
    fields = {"include": LOGPROBS, "top_logprobs": top} if top is not None else {}
    answer = await stage.post(ask(stream=True, **fields))
    assert answer.start == "HTTP/1.1 200 OK"
    assert CANARY.encode() not in answer.body
    read = read_stream(answer.body)
    assert "rm -" not in read.logprob_text
    assert read.reasoning == "I look around.\n"
    assert read.text.startswith("I will clean up now.\n\n\n[run_shell] ")
    assert "interlock.shell" in read.text
    assert [(c["name"], c["arguments"]) for c in read.calls] == [(c.name, c.arguments) for c in lawful]
    assert read.status == "completed"


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("top", [None, 0, 2])
async def test_it_never_arrives_in_a_whole_answer(stage: ResponsesStage, place: str, top: int | None) -> None:
    say, lawful = says(place)
    body = whole(say, logprobs=top is not None, top=top or 0)
    stage.script = answering(body)
    fields = {"include": LOGPROBS, "top_logprobs": top} if top is not None else {}
    answer = await stage.post(ask(**fields))
    assert answer.start == "HTTP/1.1 200 OK"
    assert CANARY.encode() not in answer.body
    read = read_whole(answer.body)
    assert "rm -" not in read.logprob_text
    assert read.reasoning == "I look around.\n"
    assert "interlock.shell" in read.text
    assert [(c["name"], c["arguments"]) for c in read.calls] == [(c.name, c.arguments) for c in lawful]
    if top is not None and lawful:
        assert "Oslo" in read.logprob_text


@pytest.mark.parametrize("place", PLACES)
async def test_the_refusal_is_the_same_item_streamed_and_whole(stage: ResponsesStage, place: str) -> None:
    say, _ = says(place)
    stage.script = streaming(stream(say))
    streamed = read_stream((await stage.post(ask(stream=True))).body)
    stage.script = answering(whole(say))
    at_once = read_whole((await stage.post(ask())).body)
    assert streamed.output[2:] == at_once.output[2:]


@pytest.mark.parametrize("place", PLACES)
async def test_the_sdk_takes_the_answer_by_its_iterator_and_by_its_helper(stage: ResponsesStage, place: str) -> None:
    say, lawful = says(place)
    asked: dict[str, Any] = {"model": "tiny", "input": "Clean up.", "tools": TOOLS}
    async with stage.client() as client:
        stage.script = streaming(stream(say))
        events = [event async for event in await client.responses.create(**asked, stream=True)]
        assert CANARY not in "".join(event.model_dump_json() for event in events)
        assert [event.sequence_number for event in events] == list(range(len(events)))
        stage.script = streaming(stream(say))
        async with client.responses.stream(**asked) as helper:
            async for _ in helper:
                pass
            accumulated = await helper.get_final_response()
        stage.script = answering(whole(say))
        at_once = await client.responses.create(**asked)
    for final in (accumulated, at_once):
        assert CANARY not in final.model_dump_json()
        assert "interlock.shell" in final.output_text
        assert [item.name for item in final.output if item.type == "function_call"] == [c.name for c in lawful]


async def test_a_tool_loop_goes_on_in_one_run(stage: ResponsesStage) -> None:
    """A client that sends the items back is known by them, refused ones too."""
    before = await stage.runs()
    async with stage.client() as client:
        history: list[Any] = [{"role": "user", "content": "Clean up."}]
        for say in (Say("Hm.", "\n\n", (BAD, ALSO)), Say("Hm.", "Well.", (BAD,)), Say("", "Done.")):
            stage.script = streaming(stream(say))
            async with client.responses.stream(model="tiny", input=history, tools=TOOLS) as helper:
                final = await helper.get_final_response()
            history += [item.model_dump(exclude_none=True) for item in final.output]
            history += [
                {"type": "function_call_output", "call_id": item.call_id, "output": "3 passed"}
                for item in final.output
                if item.type == "function_call"
            ]
            history.append({"role": "user", "content": "Go on."})
    assert final.output_text == "Done."
    after = await stage.runs()
    assert [steps for run, steps in after.items() if run not in before] == [3]


@pytest.mark.parametrize(
    "arguments",
    [
        f'{{"command": "rm -rf /srv/{CANARY}", "command": "ls"}}',
        f'{{"command": "ls"}} {{"command": "rm -rf /srv/{CANARY}"}}',
        f'{{"command": "rm -rf /srv/{CANARY}", "x": NaN}}',
        f'["rm -rf /srv/{CANARY}"]',
        f'{{"command": "rm -rf /srv/{CANARY}"',
        f'{{"command": ["rm", "-rf", "/srv/{CANARY}"]}}',
        '{"command": "r\\u006d -rf /srv/' + CANARY + '"}',
    ],
)
async def test_odd_arguments_are_no_way_round(stage: ResponsesStage, arguments: str) -> None:
    for streamed in (True, False):
        for finish in (None, "length"):
            say = Say(text="Go.", calls=(GOOD, Call("run_shell", arguments)), finish=finish)
            stage.script = streaming(stream(say)) if streamed else answering(whole(say))
            answer = await stage.post(ask(stream=streamed))
            read = (read_stream if streamed else read_whole)(answer.body)
            assert CANARY.encode() not in answer.body
            assert [c["name"] for c in read.calls] == ["get_weather"]
            assert read.status == ("incomplete" if finish else "completed")


@pytest.mark.parametrize(
    "fields",
    [
        {"stream": "yes"},
        {"stream": 1},
        {"background": "on"},
        {"max_output_tokens": "12"},
        {"input": [{"role": "user", "content": "x", "tool_calls": []}]},
        {"input": [{"role": "user", "type": "function_call_output", "call_id": "c", "output": "x"}]},
    ],
)
async def test_a_field_that_the_model_server_would_coerce_is_refused(
    stage: ResponsesStage, fields: dict[str, Any]
) -> None:
    seen = len(stage.upstream.requests)
    answer = await stage.post(ask(**fields))
    assert answer.start.startswith("HTTP/1.1 400")
    assert json.loads(answer.body)["error"]["code"] == "ambiguous_field"
    assert len(stage.upstream.requests) == seen


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "mcp", "server_label": "x", "server_url": "http://x"}]},
        {"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]},
        {"tools": [{"type": "custom", "name": "patch"}]},
        {"tools": [{"type": "namespace", "name": "a", "description": "", "tools": [{"type": "custom", "name": "b"}]}]},
        {"input": [{"type": "message", "role": "assistant", "content": [], "status": "in_progress"}]},
    ],
)
async def test_what_hides_calls_is_refused(stage: ResponsesStage, fields: dict[str, Any]) -> None:
    seen = len(stage.upstream.requests)
    answer = await stage.post(ask(**fields))
    assert answer.start.startswith("HTTP/1.1 403")
    assert json.loads(answer.body)["error"]["code"] == "hidden_surface"
    assert len(stage.upstream.requests) == seen


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_call_that_is_left_in_the_text_is_no_way_round(stage: ResponsesStage, streamed: bool) -> None:
    written = f'<tool_call>\n{{"name": "run_shell", "arguments": {BAD.arguments}}}\n</tool_call>'
    say = Say("Hm.\n", f"Let me see. {written} Done.")
    stage.script = streaming(stream(say)) if streamed else answering(whole(say))
    answer = await stage.post(ask(stream=streamed))
    read = (read_stream if streamed else read_whole)(answer.body)
    assert CANARY.encode() not in answer.body
    assert "interlock.shell" in read.text
    assert (read.calls, read.status) == ([], "completed")


@pytest.mark.parametrize("kind", ["custom_tool_call", "mcp_call", "local_shell_call", "computer_call", "shell_call"])
async def test_another_kind_of_call_does_not_arrive(stage: ResponsesStage, kind: str) -> None:
    say = Say("Hm.", "", (GOOD,))
    other = {"type": kind, "id": "x_1", "call_id": "c_1", "name": "patch", "input": CANARY, "status": "completed"}
    events = stream(say)
    final = json.loads(events[-1].partition(b"\ndata: ")[2])
    added = {"type": "response.output_item.added", "output_index": 2, "sequence_number": len(events) - 1, "item": other}
    stage.script = streaming(
        [
            *events[:-1],
            b"event: response.output_item.added\ndata: " + json.dumps(added).encode() + b"\n\n",
            events[-1],
        ]
    )
    answer = await stage.post(ask(stream=True))
    assert CANARY.encode() not in answer.body
    assert b'"unjudged_answer"' in answer.body.split(b"\n\n")[-2]
    body = {**final["response"], "output": [*final["response"]["output"], other]}
    stage.script = answering(json.dumps(body).encode())
    answer = await stage.post(ask())
    assert answer.start.startswith("HTTP/1.1 502")
    assert json.loads(answer.body)["error"]["code"] == "unjudged_answer"


async def test_an_upstream_that_dies_in_mid_stream_looks_like_one(stage: ResponsesStage) -> None:
    events = stream(Say("Hm.", "Hi.", (BAD,)))

    async def script(request: bytes, writer: asyncio.StreamWriter) -> None:
        await streaming(events[:-3])(request, _Unending(writer))  # type: ignore[arg-type]
        writer.close()

    stage.script = script
    answer = await stage.post(ask(stream=True))
    assert not answer.whole
    call = next(i for i, event in enumerate(events) if b"function_call" in event)
    assert answer.body == b"".join(events[:call])


class _Unending:
    """A writer that loses the last chunk."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.drain = writer.drain

    def write(self, data: bytes) -> None:
        if data != b"0\r\n\r\n":
            self._writer.write(data)
