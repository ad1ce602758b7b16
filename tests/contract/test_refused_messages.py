"""A destructive call never reaches a client of ``/v1/messages`` under the policies that ship; Anthropic's own SDK takes
every answer, its stream accumulator too.

Scripted answers in vLLM's wire form, through a whole Interlock with the embedded engine.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
import pytest_asyncio

from proxy.runs import RunBook, Sighting
from tests.support.chat import Call, Read, Say
from tests.support.interlock import port_of, running
from tests.support.messages import (
    PROMPT_TOKENS,
    TOOLS,
    ask,
    block_start,
    blocks_of,
    end,
    read_stream,
    read_whole,
    start,
    stream,
    whole,
)
from tests.support.raw import scripted, send
from tests.support.serving import answering, post, streaming
from tests.support.stage import Stage
from tests.support.wire import Message, parse

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATH = "/v1/messages"
CANARY = "canary-7f3a91"
BAD = Call("run_shell", f'{{"command":"rm -rf /srv/{CANARY}"}}')
GOOD = Call("get_weather", '{"city":"Oslo ☂"}')
ALSO = Call("run_shell", '{"command":"pytest -q"}')
PLACES = {
    "first": (BAD, GOOD, ALSO),
    "middle": (GOOD, BAD, ALSO),
    "last": (GOOD, ALSO, BAD),
    "alone": (BAD,),
}


class MessagesStage(Stage):
    async def asks(self, say: Say, *, streamed: bool, **fields: Any) -> tuple[Message, Read]:
        """The answer to a request that upstream answers with ``say``, and what a client reads from it."""
        self.script = streaming(stream(say)) if streamed else answering(whole(say))
        answer = parse(await send(self.port, post(ask(stream=streamed, **fields), path=PATH)))
        assert answer.start == "HTTP/1.1 200 OK", answer.body
        return answer, (read_stream if streamed else read_whole)(answer.body)

    def client(self) -> anthropic.AsyncAnthropic:
        return anthropic.AsyncAnthropic(base_url=f"http://127.0.0.1:{self.port}", api_key="x", max_retries=2)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[MessagesStage]:
    stage = MessagesStage()
    state: Path = tmp_path_factory.mktemp("refused") / "state"
    async with scripted(stage.play) as stage.upstream, running(stage.upstream.url, state) as interlock:
        stage.port = port_of(interlock)
        yield stage


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["error", "content_filter"])
async def other(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[MessagesStage]:
    """A stage whose settings want another form of refusal."""
    stage, state = MessagesStage(), tmp_path_factory.mktemp("other") / "state"
    policies = {"refusal": request.param}
    async with scripted(stage.play) as stage.upstream, running(stage.upstream.url, state, policies=policies) as one:
        stage.port = port_of(one)
        stage.form = request.param
        yield stage


def lawful(place: str) -> list[Call]:
    return [call for call in PLACES[place] if call is not BAD]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("streamed", [True, False])
async def test_it_never_arrives(stage: MessagesStage, place: str, streamed: bool) -> None:
    say = Say("I look around.\n", "I will clean up now.\n", PLACES[place])
    assert CANARY in (read_stream(b"".join(stream(say))) if streamed else read_whole(whole(say))).everything()
    answer, read = await stage.asks(say, streamed=streamed)
    assert CANARY.encode() not in answer.body
    assert read.reasoning == "I look around.\n"
    assert read.text.startswith("I will clean up now.\n\n\n[run_shell] ")
    assert "interlock.shell" in read.text
    assert [(c["name"], c["arguments"]) for _, c in sorted(read.calls.items())] == [
        (c.name, c.arguments) for c in lawful(place)
    ]
    assert read.finish == ("tool_use" if lawful(place) else "end_turn")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("thinks", [True, False])
async def test_the_sdk_takes_the_answer_whole_by_its_iterator_and_by_its_accumulator(
    stage: MessagesStage, place: str, thinks: bool
) -> None:
    say = Say("I look.\n" if thinks else "", "I will clean up now.\n" if thinks else "", PLACES[place])
    request: Any = {
        "model": "tiny",
        "max_tokens": 300,
        "messages": [{"role": "user", "content": "Clean up."}],
        "tools": TOOLS,
    }
    async with stage.client() as client:
        stage.script = answering(whole(say))
        messages = [await client.messages.create(**request)]
        stage.script = streaming(stream(say))
        events = [event async for event in await client.messages.create(**request, stream=True)]
        async with client.messages.stream(**request) as helper:
            texts = [text async for text in helper.text_stream]
            messages.append(await helper.get_final_message())
    assert CANARY not in "".join(event.model_dump_json() for event in events)
    assert "interlock.shell" in "".join(texts)
    for message in messages:
        said = "".join(block.text for block in message.content if block.type == "text")
        calls = [block for block in message.content if block.type == "tool_use"]
        assert CANARY not in message.model_dump_json()
        assert "interlock.shell" in said
        assert [(call.name, call.input) for call in calls] == [
            (call.name, json.loads(call.arguments)) for call in lawful(place)
        ]
        assert message.stop_reason == ("tool_use" if calls else "end_turn")
        assert [block.type for block in message.content][: 2 * thinks] == ["thinking", "text"] * thinks


@pytest.mark.parametrize("streamed", [True, False])
async def test_by_setting_a_refusal_is_an_error_or_a_stop_reason(other: MessagesStage, streamed: bool) -> None:
    say = Say(text="I will clean up now.\n", calls=(BAD,))
    request: Any = {"model": "tiny", "max_tokens": 300, "messages": [{"role": "user", "content": "Clean up."}]}
    other.script = streaming(stream(say)) if streamed else answering(whole(say))
    async with other.client() as client:

        async def answer() -> anthropic.types.Message:
            if not streamed:
                return await client.messages.create(**request)
            async with client.messages.stream(**request) as helper:
                return await helper.get_final_message()

        if other.form == "content_filter":
            message = await answer()
            assert message.stop_reason == "refusal"
            assert CANARY not in message.model_dump_json()
            return
        with pytest.raises(anthropic.APIStatusError) as caught:
            await answer()
    error = caught.value.body["error"]
    assert (error["type"], error["code"]) == ("permission_error", "policy_denied")
    assert CANARY not in str(caught.value.body)


@pytest.mark.parametrize(
    "arguments",
    [
        f'{{"command": "rm -rf /srv/{CANARY}", "command": "ls"}}',
        f'{{"command": "ls"}} {{"command": "rm -rf /srv/{CANARY}"}}',
        f'{{"command": "rm -rf /srv/{CANARY}", "x": NaN}}',
        f'{{"command": "rm -rf /srv/{CANARY}", "x": 1e999}}',
        f'["rm -rf /srv/{CANARY}"]',
        f'{{"command": "rm -rf /srv/{CANARY}"',
        f'{{"command": ["rm", "-rf", "/srv/{CANARY}"]}}',
        '{"command": "r\\u006d -rf /srv/' + CANARY + '"}',
        '{"a":' * 70 + f'"rm -rf /srv/{CANARY}"' + "}" * 70,
    ],
)
async def test_odd_arguments_are_no_way_round(stage: MessagesStage, arguments: str) -> None:
    for finish in ("tool_calls", "length"):
        say = Say(text="Go.", calls=(Call("run_shell", arguments), GOOD), finish=finish)
        answer, read = await stage.asks(say, streamed=True)
        assert CANARY.encode() not in answer.body
        assert [call["name"] for call in read.calls.values()] == ["get_weather"]


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_call_cut_off_by_length_is_judged_on_what_there_is(stage: MessagesStage, streamed: bool) -> None:
    bad = f'{{"command":"rm -rf /srv/{CANARY}"}}'
    for arguments in (bad, bad[:-2]) if streamed else (bad,):
        say = Say(text="Go.", calls=(Call("run_shell", arguments),), finish="length")
        answer, read = await stage.asks(say, streamed=streamed)
        assert CANARY.encode() not in answer.body
        assert read.finish == "max_tokens"
    say = Say(text="Go.", calls=(Call("run_shell", '{"command":"ls'),), finish="length")
    if streamed:
        answer, _ = await stage.asks(say, streamed=True)
        assert answer.body == b"".join(stream(say))


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_call_that_is_left_in_the_text_is_no_way_round(stage: MessagesStage, streamed: bool) -> None:
    written = f'<tool_call>\n{{"name": "run_shell", "arguments": {BAD.arguments}}}\n</tool_call>'
    answer, read = await stage.asks(Say("Hm.\n", f"Let me see. {written} Done."), streamed=streamed)
    assert CANARY.encode() not in answer.body
    assert "interlock.shell" in read.text
    assert (read.calls, read.finish) == ({}, "end_turn")


UNKNOWN = {
    "a block that the server runs": block_start(
        0, type="server_tool_use", id="x", name="bash", input={"command": "ls"}
    ),
    "a name that is not the data's": block_start(0, type="tool_use", id="x", name="y", input={}).replace(
        b"event: content_block_start", b"event: ping"
    ),
    "a call inside a text": block_start(0, type="text", text="", name="run_shell", input={"command": "ls"}),
    "a delta without a block": b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
    b'"delta":{"type":"input_json_delta","partial_json":"{}"}}\n\n',
    "an index that is not the next": block_start(1, type="text", text=""),
    "an event that nobody knows": b'event: tool_call\ndata: {"type":"tool_call"}\n\n',
    "no event's name": b'data: {"type":"content_block_start"}\n\n',
    "no JSON": b"event: content_block_start\ndata: {\n\n",
}


@pytest.mark.parametrize("event", UNKNOWN.values(), ids=UNKNOWN)
async def test_an_event_that_cannot_be_judged_ends_the_stream(stage: MessagesStage, event: bytes) -> None:
    stage.script = streaming([start(), event, *end("end_turn")])
    answer = parse(await send(stage.port, post(ask(stream=True), path=PATH)))
    assert answer.body.startswith(start() + b"event: error\n")
    assert b'"code":"unjudged_answer"' in answer.body
    assert answer.body.count(b"event: ") == 2


@pytest.mark.parametrize(
    "body",
    [
        {"type": "message", "content": [{"type": "server_tool_use", "id": "x", "name": "bash", "input": {}}]},
        {"type": "message", "content": [{"type": "text", "text": "x", "input": {}}]},
        {"type": "message", "content": [{"type": "tool_use", "id": "x", "name": "run_shell"}]},
        {"type": "message", "content": "text"},
        {"type": "other", "content": []},
        {"choices": []},
    ],
)
async def test_a_whole_answer_that_cannot_be_judged_does_not_pass(stage: MessagesStage, body: dict[str, Any]) -> None:
    stage.script = answering(json.dumps(body).encode())
    answer = parse(await send(stage.port, post(ask(), path=PATH)))
    assert answer.start.startswith("HTTP/1.1 502")
    assert json.loads(answer.body)["error"]["code"] == "unjudged_answer"
    assert answer.header("x-should-retry") == "false"


async def test_refusals_before_the_request_goes_on_have_anthropics_shape(stage: MessagesStage) -> None:
    seen = len(stage.upstream.requests)
    plain = ask(stream=True)
    for body, code, param in (
        (json.dumps(plain).replace('"stream": true', '"stream": 1').encode(), "ambiguous_field", "stream"),
        (json.dumps(plain).encode("utf-16"), "ambiguous_body", None),
        (
            json.dumps(ask(mcp_servers=[{"type": "url", "url": "http://x"}])).encode(),
            "hidden_surface",
            "mcp_servers",
        ),
    ):
        answer = parse(await send(stage.port, post(body, path=PATH)))
        error = json.loads(answer.body)
        assert error["type"] == "error"
        assert (error["error"]["code"], error["error"].get("param")) == (code, param)
        assert error["error"]["type"] == ("permission_error" if "403" in answer.start else "invalid_request_error")
    answer = parse(await send(stage.port, post(ask(), path="/v1//messages")))
    assert json.loads(answer.body)["error"]["code"] == "endpoint_spelling"
    assert len(stage.upstream.requests) == seen


async def test_the_sdk_names_our_refusals_and_does_not_repeat_the_request(stage: MessagesStage, tmp_path: Path) -> None:
    breakers = {"run_tokens": 10}
    stage.script = answering(whole(Say(text="Hi.")))
    async with running(stage.upstream.url, tmp_path, breakers=breakers) as interlock:
        url = f"http://127.0.0.1:{port_of(interlock)}"
        seen = len(stage.upstream.requests)
        async with anthropic.AsyncAnthropic(base_url=url, api_key="x", max_retries=2) as client:
            with pytest.raises(anthropic.RateLimitError) as caught:
                await client.messages.create(
                    model="tiny", max_tokens=300, messages=[{"role": "user", "content": "Hello!"}]
                )
        assert caught.value.body["error"]["code"] == "budget_exhausted"
        assert caught.value.response.headers["x-should-retry"] == "false"
        assert len(stage.upstream.requests) == seen


async def test_an_answer_beyond_its_budget_is_cut_and_the_sdk_s_accumulator_takes_it(
    stage: MessagesStage, tmp_path: Path
) -> None:
    say = Say(reasoning="Count.\n", text="one " * 800)
    stage.script = streaming(stream(say))
    async with running(stage.upstream.url, tmp_path, breakers={"run_tokens": 700}) as interlock:
        url = f"http://127.0.0.1:{port_of(interlock)}"
        async with (
            anthropic.AsyncAnthropic(base_url=url, api_key="x", max_retries=0) as client,
            client.messages.stream(
                model="tiny", max_tokens=2000, messages=[{"role": "user", "content": "Count."}]
            ) as helper,
        ):
            message = await helper.get_final_message()
    text = message.content[-1]
    assert text.type == "text"
    assert text.text.startswith("one one")
    assert "budget_exhausted" in text.text
    assert message.stop_reason == "max_tokens"
    assert 256 <= message.usage.output_tokens <= 700
    assert message.usage.input_tokens == PROMPT_TOKENS


async def test_an_agent_s_key_comes_as_anthropic_s_sdk_sends_it_and_goes_no_further(
    stage: MessagesStage, tmp_path: Path
) -> None:
    stage.script = answering(whole(Say(text="Hi.")))
    agents = {"coder": {"keys": ["ilk-secret"]}}
    async with running(stage.upstream.url, tmp_path, agents=agents) as interlock:
        url = f"http://127.0.0.1:{port_of(interlock)}"
        request: Any = {"model": "tiny", "max_tokens": 9, "messages": [{"role": "user", "content": "Hello!"}]}
        async with anthropic.AsyncAnthropic(base_url=url, api_key="ilk-secret") as client:
            await client.messages.create(**request)
        assert b"ilk-secret" not in stage.upstream.requests[-1]
        async with anthropic.AsyncAnthropic(base_url=url, api_key="other") as client:
            with pytest.raises(anthropic.AuthenticationError):
                await client.messages.create(**request)


async def test_counting_tokens_is_plain(stage: MessagesStage) -> None:
    counted = b'{"input_tokens":275,"context_management":{"original_input_tokens":275}}'
    stage.script = answering(counted)
    async with stage.client() as client:
        found = await client.messages.count_tokens(
            model="tiny", messages=[{"role": "user", "content": "Hello!"}], tools=TOOLS
        )
    assert found.input_tokens == 275
    assert stage.upstream.last.start == "POST /v1/messages/count_tokens HTTP/1.1"


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("told", ["text and thought", "calls alone"])
async def test_what_the_sdk_sends_back_is_known_as_what_was_given(
    stage: MessagesStage, place: str, streamed: bool, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next turn joins the run, and nothing of the answer is new to the policies."""
    seen: list[Sighting] = []
    identify = RunBook.identify

    def look(self: RunBook, *args: Any, **named: Any) -> Sighting:
        seen.append(identify(self, *args, **named))
        return seen[-1]

    monkeypatch.setattr(RunBook, "identify", look)
    words = told == "text and thought"
    say = Say("I look.\n" if words else "", "\n\nI will clean up now.\n" if words else "", PLACES[place])
    messages: list[Any] = [{"role": "user", "content": f"Clean up {place} {streamed} {told}."}]
    request: Any = {"model": "tiny", "max_tokens": 300, "tools": TOOLS, "system": "Be brief."}
    async with stage.client() as client:
        stage.script = streaming(stream(say)) if streamed else answering(whole(say))
        if streamed:
            async with client.messages.stream(**request, messages=messages) as helper:
                message = await helper.get_final_message()
        else:
            message = await client.messages.create(**request, messages=messages)
        messages.append({"role": "assistant", "content": blocks_of(message)})
        results = [
            {"type": "tool_result", "tool_use_id": block.id, "content": "ok"}
            for block in message.content
            if block.type == "tool_use"
        ]
        messages.append({"role": "user", "content": [*results, {"type": "text", "text": "Go on."}]})
        stage.script = answering(whole(Say(text="Done.")))
        await client.messages.create(**request, messages=messages)
    first, second = seen
    assert second.run is first.run
    assert second.new_from == 3, "system, user and the answer are known"
    assert [step.name for step in second.steps] == [call.name for call in lawful(place)]
