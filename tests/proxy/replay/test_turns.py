"""Questions of several exchanges are answered one behind the other."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from policies.engines.base import EngineError
from policies.model import Stage
from proxy.replay.turns import InTurns


class Telling:
    """An engine that says what it was asked, and fails where it is told to."""

    name = "embedded"

    def __init__(self) -> None:
        self.asked: list[bytes] = []

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def ask_all(
        self, stage: Stage, document: bytes, seconds: float = math.inf, exchange: str = ""
    ) -> dict[str, Any]:
        self.asked.append(document)
        if document == b"bad":
            raise EngineError("input", "bad")
        return {"said": document}

    async def ask_one(
        self, policy: str, stage: Stage, document: bytes, seconds: float = math.inf, exchange: str = ""
    ) -> Any:
        return policy


async def test_everybody_gets_the_own_answer_and_the_own_error() -> None:
    engine = Telling()
    turns = InTurns(engine)
    steps: list[bytes] = []

    async def ask(document: bytes) -> dict[str, Any]:
        steps.append(document)
        answer = await turns.ask_all(Stage.TOOL_CALL, document)
        again = await turns.ask_all(Stage.TOOL_CALL, document + b"!")
        assert again == {"said": document + b"!"}
        return answer

    answers = await asyncio.gather(ask(b"a"), ask(b"bad"), ask(b"b"), return_exceptions=True)
    assert (answers[0], answers[2]) == ({"said": b"a"}, {"said": b"b"})
    assert isinstance(answers[1], EngineError)
    assert steps == [b"a", b"bad", b"b"], "all had gone as far as they could before the first answer"
    assert engine.asked == [b"a", b"bad", b"b", b"a!", b"b!"]
    assert turns.seconds > 0
    assert await turns.ask_one("acme.mine", Stage.REQUEST, b"{}") == "acme.mine"


async def test_one_that_is_asked_alone_is_answered() -> None:
    turns = InTurns(Telling())
    assert await turns.ask_all(Stage.REQUEST, b"{}") == {"said": b"{}"}
    with pytest.raises(EngineError):
        await turns.ask_all(Stage.REQUEST, b"bad")
