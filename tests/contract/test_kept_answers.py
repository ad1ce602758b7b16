"""Answers that the model server keeps: gone on from, fetched and cancelled by their id, and no way round the judge.

The upstream is a script of vLLM's store (``VLLM_ENABLE_RESPONSES_API_STORE=1``): it keeps what it answered, refused
calls too, and gives it to whoever has the id.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
import pytest_asyncio

from tests.policies.support import built
from tests.support.chat import Call, Say
from tests.support.interlock import port_of, running
from tests.support.raw import scripted, send
from tests.support.responses import TOOLS, ask, read_stream, read_whole, response, stream, whole
from tests.support.serving import answering, post, streaming
from tests.support.wire import Message, parse

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOKEN = "an-operators-token"
CANARY = "canary-7f3a91"
BAD = Call("run_shell", f'{{"command": "rm -rf /srv/{CANARY}"}}')
GOOD = Call("get_weather", '{"city": "Oslo ☂"}')
CALLS = Say("I look.\n", "I will clean up now.\n", (BAD, GOOD))
PATH = "/v1/responses"
LOOK = b'{"error":{"message":"Response with id not found.","type":"invalid_request_error","code":404}}'


class Store:
    """An upstream that keeps its answers. ``says`` is what it answers next."""

    def __init__(self) -> None:
        self.says = CALLS
        self.kept: dict[str, tuple[Say, bool]] = {}
        self.asked: list[Message] = []
        self.ready = True

    async def play(self, raw: bytes, writer: asyncio.StreamWriter) -> None:
        request = parse(raw)
        self.asked.append(request)
        method, target, _ = request.start.split()
        path, _, query = target.partition("?")
        if method == "POST" and path == PATH:
            body = json.loads(request.body)
            answer_id = body.get("request_id") or f"resp_{len(self.asked):016x}"
            self.kept[answer_id] = (self.says, bool(body.get("stream")))
            if body.get("background") and not body.get("stream"):
                queued = response([], "queued", answer_id, background=True)
                await answering(json.dumps(queued).encode())(raw, writer)
            elif body.get("stream"):
                await streaming(stream(self.says, answer_id=answer_id))(raw, writer)
            else:
                await answering(whole(self.says, answer_id=answer_id))(raw, writer)
            return
        answer_id = path.split("/")[3]
        if answer_id not in self.kept:
            head = b"HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(LOOK)
            writer.write(head + LOOK)
            return
        say, _ = self.kept[answer_id]
        if path.endswith("/cancel"):
            body = response(json.loads(whole(say))["output"], "cancelled", answer_id, background=True)
            await answering(json.dumps(body).encode())(raw, writer)
        elif "stream=true" in query:
            events = stream(say, answer_id=answer_id)
            after = next((int(f.split("=")[1]) for f in query.split("&") if f.startswith("starting_after=")), -1)
            await streaming(events[after + 1 :])(raw, writer)
        elif self.ready:
            await answering(whole(say, answer_id=answer_id, background=True))(raw, writer)
        else:
            await answering(json.dumps(response([], "in_progress", answer_id)).encode())(raw, writer)


class Stage:
    def __init__(self, port: int, store: Store, admin: str = "") -> None:
        self.port = port
        self.store = store
        self.admin = admin

    async def runs(self) -> dict[str, int]:
        """Each run's id, and how many exchanges it has had."""
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session,
            session.get(f"{self.admin}/v1/runs?limit=1000") as answer,
        ):
            return {run["id"]: run["steps"] for run in (await answer.json())["runs"]}

    def client(self, key: str = "key-of-ann") -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key=key, max_retries=0)

    async def post(self, body: dict[str, Any], key: str = "key-of-ann") -> Message:
        return parse(await send(self.port, post(body, f"Authorization: Bearer {key}", path=PATH)))

    async def get(self, target: str, key: str = "key-of-ann", method: str = "GET") -> Message:
        lines = [f"{method} {PATH}/{target} HTTP/1.1", "Host: test", f"Authorization: Bearer {key}", "", ""]
        return parse(await send(self.port, "\r\n".join(lines).encode()))


