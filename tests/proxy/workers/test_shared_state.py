"""What workers share, asked over real sockets: the same answers as in process, and what follows when a side is gone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from policies.model import CheckFact
from proxy.breakers.admission import Admitted, Denied, run_scope
from proxy.breakers.budgets import Estimate
from proxy.breakers.store import Charge, Shortage
from proxy.refusals import Refuse
from proxy.run import CHANGES_KEPT, TooManyChanges
from proxy.workers import remote, words
from proxy.workers.link import connect
from proxy.workers.remote import ParentGone
from serving.wire.message_texts import TextChange
from serving.wire.vocabulary import Usage
from tests.proxy.breakers.made_up import Harness, book, call_id, request, said
from tests.proxy.test_runs_properties import TURNS
from tests.proxy.workers.shared import ManyBooks, shared
from tracing.records import Alerted
from tracing.segments import read

SMALL = Estimate(prompt=10, answer=10, most=10, streamed=True, price=lambda usage: 0.01)
CHARGE = Charge("budget:agent:tokens:alice", 60.0, 100.0)


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@hypothesis_settings(deadline=None, max_examples=50)
@given(turns=TURNS, names=st.lists(st.sampled_from([None, "job-1"]), min_size=14, max_size=14))
async def test_a_run_that_every_worker_sees_a_part_of_is_what_one_worker_sees(
    tmp_path_factory: pytest.TempPathFactory, turns: list[list[tuple[str, str, str]] | str], names: list[str | None]
) -> None:
    alone = Harness(book())
    async with shared(tmp_path_factory.mktemp("shared")) as desk:
        many = ManyBooks([await desk.side(1), await desk.side(2)])
        for turn, name in zip([*turns, None], names, strict=False):
            mine = alone.asks(name)
            theirs = await many.identify("alice", *alone.history, named=name)
            assert msgspec.structs.replace(theirs, run=mine.run) == mine
            assert theirs.run.facts() == mine.run.facts()
            text = "What now?" if isinstance(turn, str) else ""
            calls = [] if isinstance(turn, str) or turn is None else [(name, given) for name, given, _ in turn]
            ids = alone.is_given(text, *calls)
            many.left(theirs, text, [(made, *call) for made, call in zip(ids, calls, strict=True)])
            for made, (_, _, result) in zip(ids, turn if isinstance(turn, list) else (), strict=True):
                alone.returns(made, result)
            if isinstance(turn, str):
                alone.history.append(said("user", turn))
        (kept,) = desk.state.runs
        await many._sides[0].told()
        await many._sides[1].told()
        assert kept.facts() == mine.run.facts()


async def test_what_left_through_one_worker_is_known_to_the_next_at_once(tmp_path: Path) -> None:
    """The parent has all of it to read at once, and reads the second worker's part first."""
    async with shared(tmp_path) as desk:
        second, first = await desk.side(1), await desk.side(2)
        seen = await first.runs.identify("alice", request(said("user", "Go.")), None)
        await first.told()
        second.caller.ask(words.Read([]), list)
        first.runs.left(seen, "", [(call_id(1), "look", "{}")])
        calls = said("assistant", "", [(call_id(1), "look", "{}")])
        again = await second.runs.identify(
            "alice", request(said("user", "Go."), calls, said("tool", "x", answers=call_id(1))), None
        )
        assert (again.run.id, again.new_from, again.run.step) == (seen.run.id, 2, 1)


async def test_findings_and_verdicts_of_a_run_reach_the_workers_that_have_it_under_way(tmp_path: Path) -> None:
    async with shared(tmp_path) as desk:
        one, two = await desk.side(1), await desk.side(2)
        asked = request(said("user", "Go."))
        here = (await one.runs.identify("alice", asked, "job")).run
        there = (await two.runs.identify("alice", asked, "job")).run
        here.add_finding("interlock.shell/destructive")
        here.add_check(CheckFact(check="nemo", status="blocked", surface="text"))
        one.runs.settled(here, 7, 0.5)
        await one.told()
        await two.told()
        assert there.findings == ("interlock.shell/destructive",)
        assert [check.status for check in there.checks] == ["blocked"]
        later = (await two.runs.identify("alice", asked, "job")).run
        assert later is there
        assert (later.tokens, later.cost, later.findings) == (7, 0.5, ("interlock.shell/destructive",))


