"""The operators' listener: health and metrics for machines, runs and the kill switch for people.

How to think about it. It is an application of its own on a port of its own; nothing of it is on the data port,
because vLLM has paths of these names and because an agent must not reach it. Health and metrics need no
credential and tell nothing about content. Everything below ``/v1`` needs the operators' token, and with none
configured it is closed. Whoever stops or releases something gives a name and a reason: both go on record.

This file is HTTP only. What it shows and does is an :class:`AdminState`.

    GET  /healthz  /readyz  /metrics
    GET  /v1/runs?agent=NAME&limit=N        GET  /v1/runs/{id}
    POST /v1/runs/{id}/kill                 POST /v1/runs/{id}/release
    POST /v1/agents/{name}/kill             POST /v1/agents/{name}/release
    POST /v1/all/kill                       POST /v1/all/release
    GET  /v1/approvals
    POST /v1/approvals/{id}/approve         POST /v1/approvals/{id}/deny
    GET  /v1/alerts                         POST /v1/alerts/{fingerprint}/acknowledge

The body of a POST is ``{"operator": "ann", "reason": "runs in circles"}``.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec
from aiohttp import hdrs, web
from pydantic import SecretStr

from serving.text import printable
from tracing.journal import JournalError

Scope = Literal["run", "agent", "all"]
Action = Literal["kill", "release"]

MAX_BODY = 16 * 1024
MAX_RUNS = 1000
_BAD_ORDER = 'Send {"operator": "your name", "reason": "why"}; both go on record.'
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Unknown(Exception):
    """There is no such run or agent, nothing waits for approval under that id, or no such alert fires."""


class Decided(Exception):
    """Somebody has approved or denied it before: ``operator``, with ``action``."""

    def __init__(self, operator: str, action: str) -> None:
        super().__init__(operator, action)
        self.operator = operator
        self.action = action


class NotHeld(Exception):
    """Nothing holds it, so there is nothing to release."""


class AdminState(Protocol):
    """What operators see and do. Values of the mappings are plain JSON data, made safe to show."""

    def not_ready(self) -> str | None:
        """Why new exchanges are not taken; null if they are."""

    def metrics(self) -> bytes:
        """Prometheus' text format 0.0.4."""

    async def runs(self, agent: str | None, limit: int) -> Sequence[Mapping[str, Any]]:
        """The newest runs, of one agent or of all."""

    async def run(self, run_id: str) -> Mapping[str, Any]:
        """All about one run. Raises ``Unknown``."""

    async def act(self, action: Action, scope: Scope, name: str, *, operator: str, reason: str) -> Mapping[str, Any]:
        """Kill or release a run (``name`` is its id), an agent, or everything (``name`` is empty), and put it on
        record; gives the new state. Raises ``Unknown`` or ``NotHeld``."""

    async def approvals(self) -> Sequence[Mapping[str, Any]]:
        """The calls and requests that wait for approval, oldest first."""

    async def settle(self, name: str, *, approve: bool, operator: str, reason: str) -> Mapping[str, Any]:
        """Approve or deny what waits, and put it on record. Raises ``Unknown`` or ``Decided``."""

    async def alerts(self) -> Sequence[Mapping[str, Any]]:
        """The alerts that fire now, oldest first."""

    async def acknowledge(self, name: str, *, operator: str, reason: str) -> Mapping[str, Any]:
        """Somebody looks after the alert of this fingerprint: put it on record; gives the alert. Raises ``Unknown``."""


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of an operator's action."""

    operator: str
    reason: str


def admin_app(state: AdminState, token: SecretStr | None) -> web.Application:
    """The application; ``token`` null closes everything below ``/v1``."""
    app = web.Application(middlewares=[_in_json, _guard(token)], client_max_size=MAX_BODY)
    app.on_response_prepare.append(_quiet)
    api = _Api(state)
    app.add_routes(
        [
            web.get("/healthz", api.healthz),
            web.get("/readyz", api.readyz),
            web.get("/metrics", api.metrics),
            web.get("/v1/runs", api.runs),
            web.get("/v1/runs/{name}", api.run),
            web.post(r"/v1/{scope:runs}/{name}/{action:kill|release}", api.act),
            web.post(r"/v1/{scope:agents}/{name}/{action:kill|release}", api.act),
            web.post(r"/v1/{scope:all}/{action:kill|release}", api.act),
            web.get("/v1/approvals", api.approvals),
            web.post(r"/v1/approvals/{name}/{action:approve|deny}", api.settle),
            web.get("/v1/alerts", api.alerts),
            web.post("/v1/alerts/{name}/acknowledge", api.acknowledge),
        ]
    )
    return app


