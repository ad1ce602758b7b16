"""`interlock contract` on a real vLLM: every case of the matrix is the same through Interlock as direct.

The command compares answers to two requests, so it must mask what vLLM makes anew for each. Two taps, one before
Interlock and one behind it, show besides what became of each exchange itself: there nothing is masked at all.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from proxy.contract.cases import chosen, groups, matrix
from tests.policies.support import built
from tests.support.events import by_choice
from tests.support.interlock import port_of, running
from tests.support.servers import VllmServer
from tests.support.tap import Passed, Tap, tapped
from tests.support.wire import Message

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]

RECORDING = dict.fromkeys(("interlock.shell", "interlock.secrets"), "shadow")
UNSURE = """\
package interlock.policies.acme.unsure

tool_call contains {
	"id": "guess",
	"severity": "high",
	"action": "deny",
	"message": "Ask instead of guessing.",
	"tags": [],
} if {
	some argument in input.call.logprobs.arguments
	argument.min < 0
}
"""
"""Makes Interlock ask for logprobs, and is never true."""
PLENTY = {"anonymous": {"tokens": 10**12}}
"""A budget that makes Interlock ask streams for their usage, and is never spent."""
HIDING = "hiding/"
"""The cases that ask for a form in which a surface cannot be judged: refused where a policy in force reads it."""


@dataclass
class Stage:
    """vLLM, a tap behind Interlock with no settings, one before it; and Interlock where policies only record."""

    vllm_url: str
    before: Tap
    behind: Tap
    recording_url: str


@dataclass
class Told:
    """What the command said."""

    status: int
    report: dict[str, Any]

    @property
    def cases(self) -> dict[str, dict[str, Any]]:
        return {case["name"]: case for case in self.report["cases"]}

    @property
    def differing(self) -> dict[str, list[dict[str, Any]]]:
        return {name: case["differences"] for name, case in self.cases.items() if case["verdict"] == "differs"}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(vllm_server: VllmServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    state: Path = tmp_path_factory.mktemp("contract")
    async with (
        tapped(vllm_server.port) as behind,
        running(behind.url, state / "enforcing", unjudged="allow") as enforcing,
        tapped(port_of(enforcing)) as before,
        running(behind.url, state / "recording", unjudged="allow", policies={"modes": RECORDING}) as recording,
    ):
        yield Stage(vllm_server.url, before, behind, f"http://127.0.0.1:{port_of(recording)}")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def told(stage: Stage) -> Told:
    """The whole matrix, asked once for all tests here."""
    return await contract(stage.vllm_url, stage.before.url, "--skip", HIDING)


async def contract(direct: str, proxy: str, *arguments: str) -> Told:
    command = [sys.executable, "-m", "proxy.cli", "contract", "--direct", direct, "--proxy", proxy, "--json"]
    process = await asyncio.create_subprocess_exec(
        *command, "--tries", "12", *arguments, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    return Told(await process.wait(), json.loads(said))


async def test_no_case_differs(told: Told, stage: Stage) -> None:
    """vLLM puts tokens together as it has time, so a long answer that differed is asked for again, by itself."""
    assert len(told.differing) <= 3, told.differing
    for name in told.differing:
        again = await contract(stage.vllm_url, stage.before.url, "--only", name)
        assert name in again.cases
        assert again.differing == {}
        assert again.status == 0
    assert told.status == (1 if told.differing else 0)
    assert told.report["summary"]["cases"] >= 500
    assert told.report["summary"]["not offered"] == 0


async def test_the_cases_ask_for_what_they_say(told: Told) -> None:
    """What should be an error is one, by its status or in its stream, and nothing else is."""
    wrong = {
        ask.name: told.cases[ask.name]["status"]
        for ask in chosen(matrix(groups()), [], [HIDING])
        if (told.cases[ask.name]["status"] >= 300) is not ask.case.error
    }
    assert set(wrong) <= {name for name in wrong if name.endswith(", streamed")}
    assert set(wrong.values()) <= {200}
    assert len(wrong) <= 3, "errors that vLLM finds when it has begun to stream"


async def test_what_was_asked_reached_vllm_unchanged(told: Told, stage: Stage) -> None:
    asked, arrived = exchanges(stage)
    for one, other in zip(asked, arrived, strict=True):
        sent, came = one.request, other.request
        assert came.start == sent.start
        framing = ["content-length"] if sent.chunked else []
        assert came.multiset(*framing) == sent.multiset(*framing)
        assert came.body == sent.body


async def test_what_vllm_said_in_each_exchange_is_what_was_given(told: Told, stage: Stage) -> None:
    for one, other in zip(*exchanges(stage), strict=True):
        given, said = one.response, other.response
        assert given.start == said.start
        assert given.multiset() == said.multiset()
        assert given.whole == said.whole
        if given.body != said.body:  # while a call of one choice is judged, another choice may overtake it
            assert streams(said)
            assert len(by_choice(said.body)) > 2
            assert by_choice(given.body) == by_choice(said.body)


def exchanges(stage: Stage) -> tuple[list[Passed], list[Passed]]:
    """Those of the whole matrix, before Interlock and behind it."""
    before = stage.before.exchanges
    assert len(before) > 500
    return before, stage.behind.exchanges[: len(before)]


def streams(answer: Message) -> bool:
    return (answer.header("content-type") or "").startswith("text/event-stream")


async def test_what_hides_a_surface_passes_where_policies_only_record(told: Told, stage: Stage) -> None:
    hiding = await contract(stage.vllm_url, stage.recording_url, "--only", HIDING)
    assert hiding.differing == {}
    assert hiding.status == 0
    assert len(hiding.cases) >= 8


async def test_what_hides_a_surface_is_refused_where_a_policy_reads_it_and_the_command_says_so(
    told: Told, stage: Stage
) -> None:
    passed = len(stage.behind.exchanges)
    hiding = await contract(stage.vllm_url, stage.before.url, "--only", f"{HIDING}a continued message*")
    assert hiding.status == 1
    assert len(hiding.differing) == 2
    for differences in hiding.differing.values():
        assert ("status", "HTTP/1.1 403 Forbidden") in {(one["class"], one["proxy"]) for one in differences}
    assert len(stage.behind.exchanges) == passed + 1, "only the question for the models reached vLLM"


async def test_no_case_differs_where_vllm_is_asked_for_more(
    told: Told, vllm_server: VllmServer, opa_binary: Path, tmp_path: Path
) -> None:
    """The same matrix, of the APIs that have logprobs or usage to ask for, with both asked for in every request."""
    built(opa_binary, tmp_path / "mine", {"acme/unsure/policy.rego": UNSURE}).write(tmp_path / "bundle")
    policies = {"bundle": tmp_path / "bundle", "modes": {"acme.unsure": "enforce"}}
    async with (
        tapped(vllm_server.port) as behind,
        running(behind.url, tmp_path / "state", unjudged="allow", policies=policies, agents=PLENTY) as injecting,
    ):
        proxy = f"http://127.0.0.1:{port_of(injecting)}"
        injected = await contract(vllm_server.url, proxy, "--only", "chat/", "--only", "completions/", "--skip", HIDING)
        asked_for_more = sum(b'"logprobs":true' in one.request.body for one in behind.exchanges)
    assert injected.differing == {}
    assert injected.status == 0
    assert injected.report["summary"]["cases"] >= 300
    assert asked_for_more > 80
