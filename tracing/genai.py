"""Messages in the form of OpenTelemetry's GenAI conventions: a role and typed parts.

Source: gen_ai.input.messages / gen_ai.output.messages of the semantic conventions for generative AI
(open-telemetry/semantic-conventions-genai, JSON schemas beside the registry): parts ``text``, ``reasoning``,
``tool_call`` (id, name, arguments), ``tool_call_response`` (id, response). What has no part of its own is
carried as it came under its own type.
"""

from __future__ import annotations

import json
from typing import Any


def input_messages(messages: list[Any]) -> list[dict[str, Any]]:
    """From captured chat messages (OpenAI form)."""
    return [_message(message) for message in messages]


def output_messages(choices: list[Any]) -> list[dict[str, Any]]:
    """From the captured choices of an answer (the form of ``Settled.choices``)."""
    found = []
    for choice in choices:
        if not isinstance(choice, dict):
            continue
        message = _message({"role": "assistant", **choice})
        message["finish_reason"] = choice.get("finish_reason") or "unknown"
        found.append(message)
    return found


def tool_definitions(tools: list[Any]) -> list[dict[str, Any]]:
    """From captured tools (OpenAI form)."""
    found = []
    for tool in tools:
        if isinstance(tool, dict):
            function = tool.get("function")
            found.append({"type": "function", **function} if isinstance(function, dict) else tool)
    return found


def _message(message: Any) -> dict[str, Any]:
    if not isinstance(message, dict):
        return {"role": "unknown", "parts": [{"type": "text", "content": str(message)}]}
    role = message.get("role") or "unknown"
    parts: list[dict[str, Any]] = []
    for name in ("reasoning", "reasoning_content"):
        if message.get(name):
            parts.append({"type": "reasoning", "content": message[name]})
            break
    content = message.get("content")
    if role == "tool":
        parts.append({"type": "tool_call_response", "id": message.get("tool_call_id"), "response": content})
    elif isinstance(content, list):
        parts += [_part(part) for part in content]
    elif content:
        parts.append({"type": "text", "content": content})
    for call in message.get("tool_calls") or ():
        if isinstance(call, dict):
            parts.append(_call(call))
    named = {"name": message["name"]} if message.get("name") and role != "tool" else {}
    return {"role": role, **named, "parts": parts}


def _part(part: Any) -> dict[str, Any]:
    if isinstance(part, dict) and part.get("type") == "text":
        return {"type": "text", "content": part.get("text")}
    return part if isinstance(part, dict) else {"type": "text", "content": str(part)}


def _call(call: dict[str, Any]) -> dict[str, Any]:
    """A tool call in OpenAI's form, or flat as in ``Settled.choices``."""
    function = call.get("function")
    source = function if isinstance(function, dict) else call
    part = {
        "type": "tool_call",
        "id": call.get("id"),
        "name": source.get("name"),
        "arguments": parsed(source.get("arguments")),
    }
    if call.get("outcome") not in (None, "allowed", "unasked"):
        part["interlock.outcome"] = call["outcome"]
    if call.get("refusal"):
        part["interlock.refusal"] = call["refusal"]
    return part


def parsed(arguments: Any) -> Any:
    """Arguments as the object that their text says, or the text where it says none."""
    if not isinstance(arguments, str):
        return arguments
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
