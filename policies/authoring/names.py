"""Names that a policy uses and that are not there: fields of the input, and parts of the findings that it gives.

OPA's type checker says that something is undefined; this says which object has no such field, and which one was
probably meant. What stands under a variable (``some m in input.request.messages``) is left to OPA.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from policies.authoring.references import Module, Tree, references
from policies.model import Action, Finding, Severity
from policies.schemas import INPUT_SCHEMA

_FIELDS = tuple(Finding.model_fields)
_NEEDED = tuple(name for name, field in Finding.model_fields.items() if field.is_required())
_WORDS: Mapping[str, Sequence[str]] = {"action": [*Action], "severity": [*Severity]}
_ID = re.compile(r"[a-z0-9_.-]{1,64}")

Said = tuple[int, str]
"""A row, and what is wrong there."""


def unknown_names(module: Module) -> Iterator[Said]:
    """Everything of both kinds, in the order of the rules."""
    for bodies in module.rules.values():
        for reference in references(bodies, module.file):
            head, *first = module.imports.get(reference.head, reference.head).split(".")
            if head == "input" and (text := unknown_field([*first, *reference.path])) is not None:
                yield reference.row, text
        for rule in bodies:
            yield from _findings(rule)


def unknown_field(path: Sequence[str]) -> str | None:
    """What is wrong with a field of the input, its steps without ``input``; None if there is such a field."""
    node: Any = _schema()
    for at, step in enumerate(path):
        node = _resolved(node)
        if not isinstance(node, dict) or node.get("additionalProperties") is not False:
            return None  # anything may stand there
        fields = node.get("properties", {})
        if step not in fields:
            whole = ".".join(("input", *path[:at]))
            return f"{whole} has no field {step}{meant(step, fields)}"
        node = fields[step]
    return None


def meant(name: str, there: Sequence[str] | Mapping[str, Any]) -> str:
    """``; did you mean …``, or what there is."""
    names = list(there)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}" if near else f"; there are: {', '.join(sorted(names))}"


@cache
def _schema() -> Any:
    return json.loads(INPUT_SCHEMA.read_text("utf-8"))


def _resolved(node: Any) -> Any:
    """A part of the schema with references followed and ``X or null`` read as X; an alternative of two is anything."""
    while isinstance(node, dict):
        if "$ref" in node:
            target: Any = _schema()
            for step in str(node["$ref"]).removeprefix("#/").split("/"):
                target = target[step]
            node = target
        elif "anyOf" in node:
            others = [one for one in node["anyOf"] if one != {"type": "null"}]
            if len(others) != 1:
                return None
            node = others[0]
        else:
            break
    return node


def _findings(tree: Tree) -> Iterator[Said]:
    """What is wrong with objects that are meant to be findings, as far as it stands written."""
    if isinstance(tree, list):
        for item in tree:
            yield from _findings(item)
    elif isinstance(tree, dict):
        if tree.get("type") == "object":
            yield from _finding(tree)
        for name, part in tree.items():
            if name not in ("location", "annotations"):
                yield from _findings(part)


def _finding(term: Tree) -> Iterator[Said]:
    pairs = {str(key.get("value")): (key, value) for key, value in term.get("value") or () if key["type"] == "string"}
    if len(set(pairs) & set(_NEEDED)) < 3 or len(pairs) != len(term["value"]):
        return
    whole = _row(term)
    for name, (key, value) in pairs.items():
        row = _row(value) or _row(key) or whole
        if name not in _FIELDS:
            yield row, f"a finding has no field {name}{meant(name, _FIELDS)}"
        elif value.get("type") != "string":
            continue
        elif name in _WORDS and value["value"] not in _WORDS[name]:
            yield row, f"there is no {name} {value['value']}{meant(value['value'], _WORDS[name])}"
        elif name == "id" and not _ID.fullmatch(value["value"]):
            yield row, f"id {value['value']!r}: expected 1-64 of a-z, 0-9, '_', '.', '-'"
    for name in _NEEDED:
        if name not in pairs:
            yield whole, f"the finding has no {name}; it needs {', '.join(_NEEDED)}"


def _row(term: Tree) -> int:
    return int((term.get("location") or {}).get("row", 0))
