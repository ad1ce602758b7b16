"""Asks ``tests/support/vllm_reader.py``, in the vLLM lane, what vLLM reads; and compares it with what we read."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serving.wire.request import ChatRequest, SentMessage
from tests.support.processes import StartError
from tests.support.servers import TINY_MODEL

READER = Path(__file__).with_name("vllm_reader.py")
JSON_HEADERS = [["content-type", "application/json"]]


class Oracle:
    """vLLM's reading of one body after another. What the child prints beside its answers is in ``log``."""

    def __init__(self, child: subprocess.Popen[bytes], log: Path) -> None:
        self._child = child
        self._log = log

    def line(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise StartError(f"vLLM's reader ended:\n{self._log.read_text(errors='replace')[-3000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def read(self, body: bytes, path: str) -> dict[str, Any]:
        """``verdict`` is ``read`` or ``refused``; see ``vllm_reader``."""
        assert self._child.stdin is not None
        asked = {"path": path, "headers": JSON_HEADERS, "body": base64.b64encode(body).decode()}
        self._child.stdin.write(json.dumps(asked).encode() + b"\n")
        self._child.stdin.flush()
        return self.line()


@contextmanager
def reading(environment: Path, folder: Path) -> Iterator[Oracle]:
    """A reader in the environment of the vLLM lane, about fifteen seconds after it is asked for."""
    log = folder / "reader.log"
    with log.open("wb") as errors:
        child = subprocess.Popen(
            [environment / "bin" / "python", READER, TINY_MODEL],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=folder,
        )
    try:
        oracle = Oracle(child, log)
        assert oracle.line() == {"ready": True}
        yield oracle
    finally:
        assert child.stdin is not None
        child.stdin.close()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


# --- comparing ---------------------------------------------------------------------------------------------


def differences(view: ChatRequest, read: dict[str, Any]) -> list[str]:
    """In which points the two readings differ; none if the judge sees all that the model sees."""
    fields, seen = read["fields"], read["seen"]
    limit = fields.get("max_completion_tokens")
    pairs: list[tuple[str, Any, Any]] = [
        ("model", view.model, fields.get("model")),
        ("stream", view.stream, bool(fields.get("stream"))),
        ("n", view.n, (1 if fields.get("n") is None else fields["n"]) * read.get("prompts", 1)),
        ("limit", view.limit, fields.get("max_tokens") if limit is None else limit),
        ("logprobs", view.logprobs, bool(fields.get("logprobs"))),
        ("top_logprobs", view.top_logprobs, fields.get("top_logprobs") or 0),
        ("token_ids", view.token_ids, bool(fields.get("return_token_ids"))),
        ("tool_choice", _choice(view.tool_choice, view.tools), _choice(fields.get("tool_choice"), seen["tools"])),
        ("tools", [_offered(tool) for tool in _tools_here(view)], [_offered(tool) for tool in seen["tools"]]),
        *((f"sampling.{name}", value, fields.get(name)) for name, value in view.sampling.items()),
    ]
    found = [f"{name}: we read {ours!r}, vLLM {theirs!r}" for name, ours, theirs in pairs if ours != theirs]
    if read["api"] == "chat":
        usage = bool((fields.get("stream_options") or {}).get("include_usage"))
        found += [] if view.include_usage is usage else ["include_usage"]
        found += [] if len(view.messages) == len(seen["string"]) else ["messages: not as many"]
        for number, (ours, theirs) in enumerate(zip(view.messages, seen["string"], strict=False)):
            found += [f"messages[{number}]{what}" for what in _message(ours, theirs)]
    else:
        for theirs in seen["string"]:
            if not any(_holds(ours, theirs) for ours in view.messages):
                found.append(f"no message of the judge's has all of {theirs!r}")
    known = "\n".join(words_of(view))
    shown = [seen["string"], seen["openai"], seen["tools"], [list(one.values()) for one in seen["arguments"]]]
    leaves = {leaf for leaf in strings_in(shown) if not _MADE_ID.fullmatch(leaf)}
    found += [f"the judge does not see {leaf!r}" for leaf in sorted(leaves - STRUCTURE) if leaf not in known]
    return found


def _holds(ours: SentMessage, theirs: dict[str, Any]) -> bool:
    """Whether all that the model sees of a message is in this one of the judge's. A call that came without an id gets
    one of vLLM's."""
    text, reasoning = theirs.get("content") or "", theirs.get("reasoning") or ""
    if isinstance(text, list):
        text = "\n".join(strings_in([[part.get("text"), part.get("name")] for part in text]))
    mine = [(call.id, call.name, json.dumps(_as_vllm_reads(call.arguments))) for call in ours.calls]
    return (
        (ours.role, ours.tool_call_id) == (theirs["role"], theirs.get("tool_call_id"))
        and text in ours.text
        and reasoning in (ours.reasoning or "")
        and all(call in mine or (None, *call[1:]) in mine for call in _calls(theirs))
    )


_WORDS = """
role content type text name tool_calls tool_call_id id function arguments parameters description reasoning
reasoning_content strict defer_loading index tools task closed add_generation_prompt continue_final_message
enable_thinking cache_control ephemeral ttl 5m 1h reasoning_effort tool_reference none minimal low medium high
xhigh max
"""
_MADE_ID = re.compile(r"call_\d+")  # vLLM's, for a call that came without one
STRUCTURE = frozenset(_WORDS.split())
"""Words of the API itself, that a template sees in every request, and switches' values."""


def _choice(choice: Any, tools: Any) -> Any:
    if isinstance(choice, dict):
        return (choice.get("type", "function"), choice.get("function", choice)["name"])
    return choice if tools else None


def _tools_here(view: ChatRequest) -> list[dict[str, Any]]:
    return [
        {"function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters}}
        for tool in view.tools
    ]


def _offered(tool: dict[str, Any]) -> tuple[Any, ...]:
    function = tool["function"]
    return function["name"], function.get("description"), json.dumps(function.get("parameters"))


def _message(ours: SentMessage, theirs: dict[str, Any]) -> Iterator[str]:
    if ours.role != theirs["role"]:
        yield f".role: we read {ours.role!r}, vLLM {theirs['role']!r}"
    text = theirs.get("content") or ""
    cut = ours.role == "system" and ours.text.startswith("x-anthropic-billing-header")
    if ours.text != text and not (cut and ours.text.endswith(text)):
        yield f".content: we read {ours.text!r}, vLLM {text!r}"
    for name in ("tool_call_id", "name"):
        if name in theirs and theirs[name] != getattr(ours, name):
            yield f".{name}: we read {getattr(ours, name)!r}, vLLM {theirs[name]!r}"
    if "reasoning" in theirs and theirs["reasoning"] != ours.reasoning:
        yield f".reasoning: we read {ours.reasoning!r}, vLLM {theirs['reasoning']!r}"
    calls = _calls(theirs)
    mine = [(call.id, call.name, json.dumps(_as_vllm_reads(call.arguments))) for call in ours.calls]
    if calls and calls != mine:
        yield f".tool_calls: we read {mine!r}, vLLM {calls!r}"


def _calls(theirs: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [
        (call.get("id"), call["function"].get("name"), json.dumps(call["function"]["arguments"]))
        for call in theirs.get("tool_calls") or []
    ]


def _as_vllm_reads(arguments: str) -> Any:
    try:
        value = json.loads(arguments)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def words_of(view: ChatRequest) -> Iterator[str]:
    """Every text that the judge has of a request."""
    for message in view.messages:
        yield from (message.role, message.text, message.reasoning or "", message.tool_call_id or "", message.name or "")
        for call in message.calls:
            yield from (call.id or "", call.name, call.arguments)
            yield from strings_in(_as_vllm_reads(call.arguments))
    for tool in view.tools:
        yield from (tool.name, tool.description or "")
        yield from strings_in(tool.parameters)


def strings_in(value: Any) -> Iterator[str]:
    """Every string in a JSON value, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from strings_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings_in(item)
