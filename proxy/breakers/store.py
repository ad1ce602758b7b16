"""Where the breakers' state lives: one narrow interface, and the store of a single process.

Two kinds of small things are kept. *Values* (a breaker's circuit, "this alert went out") are read, and
changed only by whoever knows what stands there now. *Accounts* count what is spent and what is held for
exchanges under way: for life, or over a rolling window. Taking a hold on several accounts happens wholly or
not at all, so no number of concurrent exchanges can overrun a budget.

All methods are coroutines, because other stores are a socket away; those of :class:`MemoryStore` never
suspend, which is what makes each of them atomic.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

BUCKETS = 60
"""A rolling window moves in steps of this part of it. What is spent counts for one window and up to one such
step more, never for less."""

ROUNDING = 1e-9
"""USD (or tokens) below which what is held is taken for the rounding of sums that cancel out."""

ACCOUNTS_KEPT = 100_000
VALUES_KEPT = 100_000


class Charge(msgspec.Struct, frozen=True):
    """``amount`` on the account ``key``, whose limit is ``limit`` per ``window`` seconds (None: for life)."""

    key: str
    amount: float
    limit: float
    window: float | None = None


class Shortage(msgspec.Struct, frozen=True):
    """The first charge (by its place) that did not fit; ``used`` counts what is held too.

    ``retry_after``: seconds until as much is free as was asked for, if nobody else spends; None if that
    cannot be said (an account for life, more than the limit, or too much is held).
    """

    place: int
    used: float
    retry_after: float | None = None


class Store(Protocol):
    async def read(self, keys: Sequence[str]) -> list[bytes | None]:
        """The values of these keys."""

    async def swap(self, key: str, old: bytes | None, new: bytes | None, seconds: float | None = None) -> bool:
        """Puts ``new`` (None: nothing) where ``old`` stands, to be forgotten after ``seconds`` (None: never).
        False, and no change, if something else stands there."""

    async def hold(self, charges: Sequence[Charge]) -> Shortage | None:
        """Holds every amount on its account, or none of them."""

    async def settle(self, held: Sequence[Charge], spent: Sequence[float]) -> None:
        """Gives held amounts back and books what was really spent instead, even beyond the limit."""

    async def used(self, charges: Sequence[Charge]) -> list[float]:
        """What is spent and held now on the charges' accounts."""


