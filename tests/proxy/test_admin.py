"""The operators' listener: open for health, closed for everything else without the token."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from pydantic import SecretStr

from proxy.admin import Action, NotHeld, Scope, Unknown, admin_app

TOKEN = {"Authorization": "Bearer operators-token"}
ORDER = {"operator": "ann", "reason": "runs in circles"}


class Desk:
    """An ``AdminState`` with one run, that writes down what it is told."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.done: list[tuple[Any, ...]] = []

    def not_ready(self) -> str | None:
        return self.reason

    def metrics(self) -> bytes:
        return b"interlock_up 1\n"

    async def runs(self, agent: str | None, limit: int) -> Sequence[Mapping[str, Any]]:
        return [{"id": "r1", "agent": agent, "limit": limit}]

    async def run(self, run_id: str) -> Mapping[str, Any]:
        if run_id != "r1":
            raise Unknown
        return {"id": run_id}

    async def act(self, action: Action, scope: Scope, name: str, *, operator: str, reason: str) -> Mapping[str, Any]:
        if name == "nobody":
            raise Unknown
        if action == "release" and not self.done:
            raise NotHeld
        self.done.append((action, scope, name, operator, reason))
        return {"state": "killed" if action == "kill" else "closed"}

    async def alerts(self) -> Sequence[Mapping[str, Any]]:
        return [{"fingerprint": "a1"}]

    async def acknowledge(self, name: str, *, operator: str, reason: str) -> Mapping[str, Any]:
        if name != "a1":
            raise Unknown
        self.done.append(("acknowledge", name, operator, reason))
        return {"fingerprint": name}


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
async def client(desk: Desk) -> AsyncIterator[TestClient[Any, Any]]:
    async with TestClient(TestServer(admin_app(desk, SecretStr("operators-token")))) as client:
        yield client


@pytest.fixture
async def closed(desk: Desk) -> AsyncIterator[TestClient[Any, Any]]:
    async with TestClient(TestServer(admin_app(desk, None))) as client:
        yield client


async def test_health_and_metrics_need_no_token(closed: TestClient[Any, Any]) -> None:
    assert (await closed.get("/healthz")).status == 200
    assert await (await closed.get("/readyz")).json() == {"ready": True}
    metrics = await closed.get("/metrics")
    assert metrics.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert await metrics.read() == b"interlock_up 1\n"


async def test_not_being_ready_is_said_with_its_reason(closed: TestClient[Any, Any], desk: Desk) -> None:
    desk.reason = "draining"
    answer = await closed.get("/readyz")
    assert answer.status == 503
    assert await answer.json() == {"ready": False, "reason": "draining"}
    assert (await closed.get("/healthz")).status == 200


@pytest.mark.parametrize("path", ["/v1/runs", "/v1/runs/r1", "/other", "/", "/healthz/", "/x//v1/runs"])
async def test_without_a_configured_token_everything_else_is_closed(closed: TestClient[Any, Any], path: str) -> None:
    answer = await closed.get(path, headers=TOKEN)
    assert answer.status == 403
    assert (await answer.json())["error"]["code"] == "no_admin_token"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic operators-token"},
        {"Authorization": "operators-token"},
    ],
)
async def test_the_wrong_token_sees_and_does_nothing(
    client: TestClient[Any, Any], desk: Desk, headers: dict[str, str]
) -> None:
    assert (await client.get("/v1/runs", headers=headers)).status == 401
    assert (await client.post("/v1/runs/r1/kill", headers=headers, json=ORDER)).status == 401
    assert (await client.get("/unknown", headers=headers)).status == 401
    assert desk.done == []


async def test_runs_are_listed_and_shown(client: TestClient[Any, Any]) -> None:
    answer = await client.get("/v1/runs?agent=alice&limit=7", headers=TOKEN)
    assert await answer.json() == {"runs": [{"id": "r1", "agent": "alice", "limit": 7}]}
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Server" not in answer.headers
    assert await (await client.get("/v1/runs/r1", headers=TOKEN)).json() == {"id": "r1"}
    assert (await client.get("/v1/runs/r2", headers=TOKEN)).status == 404


