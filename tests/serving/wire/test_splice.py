"""Splices against Python's own reading: the right bytes change and no others."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.wire import splice
from serving.wire.splice import Edit, Path, Span, Unspliceable
from tests.support.wire import captures

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.text('"\\,:{}[]/\n', max_size=6)
)
keys = st.text('ab"\\é,:{}', max_size=3)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)
spellings = st.sampled_from(
    [{}, {"ensure_ascii": False, "separators": (",", ":")}, {"indent": 2}, {"separators": (" ,\r\n", "\t: ")}]
)
sizes = st.integers(0, 5)


def written(value: Any, spelling: dict[str, Any]) -> bytes:
    return json.dumps(value, **spelling).encode()


def places(value: Any, path: Path = ()) -> list[tuple[Path, Any]]:
    """Every path in ``value`` with what stands there."""
    found = [(path, value)]
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, child in children:
        found += places(child, (*path, step))
    return found


def at(value: Any, path: Path) -> Any:
    for step in path:
        value = value[step]
    return value


def same(one: Any, other: Any) -> bool:
    return json.dumps(one) == json.dumps(other)


@given(values, spellings)
def test_locate_finds_exactly_the_bytes_of_every_value(value: Any, spelling: dict[str, Any]) -> None:
    raw = b" \n" + written(value, spelling) + b"\t"
    for path, expected in places(value):
        span = splice.locate(raw, path)
        assert span is not None
        found = raw[span.start : span.end]
        assert found == found.strip()
        assert same(json.loads(found), expected)


@given(values, spellings, st.data())
def test_replace_changes_the_value_and_leaves_every_other_byte(
    value: Any, spelling: dict[str, Any], data: st.DataObject
) -> None:
    raw = written({"root": value}, spelling)
    path, _ = data.draw(st.sampled_from(places({"root": value})[1:]))
    new = data.draw(values)
    span = splice.locate(raw, path)
    assert span is not None
    changed = splice.apply(raw, [splice.replace(span, new)])
    assert changed.startswith(raw[: span.start])
    assert changed.endswith(raw[span.end :])
    expected = json.loads(raw)
    at(expected, path[:-1])[path[-1]] = new
    assert same(json.loads(changed), expected)


@given(st.dictionaries(keys, scalars, max_size=5), spellings, st.data())
def test_removing_members_leaves_the_others_as_they_stand(
    value: dict[str, Any], spelling: dict[str, Any], data: st.DataObject
) -> None:
    raw = written([value], spelling)
    gone = data.draw(st.sets(st.sampled_from([*value, "never there"])))
    span = splice.locate(raw, (0,))
    assert span is not None
    changed = splice.apply(raw, splice.remove_members(raw, span, gone))
    assert same(json.loads(changed), [{key: child for key, child in value.items() if key not in gone}])
    for key in value.keys() - gone:
        kept = splice.locate(raw, (0, key))
        assert kept is not None
        assert raw[kept.start : kept.end] in changed


@given(st.lists(values, max_size=6), spellings, st.sets(sizes))
def test_removing_elements_keeps_the_commas_right(value: list[Any], spelling: dict[str, Any], gone: set[int]) -> None:
    raw = written({"list": value}, spelling)
    span = splice.locate(raw, ("list",))
    assert span is not None
    changed = splice.apply(raw, splice.remove_elements(raw, span, gone))
    kept = [child for index, child in enumerate(value) if index not in gone]
    assert same(json.loads(changed), {"list": kept})


@given(st.dictionaries(keys, scalars, max_size=4), keys, scalars, spellings)
def test_set_member_replaces_the_value_or_adds_it_at_the_end(
    value: dict[str, Any], key: str, new: Any, spelling: dict[str, Any]
) -> None:
    raw = written(value, spelling)
    changed = splice.apply(raw, [splice.set_member(raw, splice.root(raw), key, new)])
    assert same(json.loads(changed), {**value, key: new})


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"])), spellings)
def test_appended_text_stands_behind_what_was_there(before: str, more: str, spelling: dict[str, Any]) -> None:
    raw = written({"content": before, "z": 1}, spelling)
    span = splice.locate(raw, ("content",))
    assert span is not None
    changed = splice.apply(raw, [splice.append_to_string(raw, span, more)])
    assert json.loads(changed) == {"content": before + more, "z": 1}
    assert changed.startswith(raw[: span.end - 1])


@given(values, spellings)
def test_several_edits_of_one_document_do_not_move_one_another(value: Any, spelling: dict[str, Any]) -> None:
    raw = written([value, value, {"a": 1, "b": 2}], spelling)
    first, second = splice.locate(raw, (0,)), splice.locate(raw, (1,))
    last = splice.locate(raw, (2,))
    assert first is not None
    assert second is not None
    assert last is not None
    edits = [splice.replace(second, "two"), *splice.remove_members(raw, last, ["a"]), splice.replace(first, "one")]
    assert json.loads(splice.apply(raw, edits)) == ["one", "two", {"b": 2}]


def test_a_path_that_leads_nowhere_is_none() -> None:
    raw = b'{"a":[1,{"b":null}],"s":"x"}'
    for path in [("b",), ("a", 2), ("a", -1), ("a", "b"), (0,), ("s", 0), ("s", "x"), ("a", 1, "b", "c")]:
        assert splice.locate(raw, path) is None


def test_a_key_that_stands_twice_on_the_path_is_refused_also_in_another_spelling() -> None:
    for raw in [b'{"a":1,"a":2}', b'{"a":1,"\\u0061":2}']:
        with pytest.raises(Unspliceable, match="twice"):
            splice.locate(raw, ("a",))


@pytest.mark.parametrize(
    "raw",
    [b"", b"  ", b'{"a":', b'{"a":1', b'{"a" 1}', b'{"a":1}}', b"[1}", b'{"a":1]', b'{"a":"x}', b"{1:2}", b"{} {}"],
)
def test_broken_bytes_are_never_guessed_at(raw: bytes) -> None:
    with pytest.raises(Unspliceable):
        splice.locate(raw, ("a",))
        splice.elements(raw, Span(0, len(raw)))


def test_overlapping_edits_are_refused() -> None:
    with pytest.raises(ValueError, match="overlap"):
        splice.apply(b"[1,2]", [Edit(Span(1, 4), b""), Edit(Span(3, 4), b"x")])


def test_insertions_at_one_place_keep_their_order() -> None:
    assert splice.apply(b"[]", [Edit(Span(1, 1), b"1,"), Edit(Span(1, 1), b"2")]) == b"[1,2]"


def test_members_and_texts_are_decoded() -> None:
    raw = '{"é":"a","\\u0062" : "\\ud83d\\ude00"}'.encode()
    one, two = splice.members(raw, splice.root(raw))
    assert (one.key, two.key) == ("é", "b")
    assert (splice.text(raw, one.value), splice.text(raw, two.value)) == ("a", "😀")
    with pytest.raises(Unspliceable):
        splice.text(b"5", Span(0, 1))


def test_the_payload_of_an_event_is_spliced_in_place() -> None:
    event = b'id: 7\ndata: {"choices":[{"delta":{"content":"\xc3\xa9"}}]}\n\n'
    payload = splice.data_span(event)
    span = splice.locate(event, ("choices", 0, "delta", "content"), payload)
    assert span is not None
    assert event[span.start : span.end] == '"é"'.encode()
    assert splice.apply(event, [splice.replace(span, "ü")]) == event.replace("é".encode(), "ü".encode())
    assert splice.data_span(b": comment data: {}\n\n") is None
    assert splice.data_span(b'event: x\ndata: {"a":"data: 1"}\n\n') == Span(15, 30)
    assert splice.data_span(b"data:1\r\n\r\n") == Span(5, 6)
    with pytest.raises(Unspliceable):
        splice.data_span(b"data: {\ndata: }\n\n")


@pytest.mark.parametrize(
    "capture",
    [
        c
        for c in captures()
        if c.request.start.startswith("POST /v1/")
        and (c.response.header("content-type") or "").startswith("application/json")
    ],
    ids=lambda c: c.name,
)
def test_every_value_of_every_recorded_answer_is_found(capture: Any) -> None:
    raw = capture.response.body
    value = json.loads(raw)
    for path, expected in places(value)[:200]:
        span = splice.locate(raw, path)
        assert span is not None
        assert same(json.loads(raw[span.start : span.end]), expected)
        if isinstance(expected, str):
            assert splice.encode(expected) == raw[span.start : span.end]


def test_every_data_line_of_the_recorded_streams_is_found() -> None:
    streams = [c for c in captures() if (c.response.header("content-type") or "").startswith("text/event-stream")]
    events = [event for c in streams for event in c.response.body.split(b"\n\n") if b"data: {" in event]
    assert len(events) > 500
    for event in events:
        payload = splice.data_span(event)
        assert payload is not None
        assert splice.root(event, payload) == payload
        json.loads(event[payload.start : payload.end])
