"""The state folder's own folders and files: nobody but their owner may look into them."""

from __future__ import annotations

import os
from pathlib import Path


def private_folder(state_dir: Path, folder: Path) -> Path:
    """Make ``folder`` and what is missing above it, up to and with ``state_dir``, with mode 0700.

    Folders below ``state_dir`` that others could look into are closed; ``state_dir`` itself, if it was there
    before, is the operator's and is left as it is.
    """
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = state_dir
    for part in folder.relative_to(state_dir).parts:
        path /= part
        path.mkdir(mode=0o700, exist_ok=True)
        if path.stat().st_mode & 0o077:
            path.chmod(0o700)
    return folder


def sync_folder(folder: Path) -> None:
    """Make the names in a folder safe from a power failure."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_file(path: Path, data: bytes) -> None:
    """Write a private file (0600) so that a reader, or a killed writer, leaves the old or the new one, never a
    part. Not synced: for what can be made again after a power failure."""
    beside = path.with_name(path.name + ".new")
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(handle, data)
    finally:
        os.close(handle)
    beside.replace(path)
