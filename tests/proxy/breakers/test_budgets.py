"""Budgets by lease: nothing overruns them, and nothing is charged that was not made."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.breakers.budgets import (
    FIRST_TOKENS,
    Budget,
    Estimate,
    Exhausted,
    Lease,
    budgets_for,
    estimate,
    estimate_prompt_tokens,
    reserve,
)
from proxy.breakers.store import Charge, MemoryStore, Shortage
from serving.settings import AgentSettings, BreakerSettings
from serving.wire.vocabulary import Usage
from tests.proxy.breakers.made_up import Clock, request, said

RUN = Budget("run", "run-1", "tokens", 1000)


def price(usage: Usage) -> float:
    return usage.prompt * 0.001 + usage.completion * 0.002


def wants(prompt: int, answer: int, *, most: int | None = None, streamed: bool = True) -> Estimate:
    return Estimate(prompt, answer, most, streamed, price)


async def leased(store: MemoryStore, wanted: Estimate, *budgets: Budget) -> Lease:
    lease = await reserve(store, budgets or (RUN,), wanted)
    assert isinstance(lease, Lease)
    return lease


async def used(store: MemoryStore, budget: Budget = RUN) -> float:
    return (await store.used([budget.charge(0)]))[0]


async def test_a_lease_holds_the_estimate_and_settles_what_was_used() -> None:
    store = MemoryStore(Clock())
    lease = await leased(store, wants(100, 256))
    assert (lease.tokens, lease.binding, await used(store)) == (356, True, 356)
    await lease.settle(Usage(prompt=90, completion=10))
    assert await used(store) == 100


async def test_a_lease_that_is_released_charges_nothing() -> None:
    store = MemoryStore(Clock())
    lease = await leased(store, wants(100, 256))
    await lease.extend(100)
    await lease.release()
    assert await used(store) == 0


async def test_a_lease_ends_once() -> None:
    store = MemoryStore(Clock())
    lease = await leased(store, wants(100, 256))
    await lease.settle(Usage(prompt=5, completion=5))
    await lease.settle(Usage(prompt=500, completion=500))
    await lease.release()
    assert not await lease.extend(1)
    assert await used(store) == 10


async def test_a_lease_is_extended_until_the_budget_is_used_up() -> None:
    store = MemoryStore(Clock())
    lease = await leased(store, wants(300, 256))
    assert await lease.extend(400)
    assert lease.covers(956) and not lease.covers(957)
    assert not await lease.extend(45)
    assert await lease.extend(44)
    assert (lease.tokens, await used(store)) == (1000, 1000)


async def test_what_went_beyond_the_lease_is_booked_in_full() -> None:
    store = MemoryStore(Clock())
    lease = await leased(store, wants(100, 256))
    await lease.settle(Usage(prompt=2000, completion=1))
    short = await reserve(store, (RUN,), wants(1, 1))
    assert short == Exhausted("run", "tokens", 1000, 2001, 2, None)


async def test_a_second_exchange_is_refused_while_the_first_holds_the_rest() -> None:
    store = MemoryStore(Clock())
    first = await leased(store, wants(500, 256))
    assert isinstance(await reserve(store, (RUN,), wants(100, 256)), Exhausted)
    await first.settle(Usage(prompt=500, completion=2))
    assert isinstance(await reserve(store, (RUN,), wants(100, 256)), Lease)


async def test_a_refusal_on_one_budget_holds_nothing_on_the_others() -> None:
    store = MemoryStore(Clock())
    agent = Budget("agent", "alice", "usd", 0.01, 60.0)
    short = await reserve(store, (RUN, agent), wants(100, 256))
    assert isinstance(short, Exhausted)
    assert (short.scope, short.unit) == ("agent", "usd")
    assert short.wanted == pytest.approx(0.612)
    assert await used(store) == 0


async def test_an_agents_budget_is_free_again_after_its_window() -> None:
    clock = Clock(0.0)
    store = MemoryStore(clock)
    agent = Budget("agent", "alice", "tokens", 500, 60.0)
    lease = await leased(store, wants(100, 256), agent)
    await lease.settle(Usage(prompt=100, completion=200))
    short = await reserve(store, (agent,), wants(100, 256))
    assert isinstance(short, Exhausted)
    assert short.retry_after is not None
    clock.now = short.retry_after
    assert isinstance(await reserve(store, (agent,), wants(100, 256)), Lease)


async def test_an_answer_without_streaming_holds_all_that_it_may_be() -> None:
    store = MemoryStore(Clock())
    lease = await leased(store, wants(100, 256, most=900, streamed=False))
    assert await used(store) == 1000
    await lease.settle(Usage(prompt=100, completion=3))
    assert isinstance(await reserve(store, (RUN,), wants(100, 256, most=898, streamed=False)), Exhausted)


async def test_an_answer_without_streaming_and_without_limit_is_refused() -> None:
    store = MemoryStore(Clock())
    short = await reserve(store, (RUN,), wants(1, 256, most=None, streamed=False))
    assert isinstance(short, Exhausted)
    assert short.why == "unbounded"


async def test_a_cost_budget_without_a_price_is_refused() -> None:
    store = MemoryStore(Clock())
    usd = Budget("run", "run-1", "usd", 5.0)
    short = await reserve(store, (usd,), Estimate(1, 1, None, True, None))
    assert isinstance(short, Exhausted)
    assert (short.why, short.limit) == ("no_price", 5.0)


async def test_without_budgets_nothing_is_counted() -> None:
    lease = await reserve(Unasked(), (), Estimate(10**9, 10**9, None, False, None))
    assert isinstance(lease, Lease)
    assert not lease.binding
    assert lease.covers(10**12)
    assert await lease.extend(10**9)
    await lease.settle(Usage(prompt=1, completion=1))


class Unasked(MemoryStore):
    def __init__(self) -> None:
        super().__init__(Clock())

    async def hold(self, charges: Any) -> Shortage | None:
        raise AssertionError(charges)

    async def settle(self, held: Any, spent: Any) -> None:
        raise AssertionError(held)


class Slow(MemoryStore):
    """Lets others go on around every step, as a store behind a socket does."""

    async def hold(self, charges: Any) -> Shortage | None:
        await asyncio.sleep(0)
        short = await super().hold(charges)
        await asyncio.sleep(0)
        return short


EXCHANGES = st.lists(
    st.tuples(st.integers(1, 200), st.integers(1, 300), st.lists(st.integers(1, 100), max_size=4), st.booleans()),
    min_size=1,
    max_size=12,
)


@given(EXCHANGES, st.integers(1, 1500), st.randoms(use_true_random=False))
async def test_no_concurrency_overruns_a_budget(
    exchanges: list[tuple[int, int, list[int], bool]], limit: int, random: Any
) -> None:
    store = Slow(Clock())
    budgets = (
        Budget("run", "run-1", "tokens", limit),
        Budget("agent", "alice", "tokens", limit * 2, 60.0),
        Budget("agent", "alice", "usd", limit * 0.0015, 60.0),
    )
    empty = [Charge(budget.charge(0).key, 0, budget.limit, budget.window) for budget in budgets]
    made = [0.0, 0.0, 0.0]

    async def within() -> None:
        for budget, now in zip(budgets, await store.used(empty), strict=True):
            assert now <= budget.limit + 1e-9

    async def exchange(prompt: int, answer: int, steps: list[int], aborted: bool) -> None:
        lease = await reserve(store, budgets, wants(prompt, answer))
        await within()
        if isinstance(lease, Exhausted):
            return None
        for step in steps:
            if not await lease.extend(step):
                break
            await within()
        if aborted:
            return await lease.release()
        completion = random.randint(0, lease.tokens - prompt)
        usage = Usage(prompt=prompt, completion=completion)
        made[0] += prompt + completion
        made[1] += prompt + completion
        made[2] += price(usage)
        await lease.settle(usage)
        await within()
        return None

    await asyncio.gather(*(exchange(*each) for each in exchanges))
    assert await store.used(empty) == [pytest.approx(amount) for amount in made]


def test_an_estimate_knows_the_first_and_the_most_tokens_of_an_answer() -> None:
    ask = request(said("user", "Go."), limit=1000, n=2)
    made = estimate(ask, 4000, price=price)
    assert (made.prompt, made.answer, made.most, made.streamed) == (1016, 2 * FIRST_TOKENS, 2000, True)
    small = estimate(request(said("user", "Go."), limit=5, stream=False), 10)
    assert (small.answer, small.most, small.streamed, small.price) == (5, 5, False, None)


def test_an_estimate_without_a_limit_is_bounded_by_the_models_context_if_that_is_known() -> None:
    ask = request(said("user", "Go."))
    assert estimate(ask, 10).most is None
    assert estimate(ask, 10, context=2048).most == 2048
    assert estimate(ask, 10, context=100).answer == 100


def test_a_prompts_estimate_grows_with_its_bytes() -> None:
    assert [estimate_prompt_tokens(size) for size in (0, 1, 4, 5, 4000)] == [16, 17, 17, 18, 1016]


def test_an_agents_own_limits_for_its_runs_replace_the_general_ones() -> None:
    general = BreakerSettings(run_tokens=10, run_usd=1.0, window_seconds=60.0)
    assert budgets_for("alice", "r", general, AgentSettings()) == (
        Budget("run", "r", "tokens", 10),
        Budget("run", "r", "usd", 1.0),
    )
    own = AgentSettings(run_tokens=20, tokens=30, usd=4.0)
    assert budgets_for("alice", "r", general, own) == (
        Budget("run", "r", "tokens", 20),
        Budget("run", "r", "usd", 1.0),
        Budget("agent", "alice", "tokens", 30, 60.0),
        Budget("agent", "alice", "usd", 4.0, 60.0),
    )
