"""What the canary model server says, and the pieces in which it says it: one token after the other.

The pieces are those of a model whose chat template writes tool calls as Hermes does; each stands for one token.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

_PIECE = re.compile(r"</?think>|</?tool_call>|[A-Za-z0-9]{1,4}|\s|[^A-Za-z0-9\s]", re.S)
_FIRST_ID = 1000


@dataclass(frozen=True)
class Call:
    """A tool call; ``arguments`` are JSON."""

    name: str
    arguments: str

    @property
    def as_text(self) -> str:
        """As a model leaves it in its text when no parser takes it out."""
        return f'<tool_call>\n{{"name": {json.dumps(self.name)}, "arguments": {self.arguments}}}\n</tool_call>'


@dataclass(frozen=True)
class Say:
    """One choice of an answer."""

    reasoning: str = ""
    text: str = ""
    calls: tuple[Call, ...] = ()

    @property
    def reason(self) -> str:
        return "tool_calls" if self.calls else "stop"


@dataclass(frozen=True)
class Token:
    """A token, and what a chat stream's event shows of it."""

    text: str
    delta: dict[str, Any] = field(default_factory=dict)


class Vocabulary:
    """Token ids that can be read again."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._texts: dict[int, str] = {}

    def id(self, text: str) -> int:
        number = self._ids.setdefault(text, _FIRST_ID + len(self._ids))
        self._texts[number] = text
        return number

    def text(self, ids: list[int]) -> str:
        return "".join(self._texts.get(number, "") for number in ids)


END = Token("<|im_end|>")


def pieces(text: str) -> list[str]:
    """A text, token by token."""
    return _PIECE.findall(text)


def tokens(say: Say) -> list[Token]:
    """All that the model writes for one choice."""
    out: list[Token] = []
    if say.reasoning:
        out += [Token("<think>"), *(Token(p, {"reasoning": p}) for p in pieces(say.reasoning)), Token("</think>")]
    out += [Token(p, {"content": p}) for p in pieces(say.text)]
    for index, call in enumerate(say.calls):
        out += [Token(p) for p in pieces(f'<tool_call>\n{{"name": "{call.name}"')]
        first = {"id": call_id(index), "type": "function", "index": index, "function": {"name": call.name}}
        out.append(Token(",", {"content": None, "tool_calls": [first]}))
        out += [Token(p) for p in pieces(' "arguments": ')]
        for piece in pieces(call.arguments):
            more = {"index": index, "function": {"arguments": piece}}
            out.append(Token(piece, {"content": None, "tool_calls": [more]}))
        out += [Token(p) for p in pieces("}\n</tool_call>")]
    return [*out, END]


def call_id(index: int) -> str:
    return f"chatcmpl-tool-{index:016x}"


def dump(value: Any) -> bytes:
    """JSON as vLLM writes it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
