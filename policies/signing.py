"""Ed25519 signatures of files that say what may happen: roll-out documents and bundles.

A key pair is two small text files: the private key in PEM (PKCS 8), which stays with whoever may decide, and the public
key as one line ``ed25519:<base64 of 32 bytes>``, which the settings of every Interlock name. A signature stands beside
its file, as ``<file>.sig``: one line ``ed25519:<base64> serial=<number>``, and ``from=<time>`` where the file does not
hold before that. It is over a label, what the line says after the key, and the file's bytes. The label says what the
file is for, so that a signature of one kind of file is none of another kind; the serial which of two is the newer
(:mod:`policies.serials`).
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

_PREFIX = "ed25519:"
_LINE = re.compile(r"(\S+) (serial=([0-9]{1,18})(?: from=([0-9T:-]{19}Z))?)")
_TIME = "%Y-%m-%dT%H:%M:%SZ"


class SignatureError(ValueError):
    """A key or signature that is missing, is none, or does not fit: says which file and what to do."""


@dataclass(frozen=True)
class Signed:
    """What a signature says of its file: its ``serial``, and (UTC) from when on it holds."""

    serial: int
    not_before: datetime | None = None


def make_keys(private: Path) -> str:
    """Write a new private key to ``private`` (0600, never over another file); gives the public key's line."""
    key = Ed25519PrivateKey.generate()
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        handle = os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise SignatureError(f"{private}: is there already; a key is never overwritten") from None
    with os.fdopen(handle, "wb") as file:
        file.write(text)
    return public_line(key)


def public_line(key: Ed25519PrivateKey) -> str:
    """The line ``ed25519:…`` that settings name."""
    return _line(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))


def read_private(path: Path) -> Ed25519PrivateKey:
    """Raises :class:`SignatureError` if there is no such key."""
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise SignatureError(f"{path}: {error.strerror or error}; `interlock policy keygen` makes a key") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise SignatureError(f"{path}: is no private key in PEM without a password") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise SignatureError(f"{path}: is no Ed25519 key; make one with `interlock policy keygen`")
    return key


def read_public(line: str) -> Ed25519PublicKey:
    """The key of a line ``ed25519:…``. Raises :class:`SignatureError`."""
    try:
        return Ed25519PublicKey.from_public_bytes(_bytes(line))
    except ValueError:
        raise SignatureError("a public key is one line `ed25519:` and 32 bytes in base64") from None


def sign(
    key: Ed25519PrivateKey,
    label: str,
    content: bytes,
    *,
    serial: int | None = None,
    not_before: datetime | None = None,
) -> str:
    """The signature's line. Without a ``serial`` it is the time, in milliseconds: what is signed later is newer."""
    said = f"serial={time.time_ns() // 1_000_000 if serial is None else serial}"
    if not_before is not None:
        said += f" from={not_before.astimezone(UTC).strftime(_TIME)}"
    return f"{_line(key.sign(_signed(label, said, content)))} {said}"


def verify(keys: Iterable[str], label: str, content: bytes, line: str | None, where: str) -> Signed:
    """What the signature says. Raises :class:`SignatureError` unless ``line`` is a signature of ``content`` by one of
    ``keys``."""
    if line is None:
        raise SignatureError(f"{where}: is not signed (no {where}.sig); sign it with `interlock policy sign`")
    parts = _LINE.fullmatch(line.strip())
    try:
        signature = _bytes(parts[1]) if parts is not None else b""
        not_before = datetime.strptime(parts[4], _TIME).replace(tzinfo=UTC) if parts is not None and parts[4] else None
    except ValueError:
        parts = None
    if parts is None:
        raise SignatureError(f"{where}: its signature is none, or has no serial; sign it with `interlock policy sign`")
    for key in keys:
        try:
            read_public(key).verify(signature, _signed(label, parts[2], content))
        except InvalidSignature:
            continue
        return Signed(int(parts[3]), not_before)
    raise SignatureError(
        f"{where}: its signature is by none of the keys in the settings, or the file was changed; sign it again"
    )


def signature_path(path: Path) -> Path:
    """Where the signature of ``path`` stands."""
    return path.with_name(path.name + ".sig")


def _signed(label: str, said: str, content: bytes) -> bytes:
    return b"interlock " + label.encode() + b"\0" + said.encode() + b"\0" + content


def _line(raw: bytes) -> str:
    return _PREFIX + base64.b64encode(raw).decode()


def _bytes(line: str) -> bytes:
    text = line.strip()
    if not text.startswith(_PREFIX):
        raise ValueError("no ed25519 line")
    try:
        return base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
