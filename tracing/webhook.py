"""Alerts going out: one signed POST per change of an alert's state, and one log line.

The body is an ``Alert`` (``tracing.alerts``) as JSON. ``X-Interlock-Signature: sha256=<hex>`` is HMAC-SHA256 of
the body under the webhook's secret. ``X-Interlock-Timestamp`` is the second of sending and
``X-Interlock-Delivery`` is the same for every attempt of one delivery; the alert's own time is in the signed
body, so that a receiver can refuse an old one.
"""

from __future__ import annotations

import hashlib
import hmac
import logging

import aiohttp

from serving.text import printable
from tracing.alerts import Alert
from tracing.records import Alerted
from tracing.sinks import TIMEOUT, SinkAway, SinkRefused

_log = logging.getLogger("interlock.alert")


class Webhook:
    """One receiver."""

    def __init__(self, session: aiohttp.ClientSession, url: str, secret: str) -> None:
        self._session = session
        self._url = url
        self._secret = secret.encode()

    async def send(self, alert: Alert, now_ns: int) -> None:
        """Deliver one alert; :class:`SinkAway` to try again, :class:`SinkRefused` for a 4xx that stays."""
        body = alert.model_dump_json().encode()
        delivery = hashlib.sha256(body).hexdigest()[:32]
        headers = {
            "Content-Type": "application/json",
            "X-Interlock-Signature": f"sha256={signature(self._secret, body)}",
            "X-Interlock-Timestamp": str(now_ns // 1_000_000_000),
            "X-Interlock-Delivery": delivery,
        }
        try:
            async with self._session.post(
                self._url, data=body, headers=headers, timeout=TIMEOUT, allow_redirects=False
            ) as answer:
                status = answer.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise SinkAway(type(error).__name__) from error
        if 200 <= status < 300:
            return
        if 400 <= status < 500 and status not in (401, 403, 404, 408, 425, 429):
            raise SinkRefused(f"HTTP {status}")
        raise SinkAway(f"HTTP {status}")


def signature(secret: bytes, body: bytes) -> str:
    """HMAC-SHA256 of the body, hex."""
    return hmac.digest(secret, body, "sha256").hex()


def log_alert(record: Alerted) -> None:
    """The alert as one line."""
    _log.warning(
        "alert %s severity=%s cause=%s subject=%s agent=%s run=%s fingerprint=%s: %s%s",
        printable(record.state, 20),
        printable(record.severity, 20),
        printable(record.cause, 60),
        printable(record.subject, 80),
        printable(record.agent, 80),
        printable(record.run, 80) or "-",
        printable(record.fingerprint, 20),
        printable(record.summary, 300),
        f" | release: {printable(record.release, 200)}" if record.release else "",
    )
