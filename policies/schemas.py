"""The published JSON Schemas of what a policy is asked and what it answers: ``policies/schemas/*.json``.

They are made from the models (``python -m policies.schemas``), never edited; a test says if they are stale.
``opa check --schema`` reads the input's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from policies.bundle import Manifest
from policies.model import Decision, DecisionInput, Finding

FOLDER = Path(__file__).parent / "schemas"
INPUT_SCHEMA = FOLDER / "input.json"

_PUBLISHED: dict[str, type[BaseModel]] = {
    "input": DecisionInput,
    "finding": Finding,
    "decision": Decision,
    "manifest": Manifest,
}


def schemas() -> dict[str, str]:
    """File name → text."""
    return {f"{name}.json": _text(model) for name, model in _PUBLISHED.items()}


def write(folder: Path = FOLDER) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in schemas().items():
        (folder / name).write_text(text, "utf-8")


def _text(model: type[BaseModel]) -> str:
    schema: dict[str, Any] = model.model_json_schema(mode="serialization")
    return json.dumps(schema, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    write()
