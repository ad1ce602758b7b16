"""The dialect of ``/v1/chat/completions/batch``: several conversations in one request, one choice for each in a whole
answer of chat completions. vLLM 0.32 neither streams it nor takes tools there.

The conversations are judged together, as the messages of one request; an exchange like that begins no run that
could go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from serving.request_fields import RULES, FieldRule
from serving.wire.chat import Chat
from serving.wire.chat_request import read_chat_request
from serving.wire.dialect import Api, Coerced, UpstreamRefuses
from serving.wire.request import ChatRequest, SentMessage


def _in_any(rule: FieldRule) -> FieldRule:
    """The rule on each conversation."""

    def applies(fields: Mapping[str, Any]) -> bool:
        sent = fields.get("messages")
        conversations = sent if isinstance(sent, list) else [sent]
        return any(rule.applies({**fields, "messages": one}) for one in conversations)

    return msgspec.structs.replace(rule, applies=applies)


class Batch(Chat):
    api: Api = "batch"
    fields = tuple(_in_any(rule) for rule in RULES)

    def request(self, value: Any) -> ChatRequest | Coerced | UpstreamRefuses:
        sent = value.get("messages") if isinstance(value, dict) else None
        if not isinstance(sent, list) or not sent:
            return UpstreamRefuses("messages", "not a list of conversations")
        found: list[SentMessage] = []
        request: ChatRequest | None = None
        for place, conversation in enumerate(sent):
            if not isinstance(conversation, list) or not conversation:
                return UpstreamRefuses(f"messages[{place}]", "not a conversation")
            read = read_chat_request({**value, "messages": conversation})
            if not isinstance(read, ChatRequest):
                return read
            request = read
            found += read.messages
        assert request is not None
        for name in ("stream", "use_beam_search"):
            if value.get(name):
                return UpstreamRefuses(name, "not in a batch")
        if request.tools or request.n != 1:
            return UpstreamRefuses("tools" if request.tools else "n", "not in a batch")
        return msgspec.structs.replace(request, messages=tuple(found), n=len(sent))
