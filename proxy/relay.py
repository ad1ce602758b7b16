"""The one path that every exchange walks: accept, identify, admit, judge, forward, watch, gate, settle.

Each step is a method here or an object of its own; the order is what this file is for. ``live`` knows what runs now,
``passing`` how bytes pass that nobody judges, ``answering`` what becomes of an answer, ``settling`` what happens at the
end. A refusal is raised as :class:`Refuse` from wherever it is found and becomes an answer in one place.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import aiohttp
import msgspec
from aiohttp import hdrs, web
from multidict import CIMultiDict

from proxy.accept import read_body, read_request
from proxy.answer_book import AnswerBook, cancel_path, read_fetch, unknown
from proxy.answering import Answering
from proxy.beside import Beside
from proxy.breakers.admission import Admission, Denied
from proxy.breakers.budgets import Estimate, estimate
from proxy.carry import Uncarriable, Upstream, request_headers
from proxy.exchange import Exchange
from proxy.identity import Agent, Identifier
from proxy.injecting import Injecting, resized
from proxy.judge import Judge
from proxy.judges import Judges
from proxy.live import KILLED, Live
from proxy.passing import copy, open_upstream
from proxy.random_ids import random_hex
from proxy.recorder import Recorder
from proxy.refusals import Refuse, refusal_answer
from proxy.rewriting import changed
from proxy.runs import Sighting
from proxy.server_time import ShareMeter
from proxy.settling import Settling
from proxy.state import Runs
from proxy.trace_context import join
from serving.allocator import Holes
from serving.endpoints import EndpointClass, classify, decide
from serving.settings import Settings
from serving.wire.dialect import Dialect
from serving.wire.dialects import DIALECTS, FETCHES
from serving.wire.request import ChatRequest
from tracing.journal import JournalError
from tracing.metrics import Metrics

_log = logging.getLogger(__name__)

_LARGE = 256 * 1024  # bytes of a body that is read beside the event loop
_RUN_HEADER = "X-Interlock-Run"


@dataclass(slots=True)
class _Sent:
    """A request as it goes upstream."""

    method: str
    target: str
    headers: CIMultiDict[str]
    body: bytes


class Relay:
    """Handles requests of the data port. ``clock_ns`` gives nanoseconds since the epoch."""

    def __init__(
        self,
        settings: Settings,
        *,
        upstream: Upstream,
        identifier: Identifier,
        runs: Runs,
        admission: Admission,
        judges: Judges,
        recorder: Recorder,
        beside: Beside,
        metrics: Metrics,
        share: ShareMeter | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._settings = settings
        self._open = partial(open_upstream, upstream)
        self._identifier = identifier
        self._runs = runs
        self._admission = admission
        self.judges = judges
        self._recorder = recorder
        self._beside = beside
        self._metrics = metrics
        self._answers = AnswerBook(settings.limits.kept_answers_bytes)
        self._clock_ns = clock_ns
        self._share = share or ShareMeter(time.monotonic)
        self._injecting = Injecting()
        self._traced = bool(settings.tracing.otlp or settings.tracing.mlflow)
        self._passes_unjudged = settings.unjudged == "allow"
        self.holes = Holes()
        self.live = Live()
        self._answering = Answering(settings, answers=self._answers, runs=runs, live=self.live, clock_ns=clock_ns)
        self._settling = Settling(
            admission=admission,
            runs=runs,
            recorder=recorder,
            beside=beside,
            metrics=metrics,
            share=self._share,
            live=self.live,
            clock_ns=clock_ns,
        )

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request. What is not carried is answered here, in the caller's dialect."""
        epoch = self.live.request_begun()
        try:
            return await self._route(request)
        except Refuse as refusal:
            self._metrics.refused(refusal.code)
            return refusal_answer(refusal, request.raw_path)
        finally:
            self.live.request_over(epoch)

    # -- accept and identify -----------------------------------------------------------------------

    async def _route(self, request: web.BaseRequest) -> web.StreamResponse:
        upgrade = any("websocket" in value.lower() for value in request.headers.getall(hdrs.UPGRADE, ()))
        endpoint = classify(request.method, request.raw_path, upgrade)
        if (refused := decide(endpoint, self._settings)) is not None:
            raise Refuse(refused.code, refused.message)
        if not request.raw_path.startswith("/"):
            raise Refuse("endpoint_spelling", "The request target must be a path that begins with `/`.")
        try:
            headers = request_headers(request)
        except Uncarriable as problem:
            raise Refuse("uncarriable_header", str(problem)) from None
        agent = self._identifier.identify(headers, request.method)
        if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        if endpoint.klass is EndpointClass.JUDGED and endpoint.name in FETCHES:
            return await self._fetched(request, headers, agent, DIALECTS[endpoint.name])
        if endpoint.klass is EndpointClass.JUDGED:
            return await self._judged(request, headers, agent, endpoint.name)
        return await self._plain(request, headers)

    async def _plain(self, request: web.BaseRequest, headers: CIMultiDict[str]) -> web.StreamResponse:
        body = request.content if request.can_read_body else None
        answer = await self._open(request.method, request.raw_path, headers, body)
        return await copy(request, answer)

    async def _judged(
        self, request: web.BaseRequest, headers: CIMultiDict[str], agent: Agent, endpoint: str
    ) -> web.StreamResponse:
        limit = self._settings.limits.request_bytes
        sent = _Sent(request.method, request.raw_path, headers, await read_body(request, limit))
        x = await self._understand(request, sent, agent, endpoint)
        if x is None:
            return await self._unread(request, sent)
        return await self._walk(request, sent, x)

    async def _understand(self, request: web.BaseRequest, sent: _Sent, agent: Agent, endpoint: str) -> Exchange | None:
        """The exchange that a request begins; None if no strict reader takes its body. It alone holds what was read:
        a long history in the frame of a handler would stay there until the answer is over."""
        judge = self.judges.of(agent)
        known = (endpoint, sent.headers, sent.body, self._settings.limits.json_depth, judge.surfaces())
        read = read_request(*known) if len(sent.body) < _LARGE else await asyncio.to_thread(read_request, *known)
        if read is None:
            return None
        dialect, view, coverage = read
        view, run, unseen = self._answers.resume(agent.name, view, judge.surfaces())
        named = run or request.headers.get(_RUN_HEADER)
        sighting = await self._runs.identify(agent.name, view, named, judge.tool_digests(view))
        x = await self._open_exchange(request, agent, judge, dialect, view, len(sent.body), sighting)
        x.coverage |= coverage | unseen
        if view.answer_id is not None:
            self._answers.begun(x)
        return x

    async def _fetched(
        self, request: web.BaseRequest, headers: CIMultiDict[str], agent: Agent, dialect: Dialect
    ) -> web.StreamResponse:
        """An answer that was made before is fetched, or cancelled: judged like any, as an answer to what was asked."""
        fetch = read_fetch(request.raw_path)
        body = await read_body(request, self._settings.limits.request_bytes)
        judge = self.judges.of(agent)
        kept = self._answers.find(fetch.answer_id, agent.name)
        if kept is None:
            answer = await self._open(request.method, request.raw_path, headers, body)
            if answer.status < 300 and judge.surfaces() and not self._passes_unjudged:
                answer.close()
                raise unknown("the path")
            return await copy(request, answer)
        view = msgspec.structs.replace(kept.request, after=fetch.after)
        self._runs.begun(kept.sighting.run)
        x = await self._open_exchange(request, agent, judge, dialect, view, len(body), kept.sighting)
        x.kept, x.fetched, x.again = kept, True, kept.given is not None
        return await self._walk(request, _Sent(request.method, fetch.target, headers, body), x)

    async def _walk(self, request: web.BaseRequest, sent: _Sent, x: Exchange) -> web.StreamResponse:
        try:
            return await self._exchange(request, sent, x)
        except Refuse as refusal:
            x.ending = x.ending or "refused"
            await self._settling.refused(x, refusal)
            raise
        except (asyncio.CancelledError, ConnectionError) as gone:
            if x.killed and x.waiting is not None and isinstance(gone, asyncio.CancelledError):
                x.waiting.uncancel()
                x.ending = "refused"
                killed = Refuse("run_killed", KILLED, rule="breakers.killed")
                await self._settling.refused(x, killed)
                raise killed from None
            x.ending = x.ending or ("cut" if x.killed else "client_gone")
            raise
        finally:
            self._settling.begin(x)
            if x.ending in ("refused", "client_gone", "upstream_failed") and not (
                x.request.background and x.forwarded_ns
            ):
                self._answers.forget(x)
            if x.ending == "cut" and x.request.background and x.kept is not None:
                self.live.later(self._cancel(sent, x.kept.id))

    async def _cancel(self, sent: _Sent, answer_id: str) -> None:
        """End an answer that the model server would make on without a listener."""
        headers = sent.headers.copy()
        for name in (hdrs.CONTENT_LENGTH, hdrs.CONTENT_TYPE, hdrs.TRANSFER_ENCODING):
            headers.popall(name, None)
        try:
            answer = await self._open("POST", cancel_path(answer_id), headers, None)
        except Refuse:
            _log.warning("an answer in the background could not be ended: the model server does not answer")
        else:
            answer.close()

    async def _unread(self, request: web.BaseRequest, sent: _Sent) -> web.StreamResponse:
        """A body that no strict reader takes: the model server refuses it in its own words. Should it not,
        the answer was asked for by a request that nobody judged."""
        answer = await self._open(sent.method, sent.target, sent.headers, sent.body)
        if answer.status < 300 and not self._passes_unjudged:
            answer.close()
            raise Refuse("unjudged_answer", "The model server took a request that the judge cannot read.")
        return await copy(request, answer)

    async def _open_exchange(
        self,
        request: web.BaseRequest,
        agent: Agent,
        judge: Judge,
        dialect: Dialect,
        view: ChatRequest,
        size: int,
        sighting: Sighting,
    ) -> Exchange:
        """From here on the exchange is on record, and is to be settled."""
        x = Exchange(
            id=random_hex(16),
            agent=agent.name,
            owner=agent.owner,
            team=agent.team,
            judge=judge,
            dialect=dialect,
            request=view,
            sighting=sighting,
            trace=join(request.headers.get("traceparent"), random_hex),
            opened_ns=self._clock_ns(),
            request_bytes=size,
        )
        try:
            await self._recorder.room(x, self._settings.tracing.wait_seconds)
            self._recorder.opened(x, request.method, request.path)
        except JournalError as problem:
            self._runs.settled(sighting.run, 0, 0.0)
            raise Refuse("record_unavailable", str(problem), retry_after=5) from problem
        except asyncio.CancelledError:
            self._runs.settled(sighting.run, 0, 0.0)
            raise
        self._metrics.opened()
        return x

    # -- admit, judge the request, forward ---------------------------------------------------------

    async def _exchange(self, request: web.BaseRequest, sent: _Sent, x: Exchange) -> web.StreamResponse:
        price = self._recorder.price(x.request.model)
        if x.fetched:
            wanted = Estimate(0, 0, 0, streamed=True, price=price)
        else:
            wanted = estimate(x.request, len(sent.body), price=price)
        x.prompt_estimate = wanted.prompt
        admitted = await self._admission.admit(x.agent, x.sighting, wanted)
        for alert in admitted.alerts:
            self._recorder.alerted(alert, x.id)
        if isinstance(admitted, Denied):
            raise Refuse(admitted.code, admitted.message, rule=admitted.rule, retry_after=admitted.retry_after)
        x.admitted = admitted
        self.live.admitted(x)
        return await self._forward(request, sent, x, 0.0 if x.fetched else admitted.delay_seconds)

    async def _forward(self, request: web.BaseRequest, sent: _Sent, x: Exchange, delay: float) -> web.StreamResponse:
        if not x.fetched:
            body = await changed(x, sent.body, await x.judge.request(x))
            if body is not sent.body:
                sent.headers, sent.body = resized(sent.headers, body), body
            del body  # what was sent is not to wait here for the answer's end
            self._beside.request(x)
            x.judge.forget(x)
        if delay:
            await asyncio.sleep(delay)
        if self._traced:
            sent.headers["traceparent"] = x.trace.traceparent()
        x.forwarded_ns = self._clock_ns()
        x.share_mark = self._share.begin()
        self._metrics.added(max(0.0, (x.forwarded_ns - x.opened_ns) / 1e9 - delay - x.approval_seconds))
        try:
            answer = await self._ask(sent, x)
        except Refuse:
            x.ending = "upstream_failed"
            raise
        sent.body = b""
        self.holes.left_by(x.request_bytes)
        x.status = answer.status
        try:
            return await self._answering.give(request, answer, x)
        except BaseException:
            answer.close()
            raise

    async def _ask(self, sent: _Sent, x: Exchange) -> aiohttp.ClientResponse:
        """The model server's answer: to the request with more in it, if more is wanted and it takes that."""
        injected = self._injecting.into(x, sent.body)
        if injected is not None:
            headers = resized(sent.headers, injected.body)
            answer = await self._open(sent.method, sent.target, headers, injected.body)
            status = await self._injecting.status_of(x, answer)
            if not 400 <= status < 500:
                x.undo = self._injecting.undo(x, injected)
                return answer
            answer.close()
            self._injecting.refused(x, injected, status)
        return await self._open(sent.method, sent.target, sent.headers, sent.body)
