"""Scripted answers of ``/v1/responses`` in the very wire form of vLLM 0.32, and what a client reads out of one.

The stream is made by the state machine of vLLM's own ``SimpleStreamingEventProcessor``: each kind of delta opens an
item of its own, and what closes it repeats it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from tests.support.chat import Call, Say, Token, tokens

TOOLS = [
    {
        "type": "function",
        "name": name,
        "description": name,
        "parameters": {"type": "object", "properties": {arg: {"type": "string"}}, "required": [arg]},
    }
    for name, arg in (("run_shell", "command"), ("get_weather", "city"), ("read_file", "path"))
]
USAGE = {
    "input_tokens": 275,
    "input_tokens_details": {
        "cached_tokens": 256,
        "cache_write_tokens": 0,
        "input_tokens_per_turn": [],
        "cached_tokens_per_turn": [],
    },
    "output_tokens": 44,
    "output_tokens_details": {
        "reasoning_tokens": 18,
        "tool_output_tokens": 0,
        "output_tokens_per_turn": [],
        "tool_output_tokens_per_turn": [],
    },
    "total_tokens": 319,
}


def ask(**fields: object) -> dict[str, Any]:
    return {"model": "tiny", "input": "Clean up.", "tools": TOOLS, **fields}


def _dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def response(output: list[dict[str, Any]], status: str, answer_id: str, *, background: bool = False) -> dict[str, Any]:
    """The answer as an object."""
    over = status not in ("in_progress", "queued")
    return {
        "id": answer_id,
        "created_at": 1795214304,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": None,
        "metadata": None,
        "model": "tiny",
        "object": "response",
        "output": output,
        "parallel_tool_calls": True,
        "temperature": 0.0,
        "tool_choice": "auto",
        "tools": [{**tool, "strict": None} for tool in TOOLS],
        "top_p": 1.0,
        "background": background,
        "max_output_tokens": 1773,
        "max_tool_calls": None,
        "previous_response_id": None,
        "prompt": None,
        "reasoning": None,
        "service_tier": "auto",
        "status": status,
        "text": None,
        "top_logprobs": None,
        "truncation": "disabled",
        "usage": USAGE if over else None,
        "user": None,
        "kv_transfer_params": None,
        "input_messages": None,
        "output_messages": None,
    }


def _logprob(token: Token, top: int) -> dict[str, Any]:
    entry = {"token": token.text, "bytes": list(token.text.encode()), "logprob": -0.25}
    return {**entry, "top_logprobs": [entry] * top}


def call_item(call: Call, number: int, status: str = "completed", arguments: str | None = None) -> dict[str, Any]:
    return {
        "arguments": call.arguments if arguments is None else arguments,
        "call_id": f"chatcmpl-tool-{number:016x}",
        "name": call.name,
        "type": "function_call",
        "id": f"fc_{number:016x}",
        "async": None,
        "caller": None,
        "namespace": None,
        "status": status,
    }


def message_item(
    text: str, item_id: str, logprobs: list[Any] | None = None, status: str = "completed"
) -> dict[str, Any]:
    part = {"annotations": [], "text": text, "type": "output_text", "logprobs": logprobs}
    return {
        "id": item_id,
        "content": [part] if text else [],
        "role": "assistant",
        "status": status,
        "type": "message",
        "phase": None,
    }


def reasoning_item(text: str | None, item_id: str, status: str | None) -> dict[str, Any]:
    return {
        "id": item_id,
        "summary": [],
        "type": "reasoning",
        "content": None if text is None else [{"text": text, "type": "reasoning_text"}],
        "encrypted_content": None,
        "status": status,
    }


class _Script:
    """vLLM's state machine: one open item at a time."""

    def __init__(self, say: Say, top: int) -> None:
        self.say = say
        self.top = top
        self.events: list[bytes] = []
        self.output: list[dict[str, Any]] = []
        self.state: Any = None
        self.text = ""
        self.shown: list[Any] = []

    def emit(self, kind: str, **fields: Any) -> None:
        value = {**fields, "sequence_number": len(self.events), "type": kind}
        self.events.append(f"event: {kind}\ndata: ".encode() + _dump(value) + b"\n\n")

    def to(self, state: Any) -> None:
        if self.state == state:
            return
        self.close()
        self.state, self.text, self.shown = state, "", []
        at, where = len(self.output), self._where()
        if state == "reasoning":
            item = reasoning_item(None, where["item_id"], "in_progress")
            self.emit("response.output_item.added", item=item, output_index=at)
            self.emit("response.content_part.added", **where, part={"text": "", "type": "reasoning_text"})
        elif state == "content":
            item = message_item("", where["item_id"], status="in_progress")
            self.emit("response.output_item.added", item=item, output_index=at)
            part = {"annotations": [], "text": "", "type": "output_text", "logprobs": []}
            self.emit("response.content_part.added", **where, part=part)
        elif state is not None:
            item = call_item(self.say.calls[state], state, "in_progress", "")
            self.emit("response.output_item.added", item=item, output_index=at)

    def _where(self) -> dict[str, Any]:
        at = len(self.output)
        kind = {"reasoning": "rs", "content": "msg"}.get(self.state, "fc")
        if isinstance(self.state, int):
            return {"item_id": f"fc_{self.state:016x}", "output_index": at}
        return {"content_index": 0, "item_id": f"{kind}_{at:016x}", "output_index": at}

    def say_more(self, text: str, group: list[Token], logprobs: bool) -> None:
        self.text += text
        if self.state == "reasoning":
            self.emit("response.reasoning_text.delta", **self._where(), delta=text)
        elif self.state == "content":
            shown = [_logprob(token, self.top) for token in group] if logprobs else []
            self.shown += shown
            self.emit("response.output_text.delta", **self._where(), delta=text, logprobs=shown)
        else:
            self.emit("response.function_call_arguments.delta", **self._where(), delta=text)

    def close(self) -> None:
        if self.state is None:
            return
        where, text = self._where(), self.text
        if self.state == "reasoning":
            item = reasoning_item(text, where["item_id"], "completed")
            self.emit("response.reasoning_text.done", **where, text=text)
            self.emit("response.content_part.done", **where, part=item["content"][0])
        elif self.state == "content":
            item = message_item(text, where["item_id"], self.shown or None)
            self.emit("response.output_text.done", **where, text=text, logprobs=[])
            self.emit("response.content_part.done", **where, part=item["content"][0])
        else:
            call = self.say.calls[self.state]
            item = call_item(call, self.state, arguments=text)
            self.emit("response.function_call_arguments.done", **where, arguments=text, name=call.name)
        self.emit("response.output_item.done", item=item, output_index=where["output_index"])
        self.output.append(item)
        self.state = None


