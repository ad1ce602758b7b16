"""What one guardrail check says about one surface, and what it was asked."""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

Surface = Literal["request", "tool_result", "output", "tool_call"]
Direction = Literal["input", "output"]
Status = Literal["passed", "modified", "blocked", "error", "timeout", "dropped"]


class CheckJob(msgspec.Struct, frozen=True):
    """One question. ``surface``: request, tool_result, output, tool_call. ``direction``: what the text is to
    the model, as NeMo's rail types say it. ``ref`` is the caller's own key (exchange id), given back."""

    ref: str
    surface: Surface
    direction: Direction
    text: str


class Verdict(msgspec.Struct, frozen=True):
    """One answer. Only ``passed`` and ``modified`` mean that the check looked and let it by. ``detail`` names
    the rail or the error's kind, never the text. ``micros``: from submission to verdict."""

    ref: str
    check: str
    surface: str
    status: Status
    detail: str | None = None
    micros: int = 0


class Finding(msgspec.Struct, frozen=True):
    """What a check found when it looked. ``detail``: the rail that fired."""

    status: Literal["passed", "modified", "blocked"]
    detail: str | None = None


class CheckFailed(Exception):
    """A check could not look. ``kind`` is short and constant (``connect``, ``http 503``, ``shape`` …): it
    becomes the verdict's detail and a metric label, so it never holds text from traffic."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class Check(Protocol):
    """Something that looks at a text. ``look`` may take its time and be cancelled; it raises
    ``CheckFailed`` when it could not look, and nothing else for what the other side does."""

    @property
    def name(self) -> str: ...

    async def look(self, direction: Direction, text: str) -> Finding: ...
