"""On a real vLLM: an answer to an injected request, with the injection taken out, is the answer to the raw request.

Each case asks vLLM both at temperature 0 (or with a seed) under one request id and compares the bytes; only the
second of its making and the random ids of tool calls are masked. vLLM may put two tokens into one event when its
event loop is late, so a pair that differs is asked again, and must come out equal within a few tries.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

import pytest

from serving.tiny.dialogue import Script
from serving.tiny.harness import Harness
from serving.tiny.scripts import COMPARE, COUNT, WEATHER
from serving.wire.chat_request import read_chat_request
from serving.wire.chat_stream import ChatStreamReader
from serving.wire.injection import Fingerprint, Uninjector, inject
from serving.wire.request import ChatRequest
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

    async def answer(self, body: bytes) -> Message:
        request = http("POST", CHAT, body, "X-Request-Id: pair")
        return parse(await send(self.server.port, request, seconds=120))

    async def compare(
        self, asked: dict[str, Any], *, logprobs: bool, usage: bool, fingerprint: Fingerprint | None = None
    ) -> tuple[bytes, bytes]:
        """The raw answer and the other with the injection taken out, both masked."""
        body = json.dumps(asked | {"model": self.server.model}).encode()
        view = read(asked | {"model": self.server.model})
        injected = inject("chat", body, view, logprobs=logprobs, usage=usage)
        assert injected is not None
        raws: set[bytes] = set()
        for _ in range(TRIES):
            raw = await self.answer(body)
            other = await self.answer(injected.body)
            assert raw.start == other.start == "HTTP/1.1 200 OK", (raw.body, other.body)
            undo = Uninjector(injected, view, fingerprint or self.fingerprint)
            found = masked(stream(undo, other.body) if view.stream else undo.whole(other.body))
            raws.add(masked(raw.body))
            if found in raws:
                return found, found
        return min(raws), found


def read(asked: dict[str, Any]) -> ChatRequest:
    view = read_chat_request(asked)
    assert isinstance(view, ChatRequest)
    return view


def stream(undo: Uninjector, body: bytes) -> bytes:
    out = b""
    for event in ChatStreamReader().feed(body):
        out += b"".join(made.raw for made in undo.event(event))
    return out + b"".join(made.raw for made in undo.rest())


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
