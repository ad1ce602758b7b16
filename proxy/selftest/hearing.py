"""All that a client could put together from an answer: what each kind of field says there, joined; tokens too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from proxy.selftest.says import Vocabulary


def heard(body: bytes, vocabulary: Vocabulary) -> str:
    """One text with every channel on lines of its own, and the bytes as they came. Choices are kept apart."""
    channels: dict[str, bytearray] = {}

    def add(path: str, said: bytes) -> None:
        channels.setdefault(path, bytearray()).extend(said)

    def walk(value: Any, path: str, key: str) -> None:
        if isinstance(value, str):
            add(path, value.encode("utf-8", "surrogatepass"))
        elif isinstance(value, dict):
            for name, one in value.items():
                if key == "top_logprobs":
                    add(path, name.encode())
                walk(one, f"{path}.{name}", name)
        elif isinstance(value, list) and value and all(isinstance(one, int) for one in value):
            if key == "bytes":
                add(path, bytes(value))
            elif key == "token_ids":
                add(path, vocabulary.text(value).encode())
        elif isinstance(value, list):
            for one in value:
                number = one.get("index") if key == "choices" and isinstance(one, dict) else ""
                walk(one, f"{path}{number}", key)

    for document in _documents(body):
        walk(document, str(document.get("type", "")), "")
    joined = [bytes(said).decode("utf-8", "replace") for said in channels.values()]
    return "\n".join([*joined, body.decode("utf-8", "replace")])


def _documents(body: bytes) -> Iterator[dict[str, Any]]:
    """The JSON objects of a streamed or a whole answer."""
    lines = [line[6:] for line in body.split(b"\n") if line.startswith(b"data: {")]
    for text in lines or [body]:
        try:
            value = json.loads(text)
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value
