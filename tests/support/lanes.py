"""Where the real vLLM, OPA, NeMo Guardrails and MLflow are, or why a test cannot have them.

`make test` makes the lanes and names them in the environment. Under a plain `pytest` those made before are
found in the cache. A lane that is not there skips its tests and says how to get it; with ``CI=true`` it fails
them, because there a skipped proof would look like a passed one.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parents[2]
VARIABLES = {
    "vllm": "INTERLOCK_LANE_VLLM",
    "nemo": "INTERLOCK_LANE_NEMO",
    "mlflow": "INTERLOCK_LANE_MLFLOW",
    "opa": "INTERLOCK_OPA",
}


def unavailable(reason: str) -> NoReturn:
    """Skip the test that asks; fail it with ``CI=true``."""
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(f"with CI=true this is a failure: {reason}", pytrace=False)
    pytest.skip(reason)


@functools.cache
def find_lane(name: str) -> Path | None:
    """The lane's path (an environment's folder; OPA's binary), or None. Never makes it."""
    given = os.environ.get(VARIABLES[name])
    if given:
        return Path(given)
    asked = subprocess.run(
        [sys.executable, ROOT / "deploy" / "lane.py", name, "--if-made"],
        capture_output=True,
        text=True,
        check=False,
    )
    return Path(asked.stdout.strip()) if asked.returncode == 0 else None


def lane(name: str) -> Path:
    """The lane's path; else the test is skipped, or failed with ``CI=true``."""
    path = find_lane(name)
    if path is None:
        unavailable(f"no {name} lane on this machine. Remedy: make lanes, or set {VARIABLES[name]}")
    if not path.exists():
        unavailable(f"{VARIABLES[name]} names {path}, which is not there")
    return path