def stream(
    say: Say, *, logprobs: bool = False, top: int = 0, interval: int = 1, answer_id: str = "resp_0011223344556677"
) -> list[bytes]:
    """The events of a streamed answer."""
    script = _Script(say, top)
    for kind in ("created", "in_progress"):
        script.emit(f"response.{kind}", response=response([], "in_progress", answer_id))
    every = [*tokens(say), Token("<|im_end|>")]
    for at in range(0, len(every), interval):
        group = every[at : at + interval]
        pieces: list[tuple[Any, str]] = []
        for wanted in ("reasoning", "content"):
            text = "".join(token.delta.get(wanted) or "" for token in group)
            if text:
                pieces.append((wanted, text))
        for token in group:
            for tool in token.delta.get("tool_calls", ()):
                pieces.append((tool["index"], tool["function"].get("arguments", "")))
        for state, text in pieces:
            script.to(state)
            if text:
                script.say_more(text, group, logprobs)
    script.close()
    status = "incomplete" if say.reason == "length" else "completed"
    script.emit("response.completed", response=response(script.output, status, answer_id))
    return script.events


def whole(
    say: Say,
    *,
    logprobs: bool = False,
    top: int = 0,
    answer_id: str = "resp_0011223344556677",
    background: bool = False,
) -> bytes:
    """The body of an answer that is not streamed."""
    shown = [_logprob(token, top) for token in [*tokens(say), Token("<|im_end|>")]] if logprobs else None
    output: list[dict[str, Any]] = []
    if say.reasoning:
        output.append(reasoning_item(say.reasoning, "rs_00", None))
    if say.text:
        output.append(message_item(say.text, "msg_01", shown))
    output += [call_item(call, number) for number, call in enumerate(say.calls)]
    status = "incomplete" if say.reason == "length" else "completed"
    return _dump(response(output, status, answer_id, background=background))


