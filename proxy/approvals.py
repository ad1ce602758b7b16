"""Calls that wait for a person: a policy said ``approve``, and an operator says yes or no, or nobody does in time.

A call waits where every call waits for its verdict, in the gate; nothing here knows of streams. Who approved or denied,
when and why, is on disk before the call leaves or is refused. A client that goes away, or a run that is killed, takes
its question with it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from policies.model import Decision
from proxy.exchange import Exchange
from proxy.random_ids import random_hex
from proxy.recorder import Recorder
from serving.patterns import shipped_redactor
from serving.settings import ApprovalSettings
from serving.text import printable
from serving.wire.vocabulary import ToolCall
from tracing.journal import JournalError

_ALERT = "approval_needed"
_SHOWN = 2000  # characters of a call's arguments that operators are shown


class UnknownApproval(Exception):
    """Nothing of that id waits (any more)."""


@dataclass(slots=True, eq=False)
class _Waiting:
    shown: dict[str, Any]
    agent: str
    exchange: str
    place: str
    answer: asyncio.Future[bool] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Approvals:
    """What waits now. ``clock_ns`` gives nanoseconds since the epoch."""

    def __init__(
        self, settings: ApprovalSettings, recorder: Recorder, clock_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._settings = settings
        self._recorder = recorder
        self._clock_ns = clock_ns
        self._mask = shipped_redactor()
        self._waiting: dict[str, _Waiting] = {}

    async def granted(self, x: Exchange, call: ToolCall, decision: Decision) -> bool:
        """Whether the call may go on. At once False where nobody is to be waited for, or too many wait already."""
        settings = self._settings
        if not settings.seconds or len(self._waiting) >= settings.most:
            return False
        name, asked_ns = random_hex(8), self._clock_ns()
        place = f"call {call.choice}.{call.index}"
        shown = {
            "id": name,
            "agent": x.agent,
            "run": x.sighting.run.id,
            "exchange": x.id,
            "rule": decision.rule,
            "tool": printable(self._mask(call.name), 200),
            "arguments": printable(self._mask(call.arguments), _SHOWN),
            "arguments_characters": len(call.arguments),
            "asked_ns": asked_ns,
            "until_ns": asked_ns + int(settings.seconds * 1e9),
        }
        waiting = self._waiting[name] = _Waiting(shown, x.agent, x.id, place)
        subject = f"approval {name}"
        try:
            self._recorder.fire(
                _ALERT,
                subject,
                x.agent,
                summary=f"A tool call waits for approval until its deadline ({settings.seconds:g} s).",
                severity="high",
                run=x.sighting.run.id,
                exchange=x.id,
                evidence={key: shown[key] for key in ("id", "rule", "tool", "arguments", "arguments_characters")},
                release=f"POST /v1/approvals/{name}/approve or /deny on the admin port.",
            )
            async with asyncio.timeout(settings.seconds):
                return await waiting.answer
        except TimeoutError:
            return await self._expired(waiting)
        finally:
            del self._waiting[name]
            self._recorder.resolve(_ALERT, subject, x.agent)

    def pending(self) -> list[Mapping[str, Any]]:
        """What waits, oldest first; made safe to show."""
        return [waiting.shown for waiting in self._waiting.values()]

    async def settle(self, name: str, *, approve: bool, operator: str, reason: str) -> Mapping[str, Any]:
        """An operator says yes or no. On record when this returns. Raises :class:`UnknownApproval`."""
        waiting = self._waiting.get(name)
        if waiting is None or waiting.answer.done():
            raise UnknownApproval
        await self._record(waiting, operator, "approve" if approve else "deny", reason)
        if waiting.answer.done() or name not in self._waiting:
            raise UnknownApproval  # its deadline passed while this was written
        waiting.answer.set_result(approve)
        return {"id": name, "approved": approve, "operator": operator, "reason": reason}

    async def _expired(self, waiting: _Waiting) -> bool:
        allowed = self._settings.otherwise == "allow"
        said = "nobody answered in time; " + ("allowed" if allowed else "denied") + " by the settings"
        try:
            await self._record(waiting, "interlock", "approval_expired", said)
        except JournalError:
            return False
        return allowed

    async def _record(self, waiting: _Waiting, operator: str, action: str, reason: str) -> None:
        target = f"approval {waiting.shown['id']}, exchange {waiting.exchange}, {waiting.place}"
        await self._recorder.commit(self._recorder.operated(operator, action, target, reason))
