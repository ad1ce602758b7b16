"""What one guardrail check says about one surface, and what it was asked."""

from __future__ import annotations

from typing import Literal

import msgspec

Status = Literal["passed", "modified", "blocked", "error", "timeout", "dropped"]


class CheckJob(msgspec.Struct, frozen=True):
    """One question. ``surface``: request, tool_result, output, tool_call. ``direction``: what the text is to
    the model, as NeMo's rail types say it. ``ref`` is the caller's own key (exchange id), given back."""

    ref: str
    surface: Literal["request", "tool_result", "output", "tool_call"]
    direction: Literal["input", "output"]
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
