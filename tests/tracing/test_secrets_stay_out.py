"""A secret that a shipped pattern knows, everywhere in an exchange, is nowhere in what is made of it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from serving.patterns import shipped_patterns
from tests.tracing.exchanges import call, opened, settled
from tests.tracing.receivers import receiving
from tests.tracing.test_exporter import begin, everything_below, exporter, otlp
from tracing.capture import Capture, Mode
from tracing.cli import add_audit_commands
from tracing.journal import Journal
from tracing.keys import RunKeys

CANARY = "AKIA" + "Q3EGZNJ7P5XM2LTB"
ESCAPED = "".join(f"\\u{ord(character):04x}" for character in CANARY)
ARGUMENTS = ['{"cmd": "echo %s"}', '{"%s": 1}', '{"deep": [{"er": ["%s"]}]}', '{"cut": "off %s']


def redact(text: str) -> str:
    for patterns in shipped_patterns():
        text = patterns.redact(text)
    return text


def append_exchange(journal: Journal, capture: Capture) -> None:
    name, start = "x1", begin()
    messages = [
        {"role": "user", "content": f"use {CANARY}"},
        {"role": "user", "content": [{"type": "text", "text": f"and\n{CANARY}"}]},
        {"role": "tool", "tool_call_id": "call-0", "content": json.dumps({"env": {"KEY": CANARY}})},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": ARGUMENTS[0] % ESCAPED}}]},
    ]
    facts = opened(name, start, messages=[], tools=[], params={})

    def fill() -> Any:
        kept, left_out = capture.messages(messages, "r")
        tools = capture.items([{"function": {"name": "f", "description": f"needs {CANARY}"}}], "r")
        params = capture.value({"stop": [CANARY]}, "r") or {}
        return msgspec.structs.replace(facts, messages=kept, tools=tools, params=params, messages_left_out=left_out)

    journal.append(facts, fill)
    calls: list[dict[str, str]] = []
    for index, form in enumerate(ARGUMENTS):
        for spelling in (CANARY, ESCAPED):
            arguments = form % spelling
            denied = capture.denied(arguments, "r")
            number = len(calls)
            journal.append(call(name, number, "denied", start, arguments=denied.excerpt, commitment=denied.commitment))
            calls.append({"id": f"call-{number}", "name": f"f{index}", "arguments": arguments})
    answer = {"index": 0, "content": f"got {CANARY}", "reasoning": f"the key is {CANARY}", "tool_calls": calls}
    journal.append(settled(name, start, choices=capture.items([answer], "r")))


@pytest.mark.parametrize("mode", ["redacted", "hashes", "none"])
async def test_the_canary_is_in_no_file_no_span_and_no_output(mode: Mode, tmp_path: Path, capsys: Any) -> None:
    state = tmp_path / "state"
    journal = Journal.open(state, instance="one")
    append_exchange(journal, Capture(mode, redact, RunKeys(state).key))
    journal.close()
    async with receiving() as receiver, exporter(state, otlp(receiver)):
        await receiver.until(lambda: bool(receiver.taken))
    parser = argparse.ArgumentParser()
    add_audit_commands(parser.add_subparsers())
    for words in (["show", "x1"], ["show", "x1", "--json"], ["list"]):
        arguments = parser.parse_args(["audit", *words, "--state-dir", str(state)])
        assert arguments.run(arguments) == 0
    shown = everything_below(tmp_path) + b"".join(receiver.taken) + "".join(capsys.readouterr()).encode()
    for spelling in (CANARY, ESCAPED, ESCAPED.replace("\\", "\\\\"), CANARY[:10]):
        assert spelling.encode() not in shown


async def test_the_test_finds_the_canary_where_everything_is_kept(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, instance="one")
    append_exchange(journal, Capture("full", redact, RunKeys(tmp_path).key))
    journal.close()
    assert CANARY.encode() in everything_below(tmp_path)
