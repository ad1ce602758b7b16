"""The parent's side of the connections: one desk that answers every worker, from the state of one process.

Whatever a worker asks is answered in one piece, on one event loop, so a hold on several budgets is taken wholly or
not at all here as in process. What a worker holds is written down with its connection; when that ends, all of it is
given back.

A history is looked up one loop turn after it was asked for: by then everything is read that another worker had sent
before, so that what a client was given through one worker is known when it goes on through another.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from policies.model import CheckFact
from proxy.approvals import ALERT, subject_of
from proxy.breakers.admission import circuit_keys
from proxy.breakers.store import Charge
from proxy.history import DIGEST_BYTES
from proxy.recorder import Recorder
from proxy.reloading import NOT_LOADED
from proxy.run import Run
from proxy.setup import State
from proxy.shape import Shape
from proxy.workers import words
from proxy.workers.approving import WorkersApprovals
from proxy.workers.bundles import BundleServers
from proxy.workers.link import Link, listen, peer
from serving.frames import NOTICE

_log = logging.getLogger("interlock.workers")
_decoder = msgspec.msgpack.Decoder(words.FromWorker)
_T = TypeVar("_T")
_DIGEST = DIGEST_BYTES
_BEATS_MISSED = 15.0
"""Seconds without a sign of life after which a worker counts as hung."""


class Desk:
    """``tokens``: by the worker's number, what it must show. ``own_pid(number, pid)`` says whether this process is the
    worker that was started under that number. ``servers``: the OPA servers, if they are ours."""

    def __init__(
        self,
        state: State,
        recorder: Recorder,
        tokens: Mapping[int, str],
        own_pid: Callable[[int, int], bool],
        servers: BundleServers | None = None,
    ) -> None:
        self.state = state
        self.recorder = recorder
        self.failures: dict[int, str] = {}
        self.pids: dict[int, int] = {}
        self.approvals = WorkersApprovals()
        self.servers = servers
        self._says_broken: set[int] = set()
        self._tokens = tokens
        self._own_pid = own_pid
        self._peers: dict[int, Peer] = {}
        self._listening: socket.socket | None = None
        self._path = Path()

    def listen(self, path: Path) -> None:
        """Take connections of workers. ``OSError``."""
        self._listening, self._path = listen(path), path
        asyncio.get_running_loop().add_reader(self._listening.fileno(), self._accept)

    def close(self) -> None:
        """End every connection."""
        if self._listening is not None:
            asyncio.get_running_loop().remove_reader(self._listening.fileno())
            self._listening.close()
            self._listening = None
            self._path.unlink(missing_ok=True)
        for one in list(self._peers.values()):
            one.link.close()

    @property
    def ready(self) -> list[int]:
        """The workers that take connections."""
        return sorted(number for number, one in self._peers.items() if one.policies is not None)

    def alive(self, number: int) -> bool:
        """Whether the worker takes connections and has given a sign of life of late."""
        one = self._peers.get(number)
        return one is not None and one.policies is not None and time.monotonic() - one.beat < _BEATS_MISSED

    @property
    def policies(self) -> str:
        """What the workers say of the policies in force."""
        return next((one.policies for one in self._peers.values() if one.policies is not None), "")

    @property
    def trouble(self) -> str | None:
        """Why a worker's journal cannot be written."""
        return next((one.trouble for one in self._peers.values() if one.trouble is not None), None)

    def cut(self, agent: str | None, run: str | None) -> None:
        """Have every worker end what runs now of this run, agent, or (both None) at all."""
        self.tell_all(words.Cut(agent, run))

    def tell_all(self, word: words.FromParent, besides: Peer | None = None) -> None:
        for one in self._peers.values():
            if one is not besides:
                one.link.send(NOTICE, word)

    def joined(self, number: int, token: str, one: Peer, pid: int) -> bool:
        """Whether the process at the other end is the worker that it says it is; it is then one of ours."""
        known = hmac.compare_digest(self._tokens.get(number, "").encode() or b"-", token.encode())
        if not known or not self._own_pid(number, pid):
            return False
        if (before := self._peers.get(number)) is not None:
            before.link.close()
        self.failures.pop(number, None)
        self._peers[number] = one
        self.pids[number] = pid
        return True

    def left(self, number: int, one: Peer) -> None:
        if self._peers.get(number) is one:
            del self._peers[number]
            self._says_broken.discard(number)
        self.share()

    def alerted(self, number: int, word: words.Fire | words.Resolve) -> None:
        """A worker says that something is wrong, or no longer. Each loads changed policies by itself: what one of them
        cannot use is wrong until all can."""
        if isinstance(word, words.Fire):
            if word.cause == NOT_LOADED:
                self._says_broken.add(number)
            self.recorder.fire(word.cause, word.subject, word.agent, **word.what)
            return
        if word.cause == NOT_LOADED:
            self._says_broken.discard(number)
            if self._says_broken:
                return
        self.recorder.resolve(word.cause, word.subject, word.agent)

    def share(self) -> None:
        """Tell each worker how busy the others are."""
        total = sum(one.busy for one in self._peers.values())
        for one in self._peers.values():
            if (others := total - one.busy) != one.others:
                one.others = others
                one.link.send(NOTICE, words.Others(others))

    def _accept(self) -> None:
        assert self._listening is not None
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            pid, uid = peer(sock)
            if uid == os.geteuid() and any(self._own_pid(number, pid) for number in self._tokens):
                Peer(self, sock, pid)
            else:
                _log.warning("process %d, which is no worker of ours, was not listened to", pid)
                sock.close()


