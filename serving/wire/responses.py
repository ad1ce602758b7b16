"""The dialect of ``/v1/responses``: answers that are made, queued in the background, fetched and cancelled."""

from __future__ import annotations

from typing import Any

from serving.wire.dialect import Api, Coerced, StreamReader, UpstreamRefuses, WholeAnswer
from serving.wire.request import ChatRequest
from serving.wire.responses_answer import read_answer
from serving.wire.responses_request import FIELDS, read_responses_request
from serving.wire.responses_stream import ResponsesReader
from serving.wire.responses_writer import ResponsesWriter, WholeResponses
from serving.wire.writer import StreamWriter, WholeWriter


class Responses:
    api: Api = "responses"
    fields = FIELDS

    def __init__(self) -> None:
        self._writer = WholeResponses()

    def request(self, value: Any) -> ChatRequest | Coerced | UpstreamRefuses:
        return read_responses_request(value)

    def stream(self, request: ChatRequest) -> tuple[StreamReader, StreamWriter]:
        reader = ResponsesReader()
        return reader, ResponsesWriter(reader, request.after)

    def answer(self, body: bytes) -> WholeAnswer | None:
        return read_answer(body)

    def whole(self, request: ChatRequest) -> WholeWriter:
        return self._writer
