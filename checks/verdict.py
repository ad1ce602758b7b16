"""What one guardrail check says about one surface, and what it was asked."""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

Surface = Literal["request", "tool_result", "output", "tool_call"]
Direction = Literal["input", "output"]
Status = Literal["passed", "modified", "blocked", "error", "timeout", "dropped"]


class Scene(msgspec.Struct, frozen=True):
    """What a text is judged against, for a check that can take it in. ``conversation``: what the user and the agent
    said. ``call``: the tool call that the question is about, with the results in sight as the text; "" where the
    question is about the text itself."""

    conversation: str
    call: str = ""


class CheckJob(msgspec.Struct, frozen=True):
    """One question. ``surface``: request, tool_result, output, tool_call. ``direction``: what the text is to
    the model, as NeMo's rail types say it. ``ref`` is the caller's own key (exchange id), given back. ``scene`` goes
    with each piece of a long text. ``cut``: something that belongs to the text was left out before."""

    ref: str
    surface: Surface
    direction: Direction
    text: str
    scene: Scene | None = None
    cut: bool = False


class Verdict(msgspec.Struct, frozen=True):
    """One answer. Only ``passed`` and ``modified`` mean that the check looked and let it by. ``detail`` names
    the rail or the error's kind, never the text. ``micros``: from submission to verdict. ``tokens``: what a model read
    and wrote for it. ``score``: how sure a model is that it is to be blocked, 0 to 1."""

    ref: str
    check: str
    surface: str
    status: Status
    detail: str | None = None
    micros: int = 0
    tokens: int = 0
    score: float | None = None


class Finding(msgspec.Struct, frozen=True):
    """What a check found when it looked. ``detail``: the rail that fired. ``tokens`` and ``score`` as in
    :class:`Verdict`."""

    status: Literal["passed", "modified", "blocked"]
    detail: str | None = None
    tokens: int = 0
    score: float | None = None


class CheckFailed(Exception):
    """A check could not look. ``kind`` is short and constant (``connect``, ``http 503``, ``shape`` …): it
    becomes the verdict's detail and a metric label, so it never holds text from traffic. ``by_text``: this text was
    the cause (too long for the model, say), so that it says nothing about the check."""

    def __init__(self, kind: str, *, by_text: bool = False) -> None:
        super().__init__(kind)
        self.kind = kind
        self.by_text = by_text


class Check(Protocol):
    """Something that looks at a text. ``look`` may take its time and be cancelled; it raises
    ``CheckFailed`` when it could not look, and nothing else for what the other side does. A check that reads texts
    alone has no use for the ``scene``."""

    @property
    def name(self) -> str: ...

    async def look(self, direction: Direction, text: str, scene: Scene | None = None) -> Finding: ...