class Peer:
    """One worker's connection, and what the worker holds. Not to be trusted before its :class:`words.Hello`."""

    def __init__(self, desk: Desk, sock: socket.socket, pid: int) -> None:
        self._desk = desk
        self._state = desk.state
        self._pid = pid
        self._number: int | None = None
        self._held: dict[tuple[str, float | None], float] = {}
        self._live: Counter[str] = Counter()
        self.policies: str | None = None
        self.trouble: str | None = None
        self.beat = time.monotonic()
        self.busy = 0
        self.others = 0
        self.link = Link(sock, self._heard, self._lost)
        self._tell: Callable[[words.FromParent], None] = partial(self.link.send, NOTICE)

    def _heard(self, number: int, body: msgspec.Raw) -> None:
        word = _decoder.decode(body)
        if self._number is None:
            if not isinstance(word, words.Hello) or not self._desk.joined(word.number, word.token, self, self._pid):
                _log.warning("process %d asked for a worker's place and did not get it", self._pid)
                self.link.close()
                return
            self._number = word.number
            self.link.send(-number, words.Welcome(self._state.key))
            return
        match word:
            case words.Find():
                asyncio.get_running_loop().call_soon(self._find, number, word)
            case words.Read() | words.Swap() | words.Hold() | words.Used():
                self.link.send(-number, self._stored(word))
            case words.Settle():
                self._settle(word)
            case words.WentOn() | words.Left() | words.Began() | words.Spent() | words.Noted() | words.Tripped():
                if (run := self._state.runs.get(word.run)) is not None:
                    self._told(run, word)
            case words.Fire() | words.Resolve():
                self._desk.alerted(self._number, word)
            case words.Serve() if self._desk.servers is not None:
                self._desk.servers.wanted(self._tell, word.number)
            case words.DoneWith() if self._desk.servers is not None:
                self._desk.servers.done_with(self._tell, word.url)
            case words.Busy():
                self.busy = word.exchanges
                self._desk.share()
            case words.Waits():
                self._desk.approvals.waits(self._tell, word)
            case words.WaitsNoMore():
                self._desk.approvals.waits_no_more(word.name)
            case words.Approved():
                self._desk.approvals.answered(word)
            case words.Ready():
                self.policies = word.policies
            case words.Beat():
                self.beat, self.trouble = time.monotonic(), word.trouble
            case words.Failed():
                self._desk.failures[self._number] = word.reason

    def _lost(self) -> None:
        """The worker is gone, or may hold nothing any more: what it held is free again."""
        if self._number is None:
            return
        held = [Charge(key, amount, math.inf, window) for (key, window), amount in self._held.items()]
        if held:
            _at_once(self._state.store.settle(held, [0.0] * len(held)))
        for run_id in self._live.elements():
            if (run := self._state.runs.get(run_id)) is not None:
                self._state.runs.settled(run, 0, 0.0)
        for shown in self._desk.approvals.lost(self._tell):
            self._desk.recorder.resolve(ALERT, subject_of(shown["id"]), shown["agent"])
        if self._desk.servers is not None:
            self._desk.servers.lost(self._tell)
        self._desk.left(self._number, self)

    # -- the store ---------------------------------------------------------------------------------

    def _stored(self, word: words.Read | words.Swap | words.Hold | words.Used) -> Any:
        store = self._state.store
        match word:
            case words.Read(keys):
                return _at_once(store.read(keys))
            case words.Swap(key, old, new, seconds):
                return _at_once(store.swap(key, old, new, seconds))
            case words.Used(charges):
                return _at_once(store.used(charges))
            case words.Hold(charges):
                short = _at_once(store.hold(charges))
                if short is None:
                    for charge in charges:
                        self._count(charge, charge.amount)
                return short

    def _settle(self, word: words.Settle) -> None:
        for charge in word.held:
            self._count(charge, -charge.amount)
        _at_once(self._state.store.settle(word.held, word.spent))

    def _count(self, charge: Charge, amount: float) -> None:
        key = (charge.key, charge.window)
        left = self._held.get(key, 0.0) + amount
        if left > 0:
            self._held[key] = left
        else:
            self._held.pop(key, None)

    # -- the runs ----------------------------------------------------------------------------------

    def _find(self, number: int, word: words.Find) -> None:
        chain = [word.chain[at : at + _DIGEST] for at in range(0, len(word.chain), _DIGEST)]
        found = self._state.runs.find(
            word.agent, Shape(chain, word.speakers), lambda at: word.calls.get(at, ()), word.named, word.tools
        )
        self._live[found.run.id] += 1
        circuits = _at_once(self._state.store.read(circuit_keys(word.agent, found.run.id)))
        place = words.Place(
            _now(found.run),
            found.start,
            found.loop,
            found.new_from,
            found.evidence,
            circuits,
            sorted(found.changed_tools),
        )
        self.link.send(-number, place)

    def _told(self, run: Run, word: words.OfRun) -> None:
        match word:
            case words.WentOn(_, loop, steps):
                run.went_on(loop, steps)
            case words.Left(_, head, loop, joins, point, calls):
                for call in calls:
                    run.called(call)
                self._state.runs.reached(run, head, loop, point, joins=joins)
            case words.Spent(_, tokens, cost):
                self._live[run.id] -= 1
                self._state.runs.settled(run, tokens, cost)
            case words.Began():
                self._live[run.id] += 1
                self._state.runs.begun(run)
            case words.Tripped(_, cause):
                run.tripped = cause
            case words.Noted(_, finding, check, changes):
                if changes is not None:
                    run.told_changes(changes)
                if finding is not None:
                    run.add_finding(finding)
                if check is not None:
                    run.add_check(CheckFact.model_validate(check))
                self._desk.tell_all(word, besides=self)


def _now(run: Run) -> words.RunNow:
    return words.RunNow(
        id=run.id,
        agent=run.agent,
        started=run.started,
        seen=run.seen,
        step=run.step,
        tokens=run.tokens,
        cost=run.cost,
        tool_calls=run.tool_calls,
        tripped=run.tripped,
        findings=tuple(run.findings),
        checks=[check.model_dump(mode="json") for check in run.checks],
        loop=run.loop,
        recent=tuple(run.recent),
        changes=dict(run.changes),
    )


def _at_once(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """The result of a coroutine of a store that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: _T = done.value
        return result
    coroutine.close()
    raise AssertionError("the parent's store suspended")
