"""vLLM as Interlock launches it: the right flags, and no way round.

How to think about it. :func:`vllm_spec` is a pure function from settings to a command line and environment;
:class:`VllmServer` chooses what is random (port, key), finds the command, and hands all to a ``Child``. The
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
from pathlib import Path
from urllib.parse import quote

from pydantic import SecretStr

from serving.launch.commands import LaunchError, find_command
from serving.launch.families import Parsers, config_of, parsers_for
from serving.launch.process import Child, ChildSpec, Watch, free_loopback_port, http_probe
from serving.settings import ModelSettings, OtlpSettings, Settings, UpstreamSettings

GUARD_FOLDER = Path(__file__).parent / "vllm_guard"
NO_PARSER = "none"

KEPT = (
    *("CUDA_*", "NVIDIA_*", "HIP_*", "ROCR_*", "NCCL_*", "LD_LIBRARY_PATH", "LD_PRELOAD"),
    *("VLLM_*", "HF_*", "HUGGING_FACE_HUB_TOKEN", "TRANSFORMERS_*", "XDG_CACHE_HOME"),
    *("OMP_*", "TORCH*", "TRITON_*", "[Hh][Tt][Tt][Pp]_[Pp]*", "[Hh][Tt][Tt][Pp][Ss]_[Pp]*", "[Nn][Oo]_[Pp]*"),
)
"""Variables that vLLM, its hardware and its downloads need, beyond what every child keeps."""


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


class VllmServer:
    """A launched vLLM. ``upstream`` is how to reach it, known before it runs and the same after a restart.

    ``traces``: where its own spans go; null: the first collector of the settings, if there is one. Its log is
    ``<state_dir>/logs/vllm.log``. Raises ``LaunchError`` where command or parsers are not known.
    """

    def __init__(self, settings: Settings, traces: OtlpSettings | None = None) -> None:
        model = settings.model
        command = find_command(model.vllm, "vllm")
        if command is None:
            raise LaunchError(
                "the `vllm` command is not there; install vLLM, or set `model.vllm` to its path, or use a running "
                "server by --upstream URL"
            )
        self.parsers = choose_parsers(model)
        port, key = model.port or free_loopback_port(), secrets.token_urlsafe(32)
        self.upstream = settings.upstream.model_copy(
            update={"url": f"http://127.0.0.1:{port}", "api_key": SecretStr(key)}
        )
        spec = vllm_spec(
            model,
            self.parsers,
            command=command,
            port=port,
            key=key,
            log=settings.state_dir / "logs" / "vllm.log",
            traces=traces or next(iter(settings.tracing.otlp), None),
        )
        probe = http_probe(self.upstream.url + "/health", headers={"Authorization": f"Bearer {key}"})
        self.child = Child(spec, probe=probe, watch=Watch(ready=model.ready_seconds, stop=30.0))

    async def start(self) -> UpstreamSettings:
        """Run it and wait until it answers. Raises ``ChildFailed`` with the reason and where its log is."""
        self.child.start()
        await self.child.wait_ready()
        return self.upstream

    async def stop(self) -> None:
        """End it and its engine; may be called at any time."""
        await self.child.stop()
