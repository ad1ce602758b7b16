"""Scripted chat answers in the very wire form of vLLM 0.32 with the Hermes tool parser.

A script is what each choice says: ``reasoning``, ``text`` and ``call`` segments. It is cut into tokens, and the
tokens become events as the recordings in ``tests/wire`` show it: one event for each ``interval`` tokens; tokens
without a visible delta give an event only if logprobs or token ids are shown.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

_PIECE = re.compile(r"</?think>|</?tool_call>|[A-Za-z0-9]{1,4}|\s|[^A-Za-z0-9\s]", re.S)


@dataclass(frozen=True)
class Call:
    name: str
    arguments: str


@dataclass(frozen=True)
class Say:
    """One choice of an answer. ``finish`` defaults to what vLLM would say."""

    reasoning: str = ""
    text: str = ""
    calls: tuple[Call, ...] = ()
    finish: str | None = None

    @property
    def reason(self) -> str:
        return self.finish or ("tool_calls" if self.calls else "stop")


@dataclass
class Token:
    text: str
    delta: dict[str, Any] = field(default_factory=dict)


FIRST_ID = 100_000
"""Beyond the ids of the model that the recordings are from: those are never read as words of a test."""


class Vocabulary:
    """Token ids that can be decoded again."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}

    def id(self, text: str) -> int:
        return self._ids.setdefault(text, FIRST_ID + len(self._ids))

    def __contains__(self, number: int) -> bool:
        return number in self._ids.values()

    def decode(self, ids: list[int]) -> str:
        by_id = {number: text for text, number in self._ids.items()}
        return "".join(by_id[number] for number in ids)


VOCABULARY = Vocabulary()
_BASE = {"id": "chatcmpl-00112233aabbccdd", "object": "chat.completion.chunk", "created": 1795214300, "model": "tiny"}


def tokens(say: Say) -> list[Token]:
    out: list[Token] = []
    if say.reasoning:
        out.append(Token("<think>"))
        out += [Token(p, {"reasoning": p}) for p in _PIECE.findall(say.reasoning)]
        out.append(Token("</think>"))
    out += [Token(p, {"content": p}) for p in _PIECE.findall(say.text)]
    for index, call in enumerate(say.calls):
        out += [Token(p) for p in _PIECE.findall(f'<tool_call>\n{{"name": "{call.name}"')]
        first = {
            "id": f"chatcmpl-tool-{index:016x}",
            "type": "function",
            "index": index,
            "function": {"name": call.name},
        }
        out.append(Token(",", {"content": None, "tool_calls": [first]}))
        out += [Token(p) for p in _PIECE.findall(' "arguments": ')]
        out += [
            Token(p, {"content": None, "tool_calls": [{"index": index, "function": {"arguments": p}}]})
            for p in _PIECE.findall(call.arguments)
        ]
        out += [Token(p) for p in _PIECE.findall("}\n</tool_call>")]
    return out


def _merge(group: list[Token]) -> dict[str, Any]:
    delta: dict[str, Any] = {}
    for token in group:
        for key in ("content", "reasoning"):
            if token.delta.get(key) is not None:
                delta[key] = (delta.get(key) or "") + token.delta[key]
        for tool in token.delta.get("tool_calls", ()):
            tools = delta.setdefault("tool_calls", [])
            same = next((t for t in tools if t["index"] == tool["index"]), None)
            if same is None:
                tools.append(json.loads(json.dumps(tool)))
            elif "arguments" in tool["function"]:
                function = same["function"]
                function["arguments"] = function.get("arguments", "") + tool["function"]["arguments"]
    if "tool_calls" in delta:
        delta.setdefault("content", None)
    return delta


def _logprobs(group: list[Token], top: int) -> dict[str, Any]:
    content = []
    for token in group:
        entry = {"token": token.text, "logprob": -0.25, "bytes": list(token.text.encode())}
        content.append({**entry, "top_logprobs": [entry] * top})
    return {"content": content}


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


def stream(
    *says: Say, logprobs: bool = False, top: int = 0, token_ids: bool = False, interval: int = 1, usage: bool = True
) -> list[bytes]:
    """The events of a streamed answer, choices taking turns."""
    events = [
        _event(
            {
                **_BASE,
                "choices": [
                    {
                        "index": number,
                        "delta": {"role": "assistant", "content": ""},
                        "logprobs": None,
                        "finish_reason": None,
                    }
                ],
                "prompt_token_ids": None,
                "prompt_text": None,
            }
        )
        for number in range(len(says))
    ]
    lanes: list[list[bytes]] = []
    for number, say in enumerate(says):
        lane = []
        all_tokens = [*tokens(say), Token("<|im_end|>")]
        for at in range(0, len(all_tokens), interval):
            group = all_tokens[at : at + interval]
            last = at + interval >= len(all_tokens)
            delta = _merge(group)
            if not delta and not last and not (logprobs or token_ids):
                continue
            choice: dict[str, Any] = {
                "index": number,
                "delta": delta,
                "logprobs": _logprobs(group, top) if logprobs else None,
                "finish_reason": say.reason if last else None,
            }
            if last:
                choice["stop_reason"] = None
            choice["token_ids"] = [VOCABULARY.id(t.text) for t in group] if token_ids else None
            lane.append(_event({**_BASE, "choices": [choice]}))
        lanes.append(lane)
    while any(lanes):
        events += [lane.pop(0) for lane in lanes if lane]
    if usage:
        counts = {"prompt_tokens": 276, "total_tokens": 342, "completion_tokens": 66}
        events.append(_event({**_BASE, "choices": [], "usage": counts, "system_fingerprint": "vllm-0.32.0-06be4308"}))
    events.append(b"data: [DONE]\n\n")
    return events


