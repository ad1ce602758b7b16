"""The settings' published forms: a JSON Schema for editors, and a Markdown reference for people.

Both are made from the model, so they cannot say anything else than what holds. ``python -m
serving.settings_doc docs`` makes them again; a test says when that is due.
"""

from __future__ import annotations

import json
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from serving.settings import Settings

SCHEMA_ID = "https://json-schema.org/draft/2020-12/schema"
MARK = "<!-- From here on made by `python -m serving.settings_doc docs`. -->\n\n"


def schema() -> str:
    """The JSON Schema of the settings file, as text that ends with a newline."""
    data = {"$schema": SCHEMA_ID} | Settings.model_json_schema()
    data["title"] = "Interlock settings"
    return json.dumps(_on_one_line(data), indent=2, ensure_ascii=False) + "\n"


def reference() -> str:
    """The Markdown tables, one per section, in the file's order."""
    return "\n".join(_section((), Settings))


def _on_one_line(data: Any) -> Any:
    if isinstance(data, dict):
        return {
            key: " ".join(value.split()) if key == "description" and isinstance(value, str) else _on_one_line(value)
            for key, value in data.items()
            if not (key == "default" and value == str(_default_state_dir()))
        }
    return [_on_one_line(item) for item in data] if isinstance(data, list) else data


def _default_state_dir() -> Path:
    """Depends on who asks, so it is no part of what is published."""
    return Settings().state_dir


def _section(path: tuple[str, ...], model: type[BaseModel]) -> Iterator[str]:
    below: list[tuple[tuple[str, ...], type[BaseModel]]] = []
    rows = []
    for name, field in model.model_fields.items():
        section, step = _model_in(field.annotation)
        if section is not None:
            below.append(((*path, name, *step), section))
        if section is None or step or field.description:
            rows.append(f"| `{name}` | {_type(field)} | {_default(name, field)} | {_text(field.description)} |")
    yield f"## {'`' + '.'.join(path) + '`' if path else 'Top level'}"
    yield ""
    if path and model.__doc__:
        yield " ".join(model.__doc__.split())
        yield ""
    if rows:
        yield "| key | type | default | meaning |"
        yield "|---|---|---|---|"
        yield from rows
        yield ""
    for inner_path, inner in below:
        yield from _section(inner_path, inner)


def _text(description: str | None) -> str:
    return " ".join((description or "").split()).replace("|", "\\|")


def _model_in(annotation: Any) -> tuple[type[BaseModel] | None, tuple[str, ...]]:
    """The section that a field holds, and how to write the step to it (``NAME`` or ``[]``)."""
    for inner in _members(annotation):
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            return inner, ()
        origin, arguments = typing.get_origin(inner), typing.get_args(inner)
        if origin in (dict, list):
            section, _ = _model_in(arguments[-1])
            if section is not None:
                return section, ("NAME",) if origin is dict else ("[]",)
    return None, ()


def _members(annotation: Any) -> list[Any]:
    """The annotation without its constraints, a union's members one by one."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _members(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [inner for member in typing.get_args(annotation) for inner in _members(member)]
    return [annotation]


def _type(field: FieldInfo) -> str:
    return " or ".join(_type_name(member) for member in _members(field.annotation))


def _type_name(annotation: Any) -> str:
    names = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path"}
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type_name(arguments[0])
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is list:
        return f"list of {_type_name(arguments[0])}"
    if origin is dict:
        return f"{_type_name(arguments[0])} → {_type_name(arguments[1])}"
    if annotation is SecretStr:
        return "secret"
    if annotation is type(None):
        return "null"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return names.get(annotation, "anything")


def _default(name: str, field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    if name == "state_dir":
        return "`~/.local/state/interlock`"
    return f"`{json.dumps(field.default)}`"


def write(docs: Path) -> None:
    """``settings.schema.json`` anew, and what follows the mark in ``settings.md``."""
    (docs / "settings.schema.json").write_text(schema(), encoding="utf-8")
    page = docs / "settings.md"
    introduction = page.read_text(encoding="utf-8").partition(MARK)[0]
    page.write_text(introduction + MARK + reference(), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
