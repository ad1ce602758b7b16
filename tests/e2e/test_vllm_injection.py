"""On a real vLLM: an answer to an injected request, with the injection taken out, is the answer to the raw request.

Each case asks vLLM both at temperature 0 (or with a seed) under one request id and compares the bytes; only the
second of its making and the random ids of tool calls are masked. vLLM may put two tokens into one event when its
event loop is late, so a pair that differs is asked again, and must come out equal within a few tries.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from serving.tiny.dialogue import Script
from serving.tiny.harness import Harness
from serving.tiny.scripts import COMPARE, COUNT, WEATHER
from serving.wire.dialects import DIALECTS
from serving.wire.injection import Fingerprint, Uninjector, inject
from serving.wire.request import ChatRequest
from tests.policies.support import built
from tests.support.interlock import port_of, running
from tests.support.raw import send
from tests.support.servers import VllmServer
from tests.support.vllm_requests import CHAT, http
from tests.support.wire import Message, parse

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]

TRIES = 6


def first(script: Script, **options: Any) -> dict[str, Any]:
    return Harness(script).request(**options)


def second(script: Script, **options: Any) -> dict[str, Any]:
    """The request that brings the results of the script's first calls."""
    harness = Harness(script)
    calls = [
        {"id": f"c{at}", "type": "function", "function": {"name": call.name, "arguments": json.dumps(call.arguments)}}
        for at, call in enumerate(script.turns[0].calls)
    ]
    harness.take({"role": "assistant", "content": None, "reasoning": script.turns[0].reasoning, "tool_calls": calls})
    return harness.request(**options)


NAMED = {"type": "function", "function": {"name": "get_weather"}}
SAMPLED = {"n": 2, "temperature": 0.9, "seed": 11}
ASKS_USAGE = {"stream_options": {"include_usage": True}}
ASKS_EVERY_USAGE = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}

ASKED: dict[str, dict[str, Any]] = {
    "a call": first(WEATHER),
    "two calls": first(COMPARE),
    "one call of two": first(COMPARE, parallel_tool_calls=False),
    "an answer with an emoji": second(WEATHER),
    "no tools": first(COUNT, max_tokens=60),
    "named": first(WEATHER, tool_choice=NAMED),
    "required": first(WEATHER, tool_choice="required"),
    "none": first(WEATHER, tool_choice="none"),
    "cut off in the call": first(WEATHER, max_tokens=34),
    "cut off in the reasoning": first(WEATHER, max_tokens=5),
    "a stop word": first(COUNT, stop=["12"]),
    "no thinking": first(WEATHER, chat_template_kwargs={"enable_thinking": False}),
    "reasoning left out": first(WEATHER, include_reasoning=False),
    "two choices": first(COMPARE, **SAMPLED),
    "two choices with text": second(WEATHER, **SAMPLED),
    "token ids asked for": first(WEATHER, return_token_ids=True),
    "tokens as ids": first(WEATHER, return_tokens_as_token_ids=True),
    "logprobs refused": first(WEATHER, logprobs=False),
    "logprobs null": first(WEATHER, logprobs=None, top_logprobs=None),
    "logprobs asked for": first(WEATHER, logprobs=True, top_logprobs=2),
}
STREAMED: dict[str, dict[str, Any]] = {
    **ASKED,
    "three tokens an event": first(COMPARE, stream_interval=3),
    "five tokens an event": first(WEATHER, stream_interval=5),
    "five tokens an event, emoji": second(WEATHER, stream_interval=5),
    "three tokens an event, two choices": first(COMPARE, stream_interval=3, **SAMPLED),
    "usage asked for": first(WEATHER, **ASKS_USAGE),
    "usage in every event asked for": first(WEATHER, **ASKS_EVERY_USAGE),
    "usage refused": first(WEATHER, stream_options={"include_usage": False, "continuous_usage_stats": True}),
    "options null": first(WEATHER, stream_options=None),
    "options empty": first(WEATHER, stream_options={}),
    "all asked for": first(WEATHER, logprobs=True, return_token_ids=True, **ASKS_EVERY_USAGE),
}
COMPLETIONS: dict[str, dict[str, Any]] = {
    name: {"temperature": 0, "max_tokens": 12, "stream": True, "prompt": "Count to", **more}
    for name, more in {
        "plain": {},
        "two prompts": {"prompt": ["Count to", "The weather"]},
        "two choices": SAMPLED,
        "a stop word": {"max_tokens": 30, "stop": ["e"]},
        "logprobs asked for": {"logprobs": 2},
        "token ids asked for": {"return_token_ids": True},
        "echo": {"echo": True},
        "three tokens an event": {"stream_interval": 3},
        "usage refused": {"stream_options": {"include_usage": False, "continuous_usage_stats": True}},
    }.items()
}
COMPLETION = "/v1/completions"

