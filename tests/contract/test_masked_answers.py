"""Answers in which a policy masks words, on every API: the client's text is the masked text, whatever the chunks in
which it came, no byte of what is masked stands anywhere in the answer, and the answer goes on to its own end.

Scripted answers in vLLM's wire form, through a whole Interlock; the policy and its patterns are real ones. The starter
policies are in force beside it, so calls are held too.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contract.test_text_policies import TextStage, pieces
from tests.policies.support import built
from tests.support import messages, responses
from tests.support.apis import APIS, STREAMED, documents, heard
from tests.support.chat import Call, Say
from tests.support.interlock import port_of, running
from tests.support.raw import scripted, send
from tests.support.served import until
from tests.support.serving import HEAD, answering, post, streaming
from tests.support.wire import parse
from tracing.records import Decided, Settled
from tracing.segments import read

pytestmark = [pytest.mark.opa, pytest.mark.asyncio(loop_scope="module")]

KEY = "AKIA" + "Z7FAKE2DEMO3KEY5"
OTHER = "AKIA" + "Q6OTHER7DEMO2KEY"
MASK = "[key]"
LOOK = Call("get_weather", '{"city":"Oslo"}')
HOLDS = {"none": "none", "tail": "tail(24)", "all": "all"}
POLICY = """\
# METADATA
# title: No keys in what the model says, thinks and hands to tools
# custom:
#   severity: high
#   hold: {hold}
#   patterns: [secrets/aws_access_key_id]
package interlock.policies.team.{name}

finding := {{
	"id": "key",
	"severity": "high",
	"action": "redact",
	"message": "It named a key.",
	"tags": [],
	"redactions": [{{"path": hit.path, "start": hit.start, "end": hit.end, "replacement": "[key]"}} |
		some hit in input.signals
		hit.id == "aws_access_key_id"
	],
}}

output contains finding if count(finding.redactions) > 0

reasoning contains finding if count(finding.redactions) > 0

tool_call contains finding if count(finding.redactions) > 0
"""
SURFACES = [(name, surface) for name, api in APIS.items() for surface in api.says]
STREAMED_SURFACES = [(name, surface) for name, surface in SURFACES if name in STREAMED]


@asynccontextmanager
async def staged(bundle: Path, state: Path, hold: str) -> AsyncIterator[TextStage]:
    stage = TextStage(state)
    policies = {"bundle": bundle, "modes": {f"team.hold_{hold}": "enforce", "interlock.secrets": "off"}}
    async with scripted(stage.play) as upstream, running(upstream.url, stage.state, policies=policies) as interlock:
        stage.port = port_of(interlock)
        yield stage


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stages(opa_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, TextStage]]:
    """One Interlock for each hold: it enforces the policy with that hold, and the others are in shadow."""
    folder = tmp_path_factory.mktemp("masked")
    sources = {
        f"team/hold_{name}/policy.rego": POLICY.format(name=f"hold_{name}", hold=hold) for name, hold in HOLDS.items()
    }
    bundle = folder / "bundle"
    built(opa_binary, folder / "sources", sources, with_library=True).write(bundle)
    async with (
        staged(bundle, folder / "none", "none") as none,
        staged(bundle, folder / "tail", "tail") as tail,
        staged(bundle, folder / "all", "all") as every,
    ):
        yield {"none": none, "tail": tail, "all": every}


def says(surface: str, text: str, calls: tuple[Call, ...] = ()) -> Say:
    return Say(text, "So be it.", calls) if surface == "reasoning" else Say("Hm, well.", text, calls)


def masked(text: str) -> str:
    return text.replace(KEY, MASK).replace(OTHER, MASK)


def leaks(body: bytes) -> dict[str, str]:
    """The kinds of field with three characters of a key in a row, whatever joins them."""
    found: dict[str, str] = {}
    for path, said in heard(body).items():
        if any(key[at : at + 3] in said for key in (KEY, OTHER) for at in range(len(key) - 2)):
            found[path] = said
    return found


def finishes(body: bytes) -> list[Any]:
    """All that an answer says of why it ended."""
    found: list[Any] = []
    for document in documents(body):
        found += [c["finish_reason"] for c in document.get("choices", []) if c.get("finish_reason")]
        found += [(document.get("delta") or {}).get("stop_reason")] if document.get("type") == "message_delta" else []
        found += [document["response"]["status"]] if document.get("type") == "response.completed" else []
        found += [document[name] for name in ("stop_reason", "status") if name in document]
    return found


def tokens_fit(body: bytes) -> None:
    """Lists that a client reads side by side have one length; the places of tokens are those of the text."""
    texts: dict[int, str] = {}
    for document in documents(body):
        for choice in document.get("choices", []):
            before = texts.get(choice["index"], "")
            after = texts[choice["index"]] = before + choice.get("text", "")
            logprobs = choice.get("logprobs")
            if not logprobs or "tokens" not in logprobs:
                continue
            lists = [logprobs[name] for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")]
            assert {len(one) for one in lists} == {len(choice["token_ids"])}
            for token, place in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
                if token != "<|im_end|>":
                    assert after[place : place + len(token)] == token
        for choice in document.get("choices", []):
            content = (choice.get("logprobs") or {}).get("content")
            if content is not None:
                assert len(content) == len(choice["token_ids"])


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


def unmasked(body: bytes) -> Any:
    """An answer without what masks concern."""
    value = json.loads(body)

    def walk(one: Any) -> Any:
        if isinstance(one, dict):
            hidden = {"logprobs", "token_ids"}
            return {key: walk(inner) for key, inner in one.items() if key not in hidden}
        if isinstance(one, list):
            return [walk(inner) for inner in one]
        return masked(one) if isinstance(one, str) else one

    return walk(value)


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


def settled_of(stage: TextStage) -> list[Settled]:
    return [entry.record for entry in read(stage.state) if isinstance(entry.record, Settled)]


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
        return [one.exchange for one in settled_of(stage)][-1:] == [decided[0].exchange]

    await until(over)
    assert [one.action for one in decided] == ["redact", "redact"]
    assert [len(one.masked) for one in decided] == [0, 1], "a commitment to what was masked"
    assert {one.exposed for one in decided} == {0}
    settled = settled_of(stage)[-1]
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
    return sum(len(entry.record.masked) for entry in read(stage.state) if isinstance(entry.record, Decided))


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
