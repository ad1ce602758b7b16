"""One choice of a gated answer: its state, the table of its transitions, its queue and its calls.

How to think about it. What is held of a choice, and why, is one of five states:

====== ==================================================================================================
FLOW   nothing is held; events pass at once.
DOUBT  the last events showed tokens (logprobs, token ids) and no text that explains them. They may be the
       opening of a tool call, so they wait until an event of this choice says which surface they belong to.
HOLD   a call has begun. Its events, and every later event of the choice, wait in order.
DRAIN  the choice has finished upstream, and some of its calls are not judged yet.
ENDED  the choice has finished and its queue is empty.
====== ==================================================================================================

What an event says about its choice is one of four kinds, and ``NEXT`` is the whole machine:

* CALL    it carries a piece of a tool call
* FINISH  it carries a finish reason (and no piece of a call)
* BLIND   it shows tokens that its text does not explain
* PLAIN   anything else

A state may also be left from the other side: when verdicts come in and the queue empties, HOLD goes back to FLOW
(no call is open any more) and DRAIN goes on to ENDED. An event that is CALL and finishes as well is taken as CALL
and then as FINISH. Where ``NEXT`` says None, the model server contradicts itself, and the answer is cut.
"""

from __future__ import annotations

from collections import deque
from enum import Enum, auto
from typing import Literal

import msgspec

from proxy.gated_text import Found, Place, TextWatch
from serving.wire.masking import Masks, Surface
from serving.wire.vocabulary import ChoiceDelta, Event, ToolCall


class State(Enum):
    FLOW = auto()
    DOUBT = auto()
    HOLD = auto()
    DRAIN = auto()
    ENDED = auto()


class Kind(Enum):
    PLAIN = auto()
    BLIND = auto()
    CALL = auto()
    FINISH = auto()


NEXT: dict[State, dict[Kind, State | None]] = {
    State.FLOW: {
        Kind.PLAIN: State.FLOW,
        Kind.BLIND: State.DOUBT,
        Kind.CALL: State.HOLD,
        Kind.FINISH: State.ENDED,
    },
    State.DOUBT: {
        Kind.PLAIN: State.FLOW,
        Kind.BLIND: State.DOUBT,
        Kind.CALL: State.HOLD,
        Kind.FINISH: State.ENDED,
    },
    State.HOLD: {
        Kind.PLAIN: State.HOLD,
        Kind.BLIND: State.HOLD,
        Kind.CALL: State.HOLD,
        Kind.FINISH: State.DRAIN,
    },
    State.DRAIN: {Kind.PLAIN: State.DRAIN, Kind.BLIND: State.DRAIN, Kind.CALL: None, Kind.FINISH: None},
    State.ENDED: {Kind.PLAIN: State.ENDED, Kind.BLIND: State.ENDED, Kind.CALL: None, Kind.FINISH: None},
}

Problem = Literal["held_bytes", "renamed"]


class Question(msgspec.Struct, frozen=True):
    """A call that is to be judged. ``problem`` is set where the gate itself found it unfit."""

    ticket: int
    call: ToolCall
    problem: Problem | None = None


class TextQuestion(msgspec.Struct, frozen=True):
    """Text of choice number ``choice`` that is to be judged."""

    ticket: int
    choice: int
    found: Found


class Answer(msgspec.Struct, frozen=True):
    """The verdict on a question. ``refusal`` (None: allowed) is the text that takes the call's place;
    ``cut`` ends the whole answer with it; ``error`` ends it with an error event instead. ``arguments``: what is masked
    of the call's. ``surface`` is one of which something is masked: ``masks`` says what; None: first every match in it
    must be known whole."""

    refusal: str | None = None
    cut: bool = False
    error: bool = False
    arguments: Masks = ()
    surface: Surface | None = None
    masks: Masks | None = None


class HeldCall(msgspec.Struct):
    index: int
    id: str | None
    name: str
    pieces: list[str]
    complete: bool = False
    overflowed: bool = False
    renamed: bool = False
    answer: Answer | None = None
    told: bool = False
    given: int = 0  # bytes of its arguments that have left


class HeldEvent(msgspec.Struct):
    """``place`` is how far the texts had come that its tokens may show, ``said`` how far with what it says itself."""

    event: Event
    delta: ChoiceDelta
    touches: set[int]
    doubtful: bool
    place: Place = ()
    said: Place = ()


class Choice:
    """One choice's queue, state and calls."""

    __slots__ = ("calls", "kept", "newest", "numbers", "queue", "said", "state", "texts")

    def __init__(self, texts: TextWatch | None = None) -> None:
        self.state = State.FLOW
        self.queue: deque[HeldEvent] = deque()
        self.calls: dict[int, HeldCall] = {}
        self.newest = -1
        self.numbers: dict[int, int] = {}  # kept call: upstream's index → the client's
        self.kept = 0
        self.texts = texts
        self.said = False  # some text has been given, so a refusal needs a break before it

    @property
    def refused(self) -> bool:
        return any(c.answer is not None and c.answer.refusal is not None for c in self.calls.values())

    @property
    def changed(self) -> bool:
        """Whether a verdict on a call changes what is given."""
        return any(
            c.answer is not None and (c.answer.refusal is not None or c.answer.arguments) for c in self.calls.values()
        )
