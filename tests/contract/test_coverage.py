"""What an exchange's record says of who judged what, and the alert when too much was not judged."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from checks.verdict import Status, Verdict
from proxy.beside import Beside
from proxy.coverage import CoverageWatch
from serving.settings import AlertSettings
from tests.support.chat import Call, Say, stream, whole
from tests.support.interlock import port_of, running
from tests.support.raw import Script, scripted, send
from tests.support.serving import answering, ask, post, streaming
from tracing.metrics import Metrics
from tracing.records import Alerted, Settled
from tracing.segments import read

LOOK = Call("get_weather", '{"city": "Oslo"}')
SAY = Say("Let me look.", "I look.", (LOOK,))
AWAY = {"engine": "opa", "opa_url": "http://127.0.0.1:9", "timeout_seconds": 0.05}
STARTER = {"interlock.secrets", "interlock.shell"}


async def settled(state: Path, script: Script, *requests: dict[str, Any], **sections: Any) -> list[dict[str, str]]:
    """The coverage of each exchange."""
    async with scripted(script) as upstream, running(upstream.url, state, **sections) as interlock:
        for request in requests:
            await send(port_of(interlock), post(request))
    return [entry.record.coverage for entry in read(state) if isinstance(entry.record, Settled)]


@pytest.mark.parametrize("streamed", [True, False])
async def test_it_says_who_judged_what(tmp_path: Path, streamed: bool) -> None:
    script = streaming(stream(SAY)) if streamed else answering(whole(SAY))
    [said] = await settled(tmp_path / "state", script, ask(stream=streamed))
    judged, recorded = said["tool_call"].split("; ")
    assert judged == "judged: interlock.secrets, interlock.shell"
    assert recorded.startswith("recorded: ") and not STARTER & {*recorded.split(": ")[1].split(", ")}
    assert said["text"].startswith("recorded: ") and "interlock.secrets_out" in said["text"]
    assert said["reasoning"].startswith("recorded: ")
    assert "written_calls" not in said


async def test_what_did_not_come_is_not_spoken_of(tmp_path: Path) -> None:
    [said] = await settled(tmp_path / "state", answering(whole(Say(text="Done."))), ask())
    assert "tool_call" not in said and "reasoning" not in said
    assert "interlock.secrets_out" in said["text"]


async def test_policies_that_only_record_say_what_they_could_not_see(tmp_path: Path) -> None:
    modes = {"interlock.shell": "shadow", "interlock.secrets": "off"}
    say = Say(text="<tool_call>", calls=(LOOK,))
    [said] = await settled(tmp_path / "state", answering(whole(say)), ask(), policies={"modes": modes})
    assert said["tool_call"].startswith("recorded: ") and "interlock.shell" in said["tool_call"]
    assert "interlock.secrets," not in said["tool_call"]
    assert said["written_calls"].startswith("unseen: ") and "interlock.shell" in said["written_calls"]
    [hidden] = await settled(
        tmp_path / "hidden", answering(whole(say)), ask(include_reasoning=False), policies={"modes": modes}
    )
    assert hidden["include_reasoning"] == "unseen: hides logprobs, reasoning"


async def test_a_judge_that_fails_is_said_and_after_twenty_exchanges_alerted(tmp_path: Path) -> None:
    state = tmp_path / "state"
    requests = [ask(messages=[{"role": "user", "content": f"Request {number}."}]) for number in range(21)]
    said = await settled(state, answering(whole(SAY)), *requests, policies=AWAY)
    assert {one["tool_call"].split(" ")[0] for one in said} == {"unjudged:"}
    assert all("could not be asked" in one["tool_call"] for one in said)
    fired = [entry.record for entry in read(state) if isinstance(entry.record, Alerted)]
    [alert] = [one for one in fired if one.cause == "coverage_falls"]
    assert alert.evidence["exchanges"] == alert.evidence["unjudged"] == 20


class Told:
    """A recorder that only hears alerts."""

    def __init__(self) -> None:
        self.evidence: list[dict[str, Any]] = []

    def checked(self, *_: Any) -> None:
        pass

    def fire(self, cause: str, *_: str, evidence: dict[str, Any], **__: Any) -> None:
        assert cause == "coverage_falls"
        self.evidence.append(evidence)


def exchange() -> Any:
    return SimpleNamespace(
        id="x", covered=False, coverage={}, sighting=SimpleNamespace(run=SimpleNamespace(id="run-1"))
    )


def test_it_fires_above_the_share_within_the_window_and_not_at_it() -> None:
    told, now = Told(), [0.0]
    watch = CoverageWatch(AlertSettings(coverage_share=0.1, coverage_seconds=100), told, lambda: now[0])  # type: ignore[arg-type]
    for _ in range(36):
        watch.settled(exchange(), {"text": "judged: a.b"})
    for _ in range(4):
        watch.settled(exchange(), {"text": "unjudged: a.b could not be asked (timeout)"})
    assert told.evidence == []
    watch.settled(exchange(), {"text": "unjudged: a.b could not be asked (timeout)", "request": "judged: a.b"})
    assert told.evidence == [{"exchanges": 41, "unjudged": 5, "text": "unjudged: a.b could not be asked (timeout)"}]
    now[0] = 250.0
    for _ in range(19):
        watch.settled(exchange(), {"text": "unjudged: gone"})
    assert len(told.evidence) == 1
    watch.settled(exchange(), {"text": "unjudged: gone"})
    assert told.evidence[1]["exchanges"] == 20


def test_a_check_that_fails_when_all_is_over_counts_once() -> None:
    told = Told()
    watch = CoverageWatch(AlertSettings(coverage_share=0.05), told, lambda: 0.0)  # type: ignore[arg-type]
    exchanges = [exchange() for _ in range(20)]
    for x in exchanges:
        watch.settled(x, x.coverage)
    assert all(x.covered for x in exchanges)
    for x in exchanges[:2]:
        x.coverage["checks"] = "unjudged: nemo on output: timeout"
        watch.late(x, "checks")
    assert [one["unjudged"] for one in told.evidence] == [2]
    both = exchanges[2]
    both.coverage |= {"text": "unjudged: before", "checks": "unjudged: nemo on output: dropped"}
    watch.late(both, "checks")
    assert len(told.evidence) == 1


def test_a_check_that_looked_and_one_that_could_not_are_said() -> None:
    told: Any = Told()
    beside = Beside(told, Metrics(), CoverageWatch(AlertSettings(), told, lambda: 0.0))
    run = SimpleNamespace(id="run-1", add_check=lambda _: None, add_finding=lambda _: None)
    for statuses, said in (
        (["passed", "blocked"], "judged: nemo"),
        (["passed", "timeout", "passed"], "unjudged: nemo on output: timeout"),
        (["dropped", "error"], "unjudged: nemo on output: dropped"),
    ):
        x: Any = SimpleNamespace(
            id="x", coverage={}, covered=False, checks_pending=9, answered_ns=0, sighting=SimpleNamespace(run=run)
        )
        beside._asked[x.id] = x
        for status in statuses:
            beside.verdict(Verdict("x", "nemo", "output", cast(Status, status)))
        assert x.coverage == {"checks": said}
