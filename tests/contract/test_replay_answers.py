"""What policies said then counts where it cannot be asked again, as long as they are the same policies; and a promotion
is held up by nobody but the policy that it is about."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.cli import main
from proxy.replay.promoting import with_mode
from tests.policies.support import built
from tests.support.chat import Call, Say, whole
from tests.support.interlock import port_of, running
from tests.support.raw import scripted, send
from tests.support.serving import answering, ask, post

pytestmark = pytest.mark.opa

MAILS = """package interlock.policies.hr.mails

tool_call contains {"id": "too_many", "severity": "high", "action": "deny", "message": "Mail fewer."} if {
	count(input.call.arguments.to) > %d
}
"""
OTHER = """package interlock.policies.hr.other

tool_call contains {"id": "x", "severity": "low", "action": "deny", "message": "No."} if input.call.arguments.x
"""
TO = [f"person{at}@mail-example.org" for at in range(4)]


def bundle_of(opa: Path, folder: Path, most: int) -> Path:
    files = {"hr/mails/policy.rego": MAILS % most, "hr/other/policy.rego": OTHER}
    built(opa, folder / f"src{most}", files).write(folder / f"bundle{most}")
    return folder / f"bundle{most}"


async def mailed(state: Path, **policies: Any) -> None:
    """Two calls, whose addresses are masked in the record: to one person, and to four."""
    for to in (TO[:1], TO):
        say = Say(calls=(Call("send_mail", json.dumps({"to": to})),))
        async with (
            scripted(answering(whole(say))) as upstream,
            running(upstream.url, state, policies=policies) as interlock,
        ):
            await send(port_of(interlock), post(ask()))


async def interlock(*words: str | Path) -> int:
    return await asyncio.to_thread(main, ["policy", *map(str, words)])


async def test_what_was_found_in_shadow_is_the_answer(
    opa_binary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, state = bundle_of(opa_binary, tmp_path, 3), tmp_path / "state"
    await mailed(state, bundle=bundle, modes={"hr.mails": "shadow", "hr.other": "off"})
    words = ("--state", state, "--policy", "hr.mails", "--json")
    assert await interlock("replay", bundle, *words) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["newly_denied"]["exchanges"], report["answerable"]) == (1, 1.0)
    changed = bundle_of(opa_binary, tmp_path, 2)
    assert await interlock("replay", changed, *words) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["newly_denied"]["exchanges"], report["answerable"]) == (0, 0.0), "another policy is not guessed at"
    assert await interlock("replay", bundle, "--state", state, "--policy", "hr.other", "--json") == 0
    assert json.loads(capsys.readouterr().out)["answerable"] == 0.0, "it was off then"


async def test_a_shadow_shows_its_findings_with_examples(
    opa_binary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, state = bundle_of(opa_binary, tmp_path, 3), tmp_path / "state"
    await mailed(state, bundle=bundle, modes={"hr.mails": "shadow"})
    assert await interlock("replay", bundle, "--state", state, "--modes", "hr.mails=shadow,hr.other=off") == 0
    said = capsys.readouterr().out
    found = said.partition("findings that stop nothing\n")[2].splitlines()
    assert found[0].startswith("  hr.mails/too_many  1  deny (shadow)   agents: anonymous 1   days: ")
    assert "anonymous  call 0.0  send_mail" in found[1]
    assert await interlock("replay", bundle, "--state", state, "--agent", "nobody") == 2
    assert "no stored exchange of agent nobody since 7d" in capsys.readouterr().err


async def test_what_another_policy_stopped_is_not_asked_about(
    opa_binary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, state = bundle_of(opa_binary, tmp_path, 3), tmp_path / "state"
    await mailed(state, bundle=bundle_of(opa_binary, tmp_path, 0), modes={"hr.mails": "enforce", "hr.other": "off"})
    assert await interlock("replay", bundle, "--state", state, "--policy", "hr.other", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["answerable"], report["newly_allowed"]["places"]) == (1.0, 0), "denied by hr.mails, and stays so"


async def test_a_promotion_is_held_up_by_what_it_is_about_alone(
    opa_binary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, state, rollout = bundle_of(opa_binary, tmp_path, 3), tmp_path / "state", tmp_path / "rollout"
    await mailed(state, bundle=bundle, modes={"hr.mails": "shadow", "hr.other": "off"})
    rollout.mkdir()
    path = rollout / "platform.yaml"
    path.write_text("modes:\n  hr.mails: shadow  # since today\n  hr.other: enforce\n")
    config = tmp_path / "interlock.yaml"
    config.write_text(yaml.safe_dump({"policies": {"bundle": str(bundle), "rollout": str(rollout)}}))
    words = ("--config", config, "--state", state)
    assert await interlock("promote", "hr.mails", *words) == 0, "what hr.other says is unknown, and stays as it is"
    said = capsys.readouterr().out
    assert "newly denied  1 in 1 exchange" in said and "answerable  100.0%" in said
    written = path.read_text()
    assert "hr.mails: enforce  # since today" in written
    assert await interlock("promote", "hr.mails", *words) == 0
    assert "hr.mails is enforce for everybody already" in capsys.readouterr().out
    assert path.read_text() == written
    assert await interlock("promote", "hr.other", "--to", "warn", *words) == 1
    assert "only 50.0% of the exchanges can be judged again" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["# why\nmodes:\n  a.b: enforce # so\n", "modes: {a.b: {default: enforce}}  # so\n"])
def test_a_mode_that_is_there_already_changes_not_a_byte(text: str) -> None:
    assert with_mode(text, "a.b", "enforce") == text
