"""The lanes, for every test: paths of the real things, and one running server of each per session.

A server is started when the first test asks for it and stopped by pid at the end. A test that stops, slows or
kills one starts its own by ``tests.support.servers``.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support import servers
from tests.support.collector import Collector, collecting
from tests.support.lanes import lane, unavailable
from tests.support.processes import Server
from tests.support.servers import VllmServer


def pytest_configure() -> None:
    """A SIGTERM (a time limit, a cancelled build) ends the run as Ctrl-C does, so that the servers are stopped."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


settings.register_profile("interlock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("interlock")  # how long an example takes says something about the machine only

ONE_THREAD = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
"""For so small a model more threads only wait for one another, and on a busy machine a hundred times as long."""


@pytest.fixture(scope="session")
def opa_binary() -> Path:
    """The ``opa`` command, 1.22."""
    return lane("opa")


@pytest.fixture(scope="session")
def nemo_env() -> Path:
    """The environment (folder) that has NeMo Guardrails."""
    return lane("nemo")


@pytest.fixture(scope="session")
def nemo_python(nemo_env: Path) -> Path:
    """The interpreter that has NeMo Guardrails."""
    return nemo_env / "bin" / "python"


@pytest.fixture(scope="session")
def mlflow_env() -> Path:
    """The environment (folder) that has MLflow and its client."""
    return lane("mlflow")


@pytest.fixture(scope="session")
def vllm_env() -> Path:
    """The environment (folder) that has vLLM."""
    return lane("vllm")


@pytest.fixture(scope="session")
def vllm_spans() -> Iterator[Collector]:
    """Where the session's vLLM sends its own spans."""
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="session")
def vllm_server(
    vllm_env: Path, vllm_spans: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VllmServer]:
    """A real vLLM that serves the tiny model, without a key; what it does, it reports to ``vllm_spans``."""
    if not (servers.TINY_MODEL / "config.json").exists():
        unavailable("the tiny model is not in serving/tiny/model")
    traced = ("--otlp-traces-endpoint", vllm_spans.endpoint)
    how = {
        **ONE_THREAD,
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        "OTEL_SERVICE_NAME": "vllm",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    with servers.vllm(vllm_env, tmp_path_factory.mktemp("vllm"), flags=traced, env=how) as server:
        yield server


@pytest.fixture(scope="session")
def nemo_server(nemo_env: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real NeMo Guardrails server with the shipped configuration, without a credential."""
    with servers.nemo(nemo_env, tmp_path_factory.mktemp("nemo")) as server:
        yield server


@pytest.fixture(scope="session")
def mlflow_server(mlflow_env: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real MLflow server with an empty store."""
    with servers.mlflow(mlflow_env, tmp_path_factory.mktemp("mlflow")) as server:
        yield server
