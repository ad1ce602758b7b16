"""`interlock contract` on recorded traffic: Interlock between the command and the player of what vLLM said.

The player answers some requests that vLLM refuses and Interlock cannot read: hence ``unjudged: allow``.

On a real vLLM, with every API: ``tests/e2e/test_contract_command.py``.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from proxy.cli import main
from serving.player import Player
from tests.support.interlock import running
from tests.support.processes import free_port


async def test_with_a_tap_no_request_and_no_answer_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    player, tap = Player(speed=0), free_port()
    url = await player.start()
    try:
        async with running(f"http://127.0.0.1:{tap}", tmp_path, unjudged="allow") as interlock:
            command = ["contract", "--direct", url, "--proxy", interlock.url, "--tap", str(tap), "--only", "chat/"]
            status = await asyncio.to_thread(main, [*command, "--model", "tiny", "--json"])
    finally:
        await player.stop()
    report = json.loads(capsys.readouterr().out)
    differing = {case["name"]: case["differences"] for case in report["cases"] if case["verdict"] == "differs"}
    assert differing == {}
    assert status == 0
    assert report["summary"]["same"] > 100