@dataclass(slots=True)
class _Account:
    window: float | None
    spent: float = 0.0
    held: float = 0.0
    buckets: list[tuple[int, float]] = field(default_factory=list)

    def prune(self, now: float) -> None:
        if self.window is None:
            return
        while self.buckets and self._leaves(self.buckets[0][0]) <= now:
            self.spent -= self.buckets.pop(0)[1]
        if not self.buckets:
            self.spent = 0.0

    def _leaves(self, bucket: int) -> float:
        assert self.window is not None
        return (bucket + 1) * self.window / BUCKETS + self.window

    def book(self, amount: float, now: float) -> None:
        self.spent += amount
        if self.window is None or not amount:
            return
        bucket = int(now // (self.window / BUCKETS))
        if self.buckets and self.buckets[-1][0] >= bucket:
            last, booked = self.buckets[-1]
            self.buckets[-1] = (last, booked + amount)
        else:
            self.buckets.append((bucket, amount))

    def free_in(self, amount: float, limit: float, now: float) -> float | None:
        missing = self.spent + self.held + amount - limit
        for bucket, booked in self.buckets:
            missing -= booked
            if missing <= 0:
                return max(self._leaves(bucket) - now, 0.0)
        return None

    @property
    def idle(self) -> bool:
        return not self.held and (self.window is None or not self.buckets)


class MemoryStore:
    """The store of one process. ``clock`` gives seconds and never runs backwards.

    Bounded: what belongs to a run goes with it (:meth:`forget`), and a value when its time is over. Should that not be
    enough, beyond ``accounts`` accounts (``values`` values that may be forgotten) the one used longest ago is dropped;
    an account with a hold, or a window in which something was spent, is not.
    """

    def __init__(self, clock: Callable[[], float], *, accounts: int = ACCOUNTS_KEPT, values: int = VALUES_KEPT) -> None:
        self._clock = clock
        self._accounts_kept = accounts
        self._values_kept = values
        self._accounts: OrderedDict[str, _Account] = OrderedDict()
        self._lasting: dict[str, bytes] = {}
        self._passing: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self._ends: list[tuple[float, str]] = []

    async def read(self, keys: Sequence[str]) -> list[bytes | None]:
        return [self._value(key) for key in keys]

    async def swap(self, key: str, old: bytes | None, new: bytes | None, seconds: float | None = None) -> bool:
        if self._value(key) != old:
            return False
        self._lasting.pop(key, None)
        self._passing.pop(key, None)
        if new is not None and seconds is None:
            self._lasting[key] = new
        elif new is not None and seconds is not None:
            now = self._clock()
            self._passing[key] = (new, now + seconds)
            heapq.heappush(self._ends, (now + seconds, key))
            self._let_pass(now)
        return True

    def forget(self, keys: Iterable[str]) -> None:
        """Accounts and values under these keys are no longer needed. One with a hold stays until it is dropped."""
        for key in keys:
            self._lasting.pop(key, None)
            self._passing.pop(key, None)
            account = self._accounts.get(key)
            if account is not None and not account.held:
                del self._accounts[key]

    async def hold(self, charges: Sequence[Charge]) -> Shortage | None:
        now = self._clock()
        for place, charge in enumerate(charges):
            account = self._account(charge, now)
            used = account.spent + account.held
            if used + charge.amount > charge.limit:
                return Shortage(place, used, account.free_in(charge.amount, charge.limit, now))
        for charge in charges:
            account = self._account(charge, now)
            account.held += charge.amount
        return None

    async def settle(self, held: Sequence[Charge], spent: Sequence[float]) -> None:
        now = self._clock()
        for charge, amount in zip(held, spent, strict=True):
            account = self._account(charge, now)
            account.held -= charge.amount
            if account.held < ROUNDING:
                account.held = 0.0
            account.book(amount, now)

    async def used(self, charges: Sequence[Charge]) -> list[float]:
        now = self._clock()
        accounts = [self._accounts.get(charge.key) for charge in charges]
        for account in accounts:
            if account is not None:
                account.prune(now)
        return [account.spent + account.held if account is not None else 0.0 for account in accounts]

    def _let_pass(self, now: float) -> None:
        """Drops values whose time is over, a few at a time, and what is too much."""
        for _ in range(4):
            if not self._ends or self._ends[0][0] > now:
                break
            until, key = heapq.heappop(self._ends)
            if (known := self._passing.get(key)) is not None and known[1] <= until:
                del self._passing[key]
        while len(self._passing) > self._values_kept:
            self._passing.popitem(last=False)
        if len(self._ends) > 2 * len(self._passing) + 64:
            self._ends = [(until, key) for key, (_, until) in self._passing.items()]
            heapq.heapify(self._ends)

    def _value(self, key: str) -> bytes | None:
        if key in self._lasting:
            return self._lasting[key]
        value, until = self._passing.get(key, (None, 0.0))
        if value is not None and until <= self._clock():
            del self._passing[key]
            return None
        return value

    def _account(self, charge: Charge, now: float) -> _Account:
        account = self._accounts.get(charge.key)
        if account is None:
            account = self._accounts[charge.key] = _Account(charge.window)
            self._make_room(now)
        self._accounts.move_to_end(charge.key)
        account.prune(now)
        return account

    def _make_room(self, now: float) -> None:
        """Drops idle accounts from the old end; at most a few looks per call, so that it stays cheap."""
        for _ in range(4):
            if len(self._accounts) <= self._accounts_kept:
                return
            key, account = next(iter(self._accounts.items()))
            account.prune(now)
            if account.idle:
                del self._accounts[key]
            else:
                self._accounts.move_to_end(key)
