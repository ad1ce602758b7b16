"""NeMo Guardrails as a supervised child: the server that ``checks.nemo`` asks, on a loopback port of its own.

It runs in an interpreter of its own, because its dependencies are many and not ours. What it may say to its
log ends before the first text reaches it (``nemo_boot``). Its readiness is not that it answers but that it
can look: the probe asks ``/v1/checks`` about a harmless word, which also makes it load its engine.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

import aiohttp

from serving.launch.process import Backoff, Child, ChildFailed, ChildSpec, ChildState, Probe, Watch, free_loopback_port

_BOOT = Path(__file__).with_name("nemo_boot.py")


class NemoServer:
    """A launched server. ``url`` and ``token`` are what a client needs; both outlive restarts.

    ``python``: an interpreter that has ``nemoguardrails[server,jailbreak]`` 0.24. ``configs``: the folder
    that holds the configuration ``config_id``. Its log is ``<state_dir>/logs/nemo.log``. ``port`` 0 takes a
    free one. Raises ``ChildFailed`` where interpreter or configuration are not there.
    """

    def __init__(
        self,
        python: Path,
        configs: Path,
        *,
        config_id: str,
        state_dir: Path,
        port: int = 0,
        watch: Watch | None = None,
        backoff: Backoff | None = None,
        on_state: Callable[[ChildState], None] | None = None,
    ) -> None:
        if not python.exists():
            raise ChildFailed(f"nemo: {python} is not there; `checks.nemo.python` names its interpreter")
        if not (configs / config_id / "config.yml").is_file():
            raise ChildFailed(f"nemo: {configs / config_id} holds no config.yml")
        self.token = secrets.token_urlsafe(32)
        port = port or free_loopback_port()
        self.url = f"http://127.0.0.1:{port}"
        self.child = Child(
            ChildSpec(
                name="nemo",
                # -P and -s: neither our folder nor the user's packages come before its own environment.
                argv=(str(python), "-P", "-s", str(_BOOT), str(configs), config_id, str(port)),
                env={
                    "NEMO_BOOT_TOKEN": self.token,
                    "NEMO_GUARDRAILS_IORAILS_ENGINE": "1",
                    "NEMO_GUARDRAILS_DISABLE_CHAT_UI": "true",
                },
                cwd=_made(state_dir),
                log=state_dir / "logs" / "nemo.log",
            ),
            probe=_looks(self.url, self.token, config_id),
            watch=watch,
            backoff=backoff,
            on_state=on_state,
        )

    def start(self) -> None:
        """Begin to run it; see ``Child.start``."""
        self.child.start()

    async def wait_ready(self) -> None:
        """Raises ``ChildFailed``; it is then still supervised, and its checks are errors until it is up."""
        await self.child.wait_ready()

    async def stop(self) -> None:
        await self.child.stop()


def _made(folder: Path) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _looks(url: str, token: str, config_id: str) -> Probe:
    question = {
        "model": "interlock",
        "messages": [{"role": "user", "content": "hello"}],
        "guardrails": {"config_id": config_id, "rail_types": ["input"]},
    }

    async def probe() -> bool:
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10.0)) as session,
                session.post(url + "/v1/checks", json=question, headers={"Authorization": f"Bearer {token}"}) as answer,
            ):
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    return probe