RULE = """\
package interlock.policies.acme.unsure

tool_call contains {
	"id": "argument",
	"severity": "high",
	"action": "deny",
	"message": "Ask first.",
	"tags": [],
} if {
	some argument in input.call.logprobs.arguments
	argument.min < %s
}
"""
_MASKS = (
    (re.compile(rb'"created":\d+'), b'"created":0'),
    (re.compile(rb"chatcmpl-tool-[0-9a-f]{16}"), b"chatcmpl-tool-x"),
)


def masked(body: bytes) -> bytes:
    for pattern, mask in _MASKS:
        body = pattern.sub(mask, body)
    return body


@dataclass
class Pairs:
    """Asks a vLLM for both answers. The fingerprint is learned once, as in a process that serves many."""

    server: VllmServer
    fingerprint: Fingerprint = field(default_factory=Fingerprint)

    async def answer(self, body: bytes, path: str = CHAT, port: int | None = None) -> Message:
        request = http("POST", path, body, "X-Request-Id: pair")
        return parse(await send(port or self.server.port, request, seconds=120))

    async def compare(
        self,
        asked: dict[str, Any],
        *,
        logprobs: bool,
        usage: bool,
        fingerprint: Fingerprint | None = None,
        path: str = CHAT,
    ) -> tuple[bytes, bytes]:
        """The raw answer and the other with the injection taken out, both masked."""
        body = json.dumps(asked | {"model": self.server.model}).encode()
        view = read(asked, path)
        injected = inject(DIALECTS[path].api, body, view, logprobs=logprobs, usage=usage)
        assert injected is not None
        raws: set[bytes] = set()
        for _ in range(TRIES):
            raw = await self.answer(body, path)
            other = await self.answer(injected.body, path)
            assert raw.start == other.start == "HTTP/1.1 200 OK", (raw.body, other.body)
            undo = Uninjector(injected, view, fingerprint or self.fingerprint)
            found = masked(stream(undo, other.body, path) if view.stream else undo.whole(other.body))
            found = by_choice(found, has_lanes(asked))
            raws.add(by_choice(masked(raw.body), has_lanes(asked)))
            if found in raws:
                return found, found
        return min(raws), found

    async def compare_through(self, port: int, asked: dict[str, Any], path: str = CHAT) -> tuple[bytes, bytes]:
        """The direct answer and the one that came through an Interlock, both masked."""
        body = json.dumps(asked | {"model": self.server.model}).encode()
        raws: set[bytes] = set()
        lanes = has_lanes(asked)
        for _ in range(TRIES):
            raws.add(by_choice(masked((await self.answer(body, path)).body), lanes))
            found = by_choice(masked((await self.answer(body, path, port)).body), lanes)
            if found in raws:
                return found, found
        return min(raws), found


def has_lanes(asked: dict[str, Any]) -> bool:
    """Whether the answer has choices whose events come in any order: vLLM makes the choices of several prompts
    independently of one another, and while a call of one choice is judged, the other's events flow on."""
    return asked.get("n", 1) > 1 or isinstance(asked.get("prompt"), list)


def by_choice(body: bytes, lanes: bool) -> bytes:
    """With ``lanes`` a stream's events choice by choice."""
    if not lanes or not body.startswith(b"data: "):
        return body
    events = body.split(b"\n\n")[:-1]
    return b"\n\n".join(
        sorted(events, key=lambda one: (b"[DONE]" in one, b'"choices":[]' in one, b'"choices":[{"index":1' in one))
    )


def read(asked: dict[str, Any], path: str = CHAT) -> ChatRequest:
    view = DIALECTS[path].request(asked)
    assert isinstance(view, ChatRequest)
    return view


def stream(undo: Uninjector, body: bytes, path: str = CHAT) -> bytes:
    reader, _ = DIALECTS[path].stream(ChatRequest("tiny", ()))
    events = [made for event in reader.feed(body) for made in undo.event(event)]
    return b"".join(made.raw for made in [*events, *undo.rest()])


@pytest.fixture(scope="module")
def pairs(vllm_server: VllmServer) -> Pairs:
    return Pairs(vllm_server)


@pytest.mark.parametrize("name", [name for name in ASKED if name != "logprobs asked for"])
async def test_a_whole_answer_shows_nothing_of_it(pairs: Pairs, name: str) -> None:
    raw, found = await pairs.compare(ASKED[name], logprobs=True, usage=True)
    assert found == raw


