"""The parent's side of approvals: what waits in any worker, and who is asked when an operator answers.

The worker in which something waits decides, and writes it down in its own journal; the parent only knows where it is.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from proxy.approvals import AlreadyDecided, UnknownApproval
from proxy.workers import words
from tracing.journal import JournalError

_OVER = 256  # of those that are over: where they were, so that whoever comes late is told who was first

Tell = Callable[[words.FromParent], None]


class WorkersApprovals:
    """``proxy.approvals.ApprovalDesk`` over all workers. ``tell`` sends to the worker that something waits in."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[Tell, dict[str, Any]]] = {}
        self._over: OrderedDict[str, Tell] = OrderedDict()
        self._asked: dict[int, tuple[Tell, asyncio.Future[words.Approved]]] = {}
        self._last = 0

    def waits(self, tell: Tell, word: words.Waits) -> None:
        self._waiting[word.shown["id"]] = (tell, word.shown)

    def waits_no_more(self, name: str) -> None:
        known = self._waiting.pop(name, None)
        if known is not None:
            self._over[name] = known[0]
            if len(self._over) > _OVER:
                self._over.popitem(last=False)

    def answered(self, word: words.Approved) -> None:
        _, answer = self._asked.pop(word.number, (None, None))
        if answer is not None and not answer.done():
            answer.set_result(word)

    def lost(self, tell: Tell) -> Sequence[Mapping[str, Any]]:
        """The worker is gone, and what waited in it, which is given."""
        names = [name for name, (where, _) in self._waiting.items() if where is tell]
        waited = [self._waiting.pop(name)[1] for name in names]
        for name in [name for name, where in self._over.items() if where is tell]:
            del self._over[name]
        for number in [number for number, (where, _) in self._asked.items() if where is tell]:
            self.answered(words.Approved(number))
        return waited

    def pending(self) -> Sequence[Mapping[str, Any]]:
        """What waits in any worker, oldest first."""
        return sorted((shown for _, shown in self._waiting.values()), key=lambda shown: int(shown["asked_ns"]))

    async def settle(self, name: str, *, approve: bool, operator: str, reason: str) -> Mapping[str, Any]:
        """As ``proxy.approvals.Approvals.settle``."""
        tell = self._waiting[name][0] if name in self._waiting else self._over.get(name)
        if tell is None:
            raise UnknownApproval
        self._last += 1
        answer: asyncio.Future[words.Approved] = asyncio.get_running_loop().create_future()
        self._asked[self._last] = (tell, answer)
        tell(words.Approve(self._last, name, approve, operator, reason))
        word = await answer
        if word.done is not None:
            return word.done
        if word.first is not None:
            raise AlreadyDecided(*word.first)
        if word.trouble is not None:
            raise JournalError(word.trouble)
        raise UnknownApproval
