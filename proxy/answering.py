"""The answer's way: its reader is chosen by status and content type, the gate gives what the judge lets by, and what
left is what the run's next request will begin with.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import aiohttp
from aiohttp import hdrs, web

from proxy.answer_book import AnswerBook
from proxy.breakers.budgets import FIRST_TOKENS
from proxy.exchange import Exchange
from proxy.flow import Outlet
from proxy.gate import Gate
from proxy.gated_choice import Answer, Question, TextQuestion
from proxy.live import Live
from proxy.passing import break_off, copy, cut_off, like
from proxy.refusals import Refuse
from proxy.state import Runs
from proxy.streamed import Killed, Stopping, StreamedAnswer, UpstreamBroke
from proxy.whole import judge_whole
from serving.settings import Settings
from serving.wire.splice import Unspliceable

_BUDGET_CUT = (
    "Interlock ended this answer here (rule: budget_exhausted): the budget of this run or agent has no more "
    "tokens. Do not send the request again; tell the user."
)


class Answering:
    """Gives answers. ``answers`` keeps those that may be fetched again, ``clock_ns`` gives nanoseconds."""

    def __init__(
        self, settings: Settings, *, answers: AnswerBook, runs: Runs, live: Live, clock_ns: Callable[[], int]
    ) -> None:
        self._settings = settings
        self._answers = answers
        self._runs = runs
        self._live = live
        self._clock_ns = clock_ns
        self._passes_unjudged = settings.unjudged == "allow"

    async def give(self, request: web.BaseRequest, answer: aiohttp.ClientResponse, x: Exchange) -> web.StreamResponse:
        """What the client gets of this answer; the exchange then has its ending."""
        kind = answer.headers.get(hdrs.CONTENT_TYPE, "").partition(";")[0].strip().lower()
        plain = answer.headers.get(hdrs.CONTENT_ENCODING, "identity").strip().lower() in ("", "identity")
        if not 200 <= answer.status < 300:
            self._answers.forget(x)
            return await self._copied(request, answer, x)
        if kind == "text/event-stream" and plain:
            return await self._streamed(request, answer, x)
        if kind == "application/json" and plain:
            return await self._whole(request, answer, x)
        x.coverage["answer"] = "unjudged: neither JSON nor an event stream"
        if not self._passes_unjudged:
            raise Refuse("unjudged_answer", "The model server's answer is of a kind that cannot be judged.")
        return await self._copied(request, answer, x)

    async def _copied(
        self, request: web.BaseRequest, answer: aiohttp.ClientResponse, x: Exchange
    ) -> web.StreamResponse:
        """Pass it on as it comes; a kill breaks it off, since no words of ours would fit in there."""
        x.ending = "done"

        def end(problem: Stopping | Killed) -> None:
            if isinstance(problem, Killed):
                x.ending = "cut"
                cut_off(request)

        with self._live.streaming(x, end, partial(cut_off, request)):
            return await copy(request, answer)

    async def _streamed(
        self, request: web.BaseRequest, answer: aiohttp.ClientResponse, x: Exchange
    ) -> web.StreamResponse:
        limits = self._settings.limits
        reader, writer = x.dialect.stream(x.request)
        gate = Gate(
            writer,
            hold=x.judge.holds_calls,
            watch_tokens=x.request.shows_tokens and (x.request.calls_possible or bool(x.judge.texts)),
            late_text=x.request.late_text,
            held_limit=limits.held_bytes,
            closing=x.judge.closing,
            texts=x.judge.texts,
            offered=frozenset(tool.name for tool in x.request.tools) if x.judge.holds_calls else None,
        )
        flow = StreamedAnswer(
            x,
            reader,
            gate,
            judge=self._verdict,
            extend=self._extend if x.admitted is not None and x.admitted.lease.binding and not x.fetched else None,
            ended=lambda number: self._left(x, number),
            begun=(lambda: self._answers.begun(x)) if x.request.stored else None,
            unjudged_passes=self._passes_unjudged,
            limit=limits.held_bytes,
            alive_seconds=self._settings.policies.approval.alive_seconds,
        )
        response = like(answer)
        response.headers.popall(hdrs.CONTENT_LENGTH, None)  # a refusal may change it; vLLM's streams have none
        try:
            with self._live.streaming(x, partial(flow.end, answer.content), partial(cut_off, request)):
                await response.prepare(request)
                await flow.run(answer.content, Outlet(request))
                if gate.over:
                    x.ending = "cut"
                    answer.close()
                x.ending = x.ending or "done"
                await response.write_eof()
        except UpstreamBroke:
            x.ending = "upstream_failed"
            break_off(request)
            raise ConnectionResetError("upstream broke off") from None
        return response

    async def _whole(self, request: web.BaseRequest, answer: aiohttp.ClientResponse, x: Exchange) -> web.StreamResponse:
        parts, size = [], 0
        try:
            while data := await answer.content.readany():
                x.first_byte_ns = x.first_byte_ns or self._clock_ns()
                size += len(data)
                parts.append(data)
                if size > self._settings.limits.answer_bytes:
                    raise Refuse("unjudged_answer", "The model server's answer is too large to judge.")
        except aiohttp.ClientError:
            x.ending = "upstream_failed"
            break_off(request)
            raise ConnectionResetError("upstream broke off") from None
        try:
            body = await judge_whole(
                x,
                b"".join(parts),
                self._verdict,
                x.judge.texts,
                hold=x.judge.holds_calls,
                closing=x.judge.closing,
                held_limit=self._settings.limits.held_bytes,
                over=x.judge.whole,
            )
            if body is not None and x.undo is not None:
                body = x.undo.whole(body)
        except Unspliceable:
            raise Refuse("unjudged_answer", "The model server's answer cannot be changed.") from None
        if body is None:
            x.coverage["answer"] = "unjudged: not understood"
            if not self._passes_unjudged:
                raise Refuse("unjudged_answer", "The model server's answer cannot be understood.")
            body = b"".join(parts)
        self._answers.begun(x)
        if not x.seen.pending:
            for number in x.seen.choices:
                self._left(x, number)
        response = like(answer, body_at_hand=True)
        if hdrs.CONTENT_LENGTH in response.headers:
            response.content_length = len(body)
        x.answer_bytes = len(body)
        x.ending = "done"
        x.waiting = None
        await response.prepare(request)
        await response.write_eof(body)
        return response

    def _left(self, x: Exchange, number: int) -> None:
        """A choice is as the client will have it: the next request of this run will begin with it."""
        if number in x.left:
            return
        x.left.add(number)
        if x.again:
            return
        seen = x.seen.choices[number]
        calls = []
        for index in sorted(seen.calls):
            outcome = x.outcomes.get((number, index))
            if x.cut_text is None and (outcome is None or outcome.given):
                call_id, name, arguments = seen.call(index)
                calls.append((call_id, name, arguments if outcome is None else outcome.arguments))
        text = x.given_text(number)
        self._runs.left(x.sighting, text, calls)
        if x.request.stored:
            self._answers.given(x, text, calls)

    async def _verdict(self, x: Exchange, question: Question | TextQuestion) -> Answer:
        """What was decided about a call of an answer holds for every copy of it."""
        if isinstance(question, TextQuestion):
            return await x.judge.ask(x, question)
        kept = x.kept
        known = kept.outcomes.get(question.call.index) if kept is not None else None
        if known is not None and known.call == question.call and known.outcome != "unrecorded":
            x.outcomes[(question.call.choice, question.call.index)] = known
            return x.judge.answer(known)
        answer = await x.judge.call(x, question)
        if kept is not None:
            kept.outcomes[question.call.index] = x.outcomes[(question.call.choice, question.call.index)]
        return answer

    async def _extend(self, x: Exchange) -> str | None:
        """Hold more of the budget for an answer that goes on; the text to cut it with where that fails."""
        assert x.admitted is not None
        lease = x.admitted.lease
        while not lease.covers(x.prompt_estimate + x.seen.tokens):
            if not await lease.extend(FIRST_TOKENS):
                return _BUDGET_CUT
        return None
