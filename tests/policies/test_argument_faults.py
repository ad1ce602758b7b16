"""What is wrong with arguments by a tool's schema, and where that is not held against them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.facts.argument_faults import MOST_FAULTS, MOST_STEPS, argument_faults

CITY = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "minLength": 1},
        "unit": {"enum": ["c", "f", 1]},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 2},
        "place": {"$ref": "#/$defs/Place"},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    },
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {
        "Place": {
            "type": "object",
            "properties": {"lat": {"type": "number", "exclusiveMaximum": 90}, "inner": {"$ref": "#/$defs/Place"}},
            "required": ["lat"],
        }
    },
}


def faults(arguments: dict[str, Any], schema: Any = CITY) -> list[tuple[str, str]]:
    return [(fault.path, fault.kind) for fault in argument_faults(arguments, schema)]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"unit": "c"},
        {"unit": 1.0},
        {"days": 14},
        {"days": 3.0},
        {"tags": ["a", "b"]},
        {"note": None},
        {"note": "x"},
        {"place": {"lat": 1, "inner": {"lat": -3.5}}},
    ],
)
def test_arguments_that_fit_have_no_fault(more: dict[str, Any]) -> None:
    assert faults({"city": "Oslo", **more}) == []


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ({"city": ["Oslo"]}, [("/city", "type")]),
        ({"city": ""}, [("/city", "value")]),
        ({"unit": "k"}, [("/unit", "value")]),
        ({"unit": True}, [("/unit", "value")]),
        ({"days": 0}, [("/days", "value")]),
        ({"days": 2.5}, [("/days", "type")]),
        ({"days": True}, [("/days", "type")]),
        ({"days": "3"}, [("/days", "type")]),
        ({"tags": ["a", 2]}, [("/tags/1", "type")]),
        ({"tags": ["a", "b", "c"]}, [("/tags", "value")]),
        ({"note": 3}, [("/note", "type")]),
        ({"place": {"lat": 90}}, [("/place/lat", "value")]),
        ({"place": {"lat": 1, "inner": {}}}, [("/place/inner/lat", "missing")]),
        ({"place": {"lat": 1, "x/~": 2}}, [("/place/x~1~0", "unlisted")]),
        ({"other": 1}, [("/other", "unknown")]),
    ],
)
def test_a_fault_says_where_and_what(more: dict[str, Any], found: list[tuple[str, str]]) -> None:
    assert faults({"city": "Oslo", **more}) == found


def test_what_is_required_is_missed() -> None:
    assert faults({}) == [("/city", "missing")]


@pytest.mark.parametrize(
    "schema",
    [
        None,
        True,
        "object",
        [],
        {},
        {"type": "any"},
        {"type": 7},
        {"properties": "x"},
        {"required": "city"},
        {"$ref": "https://example.com/schema"},
        {"$ref": "#/nowhere"},
        {"enum": "x"},
        {"pattern": "("},
        {"anyOf": 3},
        {"minimum": "x"},
    ],
)
def test_a_schema_that_says_nothing_holds_nothing_against_a_call(schema: Any) -> None:
    assert faults({"city": "Oslo"}, schema) == []


def test_properties_of_alternatives_are_not_unlisted() -> None:
    schema = {"properties": {"a": {}}, "anyOf": [{"properties": {"b": {"type": "string"}}}]}
    assert faults({"a": 1, "b": "x"}, schema) == []
    assert faults({"a": 1, "b": 2}, schema) == [("", "type")]


def test_the_work_is_bounded() -> None:
    loop = {"$ref": "#"}
    assert faults({"a": 1}, loop) == [("", "unjudged")]
    many = {"type": "object", "additionalProperties": {"type": "string"}}
    assert faults({str(n): "x" for n in range(MOST_STEPS + 1)}, many) == [("", "unjudged")]
    assert len(faults({str(n): n for n in range(100)}, many)) == MOST_FAULTS
    wide: Any = {"type": "string"}
    for _ in range(40):
        wide = {"anyOf": [wide, wide]}
    assert faults({"a": 1}, {"properties": {"a": wide}}) == [("", "unjudged")]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
WORDS = st.sampled_from(["type", "properties", "items", "required", "enum", "anyOf", "$ref", "additionalProperties"])
SCHEMAS = st.recursive(
    VALUES | st.sampled_from(["object", "array", "string", "#", "#/properties/a"]),
    lambda inner: st.dictionaries(WORDS | st.sampled_from("abc"), inner, max_size=4) | st.lists(inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3), SCHEMAS)
def test_no_schema_and_no_value_is_an_error(arguments: dict[str, Any], schema: Any) -> None:
    assert len(argument_faults(arguments, schema)) <= MOST_FAULTS + 1
