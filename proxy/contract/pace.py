"""When the events of a stream came: is it handed on as it is made, or held until its end?

A verdict, not a measurement: a stream counts as *held* only if its first event came when the server's own stream was
all but over, and the rest came at once after it, while the server took its time from first to last event. A slow
proxy that hands on each event holds nothing; how long it takes is given beside, in figures. Short streams are not
looked at: a proxy that only begins late would seem to hold them.
"""

from __future__ import annotations

from dataclasses import dataclass

from proxy.contract.answer import Answer
from proxy.contract.compare import Difference

EVENTS = 5
SPREAD_SECONDS = 0.2
ALL_BUT_OVER, AT_ONCE = 0.8, 0.2


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds from the request to the stream's first event and to its last."""

    first: float
    last: float

    @property
    def spread(self) -> float:
        return self.last - self.first


def pace(answer: Answer) -> Pace | None:
    """None where there is no stream of several events."""
    if not answer.streams or answer.status >= 400:
        return None
    events = answer.events()
    if len(events) < EVENTS:
        return None
    return Pace(answer.came(len(events[0]) - 1), answer.came(len(answer.body) - 1))


def buffered(direct: Pace | None, through: Pace | None) -> list[Difference]:
    """A ``buffered`` difference, or nothing."""
    if direct is None or through is None or direct.spread < SPREAD_SECONDS:
        return []
    if through.first < ALL_BUT_OVER * direct.last or through.spread > AT_ONCE * direct.spread:
        return []
    return [Difference("buffered", "", _said(direct), _said(through))]


def _said(pace: Pace) -> str:
    return f"first event after {pace.first * 1000:.0f} of {pace.last * 1000:.0f} ms"
