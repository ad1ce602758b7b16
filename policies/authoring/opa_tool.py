"""The ``opa`` command: where it is, and what it says. Nothing else in this package starts a process."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SECONDS = 120
VARIABLE = "INTERLOCK_OPA"


class OpaMissingError(Exception):
    """There is no ``opa`` command here."""


class OpaFailedError(Exception):
    """``opa`` refused; the text is its own, with file and line."""


class OpaTool:
    """One ``opa`` binary."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def find(cls) -> OpaTool:
        """The binary that ``INTERLOCK_OPA`` names, else the one on the PATH, else the one of `make opa`."""
        named = os.environ.get(VARIABLE)
        if named and not Path(named).is_file():
            raise OpaMissingError(f"{VARIABLE}: {named} is not a file; set it to an opa command, or to nothing")
        found = named or shutil.which("opa") or _made_here()
        if found is None:
            raise OpaMissingError(
                "no opa command: run `make opa` in a checkout, or install OPA 1.22 or newer (openpolicyagent.org) and "
                f"put it on the PATH, or set {VARIABLE} to it"
            )
        return cls(Path(found))

    def run(self, *arguments: str | Path, cwd: Path | None = None, check: bool = True) -> str:
        """Run ``opa arguments…`` and give its standard output. Raises :class:`OpaFailedError` if it fails,
        unless ``check`` is off; then what it printed elsewhere is given where it said nothing there."""
        try:
            done = subprocess.run(
                [str(self.path), *map(str, arguments)],
                cwd=cwd,
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise OpaFailedError(f"{self.path}: {error}") from error
        if check and done.returncode != 0:
            raise OpaFailedError((done.stderr or done.stdout).strip())
        return done.stdout or (done.stderr if done.returncode != 0 else "")

    def version(self) -> str:
        found = re.search(r"^Version:\s*(\S+)", self.run("version"), re.MULTILINE)
        return found.group(1) if found else "unknown"

    def parse(self, file: Path) -> dict[str, Any]:
        """The syntax tree of one Rego file, with locations."""
        try:
            text = self.run("parse", "--format", "json", "--json-include", "locations,comments", file)
        except OpaFailedError as error:
            raise OpaFailedError(_in_lines(str(error))) from error
        tree: dict[str, Any] = json.loads(text)
        return tree

    def annotations(self, paths: Sequence[Path]) -> list[dict[str, Any]]:
        """Metadata annotations of the files, as ``opa inspect`` gives them."""
        found: list[dict[str, Any]] = []
        for path in paths:
            document = json.loads(self.run("inspect", "--annotations", "--format", "json", path))
            found += document.get("annotations") or []
        return found


def _made_here() -> str | None:
    """The newest of those that `make opa` and `make lanes` leave in Interlock's cache (``deploy/lane.py``)."""
    above = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = Path(os.environ.get("INTERLOCK_CACHE") or above / "interlock")
    made = sorted(cache.glob("lanes/opa-*/made"), key=lambda path: path.stat().st_mtime)
    return next((str(path) for one in reversed(made) if (path := one.parent / "bin" / "opa").is_file()), None)


def _in_lines(text: str) -> str:
    """OPA's errors in JSON as ``file:row: message`` lines; any other text as it is."""
    try:
        errors = json.loads(text)["errors"]
        return "\n".join(f"{e['location']['file']}:{e['location']['row']}: {e['message']}" for e in errors)
    except (ValueError, KeyError, TypeError):
        return text
