"""Which OPA servers the parent keeps for its workers."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from pydantic import SecretStr

from proxy.reloading import Ends
from proxy.workers import words
from proxy.workers.bundles import BundleServers
from serving.settings import PolicySettings


class Parent:
    """A parent without processes: ``disk`` is the digest of the bundle on disk, ``running`` the servers by number."""

    def __init__(self) -> None:
        self.disk = "a"
        self.running: dict[int, str] = {}
        self._started = 0
        self.servers = BundleServers(self._serve, self._digest)

    async def _digest(self) -> str:
        return self.disk

    async def _serve(self) -> tuple[PolicySettings, Ends]:
        self._started += 1
        number = self._started
        self.running[number] = self.disk

        def end() -> Coroutine[Any, Any, None]:
            async def ended() -> None:
                del self.running[number]

            return ended()

        return PolicySettings(opa_url=f"http://127.0.0.1:{number}", opa_token=SecretStr("t")), end


class Worker:
    def __init__(self, parent: Parent) -> None:
        self._servers = parent.servers
        self.told: asyncio.Queue[words.FromParent] = asyncio.Queue()
        self.tell = self.told.put_nowait

    async def wants(self) -> str:
        """The URL of a server with the bundle that is on disk."""
        self._servers.wanted(self.tell, 1)
        word = await self.told.get()
        assert isinstance(word, words.Served)
        return word.url

    async def done_with(self, url: str) -> None:
        self._servers.done_with(self.tell, url)
        await asyncio.sleep(0)


async def test_workers_share_a_server_until_the_last_has_done_with_it() -> None:
    parent = Parent()
    one, other = Worker(parent), Worker(parent)
    url = await one.wants()
    assert await other.wants() == url
    await one.done_with(url)
    await one.done_with(url)  # says so twice
    assert parent.running == {1: "a"}
    parent.servers.lost(other.tell)
    await asyncio.sleep(0)
    assert parent.running == {}


async def test_a_worker_that_asks_a_server_for_two_sets_of_policies_keeps_it_until_both_are_over() -> None:
    """Another roll-out over the same bundle, or one that cannot be used and is given up at once."""
    parent = Parent()
    worker = Worker(parent)
    url = await worker.wants()
    assert await worker.wants() == url
    await worker.done_with(url)
    assert parent.running == {1: "a"}
    await worker.done_with(url)
    assert parent.running == {}


async def test_a_bundle_that_comes_back_gets_the_server_that_still_has_it() -> None:
    parent = Parent()
    worker = Worker(parent)
    first = await worker.wants()
    parent.disk = "b"
    second = await worker.wants()
    parent.disk = "a"
    assert await worker.wants() == first
    await worker.done_with(first)
    await worker.done_with(second)
    assert parent.running == {1: "a"}
    parent.servers.lost(worker.tell)
    await asyncio.sleep(0)
    assert parent.running == {}
