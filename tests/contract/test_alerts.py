"""Alerts as operators meet them: what fires is listed, and whoever looks after it says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp

from tests.support.chat import Say, whole
from tests.support.interlock import port_of, running
from tests.support.raw import scripted, send
from tests.support.records import records
from tests.support.serving import answering, ask, post
from tests.support.wire import parse
from tracing.records import Alerted, Operated

TOKEN = "operators-only"
ORDER = {"operator": "ann", "reason": "I look into it."}


async def test_an_alert_is_listed_acknowledged_and_resolved(tmp_path: Path) -> None:
    state, headers = tmp_path / "state", {"Authorization": f"Bearer {TOKEN}"}
    async with (
        scripted(answering(whole(Say("", "Fine.")))) as upstream,
        running(upstream.url, state, listen={"admin_token": TOKEN}) as interlock,
        aiohttp.ClientSession(interlock.admin_url, headers=headers) as operators,
    ):

        async def firing() -> list[dict[str, Any]]:
            async with operators.get("/v1/alerts") as answer:
                found: list[dict[str, Any]] = (await answer.json())["alerts"]
                return found

        async def acknowledges(name: str) -> tuple[int, dict[str, Any]]:
            async with operators.post(f"/v1/alerts/{name}/acknowledge", json=ORDER) as answer:
                return answer.status, await answer.json()

        assert parse(await send(port_of(interlock), post(ask()))).start == "HTTP/1.1 200 OK"
        assert await firing() == []
        assert (await operators.post("/v1/agents/anonymous/kill", json=ORDER)).status == 200
        (alert,) = await firing()
        assert (alert["cause"], alert["agent"], alert["state"]) == ("killed", "anonymous", "firing")
        assert (await acknowledges("0" * 16))[0] == 404
        for _ in range(2):
            status, shown = await acknowledges(alert["fingerprint"])
            assert (status, shown["state"]) == (200, "acknowledged")
        assert [one["state"] for one in await firing()] == ["acknowledged"]
        assert (await operators.post("/v1/agents/anonymous/release", json=ORDER)).status == 200
        assert await firing() == []
        assert (await acknowledges(alert["fingerprint"]))[0] == 404
    done = [(one.operator, one.action, one.target) for one in records(state, Operated) if one.action == "acknowledge"]
    assert done == [("ann", "acknowledge", alert["fingerprint"])] * 2
    assert [one.state for one in records(state, Alerted)] == ["firing", "acknowledged", "resolved"]
