"""What differs between a model server's own answer and the same answer through a proxy. A pure function.

How to think about it. Status line, then headers, then the body. Bodies whose masked bytes are equal do not differ.
Otherwise it is looked for what differs in words that a person can act on: in a JSON document, field by field; in a
stream, event by event if there are as many on both sides, and else by what all events together say at each field.
Only where every value is the same is it a matter of spelling (``re-encoded``) or of where events are cut
(``events``). The events of several choices are compared choice by choice, since their order among each other is
the server's chance.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from proxy.contract.answer import Answer
from proxy.contract.cases import REQUEST_ID
from proxy.contract.masking import masked, masked_header
from serving.wire.sse import data_of

KINDS: Mapping[str, str] = {
    "no answer": "nothing, or no HTTP answer, came through the proxy",
    "cut short": "the answer ended before its end",
    "status": "another HTTP version, status or reason",
    "header missing": "a header that the server sent is gone (hop-by-hop headers apart)",
    "header added": "a header that the server did not send",
    "header changed": "a header with another value",
    "request id": "the answer's id is not the one asked for with X-Request-Id",
    "field missing": "a JSON field that the server sent is gone",
    "field added": "a JSON field that the server did not send",
    "value changed": "another value in a field",
    "re-encoded": "the same values, spelled by another JSON writer",
    "events": "more, fewer or otherwise cut events in a stream",
    "event lines": "lines of an event other than its data: names, ids, comments, [DONE]",
    "bytes": "a body that is no JSON differs",
    "buffered": "the stream was held until its end",
    "request changed": "what reached the server is not what the client sent (with --tap)",
}
"""Every class of difference, in words."""

UNSTEADY = frozenset(
    {"events", "event lines", "value changed", "bytes", "buffered", "no answer", "cut short", "status"}
)
"""Classes that a server may show between two answers of its own: one pair proves little."""

_HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade")
)
_EXCERPT = 60

Json = Any


@dataclass(frozen=True, slots=True)
class Difference:
    """``where``: a header's name or a JSON path. ``count``: how often. The texts are excerpts of the first."""

    kind: str
    where: str = ""
    direct: str = ""
    through: str = ""
    count: int = 1

    @property
    def key(self) -> tuple[str, str]:
        return self.kind, self.where


@dataclass(frozen=True, slots=True)
class FirstBytes:
    """The first bytes that differ: ``part`` of the answer, place in it (of masked bytes), and what stands there."""

    part: str
    place: int
    direct: bytes
    through: bytes


def compare(direct: Answer, through: Answer, authorities: tuple[str, str] = ("", "")) -> list[Difference]:
    """``authorities`` are each side's own ``Host``. What an answer says of itself there is no difference."""
    found = []
    if direct.start != through.start:
        found.append(Difference("status", "", direct.start, through.start))
    found += headers_differ(direct, through, authorities)
    if through.fault is not None and through.fault != direct.fault:
        found.append(Difference("cut short", "", direct.fault or "whole", through.fault))
    if (direct.status < 400) == (through.status < 400) and not _begins(direct, through):
        found += _merged(_bodies(direct, through))
    return found


def _begins(direct: Answer, through: Answer) -> bool:
    """Whether the answer through the proxy is the other's beginning: then it is cut short, and no more."""
    return through.fault is not None and masked(direct.body).startswith(masked(through.body))


# -- the head ----------------------------------------------------------------------------------------


def headers_differ(direct: Answer, through: Answer, authorities: tuple[str, str]) -> Iterator[Difference]:
    """In which headers they differ, names in lower case, hop-by-hop ones apart."""
    ours, theirs = (_by_name(answer, mine) for answer, mine in zip((direct, through), authorities, strict=True))
    for name in sorted(ours.keys() | theirs.keys()):
        one, other = ours.get(name), theirs.get(name)
        if name == "content-length" and _follows(direct, one) and _follows(through, other):
            continue  # it only follows from another body
        if one is None and other is not None:
            yield Difference("header added", name, "", ", ".join(other))
        elif other is None and one is not None:
            yield Difference("header missing", name, ", ".join(one), "")
        elif one is not None and other is not None and one != other:
            yield Difference("header changed", name, ", ".join(one), ", ".join(other))


