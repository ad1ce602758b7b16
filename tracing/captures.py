"""Whose content is kept how: a capture for each agent, from what a settings file says."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import msgspec

from tracing.capture import Capture, Mode
from tracing.keys import RunKeys


class CaptureModes(msgspec.Struct, frozen=True):
    """The modes of the agents that have one of their own, and that of all others; ``limit`` is in characters per
    captured value."""

    default: Mode = "redacted"
    agents: dict[str, Mode] = {}
    limit: int = 64 * 1024

    def of(self, agent: str) -> Mode:
        return self.agents.get(agent, self.default)


class Captures:
    """``redact`` masks secrets; the keys of runs are below ``state_dir``. Agents with the same mode share what is
    remembered of their content."""

    def __init__(self, modes: CaptureModes, state_dir: Path, redact: Callable[[str], str]) -> None:
        keys = RunKeys(state_dir)

        @functools.cache
        def made(mode: Mode) -> Capture:
            return Capture(mode, redact, keys.key, modes.limit)

        self._default = made(modes.default)
        self._agents = {agent: made(mode) for agent, mode in modes.agents.items()}

    def of(self, agent: str) -> Capture:
        return self._agents.get(agent, self._default)
