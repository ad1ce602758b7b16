"""The four dependencies as real servers for tests: their command lines, each in one place.

Each is a context manager that gives a running :class:`Server`; the fixtures of ``tests/conftest.py`` keep one per
session. They are started plainly, so that a test of how Interlock launches them stays a test of that.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.lanes import ROOT
from tests.support.processes import Server, free_port, running

TINY_MODEL = ROOT / "serving" / "tiny" / "model"
QUIET = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "NEMO_GUARDRAILS_NO_USAGE_STATS": "1",
    "VLLM_NO_USAGE_STATS": "1",
}


@dataclass(frozen=True)
class VllmServer(Server):
    """``model`` is the name that requests must give."""

    model: str


def plain_environment(**more: str) -> dict[str, str]:
    """Ours without ``INTERLOCK_*`` and ``CI``, telemetry and downloads off."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("INTERLOCK_")}
    ours.pop("CI", None)
    return ours | QUIET | more


@contextmanager
def vllm(
    lane: Path,
    folder: Path,
    *,
    model: Path = TINY_MODEL,
    name: str = "tiny",
    flags: Sequence[str] = (),
    env: dict[str, str] | None = None,
) -> Iterator[VllmServer]:
    """vLLM on the CPU with the tiny model; ready in half a minute on two idle cores, minutes on busy ones."""
    port = free_port()
    command = [str(lane / "bin" / "vllm"), "serve", str(model), "--served-model-name", name]
    command += ["--host", "127.0.0.1", "--port", str(port), "--max-model-len", "2048", "--max-num-seqs", "16"]
    command += ["--enforce-eager", "--dtype", "float32", "--kv-cache-memory-bytes", "64M", "--max-logprobs", "20"]
    command += ["--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--reasoning-parser", "qwen3", *flags]
    environment = plain_environment(**(env or {}))
    with running(command, port, log=folder / "vllm.log", env=environment, seconds=600) as server:
        yield VllmServer(server.url, server.port, server.pid, server.log, name)


@contextmanager
def opa(binary: Path, folder: Path, *arguments: str | Path, port: int | None = None) -> Iterator[Server]:
    """An OPA server; ``arguments`` are further ones of ``opa run --server`` (``--bundle PATH`` …)."""
    port = port or free_port()
    command: list[str | Path] = [binary, "run", "--server", "--skip-version-check", "--log-level", "error"]
    command += ["--addr", f"127.0.0.1:{port}", *arguments]
    with running(command, port, log=folder / "opa.log", env=plain_environment(), seconds=120) as server:
        yield server


@contextmanager
def nemo(
    lane: Path, folder: Path, *, configs: Path = ROOT / "checks" / "nemo_config", port: int | None = None
) -> Iterator[Server]:
    """NeMo Guardrails' own server on the IORails engine with the shipped configuration. It has no credential."""
    port = port or free_port()
    host = "import sys, uvicorn; from nemoguardrails.server import api; api.app.rails_config_path = sys.argv[1]; "
    host += "uvicorn.run(api.app, host='127.0.0.1', port=int(sys.argv[2]), access_log=False)"
    environment = plain_environment(NEMO_GUARDRAILS_IORAILS_ENGINE="1", NEMO_GUARDRAILS_DISABLE_CHAT_UI="true")
    command: list[str | Path] = [lane / "bin" / "python", "-P", "-c", host, configs, str(port)]
    with running(
        command, port, log=folder / "nemo.log", health="/healthz", env=environment, cwd=folder, seconds=600
    ) as server:
        yield server


@contextmanager
def mlflow(lane: Path, folder: Path, *, port: int | None = None) -> Iterator[Server]:
    """An MLflow server with its store (SQLite, artifacts) below ``folder``. One worker: the machine is small."""
    port = port or free_port()
    command: list[str | Path] = [lane / "bin" / "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    environment = plain_environment(
        PATH=f"{lane / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}", MLFLOW_DISABLE_TELEMETRY="true"
    )
    with running(command, port, log=folder / "mlflow.log", env=environment, cwd=folder, seconds=600) as server:
        yield server