def whole(*says: Say, logprobs: bool = False, top: int = 0, token_ids: bool = False) -> bytes:
    """The body of an answer that is not streamed."""
    choices = []
    for number, say in enumerate(says):
        message: dict[str, Any] = {
            "role": "assistant",
            "content": say.text or None,
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
        }
        if say.calls:
            message["tool_calls"] = [
                {
                    "id": f"chatcmpl-tool-{i:016x}",
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for i, call in enumerate(say.calls)
            ]
        message["reasoning"] = say.reasoning or None
        all_tokens = [*tokens(say), Token("<|im_end|>")]
        choices.append(
            {
                "index": number,
                "message": message,
                "logprobs": _logprobs(all_tokens, top) if logprobs else None,
                "finish_reason": say.reason,
                "stop_reason": None,
                "token_ids": [VOCABULARY.id(t.text) for t in all_tokens] if token_ids else None,
                "routed_experts": None,
            }
        )
    value = {
        **_BASE,
        "object": "chat.completion",
        "choices": choices,
        "service_tier": None,
        "system_fingerprint": "vllm-0.32.0-06be4308",
        "usage": {"prompt_tokens": 275, "total_tokens": 319, "completion_tokens": 44, "prompt_tokens_details": None},
        "prompt_logprobs": None,
        "prompt_token_ids": None,
        "kv_transfer_params": None,
    }
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


@dataclass
class Read:
    """All that a client can read out of one choice of an answer, by whatever channel."""

    text: str = ""
    reasoning: str = ""
    calls: dict[int, dict[str, Any]] = field(default_factory=dict)
    finish: str | None = None
    logprob_text: str = ""
    id_text: str = ""
    ids: list[int] = field(default_factory=list)

    def everything(self) -> str:
        calls = json.dumps(list(self.calls.values()), ensure_ascii=False)
        return "\n".join([self.text, self.reasoning, calls, self.logprob_text, self.id_text])


def _add_tokens(read: Read, choice: dict[str, Any]) -> None:
    raw = bytearray()
    for entry in (choice.get("logprobs") or {}).get("content") or []:
        raw += bytes(entry["bytes"])
        for other in entry["top_logprobs"]:
            assert bytes(other["bytes"]).decode() == other["token"]
    read.logprob_text += raw.decode("utf-8", "replace")
    read.ids += choice.get("token_ids") or []


def read_stream(body: bytes, decode: Any = VOCABULARY.decode) -> dict[int, Read]:
    """What a client reads from a streamed body; each event must be well-formed JSON."""
    reads: dict[int, Read] = {}
    for part in body.split(b"\n\n"):
        if not part.startswith(b"data: ") or part == b"data: [DONE]":
            continue
        for choice in json.loads(part[6:]).get("choices", []):
            read = reads.setdefault(choice["index"], Read())
            delta = choice["delta"]
            read.text += delta.get("content") or ""
            read.reasoning += delta.get("reasoning") or ""
            for tool in delta.get("tool_calls") or []:
                call = read.calls.setdefault(tool["index"], {"id": None, "name": "", "arguments": ""})
                call["id"] = tool.get("id") or call["id"]
                call["name"] += tool["function"].get("name") or ""
                call["arguments"] += tool["function"].get("arguments") or ""
            read.finish = choice.get("finish_reason") or read.finish
            _add_tokens(read, choice)
    for read in reads.values():
        read.id_text = decode(read.ids) if read.ids else ""
    return reads


def read_whole(body: bytes, decode: Any = VOCABULARY.decode) -> dict[int, Read]:
    reads: dict[int, Read] = {}
    for choice in json.loads(body)["choices"]:
        message = choice["message"]
        read = reads[choice["index"]] = Read(message["content"] or "", message["reasoning"] or "")
        for i, tool in enumerate(message.get("tool_calls") or []):
            read.calls[i] = {"id": tool["id"], **tool["function"]}
        read.finish = choice["finish_reason"]
        _add_tokens(read, choice)
        read.id_text = decode(read.ids) if read.ids else ""
    return reads