def id_of(answer: Message) -> str:
    """The answer's id, streamed or not."""
    if not answer.body.startswith(b"event:"):
        return str(json.loads(answer.body)["id"])
    return str(json.loads(answer.body.split(b"\n\n")[0].partition(b"\ndata: ")[2])["response"]["id"])


AGENTS = {"ann": {"keys": ["key-of-ann"]}, "bob": {"keys": ["key-of-bob"]}}
POLICY = """\
package interlock.policies.tests.words

tool_call contains {
	"id": "call",
	"severity": "high",
	"action": "terminate",
	"message": "No such call here.",
	"tags": [],
} if {
	contains(input.call.raw, "rm -rf")
}

request contains {
	"id": "word",
	"severity": "high",
	"action": "deny",
	"message": "No such word here.",
	"tags": [],
} if {
	some message in input.request.messages
	contains(message.text, "forbidden-word")
}
"""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    store = Store()
    state: Path = tmp_path_factory.mktemp("kept") / "state"
    async with scripted(store.play) as upstream, running(upstream.url, state, agents=AGENTS) as interlock:
        yield Stage(port_of(interlock), store)


@pytest.mark.parametrize("made", ["whole", "stream", "background", "background stream"])
async def test_no_copy_of_a_refused_call_arrives(stage: Stage, made: str) -> None:
    stage.store.says = CALLS
    answer = await stage.post(ask(stream="stream" in made, background="background" in made))
    answer_id = id_of(answer)
    first = read_stream(answer.body) if "stream" in made else read_whole(answer.body)
    assert CANARY not in first.raw
    copies = [
        read_whole((await stage.get(answer_id)).body),
        read_stream((await stage.get(f"{answer_id}?stream=true")).body),
        read_whole((await stage.get(f"{answer_id}/cancel", method="POST")).body),
        read_whole((await stage.get(answer_id)).body),
    ]
    if first.output:
        copies.append(first)
    for copy in copies:
        assert CANARY not in copy.raw
        assert [call["name"] for call in copy.calls] == ["get_weather"]
        refusals = [item for item in copy.output if "interlock.shell" in json.dumps(item)]
        assert refusals == [item for item in copies[0].output if "interlock.shell" in json.dumps(item)]
        assert len(refusals) == 1


async def test_an_answer_that_nobody_changed_is_fetched_byte_for_byte(stage: Stage) -> None:
    stage.store.says = Say("Hm.", "All is well.", (GOOD,))
    answer_id = json.loads((await stage.post(ask())).body)["id"]
    assert (await stage.get(answer_id)).body == whole(stage.store.says, answer_id=answer_id, background=True)
    events = stream(stage.store.says, answer_id=answer_id)
    assert (await stage.get(f"{answer_id}?stream=true")).body == b"".join(events)
    assert (await stage.get(f"{answer_id}?starting_after=5&stream=true")).body == b"".join(events[6:])


