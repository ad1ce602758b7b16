"""An engine that goes away while an answer is masked: what a policy wanted masked is not let by, whatever may be let by
unjudged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from policies.asking import Answers, Asking
from policies.engines.base import EngineError
from tests.support.apis import APIS, heard
from tests.support.chat import Call, Say
from tests.support.serving import answering, streaming
from tests.support.text_stage import staged
from tracing.records import Decided

CARD = "4111 1111 1111 1111"
SAYS = {
    "text": Say("Hm.", f"It is {CARD}, yes, {CARD}."),
    "call": Say("Hm.", "So be it.", (Call("search", json.dumps({"a": ["x"] * 20 + [CARD] * 30})),)),
}
POLICIES: dict[str, Any] = {
    "modes": {"interlock.pii_mask": "enforce", "interlock.secrets": "off", "interlock.shell": "off"},
    "on_error": "allow",
    "fail_open": {"share": 1.0, "least": 1},
}


@pytest.mark.parametrize("kind", SAYS)
@pytest.mark.parametrize("stream", [True, False])
async def test_what_is_to_be_masked_is_not_let_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: bool, kind: str
) -> None:
    """It answers once, and is away when it is asked again about the matches as a whole, or about what is left."""
    asks = Asking.answers
    asked: list[str] = []

    async def answers(self: Asking, stage: str, document: bytes, those: frozenset[str], *more: Any) -> Answers:
        asked.append(stage)
        if len(asked) > 1:
            return dict.fromkeys(those, EngineError("engine", "gone", True))
        return await asks(self, stage, document, those, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(Asking, "answers", answers)
    api, say = APIS["chat"], SAYS[kind]
    async with staged(tmp_path, **POLICIES) as stage:
        stage.script = streaming(api.events(say)) if stream else answering(api.body(say))
        told = heard(await stage.asks(api, stream=stream))
    assert len(asked) >= 2
    assert "4111" not in str(told)
    assert "interlock.pii_mask/on_error" in str(told)
    assert [one.action for one in stage.records(Decided)][:2] == ["redact", "deny"]
