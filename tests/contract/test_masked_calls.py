"""Tool calls in which a policy masks words, on every API: the client gets the call with the mask in its arguments,
which stay JSON of the same form, and nothing of what is masked stands anywhere in the answer.

Scripted answers in vLLM's wire form, through a whole Interlock, with the policy of ``tests.support.masking``.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import chat, messages, responses
from tests.support.apis import APIS, Api, heard
from tests.support.chat import Call, Say
from tests.support.masking import KEY, MASK, OTHER, leaks, masked, masking
from tests.support.serving import answering, streaming
from tests.support.text_stage import TextStage, pieces
from tracing.records import CallOutcome

pytestmark = [pytest.mark.opa, pytest.mark.asyncio(loop_scope="module")]

CALLING = ["chat", "chat with tokens", "chat by /invocations", "messages", "responses", "responses with tokens"]
STREAMED = [(name, stream) for name in CALLING for stream in (False, True)]
FIRST = Call("get_weather", '{"city":"Oslo"}')
ESCAPED = "".join(f"\\u{ord(letter):04x}" for letter in KEY[:6]) + KEY[6:]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(opa_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TextStage]:
    async with masking(opa_binary, tmp_path_factory.mktemp("calls"), ["none"]) as stages:
        yield stages["none"]


def calls_of(api: Api, body: bytes, *, stream: bool) -> list[list[dict[str, Any]]]:
    """The calls that a careful client reads, choice by choice."""
    if api.name.startswith("messages"):
        read = messages.read_stream(body) if stream else messages.read_whole(body)
        return [list(read.calls.values())]
    if api.name.startswith("responses"):
        said = responses.read_stream(body) if stream else responses.read_whole(body)
        return [[{"name": call["name"], "arguments": call["arguments"]} for call in said.calls]]
    reads = chat.read_stream(body) if stream else chat.read_whole(body)
    return [list(reads[number].calls.values()) for number in sorted(reads)]


async def given_calls(stage: TextStage, api: Api, say: Say, *, stream: bool) -> list[list[dict[str, Any]]]:
    if stream:
        events = api.events(say)
        assert leaks(b"".join(events)) or "\\u" in str(say)
        stage.script = streaming(events)
    else:
        stage.script = answering(api.body(say))
    body = await stage.asks(api, stream=stream)
    assert leaks(body) == {}
    return calls_of(api, body, stream=stream)


@pytest.mark.parametrize(("name", "stream"), STREAMED)
@pytest.mark.parametrize(
    ("arguments", "given_arguments"),
    [
        (f'{{"path":"{KEY}"}}', {"path": MASK}),
        (
            f'{{"path": "a {KEY} ☂", "n": 1.50, "more": ["x", "{OTHER}"]}}',
            {"path": f"a {MASK} ☂", "n": 1.5, "more": ["x", MASK]},
        ),
        (f'{{"path":"{KEY} and {KEY}"}}', {"path": MASK}),
        (f'{{"path":"\\ud83d\\ude00 {ESCAPED} \\"q\\""}}', {"path": f'\U0001f600 {MASK} "q"'}),
        (json.dumps({"deep": {"a/b": {"~": [KEY]}}}), {"deep": {"a/b": {"~": [MASK]}}}),
        (json.dumps({f"p{n}": f"{n} {KEY}" for n in range(20)}), {f"p{n}": f"{n} {MASK}" for n in range(20)}),
    ],
)
async def test_a_client_reads_the_masked_arguments(
    stage: TextStage, name: str, stream: bool, arguments: str, given_arguments: dict[str, Any]
) -> None:
    """Several hits in one string are told without their places, so all of the string is masked."""
    api = APIS[name]
    say = Say("Hm.", "Look.", (FIRST, Call("read_file", arguments), FIRST))
    for calls in await given_calls(stage, api, say, stream=stream):
        assert [call["name"] for call in calls] == ["get_weather", "read_file", "get_weather"]
        assert [json.loads(call["arguments"]) for call in calls] == [
            {"city": "Oslo"},
            given_arguments,
            {"city": "Oslo"},
        ]
    outcomes = stage.records(CallOutcome)[-3 * api.choices :]
    kept = [record for record in outcomes if record.outcome == "masked"]
    assert len(kept) == api.choices
    assert all(record.commitment and record.arguments and KEY not in record.arguments for record in kept)
    assert all("arguments" in record.altered for record in kept)


@pytest.mark.parametrize("name", CALLING)
@settings(max_examples=20)
@given(
    before=st.text('ab \\"☂é', max_size=20),
    after=st.text('ab \\"☂é', max_size=20),
    ascii_only=st.booleans(),
    interval=st.integers(1, 6),
    cuts=st.lists(st.integers(1, 900), min_size=1, max_size=8).filter(lambda cuts: sum(cuts) > 40),
)
async def test_the_mask_is_the_same_at_all_chunks(
    stage: TextStage, name: str, before: str, after: str, ascii_only: bool, interval: int, cuts: list[int]
) -> None:
    api = APIS[name]
    said = f"{before} {KEY} {after}"
    call = Call("read_file", json.dumps({"path": said, "also": after}, ensure_ascii=ascii_only))
    stage.script = streaming(pieces(api.events(Say("Hm.", "Look.", (FIRST, call)), interval), cuts))
    body = await stage.asks(api, stream=True)
    assert leaks(body) == {}
    for calls in calls_of(api, body, stream=True):
        assert json.loads(calls[1]["arguments"]) == {"path": masked(said), "also": after}


@pytest.mark.parametrize(("name", "stream"), STREAMED)
@pytest.mark.parametrize("arguments", [f'{{"{KEY}":"x"}}', f'{{"{KEY}":"{OTHER}"}}', f'{{"a":{{"{KEY}":1}}}}'])
async def test_a_key_that_would_have_to_be_masked_refuses_the_call(
    stage: TextStage, name: str, stream: bool, arguments: str
) -> None:
    api = APIS[name]
    for calls in await given_calls(
        stage, api, Say("Hm.", "Look.", (FIRST, Call("read_file", arguments))), stream=stream
    ):
        assert [call["name"] for call in calls] == ["get_weather"]


@pytest.mark.parametrize(("name", "stream"), STREAMED)
@pytest.mark.parametrize("arguments", ['{"path":"x"}', f'{{"path":"{OTHER}"}}'])
async def test_a_made_up_name_that_would_have_to_be_masked_refuses_the_call(
    stage: TextStage, name: str, stream: bool, arguments: str
) -> None:
    say = Say("Hm.", "Look.", (FIRST, Call(f"read_{KEY}", arguments)))
    for calls in await given_calls(stage, APIS[name], say, stream=stream):
        assert [call["name"] for call in calls] == ["get_weather"]


@pytest.mark.parametrize("name", CALLING)
async def test_a_call_in_plain_text_is_not_masked_but_stopped(stage: TextStage, name: str) -> None:
    api = APIS[name]
    written = f'<tool_call>{{"name": "read_file", "arguments": {{"path": "{KEY}"}}}}</tool_call>'
    stage.script = streaming(api.events(Say("Hm.", f"Look: {written} done.")))
    body = await stage.asks(api, stream=True)
    assert leaks(body) == {}
    assert "team.hold_none/key" in str(heard(body))


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refused_call_beside_a_masked_one(stage: TextStage, stream: bool) -> None:
    """The starter policies refuse the command."""
    for name in CALLING:
        api = APIS[name]
        deadly = Call("run_shell", '{"command":"rm -rf /"}')
        say = Say("Hm.", "Look.", (deadly, Call("read_file", f'{{"path":"{KEY}"}}')))
        for calls in await given_calls(stage, api, say, stream=stream):
            assert [(call["name"], json.loads(call["arguments"])) for call in calls] == [("read_file", {"path": MASK})]
