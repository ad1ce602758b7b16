"""The message in a chat completion's body, streamed or whole, and whether it keeps to a script.

A small reader for recordings and tests of the tiny model. It trusts what it reads; the reader that
does not is ``serving.wire``.
"""

import json
from typing import Any

from serving.tiny.dialogue import Message, Turn


def message(body: bytes, *, choice: int = 0) -> Message:
    """Role, content, reasoning and, if there are any, ``tool_calls`` of one choice."""
    if not body.startswith(b"data: "):
        choices = json.loads(body)["choices"]
        whole = next(each["message"] for each in choices if each["index"] == choice)
        names = ("role", "content", "reasoning", "tool_calls")
        return {name: whole[name] for name in names if name in whole}
    text: dict[str, str] = {"content": "", "reasoning": ""}
    calls: list[dict[str, Any]] = []
    for line in body.split(b"\n\n"):
        data = line.removeprefix(b"data: ")
        if not data or data == b"[DONE]":
            continue
        for each in json.loads(data).get("choices", []):
            if each["index"] == choice:
                _add(each["delta"], text, calls)
    joined: Message = {"role": "assistant", **text}
    return joined | {"tool_calls": calls} if calls else joined


def differences(given: Message, turn: Turn) -> list[str]:
    """What ``given`` says otherwise than ``turn``; outer white space does not count."""
    calls = [
        (call["function"]["name"], json.loads(call["function"]["arguments"])) for call in given.get("tool_calls") or []
    ]
    pairs = {
        "reasoning": ((given.get("reasoning") or "").strip(), turn.reasoning),
        "text": ((given.get("content") or "").strip(), turn.text or ""),
        "calls": (calls, [(call.name, dict(call.arguments)) for call in turn.calls]),
    }
    return [f"{name}: expected {wanted!r}, got {got!r}" for name, (got, wanted) in pairs.items() if got != wanted]


def _add(delta: dict[str, Any], text: dict[str, str], calls: list[dict[str, Any]]) -> None:
    for name in text:
        text[name] += delta.get(name) or ""
    for part in delta.get("tool_calls") or []:
        function = part["function"]
        if part["index"] == len(calls):
            made = {"name": function["name"], "arguments": ""}
            calls.append({"id": part["id"], "type": "function", "function": made})
        calls[part["index"]]["function"]["arguments"] += function.get("arguments") or ""
