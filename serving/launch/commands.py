"""Finding the commands that Interlock launches."""

from __future__ import annotations

import shutil
from pathlib import Path


class LaunchError(Exception):
    """A server cannot be launched; the message ends with the remedy."""


def find_command(given: Path | None, name: str) -> str | None:
    """The command that the settings give, or ``name`` on PATH; null if it is not there."""
    return shutil.which(str(given) if given is not None else name)
