"""vLLM is launched with its parsers, a key on every path, and no telemetry; or not at all."""

from __future__ import annotations

import json
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from serving.launch.commands import LaunchError
from serving.launch.families import FAMILIES, Parsers, config_of, parsers_for
from serving.launch.vllm import VllmServer, choose_parsers, vllm_spec
from serving.launch.vllm_guard.interlock_vllm_guard import KeyOnEveryPath
from serving.settings import ModelSettings, OtlpSettings, Settings, TracingSettings, UpstreamSettings

# The names that vLLM 0.32.0 registers.
TOOL_PARSERS = """
dots deepseek_v3 deepseek_v31 deepseek_v32 deepseek_v4 deepseek_v41 cohere_command3 cohere_command4 ernie45
glm45 glm47 ling3 granite-20b-fc granite granite4 hermes hf poolside_v1 hunyuan_a13b hy_v3 hy_v4 internlm
jamba lfm2 kimi_k2 kimi_k3 k2_horizon llama3_json llama4_json llama4_pythonic longcat mimo minimax_m2
minimax_m3 minicpm5 mistral olmo3 plamo3 muse_glimmer openai phi4_mini_json pythonic qwen3_coder qwen3_json
qwen3_xml seed_oss step3 step3p5 inkling xlam gigachat3 functiongemma gemma4 apertus
"""
REASONING_PARSERS = """
deepseek_r1 deepseek_v3 deepseek_v4 deepseek_v41 poolside_v1 cohere_command3 cohere_command4 ernie45 gemma4
glm45 glm47 ling3 openai_gptoss granite granite_thinking_parser hf holo2 hunyuan_a13b hy_v3 hy_v4 kimi_k2
kimi_k3 k2_horizon mimo minicpmv minimax_m2 minimax_m2_append_think minimax_m3 mistral nemotron_v3 olmo3
plamo3 muse_glimmer qwen3 seed_oss step3 step3p5
"""


@pytest.mark.parametrize(
    ("model", "tool", "reasoning"),
    [
        ("Qwen/Qwen3-8B", "hermes", "qwen3"),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", "hermes", None),
        ("Qwen/Qwen3-Coder-30B-A3B-Instruct", "qwen3_coder", None),
        ("Qwen/Qwen2.5-7B-Instruct", "hermes", None),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama3_json", None),
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", "llama4_pythonic", None),
        ("NousResearch/Hermes-3-Llama-3.1-8B", "hermes", None),
        ("mistralai/Mistral-Small-3.2-24B-Instruct-2506", "mistral", None),
        ("deepseek-ai/DeepSeek-V3.1", "deepseek_v31", "deepseek_v3"),
        ("deepseek-ai/DeepSeek-R1-0528", "deepseek_v3", "deepseek_r1"),
        ("openai/gpt-oss-20b", "openai", "openai_gptoss"),
        ("zai-org/GLM-4.5-Air", "glm45", "glm45"),
        ("moonshotai/Kimi-K2-Instruct", "kimi_k2", None),
        ("google/gemma-4-26B-A4B-it", "gemma4", "gemma4"),
    ],
)
def test_a_models_name_tells_its_parsers(model: str, tool: str, reasoning: str | None) -> None:
    assert parsers_for(model) == Parsers(tool, reasoning)


def test_a_models_configuration_tells_its_parsers_where_its_name_does_not(tmp_path: Path) -> None:
    assert parsers_for("my-finetune", {"model_type": "qwen3"}) == Parsers("hermes", "qwen3")
    assert parsers_for("my-finetune", {"model_type": "unheard_of"}) is None
    assert parsers_for("my-finetune") is None
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt_oss"}), encoding="utf-8")
    assert choose_parsers(ModelSettings(name=str(tmp_path))) == Parsers("openai", "openai_gptoss")


def test_a_configuration_that_is_no_object_is_none(tmp_path: Path) -> None:
    assert config_of(str(tmp_path)) is None
    (tmp_path / "config.json").write_text("[", encoding="utf-8")
    assert config_of(str(tmp_path)) is None
    (tmp_path / "config.json").write_text("[]", encoding="utf-8")
    assert config_of(str(tmp_path)) is None


def test_every_family_names_parsers_that_vllm_has() -> None:
    for family in FAMILIES:
        assert family.tool is None or family.tool in TOOL_PARSERS.split()
        assert family.reasoning is None or family.reasoning in REASONING_PARSERS.split()


def test_an_explicit_parser_wins_and_none_means_none() -> None:
    model = ModelSettings(name="Qwen/Qwen3-8B", tool_parser="qwen3_xml", reasoning_parser="none")
    assert choose_parsers(model) == Parsers("qwen3_xml", None)
    assert choose_parsers(ModelSettings(name="unheard-of", tool_parser="none")) == Parsers(None, None)


def test_an_unknown_family_is_not_launched_without_a_word() -> None:
    with pytest.raises(LaunchError, match=r"model\.tool_parser"):
        choose_parsers(ModelSettings(name="unheard-of"))


