"""`interlock policy eval` of an exchange in which something was masked: it passed then, and passes now."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from proxy.cli import main
from tests.support.apis import APIS
from tests.support.chat import Call, Say
from tests.support.serving import answering, streaming
from tests.support.text_stage import staged
from tracing.records import CallOutcome, Decided

CARD = "4111 1111 1111 1111"
POLICIES = {"modes": {"interlock.pii_mask": "enforce"}}


async def masked(state: Path, *, stream: bool) -> str:
    api = APIS["chat"]
    say = Say("Hm.", f"It is {CARD}.", (Call("search", json.dumps({"a": CARD})),))
    async with staged(state, **POLICIES) as stage:
        stage.script = streaming(api.events(say)) if stream else answering(api.body(say))
        await stage.asks(api, stream=stream)
    assert [record.outcome for record in stage.records(CallOutcome)] == ["masked"]
    return str(stage.records(Decided)[0].exchange)


@pytest.mark.parametrize("stream", [True, False])
def test_a_masked_exchange_is_not_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    monkeypatch.setenv("INTERLOCK_OPA", str(tmp_path / "none"))
    exchange = asyncio.run(masked(tmp_path / "state", stream=stream))
    config = tmp_path / "interlock.yaml"
    config.write_text(json.dumps({"upstream": {"url": "http://127.0.0.1:9"}, "policies": POLICIES}))
    status = main(["policy", "eval", exchange, "--config", str(config), "--state", str(tmp_path / "state")])
    said = capsys.readouterr().out
    assert status == 0, said
    assert "call 0.0" in said
