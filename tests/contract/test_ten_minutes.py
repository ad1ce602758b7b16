"""The ten minutes of docs/policies.md, command by command, as somebody who knows only the page would take them."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.cli import main
from tests.support.chat import Call, Say, read_whole, whole
from tests.support.interlock import port_of, running
from tests.support.raw import scripted, send
from tests.support.serving import answering, ask, post
from tests.support.wire import parse
from tracing.records import Decided
from tracing.segments import read

pytestmark = pytest.mark.opa

PAGE = Path(__file__).parents[2] / "docs" / "policies.md"
SECTION = PAGE.read_text("utf-8").partition("## Ten minutes")[2].partition("\n## ")[0]
DEPLOY = Say(text="I deploy.", calls=(Call("run_shell", '{"command": "./deploy.sh prod"}'),))
ROOT = Path("mine/acme/deploys")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)


def commands() -> Iterator[list[str]]:
    for block in blocks("console"):
        for line in block.splitlines():
            assert line.startswith("$ interlock "), line
            yield shlex.split(line[2:])[1:]


async def served(state: Path, **sections: Any) -> bool:
    """One exchange in which an agent deploys; whether the call was given to it."""
    async with scripted(answering(whole(DEPLOY))) as upstream, running(upstream.url, state, **sections) as interlock:
        answer = parse(await send(port_of(interlock), post(ask())))
        return bool(read_whole(answer.body)[0].calls)


async def test_the_page_leads_from_a_new_policy_to_one_that_watches(
    opa_binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INTERLOCK_OPA", str(opa_binary))
    state, config = tmp_path / "state", tmp_path / "interlock.yaml"
    monkeypatch.setenv("INTERLOCK_STATE_DIR", str(state))
    assert await served(state)

    async def run(*words: str) -> tuple[int, str, str]:
        status = await asyncio.to_thread(main, list(words))
        return status, *capsys.readouterr()

    done: list[str] = []
    for words in commands():
        done.append(" ".join(words[:2]))
        if words[0] == "serve":
            continue
        if done[-1] == "policy check":
            example = ROOT / "examples" / "stops.json"
            (old, new), (other, finding) = (
                ("echo about project-kestrel", "./deploy.sh prod"),
                (
                    "deploys_named",
                    "not_a_release_agent",
                ),
            )
            assert all(f"`{word}`" in SECTION for word in (old, new, other, finding))
            text = example.read_text()
            assert old in text and other in text
            example.write_text(text.replace(old, new).replace(other, finding))
        if done[-1] == "config check":
            config.write_text(blocks("yaml")[0])
        status, out, err = await run(*words)
        assert status == (1 if done[-1] in ("policy eval", "policy replay") else 0), (words, out, err)
        if done[-1] == "policy new":
            policy, test = blocks("rego")
            (data,) = blocks("json")
            (ROOT / "policy.rego").write_text(policy)
            (ROOT / "policy_test.rego").write_text(test)
            (ROOT / "data.json").write_text(data)
        elif done[-1] == "policy test":
            assert "3 of 3 tests pass" in out and "2 of 2 examples are as they say" in out
        elif done[-1] == "policy eval":
            said = next(block for block in blocks("text") if block.startswith("call 0.0"))
            shown = re.sub(r"\s+", " ", out)
            for line in said.splitlines():
                assert re.sub(r"\s+", " ", line.partition("…")[0]).strip() in shown, (line, out)
        elif done[-1] == "policy replay":
            assert "newly denied  1 in 1 exchange" in out and "acme.deploys/not_a_release_agent  1" in out
    assert done == [
        "policy new", "policy check", "policy test", "policy build", "policy eval", "policy replay", "config check",
        "serve --upstream",
    ]  # fmt: skip

    settings = yaml.safe_load(config.read_text())
    settings["policies"]["bundle"] = tmp_path / settings["policies"]["bundle"]
    assert await served(state, **settings)  # a shadow policy changes nothing
    decided = [entry.record for entry in read(state) if isinstance(entry.record, Decided)]
    found = [one["policy"] for record in decided for one in record.decision.get("findings", ())]
    assert "acme.deploys" in found
    status, out, _ = await run("policy", "replay", "bundle", "--config", "interlock.yaml")
    assert status == 0 and re.search(r"acme.deploys/not_a_release_agent +2 +deny \(shadow\)", out), out
    settings["policies"]["modes"]["acme.deploys"] = "enforce"
    assert not await served(state, **settings)

    test = (ROOT / "policy_test.rego").read_text()
    (ROOT / "policy_test.rego").write_text(test.replace("3}) == set()", '3}) == {"not_a_release_agent"}'))
    status, out, _ = await run("policy", "test", "mine", "--no-library")
    fails = next(block for block in blocks("text") if "line 19:" in block)
    assert status == 1 and fails in out, out
    (ROOT / "policy_test.rego").write_text(test)

    broken = (ROOT / "policy.rego").read_text().replace("identity.agent", "identity.agnet").replace('"deny"', '"denny"')
    (ROOT / "policy.rego").write_text(broken)
    status, out, _ = await run("policy", "check", "mine", "--no-library")
    wrong = next(block for block in blocks("text") if "error" in block)
    assert status == 1
    assert [line for line in wrong.splitlines() if line not in out.splitlines()] == []


def test_the_example_of_the_page_is_json() -> None:
    assert [json.loads(block) for block in blocks("json")] == [{"agents": ["release-bot"]}]