def test_a_missing_command_is_said_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"model\.vllm"):
        VllmServer(Settings(model=ModelSettings(name="Qwen/Qwen3-8B", vllm=tmp_path / "none")))


def test_a_server_is_reached_with_a_key_of_its_own_and_the_upstreams_other_settings_stay(tmp_path: Path) -> None:
    command = tmp_path / "vllm"
    command.write_text("#!/bin/sh\n", encoding="utf-8")
    command.chmod(0o755)
    settings = Settings(
        model=ModelSettings(name="Qwen/Qwen3-8B", vllm=command, port=9),
        upstream=UpstreamSettings(total_seconds=7),
        tracing=TracingSettings(otlp=[OtlpSettings(endpoint="http://c/v1/traces")]),
        state_dir=tmp_path / "state",
    )
    one, other = VllmServer(settings), VllmServer(settings)
    assert (one.upstream.url, one.upstream.total_seconds) == ("http://127.0.0.1:9", 7)
    assert one.upstream.api_key is not None
    assert one.upstream.api_key != other.upstream.api_key
    assert one.child.spec.env["VLLM_API_KEY"] == one.upstream.api_key.get_secret_value()
    assert one.child.spec.log == tmp_path / "state" / "logs" / "vllm.log"
    assert "http://c/v1/traces" in one.child.spec.argv


def test_the_command_line_has_parsers_and_no_key_and_the_users_arguments_come_last() -> None:
    model = ModelSettings(name="m", args=["--max-model-len", "2048"])
    parsers = Parsers("hermes", "qwen3")
    spec = vllm_spec(model, parsers, command="/bin/vllm", port=9, key="s3cret", log=Path("/s/vllm.log"))
    argv = list(spec.argv)
    assert argv[:7] == ["/bin/vllm", "serve", "m", "--host", "127.0.0.1", "--port", "9"]
    assert argv[-2:] == ["--max-model-len", "2048"]
    for pair in (["--tool-call-parser", "hermes"], ["--reasoning-parser", "qwen3"]):
        at = argv.index(pair[0])
        assert argv[at : at + 2] == pair
    assert "--enable-auto-tool-choice" in argv
    assert "--otlp-traces-endpoint" not in argv
    assert "s3cret" not in " ".join(argv)
    assert spec.env["VLLM_API_KEY"] == "s3cret"
    assert "s3cret" not in repr(spec)


def test_its_spans_go_where_the_settings_say() -> None:
    traces = OtlpSettings(endpoint="http://c:4318/v1/traces", headers={"x-id": SecretStr("a b,c")})
    spec = vllm_spec(
        ModelSettings(name="m"),
        Parsers(None, None),
        command="vllm",
        port=9,
        key="k",
        log=Path("/s/vllm.log"),
        traces=traces,
    )
    at = spec.argv.index("--otlp-traces-endpoint")
    assert spec.argv[at + 1] == "http://c:4318/v1/traces"
    assert spec.env["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] == "http/protobuf"
    assert spec.env["OTEL_EXPORTER_OTLP_TRACES_HEADERS"] == "x-id=a%20b%2Cc"
    assert "--enable-auto-tool-choice" not in spec.argv


class Conversation:
    """An ASGI server with one request; ``passed`` says whether the guarded application saw it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("VLLM_API_KEY", "the-key")
        self.passed = False
        self.sent: list[MutableMapping[str, Any]] = []
        self.guard = KeyOnEveryPath(self._app)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        self.passed = True

    async def _receive(self) -> MutableMapping[str, Any]:
        return {"type": "websocket.connect"}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        self.sent.append(message)

    async def ask(self, kind: str, *authorizations: bytes) -> None:
        headers = [(b"authorization", value) for value in authorizations]
        await self.guard({"type": kind, "path": "/invocations", "headers": headers}, self._receive, self._send)


@pytest.mark.parametrize("values", [(), (b"Bearer wrong",), (b"the-key",), (b"Bearer wrong", b"Bearer the-key")])
async def test_the_guard_refuses_every_path_without_the_key(
    monkeypatch: pytest.MonkeyPatch, values: tuple[bytes, ...]
) -> None:
    talk = Conversation(monkeypatch)
    await talk.ask("http", *values)
    assert not talk.passed
    assert talk.sent[0]["status"] == 401
    assert json.loads(talk.sent[1]["body"]) == {"error": "Unauthorized"}


async def test_the_guard_closes_a_websocket_without_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    talk = Conversation(monkeypatch)
    await talk.ask("websocket")
    assert not talk.passed
    assert [message["type"] for message in talk.sent] == ["websocket.close"]


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_the_guard_lets_the_key_by(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    talk = Conversation(monkeypatch)
    await talk.ask(kind, b"Bearer the-key")
    assert talk.passed


async def test_the_guard_lets_the_servers_own_life_cycle_by(monkeypatch: pytest.MonkeyPatch) -> None:
    talk = Conversation(monkeypatch)
    await talk.ask("lifespan")
    assert talk.passed
