"""What is published of the settings is what holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serving.settings import Settings
from serving.settings_doc import MARK, reference, schema

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_published_schema_is_current() -> None:
    assert (DOCS / "settings.schema.json").read_text(encoding="utf-8") == schema(), (
        "run `python -m serving.settings_doc docs`"
    )


def test_the_published_reference_is_current() -> None:
    text = (DOCS / "settings.md").read_text(encoding="utf-8")
    assert text.endswith(MARK + reference()), "run `python -m serving.settings_doc docs`"


def test_the_published_forms_do_not_depend_on_who_makes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    before = (schema(), reference())
    monkeypatch.setenv("HOME", "/home/somebody-else")
    assert (schema(), reference()) == before


def test_every_setting_says_what_it_means() -> None:
    definitions = json.loads(schema())["$defs"]
    for name, definition in definitions.items():
        for key, value in definition["properties"].items():
            section = "$ref" in json.dumps(value) and key in ("nemo", "llm", "fail_open", "approval")
            assert section or value.get("description"), f"{name}.{key}"
    assert set(json.loads(schema())["properties"]) == set(Settings.model_fields)
