"""`interlock policy eval` says of one exchange which rules fired, with file and line, and where the others stopped."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from proxy.cli import main
from tests.policies.support import built
from tests.support import messages, responses
from tests.support.chat import Call, Say, whole
from tests.support.interlock import port_of, running
from tests.support.raw import scripted, send
from tests.support.serving import answering, ask, post

pytestmark = pytest.mark.opa

POLICY = """package interlock.policies.acme.lines

import data.interlock.lib.values

finding(id, action) := {"id": id, "severity": "low", "action": action, "message": "No.", "tags": []}

tool_call contains finding("one_line", "flag") if input.call.name == "run_shell"

tool_call contains finding("other_line", "flag") if input.call.name == "other"

tool_call contains finding if {
	some text in values.of_call(input.call)
	contains(text, "ls")
	input.identity.agent == "release-bot"
	finding := {"id": "several_lines", "severity": "low", "action": "deny", "message": "No.", "tags": []}
}

tool_call contains finding if {
	some text in values.of_call(input.call)
	contains(text, "-la")
	finding := {"id": "reached_its_end", "severity": "low", "action": "deny", "message": "No.", "tags": []}
}
"""
KEY = "AK" + "IA" + "QWERTYUIOPASDFGH"
LIST = Say(text="I look.", calls=(Call("run_shell", '{"command": "ls -la"}'),))


@pytest.fixture(scope="module")
def bundle(opa_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    built(opa_binary, folder / "src", {"acme/lines/policy.rego": POLICY}, with_library=True).write(folder / "out")
    return folder / "out"


@pytest.fixture(autouse=True)
def opa(opa_binary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERLOCK_OPA", str(opa_binary))


def written(folder: Path, **parts: Any) -> str:
    file = folder / "exchange.json"
    file.write_text(json.dumps({"agent": "coder", "request": ask(), "answer": json.loads(whole(LIST)), **parts}))
    return str(file)


def evaluated(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    status = main(["policy", "eval", *words])
    return status, capsys.readouterr().out


def line_of(text: str) -> int:
    return next(row for row, line in enumerate(POLICY.splitlines(), 1) if text in line)


def test_fired_and_stopped_rules_have_their_lines(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [written(tmp_path), "--bundle", str(bundle), "--policy", "acme.lines"]
    status, out = evaluated(capsys, *words, "--json")
    assert status == 1
    (place,) = json.loads(out)["places"]
    assert (place["place"], place["stopped_by"]) == ("call 0.0", "acme.lines/reached_its_end")
    assert place["input"]["call"]["arguments"] == {"command": "ls -la"}
    rules = {rule["ids"][0] if rule["ids"] else rule["row"]: rule for rule in place["rules"]}
    assert {name for name, rule in rules.items() if rule["fired"]} == {"one_line", "reached_its_end"}
    assert rules["one_line"]["row"] == line_of('"one_line"')
    assert rules["reached_its_end"]["row"] == line_of("tool_call contains finding if {") + 7
    assert rules["several_lines"]["stopped_at"] == line_of("release-bot")
    assert rules[line_of("other_line")]["stopped_at"] == line_of("other_line")

    status, out = evaluated(capsys, *words)
    assert status == 1
    assert re.search(rf"fired +acme/lines/policy.rego:{line_of('one_line')}  one_line", out)
    stopped = rf"stopped +acme/lines/policy.rego:\d+ \(several_lines\) at line {line_of('release-bot')}: input.identity"
    assert re.search(stopped, out.replace("\n           ", "\n  stopped  "))
    assert "stopped by acme.lines/reached_its_end" in out


def test_what_a_file_says_of_the_moment_is_in_the_input(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(
        tmp_path, agent="release-bot", run={"id": "r", "tokens": 7}, time="2026-11-20T10:00:00Z", team="release"
    )
    _, out = evaluated(capsys, file, "--bundle", str(bundle), "--policy", "acme.lines", "--json")
    (place,) = json.loads(out)["places"]
    assert {entry["finding"]["id"] for entry in place["decision"]["findings"]} >= {"several_lines", "one_line"}
    assert place["input"]["identity"] == {"agent": "release-bot", "owner": None, "team": "release"}


@pytest.mark.parametrize("api", [messages, responses])
def test_an_exchange_of_any_api_may_be_in_a_file(
    api: Any, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = "/v1/messages" if api is messages else "/v1/responses"
    file = written(tmp_path, path=path, request=api.ask(), answer=json.loads(api.whole(LIST)))
    status, out = evaluated(capsys, file, "--bundle", str(bundle), "--policy", "acme.lines")
    assert status == 1
    assert "reached_its_end" in out


async def test_a_recorded_exchange_is_explained_and_its_secrets_are_masked(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"
    say = Say(calls=(Call("run_shell", json.dumps({"command": f"ls {KEY}"})),))
    sections: dict[str, Any] = {"policies": {"bundle": bundle}, "tracing": {"capture": "full"}}
    async with scripted(answering(whole(say))) as upstream, running(upstream.url, state, **sections) as interlock:
        await send(port_of(interlock), post(ask()))
    config = tmp_path / "interlock.yaml"
    config.write_text(json.dumps({"policies": {"bundle": str(bundle)}, "upstream": {"url": "http://127.0.0.1:1"}}))

    def command(*words: str) -> int:
        return main([*words, "--state-dir", str(state)])

    assert await asyncio.to_thread(command, "audit", "list", "--json") == 0
    name = json.loads(capsys.readouterr().out)["exchange"]
    assert await asyncio.to_thread(command, "policy", "eval", name[:8], "--config", str(config)) == 1
    out = capsys.readouterr().out
    assert KEY not in out and "[redacted:" in out
    assert "stopped by interlock.secrets/secret_in_arguments; then, stopped by interlock.secrets" in out
    assert re.search(r"found +acme.lines/one_line +flag, low \(shadow\)", out) or "acme.lines/one_line" in out

    assert await asyncio.to_thread(command, "audit", "show", name, "--json") == 0
    lines = tmp_path / "lines.json"
    lines.write_text(capsys.readouterr().out)
    assert await asyncio.to_thread(command, "policy", "eval", str(lines), "--config", str(config)) == 1
    assert capsys.readouterr().out == out


def test_what_is_no_exchange_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for parts, said in (
        ({"request": {"model": "m"}}, "request: messages: missing"),
        ({"path": "/v1/embeddings"}, "expected a path that is judged"),
        ({"answer": {"choices": 3}}, "is not a whole answer of the chat API"),
        ({"anser": {}}, "does not know anser"),
        ({"run": {"tokns": 3}}, "tokns"),
        ({"time": "soon"}, "soon"),
    ):
        assert main(["policy", "eval", written(tmp_path, **parts)]) == 2
        assert said in capsys.readouterr().err
    (tmp_path / "exchange.json").write_text("[not json")
    assert main(["policy", "eval", str(tmp_path / "exchange.json")]) == 2
    assert "neither an exchange in JSON nor records" in capsys.readouterr().err
    assert main(["policy", "eval", "abcdef", "--state", str(tmp_path)]) == 2
    assert "no journal below" in capsys.readouterr().err
