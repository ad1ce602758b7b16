"""What is asked last about an answer, when the client has it, is asked of the policies it began with: also where others
are in force meanwhile, and Interlock stops."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from policies.asking import Answers, Asking
from policies.in_force import Policies
from tests.policies.support import built
from tests.support.chat import Say, stream
from tests.support.interlock import port_of, running
from tests.support.raw import scripted, send
from tests.support.records import records
from tests.support.served import until
from tests.support.serving import ask, post, streaming
from tests.support.two_bundles import put
from tests.support.wire import parse
from tracing.records import Decided

pytestmark = pytest.mark.opa

POLICY = """\
# METADATA
# title: {title}
# custom:
#   severity: low
package interlock.policies.team.names

finding := {{"id": "{id}", "severity": "low", "action": "flag", "message": "Named.", "tags": [], "redactions": []}}

response contains finding if {{
	contains(input.response.text, "Mallory")
}}
"""


@pytest.mark.parametrize("engine", ["embedded", "opa"])
async def test_a_late_question_is_answered_by_an_old_set(
    opa_binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    bundles = {
        name: built(opa_binary, tmp_path / name, {"team/names/policy.rego": POLICY.format(title=name, id=name)})
        for name in ("old", "new")
    }
    folder, state = tmp_path / "bundle", tmp_path / "state"
    put(bundles["old"], folder)
    asked, go, closed = asyncio.Event(), asyncio.Event(), asyncio.Event()
    asks, closes = Asking.answers, Policies.close

    async def answers(self: Asking, stage: Any, *more: Any) -> Answers:
        if stage == "response":
            asked.set()
            await go.wait()
        return await asks(self, stage, *more)

    async def close(self: Policies) -> None:
        await closes(self)
        closed.set()

    monkeypatch.setattr(Asking, "answers", answers)
    monkeypatch.setattr(Policies, "close", close)
    policies = {
        "bundle": folder,
        "modes": {"team.names": "enforce"},
        "reload_seconds": 0.05,
        "engine": engine,
        "opa": opa_binary,
        "old_seconds": 3600,
    }
    events = stream(Say(text="Dear Mallory."))
    async with scripted(streaming(events)) as upstream, running(upstream.url, state, policies=policies) as interlock:
        assert parse(await send(port_of(interlock), post(ask(stream=True)))).body == b"".join(events)
        await asked.wait()
        put(bundles["new"], folder)
        plane = interlock._plane
        assert plane is not None and plane.judges is not None
        judges = plane.judges
        await until(lambda: judges.policies.digest == bundles["new"].digest, 30)
        assert not closed.is_set()
        stopping = asyncio.create_task(interlock.stop())
        waiting = asyncio.create_task(closed.wait())
        await asyncio.wait({waiting}, timeout=1.0)
        early = closed.is_set()
        go.set()
        await stopping
        await waiting
        assert not early, "the old set waits for what it is to be asked"
    decided = records(state, Decided)
    assert [(one.stage, one.decision["bundle"], one.decision.get("errors")) for one in decided] == [
        ("response", bundles["old"].digest, None)
    ]
    assert [found["finding"]["id"] for found in decided[0].decision["findings"]] == ["old"]