async def test_a_client_that_comes_back_to_a_stream_goes_on_where_it_was(stage: Stage) -> None:
    stage.store.says = CALLS
    given = (await stage.post(ask(stream=True, background=True))).body
    answer_id = json.loads(given.split(b"\n\n")[0].partition(b"\ndata: ")[2])["response"]["id"]
    events = [part + b"\n\n" for part in given.split(b"\n\n")[:-1]]
    for after in (0, len(events) // 2, len(events) - 2, len(events) - 1):
        again = await stage.get(f"{answer_id}?stream=true&starting_after={after}")
        assert again.body == b"".join(events[after + 1 :])


@pytest.mark.parametrize("number", ["-1", "1.0", "%201", "1_0", "%D9%A3", "5&starting_after=7"])
async def test_a_place_to_go_on_from_that_can_be_read_in_two_ways_is_refused(stage: Stage, number: str) -> None:
    seen = len(stage.store.asked)
    answer = await stage.get(f"resp_1?stream=true&starting_after={number}")
    assert answer.start.startswith("HTTP/1.1 400")
    assert len(stage.store.asked) == seen


async def test_an_answer_in_the_making_comes_as_it_is_and_is_judged_when_it_is_there(stage: Stage) -> None:
    stage.store.says, stage.store.ready = CALLS, False
    queued = await stage.post(ask(background=True))
    answer_id = json.loads(queued.body)["id"]
    assert json.loads((await stage.get(answer_id)).body)["status"] == "in_progress"
    stage.store.ready = True
    assert CANARY.encode() not in (await stage.get(answer_id)).body


async def test_anothers_answer_is_out_of_reach(stage: Stage) -> None:
    stage.store.says = Say("", "Ann's secret.")
    answer_id = json.loads((await stage.post(ask())).body)["id"]
    seen = len(stage.store.asked)
    for answer in (
        await stage.get(answer_id, "key-of-bob"),
        await stage.get(f"{answer_id}?stream=true", "key-of-bob"),
        await stage.get(f"{answer_id}/cancel", "key-of-bob", "POST"),
        await stage.post(ask(previous_response_id=answer_id), "key-of-bob"),
        await stage.post(ask(request_id=answer_id), "key-of-bob"),
    ):
        assert answer.start.split()[1] in ("404", "400")
        assert json.loads(answer.body)["error"]["code"] in ("unknown_response", "ambiguous_field")
    assert len(stage.store.asked) == seen


async def test_an_id_that_nobody_knows_gets_the_model_servers_own_words(stage: Stage) -> None:
    for answer in (await stage.get("resp_none"), await stage.get("resp_none/cancel", method="POST")):
        assert answer.start == "HTTP/1.1 404 Not Found"
        assert answer.body == LOOK


async def test_an_answer_that_was_made_elsewhere_is_not_given_unjudged(stage: Stage) -> None:
    stage.store.kept["resp_elsewhere"] = (CALLS, True)
    for answer in (await stage.get("resp_elsewhere"), await stage.get("resp_elsewhere?stream=true")):
        assert answer.start.startswith("HTTP/1.1 404")
        assert json.loads(answer.body)["error"]["code"] == "unknown_response"


async def test_the_sdk_goes_on_from_an_answer_and_polls_one(stage: Stage) -> None:
    async with stage.client() as client:
        asked: dict[str, Any] = {"model": "tiny", "tools": TOOLS}
        stage.store.says = CALLS
        first = await client.responses.create(input="Clean up.", background=True, **asked)
        assert first.status == "queued"
        polled = await client.responses.retrieve(first.id)
        assert CANARY not in polled.model_dump_json()
        (call,) = [item for item in polled.output if item.type == "function_call"]
        stage.store.says = Say("", "Rain.")
        result: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "rain"}]
        second = await client.responses.create(input=result, previous_response_id=first.id, **asked)
        assert second.output_text == "Rain."
        stored = [event async for event in await client.responses.retrieve(first.id, stream=True)]
        assert CANARY not in "".join(event.model_dump_json() for event in stored)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def strict_stage(tmp_path_factory: pytest.TempPathFactory, opa_binary: Path) -> AsyncIterator[Stage]:
    """With a policy in force that reads requests."""
    store, folder = Store(), tmp_path_factory.mktemp("strict")
    built(opa_binary, folder / "mine", {"tests/words/policy.rego": POLICY}).write(folder / "bundle")
    policies = {"bundle": folder / "bundle", "modes": {"tests.words": "enforce"}}
    async with (
        scripted(store.play) as upstream,
        running(
            upstream.url, folder / "state", agents=AGENTS, policies=policies, listen={"admin_token": TOKEN}
        ) as interlock,
    ):
        yield Stage(port_of(interlock), store, interlock.admin_url)


async def test_the_judge_sees_what_a_request_goes_on_from(strict_stage: Stage) -> None:
    stage = strict_stage
    stage.store.says = Say("", "The forbidden-word is out.")
    for streamed in (False, True):
        answer_id = id_of(await stage.post(ask(stream=streamed)))
        seen = len(stage.store.asked)
        answer = await stage.post(ask(input="Say it again.", previous_response_id=answer_id, instructions="New ones."))
        assert answer.start.startswith("HTTP/1.1 403")
        assert len(stage.store.asked) == seen


