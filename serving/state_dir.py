"""The folder below which Interlock writes everything: made private, or refused.

Journal, keys and children's logs lie there, so nobody else may read it (mode 0700, ours). A folder that exists
with a wider mode is refused rather than changed: it may be a home or a shared folder, given by mistake.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path


class StateDirError(Exception):
    """The folder cannot be used; the message ends with the remedy."""


def prepare(path: Path) -> Path:
    """``path`` as an absolute, private, writable folder, made if missing. Raises ``StateDirError``."""
    path = path.expanduser().absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
    except OSError as error:
        raise StateDirError(
            f"the state folder {path} cannot be made: {error.strerror}; give another by --state-dir"
        ) from None
    if found.st_uid != os.geteuid():
        raise StateDirError(f"the state folder {path} belongs to another user; give another by --state-dir")
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        raise StateDirError(
            f"the state folder {path} is open to other users (mode {mode:04o}); "
            f"run `chmod 700 {path}` if it is Interlock's own, or give another by --state-dir"
        )
    if not os.access(path, os.W_OK | os.X_OK):
        raise StateDirError(f"the state folder {path} cannot be written; run `chmod 700 {path}`")
    return path