@pytest.mark.parametrize("wanted", ["logprobs", "usage", "both"])
@pytest.mark.parametrize("name", STREAMED)
async def test_a_stream_shows_nothing_of_it(pairs: Pairs, name: str, wanted: str) -> None:
    asked = STREAMED[name] | {"stream": True}
    view = read(asked)
    logprobs = wanted in ("logprobs", "both")
    usage = wanted in ("usage", "both")
    if not (logprobs and not view.logprobs) and not (usage and not view.include_usage):
        assert inject("chat", json.dumps(asked).encode(), view, logprobs=logprobs, usage=usage) is None
        return
    raw, found = await pairs.compare(asked, logprobs=logprobs, usage=usage)
    assert found == raw


@pytest.mark.parametrize("name", ["a call", "two choices", "cut off in the call"])
async def test_the_first_stream_of_all_shows_nothing_of_it_either(pairs: Pairs, name: str) -> None:
    asked = STREAMED[name] | {"stream": True}
    raw, found = await pairs.compare(asked, logprobs=True, usage=True, fingerprint=Fingerprint())
    assert found == raw


@pytest.mark.parametrize("name", COMPLETIONS)
async def test_a_stream_of_completions_shows_nothing_of_it(pairs: Pairs, name: str) -> None:
    raw, found = await pairs.compare(COMPLETIONS[name], logprobs=True, usage=True, path=COMPLETION)
    assert found == raw


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def asking(pairs: Pairs, opa_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[int]:
    """The port of an Interlock that wants logprobs for a rule, which never fires, and usage for a budget."""
    folder = tmp_path_factory.mktemp("asking")
    built(opa_binary, folder / "mine", {"acme/unsure/policy.rego": RULE % "0.0"}).write(folder / "bundle")
    policies = {"bundle": folder / "bundle", "modes": {"acme.unsure": "enforce"}}
    agents = {"anonymous": {"tokens": 10_000_000}}
    async with running(pairs.server.url, folder / "state", policies=policies, agents=agents) as interlock:
        yield port_of(interlock)


@pytest.mark.parametrize("name", STREAMED)
async def test_a_stream_through_interlock_is_as_direct(pairs: Pairs, asking: int, name: str) -> None:
    raw, found = await pairs.compare_through(asking, STREAMED[name] | {"stream": True})
    assert found == raw


@pytest.mark.parametrize("name", ASKED)
async def test_a_whole_answer_through_interlock_is_as_direct(pairs: Pairs, asking: int, name: str) -> None:
    raw, found = await pairs.compare_through(asking, {"max_tokens": 200, **ASKED[name]})
    assert found == raw


@pytest.mark.parametrize("name", COMPLETIONS)
async def test_completions_through_interlock_are_as_direct(pairs: Pairs, asking: int, name: str) -> None:
    raw, found = await pairs.compare_through(asking, COMPLETIONS[name], COMPLETION)
    assert found == raw


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize(("bound", "refused"), [("1.0", True), ("0.5", False)])
async def test_a_rule_about_probabilities_decides(
    pairs: Pairs, opa_binary: Path, tmp_path: Path, bound: str, refused: bool, streamed: bool
) -> None:
    """The tiny model knows its script by heart: it is sure, but of nothing entirely."""
    built(opa_binary, tmp_path / "mine", {"acme/unsure/policy.rego": RULE % bound}).write(tmp_path / "bundle")
    policies = {"bundle": tmp_path / "bundle", "modes": {"acme.unsure": "enforce"}}
    body = json.dumps(first(COMPARE, stream=streamed)).encode()
    async with running(pairs.server.url, tmp_path / "state", policies=policies) as interlock:
        answer = await pairs.answer(body, port=port_of(interlock))
    assert (b"Ask first." in answer.body) == refused
    assert (b'"tool_calls":[' in answer.body) != refused


@pytest.mark.parametrize("streamed", [True, False])
async def test_what_the_server_does_not_take_it_refuses_before_any_text(pairs: Pairs, streamed: bool) -> None:
    """What the second, raw request relies on: a 4xx, of a stream inside its first event."""
    body = json.dumps(first(WEATHER, model="tiny", stream=streamed, logprobs=True, top_logprobs=21)).encode()
    answer = await pairs.answer(body)
    if streamed:
        error, rest = answer.body.split(b"\n\n", 1)
        assert (answer.start, rest) == ("HTTP/1.1 200 OK", b"data: [DONE]\n\n")
        assert json.loads(error.removeprefix(b"data: "))["error"]["code"] == 400
    else:
        assert answer.start == "HTTP/1.1 400 Bad Request"
