"""The store of one process."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.breakers.store import BUCKETS, Charge, MemoryStore, Shortage
from tests.proxy.breakers.made_up import Clock


async def test_a_value_is_changed_only_by_whoever_knows_it() -> None:
    store = MemoryStore(Clock())
    assert await store.swap("a", None, b"1")
    assert not await store.swap("a", None, b"2")
    assert not await store.swap("a", b"0", b"2")
    assert await store.swap("a", b"1", b"2")
    assert await store.read(["a", "b"]) == [b"2", None]
    assert await store.swap("a", b"2", None)
    assert await store.read(["a"]) == [None]


async def test_a_value_with_a_time_is_forgotten_and_one_without_is_not() -> None:
    clock = Clock()
    store = MemoryStore(clock, values=2)
    await store.swap("lasting", None, b"1")
    for name in ("one", "two", "three"):
        await store.swap(name, None, b"1", 10.0)
    assert await store.read(["lasting", "one", "two", "three"]) == [b"1", None, b"1", b"1"]
    clock.now += 10.0
    assert await store.read(["lasting", "two", "three"]) == [b"1", None, None]
    assert await store.swap("two", None, b"again", 10.0)


async def test_a_hold_is_taken_on_all_accounts_or_on_none() -> None:
    store = MemoryStore(Clock())
    wide, narrow = Charge("wide", 60, 100), Charge("narrow", 60, 50)
    assert await store.hold([wide, narrow]) == Shortage(1, 0.0, None)
    assert await store.used([wide, narrow]) == [0.0, 0.0]
    assert await store.hold([wide]) is None
    assert await store.hold([wide]) == Shortage(0, 60.0, None)


async def test_a_settled_hold_counts_as_what_was_spent() -> None:
    store = MemoryStore(Clock())
    charge = Charge("a", 60, 100)
    await store.hold([charge])
    await store.settle([charge], [10.0])
    assert await store.used([charge]) == [10.0]
    await store.settle([Charge("a", 0, 100)], [500.0])
    assert await store.used([charge]) == [510.0]


async def test_what_was_spent_leaves_the_window_after_it_and_not_before() -> None:
    clock = Clock(0.0)
    store = MemoryStore(clock)
    charge = Charge("a", 100, 100, window=60.0)
    await store.hold([charge])
    await store.settle([charge], [100.0])
    short = await store.hold([charge])
    assert short is not None
    assert short.retry_after == 60.0 + 60.0 / BUCKETS
    clock.now = 60.0
    assert await store.hold([charge]) is not None
    clock.now = short.retry_after
    assert await store.hold([charge]) is None


async def test_an_account_whose_holds_are_all_settled_holds_nothing() -> None:
    store = MemoryStore(Clock())
    charges = [Charge("a", cents / 100, 1e9) for cents in (10, 20, 70, 3)]
    for charge in charges:
        await store.hold([charge])
    for charge in charges:
        await store.settle([charge], [0.0])
    assert await store.used(charges[:1]) == [0.0]


async def test_accounts_that_nobody_holds_are_dropped_first() -> None:
    clock = Clock()
    store = MemoryStore(clock, accounts=2)
    held, idle = Charge("held", 1, 10), Charge("idle", 1, 10)
    await store.hold([held])
    await store.hold([idle])
    await store.settle([idle], [1.0])
    for number in range(8):
        other = Charge(f"other {number}", 1, 10)
        await store.hold([other])
        await store.settle([other], [1.0])
    assert await store.used([held, idle]) == [1.0, 0.0]
    assert len(store._accounts) == 2


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(1, 40)), max_size=40))
async def test_no_window_of_time_ever_holds_more_than_the_limit(spends: list[tuple[float, int]]) -> None:
    clock = Clock(0.0)
    store = MemoryStore(clock)
    booked: list[tuple[float, int]] = []
    for seconds, amount in spends:
        clock.now += seconds
        charge = Charge("a", amount, 100, window=60.0)
        if await store.hold([charge]) is None:
            await store.settle([charge], [float(amount)])
            booked.append((clock.now, amount))
    for end, _ in booked:
        assert sum(amount for at, amount in booked if end - 60.0 < at <= end) <= 100


async def test_what_belonged_to_a_run_goes_with_it() -> None:
    store = MemoryStore(Clock())
    spent, held = Charge("spent", 5.0, 100), Charge("held", 5.0, 100)
    for charge in (spent, held):
        await store.hold([charge])
    await store.settle([spent], [5.0])
    await store.swap("killed", None, b"x")
    await store.swap("open", None, b"x", 60.0)
    store.forget(["spent", "held", "killed", "open", "unknown"])
    assert await store.used([spent, held]) == [0.0, 5.0]
    assert await store.read(["killed", "open"]) == [None, None]


async def test_values_whose_time_is_over_are_dropped_without_being_read() -> None:
    clock = Clock()
    store = MemoryStore(clock)
    for number in range(500):
        await store.swap(f"short {number}", None, b"x", 10.0)
        await store.swap(f"long {number}", None, b"x", 1000.0)
        clock.now += 1
    assert len(store._passing) <= 520
    assert await store.read(["long 0", "long 499", "short 0"]) == [b"x", b"x", None]


async def test_a_value_that_changes_often_leaves_nothing_behind() -> None:
    store = MemoryStore(Clock())
    for number in range(1000):
        await store.swap("one", str(number - 1).encode() if number else None, str(number).encode(), 1e6)
    assert len(store._ends) <= 100


async def test_a_value_that_was_put_again_has_its_time_anew() -> None:
    clock = Clock()
    store = MemoryStore(clock)
    await store.swap("one", None, b"1", 10.0)
    clock.now += 9
    await store.swap("one", b"1", b"2", 10.0)
    clock.now += 5
    await store.swap("other", None, b"x", 10.0)
    assert await store.read(["one"]) == [b"2"]
