"""Where spans go: OTLP collectors, and MLflow, which is one with an experiment.

A sink encodes a batch as OTLP protobuf and posts it. What comes back is one of three: delivered; *away* (no
connection, a time-out, 401, 403, 404, 408, 429, 5xx: tried again for ever, with growing pauses); or *refused*
(any other 4xx: the same bytes will be refused again, so the batch is halved until the spans that the server
does not take stand alone). A sink never logs a body, a header or a URL's credentials.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp
from opentelemetry.sdk.trace import ReadableSpan

from tracing.otlp import encode_spans

_AWAY = frozenset((401, 403, 404, 408, 425, 429))
TIMEOUT = aiohttp.ClientTimeout(total=30, connect=5)


class SinkAway(Exception):
    """The sink cannot take anything now; ``retry_after`` is what it asked for, in seconds (0: nothing)."""

    def __init__(self, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class SinkRefused(Exception):
    """The sink does not take these spans."""


class SpanSink:
    """One OTLP/HTTP endpoint: ``endpoint`` is the whole URL."""

    mlflow = False

    def __init__(self, session: aiohttp.ClientSession, endpoint: str, headers: dict[str, str]) -> None:
        self._session = session
        self._endpoint = endpoint
        self._headers = headers
        parts = urlsplit(endpoint)
        self.label = f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"

    async def send(self, spans: Sequence[ReadableSpan]) -> None:
        """Deliver a batch; :class:`SinkAway` or :class:`SinkRefused` if it was not taken."""
        body = encode_spans(spans)
        headers = {**self._headers, **await self._more_headers(), "Content-Type": "application/x-protobuf"}
        status, _ = await _request(self._session, "POST", self._endpoint, headers, data=body)
        if status in (200, 202, 204):
            return
        if status in _AWAY or status >= 500:
            raise SinkAway(f"HTTP {status}")
        raise SinkRefused(f"HTTP {status}")

    async def _more_headers(self) -> dict[str, str]:
        return {}


class MlflowSink(SpanSink):
    """MLflow's OTLP endpoint; the experiment is looked up by name, or created, before the first batch."""

    mlflow = True

    def __init__(self, session: aiohttp.ClientSession, url: str, experiment: str, token: str | None) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        super().__init__(session, f"{url.rstrip('/')}/v1/traces", headers)
        self._url = url.rstrip("/")
        self._experiment = experiment
        self._experiment_id: str | None = None

    async def send(self, spans: Sequence[ReadableSpan]) -> None:
        try:
            await super().send(spans)
        except (SinkAway, SinkRefused):
            self._experiment_id = None  # it may have been deleted, or the server begun anew
            raise

    async def _more_headers(self) -> dict[str, str]:
        if self._experiment_id is None:
            self._experiment_id = await self._find_experiment()
        return {"x-mlflow-experiment-id": self._experiment_id}

    async def _find_experiment(self) -> str:
        return await find_experiment(self._session, self._url, self._experiment, self._headers)


async def find_experiment(session: aiohttp.ClientSession, url: str, name: str, headers: dict[str, str]) -> str:
    """The id of MLflow's experiment of this name, created if there is none; :class:`SinkAway` else."""
    base = f"{url.rstrip('/')}/api/2.0/mlflow/experiments"
    status, found = await _request(
        session, "GET", f"{base}/get-by-name?experiment_name={quote(name, safe='')}", headers
    )
    if status == 404:
        status, found = await _request(session, "POST", f"{base}/create", headers, json={"name": name})
        if status == 200 and isinstance(found, dict) and found.get("experiment_id"):
            return str(found["experiment_id"])
        raise SinkAway(f"the experiment cannot be created (HTTP {status})")
    experiment = found.get("experiment") if isinstance(found, dict) else None
    if status != 200 or not isinstance(experiment, dict):
        raise SinkAway(f"the experiment cannot be looked up (HTTP {status})")
    if experiment.get("lifecycle_stage") == "deleted":
        raise SinkAway("the experiment was deleted; restore it in MLflow, or name another")
    return str(experiment["experiment_id"])


async def _request(
    session: aiohttp.ClientSession, method: str, url: str, headers: dict[str, str], **body: Any
) -> tuple[int, Any]:
    """Status and JSON body (None if it is none); :class:`SinkAway` if there is no answer."""
    try:
        async with session.request(
            method, url, headers=headers, timeout=TIMEOUT, allow_redirects=False, **body
        ) as answer:
            if answer.status in (429, 503) and "Retry-After" in answer.headers:
                raise SinkAway(f"HTTP {answer.status}", _seconds(answer.headers["Retry-After"]))
            data = await answer.read()
            if "json" not in answer.headers.get("Content-Type", ""):
                return answer.status, None
            try:
                return answer.status, await answer.json(encoding="utf-8") if data else None
            except ValueError:
                return answer.status, None
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise SinkAway(type(error).__name__) from error


def _seconds(text: str) -> float:
    return min(float(text), 60.0) if text.isdecimal() else 0.0
