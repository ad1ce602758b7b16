"""Agents made up for the tests: each keeps its history as a harness does and speaks through one run book."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from proxy.runs import RunBook, Sighting
from serving.settings import BreakerSettings
from serving.wire.request import ChatRequest, SentCall, SentMessage

Call = tuple[str | None, str, str]


class Clock:
    """Seconds that only the test moves."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def book(clock: Clock | None = None, **settings: object) -> RunBook:
    numbers = count(1)
    return RunBook(BreakerSettings.model_validate(settings), clock or Clock(), lambda: f"run-{next(numbers)}", b"key")


def said(role: str, text: str = "", calls: Sequence[Call] = (), answers: str | None = None) -> SentMessage:
    return SentMessage(role, text, calls=tuple(SentCall(*call) for call in calls), tool_call_id=answers)


def request(*messages: SentMessage, stream: bool = True, limit: int | None = None, n: int = 1) -> ChatRequest:
    return ChatRequest(model="tiny", messages=messages, stream=stream, limit=limit, n=n)


def call_id(number: int, prefix: str = "") -> str:
    """As long as the ids that vLLM makes, and as unlike a mere number."""
    return f"call_{prefix}x{number:024x}"


class Harness:
    """One agent's harness. ``history`` is what it would send next."""

    def __init__(self, runs: RunBook, agent: str = "alice", *opening: str, prefix: str = "") -> None:
        self.runs = runs
        self.agent = agent
        self.prefix = prefix
        self.history = [said("system", "You work."), *(said("user", text) for text in opening or ("Go.",))]
        self.numbers = count(1)
        self.sighting: Sighting | None = None

    def asks(self, named: str | None = None) -> Sighting:
        self.sighting = self.runs.identify(self.agent, request(*self.history), named)
        return self.sighting

    def is_given(self, text: str = "", *calls: tuple[str, str]) -> list[str]:
        """The answer to the last request, calls as (name, arguments); their ids."""
        assert self.sighting is not None
        sent: list[Call] = [(call_id(next(self.numbers), self.prefix), *call) for call in calls]
        self.runs.left(self.sighting, text, sent)
        self.history.append(said("assistant", text, sent))
        return [str(call[0]) for call in sent]

    def returns(self, call_id: str | None, result: str) -> None:
        self.history.append(said("tool", result, answers=call_id))

    def does(self, *calls_with_results: tuple[str, str, str]) -> Sighting:
        """Asks, is given these calls, and asks again with their results."""
        self.asks()
        ids = self.is_given("", *((name, arguments) for name, arguments, _ in calls_with_results))
        for call_id, (_, _, result) in zip(ids, calls_with_results, strict=True):
            self.returns(call_id, result)
        return self.asks()
