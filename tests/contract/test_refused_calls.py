"""A destructive call never reaches the client, by whatever channel, under the policies that ship (no settings).

Scripted streams in vLLM's wire form, through a whole Interlock with the embedded engine. Each case first shows
that the canary is found in the direct answer.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest
import pytest_asyncio

from tests.support.chat import Call, Say, read_stream, read_whole, stream, whole
from tests.support.forbidden import BAD, CANARY, GOOD, PLACES
from tests.support.interlock import port_of, running
from tests.support.raw import scripted, send
from tests.support.serving import TOOLS, answering, ask, post, streaming
from tests.support.stage import Stage
from tests.support.wire import parse

pytestmark = pytest.mark.asyncio(loop_scope="module")


class ChatStage(Stage):
    def client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key="x", max_retries=0)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ChatStage]:
    stage = ChatStage()
    state: Path = tmp_path_factory.mktemp("refused") / "state"
    async with scripted(stage.play) as stage.upstream, running(stage.upstream.url, state) as interlock:
        stage.port = port_of(interlock)
        yield stage


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("logprobs", "top", "ids", "interval", "n"),
    [
        *itertools.product([False], [0], [False, True], [1, 5], [1, 2]),
        *itertools.product([True], [0, 2], [False, True], [1, 5], [1, 2]),
    ],
)
async def test_it_never_arrives_in_a_stream(
    stage: ChatStage, place: str, logprobs: bool, top: int, ids: bool, interval: int, n: int
) -> None:
    says = [Say("I look around.\n", "I will clean up now.\n", PLACES[place])] * n
    events = stream(*says, logprobs=logprobs, top=top, token_ids=ids, interval=interval)
    assert CANARY in read_stream(b"".join(events))[0].everything()
    stage.script = streaming(events)
    fields = {"logprobs": logprobs, "return_token_ids": ids, "stream_interval": interval, "n": n}
    answer = parse(await send(stage.port, post(ask(stream=True, **fields))))
    assert answer.start == "HTTP/1.1 200 OK"
    assert CANARY.encode() not in answer.body
    reads = read_stream(answer.body)
    assert len(reads) == n
    for read in reads.values():
        assert CANARY not in read.everything()
        assert read.reasoning == "I look around.\n"
        assert read.text.startswith("I will clean up now.\n")
        assert "interlock.shell" in read.text
        assert "run_shell" in read.text
        lawful = [c for c in PLACES[place] if c is not BAD]
        assert [(c["name"], c["arguments"]) for _, c in sorted(read.calls.items())] == [
            (c.name, c.arguments) for c in lawful
        ]
        assert read.finish == ("tool_calls" if lawful else "stop")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("logprobs", "top", "ids", "n"),
    [
        *itertools.product([False], [0], [False, True], [1, 2]),
        *itertools.product([True], [0, 2], [False, True], [1, 2]),
    ],
)
async def test_it_never_arrives_in_a_whole_answer(
    stage: ChatStage, place: str, logprobs: bool, top: int, ids: bool, n: int
) -> None:
    says = [Say("I look around.\n", "I will clean up now.\n", PLACES[place])] * n
    body = whole(*says, logprobs=logprobs, top=top, token_ids=ids)
    assert CANARY in read_whole(body)[0].everything()
    stage.script = answering(body)
    answer = parse(await send(stage.port, post(ask(logprobs=logprobs, return_token_ids=ids, n=n))))
    assert answer.start == "HTTP/1.1 200 OK"
    assert CANARY.encode() not in answer.body
    for read in read_whole(answer.body).values():
        assert CANARY not in read.everything()
        assert read.text.startswith("I will clean up now.\n")
        assert "interlock.shell" in read.text
        lawful = [c for c in PLACES[place] if c is not BAD]
        assert [(c["name"], c["arguments"]) for c in read.calls.values()] == [(c.name, c.arguments) for c in lawful]
        assert read.finish == ("tool_calls" if lawful else "stop")
        if logprobs and lawful:
            assert "Oslo" in read.logprob_text


@pytest.mark.parametrize("place", PLACES)
async def test_the_sdk_takes_the_answer_by_its_iterator_and_by_its_helper(stage: ChatStage, place: str) -> None:
    events = stream(Say("I look.\n", "I will clean up now.\n", PLACES[place]))
    lawful = [c for c in PLACES[place] if c is not BAD]
    async with stage.client() as client:
        stage.script = streaming(events)
        chunks = [
            chunk
            async for chunk in await client.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": "Clean up."}], tools=TOOLS, stream=True
            )
        ]
        assert CANARY not in "".join(chunk.model_dump_json() for chunk in chunks)
        stage.script = streaming(events)
        async with client.chat.completions.stream(
            model="tiny", messages=[{"role": "user", "content": "Clean up."}], tools=TOOLS
        ) as helper:
            async for _ in helper:
                pass
            final = await helper.get_final_completion()
    message = final.choices[0].message
    assert "interlock.shell" in (message.content or "")
    assert [c.function.name for c in message.tool_calls or []] == [c.name for c in lawful]
    assert final.choices[0].finish_reason == ("tool_calls" if lawful else "stop")


@pytest.mark.parametrize(
    "arguments",
    [
        f'{{"command": "rm -rf /srv/{CANARY}", "command": "ls"}}',
        f'{{"command": "ls"}} {{"command": "rm -rf /srv/{CANARY}"}}',
        f'{{"command": "rm -rf /srv/{CANARY}", "x": NaN}}',
        f'{{"command": "rm -rf /srv/{CANARY}", "x": 1e999}}',
        f'{{"command": "rm -rf /srv/{CANARY}", "x": "\\ud800"}}',
        f'["rm -rf /srv/{CANARY}"]',
        f'"rm -rf /srv/{CANARY}"',
        f'{{"command": "rm -rf /srv/{CANARY}"',
        f'{{"command": ["rm", "-rf", "/srv/{CANARY}"]}}',
        f'{{"command": {{"run": "rm -rf /srv/{CANARY}"}}}}',
        '{"command": "r\\u006d -rf /srv/' + CANARY + '"}',
        '{"a":' * 70 + f'"rm -rf /srv/{CANARY}"' + "}" * 70,
    ],
)
async def test_odd_arguments_are_no_way_round(stage: ChatStage, arguments: str) -> None:
    for body_stream in (True, False):
        say = Say(text="Go.", calls=(Call("run_shell", arguments), GOOD))
        stage.script = streaming(stream(say)) if body_stream else answering(whole(say))
        answer = parse(await send(stage.port, post(ask(stream=body_stream))))
        assert CANARY.encode() not in answer.body
        read = (read_stream if body_stream else read_whole)(answer.body)[0]
        assert [c["name"] for c in read.calls.values()] == ["get_weather"]


def sneaky() -> list[bytes]:
    plain = ask(stream=True)
    text = json.dumps(plain)
    return [
        json.dumps({**plain, "n": "2"}).encode(),
        json.dumps({**plain, "stream": "yes"}).encode(),
        json.dumps({**plain, "stream": 1}).encode(),
        text.encode("utf-16"),
        text.encode("utf-8-sig"),
        text.replace('"stream": true', '"stream": false, "stream": true').encode(),
        text.replace('"stream": true', '"stream": true, "temperature": NaN').encode(),
        text.replace('"stream": true', '"stream": true, "seed": 1e999').encode(),
    ]


@pytest.mark.parametrize("body", sneaky())
async def test_a_request_that_two_parsers_read_differently_goes_no_further(stage: ChatStage, body: bytes) -> None:
    stage.script = streaming(stream(Say(calls=(BAD,))))
    seen = len(stage.upstream.requests)
    answer = parse(await send(stage.port, post(body)))
    assert answer.start.startswith("HTTP/1.1 400")
    assert json.loads(answer.body)["error"]["code"] in ("ambiguous_body", "ambiguous_field")
    assert len(stage.upstream.requests) == seen


@pytest.mark.parametrize(
    "path",
    [
        "/v1/messages/",
        "/inference/v1/generate",
        "/v1/chat%2Fcompletions",
        "//v1/chat/completions",
        "/v1/chat/completions/",
        "/V1/chat/completions",
        "/v1/chat/completions%0A",
        "/abort_requests",
        "/no/such/path",
    ],
)
async def test_what_is_not_judged_is_refused(stage: ChatStage, path: str) -> None:
    stage.script = answering(whole(Say(calls=(BAD,))))
    seen = len(stage.upstream.requests)
    answer = parse(await send(stage.port, post(ask(), path=path)))
    assert answer.start.split()[1] in ("400", "403")
    assert json.loads(answer.body)["error"]["code"] in ("unjudged_endpoint", "control_endpoint", "endpoint_spelling")
    assert len(stage.upstream.requests) == seen


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_call_cut_off_by_length_is_judged_on_what_there_is(stage: ChatStage, streamed: bool) -> None:
    secret = "".join(["\\u0067", "hp_", "a1B2c3D4e5F6g7H8i9J0" * 2])[:45]
    for arguments in (
        f'{{"command": "rm -rf /srv/{CANARY}"}}',
        f'{{"command": "rm -rf /srv/{CANARY}',
        f'{{"city": "{secret} {CANARY}"}}',
        f'{{"command": "r\\u006d -rf /srv/{CANARY}',
    ):
        say = Say(text="Go.", calls=(Call("run_shell", arguments),), finish="length")
        stage.script = streaming(stream(say)) if streamed else answering(whole(say))
        answer = parse(await send(stage.port, post(ask(stream=streamed))))
        assert CANARY.encode() not in answer.body, arguments
        read = (read_stream if streamed else read_whole)(answer.body)[0]
        assert read.finish == "length"


async def test_an_event_without_its_end_does_not_leave(stage: ChatStage) -> None:
    events = stream(Say(text="Go.", calls=(BAD,)))
    call = next(i for i, event in enumerate(events) if b"tool_calls" in event)
    stage.script = streaming([*events[:call], events[call].rstrip(b"\n")])
    answer = parse(await send(stage.port, post(ask(stream=True))))
    assert not answer.whole
    assert answer.body == b"".join(events[:call])
