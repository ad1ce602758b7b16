"""What replay calls newly denied is what enforcement then refuses, on every API; what is not known, it says."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.cli import main
from tests.policies.support import built
from tests.support.apis import APIS
from tests.support.chat import Call, Say
from tests.support.interlock import port_of, running
from tests.support.raw import scripted, send
from tests.support.serving import answering, post, streaming
from tests.support.wire import parse
from tracing.lookup import find_exchanges

pytestmark = pytest.mark.opa

CHANGED = """
# METADATA
# custom:
#   hold: all
#   patterns: [pii/email]
package interlock.policies.acme.changed

import data.interlock.lib.values

finding(id, action) := {"id": id, "severity": "high", "action": action, "message": "Ask for it.", "tags": []}

request contains finding("state_secret", "deny") if {
	some message in input.request.messages
	contains(message.text, "state secret")
}

tool_call contains finding("deploy", "deny") if {
	some text in values.of_call(input.call)
	contains(text, "deploy.sh")
}

tool_call contains finding("pay", "approve") if input.call.name == "pay"

tool_call contains finding("format", "terminate") if input.call.name == "format_disk"

output contains finding("address", "deny") if {
	some signal in input.signals
	signal.id == "email"
}

reasoning contains finding("plot", "deny") if contains(input.surface.text, "nobody must know")
"""
SAYS = {
    "plain": Say(text="All is well."),
    "deploy": Say("", "I deploy.", (Call("run_shell", '{"command": "./deploy.sh prod"}'),)),
    "listed": Say("", "", (Call("run_shell", '{"command": ["bash", "-c", "./deploy.sh"]}'), Call("ls", "{}"))),
    "look": Say("", "I look.", (Call("run_shell", '{"command": "ls"}'),)),
    "pay": Say("", "", (Call("ls", "{}"), Call("pay", '{"usd": 3}'))),
    "format": Say("", "", (Call("format_disk", "{}"), Call("run_shell", '{"command": "deploy.sh"}'))),
    "destroy": Say("", "", (Call("run_shell", '{"command": "rm -rf / --no-preserve-root"}'),)),
    "address": Say(text="Write to Ann Lee at ann.lee@mail-example.org about that. And so on, and so on."),
    "plot": Say("We do it, and nobody must know.", "All is well."),
    "odd": Say("", "", (Call("run_shell", '{"command": "ls", "command": "x"}'),)),
    "written": Say(
        text='So <tool_call>{"name": "run_shell", "arguments": {"command": "./deploy.sh"}}</tool_call> done.'
    ),
    "cut off": Say("", "", (Call("run_shell", '{"command": "./deploy.sh'),), "length"),
}


@pytest.fixture(scope="module")
def bundle(opa_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    files = {"acme/changed/policy.rego": CHANGED}
    built(opa_binary, folder / "src", files, with_library=True).write(folder / "out")
    return folder / "out"


def exchanges() -> Iterator[tuple[str, str, bool, str]]:
    """(api, what the model says, streamed, what the user says)"""
    for name in ("chat", "messages", "responses", "completions"):
        for kind, say in SAYS.items():
            if name == "completions" and (say.calls or say.reasoning):
                continue
            for stream in (False, True):
                yield name, kind, stream, "Go."
        yield name, "plain", False, "Tell me the state secret."
        yield name, "deploy", True, "Tell me the state secret."


async def drive(state: Path, **sections: Any) -> dict[int, str]:
    """Send every exchange; gives those of which something was stopped, with the rule that the client was told."""
    stopped: dict[int, str] = {}
    sent = [*exchanges()]
    now: list[tuple[str, str, bool, str]] = []

    async def script(request: bytes, writer: Any) -> None:
        name, kind, stream, _ = now[-1]
        api = APIS[name]
        await (streaming(api.events(SAYS[kind])) if stream else answering(api.body(SAYS[kind])))(request, writer)

    async with scripted(script) as upstream, running(upstream.url, state, **sections) as interlock:
        for at, one in enumerate(sent):
            now.append(one)
            api = APIS[one[0]]
            body = json.dumps(api.ask(stream=one[2])).replace("Clean up.", one[3]).encode()
            answer = parse(await send(port_of(interlock), post(body, path=api.path))).body.decode()
            if rule := re.search(r"Blocked by (?:policy|rule) ([\w./]+?)\. ", answer):
                stopped[at] = rule[1]
    return stopped


async def test_what_is_newly_denied_is_what_enforcement_then_refuses(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    then, now = tmp_path / "then", tmp_path / "now"
    modes = {"interlock.shell": "enforce", "interlock.secrets": "enforce"}
    before = await drive(then, tracing={"capture": "full"}, policies={"modes": modes})
    ids = [exchange.id for exchange in sorted(find_exchanges(then), key=lambda x: x.opened.time_ns if x.opened else 0)]
    assert len(ids) == len([*exchanges()])
    words = ["--state", str(then), "--modes", "interlock.tools=shadow,interlock.paths=shadow,interlock.secrets_out=off"]
    assert await replayed(str(bundle), *words, "--json", "--examples", "999") == 1
    report = json.loads(capsys.readouterr().out)
    enforced = {"bundle": bundle, "modes": {**modes, "acme.changed": "enforce"}}
    after = await drive(now, tracing={"capture": "full"}, policies=enforced)
    newly = {ids.index(one["exchange"]): one["rule"] for one in report["newly_denied"]["examples"][::-1]}
    assert set(newly) | set(before) == set(after)
    assert not set(newly) & set(before)
    assert {at: after[at] for at in newly} == newly
    assert report["newly_denied"]["exchanges"] == len(newly) == len(after) - len(before) > 30
    assert sum(one["places"] for one in report["newly_denied"]["by"]) == report["newly_denied"]["places"]
    assert report["answerable"] == 1.0 and report["unanswerable"]["reasons"] == []
    assert {one["rule"] for one in report["newly_denied"]["by"]} == {
        f"acme.changed/{name}" for name in ("state_secret", "deploy", "pay", "format", "address", "plot")
    }

    assert await replayed(str(bundle), "--state", str(now), "--policy", "acme.changed", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["newly_denied"]["places"] == report["newly_allowed"]["places"] == 0

    off = ["--modes", "acme.changed=off,interlock.tools=off,interlock.paths=off,interlock.secrets_out=off"]
    assert await replayed(str(bundle), "--state", str(now), *off, "--json", "--examples", "999") == 1
    report = json.loads(capsys.readouterr().out)
    assert {ids_of(now).index(one["exchange"]) for one in report["newly_allowed"]["examples"]} == set(newly)


def ids_of(state: Path) -> list[str]:
    return [x.id for x in sorted(find_exchanges(state), key=lambda x: x.opened.time_ns if x.opened else 0)]


async def test_what_was_not_kept_is_unanswerable_and_nothing_is_guessed(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reasons = {}
    for mode in ("redacted", "hashes", "none"):
        await drive(tmp_path / mode, tracing={"capture": mode})
        words = ["--state", str(tmp_path / mode), "--policy", "acme.changed", "--policy", "interlock.shell"]
        assert await replayed(str(bundle), *words, "--json") == (1 if mode == "redacted" else 0)
        report = json.loads(capsys.readouterr().out)
        reasons[mode] = {(one["policy"], one["field"], one["why"]) for one in report["unanswerable"]["reasons"]}
        assert report["answerable"] == (1.0 if not reasons[mode] else pytest.approx(report["answerable"], abs=0))
        if mode == "redacted":
            assert 0.5 < report["answerable"] < 1
            newly = {one["rule"] for one in report["newly_denied"]["by"]}
            assert {"acme.changed/deploy", "acme.changed/state_secret", "acme.changed/plot"} <= newly
        else:
            assert report["answerable"] == 0 and report["newly_denied"]["places"] == 0
    assert ("acme.changed", "signals", "masked or cut off when it was recorded") in reasons["redacted"]
    assert ("interlock.shell", "call.arguments", "denied then, so only an excerpt of it was kept") in reasons[
        "redacted"
    ]
    assert ("acme.changed", "request.messages", "not kept (capture: none)") in reasons["none"]


async def replayed(*words: str) -> int:
    """The exit status of the command."""
    return await asyncio.to_thread(main, ["policy", "replay", *words])


def test_what_cannot_be_asked_is_said_in_one_line(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, said in (
        ([str(tmp_path), "--state", str(tmp_path)], "no manifest.json"),
        ([str(bundle), "--state", str(tmp_path)], "no journal below"),
        (
            [str(bundle), "--state", str(tmp_path), "--policy", "acme.chnged"],
            "names acme.chnged, which the bundle does not have",
        ),
        ([str(bundle), "--state", str(tmp_path), "--modes", "acme.changed=on"], "expected NAME=MODE"),
        ([str(bundle), "--state", str(tmp_path), "--since", "soon"], "--since"),
    ):
        assert main(["policy", "replay", *words]) == 2
        assert said in capsys.readouterr().err
