"""The parent's side of OPA servers: one for each bundle that any worker asks about.

A worker loads a changed bundle by itself, and then asks for a server that has it. The first that asks has one started,
whoever comes next with the same bundle shares it, and a server ends when the last worker has done with it: once for
each time that it asked, since a worker may ask one server for several sets of policies.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

from proxy.reloading import Ends, Serve
from proxy.workers import words
from serving.launch.commands import LaunchError
from serving.launch.process import ChildFailed
from serving.settings import PolicySettings

_log = logging.getLogger("interlock.workers")

Tell = Callable[[words.FromParent], None]
Digest = Callable[[], Awaitable[str]]


@dataclass(eq=False)
class _Served:
    settings: PolicySettings
    end: Ends
    users: Counter[Tell] = field(default_factory=Counter)
    """How many times each has asked for it, and not done with it yet."""


class BundleServers:
    """``serve`` starts a server with the bundle as it is on disk now, of which ``digest`` gives the digest."""

    def __init__(self, serve: Serve, digest: Digest) -> None:
        self._serve = serve
        self._digest = digest
        self._servers: dict[str, _Served] = {}
        self._one_at_a_time = asyncio.Lock()
        self._wanting: set[asyncio.Task[None]] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._gone: WeakSet[Tell] = WeakSet()

    def add(self, digest: str, settings: PolicySettings, end: Ends) -> None:
        """One that runs already, for whoever asks first."""
        self._servers[digest] = _Served(settings, end)

    def wanted(self, tell: Tell, number: int) -> None:
        """A worker wants a server; it is told when there is one, or why there is none."""
        _later(self._want(tell, number), self._wanting)

    def done_with(self, tell: Tell, url: str) -> None:
        """A worker asks that server no more."""
        for served in list(self._servers.values()):
            if str(served.settings.opa_url) == url:
                self._drop(served, tell, 1)

    def lost(self, tell: Tell) -> None:
        """The worker is gone."""
        self._gone.add(tell)
        for served in list(self._servers.values()):
            self._drop(served, tell, served.users[tell])

    async def close(self) -> None:
        """Start nothing more, and end what is ending. The other servers end with everything that was launched."""
        for task in list(self._wanting):
            task.cancel()
        await asyncio.gather(*self._wanting, *self._ending, return_exceptions=True)

    async def _want(self, tell: Tell, number: int) -> None:
        try:
            async with self._one_at_a_time:
                served = await self._served()
                served.users[tell] += 1
                if tell in self._gone:
                    self._drop(served, tell, 1)
        except (OSError, ValueError, LaunchError, ChildFailed) as problem:
            tell(words.Served(number, problem=str(problem)))
            return
        except Exception as problem:
            _log.exception("an OPA server could not be started")
            tell(words.Served(number, problem=f"OPA could not be started: {problem}"))
            return
        token = served.settings.opa_token
        assert token is not None
        tell(words.Served(number, url=str(served.settings.opa_url), token=token.get_secret_value()))

    async def _served(self) -> _Served:
        digest = await self._digest()
        known = self._servers.get(digest)
        if known is None:
            settings, end = await self._serve()
            # The bundle may have changed meanwhile: a worker that loads another one finds that out, and asks again.
            known = self._servers[digest] = _Served(settings, end)
        return known

    def _drop(self, served: _Served, tell: Tell, times: int) -> None:
        if served.users[tell]:
            served.users -= Counter({tell: times})
            if not served.users:
                self._servers = {digest: one for digest, one in self._servers.items() if one is not served}
                _later(served.end(), self._ending)


def _later(coroutine: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> None:
    task = asyncio.get_running_loop().create_task(coroutine)
    tasks.add(task)
    task.add_done_callback(tasks.discard)
