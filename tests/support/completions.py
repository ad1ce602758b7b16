"""Scripted answers of ``/v1/completions`` in the very wire form of vLLM 0.32, and what a client reads from them.

A completion has text alone; of a :class:`~tests.support.chat.Say` only that counts.
"""

from __future__ import annotations

import json
from typing import Any

from tests.support.chat import VOCABULARY, Read, Say, Token, tokens

_BASE = {"id": "cmpl-00112233aabbccdd", "object": "text_completion", "created": 1795214304, "model": "tiny"}


def ask(**fields: object) -> dict[str, Any]:
    return {"model": "tiny", "prompt": "Clean up.", "max_tokens": 300, **fields}


def _dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _logprobs(group: list[Token], at: int, top: int) -> dict[str, Any]:
    offsets = []
    for token in group:
        offsets.append(at)
        at += len(token.text)
    return {
        "text_offset": offsets,
        "token_logprobs": [-0.25] * len(group),
        "tokens": [token.text for token in group],
        "top_logprobs": [{token.text: -0.25} if top else None for token in group],
    }


def stream(*says: Say, logprobs: bool = False, top: int = 0, token_ids: bool = False, interval: int = 1) -> list[bytes]:
    """The events of a streamed answer, choices taking turns."""
    lanes: list[list[bytes]] = []
    for number, say in enumerate(says):
        lane, every, at = [], [*tokens(Say(text=say.text)), Token("<|im_end|>")], 0
        for first in range(0, len(every), interval):
            group = every[first : first + interval]
            last = first + interval >= len(every)
            text = "".join(token.delta.get("content", "") for token in group)
            choice = {
                "index": number,
                "text": text,
                "logprobs": _logprobs(group, at, top) if logprobs else None,
                "finish_reason": (say.finish or "stop") if last else None,
                "stop_reason": None,
                "prompt_token_ids": None,
                "token_ids": [VOCABULARY.id(token.text) for token in group] if token_ids else None,
            }
            lane.append(b"data: " + _dump({**_BASE, "choices": [choice]}) + b"\n\n")
            at += len(text)
        lanes.append(lane)
    events: list[bytes] = []
    while any(lanes):
        events += [lane.pop(0) for lane in lanes if lane]
    return [*events, b"data: [DONE]\n\n"]


def whole(*says: Say, logprobs: bool = False, top: int = 0, token_ids: bool = False) -> bytes:
    """The body of an answer that is not streamed."""
    choices = []
    for number, say in enumerate(says):
        every = [*tokens(Say(text=say.text)), Token("<|im_end|>")]
        choices.append(
            {
                "index": number,
                "text": say.text,
                "logprobs": _logprobs(every, 0, top) if logprobs else None,
                "finish_reason": say.finish or "stop",
                "stop_reason": None,
                "token_ids": [VOCABULARY.id(token.text) for token in every] if token_ids else None,
                "prompt_logprobs": None,
                "prompt_token_ids": None,
                "routed_experts": None,
            }
        )
    usage = {"prompt_tokens": 275, "total_tokens": 319, "completion_tokens": 44}
    return _dump({**_BASE, "choices": choices, "usage": usage, "kv_transfer_params": None})


def _read(reads: dict[int, Read], choice: dict[str, Any]) -> None:
    read = reads.setdefault(choice["index"], Read())
    read.text += choice["text"]
    read.finish = choice["finish_reason"] or read.finish
    read.logprob_text += "".join((choice["logprobs"] or {}).get("tokens", []))
    read.ids += choice["token_ids"] or []


def read_stream(body: bytes) -> dict[int, Read]:
    reads: dict[int, Read] = {}
    for part in body.split(b"\n\n"):
        if part.startswith(b"data: ") and part != b"data: [DONE]":
            for choice in json.loads(part[6:])["choices"]:
                _read(reads, choice)
    return reads


def read_whole(body: bytes) -> dict[int, Read]:
    reads: dict[int, Read] = {}
    for choice in json.loads(body)["choices"]:
        _read(reads, choice)
    return reads
