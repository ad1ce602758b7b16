"""What an engine is: something that answers a stage's question for all policies at once, or for one alone.

The input is handed over as JSON text, already cut down to what the policies read, so that every engine sees the
same bytes. An answer is what Rego gave, unchecked: shapes are looked at in ``policies.compose``. There is no
answer "nothing": undefined is an :class:`EngineError` like any other failure.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Protocol

from policies.model import Stage

Cause = Literal["engine", "input", "policy"]


class EngineError(Exception):
    """No answer, and whose fault that is.

    ``engine``: it was not reachable, too slow, or served another bundle. ``input``: this input's size, numbers,
    strings or depth, or the time that the embedded engine needs for it, which nothing else shares. ``policy``:
    the policy itself contradicts itself or is not there.

    ``excusable``: the setting ``on_error: allow`` may let it pass. Only what no input can bring about is: an engine
    that is not there, but not one that took too long, because a call can be written to take long. ``late``: it took too
    long; another question may be answered all the same.
    """

    def __init__(self, cause: Cause, message: str, excusable: bool = False, *, late: bool = False) -> None:
        super().__init__(message)
        self.cause = cause
        self.excusable = excusable
        self.late = late


class Engine(Protocol):
    """Both methods raise :class:`EngineError` and nothing else. ``document`` is the input's JSON text; ``seconds``
    is what is left of the decision's time, and an engine's own time-out holds beside it; ``exchange`` is whose question
    it is, for the engine's own log: it changes no answer."""

    name: str

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def ask_all(
        self, stage: Stage, document: bytes, seconds: float = math.inf, exchange: str = ""
    ) -> dict[str, Any]:
        """Policy name → what its set for this stage holds, for every policy of the bundle with that stage."""
        ...

    async def ask_one(
        self, policy: str, stage: Stage, document: bytes, seconds: float = math.inf, exchange: str = ""
    ) -> Any:
        """What this policy's set for this stage holds."""
        ...
