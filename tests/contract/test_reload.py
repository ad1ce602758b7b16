"""Policies that change while traffic flows: nothing fails, nothing is judged by halves, and what cannot be loaded
changes nothing."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from policies.bundle import Bundle, BundleError
from policies.in_force import Policies
from policies.serials import Serials
from policies.signing import make_keys, read_private, sign, signature_path
from proxy.reloading import MOST_OLD
from tests.policies.support import ALWAYS, built
from tests.policies.test_rollout import written
from tests.support.chat import Call, Say, read_whole, stream, whole
from tests.support.interlock import port_of, running
from tests.support.raw import ScriptedUpstream, scripted, send
from tests.support.served import until
from tests.support.serving import answering, ask, post
from tests.support.wire import parse
from tracing.records import Alerted, Decided, Operated
from tracing.segments import read

pytestmark = pytest.mark.opa

NOW = Call("look", "{}")
ENFORCED = {f"acme.{name}": "enforce" for name in ("first", "second")}


@pytest.fixture(scope="module")
def two(opa_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """Two bundles with the same two policies: both deny in ``old``, both end the answer in ``new``."""
    folder = tmp_path_factory.mktemp("two")
    return {
        name: built(
            opa_binary,
            folder / name,
            {f"acme/{policy}/policy.rego": ALWAYS.format(name=policy, action=action) for policy in ("first", "second")},
        )
        for name, action in (("old", "deny"), ("new", "terminate"))
    }


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with scripted(answering(whole(Say("Hm.", "So be it.", (NOW,))))) as server:
        yield server


def put(bundle: Bundle, folder: Path) -> None:
    """As a deployment would: written beside, and moved into place."""
    beside = folder.with_name(f"{folder.name}.new")
    bundle.write(beside)
    if folder.exists():
        folder.rename(folder.with_name(f"{folder.name}.old"))
    beside.rename(folder)
    shutil.rmtree(folder.with_name(f"{folder.name}.old"), ignore_errors=True)


def decided(state: Path) -> list[Decided]:
    return [entry.record for entry in read(state) if isinstance(entry.record, Decided)]


def alerts(state: Path) -> list[tuple[str, str]]:
    found = [entry.record for entry in read(state) if isinstance(entry.record, Alerted)]
    return [(record.cause, record.state) for record in found]


def actions(record: Decided) -> set[str]:
    return {found["finding"]["action"] for found in record.decision["findings"]}


async def asks(port: int) -> str:
    answer = parse(await send(port, post(ask())))
    assert answer.start == "HTTP/1.1 200 OK", answer.body
    (choice,) = read_whole(answer.body).values()
    assert not choice.calls
    return answer.body.decode()


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
            await until(lambda name=name: actions(decided(state)[-1]) == {actions_of(name)}, 30)
        await asyncio.sleep(0.3)
        ends.set()
        asked = await flowing
    by_bundle = Counter((record.decision["bundle"], frozenset(actions(record))) for record in decided(state))
    assert set(by_bundle) == {
        (two["old"].digest, frozenset({"deny"})),
        (two["new"].digest, frozenset({"terminate"})),
    }
    assert sum(by_bundle.values()) == asked
    loaded = [entry.record for entry in read(state) if isinstance(entry.record, Operated)]
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
        assert decided(state)[-1].decision["bundle"] == two["old"].digest
        if fault == "rollout":
            written(rollout, f"modes: {json.dumps(ENFORCED | {'acme.first': 'off'})}")
        put(two["new"], folder)
        await until(lambda: alerts(state)[1:] == [("policies_not_loaded", "resolved")], 20)
        await asks(port_of(interlock))
        assert decided(state)[-1].decision["bundle"] == two["new"].digest
        assert len(decided(state)[-1].decision["asked"]) == (1 if fault == "rollout" else 2)


async def test_an_answer_that_flows_is_judged_by_what_it_began_with(two: dict[str, Bundle], tmp_path: Path) -> None:
    folder, state, goes_on = tmp_path / "bundle", tmp_path / "state", asyncio.Event()
    put(two["old"], folder)
    events = stream(Say("Hm.", "So be it.", (NOW,)))

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
        await until(lambda: any(True for _ in read(state)), 5)
        await asyncio.sleep(0.2)
        put(two["new"], folder)
        await until(lambda: any(isinstance(entry.record, Operated) for entry in read(state)), 20)
        goes_on.set()
        await flowing
        flowing = asyncio.ensure_future(send(port_of(interlock), post(ask(stream=True))))
        await flowing
    assert [record.decision["bundle"] for record in decided(state)] == [two["old"].digest, two["new"].digest]


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
    events = stream(Say("Hm.", "So be it.", (NOW,)))
    closed, close = list[str](), Policies.close

    async def closing(policies: Policies) -> None:
        await close(policies)
        closed.append(policies.digest)

    monkeypatch.setattr(Policies, "close", closing)

    async def script(request: bytes, writer: asyncio.StreamWriter) -> None:
        if not json.loads(parse(request).body).get("stream"):
            await answering(whole(Say("Hm.", "So be it.", (NOW,))))(request, writer)
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
            await until(lambda nth=nth: len(operated(state)) == nth + 1, 60)
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
    errors = [record.decision.get("errors") for record in decided(state)]
    assert [bool(one) for one in errors] == [False, True]
    assert not servers_of(state)


def operated(state: Path) -> list[Operated]:
    return [entry.record for entry in read(state) if isinstance(entry.record, Operated)]


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
        assert decided(state)[-1].decision["bundle"] == two["old"].digest
        assert servers_of(state) >= {before}
        (tmp_path / "broken").unlink()
        await until(lambda: alerts(state)[1:] == [("policies_not_loaded", "resolved")], 60)
        await asks(port_of(interlock))
        assert decided(state)[-1].decision["bundle"] == two["new"].digest
        await until(lambda: len(servers_of(state)) == 1 and before not in servers_of(state), 20)


@asynccontextmanager
async def offering(files: dict[str, Any]) -> AsyncIterator[str]:
    """A server of bundles that says when nothing has changed."""

    async def answer(request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != "Bearer let-me":
            return web.Response(status=401)
        content = files.get("bundle")
        if content is None:
            return web.Response(status=503)
        mark = f'"{hash(content)}"'
        files["asked"] = files.get("asked", 0) + 1
        if request.headers.get("If-None-Match") == mark:
            return web.Response(status=304)
        return web.Response(body=content, headers={"ETag": mark})

    app = web.Application()
    app.router.add_get("/bundle.tar.gz", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/bundle.tar.gz"
    finally:
        await runner.cleanup()


async def test_a_signed_bundle_is_fetched_and_the_last_good_one_kept(
    upstream: ScriptedUpstream, two: dict[str, Bundle], tmp_path: Path
) -> None:
    mine, others, state = tmp_path / "mine.pem", tmp_path / "others.pem", tmp_path / "state"
    key = make_keys(mine)
    make_keys(others)

    def archive(name: str, signer: Path | None) -> bytes:
        bundle = two[name] if signer is None else two[name].signed(read_private(signer))
        bundle.write(tmp_path / "made.tar.gz")
        return (tmp_path / "made.tar.gz").read_bytes()

    files: dict[str, Any] = {"bundle": archive("old", mine)}
    async with offering(files) as url:
        policies = {
            "bundle_url": url,
            "bundle_token": "let-me",
            "bundle_keys": [key],
            "modes": ENFORCED,
            "reload_seconds": 0.05,
        }
        async with running(upstream.url, state, policies=policies) as interlock:
            await asks(port_of(interlock))
            for content in (archive("new", None), archive("new", others), b"torn", None):
                files["bundle"] = content
                before = len([True for entry in read(state) if isinstance(entry.record, Alerted)])
                await until(
                    lambda before=before: (
                        [entry.record.state for entry in read(state) if isinstance(entry.record, Alerted)][-1:]
                        == ["firing"]
                        and before >= 0
                    ),
                    20,
                )
                await asyncio.sleep(0.2)
                await asks(port_of(interlock))
            files["bundle"] = archive("new", mine)
            await until(lambda: any(isinstance(entry.record, Operated) for entry in read(state)), 20)
            await asks(port_of(interlock))
        files["bundle"] = None
        async with running(upstream.url, state, policies=policies) as interlock:
            assert any("last time" in notice for notice in interlock.notices)
            await asks(port_of(interlock))
        with pytest.raises(BundleError, match="answered 503"):
            async with running(upstream.url, tmp_path / "fresh", policies=policies):
                pass
    bundles = [record.decision["bundle"] for record in decided(state)]
    assert bundles == [two["old"].digest] * 5 + [two["new"].digest] * 2


async def test_an_older_bundle_is_not_fetched_again(
    upstream: ScriptedUpstream, two: dict[str, Bundle], tmp_path: Path
) -> None:
    key, state = make_keys(tmp_path / "mine.pem"), tmp_path / "state"

    def archive(name: str) -> bytes:
        two[name].signed(read_private(tmp_path / "mine.pem"), 1 if name == "old" else 2).write(tmp_path / "a.tar.gz")
        return (tmp_path / "a.tar.gz").read_bytes()

    files: dict[str, Any] = {"bundle": archive("old")}
    async with offering(files) as url:
        policies = {
            "bundle_url": url,
            "bundle_token": "let-me",
            "bundle_keys": [key],
            "modes": ENFORCED,
            "reload_seconds": 0.05,
        }
        async with running(upstream.url, state, policies=policies) as interlock:
            files["bundle"] = archive("new")
            await until(lambda: operated(state), 20)
            files["bundle"] = archive("old")
            await until(lambda: alerts(state) == [("policies_not_loaded", "firing")], 20)
            await asks(port_of(interlock))
        async with running(upstream.url, state, policies=policies) as interlock:  # from the copy of the newer one
            assert any("is older (serial 1)" in notice for notice in interlock.notices)
            await asks(port_of(interlock))
    assert [record.decision["bundle"] for record in decided(state)] == [two["new"].digest] * 2


async def test_an_older_rollout_is_not_put_back(
    upstream: ScriptedUpstream, two: dict[str, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, state, folder = make_keys(tmp_path / "mine.pem"), tmp_path / "state", tmp_path / "bundle"
    put(two["old"], folder)
    rollout = tmp_path / "rollout"

    def put_rollout(modes: dict[str, str], serial: int, **more: Any) -> None:
        written(rollout, f"modes: {json.dumps(modes)}")
        path = rollout / "platform.yaml"
        line = sign(read_private(tmp_path / "mine.pem"), "rollout platform", path.read_bytes(), serial=serial, **more)
        signature_path(path).write_text(line)

    policies = {
        "bundle": folder,
        "rollout": rollout,
        "rollout_keys": {"platform": [key]},
        "reload_seconds": 0.05,
    }
    shadow = dict.fromkeys(ENFORCED, "shadow")
    put_rollout(shadow, 1)
    async with running(upstream.url, state, policies=policies) as interlock:
        put_rollout(ENFORCED, 2)
        await until(lambda: len(operated(state)) == 1, 20)
        put_rollout(shadow, 1)
        await until(lambda: alerts(state) == [("policies_not_loaded", "firing")], 20)
        (alert,) = (one.record for one in read(state) if isinstance(one.record, Alerted))
        assert "is older (serial 1)" in alert.evidence["problem"]
        await asks(port_of(interlock))
    with pytest.raises(ValueError, match=r"is older \(serial 1\)"):
        async with running(upstream.url, state, policies=policies):
            pass
    async with running(upstream.url, state, policies=policies | {"older_signed": "allow"}) as interlock:
        await until(lambda: interlock.url, 5)
    async with running(upstream.url, state, policies=policies):
        soon = datetime.now(UTC) + timedelta(hours=1)
        before = len(alerts(state))
        put_rollout(ENFORCED, 3, not_before=soon)
        await until(lambda: alerts(state)[before:] == [("policies_not_loaded", "firing")], 20)
        then = Serials(state / "policies" / "serials.json", now=lambda: soon)
        monkeypatch.setattr("proxy.reloading.serials_of", lambda _: then)
        await until(lambda: len(operated(state)) == 2, 20)
        await until(lambda: alerts(state)[before + 1 :] == [("policies_not_loaded", "resolved")], 20)


async def test_a_rollout_on_disk_is_taken_up_while_the_url_of_the_bundle_is_away(
    upstream: ScriptedUpstream, two: dict[str, Bundle], tmp_path: Path
) -> None:
    key = make_keys(tmp_path / "mine.pem")
    two["old"].signed(read_private(tmp_path / "mine.pem")).write(tmp_path / "made.tar.gz")
    files: dict[str, Any] = {"bundle": (tmp_path / "made.tar.gz").read_bytes()}
    rollout, state = tmp_path / "rollout", tmp_path / "state"
    rollout.mkdir()
    (rollout / "platform.yaml").write_text("modes: {}\n")
    async with offering(files) as url:
        policies = {
            "bundle_url": url,
            "bundle_token": "let-me",
            "bundle_keys": [key],
            "rollout": rollout,
            "reload_seconds": 0.05,
        }
        async with running(upstream.url, state, policies=policies):
            files["bundle"] = None
            (rollout / "platform.yaml").write_text(f"modes: {json.dumps(ENFORCED)}\n")
            await until(lambda: any(isinstance(entry.record, Operated) for entry in read(state)), 20)


async def test_a_bundle_must_be_signed_where_a_key_is_named(two: dict[str, Bundle], tmp_path: Path) -> None:
    folder, key = tmp_path / "bundle", make_keys(tmp_path / "key.pem")
    policies = {"bundle": folder, "bundle_keys": [key], "modes": ENFORCED}
    put(two["old"], folder)
    with pytest.raises(BundleError, match="is not signed"):
        async with running("http://127.0.0.1:9", tmp_path / "state", policies=policies):
            pass
    put(two["old"].signed(read_private(tmp_path / "key.pem")), folder)
    async with running("http://127.0.0.1:9", tmp_path / "state", policies=policies):
        pass
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"tool_call": [', '"response": ['))
    with pytest.raises(BundleError, match=r"none of the keys"):
        async with running("http://127.0.0.1:9", tmp_path / "state", policies=policies):
            pass
    with pytest.raises(BundleError, match=r"needs policies\.bundle_keys"):
        async with running("http://127.0.0.1:9", tmp_path / "s", policies={"bundle_url": "http://127.0.0.1:9/b"}):
            pass
