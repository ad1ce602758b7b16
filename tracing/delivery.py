"""One sink's work: read its feed, deliver, remember, and wait out whatever happens to the other side.

Each sink runs as a task of its own with a feed of its own. While its other end is away it holds one batch and
reads no further; the rest waits on the disk.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import msgspec
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan

from serving.text import printable
from tracing.alerts import Alert
from tracing.feed import Batch, Feed
from tracing.places import Places, Remembered
from tracing.records import Alerted
from tracing.sinks import SinkAway, SinkRefused, SpanSink
from tracing.spans import late_check_span, spans_of
from tracing.webhook import Webhook, log_alert

_log = logging.getLogger(__name__)

_SPANS_PER_REQUEST = 512
_BYTES_PER_REQUEST = 2 * 1024 * 1024
_REFUSED_TRIES = 3
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0

Sleep = Callable[[float], Awaitable[None]]


class Status(msgspec.Struct):
    """How a sink does; shown in the exporter's status file. ``away`` says why it takes nothing now."""

    target: str
    delivered: int = 0
    undeliverable: int = 0
    away: str | None = None


class Delivery(Protocol):
    """What the exporter runs."""

    name: str
    status: Status

    async def step(self) -> bool:
        """Deliver what is new and remember it; whether there was something. :class:`SinkAway` only when
        stopping."""
        ...

    def stop(self) -> None:
        """Wait for nobody any more."""
        ...


class _Group(msgspec.Struct, frozen=True):
    """Spans that belong together: one exchange's, or one late check's."""

    exchange: str
    spans: list[ReadableSpan]
    size: int


class _Patience:
    """Tries again while a sink is away, with pauses that grow, and says so once."""

    def __init__(self, status: Status, sleep: Sleep) -> None:
        self._status = status
        self._sleep = sleep
        self.stopping = False

    async def until_taken(self, send: Callable[[], Awaitable[None]]) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                await send()
            except SinkAway as away:
                if self._status.away is None:
                    _log.warning("%s is away (%s); what it misses waits on the disk", self._status.target, away)
                self._status.away = str(away)
                if self.stopping:
                    raise
                await self._sleep(max(away.retry_after, pause * random.uniform(0.5, 1.0)))
                pause = min(pause * 2, _LONGEST_PAUSE)
                continue
            if self._status.away is not None:
                _log.warning("%s takes spans and alerts again", self._status.target)
                self._status.away = None
            return


class SpanDelivery:
    """Spans to one sink."""

    def __init__(self, name: str, sink: SpanSink, feed: Feed, places: Places, source: Resource, sleep: Sleep) -> None:
        self.name = name
        self.status = Status(sink.label)
        self._sink = sink
        self._feed = feed
        self._places = places
        self._source = source
        self._sleep = sleep
        self._patience = _Patience(self.status, sleep)

    def stop(self) -> None:
        self._patience.stopping = True

    async def step(self) -> bool:
        batch = self._feed.read()
        if not batch.exchanges and not batch.late_checks:
            if self._feed.far_ahead():
                self._places.save(self.name, Remembered(self._feed.place()))
            return False
        for part in _parts(self._groups(batch)):
            await self._send(part)
        self._places.save(self.name, Remembered(self._feed.place()))
        return True

    def _groups(self, batch: Batch) -> list[_Group]:
        groups = []
        for exchange in batch.exchanges:
            spans = spans_of(exchange, self._source, mlflow=self._sink.mlflow)
            if spans:
                groups.append(_Group(exchange.id, spans, _size(spans)))
        for check in batch.late_checks:
            span = late_check_span(check, self._source)
            if span is not None:
                groups.append(_Group(check.exchange, [span], _size([span])))
        return groups

    async def _send(self, groups: list[_Group]) -> None:
        spans = [span for group in groups for span in group.spans]
        try:
            await self._patience.until_taken(lambda: self._sink.send(spans))
        except SinkRefused as refused:
            if len(groups) > 1:
                middle = len(groups) // 2
                await self._send(groups[:middle])
                await self._send(groups[middle:])
            else:
                await self._insist(groups[0], refused)
            return
        self.status.delivered += len(spans)

    async def _insist(self, group: _Group, refused: SinkRefused) -> None:
        """One exchange that is refused: some servers say so while they are only busy, so try it some more,
        at last without its content; then it is noted and passed over."""
        attempts: list[Sequence[ReadableSpan]] = [group.spans] * (_REFUSED_TRIES - 1)
        attempts.append([_without_content(span) for span in group.spans])
        for number, spans in enumerate(attempts):
            await self._sleep(_FIRST_PAUSE * 2**number)
            try:
                await self._patience.until_taken(lambda spans=spans: self._sink.send(spans))  # type: ignore[misc]
            except SinkRefused as again:
                refused = again
                continue
            self.status.delivered += len(group.spans)
            return
        self.status.undeliverable += 1
        self._places.note_undeliverable(self.name, [group.exchange], str(refused))
        _log.error("%s does not take exchange %s (%s)", self.status.target, printable(group.exchange, 80), refused)


