"""The OPA that Interlock launches answers its holder's questions and takes no orders."""

from __future__ import annotations

import json
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from serving.launch.commands import LaunchError
from serving.launch.opa import OpaServer, opa_spec, write_authz
from serving.settings import PolicySettings

POLICY = "package demo\n\nanswer := input.x + 1\n"


def bundle(folder: Path) -> Path:
    made = folder / "bundle"
    made.mkdir()
    manifest = {"revision": "r1", "roots": ["demo"]}
    (made / ".manifest").write_text(json.dumps(manifest), encoding="utf-8")
    (made / "demo.rego").write_text(POLICY, encoding="utf-8")
    return made


def test_the_token_is_neither_on_the_command_line_nor_on_disk(tmp_path: Path) -> None:
    authz = write_authz(tmp_path, "s3cret-token")
    spec = opa_spec("opa", (authz,), 8181, tmp_path / "opa.log")
    assert "s3cret-token" not in repr(spec.argv) + repr(dict(spec.env))
    for path in authz.iterdir():
        assert "s3cret-token" not in path.read_text(encoding="utf-8")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_missing_command_is_said_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"policies\.opa"):
        OpaServer(PolicySettings(engine="opa", opa=tmp_path / "none"), tmp_path, tmp_path)


@pytest.fixture
async def opa(opa_binary: Path, tmp_path: Path) -> AsyncIterator[OpaServer]:
    launched = OpaServer(PolicySettings(engine="opa", opa=opa_binary), bundle(tmp_path), tmp_path / "state")
    try:
        await launched.start()
        yield launched
    finally:
        await launched.stop()


@pytest.mark.opa
async def test_it_decides_for_the_token_and_refuses_everyone_and_everything_else(
    opa: OpaServer, tmp_path: Path
) -> None:
    holder = {"Authorization": f"Bearer {opa.token}"}
    stranger = {"Authorization": "Bearer wrong"}
    question = {"input": {"x": 41, "note": "only-in-the-input"}}
    async with aiohttp.ClientSession(opa.url) as session:
        async with session.post("/v1/data/demo/answer?provenance=true", json=question, headers=holder) as answer:
            body = await answer.json()
        assert body["result"] == 42
        assert "r1" in json.dumps(body["provenance"])
        for headers in ({}, stranger):
            async with session.post("/v1/data/demo/answer", json=question, headers=headers) as answer:
                assert answer.status == 401
            async with session.get("/health", headers=headers) as answer:
                assert answer.status == 401
        orders = [
            ("PUT", "/v1/policies/demo.rego"),
            ("PUT", "/v1/policies/other.rego"),
            ("DELETE", "/v1/policies/demo.rego"),
            ("PUT", "/v1/data/demo"),
            ("PATCH", "/v1/data/demo"),
            ("POST", "/v1/query"),
            ("GET", "/v1/policies"),
            ("GET", "/v1/config"),
        ]
        for method, path in orders:
            for headers in ({}, stranger, holder):
                async with session.request(method, path, data='{"query": "true"}', headers=headers) as answer:
                    assert answer.status == 401, (method, path)
    log = tmp_path / "state" / "logs" / "opa.log"
    assert "only-in-the-input" not in log.read_text(encoding="utf-8")
