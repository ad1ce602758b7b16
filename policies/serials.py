"""Which signed files have been in force: so that an older one, with its old signature, cannot be put back.

Whoever can write the folder of a roll-out, or answers for the URL of a bundle, cannot sign, but could bring back what
was signed once. So the highest serial that was in force is kept in the state folder, for each kind of file (the bundle,
each layer of the roll-out), and one below it is refused, whichever of the keys has signed it: else a key that was
replaced would bring back its last file. Of two files with one serial the first counts.

A serial counts once what it is of is in force; what was only read, and could not be used, does not bar what was before.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from policies.signing import SignatureError, Signed

_NEVER = "set `policies.older_signed: allow` to have it all the same"


class NotYet(SignatureError):
    """A file that does not hold yet."""


class _Seen(msgspec.Struct, frozen=True):
    serial: int
    content: str


class Serials:
    """``path`` is the file, made if missing; ``older``: what becomes of an older file. Where ``path`` is there and
    cannot be read, nobody knows what was in force: ``SignatureError``."""

    def __init__(
        self,
        path: Path,
        older: Literal["refuse", "allow"] = "refuse",
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._path = path
        self._older = older
        self._now = now

    def intake(self) -> Intake:
        """For files that are read together."""
        return Intake(self, self._read())

    def refusal(self, label: str, signed: Signed, content: str, seen: dict[str, _Seen]) -> SignatureError | None:
        """Why a file may not be taken, if it may not."""
        if signed.not_before is not None and self._now() < signed.not_before:
            return NotYet(f"does not hold before {signed.not_before:%Y-%m-%d %H:%M:%S} UTC, as its signature says")
        known = seen.get(label)
        if self._older == "allow" or known is None or (signed.serial, content) == (known.serial, known.content):
            return None
        if signed.serial < known.serial:
            return SignatureError(
                f"is older (serial {signed.serial}) than what has been in force (serial {known.serial}); sign what "
                f"is to hold again, or {_NEVER}"
            )
        if signed.serial == known.serial:
            return SignatureError(
                f"has the serial {signed.serial} of another one that has been in force; sign it again, or {_NEVER}"
            )
        return None

    def remember(self, taken: dict[str, _Seen]) -> None:
        """These are in force. Several processes may say so at once: the highest counts, unless older are allowed."""
        if not taken:
            return
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            seen = self._read()
            newer = {
                label: one
                for label, one in taken.items()
                if self._older == "allow" or label not in seen or one.serial > seen[label].serial
            }
            if any(seen.get(label) != one for label, one in newer.items()):
                self._write(seen | newer)
        finally:
            os.close(handle)

    def _read(self) -> dict[str, _Seen]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, _Seen])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.MsgspecError) as problem:
            raise SignatureError(
                f"{self._path}: cannot be read, so nobody knows which serials were in force: {problem}"
            ) from None

    def _write(self, seen: dict[str, _Seen]) -> None:
        """Durably: an older state after a power failure would let an older file by."""
        beside = self._path.with_suffix(".new")
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(json.dumps(msgspec.to_builtins(seen), indent=1, sort_keys=True).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class Intake:
    """The signed files of one bundle and roll-out, as they are read."""

    def __init__(self, serials: Serials, seen: dict[str, _Seen]) -> None:
        self._serials = serials
        self._seen = seen
        self._taken: dict[str, _Seen] = {}

    def take(self, label: str, signed: Signed, content: bytes, where: str) -> None:
        """Raises :class:`SignatureError` if it is older than what has been in force, or does not hold yet."""
        digest = hashlib.sha256(content).hexdigest()
        refusal = self._serials.refusal(label, signed, digest, self._seen)
        if refusal is not None:
            raise type(refusal)(f"{where}: {refusal}")
        self._taken[label] = _Seen(signed.serial, digest)

    def in_force(self) -> None:
        """What was taken holds now: nothing older will. ``OSError`` if that cannot be written down."""
        self._serials.remember(self._taken)
