"""Everything that the story needs running: model server, wiretap, a whole Interlock; started and ended here.

All ports are free ones of loopback. Everything that is written lies in one new temporary folder, which stays.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from proxy.app import Interlock
from proxy.demo.ledger import Ledger
from proxy.demo.wiretap import Wiretap
from serving import tiny
from serving.launch.vllm import VllmServer
from serving.player import Player
from serving.settings import Settings, UpstreamSettings
from serving.tiny.shelf import TRAFFIC

MODEL = Path(tiny.__file__).with_name("model")

VLLM_ARGUMENTS = (
    *("--served-model-name", "tiny", "--max-model-len", "2048", "--max-num-seqs", "16", "--enforce-eager"),
    *("--dtype", "float32", "--kv-cache-memory-bytes", "64M", "--max-logprobs", "20"),
)
"""What lets a vLLM without a GPU serve the tiny model within half a minute, on top of Interlock's own flags."""

_CLIENT_SECONDS = 60.0


class CannotStart(Exception):
    """A part of the demo is not there; the message ends with the remedy."""


@dataclass(frozen=True)
class Stage:
    """The running parts. ``stop`` ends Interlock; the record can be read afterwards."""

    url: str
    notices: tuple[str, ...]
    state_dir: Path
    tap: Wiretap
    ledger: Ledger
    session: aiohttp.ClientSession
    stop: Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class ModelServer:
    """What answers: the player of recordings, or with ``vllm`` (its command; null: the one on PATH) a real one.

    ``every``: milliseconds from one recorded event to the next.
    """

    real: bool = False
    vllm: Path | None = None
    every: float = 0.0
    traffic: Path = TRAFFIC

    async def start(self, state_dir: Path, stack: contextlib.AsyncExitStack) -> UpstreamSettings:
        """Start it. Raises :class:`CannotStart`, ``LaunchError`` or ``ChildFailed``."""
        if not self.real:
            return await self._player(stack)
        if not (MODEL / "config.json").is_file():
            raise CannotStart(f"the tiny model is not in {MODEL}; take a whole clone, or run the demo without --vllm")
        settings = Settings.model_validate(
            {
                "state_dir": state_dir,
                "model": {"name": str(MODEL), "vllm": self.vllm, "args": list(VLLM_ARGUMENTS)},
            }
        )
        server = VllmServer(settings)
        stack.push_async_callback(server.stop)
        return await server.start()

    async def _player(self, stack: contextlib.AsyncExitStack) -> UpstreamSettings:
        if not any(self.traffic.glob("*.http")):
            raise CannotStart(
                f"there are no recordings in {self.traffic}; take a whole clone, or play on a real vLLM with --vllm"
            )
        player = Player(self.traffic, every=self.every)
        stack.push_async_callback(player.stop)
        return UpstreamSettings(url=await player.start())


def new_state_dir() -> Path:
    """A private folder for one show."""
    return Path(tempfile.mkdtemp(prefix="interlock-demo-"))


@contextlib.asynccontextmanager
async def staged(model: UpstreamSettings, state_dir: Path) -> AsyncIterator[Stage]:
    """A whole Interlock, with no settings but ports and folder, behind a wiretap before ``model``."""
    async with contextlib.AsyncExitStack() as stack:
        _log_to(state_dir / "demo.log", stack)
        tap = Wiretap(model.url)
        stack.push_async_callback(tap.stop)
        upstream = model.model_copy(update={"url": await tap.start()})
        interlock = Interlock(
            Settings.model_validate(
                {
                    "upstream": upstream,
                    "listen": {"port": 0, "admin_port": 0, "drain_seconds": 1.0},
                    "state_dir": state_dir,
                }
            )
        )
        await interlock.start()
        stopping = contextlib.AsyncExitStack()
        await stack.enter_async_context(stopping)
        stopping.push_async_callback(interlock.stop)
        timeout = aiohttp.ClientTimeout(total=_CLIENT_SECONDS)
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout, trust_env=False))
        yield Stage(
            interlock.url, tuple(interlock.notices), state_dir, tap, Ledger(state_dir), session, stopping.aclose
        )


def _log_to(path: Path, stack: contextlib.ExitStack | contextlib.AsyncExitStack) -> None:
    """What the parts log goes to a file, not into the story."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    stack.callback(handler.close)
    stack.callback(root.removeHandler, handler)
