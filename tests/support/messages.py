"""Scripted answers of ``/v1/messages`` in the very wire form of vLLM 0.32, and what a client reads from them.

A script is a :class:`~tests.support.chat.Say`; its events are those that vLLM's converter makes of the chat stream,
as the recordings in ``tests/wire`` show it.
"""

from __future__ import annotations

import json
from typing import Any

from serving.tiny.dialogue import Script
from serving.tiny.harness import Harness
from tests.support.chat import Read, Say, tokens

STOPS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
PROMPT_TOKENS = 275
SIGNATURE = "6e725d00013a46f3a34ae40fb00c63cb"


def event(value: dict[str, Any]) -> bytes:
    data = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return f"event: {value['type']}\ndata: {data}\n\n".encode()


def start() -> bytes:
    message = {"id": "chatcmpl-00112233aabbccdd", "type": "message", "role": "assistant", "content": []}
    usage = {"input_tokens": PROMPT_TOKENS, "output_tokens": 0}
    rest = {"model": "tiny", "stop_reason": None, "stop_sequence": None, "usage": usage}
    return event({"type": "message_start", "message": {**message, **rest}})


def block_start(index: int, **block: Any) -> bytes:
    return event({"type": "content_block_start", "content_block": block, "index": index})


def block_delta(index: int, **delta: Any) -> bytes:
    return event({"type": "content_block_delta", "delta": delta, "index": index})


def block_stop(index: int) -> bytes:
    return event({"type": "content_block_stop", "index": index})


def end(reason: str | None, output: int = 44) -> list[bytes]:
    usage = {"input_tokens": PROMPT_TOKENS, "output_tokens": output}
    delta = {"stop_reason": reason, "stop_sequence": None}
    return [
        event({"type": "message_delta", "delta": delta, "usage": usage}),
        event({"type": "message_stop"}),
    ]


def call_id(index: int) -> str:
    return f"chatcmpl-tool-{index:016x}"


def stream(say: Say, *, interval: int = 1) -> list[bytes]:
    """The events of a streamed answer, ``interval`` tokens to a delta."""
    events = [start()]
    index = 0
    for kind, pieces in (
        ("thinking", [t.delta["reasoning"] for t in tokens(Say(reasoning=say.reasoning)) if t.delta]),
        ("text", [t.delta["content"] for t in tokens(Say(text=say.text)) if t.delta]),
    ):
        if not pieces:
            continue
        events.append(block_start(index, type=kind, **{kind: ""}))
        for piece in _grouped(pieces, interval):
            events.append(block_delta(index, type=f"{kind}_delta", **{kind: piece}))
        if kind == "thinking":
            events.append(block_delta(index, type="signature_delta", signature=SIGNATURE))
        events.append(block_stop(index))
        index += 1
    for number, call in enumerate(say.calls):
        events.append(block_start(index, type="tool_use", id=call_id(number), name=call.name, input={}))
        pieces = [t.delta["content"] for t in tokens(Say(text=call.arguments)) if t.delta]
        events += [block_delta(index, type="input_json_delta", partial_json=p) for p in _grouped(pieces, interval)]
        events.append(block_stop(index))
        index += 1
    return events + end(STOPS[say.reason], 66)


def _grouped(pieces: list[str], interval: int) -> list[str]:
    return ["".join(pieces[at : at + interval]) for at in range(0, len(pieces), interval)]


