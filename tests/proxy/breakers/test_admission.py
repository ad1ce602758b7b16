"""Whether an exchange may begin: the conversation between the relay and the breakers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from proxy.breakers.admission import ALL, Admission, Admitted, Denied, agent_scope, run_scope
from proxy.breakers.breaker import State
from proxy.breakers.budgets import Estimate
from proxy.breakers.store import MemoryStore
from proxy.runs import Sighting
from serving.settings import AgentSettings, BreakerSettings
from serving.wire.vocabulary import Usage
from tests.proxy.breakers.made_up import Clock, Harness, book, request, said

SMALL = Estimate(prompt=10, answer=10, most=10, streamed=True, price=lambda usage: 0.01)
USED = Usage(prompt=10, completion=5)
LOOK = ("look", '{"at":"canary-1f3a"}', "canary-9b2c")


class Breakers(Admission):
    def __init__(self, clock: Clock | None = None, agent: AgentSettings | None = None, **settings: object) -> None:
        self.clock = clock or Clock()
        self.settings = BreakerSettings.model_validate(settings)
        agents = {"alice": agent} if agent is not None else {}
        super().__init__(self.settings, agents, MemoryStore(self.clock), self.clock)

    async def asks(self, sighting: Sighting) -> Admitted | Denied:
        return await self.admit(sighting.run.agent, sighting, SMALL)

    async def goes_on(self, sighting: Sighting) -> Admitted:
        admitted = await self.asks(sighting)
        assert isinstance(admitted, Admitted), admitted
        await self.settle(admitted, USED)
        return admitted

    async def stops(self, sighting: Sighting) -> Denied:
        denied = await self.asks(sighting)
        assert isinstance(denied, Denied), denied
        return denied


async def looping(breakers: Breakers, agent: Harness, times: int = 4) -> Admitted | Denied:
    """The agent calls the same tool so often, each request asks; the last answer."""
    for _ in range(times - 1):
        await breakers.goes_on(agent.does(LOOK))
    return await breakers.asks(agent.does(LOOK))


async def test_a_loop_is_alerted_and_slowed_at_the_second_repeat_and_refused_at_the_third() -> None:
    breakers, agent = Breakers(slow_seconds=0.5), Harness(book())
    admitted = [await breakers.goes_on(agent.does(LOOK)) for _ in range(3)]
    assert [each.delay_seconds for each in admitted] == [0.0, 0.0, 0.5]
    (alert,) = admitted[2].alerts
    assert (alert.cause, alert.severity, alert.agent, alert.evidence["repeats"]) == (
        "loop_suspected",
        "medium",
        "alice",
        2,
    )
    denied = await breakers.stops(agent.does(LOOK))
    assert (denied.status, denied.code, denied.retry_after, denied.rule) == (429, "loop_detected", 600, "breakers.loop")
    (alert,) = denied.alerts
    assert (alert.cause, alert.severity, alert.evidence["tool"]) == ("loop_detected", "high", "look")


async def test_every_later_request_of_a_tripped_run_is_refused_and_alerted_once() -> None:
    breakers, agent = Breakers(), Harness(book())
    await looping(breakers, agent)
    again = await breakers.stops(agent.asks())
    agent.history.append(said("user", "Something new."))
    later = await breakers.stops(agent.asks())
    assert (again.code, later.code) == ("loop_detected", "loop_detected")
    assert again.alerts == later.alerts == ()
    assert later.retry_after == 600
    assert agent.asks().run.tripped == "loop_detected"


async def test_the_slow_repeat_is_alerted_once_however_often_it_is_sent() -> None:
    breakers, agent = Breakers(), Harness(book())
    admitted = await looping(breakers, agent, 3)
    assert isinstance(admitted, Admitted)
    assert len(admitted.alerts) == 1
    again = await breakers.goes_on(agent.asks())
    assert (again.alerts, again.delay_seconds) == ((), 1.0)


async def test_only_the_looping_twin_is_tripped() -> None:
    breakers, runs = Breakers(), book()
    looper, worker = Harness(runs, prefix="a"), Harness(runs, prefix="b")
    for number in range(3):
        await breakers.goes_on(looper.does(LOOK))
        await breakers.goes_on(worker.does(("look", '{"at":"canary-1f3a"}', f"{number}")))
    await breakers.stops(looper.does(LOOK))
    for number in range(3, 6):
        await breakers.goes_on(worker.does(("look", '{"at":"canary-1f3a"}', f"{number}")))
    await breakers.goes_on(Harness(runs, prefix="c").asks())


async def test_no_words_of_the_traffic_are_in_a_refusal_or_an_alert() -> None:
    breakers, agent = Breakers(run_tokens=100), Harness(book(), "alice", "canary-prompt")
    odd = ("canary\u202e <b>", '{"at":"canary-1f3a"}', "canary-9b2c")
    said_all = []
    for _ in range(4):
        answer = await breakers.asks(agent.does(odd))
        said_all.append(repr(answer.alerts) + (answer.message if isinstance(answer, Denied) else ""))
    said_all.append(repr(await breakers.stops(agent.asks())))
    assert "(withheld)" in said_all[2]
    assert not any("canary" in each for each in said_all)


async def test_an_operators_release_lets_the_same_request_by_and_counts_anew() -> None:
    breakers, agent = Breakers(), Harness(book())
    await looping(breakers, agent)
    scope = run_scope(agent.asks().run.id)
    alert = await breakers.release(scope, by="olga", reason="It may go on.")
    assert alert is not None
    assert (alert.cause, alert.evidence["by"]) == ("released", "olga")
    await breakers.goes_on(agent.asks())
    assert agent.asks().run.tripped is None
    await breakers.goes_on(agent.does(LOOK))
    await breakers.goes_on(agent.does(LOOK))
    denied = await breakers.stops(agent.does(LOOK))
    assert len(denied.alerts) == 1


async def test_releasing_what_nothing_holds_does_nothing() -> None:
    assert await Breakers().release("run:none", by="olga", reason="?") is None


async def test_after_its_time_a_tripped_run_may_go_on_only_with_something_new() -> None:
    clock = Clock()
    breakers, agent = Breakers(clock, open_seconds=60.0), Harness(book())
    await looping(breakers, agent)
    scope = run_scope(agent.asks().run.id)
    clock.now += 60
    denied = await breakers.stops(agent.asks())
    assert (denied.code, denied.retry_after, denied.alerts) == ("loop_detected", 60, ())
    clock.now += 60
    agent.history.append(said("user", "Do something else."))
    probe = await breakers.asks(agent.asks())
    assert isinstance(probe, Admitted)
    assert probe.probes == (scope,)
    assert (await breakers.stops(agent.asks())).code == "loop_detected"
    await breakers.settle(probe, USED)
    assert (await breakers.circuit(scope)).state is State.CLOSED
    await breakers.goes_on(agent.asks())


class Far(MemoryStore):
    """Lets others in between reading and writing, as a store behind a socket does."""

    async def read(self, keys: Sequence[str]) -> list[bytes | None]:
        values = await super().read(keys)
        await asyncio.sleep(0)
        return values


async def test_of_many_exchanges_at_once_one_is_the_probe() -> None:
    clock = Clock()
    breakers = Admission(BreakerSettings(open_seconds=60.0), {}, Far(clock), clock)
    await breakers.trip(ALL, cause="spend_rate", reason="Ten times the usual.", by="detector", evidence={})
    clock.now += 60
    runs = book()
    asked = [breakers.admit("alice", Harness(runs).asks(), SMALL) for _ in range(5)]
    answers = await asyncio.gather(*asked)
    assert [type(answer) for answer in answers].count(Admitted) == 1


async def test_a_probe_that_is_abandoned_leaves_its_place_to_the_next() -> None:
    clock = Clock()
    breakers, agent = Breakers(clock, open_seconds=60.0), Harness(book())
    await breakers.trip("agent:alice", cause="spend_rate", reason="Ten times its usual.", by="d", evidence={})
    clock.now += 60
    probe = await breakers.asks(agent.asks())
    assert isinstance(probe, Admitted)
    await breakers.abandon(probe)
    assert isinstance(await breakers.asks(agent.asks()), Admitted)


async def test_a_probe_that_is_refused_for_another_reason_is_given_back() -> None:
    clock = Clock()
    breakers, agent = Breakers(clock, open_seconds=60.0, run_tokens=25), Harness(book())
    seen = agent.asks()
    held = await breakers.asks(seen)
    assert isinstance(held, Admitted)
    await breakers.trip("agent:alice", cause="spend_rate", reason="Ten times its usual.", by="d", evidence={})
    clock.now += 60
    assert (await breakers.stops(seen)).code == "budget_exhausted"
    await breakers.abandon(held)
    assert isinstance(await breakers.asks(seen), Admitted)


async def test_a_tripped_agent_is_refused_in_all_its_runs_and_others_are_not() -> None:
    breakers, runs = Breakers(), book()
    alert = await breakers.trip(
        agent_scope("alice"), cause="spend_rate", reason="Ten times its usual.", by="detector", evidence={"factor": 10}
    )
    assert alert is not None
    assert (alert.agent, alert.run, alert.evidence["factor"]) == ("alice", None, 10)
    assert (
        await breakers.trip(agent_scope("alice"), cause="spend_rate", reason="Again.", by="detector", evidence={})
    ) is None
    denied = await breakers.stops(Harness(runs, "alice").asks())
    assert (denied.status, denied.code, denied.rule) == (429, "breaker_open", "breakers.open.agent")
    await breakers.goes_on(Harness(runs, "bob").asks())


async def test_a_killed_scope_is_refused_until_it_is_released() -> None:
    clock, runs = Clock(), book()
    breakers = Breakers(clock)
    alice, bob = Harness(runs, "alice").asks(), Harness(runs, "bob").asks()
    for scope, bob_too in ((run_scope(alice.run.id), False), (agent_scope("alice"), False), (ALL, True)):
        alert = await breakers.kill(scope, by="olga", reason="Enough.")
        assert (alert.cause, alert.evidence["scope"]) == ("killed", scope)
        clock.now += 1e9
        denied = await breakers.stops(alice)
        assert (denied.status, denied.code, denied.retry_after) == (403, "run_killed", None)
        assert denied.rule == f"breakers.killed.{scope.partition(':')[0]}"
        if bob_too:
            await breakers.stops(bob)
        else:
            await breakers.goes_on(bob)
        await breakers.release(scope, by="olga", reason="Looked into it.")
        await breakers.goes_on(alice)


async def test_an_exhausted_budget_is_refused_with_numbers_and_alerted_once() -> None:
    breakers, seen = Breakers(run_tokens=30, open_seconds=90.0), Harness(book()).asks()
    await breakers.goes_on(seen)
    first, second = await breakers.stops(seen), await breakers.stops(seen)
    assert (first.status, first.code, first.rule) == (429, "budget_exhausted", "breakers.budget.run.tokens")
    assert first.retry_after == 90
    assert "is 30; 15 are used" in first.message
    (alert,) = first.alerts
    assert (alert.cause, alert.run, alert.evidence["limit"]) == ("budget_exhausted", seen.run.id, 30)
    assert second.alerts == ()


async def test_an_agents_budget_says_when_it_is_free_again() -> None:
    clock = Clock(0.0)
    breakers = Breakers(clock, AgentSettings(tokens=30), window_seconds=60.0)
    agent = Harness(book(clock))
    await breakers.goes_on(agent.asks())
    denied = await breakers.stops(agent.asks())
    assert (denied.rule, denied.retry_after) == ("breakers.budget.agent.tokens", 61)
    assert denied.alerts[0].run is None
    clock.now += 61
    await breakers.goes_on(agent.asks())


async def test_each_reason_for_an_exhausted_budget_says_what_to_do_instead() -> None:
    breakers, agent = Breakers(run_usd=1.0), Harness(book())
    whole = Estimate(prompt=1, answer=1, most=None, streamed=False, price=lambda usage: 0.0)
    unpriced = Estimate(prompt=1, answer=1, most=1, streamed=True)
    seen = agent.asks()
    for wanted, advice in ((whole, "max_tokens"), (unpriced, "price book")):
        denied = await breakers.admit("alice", seen, wanted)
        assert isinstance(denied, Denied)
        assert advice in denied.message
        assert len(denied.alerts) == 1


async def test_policies_see_what_is_used_and_held() -> None:
    breakers, agent = Breakers(None, AgentSettings(usd=2.0), run_tokens=100), Harness(book())
    seen = agent.asks()
    assert isinstance(await breakers.asks(seen), Admitted)
    facts = await breakers.budgets("alice", seen.run.id)
    assert [(fact.scope, fact.unit, fact.limit, fact.used) for fact in facts] == [
        ("run", "tokens", 100.0, 20.0),
        ("agent", "usd", 2.0, 0.01),
    ]


async def test_a_loop_in_a_history_that_was_never_seen_is_refused_at_once() -> None:
    agent = Harness(book())
    for _ in range(4):
        agent.does(LOOK)
    unknown = book().identify("alice", request(*agent.history))
    assert (await Breakers().stops(unknown)).code == "loop_detected"