@dataclass
class Read:
    """All that a client can read out of an answer, by its pieces and by its copies."""

    text: str = ""
    reasoning: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    status: str | None = None
    incomplete: str | None = None
    output: list[dict[str, Any]] = field(default_factory=list)
    logprob_text: str = ""
    raw: str = ""


def read_stream(body: bytes, first: int = 0) -> Read:
    """Reads a streamed answer as a careful client does: every count, index and copy must agree with the pieces."""
    read = Read(raw=body.decode())
    items: dict[int, dict[str, Any]] = {}
    texts: dict[int, str] = {}
    opened: list[int] = []
    final = None
    for place, block in enumerate(body.decode().split("\n\n")[:-1]):
        name, _, data = block.partition("\ndata: ")
        event = json.loads(data)
        kind = event["type"]
        assert name == f"event: {kind}"
        assert event["sequence_number"] == first + place, "a gap in the sequence numbers"
        assert final is None, "something follows the last event"
        at = event.get("output_index")
        if kind == "response.output_item.added":
            assert at == len(opened), "a gap in the output indices"
            assert not opened or opened[-1] in items, "an item begins before the last one has ended"
            opened.append(at)
            texts[at] = ""
        elif kind.endswith(".delta"):
            assert at == opened[-1]
            texts[at] += event["delta"]
            if kind == "response.output_text.delta":
                read.text += event["delta"]
                read.logprob_text += "".join(one["token"] for one in event["logprobs"])
            elif kind == "response.reasoning_text.delta":
                read.reasoning += event["delta"]
        elif kind in ("response.output_text.done", "response.reasoning_text.done"):
            assert event["text"] == texts[at]
        elif kind == "response.function_call_arguments.done":
            assert event["arguments"] == texts[at]
        elif kind == "response.content_part.done":
            assert event["part"]["text"] == texts[at]
        elif kind == "response.output_item.done":
            item = items[at] = event["item"]
            assert texts[at] == _said(item)
            if item["type"] == "function_call":
                read.calls.append(item)
            read.logprob_text += _shown(item)
        elif kind == "response.completed":
            final = event["response"]
        elif kind in ("response.created", "response.in_progress"):
            assert event["response"]["output"] == []
    if final is not None:
        assert final["output"] == [items[at] for at in sorted(items)], "the copies at the end are not what came"
        read.output, read.status = final["output"], final["status"]
        read.incomplete = (final["incomplete_details"] or {}).get("reason")
    return read


def read_whole(body: bytes) -> Read:
    value = json.loads(body)
    read = Read(raw=body.decode(), status=value["status"], output=value["output"])
    read.incomplete = (value["incomplete_details"] or {}).get("reason")
    for item in value["output"]:
        if item["type"] == "function_call":
            read.calls.append(item)
        elif item["type"] == "message":
            read.text += _said(item)
            read.logprob_text += _shown(item)
        else:
            read.reasoning += _said(item)
    return read


def _said(item: dict[str, Any]) -> str:
    if item["type"] == "function_call":
        return str(item["arguments"])
    return "".join(part["text"] for part in item["content"] or [])


def _shown(item: dict[str, Any]) -> str:
    return "".join(one["token"] for part in item.get("content") or [] for one in part.get("logprobs") or [])
