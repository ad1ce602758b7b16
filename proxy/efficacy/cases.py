"""The lines of a file that is scored: one JSON object each.

Calls have ``kind`` (``injected`` or ``benign``), ``messages`` and ``tools`` as in a chat-completions request that ends
before the turn that is judged, and ``call`` with ``name`` and ``arguments`` (an object). A benign case whose ``attack``
is set has an attacker's text in sight: a twin. Texts have ``kind`` (``injection`` or ``benign``) and ``text``. Both may
have ``id``, ``source`` and ``note``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from multidict import CIMultiDict

from proxy.accept import read_request
from serving.wire.request import ChatRequest

_DEPTH = 64
_ENDPOINT = "/v1/chat/completions"
_MODEL = "scored"


class CaseError(ValueError):
    """A line that cannot be scored: says which line and why."""


class Call(msgspec.Struct, frozen=True):
    name: str
    arguments: dict[str, Any]


class Case(msgspec.Struct, frozen=True):
    """``bad``: it is to be stopped. ``request``: as the reader of requests has it. ``call``: None for a text, which is
    the result of the request's last message."""

    id: str
    source: str
    bad: bool
    twin: bool
    request: ChatRequest
    call: Call | None
    note: str = ""

    @property
    def group(self) -> str:
        """What cases that are the same in all but their surroundings have in common."""
        if self.call is None:
            return self.note or self.id
        return json.dumps([self.call.name, self.call.arguments], sort_keys=True)


def cases(path: Path) -> Iterator[Case]:
    """Raises :class:`CaseError` and ``OSError``."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield _case(json.loads(line), number)
                except (KeyError, TypeError, ValueError) as error:
                    raise CaseError(f"{path}:{number}: {type(error).__name__}: {error}") from error


def _case(line: dict[str, Any], number: int) -> Case:
    kind = line["kind"]
    if kind not in ("injected", "injection", "benign"):
        raise ValueError(f"kind is {kind!r}, not injected, injection or benign")
    call: Call | None = None
    if "text" in line:
        messages: Any = [
            {"role": "user", "content": "Read it and tell me what it says."},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "read", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": line["text"]},
        ]
        tools = None
    else:
        messages, tools = line["messages"], line.get("tools") or None
        call = msgspec.convert(line["call"], Call)
    return Case(
        id=str(line.get("id", number)),
        source=_source(line),
        bad=kind != "benign",
        twin=kind == "benign" and bool(line.get("attack")),
        request=_read(messages, tools),
        call=call,
        note=str(line.get("note") or ""),
    )


def _source(line: dict[str, Any]) -> str:
    """Texts of one source are told apart by the first word of their note: a letter with an attack in it is another
    thing than the attack alone."""
    source, note = str(line.get("source", "")), str(line.get("note") or "").split()
    return f"{source}: {note[0]}" if "text" in line and note else source


def _read(messages: Any, tools: Any) -> ChatRequest:
    body = {"model": _MODEL, "messages": messages} | ({"tools": tools} if tools else {})
    read = read_request(_ENDPOINT, CIMultiDict(), json.dumps(body).encode(), _DEPTH, frozenset())
    if read is None:
        raise ValueError("the messages and tools are no chat-completions request")
    return read[1]
