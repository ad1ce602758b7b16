"""The judge, where its questions overtake one another."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from proxy.exchange import Exchange, Outcome
from proxy.gated_choice import Question, TextQuestion
from proxy.gated_text import Found
from proxy.judge import Judge
from serving.wire.shadow_calls.block import ShadowCall
from tests.proxy.test_streamed import exchange


class Slow(Judge):
    """Decides about the first call last."""

    def __init__(self) -> None:
        self._recorder = cast(Any, Records())
        self._metrics = cast(Any, Counts())
        self._refusal = "text"
        self.texts = {}
        self.recorded: list[Outcome] = []

    async def _outcome(self, x: Exchange, question: Question, place: str | None = None) -> Outcome:
        for _ in range(5 if question.call.name == "first" else 1):
            await asyncio.sleep(0)
        return Outcome(question.call, "denied", refusal=f"No {question.call.name}.")


class Counts:
    def call(self, outcome: str) -> None:
        assert outcome == "denied"


class Records:
    def call(self, x: Exchange, outcome: Outcome) -> int:
        return 1

    async def commit(self, seq: int) -> None:
        assert seq == 1


async def test_calls_in_plain_text_that_are_asked_about_at_once_have_a_record_each() -> None:
    x, judge = exchange(), Slow()
    found = [Found("text", calls=(ShadowCall(name, "{}", 0, 9, 0, True),)) for name in ("first", "second")]
    await asyncio.gather(*(judge.ask(x, TextQuestion(i, 0, one)) for i, one in enumerate(found)))
    assert {index: outcome.call.name for (_, index), outcome in x.outcomes.items()} == {-1: "first", -2: "second"}
