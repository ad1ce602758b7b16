"""The dialect of ``/v1/chat/completions``."""

from __future__ import annotations

from typing import Any

from serving.request_fields import RULES
from serving.wire.chat_answer import read_answer
from serving.wire.chat_request import read_chat_request
from serving.wire.chat_stream import ChatStreamReader
from serving.wire.chat_writer import ChatWriter
from serving.wire.dialect import Api, Coerced, StreamReader, UpstreamRefuses, WholeAnswer
from serving.wire.request import ChatRequest
from serving.wire.writer import StreamWriter, WholeWriter


class Chat:
    api: Api = "chat"
    fields = RULES

    def __init__(self) -> None:
        self._writer = ChatWriter()

    def request(self, value: Any) -> ChatRequest | Coerced | UpstreamRefuses:
        return read_chat_request(value)

    def stream(self, request: ChatRequest) -> tuple[StreamReader, StreamWriter]:
        return ChatStreamReader(), self._writer

    def answer(self, body: bytes) -> WholeAnswer | None:
        return read_answer(body)

    def whole(self, request: ChatRequest) -> WholeWriter:
        return self._writer