class _Api:
    def __init__(self, state: AdminState) -> None:
        self._state = state

    async def healthz(self, request: web.Request) -> web.Response:
        return _answer({"status": "ok"})

    async def readyz(self, request: web.Request) -> web.Response:
        reason = self._state.not_ready()
        return _answer({"ready": True}) if reason is None else _answer({"ready": False, "reason": reason}, 503)

    async def metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=self._state.metrics(), headers={hdrs.CONTENT_TYPE: METRICS_TYPE})

    async def runs(self, request: web.Request) -> web.Response:
        limit = request.query.get("limit", "100")
        if not (limit.isascii() and limit.isdigit() and 0 < int(limit[:9]) <= MAX_RUNS):
            return _problem(400, "bad_limit", f"`limit` is a number from 1 to {MAX_RUNS}.")
        found = await self._state.runs(request.query.get("agent"), int(limit))
        return _answer({"runs": list(found)})

    async def run(self, request: web.Request) -> web.Response:
        return _answer(await self._state.run(request.match_info["name"]))

    async def act(self, request: web.Request) -> web.Response:
        order = await _order(request)
        if order is None:
            return _problem(400, "bad_order", _BAD_ORDER)
        scopes: dict[str, Scope] = {"runs": "run", "agents": "agent", "all": "all"}
        info = request.match_info
        action: Action = "kill" if info["action"] == "kill" else "release"
        done = await self._state.act(
            action, scopes[info["scope"]], info.get("name", ""), operator=order.operator, reason=order.reason
        )
        return _answer(done)

    async def approvals(self, request: web.Request) -> web.Response:
        return _answer({"approvals": list(await self._state.approvals())})

    async def settle(self, request: web.Request) -> web.Response:
        order = await _order(request)
        if order is None:
            return _problem(400, "bad_order", _BAD_ORDER)
        info = request.match_info
        approve = info["action"] == "approve"
        done = await self._state.settle(info["name"], approve=approve, operator=order.operator, reason=order.reason)
        return _answer(done)

    async def alerts(self, request: web.Request) -> web.Response:
        return _answer({"alerts": list(await self._state.alerts())})

    async def acknowledge(self, request: web.Request) -> web.Response:
        order = await _order(request)
        if order is None:
            return _problem(400, "bad_order", _BAD_ORDER)
        name = request.match_info["name"]
        return _answer(await self._state.acknowledge(name, operator=order.operator, reason=order.reason))


async def _order(request: web.Request) -> Order | None:
    """The body, bounded and printable; None if it does not name an operator and a reason."""
    try:
        order = msgspec.json.decode(await request.read(), type=Order)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    operator, reason = printable(order.operator, 100), printable(order.reason, 500)
    return Order(operator, reason) if operator and reason else None


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _guard(token: SecretStr | None) -> Any:
    wanted = _digest(token.get_secret_value()) if token is not None else None

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in ("/healthz", "/readyz", "/metrics"):
            return await handler(request)
        if wanted is None:
            message = "The operators' API is closed: no token is configured. Set `listen.admin_token`."
            return _problem(403, "no_admin_token", message)
        given = request.headers.getall(hdrs.AUTHORIZATION, [])
        scheme, _, key = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        if scheme.lower() != "bearer" or not hmac.compare_digest(_digest(key), wanted):
            return _problem(401, "unauthorized", "Send the operators' token as `Authorization: Bearer`.")
        return await handler(request)

    return guard


@web.middleware
async def _in_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Unknown:
        return _problem(404, "unknown", "No run, agent, alert that fires, or approval that waits has that name.")
    except Decided as first:
        return _answer(
            {
                "error": {"code": "already_decided", "message": f"{first.operator} was first: {first.action}."},
                "operator": first.operator,
                "action": first.action,
            },
            409,
        )
    except JournalError as problem:
        return _problem(503, "not_recorded", f"It could not be written down: {printable(problem)}")
    except NotHeld:
        return _problem(409, "not_held", "Nothing holds it, so there is nothing to release.")
    except web.HTTPException as error:
        return _problem(error.status, (error.reason or "error").lower().replace(" ", "_"), f"{error.reason}.")


async def _quiet(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.popall(hdrs.SERVER, None)
    response.headers[hdrs.CACHE_CONTROL] = "no-store"


def _answer(data: Mapping[str, Any], status: int = 200) -> web.Response:
    body = json.dumps(data, ensure_ascii=True).encode() + b"\n"
    return web.Response(body=body, status=status, content_type="application/json")


def _problem(status: int, code: str, message: str) -> web.Response:
    return _answer({"error": {"code": code, "message": message}}, status)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
