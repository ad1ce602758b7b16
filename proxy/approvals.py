"""What waits for a person: a policy said ``approve``, and an operator says yes or no, or nobody does in time.

A call waits where every call waits for its verdict, in the gate, and a request before it is sent on; nothing here knows
of streams. Who approved or denied, when and why, is on disk before the call or request leaves or is refused. A client
that goes away, or a run that is killed, takes its question with it.

The first answer counts, the deadline's too: it is claimed before it is written down, so that the record has one, and
whoever comes later is told who was first.

What operators see is masked as records are, but for the values that they decide about (who gets it, where it goes, what
is run): whoever cannot see the recipient cannot approve a payment. Of those only secrets are masked. They are shown to
whoever has the operators' credential and kept nowhere: the alert, which goes to other places, has none of them.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from policies.facts.sinks import SinkValue
from policies.model import Decision
from proxy.exchange import Exchange
from proxy.random_ids import random_hex
from proxy.recorder import Recorder
from serving.patterns import shipped_redactor
from serving.settings import ApprovalSettings
from serving.text import printable
from serving.wire.vocabulary import ToolCall
from tracing.journal import JournalError

ALERT = "approval_needed"
_SHOWN = 2000  # characters of a call's arguments, or of a request's messages, that operators are shown
_SHOWN_VALUE, _SHOWN_VALUES = 2000, 50
Sinks = Callable[[int], tuple[Sequence[SinkValue], bool]]
_AGAIN_SECONDS = 300.0  # the alert is fired again: what nobody speaks of any more counts as gone
_DECIDED = 256  # of those that are over: who decided


def subject_of(name: str) -> str:
    """What the alert about something that waits is about."""
    return f"approval {name}"


class UnknownApproval(Exception):
    """Nothing of that id waits (any more)."""


class AlreadyDecided(Exception):
    """Somebody was first: ``operator``, with ``action`` (``approve``, ``deny``, ``approval_expired``)."""

    def __init__(self, operator: str, action: str) -> None:
        super().__init__(operator, action)
        self.operator = operator
        self.action = action


class ApprovalDesk(Protocol):
    """What operators see of approvals."""

    def pending(self) -> Sequence[Mapping[str, Any]]:
        """What waits, oldest first; made safe to show."""

    async def settle(self, name: str, *, approve: bool, operator: str, reason: str) -> Mapping[str, Any]:
        """An operator says yes or no. On record when this returns. Raises :class:`UnknownApproval` or
        :class:`AlreadyDecided`."""


@dataclass(slots=True, eq=False)
class _Waiting:
    shown: dict[str, Any]
    exchange: str
    place: str
    claimed: tuple[str, str] | None = None
    late: bool = False  # its deadline has passed while an answer was written down
    answer: asyncio.Future[bool] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Approvals:
    """What waits now, in this process. ``clock_ns`` gives nanoseconds since the epoch; ``changed`` is called with what
    is shown when something begins to wait, and with its id when it no longer does."""

    def __init__(
        self,
        settings: ApprovalSettings,
        recorder: Recorder,
        clock_ns: Callable[[], int] = time.time_ns,
        changed: Callable[[dict[str, Any] | str], None] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._recorder = recorder
        self._clock_ns = clock_ns
        self._changed = changed
        self._mask = shipped_redactor()
        self._mask_secrets = shipped_redactor(["secrets"])
        self._waiting: dict[str, _Waiting] = {}
        self._decided: OrderedDict[str, tuple[str, str]] = OrderedDict()

    async def call(self, x: Exchange, call: ToolCall, decision: Decision, sinks: Sinks) -> bool:
        """Whether a call may go on. At once False where nobody is to be waited for, or too many wait already. ``sinks``
        gives so many of the values that are decided about, and whether these are all."""
        if not self._room():
            return False
        about = {
            "surface": "tool_call",
            "tool": printable(self._mask(call.name), 200),
            "arguments": printable(self._mask(call.arguments), _SHOWN),
            "arguments_characters": len(call.arguments),
        }
        values, every = sinks(_SHOWN_VALUES)
        decides = [
            {
                "path": printable(self._mask(value.path), 200),
                "sink": value.sink,
                "value": printable(self._mask_secrets(value.text), _SHOWN_VALUE),
                "characters": len(value.text),
            }
            for value in values
        ]
        whole = every and all(len(value.text) <= _SHOWN_VALUE for value in values)
        here = {"decides": decides, "decides_whole": whole}
        return await self._granted(x, decision, f"call {call.choice}.{call.index}", about, here)

    async def request(self, x: Exchange, decision: Decision, texts: Sequence[str]) -> bool:
        """The same of a request; ``texts`` are its new messages, of which the last ones are shown."""
        if not self._room():
            return False
        said = "\n\n".join(texts)
        about = {
            "surface": "request",
            "messages": len(texts),
            "text_characters": len(said),
        }
        end = self._mask(said[-4 * _SHOWN :])[-_SHOWN:]
        return await self._granted(x, decision, "request", about, {"text": printable(end, _SHOWN)})

    def pending(self) -> list[Mapping[str, Any]]:
        """What waits, oldest first; made safe to show."""
        return [waiting.shown for waiting in self._waiting.values()]

    async def settle(self, name: str, *, approve: bool, operator: str, reason: str) -> Mapping[str, Any]:
        """An operator says yes or no. On record when this returns. Raises :class:`UnknownApproval`,
        :class:`AlreadyDecided`, or ``JournalError``: then nothing is decided yet, unless the deadline has come."""
        waiting = self._waiting.get(name)
        if waiting is None:
            if name in self._decided:
                raise AlreadyDecided(*self._decided[name])
            raise UnknownApproval
        action = "approve" if approve else "deny"
        self._claim(waiting, operator, action)
        try:
            await self._record(waiting, operator, action, reason)
        except BaseException:
            waiting.claimed = None
            if waiting.late and not waiting.answer.done():
                waiting.answer.set_result(False)
            raise
        if waiting.answer.done():
            raise UnknownApproval  # the client went away while this was written
        waiting.answer.set_result(approve)
        self._remember(name, operator, action)
        return {"id": name, "approved": approve, "operator": operator, "reason": reason}

    def _room(self) -> bool:
        return bool(self._settings.seconds) and len(self._waiting) < self._settings.most

    async def _granted(
        self, x: Exchange, decision: Decision, place: str, about: dict[str, Any], here: dict[str, Any]
    ) -> bool:
        """``about`` is in the alert too, ``here`` only in what operators ask for."""
        settings = self._settings
        name, asked_ns = random_hex(8), self._clock_ns()
        shown = {
            "id": name,
            "agent": x.agent,
            "run": x.sighting.run.id,
            "exchange": x.id,
            "rule": decision.rule,
            **about,
            **here,
            "asked_ns": asked_ns,
            "until_ns": asked_ns + int(settings.seconds * 1e9),
        }
        waiting = self._waiting[name] = _Waiting(shown, x.id, place)
        self._changed(shown)
        subject = subject_of(name)
        began = time.monotonic()
        try:
            while not waiting.answer.done() and (left := began + settings.seconds - time.monotonic()) > 0:
                self._recorder.fire(
                    ALERT,
                    subject,
                    x.agent,
                    summary=f"Something waits for approval until its deadline ({settings.seconds:g} s).",
                    severity="high",
                    run=x.sighting.run.id,
                    exchange=x.id,
                    evidence={"id": name, "rule": decision.rule, **about},
                    release=f"POST /v1/approvals/{name}/approve or /deny on the admin port.",
                )
                await asyncio.wait({waiting.answer}, timeout=min(left, _AGAIN_SECONDS))
            if waiting.claimed is None:
                return await self._expired(waiting)
            waiting.late = True  # or there is an answer already, or it is being written
            return await waiting.answer
        finally:
            x.approval_seconds += time.monotonic() - began
            waiting.answer.cancel()
            del self._waiting[name]
            self._changed(name)
            self._recorder.resolve(ALERT, subject, x.agent)

    def _claim(self, waiting: _Waiting, operator: str, action: str) -> None:
        if waiting.claimed is not None:
            raise AlreadyDecided(*waiting.claimed)
        waiting.claimed = (operator, action)

    def _remember(self, name: str, operator: str, action: str) -> None:
        self._decided[name] = (operator, action)
        if len(self._decided) > _DECIDED:
            self._decided.popitem(last=False)

    async def _expired(self, waiting: _Waiting) -> bool:
        allowed = self._settings.otherwise == "allow"
        said = "nobody answered in time; " + ("allowed" if allowed else "denied") + " by the settings"
        self._claim(waiting, "interlock", "approval_expired")
        try:
            await self._record(waiting, "interlock", "approval_expired", said)
        except JournalError:
            return False
        finally:
            self._remember(waiting.shown["id"], "interlock", "approval_expired")
        return allowed

    async def _record(self, waiting: _Waiting, operator: str, action: str, reason: str) -> None:
        target = f"approval {waiting.shown['id']}, exchange {waiting.exchange}, {waiting.place}"
        await self._recorder.commit(self._recorder.operated(operator, action, target, reason))