def whole(say: Say) -> bytes:
    """The body of an answer that is not streamed. A call's arguments stand in it as they are written."""
    blocks: list[str] = []
    if say.reasoning:
        blocks.append(_json({"type": "thinking", "thinking": say.reasoning, "signature": SIGNATURE}))
    if say.text:
        blocks.append(_json({"type": "text", "text": say.text}))
    for number, call in enumerate(say.calls):
        head = _json({"type": "tool_use", "id": call_id(number), "name": call.name})
        blocks.append(f'{head[:-1]},"input":{call.arguments}}}')
    head = _json({"id": "chatcmpl-00112233aabbccdd", "type": "message", "role": "assistant"})[:-1]
    usage = {"input_tokens": PROMPT_TOKENS, "output_tokens": 44}
    rest = _json({"model": "tiny", "stop_reason": STOPS[say.reason], "usage": usage})[1:]
    return f'{head},"content":[{",".join(blocks)}],{rest}'.encode()


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def read_stream(body: bytes) -> Read:
    """What a client reads from a streamed body. The order of events is checked as strictly as a client might:
    blocks come one after the other, counted from 0, and each is closed."""
    read, calls = Read(), 0
    blocks: list[str] = []
    open_block, begun, ended, stopped = False, False, False, False
    for part in body.split(b"\n\n"):
        if not part:
            continue
        name, _, data = part.partition(b"\ndata: ")
        value = json.loads(data)
        kind = value["type"]
        assert name == f"event: {kind}".encode()
        assert not stopped
        assert begun is (kind != "message_start")
        if kind == "message_start":
            begun = True
        elif kind == "content_block_start":
            assert not open_block
            assert not ended
            assert value["index"] == len(blocks)
            open_block = True
            block = value["content_block"]
            blocks.append(block["type"])
            if block["type"] == "tool_use":
                read.calls[calls] = {"id": block["id"], "name": block["name"], "arguments": ""}
                calls += 1
        elif kind == "content_block_delta":
            assert open_block
            assert value["index"] == len(blocks) - 1
            delta = value["delta"]
            read.text += delta.get("text", "")
            read.reasoning += delta.get("thinking", "")
            if "partial_json" in delta:
                read.calls[calls - 1]["arguments"] += delta["partial_json"]
        elif kind == "content_block_stop":
            assert open_block
            assert value["index"] == len(blocks) - 1
            open_block = False
        elif kind == "message_delta":
            assert not open_block
            ended = True
            assert value["usage"]["input_tokens"] == PROMPT_TOKENS
            read.finish = value["delta"]["stop_reason"]
        elif kind == "message_stop":
            assert ended
            stopped = True
        else:
            raise AssertionError(kind)
    assert stopped
    return read


def read_whole(body: bytes) -> Read:
    message = json.loads(body)
    read = Read(finish=message["stop_reason"])
    for block in message["content"]:
        read.text += block.get("text", "")
        read.reasoning += block.get("thinking", "")
        if block["type"] == "tool_use":
            call = {"id": block["id"], "name": block["name"], "arguments": _json(block["input"])}
            read.calls[len(read.calls)] = call
    return read


TOOLS = [
    {
        "name": name,
        "description": name,
        "input_schema": {"type": "object", "properties": {arg: {"type": "string"}}, "required": [arg]},
    }
    for name, arg in (("run_shell", "command"), ("get_weather", "city"), ("read_file", "path"))
]


def ask(**fields: object) -> dict[str, Any]:
    message = {"role": "user", "content": "Clean up."}
    return {"model": "tiny", "max_tokens": 300, "messages": [message], "tools": TOOLS, **fields}


class MessagesHarness:
    """The agent's side of a script (``serving.tiny.harness``) in the words of the Messages API. What the client was
    given goes back as it was given."""

    def __init__(self, script: Script) -> None:
        self.script = Harness(script)
        self.messages: list[dict[str, Any]] = [{"role": "user", "content": script.prompt}]

    @property
    def done(self) -> bool:
        return self.script.done

    def request(self, **options: Any) -> dict[str, Any]:
        """The body of the next request; ``options`` are added to it."""
        body: dict[str, Any] = {"model": "tiny", "max_tokens": 400, "temperature": 0, "messages": [*self.messages]}
        tools = [tool["function"] for tool in self.script.request().get("tools", [])]
        if tools:
            body["tools"] = [
                {"name": t["name"], "description": t["description"], "input_schema": t["parameters"]} for t in tools
            ]
        return body | options

    def take(self, content: list[dict[str, Any]]) -> None:
        """Go on after an answer's content blocks."""
        self.messages.append({"role": "assistant", "content": content})
        before = len(self.script.messages)
        calls = [
            {"id": b["id"], "function": {"name": b["name"], "arguments": json.dumps(b["input"])}}
            for b in content
            if b["type"] == "tool_use"
        ]
        text = "".join(b["text"] for b in content if b["type"] == "text")
        self.script.take({"role": "assistant", "content": text} | ({"tool_calls": calls} if calls else {}))
        blocks: list[dict[str, Any]] = []
        for message in self.script.messages[before + 1 :]:
            if message["role"] == "tool":
                result = {"tool_use_id": message["tool_call_id"], "content": message["content"]}
                blocks.append({"type": "tool_result", **result})
            else:
                blocks.append({"type": "text", "text": message["content"]})
        if blocks:
            self.messages.append({"role": "user", "content": blocks})


def blocks_of(message: Any) -> list[dict[str, Any]]:
    """An SDK message's content, as a client sends it back."""
    return [block.model_dump(exclude_none=True, exclude={"parsed_output"}) for block in message.content]
