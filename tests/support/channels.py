"""Everything that one answer of vLLM tells a client, by whatever channel: so that a test can look for a leak.

Deltas are joined, logprob bytes (of the sampled tokens, and of the likeliest alternative) decoded, and token ids
turned into text by the server's own tokenizer.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable

from tests.support.chat import Read, read_stream, read_whole
from tests.support.events import events
from tests.support.wire import Message

Decode = Callable[[list[int]], str]


def detokenizer(url: str, model: str) -> Decode:
    """Token ids to text, by vLLM at ``url``."""

    def decode(ids: list[int]) -> str:
        body = json.dumps({"model": model, "tokens": ids}).encode()
        request = urllib.request.Request(f"{url}/detokenize", body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            text: str = json.loads(answer.read())["prompt"]
        return text

    return decode


def reads(answer: Message, decode: Decode) -> dict[int, Read]:
    """Each choice of the answer as a client reads it."""
    if answer.body.startswith(b"data: "):
        return read_stream(answer.body, decode)
    return read_whole(answer.body, decode)


def told(answer: Message, decode: Decode) -> dict[int, dict[str, str]]:
    """Choice → channel → text, of those channels that the answer has."""
    likeliest: dict[int, bytearray] = {}
    data = [event.removeprefix(b"data: ") for event in events(answer.body)]
    for document in (json.loads(one) for one in data if one.startswith(b"{")):
        for choice in document.get("choices", []):
            for entry in (choice.get("logprobs") or {}).get("content") or []:
                if entry["top_logprobs"]:
                    likeliest.setdefault(choice["index"], bytearray()).extend(entry["top_logprobs"][0]["bytes"] or [])
    found = {}
    for number, read in reads(answer, decode).items():
        channels = {
            "text": read.text,
            "reasoning": read.reasoning,
            "calls": json.dumps([[call["name"], call["arguments"]] for call in read.calls.values()]),
            "logprobs": read.logprob_text,
            "alternatives": likeliest.get(number, b"").decode("utf-8", "replace"),
            "token ids": read.id_text,
        }
        found[number] = {name: text for name, text in channels.items() if text}
    return found
