"""vLLM as Interlock launches it: the right flags, and no way round.

How to think about it. :func:`vllm_spec` is a pure function from settings to a command line and environment;
:func:`launch_vllm` chooses what is random (port, key), finds the command, and hands both to a ``Child``. The
launched server differs from one started by hand in this:

* tool calls and reasoning are parsed (``serving.launch.families``), or the launch is refused;
* it listens on loopback and asks for a random API key on every path (``vllm_guard``), so that an agent on this
  machine cannot speak to it directly; the key is in its environment, not on its command line;
* no telemetry, no request or access log: what agents say is not in its log;
* cached prompt tokens are in its usage, so that they can be priced; its own spans go where ours go.

The key keeps other users out and raises the bar for the same one: whoever may read the environment of our
processes (``/proc``) has it. ``docs/threat-model.md`` says so.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from pydantic import SecretStr

from serving.launch.commands import LaunchError, find_command
from serving.launch.families import Parsers, config_of, parsers_for
from serving.launch.process import Child, ChildSpec, Watch, free_loopback_port, http_probe
from serving.settings import ModelSettings, OtlpSettings, UpstreamSettings

GUARD_FOLDER = Path(__file__).parent / "vllm_guard"
NO_PARSER = "none"

KEPT = (
    *("CUDA_*", "NVIDIA_*", "HIP_*", "ROCR_*", "NCCL_*", "LD_LIBRARY_PATH", "LD_PRELOAD"),
    *("VLLM_*", "HF_*", "HUGGING_FACE_HUB_TOKEN", "TRANSFORMERS_*", "XDG_CACHE_HOME"),
    *("OMP_*", "TORCH*", "TRITON_*", "[Hh][Tt][Tt][Pp]_[Pp]*", "[Hh][Tt][Tt][Pp][Ss]_[Pp]*", "[Nn][Oo]_[Pp]*"),
)
"""Variables that vLLM, its hardware and its downloads need, beyond what every child keeps."""


@dataclass(frozen=True)
class LaunchedVllm:
    """``child`` is not started yet. ``upstream`` is how to reach it."""

    child: Child
    upstream: UpstreamSettings
    parsers: Parsers
    log: Path = field(repr=False)


def choose_parsers(model: ModelSettings) -> Parsers:
    """What the settings say; else what fits the model's family. Raises ``LaunchError`` if nobody knows."""
    assert model.name is not None
    family = parsers_for(model.name, config_of(model.name))
    if family is None and model.tool_parser is None:
        raise LaunchError(
            f"no tool parser is known for {model.name}: its tool calls would pass as plain text, unjudged; set "
            "`model.tool_parser` (and `model.reasoning_parser`) to vLLM's names, or to `none` to accept that"
        )
    tool = model.tool_parser or (family.tool if family else None)
    reasoning = model.reasoning_parser or (family.reasoning if family else None)
    return Parsers(None if tool == NO_PARSER else tool, None if reasoning == NO_PARSER else reasoning)


def vllm_spec(
    model: ModelSettings,
    parsers: Parsers,
    *,
    command: str,
    port: int,
    key: str,
    log: Path,
    traces: OtlpSettings | None = None,
) -> ChildSpec:
    """The process. ``traces`` is where vLLM's own spans go (OTLP/HTTP); null: it makes none."""
    assert model.name is not None
    argv = [command, "serve", model.name, "--host", "127.0.0.1", "--port", str(port)]
    if parsers.tool is not None:
        argv += ["--enable-auto-tool-choice", "--tool-call-parser", parsers.tool]
    if parsers.reasoning is not None:
        argv += ["--reasoning-parser", parsers.reasoning]
    argv += ["--enable-prompt-tokens-details", "--no-enable-log-requests", "--disable-uvicorn-access-log"]
    argv += ["--middleware", "interlock_vllm_guard.KeyOnEveryPath"]
    environment = {
        "VLLM_API_KEY": key,
        "VLLM_DEBUG_LOG_API_SERVER_RESPONSE": "0",
        "VLLM_SERVER_DEV_MODE": "0",
        "PYTHONPATH": str(GUARD_FOLDER),
    }
    if traces is not None:
        argv += ["--otlp-traces-endpoint", traces.endpoint]
        environment |= {
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
            "OTEL_SERVICE_NAME": "vllm",
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS": ",".join(
                f"{name}={quote(value.get_secret_value(), safe='')}" for name, value in traces.headers.items()
            ),
        }
    return ChildSpec("vLLM", (*argv, *model.args), env=environment, keep=KEPT, log=log)


def launch_vllm(model: ModelSettings, state_dir: Path, traces: OtlpSettings | None = None) -> LaunchedVllm:
    """Everything needed to start it; raises ``LaunchError`` with the remedy."""
    command = find_command(model.vllm, "vllm")
    if command is None:
        raise LaunchError(
            "the `vllm` command is not there; install vLLM, or set `model.vllm` to its path, or use a running "
            "server by --upstream URL"
        )
    parsers = choose_parsers(model)
    port, key = model.port or free_loopback_port(), secrets.token_urlsafe(32)
    log = state_dir / "logs" / "vllm.log"
    spec = vllm_spec(model, parsers, command=command, port=port, key=key, log=log, traces=traces)
    url = f"http://127.0.0.1:{port}"
    probe = http_probe(url + "/health", headers={"Authorization": f"Bearer {key}"})
    child = Child(spec, probe=probe, watch=Watch(ready=model.ready_seconds, stop=30.0))
    return LaunchedVllm(child, UpstreamSettings(url=url, api_key=SecretStr(key)), parsers, log)
