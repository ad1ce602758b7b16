"""The dialect of ``/v1/messages`` (Anthropic's Messages API as vLLM serves it)."""

from __future__ import annotations

from typing import Any

from serving.messages_fields import MESSAGES_RULES
from serving.wire.dialect import Api, Coerced, StreamReader, UpstreamRefuses, WholeAnswer
from serving.wire.messages_answer import read_answer
from serving.wire.messages_request import read_messages_request
from serving.wire.messages_stream import MessagesStreamReader
from serving.wire.messages_writer import MessagesStreamWriter, MessagesWholeWriter
from serving.wire.request import ChatRequest
from serving.wire.writer import StreamWriter, WholeWriter


class Messages:
    api: Api = "messages"
    fields = MESSAGES_RULES

    def __init__(self) -> None:
        self._whole = MessagesWholeWriter()

    def request(self, value: Any) -> ChatRequest | Coerced | UpstreamRefuses:
        return read_messages_request(value)

    def stream(self, request: ChatRequest) -> tuple[StreamReader, StreamWriter]:
        reader = MessagesStreamReader()
        return reader, MessagesStreamWriter(reader.counts)

    def answer(self, body: bytes) -> WholeAnswer | None:
        return read_answer(body)

    def whole(self, request: ChatRequest) -> WholeWriter:
        return self._whole
