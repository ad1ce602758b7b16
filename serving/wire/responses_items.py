"""The output items of the Responses API, as the reader finds them and as a client is given them.

An answer is a list of items: reasoning, assistant messages, function calls. In a stream each item comes in pieces
and then again whole, three times over (``….done``, ``output_item.done``, ``response.completed``); an answer that is
stored can be fetched once more. :class:`Item` is what reader and writer share of one item, so that all these copies
can be held against what came in pieces.

The items that Interlock makes (the refusal in a call's place) have ids that follow from the call's id: every copy of
an answer, whenever it is asked for, shows the same item.
"""

from __future__ import annotations

import hashlib
import json
from enum import IntEnum
from typing import Any

import msgspec

from serving.wire.chat_stream import given
from serving.wire.vocabulary import TokensShown, Usage

CALL = "function_call"
MESSAGE = "message"
REASONING = "reasoning"
KINDS = frozenset({CALL, MESSAGE, REASONING})
NAMESPACE_SEPARATOR = "__"
ABSENT = msgspec.Raw()


class Stage(IntEnum):
    """How far an item has come. ``FRAME`` is an event that is about no item, ``FINAL`` the stream's last one."""

    FRAME = 0
    ADDED = 1
    PART = 2
    DELTA = 3
    TEXT_DONE = 4
    PART_DONE = 5
    DONE = 6
    FINAL = 7


class Token(msgspec.Struct, gc=False):
    token: str = ""
    bytes: list[int] | None = None
    logprob: float = 0.0


def tokens_shown(tokens: list[Token]) -> TokensShown | None:
    """The tokens of a logprobs list; None if there are none."""
    if not tokens:
        return None
    pieces = [bytes(one.bytes) if one.bytes is not None else utf8(one.token) for one in tokens]
    return TokensShown(b"".join(pieces), tuple(map(len, pieces)), tuple(one.logprob for one in tokens))


class Part(msgspec.Struct, gc=False):
    """A piece of an item's content. ``refusal`` belongs to a kind of part that vLLM does not make."""

    type: str | None = None
    text: str | None = None
    logprobs: list[Token] | None = None
    refusal: msgspec.Raw = ABSENT


class WireItem(msgspec.Struct, gc=False):
    """An item as it stands on the wire."""

    type: str | None = None
    id: str | None = None
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    arguments: str | None = None
    content: list[Part] | None = None
    summary: list[Part] | None = None
    encrypted_content: msgspec.Raw = ABSENT
    tool_calls: msgspec.Raw = ABSENT
    function_call: msgspec.Raw = ABSENT
    input: msgspec.Raw = ABSENT

    @property
    def full_name(self) -> str:
        return full_name(self.name or "", self.namespace)

    @property
    def shown(self) -> list[Token]:
        """The tokens that the item's logprobs show."""
        return [token for part in self.content or () for token in part.logprobs or ()]

    def said(self) -> str | None:
        """Its text, reasoning or arguments; None if it says something in another way."""
        if any(map(given, (self.tool_calls, self.function_call, self.input))):
            return None
        if self.type == CALL:
            return None if self.content or self.arguments is None else self.arguments
        wanted = "output_text" if self.type == MESSAGE else "reasoning_text"
        texts = []
        for part in self.content or ():
            if part.type != wanted or part.text is None or given(part.refusal):
                return None
            texts.append(part.text)
        if self.arguments or self.summary or given(self.encrypted_content):
            return None
        return "".join(texts)