async def test_an_id_that_is_not_known_is_refused_where_the_judge_must_see_it(strict_stage: Stage) -> None:
    stage = strict_stage
    stage.store.kept["resp_elsewhere"] = (CALLS, True)
    stage.store.says = Say("", "Fine.", (GOOD,))
    queued = json.loads((await stage.post(ask(background=True))).body)["id"]
    seen = len(stage.store.asked)
    for answer_id in ("resp_elsewhere", queued):
        answer = await stage.post(ask(previous_response_id=answer_id))
        assert answer.start.startswith("HTTP/1.1 404")
        assert json.loads(answer.body)["error"]["code"] == "unknown_response"
    again = await stage.post(ask(request_id=queued))
    assert json.loads(again.body)["error"]["param"] == "request_id"
    assert len(stage.store.asked) == seen
    await stage.get(queued)
    assert (await stage.post(ask(previous_response_id=queued))).start == "HTTP/1.1 200 OK"


async def test_nobody_goes_on_from_an_answer_that_was_cut(strict_stage: Stage) -> None:
    """The model server keeps what nobody was given, and would put it before the model."""
    stage = strict_stage
    written = f'<tool_call>\n{{"name": "run_shell", "arguments": {BAD.arguments}}}\n</tool_call>'
    stage.store.says = Say("", f"Let me see. {written} Done.")
    first = await stage.post(ask())
    assert CANARY.encode() not in first.body
    again = await stage.get(id_of(first))
    assert CANARY.encode() not in again.body
    assert read_whole(again.body).output == read_whole(first.body).output
    answer = await stage.post(ask(previous_response_id=id_of(first)))
    assert json.loads(answer.body)["error"]["code"] == "unknown_response"


@pytest.mark.parametrize("background", [True, False])
async def test_the_model_server_does_not_make_on_what_was_cut(strict_stage: Stage, background: bool) -> None:
    stage = strict_stage
    stage.store.says = CALLS
    name = f"resp_to_cut_{background}"
    answer = await stage.post(ask(stream=True, background=background, request_id=name))
    assert CANARY.encode() not in answer.body
    assert read_stream(answer.body).calls == []
    wanted = f"POST {PATH}/{name}/cancel HTTP/1.1"
    async with asyncio.timeout(5):
        while background and not any(asked.start == wanted for asked in stage.store.asked):  # noqa: ASYNC110 - a socket
            await asyncio.sleep(0.01)
    assert any(asked.start == wanted for asked in stage.store.asked) == background


async def test_a_name_for_an_answer_that_was_never_made_is_free(strict_stage: Stage) -> None:
    stage = strict_stage
    stage.store.says = Say("", "Fine.")
    named: dict[str, Any] = {"request_id": "resp_named"}
    for background in (False, True, False):
        answer = await stage.post(ask(input="Say the forbidden-word.", background=background, **named))
        assert json.loads(answer.body)["error"]["code"] == "policy_denied"
    reader, writer = await asyncio.open_connection("127.0.0.1", stage.port)
    slow = Say("", "word " * 2000)
    stage.store.says = slow
    writer.write(post(ask(stream=True, **named), "Authorization: Bearer key-of-ann", path=PATH))
    await reader.readuntil(b"output_text.delta")
    writer.transport.abort()
    stage.store.says = Say("", "Fine.")
    async with asyncio.timeout(10):
        while not (answer := await stage.post(ask(**named))).start.endswith("200 OK"):
            assert json.loads(answer.body)["error"]["param"] == "request_id"
            await asyncio.sleep(0.01)
    assert json.loads((await stage.post(ask(**named))).body)["error"]["param"] == "request_id"


async def test_a_conversation_by_ids_is_one_run(strict_stage: Stage) -> None:
    stage = strict_stage
    stage.store.says = Say("", "Fine.")
    before = await stage.runs()
    answer_id = json.loads((await stage.post(ask(input="Begin.", instructions="One."))).body)["id"]
    for turn in range(3):
        asked = ask(input=f"Turn {turn}.", instructions="Two.", previous_response_id=answer_id)
        answer_id = json.loads((await stage.post(asked)).body)["id"]
        await stage.get(answer_id)
    after = await stage.runs()
    assert [steps for run, steps in after.items() if run not in before] == [4]
