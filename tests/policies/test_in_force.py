"""Which policies are in force for whom, and exceptions to them, on the shipped library."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from policies.in_force import Policies
from policies.model import Action, Mode
from policies.modes import UnknownPolicyError
from policies.rollout import RolloutError
from serving.settings import AgentSettings, PolicySettings
from tests.policies.questions import about, call
from tests.policies.support import written

ROLLOUT = """\
modes:
  interlock.paths:
    default: shadow
    agents: {careful: enforce}
    teams: {payments: warn}
exceptions:
  - id: cleaning
    policy: interlock.shell
    agents: [careful]
    when: {tools: [bash], arguments: {/command: [rm -rf /srv/data]}}
    reason: It is rebuilt every night.
    owner: lena
    approver: omar
    expires: 2026-12-31
"""
AGENTS = {"careful": AgentSettings(), "clerk": AgentSettings(team="payments")}
NOW = int(datetime(2026, 12, 1, tzinfo=UTC).timestamp() * 1e9)
LATER = int(datetime(2027, 1, 1, tzinfo=UTC).timestamp() * 1e9)
WIPE = call("bash", {"command": "rm -rf /srv/data"})


def policies(folder: Path, text: str = ROLLOUT) -> Policies:
    return Policies.load(PolicySettings(rollout=written(folder, text), timeout_seconds=20), AGENTS)


def test_each_agent_has_its_own_modes(tmp_path: Path) -> None:
    made = policies(tmp_path)
    modes = {
        agent: made.of(agent, team).modes for agent, team in (("careful", None), ("clerk", "payments"), ("x", None))
    }
    assert {agent: found["interlock.paths"] for agent, found in modes.items()} == {
        "careful": Mode.ENFORCE,
        "clerk": Mode.WARN,
        "x": Mode.SHADOW,
    }
    assert made.of("x", None) is made.of("y", None), "who is treated alike shares one set"
    assert {made.of(agent, None).rollout_digest for agent in ("careful", "x")} == {made.rollout.digest}


async def test_an_exception_holds_for_its_agent_its_call_and_its_time(tmp_path: Path) -> None:
    made = policies(tmp_path)
    careful, other = made.of("careful", None), made.of("x", None)
    excepted = await careful.decide(about(WIPE, agent="careful"), NOW)
    assert excepted.action is Action.ALLOW
    covered = [found for found in excepted.findings if found.policy == "interlock.shell"]
    assert covered and {found.exception for found in covered} == {"platform/cleaning"}
    assert (await careful.decide(about(WIPE, agent="careful"), LATER)).action is Action.DENY
    assert (await careful.decide(about(WIPE, agent="careful"))).action is Action.ALLOW, "the epoch is before its end"
    assert (await other.decide(about(WIPE, agent="x"), NOW)).action is Action.DENY
    for command in ("rm -rf /srv/data /", "rm -rf /srv/data; rm -rf /", " rm -rf /srv/data"):
        decision = await careful.decide(about(call("bash", {"command": command}), agent="careful"), NOW)
        assert decision.action is Action.DENY, command
    await made.close()


def test_exceptions_that_end_soon_are_known(tmp_path: Path) -> None:
    made = policies(tmp_path)

    def names(day: int, month: int = 12, year: int = 2026) -> list[str]:
        return [one.name for one in made.expiring(datetime(year, month, day, tzinfo=UTC))]

    assert names(20) == []
    assert names(26) == ["platform/cleaning"]
    assert names(1, 1, 2027) == []


def test_settings_that_contradict_one_another_are_refused(tmp_path: Path) -> None:
    folder = written(tmp_path / "r")
    with pytest.raises(RolloutError, match="both say what holds"):
        Policies.load(PolicySettings(rollout=folder, modes={"interlock.paths": "enforce"}))
    with pytest.raises(RolloutError, match="names no folder"):
        Policies.load(PolicySettings(rollout_keys={"platform": ["ed25519:x"]}))
    with pytest.raises(UnknownPolicyError):
        Policies.load(PolicySettings(rollout=written(tmp_path / "s", "modes: {interlock.shel: enforce}")))
    with pytest.raises(RolloutError, match=r"no platform\.yaml"):
        Policies.load(PolicySettings(rollout=tmp_path))