class _InputDetails(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class _OutputDetails(msgspec.Struct, gc=False):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    input_tokens: int = 0
    output_tokens: int = 0
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None

    def neutral(self) -> Usage:
        cached, reasoning = self.input_tokens_details, self.output_tokens_details
        return Usage(
            prompt=self.input_tokens,
            completion=self.output_tokens,
            cached=(cached.cached_tokens or 0) if cached else 0,
            reasoning=(reasoning.reasoning_tokens or 0) if reasoning else 0,
        )


class _Incomplete(msgspec.Struct, gc=False):
    reason: str | None = None


class Response(msgspec.Struct, gc=False):
    """The answer as an object: whole, stored, or inside an event."""

    output: list[msgspec.Raw] | None = None
    status: str | None = None
    id: str | None = None
    model: str | None = None
    usage: _Usage | None = None
    incomplete_details: _Incomplete | None = None
    error: msgspec.Raw = ABSENT
    choices: msgspec.Raw = ABSENT

    @property
    def pending(self) -> bool:
        """It runs in the background and is not made yet."""
        return self.status in ("queued", "in_progress")

    def neutral_usage(self) -> Usage | None:
        return self.usage.neutral() if self.usage is not None else None

    def finish(self, calls: bool) -> str | None:
        """Why it ended, in the words of chat completions."""
        if self.pending:
            return None
        if self.status == "incomplete":
            reason = self.incomplete_details.reason if self.incomplete_details else None
            return "content_filter" if reason == "content_filter" else "length"
        return "tool_calls" if calls else "stop"


read_item = msgspec.json.Decoder(WireItem).decode
read_response = msgspec.json.Decoder(Response).decode


class Item:
    """One item of a streamed answer.

    ``number`` counts function calls from 0 (-1: the item is none). ``said`` is what has come of its text, reasoning
    or arguments, in UTF-8; ``raw`` the item as ``output_item.done`` brought it. The rest is the writer's: ``stage``
    is how far the client has it, ``upto`` how many bytes of ``said``, ``given`` what it was given of those if that is
    something else, ``hidden`` whether it was not given all tokens, and ``shown`` the whole item as the client was given
    it, if that is another one.
    """

    __slots__ = (
        "call_id",
        "given",
        "hidden",
        "id",
        "index",
        "name",
        "namespace",
        "number",
        "raw",
        "said",
        "shown",
        "stage",
        "type",
        "upto",
    )

    def __init__(self, index: int, sent: WireItem, number: int) -> None:
        self.index = index
        self.number = number
        self.id = sent.id or ""
        self.type = sent.type or ""
        self.call_id = sent.call_id
        self.name = sent.name or ""
        self.namespace = sent.namespace
        self.said = bytearray()
        self.raw: bytes | None = None
        self.stage: int = Stage.FRAME
        self.upto = 0
        self.given: bytearray | None = None
        self.hidden = False
        self.shown: bytes | None = None

    def is_same(self, other: WireItem) -> bool:
        """Whether ``other`` is a whole copy of this item."""
        said = other.said()
        return (
            (other.id, other.type, other.call_id) == (self.id, self.type, self.call_id)
            and (other.name or "", other.namespace) == (self.name, self.namespace)
            and said is not None
            and utf8(said) == self.said
        )


class Said(msgspec.Struct, frozen=True, gc=False):
    """What the reader knows of an event, for the writer. ``upto``: bytes of its item that came with it or before."""

    stage: int
    sequence: int | None = None
    item: Item | None = None
    upto: int = 0
    kind: str = ""


def full_name(name: str, namespace: str | None) -> str:
    """A tool's name as the model reads it, and as policies do."""
    return f"{namespace}{NAMESPACE_SEPARATOR}{name}" if namespace else name


def utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def refusal_id(call: str) -> str:
    """The id of the message that stands in the place of ``call`` (its id; of the whole answer, where that is cut)."""
    return "msg_" + hashlib.blake2b(utf8(call), digest_size=8, person=b"refused").hexdigest()


def text_part(text: str) -> dict[str, Any]:
    return {"annotations": [], "text": text, "type": "output_text", "logprobs": None}


def message_item(item_id: str, text: str | None, status: str = "completed") -> dict[str, Any]:
    """An assistant message as vLLM writes it; ``text`` None: nothing is in it yet."""
    return {
        "id": item_id,
        "content": [] if text is None else [text_part(text)],
        "role": "assistant",
        "status": status,
        "type": MESSAGE,
        "phase": None,
    }


def reasoning_item(item_id: str, text: str | None) -> dict[str, Any]:
    content = None if text is None else [{"text": text, "type": "reasoning_text"}]
    return {
        "id": item_id,
        "summary": [],
        "type": REASONING,
        "content": content,
        "encrypted_content": None,
        "status": "completed",
    }


def encode(value: Any) -> bytes:
    """JSON as vLLM writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
