"""An alert fires as long as what it is about lasts: an alert book takes one that nobody speaks of for gone."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from policies.model import Action, Decision, Stage
from proxy import approvals
from proxy.approvals import Approvals
from proxy.exchange import Exchange
from proxy.recorder import Recorder
from proxy.reloading import Reloader, stamp_of
from serving.settings import ApprovalSettings, Settings
from serving.wire.vocabulary import ToolCall
from tests.support.served import until


class Book:
    """Counts what is said of each alert."""

    def __init__(self) -> None:
        self.said: Counter[tuple[str, str]] = Counter()

    def fire(self, cause: str, subject: str, agent: str, **what: Any) -> None:
        self.said["fire", cause] += 1

    def resolve(self, cause: str, subject: str, agent: str) -> None:
        self.said["resolve", cause] += 1

    def operated(self, *what: str) -> int:
        return 0

    async def commit(self, seq: int) -> None:
        pass


async def test_of_policies_that_cannot_be_used_until_they_are_mended(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    settings = Settings.model_validate({"state_dir": tmp_path / "state", "policies": {"bundle": bundle}})
    book = Book()
    nobody = cast(Any, None)
    reloader = Reloader(settings, nobody, nobody, cast(Recorder, book), stamp_of(settings.policies))
    assert not await reloader.look()
    assert book.said == {("resolve", "policies_not_loaded"): 1}
    (bundle / "manifest.json").write_text("{")
    for _ in range(5):
        await reloader.look()
    assert book.said["fire", "policies_not_loaded"] == 4, "at the second look, and at each one after"
    assert book.said["resolve", "policies_not_loaded"] == 1


async def test_of_what_waits_for_an_operator_until_it_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approvals, "_AGAIN_SECONDS", 0.01)
    book = Book()
    desk = Approvals(ApprovalSettings(seconds=60), cast(Recorder, book))
    run = SimpleNamespace(run=SimpleNamespace(id="r"))
    x = cast(Exchange, SimpleNamespace(id="x", agent="a", sighting=run, approval_seconds=0.0))
    decision = Decision(stage=Stage.TOOL_CALL, action=Action.APPROVE)
    asked = asyncio.create_task(desk.call(x, ToolCall(0, 0, None, "pay", "{}"), decision, lambda most: ([], True)))
    await until(lambda: book.said["fire", "approval_needed"] > 3)
    (one,) = desk.pending()
    await desk.settle(one["id"], approve=True, operator="ann", reason="Invoice 7.")
    assert await asked
    assert book.said["resolve", "approval_needed"] == 1
