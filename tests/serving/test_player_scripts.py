"""A harness plays every script through the player, with and without a guard that refuses."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from serving.player import Player
from serving.tiny.answer import differences, message
from serving.tiny.dialogue import Message, Script
from serving.tiny.harness import LOOP_TURNS, Harness
from serving.tiny.record import request
from serving.tiny.recording import Recording
from serving.tiny.scripts import SCRIPTS
from serving.tiny.shelf import CHAT


@pytest.fixture
async def url() -> AsyncIterator[str]:
    player = Player(speed=0)
    yield await player.start()
    await player.stop()


async def ask(url: str, body: dict[str, Any]) -> Message:
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    sent = request("POST", CHAT, host, json.dumps(body).encode())
    writer.write(sent.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
    answer = await reader.read()
    writer.close()
    return message(Recording(sent, answer, ((0.0, len(answer)),)).content)


def guarded(said: Message, script: Script, answers: int) -> Message:
    """What a guard makes of an answer: a refusal in place of the forbidden calls."""
    turn = script.turns[answers] if answers < len(script.turns) else None
    if turn is None or not turn.forbidden:
        return said
    kept = [c for c, own in zip(said["tool_calls"], turn.calls, strict=True) if not own.forbidden]
    refused: Message = {"role": "assistant", "content": "Some words of a guard."}
    return refused | {"tool_calls": kept} if kept else refused


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.id)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("guard", [False, True], ids=["alone", "guarded"])
async def test_a_script_is_played_to_its_end(script: Script, stream: bool, guard: bool, url: str) -> None:
    harness = Harness(script, system="Anything at all.")
    guard = guard and bool(script.refused)
    while not harness.done and harness.answers < LOOP_TURNS:
        said = await ask(url, harness.request(stream=stream))
        turn = harness.expected
        assert turn is not None and differences(said, turn) == []
        harness.take(guarded(said, script, harness.answers) if guard else said)
    assert harness.refused == guard
