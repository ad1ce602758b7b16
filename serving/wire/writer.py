"""How a judged answer is changed, said without naming an API: each dialect brings one such writer.

The gate decides *what* the client may see; a writer knows how that looks in its API. Writers change bytes by
splicing: all that is not concerned stays as the model server sent it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from serving.wire.masking import Masks, Surface
from serving.wire.vocabulary import Event, Usage


class EventChange(msgspec.Struct, frozen=True):
    """What is to become of one choice's part of one event.

    ``dropped``: tool-call indices that the client does not get. ``renumber``: kept indices that move.
    ``hide_tokens``: logprobs and token ids of this event may show a dropped call, or what is masked. ``finish``: the
    finish reason to show in place of the one that stands there. ``open_end``: the finish reason is taken out, because
    it comes in an event of its own. ``texts``: what it says of a surface instead; ``arguments``: what its piece of a
    call (by its index as the model server counts) says instead.
    """

    choice: int
    dropped: frozenset[int] = frozenset()
    renumber: Mapping[int, int] = {}
    hide_tokens: bool = False
    finish: str | None = None
    open_end: bool = False
    texts: Mapping[Surface, str] = {}
    arguments: Mapping[int, str] = {}


class StreamWriter(Protocol):
    """Writes changed events of one streamed answer, and there is one writer for each answer. What it gives is sent in
    the order in which it was asked for it.

    ``tracks``: the writer must see every event that the client gets (:meth:`passed`), because later events depend on
    earlier ones: numbers that count on, blocks that are open, copies of all that was said.
    """

    tracks: bool
    alive: bytes
    """What keeps a stream alive between two events, and which every client passes over."""

    def passed(self, event: Event) -> bytes:
        """The event as the client gets it where nobody changes it: its own bytes until something before it was
        changed. Asked only if :attr:`tracks`."""

    def change(self, event: Event, change: EventChange) -> bytes | None:
        """The event with the change made; None if nothing is left in it that the client should see."""

    def text(self, template: Event, choice: int, text: str) -> bytes:
        """An event (or several) like ``template`` (same id, model, time) in which ``choice`` says ``text``. For a
        refused call, ``template`` is the event that brought its first piece."""

    def finish(self, template: Event, choice: int, reason: str) -> bytes:
        """An event like ``template`` that ends ``choice``; ``reason`` in the words of chat completions."""

    def usage(self, template: Event, usage: Usage) -> bytes:
        """A closing usage event like ``template``; no bytes where the API has no such event."""

    def error(self, status: int, code: str | None, message: str) -> bytes:
        """An error event, in the form in which the model server reports its own failures."""

    def ending(self) -> bytes:
        """What closes the stream after the last event."""

    def split(self, event: Event) -> list[bytes]:
        """One event for each choice of an event that speaks of several, in their order."""


class ChoiceChange(msgspec.Struct, frozen=True):
    """What is to become of one choice of a whole answer. ``refused``: the text for each call (by index) that
    the client does not get, out of ``calls`` calls. ``finish``: the finish reason if no call is left, in the words of
    chat completions. ``cut``: the text that takes the place of all the choice says. ``texts``: what is masked of a
    surface; ``arguments``: the masked arguments of calls, by their index."""

    position: int
    refused: Mapping[int, str]
    calls: int
    finish: str
    cut: str | None = None
    texts: Mapping[Surface, Masks] = {}
    arguments: Mapping[int, str] = {}


class WholeWriter(Protocol):
    """Writes a changed whole answer."""

    def whole(self, body: bytes, changes: Sequence[ChoiceChange]) -> bytes:
        """The answer with the changes made, everything else byte for byte."""
