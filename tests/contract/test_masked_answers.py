"""Answers in which a policy masks words, on every API: the client's text is the masked text, whatever the chunks in
which it came, no byte of what is masked stands anywhere in the answer, and the answer goes on to its own end.

Scripted answers in vLLM's wire form, through a whole Interlock; the policy and its patterns are real ones. The starter
policies are in force beside it, so calls are held too.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import messages, responses
from tests.support.apis import APIS, STREAMED, documents, heard
from tests.support.chat import Call
from tests.support.masking import KEY, MASK, OTHER, finishes, leaks, masked, masking, tokens_fit, unmasked
from tests.support.raw import send
from tests.support.served import until
from tests.support.serving import HEAD, answering, post, streaming
from tests.support.text_stage import HOLDS, TextStage, pieces, says
from tests.support.wire import parse
from tracing.records import Decided, Settled

pytestmark = [pytest.mark.opa, pytest.mark.asyncio(loop_scope="module")]

LOOK = Call("get_weather", '{"city":"Oslo"}')
SURFACES = [(name, surface) for name, api in APIS.items() for surface in api.says]
STREAMED_SURFACES = [(name, surface) for name, surface in SURFACES if name in STREAMED]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stages(opa_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, TextStage]]:
    async with masking(opa_binary, tmp_path_factory.mktemp("masked"), HOLDS) as stages:
        yield stages


WORDS = st.text("ab \n☂é", max_size=60)


@pytest.mark.parametrize(("name", "surface"), STREAMED_SURFACES)
@pytest.mark.parametrize("hold", ["tail", "all"])
@settings(max_examples=20)
@given(
    before=WORDS,
    between=WORDS.map(lambda text: f" {text} "),
    after=st.one_of(st.just(""), WORDS.map(lambda text: f" and {text}")),
    interval=st.integers(1, 6),
    calls=st.booleans(),
    cuts=st.lists(st.integers(1, 900), min_size=1, max_size=8).filter(lambda cuts: sum(cuts) > 40),
)
async def test_a_stream_says_the_masked_text(
    stages: dict[str, TextStage],
    name: str,
    surface: str,
    hold: str,
    before: str,
    between: str,
    after: str,
    interval: int,
    calls: bool,
    cuts: list[int],
) -> None:
    api, stage = APIS[name], stages[hold]
    said = f"{before} {KEY}{between}{OTHER}, {KEY}{after}"
    events = api.events(says(surface, said, (LOOK,) if calls else ()), interval)
    assert leaks(b"".join(events))
    stage.script = streaming(pieces(events, cuts))
    body = await stage.asks(api, stream=True)
    assert leaks(body) == {}
    told = heard(body)
    assert api.said(told, surface, stream=True) == [masked(said)] * api.choices
    other = "text" if surface == "reasoning" else "reasoning"
    if other in api.says:
        assert api.said(told, other, stream=True) == api.said(heard(b"".join(events)), other, stream=True)
    assert finishes(body) == finishes(b"".join(events))
    tokens_fit(body)


@pytest.mark.parametrize(("name", "surface"), SURFACES)
@pytest.mark.parametrize("hold", HOLDS)
@pytest.mark.parametrize("after", ["", " and so on ☂."])
@pytest.mark.parametrize("calls", [(), (LOOK,)])
async def test_a_whole_answer_says_the_masked_text(
    stages: dict[str, TextStage], name: str, surface: str, hold: str, after: str, calls: tuple[Call, ...]
) -> None:
    """Nothing of it has left, so it can be masked whatever the hold."""
    api, stage = APIS[name], stages[hold]
    said = f"é {KEY} or {OTHER}, {KEY}{after}"
    before = api.body(says(surface, said, calls if api.path != "/v1/chat/completions/batch" else ()))
    assert leaks(before)
    stage.script = answering(before)
    body = await stage.asks(api, stream=False)
    assert leaks(body) == {}
    assert api.said(heard(body), surface, stream=False) == [masked(said)] * api.choices
    assert finishes(body) == finishes(before)
    tokens_fit(body)
    if api.shows and not calls:
        assert "<|im_end|>" in str(heard(body)), "other tokens stay"
    assert unmasked(before) == unmasked(body)


WIDER = {
    "github_token": "ghp_" + "a1B2c3D4e5" * 4,
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.abc",
    "payment_card": "4111 1111 1111 1111",
    "assigned_password": "password: Sup3rS3cretPw9",
}


@pytest.mark.parametrize("hold", ["tail", "all"])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("other", WIDER)
@pytest.mark.parametrize("form", ["a {key} b {other} c and more words", "a {other} b {key} c", "api_key={key} {other}"])
async def test_what_only_a_policy_in_shadow_reads_changes_nothing(
    stages: dict[str, TextStage], hold: str, stream: bool, other: str, form: str
) -> None:
    """``interlock.secrets_out`` looks for these too. Under a tail they are too wide to be masked."""
    api, stage = APIS["chat"], stages[hold]
    said = form.format(key=KEY, other=WIDER[other]) + f" {WIDER[other]}."
    stage.script = streaming(api.events(says("text", said))) if stream else answering(api.body(says("text", said)))
    body = await stage.asks(api, stream=stream)
    assert api.said(heard(body), "text", stream=stream) == [masked(said)]


@pytest.mark.parametrize(("name", "surface"), STREAMED_SURFACES)
@pytest.mark.parametrize("interval", [1, 4])
async def test_without_a_hold_a_stream_is_cut(
    stages: dict[str, TextStage], name: str, surface: str, interval: int
) -> None:
    api, stage = APIS[name], stages["none"]
    events = api.events(says(surface, f"The key is {KEY} . xyzzy and much more. " + "word " * 200), interval)
    stage.script = streaming(events)
    told = heard(await stage.asks(api, stream=True))
    assert "team.hold_none/key" in str(api.said(told, "text", stream=True))
    assert "much more" not in str(told)


@pytest.mark.parametrize("hold", ["tail", "all"])
@pytest.mark.parametrize("stream", [False, True])
async def test_what_was_masked_is_on_record_as_it_was_given(
    stages: dict[str, TextStage], hold: str, stream: bool
) -> None:
    api, stage = APIS["chat"], stages[hold]
    say = says("text", f"It is {KEY}, or so.")
    stage.script = streaming(api.events(say)) if stream else answering(api.body(say))
    await stage.asks(api, stream=stream)
    decided = stage.decided()

    def over() -> bool:
        return [one.exchange for one in stage.records(Settled)][-1:] == [decided[0].exchange]

    await until(over)
    assert [one.action for one in decided] == ["redact", "redact"]
    assert [len(one.masked) for one in decided] == [0, 1], "a commitment to what was masked"
    assert {one.exposed for one in decided} == {0}
    settled = stage.records(Settled)[-1]
    assert settled.exchange == decided[0].exchange
    assert (settled.ending, settled.choices[0]["content"]) == ("done", f"It is {MASK}, or so.")
    assert "choices/0/content" in settled.altered
    assert settled.coverage["text"].startswith("judged")
    assert all(KEY.encode() not in path.read_bytes() for path in stage.state.rglob("*") if path.is_file())


BAD = Call("run_shell", '{"command":"rm -rf /"}')
CALLING = [name for name in APIS if name.startswith(("chat", "messages", "responses"))]


@pytest.mark.parametrize("name", CALLING)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("surface", ["text", "reasoning"])
async def test_a_call_is_refused_beside_a_masked_text(
    stages: dict[str, TextStage], name: str, stream: bool, surface: str
) -> None:
    """The starter policies refuse the command, whose refusal follows the masked text."""
    api, stage = APIS[name], stages["tail"]
    say = says(surface, f"The key is {KEY}.", (BAD, LOOK))
    stage.script = streaming(api.events(say, 2)) if stream else answering(api.body(say))
    body = await stage.asks(api, stream=stream)
    assert leaks(body) == {}
    told = heard(body)
    assert "rm -rf" not in str(told)
    assert "Oslo" in str(told)
    for said in api.said(told, "text", stream=stream):
        assert said.startswith("So be it." if surface == "reasoning" else f"The key is {MASK}.")
        assert "interlock.shell" in said
    if surface == "reasoning":
        assert api.said(told, "reasoning", stream=stream) == [f"The key is {MASK}."] * api.choices
    if stream and api.name.startswith("responses"):
        responses.read_stream(body)
    if stream and api.name.startswith("messages"):
        messages.read_stream(body)


def masks_on_record(stage: TextStage) -> int:
    return sum(len(record.masked) for record in stage.records(Decided))


@pytest.mark.parametrize("name", STREAMED)
@pytest.mark.parametrize("interval", [1, 5])
async def test_an_answer_is_cut_behind_a_mask(stages: dict[str, TextStage], name: str, interval: int) -> None:
    """A call in plain text ends it: what was given of it stays masked in what closes it."""
    api, stage = APIS[name], stages["tail"]
    written = f"<tool_call>{json.dumps({'name': 'run_shell', 'arguments': json.loads(BAD.arguments)})}</tool_call>"
    events = api.events(says("text", f"The key is {KEY}, so. {'word ' * 20}{written}"), interval)
    opened = next(at for at in range(len(events)) if "<tool" in str(heard(b"".join(events[: at + 1]))))
    before = masks_on_record(stage)

    async def script(_request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        for at, event in enumerate(events):
            if at == opened:
                await writer.drain()
                await until(lambda: masks_on_record(stage) == before + api.choices)
            writer.write(b"%x\r\n%s\r\n" % (len(event), event))
        writer.write(b"0\r\n\r\n")

    stage.script = script
    body = await stage.asks(api, stream=True)
    assert leaks(body) == {}
    told = heard(body)
    assert "rm -rf" not in str(told)
    for said in api.said(told, "text", stream=True):
        assert said.startswith(f"The key is {MASK}")
        assert "interlock.shell" in said
    if api.name.startswith("responses"):
        responses.read_stream(body)
    if api.name.startswith("messages"):
        messages.read_stream(body)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_is_fetched_again_is_masked_again(stages: dict[str, TextStage], stream: bool) -> None:
    api, stage = APIS["responses"], stages["tail"]
    say = says("text", f"The key is {KEY}.", (Call("read_file", json.dumps({"path": KEY})),))
    ask = api.ask(stream=stream) | {"background": True, "store": True}
    made = responses.stream(say) if stream else [responses.whole(say, background=True)]
    stage.script = streaming(made) if stream else answering(made[0])
    first = parse(await send(stage.port, post(ask, path=api.path)))
    answer_id = next(documents(first.body))["response"]["id"] if stream else json.loads(first.body)["id"]
    for query in ("", "?stream=true", "?stream=true&starting_after=6"):
        events = responses.stream(say)
        stage.script = streaming(events) if query else answering(responses.whole(say, background=True))
        lines = [f"GET {api.path}/{answer_id}{query} HTTP/1.1", "Host: test", "", ""]
        again = parse(await send(stage.port, "\r\n".join(lines).encode()))
        assert again.start == "HTTP/1.1 200 OK", again.body
        assert leaks(again.body) == {}
        assert MASK in again.body.decode()
        if query == "?stream=true":
            responses.read_stream(again.body)
