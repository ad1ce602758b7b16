"""Content on its way to its record, as the traffic said it: plain data, which another process may be handed.

A draft becomes a record by :meth:`fill`, beside the traffic, where the record is written. Nothing of it is stored but
what the capture of its agent lets through.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from serving.text import printable
from serving.wire.request import SentMessage, SentTool
from tracing.capture import Capture
from tracing.records import CallOutcome, Decided, Opened, Record, Settled

_NAME_CHARACTERS = 200


class OpenedDraft(msgspec.Struct, frozen=True, array_like=True, tag="opened"):
    """What a request asks: ``params`` are its sampling fields, and what else says how the answer is made;
    ``changed_tools`` the names of tools that were others earlier in the run."""

    model: str | None
    messages: tuple[SentMessage, ...]
    tools: tuple[SentTool, ...]
    changed_tools: list[str]
    params: dict[str, Any]

    def fill(self, facts: Record, capture: Capture) -> Record:
        assert isinstance(facts, Opened)
        run = facts.run
        sent, offered = [_message(message) for message in self.messages], [_tool(tool) for tool in self.tools]
        messages, left_out = capture.messages(sent, run)
        tools = capture.items(offered, run)
        params = capture.value(self.params, run) or {}
        model = _name(capture, self.model)
        altered = [] if model == self.model else ["model"]
        if capture.keeps_words:
            altered += [f"messages/{at}" for at, kept in enumerate(messages, left_out) if kept != sent[at]]
            altered += [
                name for name, kept, had in (("tools", tools, offered), ("params", params, self.params)) if kept != had
            ]
        return msgspec.structs.replace(
            facts,
            model=model,
            messages=messages,
            messages_left_out=left_out,
            tools=tools,
            changed_tools=capture.items(self.changed_tools, run) if self.changed_tools else [],
            params=params,
            altered=altered,
        )


class DecidedDraft(msgspec.Struct, frozen=True, array_like=True, tag="decided"):
    """A decision as plain data, and the ``moment`` at which it was made (``Decided.moment``), if words are kept;
    ``masked`` are the words that it took away."""

    run: str
    decision: dict[str, Any]
    moment: dict[str, Any]
    masked: tuple[str, ...] = ()

    def fill(self, facts: Record, capture: Capture) -> Record:
        assert isinstance(facts, Decided)
        if self.masked:
            kept_of = [capture.denied(part, self.run).commitment for part in self.masked]
            facts = msgspec.structs.replace(facts, masked=[one for one in kept_of if one is not None])
        kept = self.decision
        if capture.mode != "full":
            kept = masked(capture, with_plain_pointers(self.decision, capture.mask_word))
        if not self.moment:
            return msgspec.structs.replace(facts, decision=kept)
        moment = self.moment if capture.mode == "full" else with_plain_pointers(self.moment, capture.mask_word)
        captured: dict[str, Any] = capture.value(moment, self.run)
        altered = [name for name, value in self.moment.items() if captured.get(name) != value]
        return msgspec.structs.replace(facts, decision=kept, moment=captured, altered=altered)


class CallDraft(msgspec.Struct, frozen=True, array_like=True, tag="call"):
    """A tool call. ``given``: the client had it; ``masked``: with these arguments."""

    run: str
    call_id: str | None
    name: str
    arguments: str
    given: bool
    masked: str | None = None

    def fill(self, facts: Record, capture: Capture) -> Record:
        assert isinstance(facts, CallOutcome)
        run = self.run
        arguments, commitment = capture.text(self.arguments, run), None
        if not self.given:
            denied = capture.denied(self.arguments, run)
            arguments, commitment = denied.excerpt, denied.commitment
        elif self.masked is not None:
            arguments, commitment = capture.text(self.masked, run), capture.denied(self.arguments, run).commitment
        kept = {"call_id": capture.text(self.call_id, run), "name": capture.text(self.name, run) or ""}
        made = {"call_id": self.call_id, "name": self.name, "arguments": self.arguments}
        kept["arguments"] = arguments
        return msgspec.structs.replace(
            facts,
            **kept,
            altered=[part for part in made if kept[part] != made[part]] if capture.keeps_words else [],
            commitment=commitment,
        )


class SettledDraft(msgspec.Struct, frozen=True, array_like=True, tag="settled"):
    """The answer; ``choices`` as the record has them, ``masked`` what of them a policy masked (``Settled.altered``)."""

    run: str
    model: str | None
    answer_id: str | None
    choices: list[dict[str, Any]]
    masked: tuple[str, ...] = ()

    def fill(self, facts: Record, capture: Capture) -> Record:
        assert isinstance(facts, Settled)
        choices = capture.items(self.choices, self.run)
        altered = _altered(self.choices, choices) if capture.keeps_words and choices != self.choices else []
        altered += [name for name in self.masked if name not in altered]
        return msgspec.structs.replace(
            facts,
            answer_model=_name(capture, self.model),
            answer_id=capture.text(self.answer_id, self.run),
            choices=choices,
            altered=altered,
        )


Draft = OpenedDraft | DecidedDraft | CallDraft | SettledDraft


def masked(capture: Capture, value: Any) -> Any:
    """Our own words (constants of policies, names, numbers), which are kept in every mode, but never with a
    secret."""
    if isinstance(value, str):
        return capture.mask_word(value)
    if isinstance(value, dict):
        return {key: masked(capture, inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [masked(capture, inner) for inner in value]
    return value


def with_plain_pointers(value: Any, mask: Callable[[str], str]) -> Any:
    """``value`` with those JSON pointers (``path``) unescaped in which the escapes hide a secret: the key of an
    argument may be one, and ``~1`` in it keeps an expression from seeing it."""
    if isinstance(value, dict):
        return {
            key: _plain_pointer(inner, mask)
            if key == "path" and isinstance(inner, str)
            else with_plain_pointers(inner, mask)
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [with_plain_pointers(inner, mask) for inner in value]
    return value


def _plain_pointer(value: str, mask: Callable[[str], str]) -> str:
    if "~" not in value:
        return value
    plain = value.replace("~1", "/").replace("~0", "~")
    return plain if mask(plain) != plain else value


def _message(message: SentMessage) -> dict[str, Any]:
    """A message of the request in OpenAI's form."""
    plain: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.reasoning:
        plain["reasoning"] = message.reasoning
    if message.calls:
        plain["tool_calls"] = [
            {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
            for c in message.calls
        ]
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        plain["name"] = message.name
    if message.media:
        plain["media"] = list(message.media)
    return plain


def _tool(tool: SentTool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


def _altered(said: list[dict[str, Any]], kept: list[Any]) -> list[str]:
    """Which parts of which choices are not kept as they were said."""
    return [
        f"choices/{at}/{part}"
        for at, choice in enumerate(said)
        for part, value in choice.items()
        if at >= len(kept) or kept[at].get(part) != value
    ]


def _name(capture: Capture, name: str | None) -> str | None:
    """A model's name, which is whatever the caller or the model server says: kept in every mode, one bounded
    line, never a secret."""
    return None if name is None else printable(capture.mask_word(printable(name, 4096)), _NAME_CHARACTERS)
