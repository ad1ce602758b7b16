"""Policies where there are several workers: operators answer what waits in any of them, and all take up a change."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from policies.bundle import Bundle
from tests.policies.support import ALWAYS, built
from tests.support.chat import Call, Say, read_whole, whole
from tests.support.raw import ScriptedUpstream, scripted
from tests.support.served import Served, served, until
from tests.support.serving import answering, ask
from tests.support.workers import Connection, connections, workers_of
from tracing.records import Alerted, Decided, Operated

pytestmark = pytest.mark.opa

TOKEN = "operators-only"
PAY = """\
package interlock.policies.team.ask

tool_call contains {
	"id": "pay",
	"severity": "high",
	"action": "approve",
	"message": "Payments need a person.",
	"tags": [],
} if input.call.name == "pay"
"""
SAYS = Say(calls=(Call("pay", '{"to": "kim@corp.dk"}'),))


class Setting:
    def __init__(self, interlock: Served, upstream: ScriptedUpstream, session: aiohttp.ClientSession) -> None:
        self.interlock = interlock
        self.upstream = upstream
        self.session = session

    @property
    def workers(self) -> dict[int, int]:
        return workers_of(self.interlock.process.pid)

    async def waiting(self) -> list[dict[str, Any]]:
        async with self.session.get("/v1/approvals") as answer:
            found: list[dict[str, Any]] = (await answer.json())["approvals"]
            return found

    async def alerts(self) -> list[dict[str, Any]]:
        async with self.session.get("/v1/alerts") as answer:
            found: list[dict[str, Any]] = (await answer.json())["alerts"]
            return found

    async def says(self, operator: str, word: str, name: str) -> tuple[int, dict[str, Any]]:
        order = {"operator": operator, "reason": "Invoice 7."}
        async with self.session.post(f"/v1/approvals/{name}/{word}", json=order) as answer:
            return answer.status, await answer.json()


@asynccontextmanager
async def serving(folder: Path, **sections: Any) -> AsyncIterator[Setting]:
    listen = {"admin_token": TOKEN, "drain_seconds": 5.0}
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with (
        scripted(answering(whole(SAYS))) as upstream,
        served(upstream.url, folder, workers=2, listen=listen, **sections) as interlock,
        aiohttp.ClientSession(interlock.admin_url, headers=headers) as session,
    ):
        yield Setting(interlock, upstream, session)


async def test_operators_answer_what_waits_in_any_worker(opa_binary: Path, tmp_path: Path) -> None:
    built(opa_binary, tmp_path / "sources", {"team/ask/policy.rego": PAY}).write(tmp_path / "bundle")
    policies = {
        "bundle": str(tmp_path / "bundle"),
        "modes": {"team.ask": "enforce"},
        "approval": {"seconds": 120},
    }
    async with (
        serving(tmp_path, policies=policies) as it,
        connections(it.interlock.port, it.workers.values()) as by_worker,
    ):
        (one,), (two,) = by_worker.values()
        asking = [asyncio.create_task(kept.ask(ask())) for kept in (one, two)]

        async def both() -> bool:
            return len(await it.waiting()) == 2

        await until(both, 30)
        first, second = await it.waiting()
        assert first["asked_ns"] <= second["asked_ns"]
        assert [value["value"] for value in first["decides"]] == ["kim@corp.dk"]
        alert = next(one for one in await it.alerts() if one["subject"] == f"approval {first['id']}")
        order = {"operator": "ann", "reason": "I look."}
        async with it.session.post(f"/v1/alerts/{alert['fingerprint']}/acknowledge", json=order) as answer:
            assert (answer.status, (await answer.json())["state"]) == (200, "acknowledged")
        sides = [("ann", "approve"), ("bob", "deny")] * 5
        answers = await asyncio.gather(*(it.says(*side, first["id"]) for side in sides))
        (nth,) = (at for at, (status, _) in enumerate(answers) if status == 200)
        assert all(
            (status, said["operator"], said["action"]) == (409, *sides[nth])
            for status, said in answers[:nth] + answers[nth + 1 :]
        )
        other = "deny" if sides[nth][1] == "approve" else "approve"
        status, done = await it.says("eve", other, second["id"])
        assert (status, done["approved"]) == (200, other == "approve")
        assert (await it.says("kim", "approve", second["id"]))[0] == 409
        assert (await it.says("kim", "approve", "0" * 16))[0] == 404
        given = [bool(read_whole((await task).body)[0].calls) for task in asking]
        assert sorted(given) == [False, True]
        assert await it.waiting() == []
        said = it.interlock.records(Operated)
        done = [("ann", "acknowledge"), sides[nth], ("eve", other)]
        assert sorted((one.operator, one.action) for one in said) == sorted(done)
        written = {entry.chain for entry in it.interlock.entries() if isinstance(entry.record, Operated)}
        assert written == {"local/w0", "local/w1", "local/w2"}

        def states() -> list[str]:
            return [one.state for one in it.interlock.records(Alerted) if one.subject == alert["subject"]]

        await until(lambda: states() == ["firing", "acknowledged", "resolved"], 20)


async def test_what_waits_in_a_worker_goes_with_it(opa_binary: Path, tmp_path: Path) -> None:
    built(opa_binary, tmp_path / "sources", {"team/ask/policy.rego": PAY}).write(tmp_path / "bundle")
    policies = {
        "bundle": str(tmp_path / "bundle"),
        "modes": {"team.ask": "enforce"},
        "approval": {"seconds": 120},
    }
    async with serving(tmp_path, policies=policies) as it:
        pids = it.workers.values()
        async with connections(it.interlock.port, pids) as by_worker:
            asking = [asyncio.create_task(kept[0].ask(ask())) for kept in by_worker.values()]

            async def so_many(number: int) -> bool:
                return len(await it.waiting()) == number

            await until(lambda: so_many(2), 30)
            names = {one["id"] for one in await it.waiting()}
            os.kill(next(iter(by_worker)), signal.SIGKILL)
            await until(lambda: so_many(1), 30)
            (left,) = await it.waiting()
            assert left["id"] in names
            (gone,) = names - {left["id"]}
            assert (await it.says("ann", "approve", gone))[0] == 404
            subject = f"approval {gone}"

            def states() -> list[str]:
                return [one.state for one in it.interlock.records(Alerted) if one.subject == subject]

            await until(lambda: states() == ["firing", "resolved"])  # nobody is to look for it any more
            assert (await it.says("ann", "approve", left["id"]))[0] == 200
            broken, done = await asyncio.gather(*asking)
            assert broken.body == b""
            assert json.loads(done.body)["choices"][0]["message"]["tool_calls"]


def put(bundle: Bundle, folder: Path) -> None:
    """As a deployment would: written beside, and moved into place."""
    beside, away = folder.with_name("beside"), folder.with_name("away")
    bundle.write(beside)
    if folder.exists():
        folder.rename(away)
    beside.rename(folder)
    shutil.rmtree(away, ignore_errors=True)


def bundles_of(state: Served) -> list[str]:
    return [record.decision["bundle"] for record in state.records(Decided)]


async def test_an_opa_that_interlock_launches_takes_a_new_bundle(opa_binary: Path, tmp_path: Path) -> None:
    """No request fails meanwhile; what cannot be loaded changes nothing; a worker that is started anew has the new."""
    old, new = (
        built(opa_binary, tmp_path / name, {"acme/one/policy.rego": ALWAYS.format(name="one", action=action)})
        for name, action in (("old", "deny"), ("new", "terminate"))
    )
    folder = tmp_path / "bundle"
    put(old, folder)
    policies = {
        "bundle": str(folder),
        "modes": {"acme.one": "enforce"},
        "engine": "opa",
        "opa": str(opa_binary),
        "reload_seconds": 0.2,
        "timeout_seconds": 10,
    }
    async with serving(tmp_path, policies=policies) as it:
        interlock = it.interlock

        def servers() -> set[int]:
            words = {int(line.parent.name): read(line) for line in Path("/proc").glob("[0-9]*/cmdline")}
            return {pid for pid, said in words.items() if b"--server" in said and bytes(interlock.state) in said}

        (first,) = servers()
        async with connections(interlock.port, it.workers.values()) as by_worker:
            ends = asyncio.Event()

            async def flows(one: Connection) -> int:
                asked = 0
                while not ends.is_set():
                    answer = await one.ask(ask())
                    assert answer.start == "HTTP/1.1 200 OK" and b"acme.one/one" in answer.body, answer.body
                    asked += 1
                return asked

            flowing = [asyncio.create_task(flows(kept[0])) for kept in by_worker.values()]
            await until(lambda: len(bundles_of(interlock)) > 5)
            put(new, folder)
            await until(lambda: len(interlock.records(Operated)) == 2)
            seen = len(bundles_of(interlock))
            await until(lambda: len(bundles_of(interlock)) > seen + 5)
            (folder / "data.json").write_text("{")
            await until(lambda: [one.state for one in interlock.records(Alerted)] == ["firing"])
            seen = len(bundles_of(interlock))
            await until(lambda: len(bundles_of(interlock)) > seen + 5)
            put(old, folder)
            await until(lambda: [one.state for one in interlock.records(Alerted)] == ["firing", "resolved"])
            await until(lambda: len(interlock.records(Operated)) == 4)
            await until(lambda: len(servers()) == 1 and first not in servers())
            ends.set()
            asked = await asyncio.gather(*flowing)
        by_bundle = Counter(bundles_of(interlock))
        assert set(by_bundle) == {old.digest, new.digest} and by_bundle.total() == sum(asked)
        assert not [record for record in interlock.records(Decided) if record.decision.get("errors")]

        os.kill(next(iter(it.workers.values())), signal.SIGKILL)
        await until(lambda: len(it.workers) == 1)
        put(new, folder)
        await until(lambda: len(interlock.records(Operated)) >= 5 and len(it.workers) == 2)
        await until(lambda: len(servers()) == 1)
        async with connections(interlock.port, it.workers.values()) as by_worker:
            for kept in by_worker.values():
                answer = await kept[0].ask(ask())
                assert answer.start == "HTTP/1.1 200 OK" and b"acme.one/one" in answer.body
        assert Counter(bundles_of(interlock))[new.digest] == by_bundle[new.digest] + 2
    assert not servers()


def read(path: Path) -> bytes:
    with suppress(FileNotFoundError, ProcessLookupError):
        return path.read_bytes()
    return b""
