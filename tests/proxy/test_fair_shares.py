"""Who is forgotten first: whoever has most loses it, the longest untouched and least held first."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from proxy.fair_shares import Item, Most, Shares


class Thing(Item):
    def __init__(self, owner: str, size: int = 1, hold: int = 0) -> None:
        super().__init__()
        self.size = size
        self._owner = owner
        self.held = hold
        self.asked = 0

    @property
    def owner(self) -> str:
        return self._owner

    @property
    def hold(self) -> int:
        self.asked += 1
        return self.held


def taken_in(shares: Shares[Thing], *things: Thing) -> list[Thing]:
    """What goes, in order, as these are taken in one by one."""
    gone = []
    for thing in things:
        shares.touch(thing)
        while (excess := shares.excess(thing)) is not None:
            gone.append(excess)
    return gone


def test_whoever_floods_loses_only_what_is_its_own() -> None:
    shares: Shares[Thing] = Shares(10, 1000)
    few = [Thing("few") for _ in range(3)]
    flood = [Thing("many") for _ in range(50)]
    assert taken_in(shares, *few, *flood) == flood[:43]
    assert shares.count == 10
    for thing in few:
        assert "few" in shares
        shares.remove(thing)
    assert "few" not in shares and "many" in shares


def test_two_that_flood_share_alike() -> None:
    shares: Shares[Thing] = Shares(10, 1000)
    gone = taken_in(shares, *(Thing("one") for _ in range(10)), *(Thing("two") for _ in range(30)))
    assert Counter(thing.owner for thing in gone) == {"one": 5, "two": 25}


def test_bytes_are_shared_as_numbers_are() -> None:
    shares: Shares[Thing] = Shares(1000, 100)
    small = [Thing("small", 10) for _ in range(4)]
    large = [Thing("large", 30) for _ in range(3)]
    assert taken_in(shares, *small, *large) == large[:1]
    shares.weigh(large[1], 50)
    assert shares.excess(large[1]) is large[2]
    assert shares.bytes == 90


def test_of_one_owners_own_the_longest_untouched_goes_first() -> None:
    shares: Shares[Thing] = Shares(3, 1000)
    first, second, third = (Thing("a") for _ in range(3))
    assert taken_in(shares, first, second, third, first, Thing("a"), Thing("a")) == [second, third]


def test_what_is_held_goes_last_the_most_held_last_of_all() -> None:
    shares: Shares[Thing] = Shares(4, 1000)
    killed, live, tripped, idle = (Thing("a", hold=hold) for hold in (3, 2, 1, 0))
    assert taken_in(shares, killed, live, tripped, idle, *(Thing("a", hold=3) for _ in range(4))) == [
        idle,
        tripped,
        live,
        killed,
    ]


def test_what_is_let_go_of_and_touched_waits_among_the_others_again() -> None:
    shares: Shares[Thing] = Shares(2, 1000)
    held, other, third = Thing("a", hold=2), Thing("a"), Thing("a")
    assert taken_in(shares, held, other, third) == [other]
    held.held = 0
    assert taken_in(shares, held, Thing("a")) == [third]
    assert taken_in(shares, Thing("a")) == [held]


def test_what_is_held_protects_nobody_from_having_most() -> None:
    """Else an owner could fill everything with what is held."""
    shares: Shares[Thing] = Shares(10, 1000)
    few = [Thing("few") for _ in range(3)]
    flood = [Thing("many", hold=1) for _ in range(50)]
    assert taken_in(shares, *few, *flood) == flood[:43]


def test_what_is_at_hand_stays() -> None:
    shares: Shares[Thing] = Shares(1, 1000)
    first, second = Thing("a"), Thing("b")
    assert taken_in(shares, first, second) == [first]
    large: Shares[Thing] = Shares(10, 100)
    assert taken_in(large, first, Thing("a", 200), Thing("b", 300)) != []
    assert large.count == 1


def test_what_is_held_is_asked_once_for_each_touch_and_not_for_each_that_goes() -> None:
    shares: Shares[Thing] = Shares(1000, 10_000)
    held = [Thing("a", hold=1) for _ in range(900)]
    taken_in(shares, *held, *(Thing("a") for _ in range(1100)))
    assert shares.count == 1000
    assert max(thing.asked for thing in held) <= 2


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 9))))
def test_whoever_has_most_is_found(changes: list[tuple[str, int]]) -> None:
    most, amounts = Most(), Counter[str]()
    for name, amount in changes:
        most.set(name, amount)
        amounts[name] = amount
        top = max(amounts.values())
        first = most.first()
        assert amounts[first] == top if first is not None else top == 0
        if first is not None:
            others = max((have for one, have in amounts.items() if one != first), default=0)
            second = most.first(besides=first)
            assert second != first
            assert amounts[second] == others if second is not None else others == 0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 5), st.integers(0, 3)), max_size=60))
def test_limits_hold_and_nobody_loses_to_one_who_has_more(things: list[tuple[str, int, int]]) -> None:
    shares: Shares[Thing] = Shares(6, 15)
    have: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for owner, size, hold in things:
        thing = Thing(owner, size, hold)
        shares.touch(thing)
        have[owner] += 1
        sizes[owner] += size
        while (gone := shares.excess(thing)) is not None:
            counts = have if sum(have.values()) > 6 else sizes
            assert counts[gone.owner] == max(counts.values()) or counts[owner] == max(counts.values())
            have[gone.owner] -= 1
            sizes[gone.owner] -= gone.size
        assert shares.count == sum(have.values()) <= 6
        assert shares.bytes == sum(sizes.values())
        assert shares.bytes <= 15 or shares.count == 1
