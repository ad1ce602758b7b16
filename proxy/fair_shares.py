"""What is forgotten when there is no more room: fair between owners.

How to think about it. What is kept has an owner and a size, and there are two limits: a number and bytes. When one of
them is passed, the owner that has most of just that loses something, so whoever has little loses nothing to one that
has much, whatever that one does; and all that nobody else needs may be one owner's.

Of an owner's own, the longest untouched goes first, but what is *held* (:attr:`Item.hold`) only when nothing is left
that is held less. An item stands in the row of those that nothing holds, in the order of touches, and is asked what
holds it only when it would have to go; then it goes over to the row of that. So each touch pays for a few such moves at
most, and taking one out costs O(log owners).
"""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from typing import Generic, TypeVar, cast

HOLDS = 4


class Link:
    """A place in a row."""

    __slots__ = ("after", "before")

    after: Link | None
    before: Link | None

    def __init__(self) -> None:
        self.after = self.before = self


class Item(Link, ABC):
    """``owner`` and ``hold`` (0 to 3: how much it is held) are the item's to say. ``size`` is what it was weighed at
    last, in bytes; that and its place are the shares' own."""

    __slots__ = ("size",)

    size: int

    def __init__(self, size: int = 0) -> None:
        self.after = self.before = None
        self.size = size

    @property
    @abstractmethod
    def owner(self) -> str:
        """Whose share it counts in."""

    @property
    def hold(self) -> int:
        return 0


T = TypeVar("T", bound=Item)


class _Owner:
    __slots__ = ("bytes", "count", "name", "rows")

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows = tuple([Link() for _ in range(HOLDS)])
        self.count = 0
        self.bytes = 0


class Most:
    """Amounts by name, and who has most. A heap, in which a name's entry is brought up to date when it comes to the
    top; that one which is too high sinks then is why an amount that falls needs no entry of its own."""

    def __init__(self) -> None:
        self._amounts: dict[str, int] = {}
        self._listed: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []

    def set(self, name: str, amount: int) -> None:
        if amount <= 0:
            self._amounts.pop(name, None)
            return
        self._amounts[name] = amount
        if amount > self._listed.get(name, 0):
            self._listed[name] = amount
            heapq.heappush(self._heap, (-amount, name))
            if len(self._heap) > 2 * len(self._amounts) + 64:
                self._listed = dict(self._amounts)
                self._heap = [(-most, one) for one, most in self._listed.items()]
                heapq.heapify(self._heap)

    def first(self, besides: str | None = None) -> str | None:
        """Who has most, of all but ``besides``; None: nobody has any."""
        while self._heap:
            listed, name = self._heap[0]
            amount = self._amounts.get(name, 0)
            if -listed != self._listed.get(name):  # there is a later entry
                heapq.heappop(self._heap)
            elif not amount:
                heapq.heappop(self._heap)
                del self._listed[name]
            elif amount < -listed:
                self._listed[name] = amount
                heapq.heapreplace(self._heap, (-amount, name))
            elif name == besides:
                entry = heapq.heappop(self._heap)
                second = self.first(besides)
                heapq.heappush(self._heap, entry)
                return second
            else:
                return name
        return None


class Shares(Generic[T]):
    """At most ``most`` items of together ``most_bytes``, by whoever asks :meth:`excess` until there is none."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._owners: dict[str, _Owner] = {}
        self._by_count = Most()
        self._by_bytes = Most()
        self.count = 0
        self.bytes = 0

    def __contains__(self, owner: str) -> bool:
        """Whether anything is kept of this owner."""
        return owner in self._owners

    @property
    def full(self) -> bool:
        """Whether something has to go."""
        return self.count > self._most or self.bytes > self._most_bytes

    def touch(self, item: T) -> None:
        """It is in use now. One that is new is taken in."""
        name = item.owner
        owner = self._owners.get(name)
        if owner is None:
            owner = self._owners[name] = _Owner(name)
        row = owner.rows[0]
        if item.after is None:
            self._add(owner, 1, item.size)
        elif item.after is row:
            return
        else:
            _take_out(item)
        _put(item, row)

    def weigh(self, item: T, size: int) -> None:
        """It has ``size`` bytes now."""
        change, item.size = size - item.size, size
        if item.after is not None and change:
            self._add(self._owners[item.owner], 0, change)

    def remove(self, item: T) -> None:
        """It is no longer kept."""
        if item.after is None:
            return
        _take_out(item)
        item.after = item.before = None
        owner = self._owners[item.owner]
        self._add(owner, -1, -item.size)
        if not owner.count:
            del self._owners[item.owner]

    def excess(self, besides: T) -> T | None:
        """What has to go next, and is removed; None: what is left is within the limits, or is ``besides`` alone."""
        if self.count > self._most:
            ranks = self._by_count
        elif self.bytes > self._most_bytes:
            ranks = self._by_bytes
        else:
            return None
        name = ranks.first()
        item = self._first_of(name, besides)
        if item is None:
            item = self._first_of(ranks.first(besides=name), besides)
        if item is not None:
            self.remove(item)
        return item

    def _first_of(self, name: str | None, besides: T) -> T | None:
        """What of an owner's goes first."""
        if name is None:
            return None
        rows = self._owners[name].rows
        for number, row in enumerate(rows):
            link = row.after
            while link is not row:
                item = cast(T, link)
                link = item.after
                if item.hold > number:
                    _take_out(item)
                    _put(item, rows[item.hold])
                elif item is not besides:
                    return item
        return None

    def _add(self, owner: _Owner, count: int, size: int) -> None:
        self.count += count
        self.bytes += size
        owner.count += count
        owner.bytes += size
        if count:
            self._by_count.set(owner.name, owner.count)
        if size:
            self._by_bytes.set(owner.name, owner.bytes)


def _put(link: Link, row: Link) -> None:
    """At the end of the row, whose beginning and end are ``row`` itself."""
    last = row.before
    assert last is not None
    link.before, link.after = last, row
    last.after = row.before = link


def _take_out(link: Link) -> None:
    assert link.before is not None and link.after is not None
    link.before.after, link.after.before = link.after, link.before