def _by_name(answer: Answer, authority: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in sorted((name.lower(), value) for name, value in answer.headers):
        if name not in _HOP_BY_HOP:
            found.setdefault(name, []).append(masked_header(name, value, authority))
    return found


def _follows(answer: Answer, length: list[str] | None) -> bool:
    return length == [str(len(answer.body))]


# -- the body ----------------------------------------------------------------------------------------


def _bodies(direct: Answer, through: Answer) -> Iterator[Difference]:
    if direct.streams != through.streams:
        ours, theirs = ("a stream" if answer.streams else "no stream" for answer in (direct, through))
        yield Difference("events", "", ours, theirs)
    elif direct.streams:
        said, given = by_choice(direct), by_choice(through)
        for choice in sorted(said.keys() | given.keys(), key=lambda one: -1 if one is None else one):
            yield from _streams(said.get(choice, []), given.get(choice, []))
    else:
        yield from documents(masked(direct.body), masked(through.body))


def by_choice(answer: Answer) -> dict[int | None, list[bytes]]:
    """The masked events of a stream; where it has several choices, choice by choice, under None the others."""
    grouped: dict[int | None, list[bytes]] = {}
    for event in answer.events():
        grouped.setdefault(_choice_of(event), []).append(event)
    if len(grouped.keys() - {None}) < 2:
        grouped = {None: answer.events()}
    return {choice: _masked_together(events) for choice, events in grouped.items()}


def _masked_together(events: list[bytes]) -> list[bytes]:
    whole = masked(b"".join(events))
    ends = [0]
    for event in events:
        ends.append(ends[-1] + len(event))
    return [whole[start:end] for start, end in pairwise(ends)]


def _choice_of(event: bytes) -> int | None:
    value = parsed(data_of(event) or b"")
    choices = value.get("choices") if isinstance(value, dict) else None
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        return None
    number = choices[0].get("index")
    return number if isinstance(number, int) else None


def documents(direct: bytes, through: bytes) -> Iterator[Difference]:
    """In what two bodies differ: JSON field by field, anything else in its bytes."""
    if direct == through:
        return
    one, other = parsed(direct), parsed(through)
    if one is NOT_JSON or other is NOT_JSON:
        place = first_place(direct, through)
        yield Difference("bytes", "", excerpt(direct, place), excerpt(through, place))
        return
    fields = list(_values(one, other, ""))
    yield from fields
    if not fields:
        place = first_place(direct, through)
        yield Difference("re-encoded", "", excerpt(direct, place), excerpt(through, place))


def _streams(direct: list[bytes], through: list[bytes]) -> Iterator[Difference]:
    if direct == through:
        return
    if len(direct) == len(through):
        found = [difference for one, other in zip(direct, through, strict=True) for difference in _events(one, other)]
        if any(difference.kind != "value changed" for difference in found):
            yield from found
        elif said := list(_said(direct, through)):
            yield from said
        else:
            place = next(at for at, pair in enumerate(zip(direct, through, strict=True)) if pair[0] != pair[1])
            yield Difference("events", "", f"event {place} cut elsewhere", "")
        return
    yield Difference("events", "", _number(direct), _number(through))
    ours, theirs = (b" ".join(_other_lines(events)) for events in (direct, through))
    if ours != theirs:
        yield Difference("event lines", "", _shown(ours), _shown(theirs))
    yield from _said(direct, through)


def _number(events: list[bytes]) -> str:
    return "1 event" if len(events) == 1 else f"{len(events)} events"


def _events(direct: bytes, through: bytes) -> Iterator[Difference]:
    """The differences of two events that stand at the same place."""
    if direct == through:
        return
    ours, theirs = data_of(direct), data_of(through)
    if _frame(direct) != _frame(through):
        place = first_place(direct, through)
        yield Difference("event lines", "", excerpt(direct, place), excerpt(through, place))
    if ours is None or theirs is None or ours == theirs:
        return
    if NOT_JSON in (parsed(ours), parsed(theirs)):
        yield Difference("event lines", "", _shown(ours), _shown(theirs))
    else:
        yield from documents(ours, theirs)


def _frame(event: bytes) -> bytes:
    data = data_of(event)
    return event.replace(data, b"") if data else event


def _other_lines(events: list[bytes]) -> list[bytes]:
    """The kinds of lines that are no JSON data, each once, in order."""
    found: dict[bytes, None] = {}
    for event in events:
        data = data_of(event)
        if data is None or parsed(data) is NOT_JSON:
            found[event.strip()] = None
        else:
            found |= dict.fromkeys(line for line in event.split(b"\n") if line and not line.startswith(b"data:"))
    return list(found)


# -- values ------------------------------------------------------------------------------------------

NOT_JSON = object()


def parsed(text: bytes) -> Json:
    """The value, or :data:`NOT_JSON`."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return NOT_JSON


def _values(one: Json, other: Json, path: str) -> Iterator[Difference]:
    """Field by field. In a path ``[]`` stands for any place of a list."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key, value in one.items():
            inner = f"{path}.{key}" if path else str(key)
            if key in other:
                yield from _values(value, other[key], inner)
            else:
                yield Difference("field missing", inner, _json(value), "")
        for key in other.keys() - one.keys():
            yield Difference("field added", f"{path}.{key}" if path else str(key), "", _json(other[key]))
    elif isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            yield Difference("value changed", f"{path}[]", f"{len(one)} of them", f"{len(other)} of them")
        for left, right in zip(one, other, strict=False):
            yield from _values(left, right, f"{path}[]")
    elif type(one) is not type(other) or one != other:
        yield _changed(path, one, other)


def _changed(path: str, one: Json, other: Json) -> Difference:
    kind = "request id" if isinstance(one, str) and REQUEST_ID in one and path.endswith("id") else "value changed"
    left, right = _json(one, whole=True).encode(), _json(other, whole=True).encode()
    place = first_place(left, right)
    return Difference(kind, path, excerpt(left, place), excerpt(right, place))


def _said(direct: list[bytes], through: list[bytes]) -> Iterator[Difference]:
    """What all events together say at each field: texts joined, other values as the set of them."""
    ours, theirs = _gathered(direct), _gathered(through)
    for path in ours.keys() | theirs.keys():
        one, other = ours.get(path), theirs.get(path)
        if other is None and one is not None:
            yield Difference("field missing", path, _json(one[0]), "", len(one))
        elif one is None and other is not None:
            yield Difference("field added", path, "", _json(other[0]), len(other))
        elif one is not None and other is not None and not _say_the_same(one, other):
            left, right = ("".join(value for value in side if isinstance(value, str)) for side in (one, other))
            yield _changed(path, left or one[0], right or other[0])


def _gathered(events: Iterable[bytes]) -> dict[str, list[Json]]:
    found: dict[str, list[Json]] = {}
    for event in events:
        value = parsed(data_of(event) or b"")
        for path, leaf in _leaves(value, "") if value is not NOT_JSON else ():
            found.setdefault(path, []).append(leaf)
    return found


def _leaves(value: Json, path: str) -> Iterator[tuple[str, Json]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and value:
        for inner in value:
            yield from _leaves(inner, f"{path}[]")
    else:
        yield path, value


def _say_the_same(one: list[Json], other: list[Json]) -> bool:
    left, right = ({_json(value, whole=True) for value in side} for side in (one, other))
    if left == right:
        return True
    texts = ["".join(value for value in side if isinstance(value, str)) for side in (one, other)]
    if any(texts):
        return texts[0] == texts[1]
    return left <= right or right <= left  # counts that grow are said less often by fewer events


# -- excerpts ----------------------------------------------------------------------------------------


def first_bytes(direct: Answer, through: Answer, authorities: tuple[str, str] = ("", "")) -> FirstBytes | None:
    """The first place at which the answers differ: in the status line, else in the body, else in a header. None
    where only the order of choices differs, or the pace."""
    if direct.start != through.start:
        return _at("status line", direct.start.encode(), through.start.encode())
    if (found := _first_of_bodies(direct, through)) is not None:
        return found
    heads = [_by_name(answer, mine) for answer, mine in zip((direct, through), authorities, strict=True)]
    changed = {difference.where for difference in headers_differ(direct, through, authorities)}
    for name in sorted(changed):
        lines = [", ".join(head.get(name, [])).encode() for head in heads]
        return _at(f"header {name}", *lines)
    return None


def _first_of_bodies(direct: Answer, through: Answer) -> FirstBytes | None:
    if direct.streams and through.streams:
        ours, theirs = by_choice(direct), by_choice(through)
        for choice in ours.keys() | theirs.keys():
            one, other = b"".join(ours.get(choice, [])), b"".join(theirs.get(choice, []))
            if one != other:
                return _at("body" if choice is None else f"body, choice {choice}", one, other)
        return None
    one, other = masked(direct.body), masked(through.body)
    return _at("body", one, other) if one != other else None


def _at(part: str, one: bytes, other: bytes) -> FirstBytes:
    place = first_place(one, other)
    start = max(place - 20, 0)
    return FirstBytes(part, place, one[start : place + _EXCERPT], other[start : place + _EXCERPT])


def first_place(one: bytes, other: bytes) -> int:
    """The first place at which they differ."""
    for place, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return place
    return min(len(one), len(other))


def excerpt(text: bytes, place: int) -> str:
    """Some bytes around a place."""
    start = max(place - 20, 0)
    return ("…" if start else "") + _shown(text[start : place + _EXCERPT])


def _shown(text: bytes) -> str:
    return text.decode("utf-8", "replace")


def _json(value: Json, *, whole: bool = False) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text if whole or len(text) <= _EXCERPT else text[: _EXCERPT - 1] + "…"


def _merged(found: Iterable[Difference]) -> list[Difference]:
    """One for each class and place, with how often."""
    merged_: dict[tuple[str, str], Difference] = {}
    for one in found:
        before = merged_.get(one.key)
        if before is not None:
            one = Difference(*one.key, before.direct, before.through, before.count + one.count)
        merged_[one.key] = one
    return list(merged_.values())
