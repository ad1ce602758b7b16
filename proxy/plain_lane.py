"""The short way of an event that says nothing but a piece of plain text, alone in its read, in a choice of which
nothing is held: what nearly every read is at a model's pace.

Its bytes are compared with the frame that this stream's plain events have (``serving.wire.text_run``); a text that
needs no unescaping and in which no call can begin goes on at once. What the events said is kept here, and told to the
gate and to the exchange as one run of events before either is asked anything: they are not touched for each token, nor
is what belongs to them. With a thousand streams that is where the time would go.
"""

from __future__ import annotations

from serving.wire.shadow_calls.markers import TRIGGER
from serving.wire.text_run import Frame
from serving.wire.vocabulary import ChoiceDelta, Event

_LONGEST = 64  # events that are told as one


class PlainLane:
    """Of one stream, as long as its plain events have this ``frame``. ``size``: bytes of the events that are not told
    yet."""

    __slots__ = ("_after", "_before", "_end", "_least", "_room", "_start", "_texts", "frame", "size")

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self._before, self._after = frame.before, frame.after
        self._start, self._end = len(frame.before), -len(frame.after)
        self._least = len(frame.before) + len(frame.after)
        self._texts: list[str] = []
        self._room = 0
        self.size = 0

    def open(self, most: float) -> None:
        """It may take so many events (64 at most) until they are told."""
        self._room = int(min(most, _LONGEST))

    @property
    def full(self) -> bool:
        return self._room <= 0

    def takes(self, data: bytes) -> bool:
        """Whether ``data`` is such an event; it then is to be told."""
        if not data.startswith(self._before) or not data.endswith(self._after) or len(data) < self._least:
            return False
        try:
            text = data[self._start : self._end].decode()
        except UnicodeDecodeError:
            return False
        if '"' in text or "\\" in text or not text.isprintable() or TRIGGER.search(text) is not None:
            return False
        self._texts.append(text)
        self._room -= 1
        self.size += len(data)
        return True

    def told(self) -> Event | None:
        """What the events that it took said together, as an event without bytes, since those have left."""
        texts = self._texts
        if not texts:
            return None
        said, count = "".join(texts), len(texts)
        texts.clear()
        self.size = 0
        frame = self.frame
        delta = ChoiceDelta(frame.choice, None, said) if frame.reasoning else ChoiceDelta(frame.choice, said)
        return Event(b"", "delta", (delta,), answer_id=frame.answer_id, count=count)
