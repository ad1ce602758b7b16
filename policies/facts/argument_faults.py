"""What is wrong with a call's arguments, by the JSON schema that the request offered the tool with.

Rego cannot follow a schema into itself and the embedded engine has no ``json.match_schema``, so this is a fact that
policies read. The common keywords of draft 2020-12 are looked at: types, ``enum``, ``const``, ``required``,
``properties``, ``additionalProperties``, ``items``, ``prefixItems``, bounds of numbers and lengths, ``allOf``,
``anyOf``, ``oneOf`` and ``$ref`` within the schema. What is not known is not held against a call. The work is bounded:
``MOST_STEPS`` values are compared, and ``MOST_FAULTS`` faults are told.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from policies.model import ArgumentFault

MOST_FAULTS = 16
MOST_STEPS = 2_000
MOST_DEPTH = 32

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "null": (type(None),),
    "number": (int, float),
}


class _TooMuchError(Exception):
    """More values than are compared."""


def argument_faults(arguments: dict[str, Any], schema: Any) -> list[ArgumentFault]:
    """The faults, in the order of the arguments, each ``path`` a JSON pointer. None if ``schema`` says nothing."""
    if not isinstance(schema, dict):
        return []
    found: list[ArgumentFault] = []
    try:
        for fault in _Reading(schema).faults(arguments, schema, "", 0):
            found.append(fault)
            if len(found) == MOST_FAULTS:
                break
    except _TooMuchError:
        found.append(ArgumentFault(path="", kind="unjudged"))
    return found


class _Reading:
    """One comparison: the whole schema, for its references, and what work is left."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._left = MOST_STEPS

    def faults(self, value: Any, schema: Any, path: str, depth: int) -> Iterator[ArgumentFault]:
        self._left -= 1
        if self._left < 0 or depth > MOST_DEPTH:
            raise _TooMuchError
        if schema is False:
            yield ArgumentFault(path=path, kind="unknown")
        if not isinstance(schema, dict):
            return
        if "$ref" in schema:
            yield from self.faults(value, self._referred(schema["$ref"]), path, depth + 1)
        if not _has_type(value, schema):
            yield ArgumentFault(path=path, kind="type")
            return
        if _outside(value, schema):
            yield ArgumentFault(path=path, kind="value")
        if isinstance(value, dict):
            yield from self._object(value, schema, path, depth)
        elif isinstance(value, list):
            yield from self._array(value, schema, path, depth)
        yield from self._combined(value, schema, path, depth)

    def _object(self, value: dict[str, Any], schema: dict[str, Any], path: str, depth: int) -> Iterator[ArgumentFault]:
        properties = schema.get("properties")
        known = properties if isinstance(properties, dict) else {}
        for name in _list(schema.get("required")):
            if isinstance(name, str) and name not in value:
                yield ArgumentFault(path=f"{path}/{_step(name)}", kind="missing")
        more = schema.get("additionalProperties")
        others = "patternProperties" in schema or "$ref" in schema or any(key in schema for key in _COMBINING)
        for name, part in value.items():
            below = f"{path}/{_step(name)}"
            if name in known:
                yield from self.faults(part, known[name], below, depth + 1)
            elif isinstance(more, dict):
                yield from self.faults(part, more, below, depth + 1)
            elif more is False and not others:
                yield ArgumentFault(path=below, kind="unknown")
            elif more is None and known and not others:
                yield ArgumentFault(path=below, kind="unlisted")

    def _array(self, value: list[Any], schema: dict[str, Any], path: str, depth: int) -> Iterator[ArgumentFault]:
        first = _list(schema.get("prefixItems"))
        rest = schema.get("items")
        for at, part in enumerate(value):
            below = first[at] if at < len(first) else rest
            if isinstance(below, dict | bool):
                yield from self.faults(part, below, f"{path}/{at}", depth + 1)

    def _combined(self, value: Any, schema: dict[str, Any], path: str, depth: int) -> Iterator[ArgumentFault]:
        for part in _list(schema.get("allOf")):
            yield from self.faults(value, part, path, depth + 1)
        for keyword in ("anyOf", "oneOf"):
            choices = _list(schema.get(keyword))
            if choices and not any(self._fits(value, choice, path, depth) for choice in choices):
                yield ArgumentFault(path=path, kind="type")

    def _fits(self, value: Any, schema: Any, path: str, depth: int) -> bool:
        faults = self.faults(value, schema, path, depth + 1)
        return all(fault.kind == "unlisted" for fault in faults)

    def _referred(self, reference: Any) -> Any:
        """What a reference within the schema names; True (anything) for any other."""
        if not isinstance(reference, str) or not reference.startswith("#"):
            return True
        found: Any = self._root
        for step in reference.removeprefix("#").split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, dict) or name not in found:
                return True
            found = found[name]
        return found


_COMBINING = ("allOf", "anyOf", "oneOf")


def _has_type(value: Any, schema: dict[str, Any]) -> bool:
    said = schema.get("type")
    names = [said] if isinstance(said, str) else [name for name in _list(said) if isinstance(name, str)]
    if not names or (schema.get("nullable") is True and value is None):
        return True
    return any(_is(value, name) for name in names)


def _is(value: Any, name: str) -> bool:
    if name == "integer":
        return not isinstance(value, bool) and (
            isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        )
    if name == "number" and isinstance(value, bool):
        return False
    return name not in _TYPES or isinstance(value, _TYPES[name])


def _outside(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a value is none of those that are listed, or beyond its bounds."""
    if isinstance(schema.get("enum"), list) and not any(_same(value, one) for one in schema["enum"]):
        return True
    if "const" in schema and not _same(value, schema["const"]):
        return True
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _beyond(value, schema, ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"))
    if isinstance(value, str):
        return _beyond(len(value), schema, ("minLength", "", "maxLength", ""))
    if isinstance(value, list):
        return _beyond(len(value), schema, ("minItems", "", "maxItems", ""))
    return False


def _beyond(value: float, schema: dict[str, Any], names: tuple[str, str, str, str]) -> bool:
    least, above, most, below = (_number(schema.get(name)) for name in names)
    return (
        (least is not None and value < least)
        or (above is not None and value <= above)
        or (most is not None and value > most)
        or (below is not None and value >= below)
    )


def _same(one: Any, other: Any) -> bool:
    """JSON's equality: 1 is 1.0, and true is no number."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _step(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
