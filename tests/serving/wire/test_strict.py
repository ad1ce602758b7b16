"""The strict reading against Python's own, which the model server uses."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from serving.wire import strict
from serving.wire.strict import NotStrict, classify, lax, read, read_arguments

TRICKY = [
    line.split("\t")
    for line in Path(__file__).with_name("tricky_bodies.txt").read_text().splitlines()
    if not line.startswith("#")
]

scalars = (
    st.none()
    | st.booleans()
    | st.integers(strict.LEAST_INTEGER, strict.GREATEST_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.text('":\\ u003a', max_size=6)
)
keys = st.text('ab":\\ ', max_size=3)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)
spellings = st.sampled_from(
    [
        {"ensure_ascii": True},
        {"ensure_ascii": False},
        {"ensure_ascii": False, "separators": (",", ":")},
        {"indent": 1},
        {"separators": (" ,\n", "\t : ")},
    ]
)


def reference(body: bytes) -> Any:
    """The strict reading once more, slowly, from Python's own reader."""

    def no_duplicates(members: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(members)) != len(members):
            raise ValueError("duplicate")
        return dict(members)

    def in_range(digits: str) -> int:
        if not strict.LEAST_INTEGER <= int(digits) <= strict.GREATEST_INTEGER:
            raise ValueError("integer")
        return int(digits)

    def finite(digits: str) -> float:
        if float(digits) in (float("inf"), float("-inf")):
            raise ValueError("number")
        return float(digits)

    def no_constant(name: str) -> Any:
        raise ValueError(name)

    text = body.decode("utf-8")
    if text.startswith("\ufeff"):
        raise ValueError("mark")
    value = json.loads(
        text,
        object_pairs_hook=no_duplicates,
        parse_int=in_range,
        parse_float=finite,
        parse_constant=no_constant,
    )
    json.dumps(value, ensure_ascii=False).encode("utf-8")  # UnicodeEncodeError (a ValueError) on half a pair
    return value


def agrees(body: bytes) -> None:
    try:
        expected = reference(body)
    except ValueError:
        with pytest.raises(NotStrict):
            read(body)
    else:
        # Written out, because True == 1 and 1 == 1.0.
        assert json.dumps(read(body)) == json.dumps(expected)


@pytest.mark.parametrize(("verdict", "kind", "literal"), TRICKY, ids=[row[2] for row in TRICKY])
def test_a_tricky_body_is_classified_as_the_corpus_says(verdict: str, kind: str, literal: str) -> None:
    body = ast.literal_eval(literal)
    reading = classify(body)
    assert reading.verdict == verdict
    assert (reading.problem.kind if reading.problem else "-") == kind
    if verdict == "strict":
        assert json.dumps(reading.value) == json.dumps(json.loads(body))


def test_the_corpus_is_large_enough_to_mean_something() -> None:
    assert len(TRICKY) >= 60


@given(values, spellings)
def test_every_value_in_every_spelling_reads_as_python_reads_it(value: Any, spelling: dict[str, Any]) -> None:
    agrees(json.dumps(value, **spelling).encode())


@given(st.lists(st.tuples(keys, scalars), max_size=5), spellings)
def test_an_object_with_a_key_twice_is_never_taken(members: list[tuple[str, Any]], spelling: dict[str, Any]) -> None:
    inside = ",".join(f"{json.dumps(key)}:{json.dumps(value, **spelling)}" for key, value in members)
    body = f'{{"outer":[{{{inside}}}]}}'.encode()
    agrees(body)
    if len(dict(members)) != len(members):
        with pytest.raises(NotStrict) as refusal:
            read(body)
        assert refusal.value.kind == "duplicate_key"


@given(st.text('{}[]",:\\ua0d8e1+-.NI \n\x00', max_size=24))
@example('{"a":1,"a":\n2}')
@example('{"a":"\\ud800","a":1}')
@example('"\\ud83d\\udc0"')
def test_any_text_of_json_pieces_is_taken_exactly_when_the_reference_takes_it(text: str) -> None:
    agrees(text.encode())


@given(st.binary(max_size=16))
def test_any_bytes_are_taken_exactly_when_the_reference_takes_them(body: bytes) -> None:
    agrees(body)


@given(st.binary(max_size=12) | st.text('{}[]",:\\u1eNa ', max_size=16).map(str.encode))
def test_what_is_strict_is_also_lax(body: bytes) -> None:
    reading = classify(body)
    if reading.verdict == "strict":
        assert lax(body)
    else:
        assert lax(body) == (reading.verdict == "lax")


def test_sixty_four_levels_are_taken_and_one_more_is_not() -> None:
    deep = b"[" * 64 + b"1" + b"]" * 64
    assert read(deep) == json.loads(deep)
    reading = classify(b"[" * 65 + b"]" * 65)
    assert reading.problem is not None
    assert (reading.verdict, reading.problem.kind) == ("lax", "depth")


def test_depth_counts_objects_and_lists_but_no_brackets_in_strings() -> None:
    body = b'[{"a":' * 32 + b'"[[[["' + b"}]" * 32
    assert read(body) == json.loads(body)
    with pytest.raises(NotStrict, match="64 levels"):
        read(b"[" + body + b"]")
    assert read(b"[" + body + b"]", depth=65)


def test_many_shallow_siblings_are_not_deep() -> None:
    body = b"[" + b",".join([b"[[]]"] * 100) + b"]"
    assert read(body, depth=3) == json.loads(body)
    with pytest.raises(NotStrict):
        read(body, depth=2)


@pytest.mark.parametrize("body", [b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 100_000])
def test_nesting_beyond_the_interpreter_s_limit_is_ours_to_refuse(body: bytes) -> None:
    reading = classify(body)
    assert reading.verdict == "lax"
    assert reading.problem is not None
    assert reading.problem.kind == "depth"


@pytest.mark.parametrize("digits", [400, 4301, 50_000])
def test_an_integer_of_any_length_is_ours_to_refuse(digits: int) -> None:
    reading = classify(b'{"n":' + b"9" * digits + b"}")
    assert reading.verdict == "lax"
    assert reading.problem is not None
    assert reading.problem.kind == "number"


def test_a_refusal_names_the_byte_and_never_echoes_the_body() -> None:
    with pytest.raises(NotStrict) as refusal:
        read(b'{"password":hunter2}')
    assert refusal.value.offset == 12
    assert "hunter2" not in str(refusal.value)


def test_arguments_are_exactly_one_object() -> None:
    assert read_arguments(' {"cmd": "ls"} ') == {"cmd": "ls"}
    assert read_arguments("{}") == {}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "empty"),
        ('{"cmd":"rm -rf /","cmd":"ls"}', "duplicate_key"),
        ('{"cmd":"ls"}{"cmd":"rm -rf /"}', "trailing"),
        ('{"cmd":"ls"} rm', "trailing"),
        ('{"x":NaN}', "number"),
        ('{"x":1e400}', "number"),
        ('{"x":"\\ud800"}', "surrogate"),
        ('{"x":"\ud800"}', "surrogate"),
        ('\ufeff{"x":1}', "encoding"),
        ('{"cmd":"ls"', "syntax"),
        ("[]", "not_an_object"),
        ('"{}"', "not_an_object"),
        ("null", "not_an_object"),
        ('{"a":' * 65 + "1" + "}" * 65, "depth"),
    ],
)
def test_arguments_that_harnesses_read_differently_are_malformed(text: str, kind: str) -> None:
    with pytest.raises(NotStrict) as refusal:
        read_arguments(text)
    assert refusal.value.kind == kind
