"""`interlock policy promote`: shows the replay, writes the roll-out, signs it; and does nothing where too little is
known."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
import yaml

from policies.rollout import Rollout
from policies.signing import make_keys, read_private, sign, signature_path
from proxy.cli import main
from proxy.replay.promoting import with_mode
from serving.strict_yaml import read
from tests.policies.support import PLATFORM, written
from tests.support.chat import Call, Say, whole
from tests.support.interlock import port_of, running
from tests.support.raw import scripted, send
from tests.support.serving import answering, ask, post

OUTSIDE = Say("Hm.", "So.", (Call("read_file", json.dumps({"path": "/etc/shadow"})),))


@pytest.mark.parametrize(
    ("text", "who", "wanted", "kept"),
    [
        ("modes: {a.b: shadow}", {}, {"a.b": "enforce"}, None),
        ("# why\nmodes:\n  a.b: shadow  # soon\n  c.d: warn\n", {}, {"a.b": "enforce", "c.d": "warn"}, "# soon"),
        ("# why\nmodes:\n  c.d: warn # so\n", {}, {"c.d": "warn", "a.b": "enforce"}, "# so"),
        (
            "modes:\n  a.b:\n    default: shadow # now\n    agents: {x: off}\n",
            {},
            {"a.b": {"default": "enforce", "agents": {"x": "off"}}},
            "# now",
        ),
        ("modes: {a.b: shadow}", {"agent": "x"}, {"a.b": {"default": "shadow", "agents": {"x": "enforce"}}}, None),
        ("modes: {}", {"team": "t"}, {"a.b": {"teams": {"t": "enforce"}}}, None),
        ("exceptions: []", {}, {"a.b": "enforce"}, None),
        ("modes:\n  xa.b: shadow\n  a.b: warn\n", {}, {"xa.b": "shadow", "a.b": "enforce"}, "xa.b: shadow"),
    ],
)
def test_a_mode_is_written_where_it_belongs(
    text: str, who: dict[str, str], wanted: dict[str, object], kept: str | None
) -> None:
    changed = with_mode(text, "a.b", "enforce", **who)
    assert read(changed)[0]["modes"] == wanted
    assert kept is None or kept in changed


async def recorded(state: Path, number: int) -> None:
    async with scripted(answering(whole(OUTSIDE))) as upstream, running(upstream.url, state) as interlock:
        for _ in range(number):
            await send(port_of(interlock), post(ask()))


def settings(folder: Path, **policies: object) -> Path:
    written(folder / "rollout", PLATFORM.replace("[release-bot]", "[anonymous]"))
    path = folder / "interlock.yaml"
    path.write_text(yaml.safe_dump({"policies": {"rollout": str(folder / "rollout"), **policies}}))
    return path


async def promote(*words: str | Path) -> int:
    return await asyncio.to_thread(main, ["policy", "promote", *map(str, words)])


async def test_a_policy_is_promoted_after_its_replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await recorded(tmp_path / "state", 3)
    config = settings(tmp_path)
    words = ["interlock.paths", "--config", config, "--state", tmp_path / "state"]
    assert await promote(*words, "--agent", "anonymous") == 0
    said = capsys.readouterr().out
    assert "newly denied  3 in 3 exchanges" in said and "promoted interlock.paths to enforce for anonymous" in said
    rollout = Rollout.load(tmp_path / "rollout")
    assert rollout.mode("interlock.paths", "anonymous", None) == "enforce"
    assert rollout.mode("interlock.paths", "coder", None) == "enforce"
    assert rollout.mode("interlock.paths", "x", None) == "shadow"
    assert [one.name for one in rollout.exceptions()] == ["platform/build-cleaning"], "the rest is as it was"
    assert await promote(*words, "--to", "off", "--agent", "anonymous") == 0
    assert "newly allowed  3" in capsys.readouterr().out, "compared with the roll-out as it stood before this step"


async def test_without_a_record_nothing_is_promoted_unless_forced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await recorded(tmp_path / "state", 1)
    words = ["interlock.paths", "--config", settings(tmp_path), "--state", tmp_path / "state", "--agent", "coder"]
    before = (tmp_path / "rollout" / "platform.yaml").read_text()
    assert await promote(*words, "--to", "warn") == 1
    assert "no stored exchange says" in capsys.readouterr().out
    assert (tmp_path / "rollout" / "platform.yaml").read_text() == before
    assert await promote(*words, "--to", "warn", "--force") == 0
    assert Rollout.load(tmp_path / "rollout").mode("interlock.paths", "coder", None) == "warn"


async def test_a_signed_rollout_is_signed_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await recorded(tmp_path / "state", 1)
    line = make_keys(tmp_path / "key.pem")
    config = settings(tmp_path, rollout_keys={"platform": [line]})
    path = tmp_path / "rollout" / "platform.yaml"
    signature_path(path).write_text(sign(read_private(tmp_path / "key.pem"), "rollout platform", path.read_bytes()))
    words = ["interlock.paths", "--config", config, "--state", tmp_path / "state"]
    assert await promote(*words) == 2
    assert "name the private key" in capsys.readouterr().err
    assert await promote(*words, "--key", tmp_path / "key.pem") == 0
    rollout = Rollout.load(tmp_path / "rollout", {"platform": [line]})
    assert rollout.mode("interlock.paths", "x", None) == "enforce"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["interlock.path"], "interlock.path, which"),
        (["nonsense"], "OWNER.NAME"),
        (["interlock.shell", "--to", "warn", "--layer", "payments"], "a team may make it stricter"),
    ],
)
async def test_what_cannot_be_promoted_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    await recorded(tmp_path / "state", 1)
    assert await promote(*words, "--config", settings(tmp_path), "--state", tmp_path / "state") == 2
    assert said in capsys.readouterr().err
