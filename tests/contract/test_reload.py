"""Policies that change while traffic flows: nothing fails, nothing is judged by halves, and what cannot be loaded
changes nothing."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from policies.bundle import Bundle
from policies.in_force import Policies
from proxy.reloading import MOST_OLD
from tests.policies.support import written
from tests.support.chat import stream, whole
from tests.support.interlock import port_of, running
from tests.support.raw import ScriptedUpstream, scripted, send
from tests.support.records import records
from tests.support.served import until
from tests.support.serving import answering, ask, post
from tests.support.two_bundles import ENFORCED, SAY, alerts, asks, put, two_bundles
from tests.support.wire import parse
from tracing.records import Decided, Operated

pytestmark = pytest.mark.opa


@pytest.fixture(scope="module")
def two(opa_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    return two_bundles(opa_binary, tmp_path_factory.mktemp("two"))


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with scripted(answering(whole(SAY))) as server:
        yield server


def actions(record: Decided) -> set[str]:
    return {found["finding"]["action"] for found in record.decision["findings"]}


async def flows(port: int, rate: int, ends: asyncio.Event) -> int:
    """``rate`` requests a second until ``ends``; gives how many there were. Each must be answered as it should."""
    loop, asking, due = asyncio.get_running_loop(), [], asyncio.get_running_loop().time()
    while not ends.is_set():
        asking.append(asyncio.ensure_future(asks(port)))
        due += 1 / rate
        await asyncio.sleep(max(0.0, due - loop.time()))
    await asyncio.gather(*asking)
    return len(asking)


@pytest.mark.parametrize("engine", ["embedded", "opa"])
async def test_under_load_no_request_fails_and_none_is_judged_by_halves(
    upstream: ScriptedUpstream, two: dict[str, Bundle], opa_binary: Path, tmp_path: Path, engine: str
) -> None:
    """On the embedded engine, and with an OPA server that Interlock runs."""
    folder, state = tmp_path / "bundle", tmp_path / "state"
    put(two["old"], folder)
    policies = {
        "bundle": folder,
        "modes": ENFORCED,
        "reload_seconds": 0.1,
        "engine": engine,
        "opa": opa_binary,
        "timeout_seconds": 10,
    }
    async with running(upstream.url, state, policies=policies) as interlock:
        ends = asyncio.Event()
        flowing = asyncio.ensure_future(flows(port_of(interlock), 200 if engine == "embedded" else 50, ends))
        for name in ("new", "old", "new"):
            await asyncio.sleep(0.5)
            put(two[name], folder)
            await until(lambda name=name: actions(records(state, Decided)[-1]) == {actions_of(name)}, 30)
        await asyncio.sleep(0.3)
        ends.set()
        asked = await flowing
    by_bundle = Counter((record.decision["bundle"], frozenset(actions(record))) for record in records(state, Decided))
    assert set(by_bundle) == {
        (two["old"].digest, frozenset({"deny"})),
        (two["new"].digest, frozenset({"terminate"})),
    }
    assert sum(by_bundle.values()) == asked
    loaded = records(state, Operated)
    assert [record.target for record in loaded] == [two[name].digest for name in ("new", "old", "new")]


def actions_of(name: str) -> str:
    return {"old": "deny", "new": "terminate"}[name]


@pytest.mark.parametrize("fault", ["torn", "no wasm", "gone", "hold", "rollout"])
async def test_what_cannot_be_loaded_leaves_the_old_set_in_force_and_alerts(
    upstream: ScriptedUpstream, two: dict[str, Bundle], tmp_path: Path, fault: str
) -> None:
    folder, state = tmp_path / "bundle", tmp_path / "state"
    put(two["old"], folder)
    rollout = written(tmp_path / "rollout", f"modes: {json.dumps(ENFORCED)}")
    policies = {"bundle": folder, "rollout": rollout, "reload_seconds": 0.05}

    async with running(upstream.url, state, policies=policies) as interlock:
        await asks(port_of(interlock))
        if fault == "torn":
            (folder / "data.json").write_text("{")
        elif fault == "no wasm":
            (folder / "policy.wasm").unlink()
        elif fault == "gone":
            shutil.rmtree(folder)
        elif fault == "hold":
            (folder / "manifest.json").write_text(
                (folder / "manifest.json").read_text().replace('"format": 1', '"format": 9')
            )
        else:
            (rollout / "platform.yaml").write_text("modes: {acme.frist: enforce}")
        await until(lambda: alerts(state) == [("policies_not_loaded", "firing")], 20)
        await asks(port_of(interlock))
        assert records(state, Decided)[-1].decision["bundle"] == two["old"].digest
        if fault == "rollout":
            written(rollout, f"modes: {json.dumps(ENFORCED | {'acme.first': 'off'})}")
        put(two["new"], folder)
        await until(lambda: alerts(state)[1:] == [("policies_not_loaded", "resolved")], 20)
        await asks(port_of(interlock))
        assert records(state, Decided)[-1].decision["bundle"] == two["new"].digest
        assert len(records(state, Decided)[-1].decision["asked"]) == (1 if fault == "rollout" else 2)


async def test_an_answer_that_flows_is_judged_by_what_it_began_with(two: dict[str, Bundle], tmp_path: Path) -> None:
    folder, state, goes_on = tmp_path / "bundle", tmp_path / "state", asyncio.Event()
    put(two["old"], folder)
    events = stream(SAY)

    async def script(_request: bytes, writer: asyncio.StreamWriter) -> None:
        body = b"".join(events)
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n" % len(body)
        writer.write(head + events[0])
        await writer.drain()
        await goes_on.wait()
        writer.write(b"".join(events[1:]))
        await writer.drain()

    async with (
        scripted(script) as upstream,
        running(
            upstream.url, state, policies={"bundle": folder, "modes": ENFORCED, "reload_seconds": 0.05}
        ) as interlock,
    ):
        flowing = asyncio.ensure_future(send(port_of(interlock), post(ask(stream=True))))
        await until(lambda: records(state), 5)
        await asyncio.sleep(0.2)
        put(two["new"], folder)
        await until(lambda: records(state, Operated), 20)
        goes_on.set()
        await flowing
        flowing = asyncio.ensure_future(send(port_of(interlock), post(ask(stream=True))))
        await flowing
    assert [record.decision["bundle"] for record in records(state, Decided)] == [two["old"].digest, two["new"].digest]


def servers_of(state: Path) -> set[int]:
    """The OPA servers that run for an Interlock with this state folder, by pid."""
    found = set()
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):
            words = line.read_bytes()
            if b"--server" in words and bytes(state / "opa") in words:
                found.add(int(line.parent.name))
    return found


@pytest.mark.parametrize("engine", ["embedded", "opa"])
@pytest.mark.parametrize("bound", ["time", "number"])
async def test_an_exchange_that_does_not_end_keeps_an_old_set_for_so_long_only(
    two: dict[str, Bundle], opa_binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, bound: str
) -> None:
    """What it would have to be asked about after that is denied; others are judged meanwhile as ever."""
    folder, state, goes_on = tmp_path / "bundle", tmp_path / "state", asyncio.Event()
    put(two["old"], folder)
    events = stream(SAY)
    closed, close = list[str](), Policies.close

    async def closing(policies: Policies) -> None:
        await close(policies)
        closed.append(policies.digest)

    monkeypatch.setattr(Policies, "close", closing)

    async def script(request: bytes, writer: asyncio.StreamWriter) -> None:
        if not json.loads(parse(request).body).get("stream"):
            await answering(whole(SAY))(request, writer)
            return
        body = b"".join(events)
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n" % len(body)
        writer.write(head + events[0])
        await writer.drain()
        await goes_on.wait()
        writer.write(b"".join(events[1:]))
        await writer.drain()

    policies = {
        "bundle": folder,
        "modes": ENFORCED,
        "reload_seconds": 0.05,
        "old_seconds": 0.2 if bound == "time" else 3600,
        "engine": engine,
        "opa": opa_binary,
        "timeout_seconds": 10,
    }
    async with scripted(script) as upstream, running(upstream.url, state, policies=policies) as interlock:
        first = servers_of(state)
        flowing = asyncio.ensure_future(send(port_of(interlock), post(ask(stream=True))))
        await until(lambda: upstream.requests, 20)
        loads = 1 if bound == "time" else MOST_OLD + 1
        for nth in range(loads):
            put(two["new" if nth % 2 == 0 else "old"], folder)
            await until(lambda nth=nth: len(records(state, Operated)) == nth + 1, 60)
            if nth < loads - 1:
                assert not closed
        await until(lambda: len(closed) == 1, 20)
        if engine == "opa":
            await until(lambda: not first & servers_of(state), 20)
            assert len(servers_of(state)) == loads
        await asks(port_of(interlock))
        goes_on.set()
        answer = parse(await flowing).body
    assert b"on_error" in answer and b'"tool_calls"' not in answer
    errors = [record.decision.get("errors") for record in records(state, Decided)]
    assert [bool(one) for one in errors] == [False, True]
    assert not servers_of(state)


async def test_an_opa_that_does_not_come_up_leaves_the_old_one_in_force(
    upstream: ScriptedUpstream, two: dict[str, Bundle], opa_binary: Path, tmp_path: Path
) -> None:
    folder, state, command = tmp_path / "bundle", tmp_path / "state", tmp_path / "opa"
    put(two["old"], folder)
    command.write_text(f'#!/bin/sh\ntest -e {tmp_path}/broken && exit 3\nexec {opa_binary} "$@"\n')
    command.chmod(0o700)
    policies = {
        "bundle": folder,
        "modes": ENFORCED,
        "reload_seconds": 0.05,
        "engine": "opa",
        "opa": command,
        "timeout_seconds": 10,
    }
    async with running(upstream.url, state, policies=policies) as interlock:
        (before,) = servers_of(state)
        (tmp_path / "broken").touch()
        put(two["new"], folder)
        await until(lambda: alerts(state) == [("policies_not_loaded", "firing")], 40)
        await asks(port_of(interlock))
        assert records(state, Decided)[-1].decision["bundle"] == two["old"].digest
        assert servers_of(state) >= {before}
        (tmp_path / "broken").unlink()
        await until(lambda: alerts(state)[1:] == [("policies_not_loaded", "resolved")], 60)
        await asks(port_of(interlock))
        assert records(state, Decided)[-1].decision["bundle"] == two["new"].digest
        await until(lambda: len(servers_of(state)) == 1 and before not in servers_of(state), 20)
