"""What Interlock begins with, whether it is one process or the parent of several."""

from __future__ import annotations

import contextlib
import secrets
import time

from aiohttp import web

from proxy.admin import AdminState, admin_app
from proxy.breakers.admission import Admission, circuit_key, run_scope
from proxy.breakers.budgets import run_accounts
from proxy.breakers.store import MemoryStore
from proxy.plane import url_of
from proxy.random_ids import random_hex
from proxy.run import Run
from proxy.runs import RunBook
from serving.settings import Settings
from tracing.folders import private_folder

RUN_KEY_BYTES = 32


def in_private_folder(settings: Settings) -> Settings:
    """The settings with the state folder as it is on this machine, made if missing."""
    state_dir = settings.state_dir.expanduser()
    private_folder(state_dir, state_dir)
    return settings.model_copy(update={"state_dir": state_dir})


class State:
    """What is kept of runs, budgets and breakers, in this process. ``key`` keys the runs' digests."""

    def __init__(self, settings: Settings) -> None:
        self.key = secrets.token_bytes(RUN_KEY_BYTES)
        self.store = MemoryStore(time.monotonic)
        self.runs = RunBook(settings.breakers, time.monotonic, lambda: random_hex(8), self.key, self._forgotten)
        self.admission = Admission(settings.breakers, settings.agents, self.store, time.monotonic)

    def _forgotten(self, run: Run) -> None:
        """A run's number never comes again: what was kept under it is of no use."""
        self.store.forget([circuit_key(run_scope(run.id)), *run_accounts(run.id)])


async def listen_admin(settings: Settings, operators: AdminState, stack: contextlib.AsyncExitStack) -> str:
    """Open the operators' listener; gives where it is."""
    listen = settings.listen
    runner = web.AppRunner(admin_app(operators, listen.admin_token), access_log=None, handle_signals=False)
    stack.push_async_callback(runner.cleanup)
    await runner.setup()
    await web.TCPSite(runner, listen.admin_host, listen.admin_port).start()
    return url_of(runner)


def introduction(settings: Settings, url: str, admin_url: str, policies: str) -> list[str]:
    """What a user is told once it listens."""
    return [
        f"listening on {url}, admin on {admin_url}",
        f"upstream {settings.upstream.url}",
        policies,
        f"state in {settings.state_dir.expanduser()}, capture {settings.tracing.capture}",
    ]
