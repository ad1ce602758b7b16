"""What Interlock launches and watches beside itself: vLLM, OPA, NeMo Guardrails, the exporter. Once per Interlock.

Each gives the settings with what is known once it runs (where it is, and its credential), so that whoever reads them
need not know who started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
from pydantic import SecretStr

from checks.nemo import CONFIG_ROOT
from policies.service import effective_bundle
from proxy import __version__
from serving.launch.nemo import NemoServer
from serving.launch.opa import OpaServer
from serving.launch.process import Child, ChildSpec
from serving.launch.vllm import VllmServer
from serving.settings import OtlpSettings, PolicySettings, Settings
from tracing.exporter import exporter_command, exporter_settings
from tracing.sinks import SinkAway, find_experiment

Ends = Callable[[], Coroutine[Any, Any, None]]


class Launches:
    """``stack`` ends what was started; ``notices`` says what runs."""

    def __init__(self, stack: contextlib.AsyncExitStack, notices: list[str]) -> None:
        self._stack = stack
        self._notices = notices
        self._opa_settings: Settings | None = None
        self._opas = 0
        self.end_opa: Ends | None = None
        """Ends the OPA that was launched at the start."""

    async def start(self, settings: Settings) -> Settings:
        """All that the settings ask for; gives them with where it runs. Raises what does not start."""
        settings = await self._model(settings)
        if settings.policies.engine == "opa" and settings.policies.opa_url is None:
            settings = await self._opa(settings)
        self._exporter(settings)
        if (llm := settings.checks.llm).model is not None:
            self._notices.append(f"model {llm.model} at {llm.url or settings.upstream.url} judges beside the traffic")
        return self._nemo(settings)

    async def _model(self, settings: Settings) -> Settings:
        if settings.model.name is None:
            return settings
        server = VllmServer(settings, await self._model_traces(settings))
        self._stack.push_async_callback(server.stop)
        upstream = await server.start()
        self._notices.append(f"launched vLLM with {settings.model.name}")
        return settings.model_copy(update={"upstream": upstream})

    async def _model_traces(self, settings: Settings) -> OtlpSettings | None:
        """Where vLLM's own spans go: to the first collector, or where there is none to MLflow, if that is up."""
        mlflow = settings.tracing.mlflow
        if settings.tracing.otlp or mlflow is None:
            return next(iter(settings.tracing.otlp), None)
        headers = {"Authorization": f"Bearer {mlflow.token.get_secret_value()}"} if mlflow.token else {}
        try:
            async with aiohttp.ClientSession() as session:
                experiment = await find_experiment(session, mlflow.url, mlflow.experiment, headers)
        except SinkAway as problem:
            self._notices.append(f"vLLM's own spans are not sent: MLflow: {problem}")
            return None
        secret = {"x-mlflow-experiment-id": experiment, **headers}
        return OtlpSettings(
            endpoint=f"{mlflow.url.rstrip('/')}/v1/traces",
            headers={name: SecretStr(value) for name, value in secret.items()},
        )

    async def _opa(self, settings: Settings) -> Settings:
        """An OPA of our own that serves the very bundle that decisions will be compared with."""
        self._opa_settings = settings
        policies, self.end_opa = await self.serve_bundle()
        self._notices.append(f"launched OPA on {policies.opa_url}")
        return settings.model_copy(update={"policies": policies})

    async def serve_bundle(self) -> tuple[PolicySettings, Ends]:
        """Another OPA of our own, with the bundle as it is on disk now; gives where it is, and what ends it before
        everything ends."""
        settings = self._opa_settings
        assert settings is not None
        effective = await asyncio.to_thread(effective_bundle, settings.policies, settings.agents)
        self._opas += 1
        folder = settings.state_dir / "opa" / str(self._opas)  # those before may still be read
        await asyncio.to_thread(effective.write, folder / "bundle")
        server = OpaServer(settings.policies, folder / "bundle", settings.state_dir, folder)
        ending = contextlib.AsyncExitStack()
        ending.push_async_callback(asyncio.to_thread, shutil.rmtree, folder, ignore_errors=True)
        ending.push_async_callback(server.stop)
        self._stack.push_async_callback(ending.aclose)
        try:
            await server.start()
        except BaseException:
            await ending.aclose()
            raise
        where = {"opa_url": server.url, "opa_token": SecretStr(server.token)}
        return settings.policies.model_copy(update=where), ending.aclose

    def _exporter(self, settings: Settings) -> None:
        """The exporter is supervised like any child; what it missed it makes up from the journal."""

        async def alive() -> bool:
            return True

        child = Child(
            ChildSpec(
                "exporter",
                tuple(exporter_command(settings.state_dir)),
                stdin=exporter_settings(settings.tracing, settings.alerts, version=__version__),
                log=settings.state_dir / "logs" / "exporter.log",
            ),
            probe=alive,
        )
        self._stack.push_async_callback(child.stop)
        child.start()

    def _nemo(self, settings: Settings) -> Settings:
        """Checks are never waited for, their server's start neither: until it is up, they are errors."""
        nemo = settings.checks.nemo
        url = nemo.url
        if nemo.launch:
            server = NemoServer(
                nemo.python or Path(sys.executable),
                CONFIG_ROOT,
                config_id=nemo.config_id,
                state_dir=settings.state_dir,
            )
            self._stack.push_async_callback(server.stop)
            server.start()
            url = server.url
            where = {"url": url, "token": SecretStr(server.token), "launch": False}
            checks = settings.checks.model_copy(update={"nemo": nemo.model_copy(update=where)})
            settings = settings.model_copy(update={"checks": checks})
        if url is not None:
            self._notices.append(f"NeMo Guardrails at {url} (beside the traffic)")
        return settings
