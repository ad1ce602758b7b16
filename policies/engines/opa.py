"""A real OPA server, asked with opa-python-client.

The server must serve the very bundle that this process has: every answer carries the bundle's revision
(``provenance=true``), and one with another revision, or none, is no answer. Nothing is tried twice, and the
time-out is ours. A server's empty answer ``{}`` means undefined, and undefined is a failure. Each question says in a
header which exchange it is about, for the server's decision log (:mod:`serving.launch.decision_log`).
"""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from opa_client.opa_async import AsyncOpaClient

from policies.builtins import require_alike
from policies.bundle import Bundle, alone, together
from policies.engines.base import Cause, EngineError
from policies.model import Stage
from serving.launch.decision_log import EXCHANGE_HEADER

QUERY = "provenance=true"
_AFTER_IT_WAS_SENT = frozenset({408, 502, 504})
"""What a balancer says of a server that took too long, or went away, over what it was sent."""


class _Client(AsyncOpaClient):  # type: ignore[misc]
    """Sends a header with each question, for which the library's ``query_rule`` has no place."""

    async def ask(self, rule: str, document: Any, exchange: str) -> Any:
        """The server's answer about a dotted rule."""
        url = f"{self.root_url}/data/{rule.replace('.', '/')}?{QUERY}"
        headers = {EXCHANGE_HEADER: exchange} if exchange else None
        async with self._request("POST", url, json={"input": document}, headers=headers) as answer:
            answer.raise_for_status()
            return await answer.json()


class OpaEngine:
    """``url``: ``http[s]://host:port`` of the server; ``token``: its bearer token.

    The client keeps connections open between questions; :meth:`start` opens no connection, so a server that
    comes up later is found by the next question. Raises :class:`BundleError` for policies that use a builtin that would
    answer otherwise on the other engine, and ``ValueError`` for a URL of another form.
    """

    name = "opa"

    def __init__(self, bundle: Bundle, url: str, token: str | None, timeout_seconds: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
            raise ValueError(f"policies.opa_url: {url!r} is not of the form http://host:port")
        require_alike(bundle)
        self._bundle = bundle
        self._timeout = timeout_seconds
        self._client = _Client(
            host=parts.hostname if ":" not in parts.hostname else f"[{parts.hostname}]",
            port=parts.port or 8181,
            ssl=parts.scheme == "https",
            token=token,
            retries=0,
            timeout=timeout_seconds,
        )
        self._open = False

    async def start(self) -> None:
        await self._client.__aenter__()
        self._open = True

    async def close(self) -> None:
        self._open = False
        await self._client.close_connection()

    async def ask_all(
        self, stage: Stage, document: bytes, seconds: float = math.inf, exchange: str = ""
    ) -> dict[str, Any]:
        rule = together(stage)
        answer = await self._ask(rule, document, seconds, exchange)
        if not isinstance(answer, dict):
            raise EngineError("policy", f"{rule} gave no object")
        return answer

    async def ask_one(
        self, policy: str, stage: Stage, document: bytes, seconds: float = math.inf, exchange: str = ""
    ) -> Any:
        return await self._ask(alone(policy, stage), document, seconds, exchange)

    async def _ask(self, rule: str, document: bytes, seconds: float, exchange: str) -> Any:
        if not self._open:
            raise EngineError("engine", "the OPA client is not started")
        try:
            async with asyncio.timeout(min(seconds, self._timeout)):
                body = await self._client.ask(rule, json.loads(document), exchange)
        except aiohttp.ClientResponseError as error:
            cause = _cause_of(error.status)
            text = f"OPA answered {error.status} {error.message}"
            excusable = cause == "engine" and error.status not in _AFTER_IT_WAS_SENT
            raise EngineError(cause, text, excusable) from error
        except TimeoutError as error:
            raise EngineError(
                "engine", f"OPA did not answer within {self._timeout} s, or what was left of them", late=True
            ) from error
        except aiohttp.ClientError as error:
            excusable = isinstance(error, aiohttp.ClientConnectorError)  # a server may also die of what it was sent
            raise EngineError("engine", f"OPA is not reachable: {type(error).__name__}", excusable) from error
        except ValueError as error:
            raise EngineError("engine", "OPA's answer is not JSON") from error
        if not isinstance(body, dict):
            raise EngineError("engine", "OPA's answer is not an object")
        self._require_revision(body)
        if "result" not in body:
            raise EngineError("input", f"{rule} is undefined: OPA could not read the input")
        return body["result"]

    def _require_revision(self, body: dict[str, Any]) -> None:
        bundles = (body.get("provenance") or {}).get("bundles") or {}
        revisions = sorted(str(bundle.get("revision", "")) for bundle in bundles.values())
        if self._bundle.digest not in revisions:
            served = ", ".join(revisions) or "no bundle"
            raise EngineError("engine", f"OPA serves {served}; expected {self._bundle.digest}")


def _cause_of(status: int) -> Cause:
    """OPA answers 400 to an input that it cannot read, 500 to an evaluation that failed."""
    if status == 500:
        return "policy"
    return "input" if status in (400, 413) else "engine"
