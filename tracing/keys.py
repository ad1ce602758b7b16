"""The keys of the runs: what a commitment to content is made under.

One file per run, ``<state>/keys/<xx>/<sha256 of the run's name>``, 32 random bytes, 0600. Whoever holds the
key can show that a commitment in the record is one to a given text; when it is erased, nobody can, and the
commitment says nothing any more. A key is made when it is first needed.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

from tracing.folders import private_folder

_KEPT = 10_000


class RunKeys:
    """The keys below one state folder. ``key`` is called in the journal's writing thread (it may touch the
    disk); several processes may share the folder."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._kept: OrderedDict[str, bytes] = OrderedDict()

    def key(self, run: str) -> bytes:
        """The run's key, made if there is none. ``OSError`` if it can be neither read nor kept."""
        key = self._kept.get(run)
        if key is None:
            key = self._kept[run] = self._load(run) or self._make(run)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(run)
        return key

    def path(self, run: str) -> Path:
        """Where the run's key lies or would lie."""
        name = hashlib.sha256(run.encode("utf-8", "surrogatepass")).hexdigest()
        return self._state_dir / "keys" / name[:2] / name

    def _load(self, run: str) -> bytes | None:
        try:
            return self.path(run).read_bytes()
        except FileNotFoundError:
            return None

    def _make(self, run: str) -> bytes:
        """Write the key beside its place and link it there, so that of two makers one wins and neither sees
        a part of a key."""
        path = self.path(run)
        private_folder(self._state_dir, path.parent)
        key = os.urandom(32)
        beside = path.with_name(f"{path.name}.{os.getpid()}.{key[:4].hex()}")
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(handle, key)
        finally:
            os.close(handle)
        with suppress(FileExistsError):
            path.hardlink_to(beside)
        beside.unlink()
        return path.read_bytes()
