"""Policies that change while traffic flows: what is found anew is loaded beside what is in force, and takes its place.

How to think about it. An exchange keeps the judge that it began with, so no decision is made by half of one set and
half of another. Another bundle or roll-out is read, verified and compiled in a thread; only when all of that is done,
and the engine answers, do new exchanges get it. Where any of it fails, what was in force stays in force, and an alert
says what is wrong until it is mended. The old set's engine is closed when the last exchange that began with it is over;
one that does not end keeps it for ``policies.old_seconds``, or until ``MOST_OLD`` sets are newer. From then on what it
would have to be asked about is denied, as by an engine that is away.

A file that is being written looks broken: so a change is acted upon when two looks in a row see the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from policies.bundle import BundleError
from policies.engines.base import EngineError
from policies.fetched import FetchedBundle
from policies.in_force import Policies
from policies.serials import NotYet, Serials
from proxy.judges import Judges
from proxy.live import Live
from proxy.recorder import Recorder
from serving.launch.commands import LaunchError
from serving.launch.process import ChildFailed
from serving.settings import PolicySettings, Settings

_log = logging.getLogger(__name__)

MOST_OLD = 4
"""Sets that are kept besides the one in force, for exchanges that began with them."""

NOT_LOADED, _SUBJECT = "policies_not_loaded", "policies"

Stamp = tuple[tuple[str, int, int, int], ...]
Ends = Callable[[], Coroutine[Any, Any, None]]
Serve = Callable[[], Awaitable[tuple[PolicySettings, Ends]]]
"""Has an OPA of our own serve the bundle as it is now: gives the settings with where, and what ends that server."""


def fetched_bundle(settings: Settings) -> FetchedBundle | None:
    """Where the bundle is fetched from, if it is. Raises :class:`BundleError` for settings that contradict."""
    if settings.policies.bundle_url is None:
        return None
    return FetchedBundle(settings.policies, settings.state_dir / "policies" / "bundle.tar.gz", serials_of(settings))


def serials_of(settings: Settings) -> Serials:
    """Which signed bundles and roll-outs have been in force here."""
    return Serials(settings.state_dir / "policies" / "serials.json", settings.policies.older_signed)


async def with_bundle(settings: Settings, notices: list[str]) -> Settings:
    """The settings with the bundle at hand, fetched if need be. Raises :class:`BundleError` if there is none."""
    fetched = fetched_bundle(settings)
    if fetched is None:
        return settings
    if settings.policies.bundle is not None:
        raise BundleError("policies.bundle and policies.bundle_url both say where the bundle is; leave one out")
    try:
        await fetched.fetch()
    except BundleError as problem:
        if not fetched.path.exists():
            raise
        notices.append(f"the bundle of last time is in force: {problem}")
    return settings.model_copy(update={"policies": settings.policies.model_copy(update={"bundle": fetched.path})})


class Reloader:
    """``loaded``: what was on disk before what is in force was read. ``fetched``: the bundle comes from a URL.
    ``serve``: Interlock runs the OPA server itself; ``end`` ends the one that is asked now."""

    def __init__(
        self,
        settings: Settings,
        judges: Judges,
        live: Live,
        recorder: Recorder,
        loaded: Stamp,
        *,
        fetched: FetchedBundle | None = None,
        serve: Serve | None = None,
        end: Ends | None = None,
    ) -> None:
        self._settings = settings
        self._judges = judges
        self._live = live
        self._recorder = recorder
        self._fetched = fetched
        self._serve = serve
        self._loaded = self._seen = loaded
        self._unusable: str | None = None  # what is wrong with what is on disk now
        self._end = end
        self._retiring: dict[asyncio.Task[None], asyncio.Event] = {}
        self._ending = False

    async def watch(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(self._settings.policies.reload_seconds)
            try:
                await self.look()
            except Exception:
                _log.exception("looking for changed policies failed")

    async def look(self) -> bool:
        """Look once; gives whether other policies are in force now."""
        away = False
        if self._fetched is not None:
            try:
                await self._fetched.fetch()
            except BundleError as problem:  # the roll-out on disk may have changed all the same
                self._failed(str(problem))
                away = True
        stamp = await asyncio.to_thread(stamp_of, self._settings.policies)
        settled, self._seen = stamp == self._seen, stamp
        if stamp == self._loaded:
            if self._unusable is not None:
                self._alert(self._unusable)
            elif not away:
                self._recorder.resolve(NOT_LOADED, _SUBJECT, "*")
            return False
        if not settled:
            return False
        self._loaded, self._unusable = stamp, "loading them failed; the log of Interlock says how"
        return await self._load()

    async def close(self) -> None:
        """Close what still waits for exchanges of an older set. The OPA server of the newest is asked to the end."""
        self._ending = True
        for at_once in self._retiring.values():
            at_once.set()
        await asyncio.gather(*self._retiring, return_exceptions=True)

    async def _load(self) -> bool:
        wanted, end = self._settings.policies, None
        try:
            if self._serve is not None:
                wanted, end = await self._serve()
            serials = serials_of(self._settings)
            policies = await asyncio.to_thread(Policies.load, wanted, self._settings.agents, serials)
            await policies.start()
            try:
                await policies.prove()
                await asyncio.to_thread(policies.taken)
            except BaseException:
                await policies.close()
                raise
        except (ValueError, EngineError, LaunchError, ChildFailed, OSError, RuntimeError) as problem:
            if end is not None:
                await end()
            if not isinstance(problem, ValueError) or isinstance(problem, NotYet):
                self._loaded = ()  # an engine may be there the next time, or its day have come: look again
            self._unusable = str(problem)
            self._failed(self._unusable)
            return False
        before = self._judges.policies
        if (policies.digest, policies.rollout.digest) == (before.digest, before.rollout.digest) and end is None:
            await policies.close()
            self._unusable = None
            self._recorder.resolve(NOT_LOADED, _SUBJECT, "*")
            return False
        self._judges.use(policies)
        old_end, self._end, self._unusable = self._end, end, None
        self._recorder.resolve(NOT_LOADED, _SUBJECT, "*")
        self._recorder.operated(
            "interlock",
            "policies_loaded",
            policies.digest,
            f"bundle {policies.digest}, roll-out {policies.rollout.digest}",
        )
        self._recorder.exceptions_end(policies)
        _log.warning("other policies are in force: bundle %s, roll-out %s", policies.digest, policies.rollout.digest)
        at_once = asyncio.Event()
        task = asyncio.get_running_loop().create_task(self._retire(before, old_end, at_once))
        self._retiring[task] = at_once
        task.add_done_callback(self._retiring.pop)
        for one in list(self._retiring.values())[:-MOST_OLD]:
            one.set()
        return True

    async def _retire(self, policies: Policies, end: Ends | None, at_once: asyncio.Event) -> None:
        """Close a set that is no longer in force: when nothing is judged by it any more, but no later than the settings
        say, and at once where there are too many. What still runs then is denied what would have to be asked."""
        passed, enough = asyncio.ensure_future(self._live.passed()), asyncio.ensure_future(at_once.wait())
        try:
            await asyncio.wait(
                {passed, enough},
                timeout=self._settings.policies.old_seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not passed.done() and not self._ending:
                _log.warning("what began under bundle %s and still runs is not judged by it any more", policies.digest)
        finally:
            passed.cancel()
            enough.cancel()
            with contextlib.suppress(Exception):
                await policies.close()
            if end is not None:
                await end()

    def _failed(self, problem: str) -> None:
        _log.error("other policies could not be loaded, the old ones stay in force: %s", problem)
        self._alert(problem)

    def _alert(self, problem: str) -> None:
        """Said again and again: what nobody speaks of any more counts as gone."""
        self._recorder.fire(
            NOT_LOADED,
            _SUBJECT,
            "*",
            summary="Changed policies cannot be used; the old ones stay in force.",
            severity="high",
            evidence={"problem": problem[:500]},
            release="Mend the bundle or the roll-out; it is looked at again when it changes.",
        )


def stamp_of(policies: PolicySettings) -> Stamp:
    """What bundle and roll-out are on disk now."""
    return tuple(mark for root in (policies.bundle, policies.rollout) if root is not None for mark in _marks(root))


def _marks(root: Path) -> list[tuple[str, int, int, int]]:
    """What tells a changed file: its path, inode, size and time."""
    paths = [root]
    for folder, _, names in os.walk(root):
        paths += [Path(folder, name) for name in names]
    marks = []
    for path in sorted(paths):
        with contextlib.suppress(OSError):
            about = path.stat()
            marks.append((str(path), about.st_ino, about.st_size, about.st_mtime_ns))
    return marks
