"""Policies that are signed or fetched: nobody else's are loaded, nor older ones, and the last good ones are kept."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from policies.bundle import Bundle, BundleError
from policies.serials import Serials
from policies.signing import make_keys, read_private, sign, signature_path
from tests.policies.support import written
from tests.support.chat import whole
from tests.support.interlock import port_of, running
from tests.support.raw import ScriptedUpstream, scripted
from tests.support.records import records
from tests.support.served import until
from tests.support.serving import answering
from tests.support.two_bundles import ENFORCED, SAY, alerts, asks, put, two_bundles
from tracing.records import Alerted, Decided, Operated

pytestmark = pytest.mark.opa


@pytest.fixture(scope="module")
def two(opa_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    return two_bundles(opa_binary, tmp_path_factory.mktemp("two"))


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with scripted(answering(whole(SAY))) as server:
        yield server


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


def fetching(url: str, key: str) -> dict[str, Any]:
    """Settings of policies that come from ``url`` and must be signed."""
    return {"bundle_url": url, "bundle_token": "let-me", "bundle_keys": [key], "reload_seconds": 0.05}


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
        policies = fetching(url, key) | {"modes": ENFORCED}
        async with running(upstream.url, state, policies=policies) as interlock:
            await asks(port_of(interlock))
            for content in (archive("new", None), archive("new", others), b"torn", None):
                files["bundle"] = content
                await until(lambda: alerts(state)[-1:] == [("policies_not_loaded", "firing")], 20)
                await asyncio.sleep(0.2)
                await asks(port_of(interlock))
            files["bundle"] = archive("new", mine)
            await until(lambda: records(state, Operated), 20)
            await asks(port_of(interlock))
        files["bundle"] = None
        async with running(upstream.url, state, policies=policies) as interlock:
            assert any("last time" in notice for notice in interlock.notices)
            await asks(port_of(interlock))
        with pytest.raises(BundleError, match="answered 503"):
            async with running(upstream.url, tmp_path / "fresh", policies=policies):
                pass
    bundles = [record.decision["bundle"] for record in records(state, Decided)]
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
        policies = fetching(url, key) | {"modes": ENFORCED}
        async with running(upstream.url, state, policies=policies) as interlock:
            files["bundle"] = archive("new")
            await until(lambda: records(state, Operated), 20)
            files["bundle"] = archive("old")
            await until(lambda: alerts(state) == [("policies_not_loaded", "firing")], 20)
            await asks(port_of(interlock))
        async with running(upstream.url, state, policies=policies) as interlock:  # from the copy of the newer one
            assert any("is older (serial 1)" in notice for notice in interlock.notices)
            await asks(port_of(interlock))
    assert [record.decision["bundle"] for record in records(state, Decided)] == [two["new"].digest] * 2


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
        await until(lambda: len(records(state, Operated)) == 1, 20)
        put_rollout(shadow, 1)
        await until(lambda: alerts(state) == [("policies_not_loaded", "firing")], 20)
        (alert,) = records(state, Alerted)
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
        await until(lambda: len(records(state, Operated)) == 2, 20)
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
        policies = fetching(url, key) | {"rollout": rollout}
        async with running(upstream.url, state, policies=policies):
            files["bundle"] = None
            (rollout / "platform.yaml").write_text(f"modes: {json.dumps(ENFORCED)}\n")
            await until(lambda: records(state, Operated), 20)


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
