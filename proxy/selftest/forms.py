"""The APIs that are judged, each in the forms that matter: how it is asked, and how it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from proxy.selftest.canaries import ORDER, SURFACES, Canary, Surface
from proxy.selftest.says import Say, Vocabulary
from proxy.selftest.wire_messages import messages_stream, messages_whole
from proxy.selftest.wire_openai import OpenAIWire
from proxy.selftest.wire_responses import ResponsesWire

_TOOLS = {
    "run_shell": ("Run a shell command.", ("command",)),
    "save_note": ("Save a note.", ("text",)),
    "get_weather": ("Tell the weather.", ("city",)),
    "fetch_page": ("Read a web page.", ("url",)),
    "send_email": ("Send an e-mail.", ("to", "subject", "body")),
}
_PAGE = "https://notes.example/spring"
_READ = {"name": "fetch_page", "arguments": f'{{"url": "{_PAGE}"}}'}
_READ_ID = "call_0011223344556677"


@dataclass(frozen=True)
class Answer:
    """What the model server says: the events of a stream, or one body."""

    stream: bool
    parts: list[bytes]


@dataclass(frozen=True)
class Form:
    """One API in one form. ``family``: whose requests it takes. ``shown``: logprobs and token ids are asked for."""

    name: str
    path: str
    family: str
    choices: int = 1
    shown: bool = False
    streams: tuple[bool, ...] = (True, False)

    @property
    def calls(self) -> bool:
        return self.family not in ("completions", "batch")

    @property
    def reasoning(self) -> bool:
        return self.family != "completions"

    @property
    def surfaces(self) -> tuple[Surface, ...]:
        """Where a canary can stand."""
        return tuple(
            surface
            for surface in SURFACES
            if (self.calls or not surface.needs_calls) and (self.reasoning or not surface.needs_reasoning)
        )

    def ask(self, model: str, surface: Surface, canaries: list[Canary], *, stream: bool) -> dict[str, Any]:
        """The request's body."""
        body = _ASKS[self.family](surface, canaries)
        fields: dict[str, Any] = {"model": model, **({"stream": True} if stream else {})}
        if self.family != "batch" and self.choices > 1:
            fields["n"] = self.choices
        if self.shown:
            fields |= {"return_token_ids": True}
            fields |= {"logprobs": 1} if self.family == "completions" else {"logprobs": True, "top_logprobs": 1}
        return fields | body

    def answer(self, model: str, says: list[Say], vocabulary: Vocabulary, *, stream: bool) -> Answer:
        """The answer, as vLLM writes it."""
        openai = OpenAIWire(model, vocabulary, shown=self.shown)
        write: Callable[[], list[bytes] | bytes]
        if self.family == "messages":
            write = (lambda: messages_stream(model, says[0])) if stream else (lambda: messages_whole(model, says[0]))
        elif self.family == "responses":
            responses = ResponsesWire(model, _responses_tools())
            write = (lambda: responses.stream(says[0])) if stream else (lambda: responses.whole(says[0]))
        elif self.family == "completions":
            write = (lambda: openai.completion_stream(says)) if stream else (lambda: openai.completion_whole(says))
        else:
            write = (lambda: openai.chat_stream(says)) if stream else (lambda: openai.chat_whole(says))
        written = write()
        return Answer(stream, written if isinstance(written, list) else [written])


FORMS = (
    Form("chat", "/v1/chat/completions", "chat"),
    Form("chat, n=2, tokens", "/v1/chat/completions", "chat", 2, shown=True),
    Form("chat, /invocations", "/invocations", "chat"),
    Form("chat batch of 2", "/v1/chat/completions/batch", "batch", 2, streams=(False,)),
    Form("completions", "/v1/completions", "completions"),
    Form("completions, n=2, tokens", "/v1/completions", "completions", 2, shown=True),
    Form("messages", "/v1/messages", "messages"),
    Form("responses", "/v1/responses", "responses"),
)


def _prompt(surface: Surface, canary: Canary) -> str:
    if surface.name == "secret_message":
        return f"Deploy it with {canary.key} please."
    return f"Read {_PAGE} and sum it up." if surface.canary == ORDER else "Do what is to be done."


def _conversation(surface: Surface, canary: Canary) -> list[dict[str, Any]]:
    """The messages in OpenAI's form."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": _prompt(surface, canary)}]
    if surface.canary == ORDER:
        call = {"id": _READ_ID, "type": "function", "function": _READ}
        messages.append({"role": "assistant", "content": "I read it.", "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": _READ_ID, "content": canary.poison()})
    return messages


def _chat(surface: Surface, canaries: list[Canary]) -> dict[str, Any]:
    return {"messages": _conversation(surface, canaries[0]), "tools": _openai_tools()}


def _batch(surface: Surface, canaries: list[Canary]) -> dict[str, Any]:
    return {"messages": [_conversation(surface, canary) for canary in canaries]}


def _completions(surface: Surface, canaries: list[Canary]) -> dict[str, Any]:
    return {"prompt": _prompt(surface, canaries[0]), "max_tokens": 300}


def _messages(surface: Surface, canaries: list[Canary]) -> dict[str, Any]:
    messages: list[dict[str, Any]] = [{"role": "user", "content": _prompt(surface, canaries[0])}]
    if surface.canary == ORDER:
        used = {"type": "tool_use", "id": _READ_ID, "name": "fetch_page", "input": {"url": _PAGE}}
        result = {"type": "tool_result", "tool_use_id": _READ_ID, "content": canaries[0].poison()}
        messages += [{"role": "assistant", "content": [used]}, {"role": "user", "content": [result]}]
    tools = [{"name": t["name"], "description": t["description"], "input_schema": t["parameters"]} for t in _tools()]
    return {"messages": messages, "max_tokens": 300, "tools": tools}


def _responses(surface: Surface, canaries: list[Canary]) -> dict[str, Any]:
    items: list[dict[str, Any]] = [{"role": "user", "content": _prompt(surface, canaries[0])}]
    if surface.canary == ORDER:
        items.append({"type": "function_call", "call_id": _READ_ID, **_READ})
        items.append({"type": "function_call_output", "call_id": _READ_ID, "output": canaries[0].poison()})
    return {"input": items, "tools": _responses_tools()}


_ASKS: dict[str, Callable[[Surface, list[Canary]], dict[str, Any]]] = {
    "chat": _chat,
    "batch": _batch,
    "completions": _completions,
    "messages": _messages,
    "responses": _responses,
}


def _tools() -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "description": said,
            "parameters": {
                "type": "object",
                "properties": {argument: {"type": "string"} for argument in arguments},
                "required": list(arguments),
            },
        }
        for name, (said, arguments) in _TOOLS.items()
    ]


def _openai_tools() -> list[dict[str, Any]]:
    return [{"type": "function", "function": tool} for tool in _tools()]


def _responses_tools() -> list[dict[str, Any]]:
    return [{"type": "function", **tool} for tool in _tools()]
