"""The doctor says what is broken, what is merely not there, and changes nothing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pydantic import SecretStr

from policies.signing import make_keys, read_private, sign, signature_path
from proxy import doctor
from proxy.cli import main
from proxy.doctor import Finding
from serving.settings import (
    CheckSettings,
    LimitSettings,
    ListenSettings,
    LlmSettings,
    MlflowSettings,
    ModelSettings,
    NemoSettings,
    OtlpSettings,
    PolicySettings,
    Settings,
    TracingSettings,
    UpstreamSettings,
)
from tests.policies.support import written

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
async def vllm() -> AsyncIterator[str]:
    """A server that says that it is vLLM, to whoever has the key."""

    async def version(request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != "Bearer up":
            return web.json_response({"error": "Unauthorized"}, status=401)
        return web.json_response({"version": "0.32.0"})

    async def health(request: web.Request) -> web.Response:
        return web.Response(text="OK")

    app = web.Application()

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "judge", "object": "model"}]})

    app.add_routes([web.get("/version", version), web.get("/health", health), web.get("/v1/health", health)])
    app.add_routes([web.get("/v1/models", models)])
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/")


def upstream(url: str, key: str | None = None) -> Settings:
    return Settings(upstream=UpstreamSettings(url=url, api_key=SecretStr(key) if key else None))


async def test_a_vllm_that_answers_is_ok_with_its_version(vllm: str) -> None:
    found = await doctor.upstream(upstream(vllm, "up"))
    assert found == Finding("model server", "ok", f"vLLM 0.32.0 at {vllm}")


async def test_a_vllm_that_wants_a_key_says_which_setting(vllm: str) -> None:
    found = await doctor.upstream(upstream(vllm))
    assert (found.status, found.cost) == ("broken", "set `upstream.api_key`")


async def test_a_model_server_that_is_down_is_broken_unless_serve_launches_it() -> None:
    down = await doctor.upstream(upstream(NOWHERE))
    assert (down.status, down.detail) == ("broken", f"{NOWHERE}: Connection refused")
    assert (await doctor.upstream(Settings(model=ModelSettings(name="m")))).status == "off"


async def test_commands_that_are_not_asked_for_are_missing_and_asked_for_are_broken(tmp_path: Path) -> None:
    none = tmp_path / "none"
    assert (await doctor.vllm(Settings(model=ModelSettings(vllm=none)))).status == "missing"
    assert (await doctor.vllm(Settings(model=ModelSettings(name="m", vllm=none)))).status == "broken"
    assert (await doctor.opa(Settings(policies=PolicySettings(opa=none)))).status == "missing"
    assert (await doctor.opa(Settings(policies=PolicySettings(engine="opa", opa=none)))).status == "broken"


async def test_the_opa_of_whoever_writes_policies_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tmp_path / "lanes" / "opa-1" / "bin" / "opa"
    made.parent.mkdir(parents=True)
    made.touch()
    (tmp_path / "lanes" / "opa-1" / "made").touch()
    for name, value in (("PATH", str(tmp_path)), ("INTERLOCK_OPA", ""), ("INTERLOCK_CACHE", str(tmp_path))):
        monkeypatch.setenv(name, value)
    found = await doctor.opa(Settings())
    assert (found.status, found.detail) == ("ok", f"{made}, for writing policies")
    assert (await doctor.opa(Settings(policies=PolicySettings(engine="opa")))).status == "broken"


async def test_an_opa_of_another_age_is_broken(tmp_path: Path) -> None:
    command = tmp_path / "opa"
    command.write_text("#!/bin/sh\necho 'Version: 0.60.0'\n", encoding="utf-8")
    command.chmod(0o755)
    found = await doctor.opa(Settings(policies=PolicySettings(opa=command)))
    assert (found.status, found.cost) == ("broken", "OPA 1.x is needed")


async def test_the_state_folder_is_looked_at_and_not_made(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    settings = Settings(state_dir=folder)
    assert (await doctor.state_folder(settings)).status == "ok"
    assert (await doctor.disk(settings)).status == "ok"
    assert not folder.exists()
    folder.mkdir(mode=0o700)
    assert (await doctor.state_folder(settings)).status == "ok"
    folder.chmod(0o755)
    assert (await doctor.state_folder(settings)).status == "broken"
    assert list(folder.iterdir()) == []


async def test_a_port_in_use_is_said(unused_tcp_port_factory: Any, vllm: str) -> None:
    taken = int(vllm.rpartition(":")[2])
    free = unused_tcp_port_factory()
    found = await doctor.ports(Settings(listen=ListenSettings(port=taken, admin_port=free)))
    assert (found.status, found.detail) == ("missing", f"127.0.0.1:{taken} in use")
    assert (await doctor.ports(Settings(listen=ListenSettings(port=free, admin_port=0)))).status == "ok"


async def test_policies_that_serve_would_refuse_as_older_are_broken(tmp_path: Path) -> None:
    key = make_keys(tmp_path / "key.pem")
    folder = written(tmp_path / "rollout", "modes: {interlock.shell: warn}")
    path = folder / "platform.yaml"
    line = sign(read_private(tmp_path / "key.pem"), "rollout platform", path.read_bytes(), serial=1)
    signature_path(path).write_text(line)
    settings = Settings(
        state_dir=tmp_path / "state", policies=PolicySettings(rollout=folder, rollout_keys={"platform": [key]})
    )
    assert (await doctor.policies(settings)).status == "ok"
    (tmp_path / "state" / "policies").mkdir(parents=True)
    (tmp_path / "state" / "policies" / "serials.json").write_text('{"rollout platform": {"serial": 2, "content": ""}}')
    found = await doctor.policies(settings)
    assert found.status == "broken" and "is older (serial 1)" in found.detail


async def test_policies_and_prices_that_do_not_load_are_broken(tmp_path: Path) -> None:
    assert (await doctor.policies(Settings())).status == "ok"
    assert (await doctor.policies(Settings(policies=PolicySettings(bundle=tmp_path)))).status == "broken"
    assert (await doctor.prices(Settings())).status == "ok"
    assert (await doctor.prices(Settings(tracing=TracingSettings(prices=tmp_path / "none")))).status == "broken"


async def test_what_is_configured_and_down_is_broken_and_what_is_not_configured_is_off(vllm: str) -> None:
    def tracing(url: str) -> Settings:
        otlp = [OtlpSettings(endpoint=f"{url}/v1/traces")]
        checks = CheckSettings(nemo=NemoSettings(url=url))
        return Settings(tracing=TracingSettings(otlp=otlp, mlflow=MlflowSettings(url=url)), checks=checks)

    for probe in (doctor.mlflow, doctor.collectors, doctor.nemo):
        assert (await probe(tracing(vllm))).status == "ok"
        assert (await probe(tracing(NOWHERE))).status == "broken"
        off = await probe(Settings())
        assert off.status == "off"
        assert off.cost


async def test_the_model_that_judges_is_looked_for_where_it_is_asked(vllm: str) -> None:
    def judge(model: str, url: str | None) -> Settings:
        return Settings(
            checks=CheckSettings(llm=LlmSettings(model=model, url=url)), upstream=UpstreamSettings(url=vllm)
        )

    assert (await doctor.llm(judge("judge", vllm))).status == "ok"
    assert (await doctor.llm(judge("judge", None))).status == "ok", "the model server of the traffic"
    other = await doctor.llm(judge("other", vllm))
    assert (other.status, other.detail) == ("broken", f"{vllm} has judge")
    assert (await doctor.llm(judge("judge", NOWHERE))).status == "broken"
    assert (await doctor.llm(judge("judge", f"{vllm}/elsewhere"))).status == "broken"
    launched = Settings(checks=CheckSettings(llm=LlmSettings(model="m")), model=ModelSettings(name="m"))
    assert (await doctor.llm(launched)).status == "off"
    assert (await doctor.llm(Settings())).cost


async def test_a_nemo_to_launch_without_nemo_is_broken(tmp_path: Path) -> None:
    nemo = NemoSettings(launch=True, python=tmp_path / "python")
    assert (await doctor.nemo(Settings(checks=CheckSettings(nemo=nemo)))).status == "broken"


async def test_every_probe_gives_a_finding() -> None:
    found = await doctor.examine(Settings(limits=LimitSettings()))
    assert len(found) == len(doctor.PROBES)
    assert len({finding.name for finding in found}) == len(found)


def test_the_exit_status_is_1_if_something_that_is_asked_for_is_broken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--json", "--upstream", NOWHERE, "--state-dir", str(tmp_path / "s")]) == 1
    found = {entry["name"]: entry["status"] for entry in json.loads(capsys.readouterr().out)}
    assert found["model server"] == "broken"
    assert found["Python"] == "ok"
    assert main(["doctor", "--upstream", NOWHERE, "--state-dir", str(tmp_path / "s")]) == 1
    assert "BROKEN" in capsys.readouterr().out
