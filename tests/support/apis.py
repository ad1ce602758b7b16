"""The APIs that answer with text, side by side: how each is asked, how it answers a script, what it told a client.

:func:`heard` needs to know nothing of an API: it joins, for each kind of field, all that the events of an answer (or
the one whole body) say there, tokens and their ids too. A text that a client could put together from an answer stands
in one of these, so a test looks for a leak in all of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.support import chat, completions, messages, responses, serving
from tests.support.chat import VOCABULARY, Say

_BODY_LISTS = ("choices",)


@dataclass(frozen=True)
class Api:
    """One API in one form. ``fields`` of its request and ``shows`` of its answer belong together. ``says``: field of
    a stream's events, and of a whole answer, in which a surface stands (``choices`` by their index)."""

    name: str
    path: str
    asks: Callable[..., dict[str, Any]]
    stream: Callable[..., list[bytes]] | None
    whole: Callable[..., bytes]
    says: dict[str, tuple[str, str]]
    fields: dict[str, Any] = field(default_factory=dict)
    shows: dict[str, Any] = field(default_factory=dict)
    choices: int = 1

    def ask(self, *, stream: bool) -> dict[str, Any]:
        return self.asks(**({"stream": True} if stream else {}), **self.fields)

    def events(self, say: Say, interval: int = 1) -> list[bytes]:
        assert self.stream is not None
        return self.stream(*[say] * self.choices, **self.shows, interval=interval)

    def body(self, say: Say) -> bytes:
        shows = self.shows
        return self.whole(*[say] * self.choices, **shows)

    def said(self, told: dict[str, str], surface: str, *, stream: bool) -> list[str]:
        """What a client read of a surface, choice by choice."""
        name = self.says[surface][0 if stream else 1]
        if "#" not in name:
            return [told.get(name, "")]
        return [told.get(name.replace("#", str(number)), "") for number in range(self.choices)]


def _batch(**fields: Any) -> dict[str, Any]:
    conversation = [{"role": "user", "content": "Clean up."}]
    return {"model": "tiny", "messages": [conversation] * 2, **fields}


_CHAT = {
    "text": ("choices#.delta.content", "choices#.message.content"),
    "reasoning": ("choices#.delta.reasoning", "choices#.message.reasoning"),
}
_COMPLETIONS = {"text": ("choices#.text", "choices#.text")}
_MESSAGES = {
    "text": ("content_block_delta.delta.text", "content.text"),
    "reasoning": ("content_block_delta.delta.thinking", "content.thinking"),
}
_RESPONSES = {
    "text": ("response.output_text.delta.delta", "output.message.content.text"),
    "reasoning": ("response.reasoning_text.delta.delta", "output.reasoning.content.text"),
}
_TOKENS: dict[str, Any] = {"logprobs": True, "return_token_ids": True, "n": 2}
_SHOWN: dict[str, Any] = {"logprobs": True, "top": 1, "token_ids": True}
_LOGPROBS: dict[str, Any] = {"include": ["message.output_text.logprobs"], "top_logprobs": 1}

APIS = {
    api.name: api
    for api in (
        Api("chat", "/v1/chat/completions", serving.ask, chat.stream, chat.whole, _CHAT),
        Api(
            "chat with tokens",
            "/v1/chat/completions",
            serving.ask,
            chat.stream,
            chat.whole,
            _CHAT,
            _TOKENS | {"top_logprobs": 1},
            _SHOWN,
            2,
        ),
        Api("chat by /invocations", "/invocations", serving.ask, chat.stream, chat.whole, _CHAT),
        Api("batch", "/v1/chat/completions/batch", _batch, None, chat.whole, _CHAT, {}, {}, 2),
        Api("completions", "/v1/completions", completions.ask, completions.stream, completions.whole, _COMPLETIONS),
        Api(
            "completions with tokens",
            "/v1/completions",
            completions.ask,
            completions.stream,
            completions.whole,
            _COMPLETIONS,
            _TOKENS | {"logprobs": 1},
            _SHOWN,
            2,
        ),
        Api(
            "completions by /invocations",
            "/invocations",
            completions.ask,
            completions.stream,
            completions.whole,
            _COMPLETIONS,
        ),
        Api("messages", "/v1/messages", messages.ask, messages.stream, lambda say: messages.whole(say), _MESSAGES),
        Api("responses", "/v1/responses", responses.ask, responses.stream, responses.whole, _RESPONSES),
        Api(
            "responses with tokens",
            "/v1/responses",
            responses.ask,
            responses.stream,
            responses.whole,
            _RESPONSES,
            _LOGPROBS,
            {"logprobs": True, "top": 1},
        ),
    )
}
STREAMED = [name for name, api in APIS.items() if api.stream is not None]


def documents(body: bytes) -> Iterator[dict[str, Any]]:
    """The JSON documents of a streamed or a whole answer."""
    if not body.startswith((b"data: ", b"event: ")):
        yield json.loads(body)
        return
    for part in body.split(b"\n\n"):
        for line in part.split(b"\n"):
            if line.startswith(b"data: {"):
                yield json.loads(line[6:])


def heard(body: bytes) -> dict[str, str]:
    """Kind of field → all that an answer says there, joined in the order in which it came."""
    found: dict[str, bytearray] = {}

    def add(path: str, said: bytes) -> None:
        found.setdefault(path, bytearray()).extend(said)

    def walk(value: Any, path: str, key: str) -> None:
        if isinstance(value, str):
            add(path, value.encode("utf-8", "surrogatepass"))
        elif isinstance(value, dict):
            for name, one in value.items():
                if key == "top_logprobs":
                    add(path, name.encode())
                walk(one, f"{path}.{name}" if path else name, name)
        elif isinstance(value, list) and value and all(isinstance(one, int) for one in value):
            if key == "bytes":
                add(path, bytes(value))
            elif key == "token_ids":
                known = [number for number in value if number in VOCABULARY]
                add(path, VOCABULARY.decode(known).encode())
        elif isinstance(value, list):
            for one in value:
                part = path
                if key in _BODY_LISTS:
                    part += str(one["index"])
                elif key == "output":
                    part += f".{one['type']}"
                walk(one, part, key)

    for document in documents(body):
        walk(document, document["type"] if body.startswith(b"event: ") else "", "")
    return {path: bytes(said).decode("utf-8", "replace") for path, said in found.items()}