class AlertDelivery:
    """Alerts to one receiver, each change of state once. Without a ``webhook``: to the log."""

    def __init__(
        self,
        name: str,
        webhook: Webhook | None,
        feed: Feed,
        places: Places,
        instance: str,
        sleep: Sleep,
        clock: Callable[[], int],
    ) -> None:
        self.name = name
        self.status = Status(name)
        self._webhook = webhook
        self._feed = feed
        self._places = places
        self._instance = instance
        self._clock = clock
        self._patience = _Patience(self.status, sleep)
        remembered = places.load(name)
        self._delivered = dict(remembered.alerts) if remembered else {}

    def stop(self) -> None:
        self._patience.stopping = True

    async def step(self) -> bool:
        batch = self._feed.read()
        for record in batch.alerts:
            await self._deliver(record)
        if batch.alerts or self._feed.far_ahead():
            self._places.save(self.name, Remembered(self._feed.place(), self._delivered))
        return bool(batch.alerts)

    async def _deliver(self, record: Alerted) -> None:
        before = self._delivered.get(record.fingerprint, "resolved")
        if record.state == before:
            return
        webhook = self._webhook
        if webhook is None:
            log_alert(record)
        else:
            alert = Alert.of(record, self._instance)
            try:
                await self._patience.until_taken(lambda: webhook.send(alert, self._clock()))
            except SinkRefused as refused:
                self.status.undeliverable += 1
                _log.error("%s does not take alert %s (%s)", self.name, printable(record.fingerprint, 20), refused)
        self.status.delivered += 1
        if record.state == "resolved":
            self._delivered.pop(record.fingerprint, None)
        else:
            self._delivered[record.fingerprint] = record.state


def _parts(groups: list[_Group]) -> list[list[_Group]]:
    """Groups by request: so many spans and bytes, but one group at least."""
    parts: list[list[_Group]] = []
    spans = size = 0
    for group in groups:
        if not parts or spans + len(group.spans) > _SPANS_PER_REQUEST or size + group.size > _BYTES_PER_REQUEST:
            parts.append([])
            spans = size = 0
        parts[-1].append(group)
        spans += len(group.spans)
        size += group.size
    return parts


def _size(spans: list[ReadableSpan]) -> int:
    """About how many bytes the spans are."""
    return sum(
        1024 + sum([len(value) for value in (span.attributes or {}).values() if value.__class__ is str])
        for span in spans
    )


_CONTENT = (
    "gen_ai.input.messages",
    "gen_ai.output.messages",
    "gen_ai.tool.definitions",
    "gen_ai.tool.call.arguments",
)


def _without_content(span: ReadableSpan) -> ReadableSpan:
    attributes = {name: value for name, value in (span.attributes or {}).items() if name not in _CONTENT}
    return ReadableSpan(
        name=span.name,
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes={**attributes, "interlock.content_left_out": True},
        kind=span.kind,
        status=span.status,
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )
