"""A policy that takes longer than there is time for: in shadow it neither stops nor delays what others judge, on both
engines, and the record says what it could not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from policies.bundle import Bundle
from tests.policies.support import TOKEN, built, opa_server
from tests.support.chat import Call, Read, Say, read_whole, whole
from tests.support.interlock import port_of, running
from tests.support.raw import scripted, send
from tests.support.served import until
from tests.support.serving import answering, ask, post
from tests.support.stage import Stage
from tests.support.wire import parse
from tracing.records import Decided
from tracing.segments import read

pytestmark = pytest.mark.opa

QUICK = """\
package interlock.policies.team.quick

tool_call contains finding if {
	contains(input.call.raw, "forbidden")
	finding := {"id": "no", "severity": "high", "action": "deny", "message": "Not that.", "tags": []}
}
"""
SLOW = """\
package interlock.policies.team.slow

never if count([1 | some a in numbers.range(1, 3000); some b in numbers.range(1, 3000); a * b == 0]) > 0

request contains finding if {
	some message in input.request.messages
	contains(message.text, "lengthy")
	never
	finding := {"id": "never", "severity": "low", "action": "flag", "message": "Never.", "tags": []}
}

tool_call contains finding if {
	contains(input.call.raw, "lengthy")
	never
	finding := {"id": "never", "severity": "low", "action": "flag", "message": "Never.", "tags": []}
}
"""


@pytest.fixture(scope="module")
def bundle(opa_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slow")
    files = {"team/quick/policy.rego": QUICK, "team/slow/policy.rego": SLOW}
    built(opa_binary, folder / "sources", files).write(folder / "bundle")
    return folder / "bundle"


@contextmanager
def engine_of(name: str, opa_binary: Path, folder: Path, bundle: Path) -> Iterator[dict[str, Any]]:
    if name == "embedded":
        yield {}
        return
    folder.mkdir()
    with opa_server(opa_binary, folder, Bundle.load(bundle)) as url:
        yield {"engine": "opa", "opa_url": url, "opa_token": TOKEN}


class Asking(Stage):
    async def says(self, words: str, **fields: object) -> Read:
        """What the client gets where the model calls the shell with these words."""
        self.script = answering(whole(Say(calls=(Call("run_shell", f'{{"command": "echo {words}"}}'),))))
        return read_whole(parse(await send(self.port, post(ask(**fields)))).body)[0]


@asynccontextmanager
async def staged(state: Path, policies: dict[str, Any]) -> AsyncIterator[Asking]:
    stage = Asking()
    async with scripted(stage.play) as upstream, running(upstream.url, state, policies=policies) as interlock:
        stage.port = port_of(interlock)
        yield stage


def decided(state: Path) -> list[Decided]:
    return [entry.record for entry in read(state, []) if isinstance(entry.record, Decided)]


@pytest.mark.parametrize("engine", ["embedded", "opa"])
async def test_a_slow_policy_in_shadow_stops_nothing_and_the_record_says_that_it_failed(
    engine: str, opa_binary: Path, tmp_path: Path, bundle: Path
) -> None:
    state = tmp_path / "state"
    with engine_of(engine, opa_binary, tmp_path / "opa", bundle) as settings:
        policies = {"bundle": bundle, "modes": {"team.quick": "enforce", "team.slow": "shadow"}, **settings}
        async with staged(state, policies) as stage:
            assert (await stage.says("lengthy")).calls, "nothing is wrong with it"
            refused = await stage.says("lengthy, and forbidden")
            assert not refused.calls and "team.quick/no" in refused.text
            assert (await stage.says("short")).calls
            await until(lambda: sum(bool(one.decision.get("errors")) for one in decided(state)) == 2, 20)
    first, second = (one for one in decided(state) if one.decision.get("errors"))
    for one in (first, second):
        (error,) = one.decision["errors"]
        assert (one.stage, error["policy"], error["mode"]) == ("tool_call", "team.slow", "shadow")
        assert one.decision["asked"] == ["team.slow"], "it was asked by itself, later"
    told = [one for one in decided(state) if one.decision["asked"] == ["team.quick"]]
    assert [one.action for one in told] == ["allow", "deny", "allow"]


async def test_where_nothing_is_enforced_a_slow_policy_holds_up_neither_request_nor_answer(
    tmp_path: Path, bundle: Path
) -> None:
    """With a minute for a decision, whoever waited for it would wait for that long."""
    state = tmp_path / "state"
    policies = {"bundle": bundle, "modes": {"team.quick": "off", "team.slow": "shadow"}, "timeout_seconds": 60}
    async with staged(state, policies) as stage:
        messages = [{"role": "user", "content": "A lengthy matter."}]
        assert (await stage.says("lengthy", messages=messages)).calls
        asked_by_then = [one for one in decided(state) if one.decision["asked"]]
        assert asked_by_then == [], "the answer was there first"
        await until(lambda: {one.stage for one in decided(state)} == {"request", "tool_call"}, 60)
    assert {tuple(one.decision["asked"]) for one in decided(state)} == {("team.slow",)}