async def test_more_changes_by_two_workers_than_one_may_make_are_all_remembered(tmp_path: Path) -> None:
    """Each keeps within the bound; what they add up to costs neither its parent."""
    async with shared(tmp_path) as desk:
        sides = await desk.side(1), await desk.side(2)
        seen = [await side.runs.identify("alice", request(said("user", "Go.")), "job-1") for side in sides]
        assert seen[0].run.id == seen[1].run.id
        for number, sighting in enumerate(seen):
            change = TextChange(whole="Withheld.")
            sighting.run.add_changes({f"{number}.{at}": change for at in range(CHANGES_KEPT * 2 // 3)})
        for side in sides:
            await side.told()
            assert not side.caller.gone.is_set()
        (kept,) = desk.state.runs
        assert len(kept.changes) == 2 * (CHANGES_KEPT * 2 // 3)
        with pytest.raises(TooManyChanges):
            kept.add_changes({"another": TextChange(whole="Withheld.")})


async def test_a_run_is_under_way_while_any_worker_has_an_exchange_of_it(tmp_path: Path) -> None:
    async with shared(tmp_path) as desk:
        one, two = await desk.side(1), await desk.side(2)
        asked = request(said("user", "Go."))
        here = (await one.runs.identify("alice", asked, "job")).run
        there = (await two.runs.identify("alice", asked, "job")).run
        two.runs.begun(there)
        gone = asyncio.ensure_future(one.runs.identify("alice", asked, "job"))
        await asyncio.sleep(0)
        gone.cancel()
        await two.told()
        await one.told()
        run = desk.state.runs.get(here.id)
        assert run is not None
        await settled()
        assert run.live == 3
        one.runs.settled(here, 1, 0.0)
        await one.told()
        assert run.live == 2
        two.link.close()
        await settled()
        assert run.live == 0


async def test_holds_of_workers_are_one_sum_and_return_when_a_worker_is_gone(tmp_path: Path) -> None:
    async with shared(tmp_path) as desk:
        one, two = await desk.side(1), await desk.side(2)
        assert await one.store.hold([CHARGE]) is None
        assert isinstance(await two.store.hold([CHARGE]), Shortage)
        await one.store.settle([msgspec.structs.replace(CHARGE, amount=20.0)], [5.0])
        await one.told()
        assert await two.store.used([CHARGE]) == [45.0]
        one.link.close()
        await settled()
        assert await two.store.used([CHARGE]) == [5.0]
        assert await two.store.hold([CHARGE]) is None


async def test_a_hold_that_nobody_waits_for_any_more_is_given_back(tmp_path: Path) -> None:
    async with shared(tmp_path) as desk:
        one, two = await desk.side(1), await desk.side(2)
        asking = asyncio.create_task(one.store.hold([CHARGE]))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await settled()
        await one.told()
        assert await two.store.used([CHARGE]) == [0.0]


async def test_a_kill_that_comes_while_a_worker_asks_refuses_the_exchange(tmp_path: Path) -> None:
    async with shared(tmp_path, agents={"alice": {"tokens": 1000}}) as desk:
        one = await desk.side(1)
        seen = await one.runs.identify("alice", request(said("user", "Go.")), None)
        store, kill = desk.state.store, desk.state.admission.kill
        held = store.hold

        async def hold(charges: list[Charge]) -> Shortage | None:
            """The circuits are read and were closed; now the operator is quicker than the answer."""
            short = await held(charges)
            store.hold = held  # type: ignore[method-assign]
            await kill(run_scope(seen.run.id), by="ann", reason="enough")
            desk.desk.cut("alice", seen.run.id)
            return short

        store.hold = hold  # type: ignore[method-assign,assignment]
        answer = await one.admission.admit("alice", seen, SMALL)
        assert isinstance(answer, Denied) and answer.code == "run_killed"
        await one.told()
        assert await store.used([Charge("budget:agent:tokens:alice", 0, 1000, 3600)]) == [0.0]
        assert seen.run.tripped == desk.state.runs.get(seen.run.id).tripped == "killed"  # type: ignore[union-attr]


async def test_a_kill_right_behind_the_answer_that_finds_the_run_refuses_the_exchange(tmp_path: Path) -> None:
    """Both arrive in one read, before the exchange goes on with what it was told."""
    async with shared(tmp_path) as desk:
        one = await desk.side(1)
        link = desk.desk._peers[1].link
        send = link.send

        def sent(number: int, body: object) -> None:
            send(number, body)
            if isinstance(body, words.Place):
                with pytest.raises(StopIteration):  # in process, it never suspends
                    desk.state.admission.kill("all", by="ann", reason="enough").send(None)
                desk.desk.cut(None, None)

        link.send = sent  # type: ignore[method-assign]
        seen = await one.runs.identify("alice", request(said("user", "Go.")), None)
        assert one.notices == [words.Cut(None, None)]
        answer = await one.admission.admit("alice", seen, SMALL)
        assert isinstance(answer, Denied) and answer.code == "run_killed"


async def test_without_the_parent_nothing_is_admitted_and_what_is_under_way_ends(tmp_path: Path) -> None:
    async with shared(tmp_path, agents={"alice": {"tokens": 1000}}) as desk:
        one = await desk.side(1)
        seen = await one.runs.identify("alice", request(said("user", "Go.")), None)
        admitted = await one.admission.admit("alice", seen, SMALL)
        assert isinstance(admitted, Admitted)
        desk.desk.close()
        await settled()
        assert one.caller.gone.is_set()
        assert not await admitted.lease.extend(10)  # a budget that cannot be asked has nothing left
        (budget,) = await one.admission.budgets("alice", seen.run.id)
        assert budget.used == budget.limit
        one.runs.left(seen, "Done.")
        await one.admission.settle(admitted, Usage(prompt=10, completion=5))
        for asking in (
            one.runs.identify("alice", request(said("user", "Go.")), None),
            one.admission.admit("alice", seen, SMALL),
        ):
            with pytest.raises(Refuse) as refused:
                await asking
            assert (refused.value.code, refused.value.status) == ("admission_unavailable", 503)


async def test_a_parent_that_does_not_answer_counts_as_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with shared(tmp_path) as desk:
        one = await desk.side(1)
        monkeypatch.setattr(remote, "DEADLINE", 0.0)
        asking = one.caller.ask(words.Read(["x"]), list)
        one.caller.check()
        with pytest.raises(ParentGone):
            await asking
        assert one.caller.gone.is_set()


async def test_a_word_that_makes_no_sense_ends_the_connection_and_gives_back_what_was_held(tmp_path: Path) -> None:
    async with shared(tmp_path) as desk:
        one, two = await desk.side(1), await desk.side(2)
        run = (await one.runs.identify("alice", request(said("user", "Go.")), None)).run
        assert await one.store.hold([CHARGE]) is None
        one.caller.tell(words.Noted(run.id, check={"no": "check"}))
        await asyncio.wait_for(one.caller.gone.wait(), 10)
        assert await two.store.used([CHARGE]) == [0.0]


async def test_alerts_of_all_workers_are_one_and_stand_in_the_parents_chain(tmp_path: Path) -> None:
    async with shared(tmp_path) as desk:
        one, two = await desk.side(1), await desk.side(2)
        for side in (one, two):
            what = {"summary": "Policies cannot be asked.", "severity": "critical"}
            assert side.alerts.fire("judge_unavailable", "opa", "alice", **what) is None
            await side.told()
        two.alerts.resolve("judge_unavailable", "opa", "alice")
        await two.told()
        await desk.journal.commit(desk.journal.durable + desk.journal.pending_records)
        found = [entry for entry in read(tmp_path / "state") if isinstance(entry.record, Alerted)]
        assert [(entry.chain, entry.record.state) for entry in found] == [
            ("local/w0", "firing"),
            ("local/w0", "resolved"),
        ]


@pytest.mark.parametrize("hello", [words.Hello("two", 1), words.Hello("", 7), words.Read(["circuit:all"])])
async def test_whoever_does_not_show_the_token_is_told_nothing(tmp_path: Path, hello: words.FromWorker) -> None:
    async with shared(tmp_path) as desk:
        side = remote.Caller(lambda word: None)
        side.use(remote.Link(connect(desk.path), side.heard, side.lost))
        with pytest.raises(ParentGone):
            await side.ask(hello, msgspec.Raw)
        assert desk.path.stat().st_mode & 0o777 == 0o600


async def test_a_process_that_is_no_worker_is_told_nothing_even_with_the_token(tmp_path: Path) -> None:
    async with shared(tmp_path) as desk:
        desk.pids.clear()
        with pytest.raises(ParentGone):
            await desk.side(1)
