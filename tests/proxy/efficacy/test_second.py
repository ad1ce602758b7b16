"""What a check would add: which cases it is asked about, the arithmetic, and the command against a scripted model."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from aiohttp import web

from checks.verdict import Verdict as Said
from policies.model import CallNamed, OrderedBy, OrderPassage
from proxy.cli import main
from proxy.efficacy.cases import Call, Case
from proxy.efficacy.gaps import WHAT, gap_of
from proxy.efficacy.judging import Verdict
from proxy.efficacy.second import Addition, Opinion, additions, chosen, cost, wilson
from serving.wire.request import ChatRequest, SentMessage

SAMPLES = Path(__file__).with_name("samples.jsonl")
REQUEST = ChatRequest(model="m", messages=(SentMessage("user", "Read it."), SentMessage("tool", "It rains.")))
NOTHING_READ = ChatRequest(model="m", messages=(SentMessage("user", "Hello."), SentMessage("tool", "")))


def verdict(
    id: str, source: str = "s", *, bad: bool, stopped: bool, twin: bool = False, request: ChatRequest = REQUEST
) -> Verdict:
    case = Case(id, source, bad, twin, request, Call("t", {"id": id}))
    return Verdict(case, ("p/r",) if stopped else (), None, (), "", 0.0)


def said(status: Any, tokens: int = 0, micros: int = 0, detail: str | None = None) -> Said:
    return Said("r", "llm", "tool_call", status, detail, micros, tokens)


def many() -> list[Verdict]:
    """Of each of two sources 10 attacks, 3 let by; 40 benign and 5 twins, of one source 1 benign one stopped."""
    found = []
    for source in ("a", "b"):
        found += [verdict(f"{source}-bad-{n}", source, bad=True, stopped=n >= 3) for n in range(10)]
        found += [verdict(f"{source}-ok-{n}", source, bad=False, stopped=(source, n) == ("a", 0)) for n in range(40)]
        found += [verdict(f"{source}-twin-{n}", source, bad=False, stopped=False, twin=True) for n in range(5)]
    return found


def counts(asked: list[Verdict]) -> dict[str, int]:
    return dict(Counter(one.case.id.rpartition("-")[0] for one in asked))


def test_asked_are_all_that_were_wrong_and_as_many_benign_ones_of_all_sources() -> None:
    assert counts(chosen(many(), None, None)) == {
        **{"a-bad": 3, "b-bad": 3, "a-ok": 1 + 5, "b-ok": 5, "a-twin": 5, "b-twin": 5},
    }
    assert counts(chosen(many(), 2, 30)) == {
        **{"a-bad": 2, "b-bad": 2, "a-ok": 1 + 10, "b-ok": 10, "a-twin": 5, "b-twin": 5},
    }
    assert counts(chosen(many(), None, 0)) == {"a-bad": 3, "b-bad": 3, "a-ok": 1}
    assert len(chosen(many(), 0, 10_000)) == 89
    unread = verdict("c-bad-0", "c", bad=True, stopped=False, request=NOTHING_READ)
    assert "c-bad" not in counts(chosen([*many(), unread], None, None))
    assert [one.case.id for one in chosen(many(), 2, 30)] == [one.case.id for one in chosen(many()[::-1], 2, 30)]


def test_what_it_would_add_and_what_it_would_cost() -> None:
    verdicts = many()
    asked = chosen(verdicts, None, 24)
    statuses = {"a-bad": ["blocked", "blocked", "error"], "b-bad": ["passed"] * 3, "b-ok": ["blocked", "timeout"]}
    given: dict[str, Iterator[str]] = {name: iter(some) for name, some in statuses.items()}
    opinions = [
        Opinion(one, "tool_call", (said(next(given.get(one.case.id.rpartition("-")[0], iter(())), "passed")),))
        for one in asked
    ]
    rows = {(row.source, row.kind): row for row in additions(verdicts, opinions)}
    missed = rows["a", "attack"]
    assert (missed.cases, missed.stopped, missed.open, missed.asked) == (10, 7, 3, 3)
    assert (missed.blocked, missed.undecided) == (2, 1)
    assert missed.share == pytest.approx(0.9), "what it could not decide is let by"
    assert rows["b", "attack"].share == pytest.approx(0.7)
    benign = rows["b", "benign"]
    assert (benign.cases, benign.stopped, benign.open, benign.asked) == (40, 0, 40, 7)
    assert (benign.blocked, benign.undecided) == (1, 1)
    assert benign.share == pytest.approx(1 / 6), "reckoned from those that it could decide"
    assert benign.at_most == pytest.approx(wilson(1, 6))
    assert rows["a", "benign"].share == pytest.approx(1 / 40), "the one that the policies stop"
    assert (rows["a", "benign"].cases, rows["a", "benign"].open) == (40, 39)
    wrongly = rows["a", "stopped wrongly"]
    assert (wrongly.cases, wrongly.stopped, wrongly.open, wrongly.asked) == (1, 1, 1, 1)
    total = rows["all", "benign"]
    assert (total.cases, total.stopped, total.open, total.asked) == (80, 1, 79, 14)
    assert (total.blocked, total.undecided, rows["all", "twin"].asked) == (1, 1, 10)
    assert ("all", "attack") not in rows
    undecided = Addition("s", "benign", "tool_call", 9, 1, 8, asked=2, undecided=2)
    assert (undecided.share, undecided.at_most) == (None, 1.0)


def test_a_case_is_blocked_if_one_result_is_and_undecided_if_one_could_not_be_judged() -> None:
    one = verdict("x", bad=True, stopped=False)
    for statuses, blocked, decided in (
        (["passed", "blocked", "error"], True, True),
        (["passed", "timeout"], False, False),
        (["modified", "passed"], False, True),
    ):
        opinion = Opinion(one, "tool_result", tuple(said(status) for status in statuses))
        assert (opinion.blocked, opinion.decided) == (blocked, decided)


def test_the_bound_of_a_share() -> None:
    assert wilson(0, 20) == pytest.approx(0.1611, abs=1e-4)
    assert wilson(1, 20) == pytest.approx(0.2361, abs=1e-4)
    assert wilson(20, 20) == pytest.approx(1.0)
    assert wilson(0, 0) == 1.0


def test_what_the_questions_cost() -> None:
    one = verdict("x", bad=True, stopped=False)
    answered = [said("passed", 100 * n, 1000 * n) for n in range(1, 21)]
    failed = [said("error", 0, 9_000_000, "http 400"), said("timeout", 0, 9_000_000, "no answer")]
    spent = cost([Opinion(one, "tool_call", tuple(answered)), Opinion(one, "tool_result", (*failed, failed[0]))])
    assert (spent.questions, spent.tokens_mean, spent.tokens_most) == (23, 1050.0, 2000)
    assert (spent.ms_median, spent.ms_p95) == (11.0, 19.0)
    assert spent.failed == {"error: http 400": 2, "timeout: no answer": 1}
    assert cost([]).questions == 0


def passage(score: float) -> OrderPassage:
    return OrderPassage(message=1, start=0, end=9, score=score)


@pytest.mark.parametrize(
    ("orders", "named", "gap"),
    [
        ([], CallNamed(by_user=True), "nothing reads as an order"),
        ([passage(0.9)], CallNamed(by_user=True, by_orders=[OrderedBy(order=0, sure=1)]), "user asks too"),
        ([passage(0.9)], CallNamed(by_plan=True), "user asks too"),
        ([passage(0.9)], CallNamed(delegated=True, by_orders=[OrderedBy(order=0, sure=1)]), "handed over"),
        ([passage(0.9)], CallNamed(delegated=True), "order names no such call"),
        ([passage(0.3)], CallNamed(), "hardly an order"),
        ([passage(0.3)], None, "hardly an order"),
        ([], None, "nothing reads as an order"),
    ],
)
def test_how_far_the_facts_came(orders: list[OrderPassage], named: CallNamed | None, gap: str) -> None:
    assert gap_of(orders, named) == gap
    assert gap in WHAT


@contextmanager
def model(says: Callable[[str], str]) -> Iterator[str]:
    """A model server on a thread of its own; ``says`` gets the question and gives the word."""
    loop, ready = asyncio.new_event_loop(), []

    async def handle(request: web.Request) -> web.Response:
        body = await request.json()
        message = {"role": "assistant", "content": says(body["messages"][0]["content"])}
        usage = {"prompt_tokens": 200, "completion_tokens": 1}
        return web.json_response({"choices": [{"index": 0, "message": message}], "usage": usage})

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        ready.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
        return runner

    runner = loop.run_until_complete(start())
    thread = Thread(target=loop.run_forever)
    thread.start()
    try:
        yield ready[0]
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()


ORDERED = ("mallory", "invite_user", "secure-login-77", "fix.sh", "memory_save", "evil.test")


def knowing(question: str) -> str:
    """Knows the calls that nobody but an attacker wants, and the proof."""
    call = question.partition("\nnext_call: ")[2]
    if call:
        return "yes" if any(word in call for word in ORDERED) else "no"
    return "yes" if "evil.test" in question else "no"


def test_the_command_says_what_the_model_would_add(capsys: pytest.CaptureFixture[str]) -> None:
    with model(knowing) as url:
        wanted = ["bench", "efficacy", str(SAMPLES), "--llm", url, "--llm-model", "judge"]
        assert main([*wanted, "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert main([*wanted, "--misses", "--benign", "4", "--limit", "1"]) == 0
        shown = capsys.readouterr().out
    found = report["checks"]["llm"]
    assert found["disbelieved"] == ""
    of_calls = [row for row in found["rows"] if row["surface"] == "tool_call"]
    missed = [row for row in of_calls if row["kind"] == "attack"]
    by_rows = {row["source"]: row["cases"] - row["stopped"] for row in report["rows"] if row["kind"] == "attack"}
    assert {row["source"]: row["asked"] for row in missed} == {s: n for s, n in by_rows.items() if n}
    assert [row["blocked"] for row in missed] == [row["asked"] for row in missed]
    assert {row["share"] for row in missed} == {1.0}
    assert sum(row["asked"] for row in of_calls if row["source"] == "all") == 20
    assert not any(row["blocked"] for row in of_calls if row["kind"] != "attack")
    assert not any(row["blocked"] for row in found["rows"] if row["surface"] == "tool_result")
    assert found["cost"]["tokens_mean"] == 201
    assert found["cost"]["failed"] == {}
    assert found["cost"]["questions"] >= len(found["cases"]) > 0
    assert sum(miss["cases"] for miss in report["misses"]) == sum(by_rows.values())
    assert "second opinion: model judge at http://127.0.0.1" in shown
    assert "nothing reads as an order" in shown


def test_a_model_that_fails_the_proof_is_measured_and_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with model(lambda _: "yes") as url:
        assert main(["bench", "efficacy", str(SAMPLES), "--llm", url, "--llm-model", "m", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["checks"]["llm"]
    assert "cannot judge" in found["disbelieved"]
    assert all(row["blocked"] == row["asked"] for row in found["rows"] if row["kind"] == "attack")
    twins = [row for row in found["rows"] if row["kind"] == "twin" and row["surface"] == "tool_call"]
    assert {row["share"] for row in twins} == {1.0}


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--llm", "http://127.0.0.1:9", "--llm-model", "m"], "connect"),
        (["--llm", "http://127.0.0.1:9"], "checks.llm.model"),
        (["--llm"], "--llm-model"),
        (["--nemo"], "--nemo URL"),
        (["--llm", "nowhere", "--llm-model", "m"], "http://"),
    ],
)
def test_what_cannot_be_asked_is_said(more: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "efficacy", str(SAMPLES), *more]) == 2
    assert why in capsys.readouterr().err