@pytest.mark.parametrize("limit", ["0", "-1", "1001", "x", "²", "99999999999999999999"])
async def test_a_limit_out_of_range_is_refused(client: TestClient[Any, Any], limit: str) -> None:
    assert (await client.get("/v1/runs", params={"limit": limit}, headers=TOKEN)).status == 400


async def test_what_an_operator_does_is_done_with_name_and_reason(client: TestClient[Any, Any], desk: Desk) -> None:
    for path in ("/v1/runs/r1/kill", "/v1/agents/alice/kill", "/v1/all/kill", "/v1/runs/r1/release"):
        assert (await client.post(path, headers=TOKEN, json=ORDER)).status == 200
    assert desk.done == [
        ("kill", "run", "r1", "ann", "runs in circles"),
        ("kill", "agent", "alice", "ann", "runs in circles"),
        ("kill", "all", "", "ann", "runs in circles"),
        ("release", "run", "r1", "ann", "runs in circles"),
    ]


async def test_alerts_are_listed_and_acknowledged(client: TestClient[Any, Any], desk: Desk) -> None:
    assert await (await client.get("/v1/alerts", headers=TOKEN)).json() == {"alerts": [{"fingerprint": "a1"}]}
    answer = await client.post("/v1/alerts/a1/acknowledge", headers=TOKEN, json=ORDER)
    assert (answer.status, await answer.json()) == (200, {"fingerprint": "a1"})
    assert (await client.post("/v1/alerts/a2/acknowledge", headers=TOKEN, json=ORDER)).status == 404
    assert (await client.post("/v1/alerts/a1/acknowledge", headers=TOKEN, json={"operator": "ann"})).status == 400
    assert (await client.post("/v1/alerts/a1/acknowledge", json=ORDER)).status == 401
    assert desk.done == [("acknowledge", "a1", "ann", "runs in circles")]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'{"operator":"ann"}',
        b'{"operator":"","reason":"x"}',
        b'{"operator":" \\u202e ","reason":"x"}',
        b'{"operator":"ann","reason":"x","force":true}',
        b'{"operator":1,"reason":"x"}',
        b"\xff",
    ],
)
async def test_an_action_without_name_or_reason_is_refused(
    client: TestClient[Any, Any], desk: Desk, body: bytes
) -> None:
    answer = await client.post("/v1/runs/r1/kill", headers=TOKEN, data=body)
    assert answer.status == 400
    assert (await answer.json())["error"]["code"] == "bad_order"
    assert desk.done == []


async def test_names_and_reasons_are_made_safe_to_show(client: TestClient[Any, Any], desk: Desk) -> None:
    order = {"operator": "ann\x1b[2J", "reason": "a\nb\u202e" + "x" * 1000}
    await client.post("/v1/runs/r1/kill", headers=TOKEN, json=order)
    _, _, _, operator, reason = desk.done[0]
    assert operator == "ann [2J"
    assert reason.startswith("a b ")
    assert len(reason) <= 500


async def test_what_is_not_there_or_not_held_is_said(client: TestClient[Any, Any]) -> None:
    answer = await client.post("/v1/agents/nobody/kill", headers=TOKEN, json=ORDER)
    assert (answer.status, (await answer.json())["error"]["code"]) == (404, "unknown")
    answer = await client.post("/v1/runs/r1/release", headers=TOKEN, json=ORDER)
    assert (answer.status, (await answer.json())["error"]["code"]) == (409, "not_held")
    answer = await client.get("/v1/runs/r1/kill", headers=TOKEN)
    assert (answer.status, (await answer.json())["error"]["code"]) == (405, "method_not_allowed")


async def test_an_endless_body_is_refused(client: TestClient[Any, Any], desk: Desk) -> None:
    answer = await client.post("/v1/runs/r1/kill", headers=TOKEN, data=b"x" * 100_000)
    assert answer.status == 413
    assert desk.done == []
