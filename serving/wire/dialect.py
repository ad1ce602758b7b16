"""What one API of the model server is to Interlock: how its requests are read, its answers read and changed.

The relay, the gate and the judge know no API by name. They take the :class:`Dialect` that belongs to the path
(``serving.wire.dialects``) and speak in neutral words: ``serving.wire.request`` for what was asked,
``serving.wire.vocabulary`` for what comes, ``serving.wire.writer`` for what is to be changed.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol, runtime_checkable

import msgspec

from serving.request_fields import FieldRule
from serving.wire.request import ChatRequest
from serving.wire.text_run import Frame
from serving.wire.vocabulary import Event, TokensShown, ToolCall, Usage
from serving.wire.writer import StreamWriter, WholeWriter

Api = Literal["chat", "batch", "completions", "responses", "messages"]


class Coerced(msgspec.Struct, frozen=True):
    """A field that vLLM reads in its own way. ``field`` is its path (``messages[2].content``); ``message``
    says what is expected, for the client."""

    field: str
    message: str


class UpstreamRefuses(msgspec.Struct, frozen=True):
    """vLLM answers this request with an error of its own. ``field`` is where, ``reason`` why we think so."""

    field: str
    reason: str


class AnswerChoice(msgspec.Struct, frozen=True):
    """One choice of a whole answer. ``position`` is its place in the list, ``number`` its index; ``shown``: its tokens
    with their logprobs, if the answer has them."""

    position: int
    number: int
    text: str
    reasoning: str
    calls: tuple[ToolCall, ...]
    finish: str | None
    shown: TokensShown | None = None


class WholeAnswer(msgspec.Struct, frozen=True):
    """A whole (not streamed) answer. An API that knows no choices has one, with position and number 0. ``pending``: it
    is being made in the background, and comes when it is fetched."""

    choices: tuple[AnswerChoice, ...]
    usage: Usage | None
    answer_id: str | None
    model: str | None
    pending: bool = False


class StreamReader(Protocol):
    """Reads one streamed answer. What it gives back, joined, is exactly what it was fed."""

    @property
    def pending(self) -> int:
        """Bytes of the event that has begun and not ended."""

    def feed(self, data: bytes) -> list[Event]:
        """The events that ``data`` completes."""

    def rest(self) -> bytes:
        """What is left when the stream is over, normally nothing."""

    def harmless(self, rest: bytes) -> bool:
        """Whether no client would act on ``rest``, an event without its end."""


@runtime_checkable
class ReadsRuns(Protocol):
    """A stream's reader that can give several plain events as one (``Event.count``), if ``runs`` is set."""

    runs: bool


@runtime_checkable
class ShowsFrame(Protocol):
    """A reader of runs that can tell what its stream's plain events look like."""

    def frame(self) -> Frame | None:
        """What any next bytes that have it say, if they are one whole event with a string that needs no unescaping:
        that text and nothing else, and the reader need not see them. None: not known."""


class Dialect(Protocol):
    """One API. Stateless; what one answer needs to remember is in the pair that :meth:`stream` makes."""

    api: Api
    fields: tuple[FieldRule, ...]
    """The request fields of this API that hide or split a surface (``serving.request_fields``)."""

    def request(self, value: Any) -> ChatRequest | Coerced | UpstreamRefuses:
        """What the model server will make of ``value``, the strict value of a request's body."""

    def stream(self, request: ChatRequest) -> tuple[StreamReader, StreamWriter]:
        """Reader and writer for one streamed answer; they may know each other."""

    def answer(self, body: bytes) -> WholeAnswer | None:
        """What a whole answer says, read strictly; None if it is not understood (the setting for unjudged answers
        decides)."""

    def whole(self, request: ChatRequest) -> WholeWriter:
        """The writer for one whole answer."""
