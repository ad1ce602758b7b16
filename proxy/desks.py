"""The guardrail checks that the settings ask for: each with its server, its queue, and the questions it is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import aiohttp

from checks.asking import check_session
from checks.jobs import jobs_for_answer, jobs_for_request
from checks.llm import LlmCheck
from checks.nemo import NemoCheck
from checks.scenes import Sight, jobs_for_calls, jobs_for_results, sight
from checks.scheduler import CheckScheduler
from checks.verdict import Check, CheckJob, Verdict
from checks.windows import room
from serving.settings import CheckSettings, LlmSettings, Settings
from serving.wire.request import SentMessage
from serving.wire.vocabulary import ToolCall


class Questions(Protocol):
    """What one check is asked about an exchange: of its request, as it goes on to the model, then of its answer."""

    def request(self, ref: str, messages: Sequence[SentMessage], news: Sequence[SentMessage]) -> list[CheckJob]: ...

    def answer(self, ref: str, text: str | None, calls: Iterable[ToolCall]) -> list[CheckJob]:
        """May come more than once, for each choice."""
        ...

    def forget(self, ref: str) -> None:
        """The exchange is over."""
        ...


class TextQuestions:
    """Every text for itself."""

    def __init__(self, settings: CheckSettings) -> None:
        self._room = room(settings.max_text_bytes)

    def request(self, ref: str, messages: Sequence[SentMessage], news: Sequence[SentMessage]) -> list[CheckJob]:
        return jobs_for_request(ref, news, self._room)

    def answer(self, ref: str, text: str | None, calls: Iterable[ToolCall]) -> list[CheckJob]:
        return jobs_for_answer(ref, text, calls)

    def forget(self, ref: str) -> None:
        pass


class SceneQuestions:
    """Results with the conversation beside them, and calls with what was in sight: that is kept until the answer is
    there, at most what the check can be given of it."""

    def __init__(self, settings: LlmSettings) -> None:
        self._results = "tool_result" in settings.surfaces
        self._calls = "tool_call" in settings.surfaces
        self._room = room(settings.max_text_bytes)
        self._seen: dict[str, Sight] = {}

    def request(self, ref: str, messages: Sequence[SentMessage], news: Sequence[SentMessage]) -> list[CheckJob]:
        seen = sight(messages, self._room)
        if self._calls and seen.results:
            self._seen[ref] = seen
        return jobs_for_results(ref, news, seen.conversation, self._room) if self._results else []

    def answer(self, ref: str, text: str | None, calls: Iterable[ToolCall]) -> list[CheckJob]:
        seen = self._seen.get(ref)
        return [] if seen is None else jobs_for_calls(ref, seen, calls)

    def forget(self, ref: str) -> None:
        self._seen.pop(ref, None)


class Desk:
    """One check at work. The session and the scheduler are closed by whoever started the scheduler."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        check: Check,
        questions: Questions,
        on_verdict: Callable[[Verdict], None],
        *,
        settings: CheckSettings | LlmSettings,
        queue: int,
    ) -> None:
        self.session = session
        self.check = check
        self.questions = questions
        self.scheduler = CheckScheduler(
            check,
            queue=queue,
            concurrency=settings.concurrency,
            timeout_seconds=settings.timeout_seconds,
            max_text_bytes=settings.max_text_bytes,
            on_verdict=on_verdict,
        )


def desks(settings: Settings, on_verdict: Callable[[Verdict], None]) -> Iterator[Desk]:
    """To be called on the event loop. ``settings`` say where the launched servers are."""
    checks = settings.checks
    if checks.nemo.url is not None:
        yield nemo_desk(checks, on_verdict)
    if checks.llm.model is not None:
        yield llm_desk(settings, on_verdict)


def nemo_desk(checks: CheckSettings, on_verdict: Callable[[Verdict], None]) -> Desk:
    nemo = checks.nemo
    assert nemo.url is not None
    session = check_session(checks.concurrency)
    token = nemo.token.get_secret_value() if nemo.token else None
    check = NemoCheck(session, nemo.url, config_id=nemo.config_id, token=token)
    return Desk(session, check, TextQuestions(checks), on_verdict, settings=checks, queue=checks.queue)


def llm_desk(settings: Settings, on_verdict: Callable[[Verdict], None]) -> Desk:
    llm = settings.checks.llm
    assert llm.model is not None
    key = llm.key if llm.url is not None else settings.upstream.api_key
    session = check_session(llm.concurrency)
    check = LlmCheck(
        session,
        llm.url or settings.upstream.url,
        llm.model,
        key=key.get_secret_value() if key is not None else None,
        threshold=llm.threshold,
        extra=llm.extra,
        prove=llm.prove,
    )
    return Desk(session, check, SceneQuestions(llm), on_verdict, settings=llm, queue=settings.checks.queue)
