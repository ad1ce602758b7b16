"""What a decision about an answer masks: spans of its text, of its reasoning, of a tool call's arguments.

A finding with the action ``redact`` names them by its redactions. In a text the path is ``""`` and ``start`` and
``end`` are UTF-8 bytes, as its signals have them, or ``/text`` and code points of ``input.surface.text``; without them
it is all of the text. In a whole answer (stage ``response``) the path is ``/text`` or ``/reasoning``. In a call it is a
JSON pointer into the arguments, as signals have it, to a string, and ``start`` and ``end`` are its code points.
Whatever else it says is no redaction that can be made.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from policies.model import Action, Decision, Mode, PolicyFinding, Redaction
from policies.redaction import CHANGES, CannotRedact
from serving.wire import splice
from serving.wire.masking import Mask, Masks, Surface, joined, masked
from serving.wire.splice import Span, Unspliceable

TEXT_PATH = "/text"
_WHOLE = ""
_SURFACES: Mapping[str, Surface] = {TEXT_PATH: "text", "/reasoning": "reasoning"}


def wanted(decision: Decision) -> list[tuple[str, Redaction]]:
    """The redactions that count, with the rule that asks for each. Raises :class:`CannotRedact` where one names no
    place, or a finding wants its subject withheld instead."""
    found: list[tuple[str, Redaction]] = []
    for one in _redacting(decision):
        rule = f"{one.policy}/{one.finding.id}"
        if one.finding.action is Action.QUARANTINE:
            raise CannotRedact(f"{rule} withholds what only a request has")
        if not one.finding.redactions:
            raise CannotRedact(f"{rule} names no place")
        found += ((rule, redaction) for redaction in one.finding.redactions)
    return found


def _redacting(decision: Decision) -> Iterator[PolicyFinding]:
    for one in decision.findings:
        counts = one.mode is Mode.ENFORCE and one.exception is None
        if counts and one.finding.action in CHANGES:
            yield one


class Match(Protocol):
    """A match in a text, ``start`` to ``end`` in bytes of UTF-8. ``sure``: it ends there whatever comes."""

    @property
    def start(self) -> int: ...

    @property
    def end(self) -> int: ...

    @property
    def sure(self) -> bool: ...


def masks_of_text(decision: Decision, said: bytes, left: int = 0, hits: Sequence[Match] = ()) -> Masks:
    """What is masked of a text of which ``said`` has come and ``left`` bytes have left; ``hits`` are what was found in
    it. Those that no redaction names, because only another policy reads them, may end anywhere.

    Raises :class:`CannotRedact`."""
    known = {(hit.start, hit.end) for hit in hits if hit.sure}
    unsure = [hit for hit in hits if not hit.sure]
    spans: list[Mask] = []
    for rule, redaction in wanted(decision):
        if redaction.path not in (_WHOLE, TEXT_PATH):
            raise CannotRedact(f"{rule} names no text")
        mask = _mask(rule, redaction, said, code_points=redaction.path == TEXT_PATH)
        if mask.start < left:
            raise CannotRedact(f"{rule} names what has left")
        if (mask.start, mask.end) not in known and any(h.start < mask.end and mask.start < h.end for h in unsure):
            raise CannotRedact(f"{rule} masks a match whose end is not known")
        spans.append(mask)
    return joined(spans)


def masks_of_response(decision: Decision, said: Mapping[Surface, bytes]) -> dict[Surface, Masks]:
    """What is masked of the texts of a whole answer: paths are ``/text`` and ``/reasoning``, places are code points.

    Raises :class:`CannotRedact`."""
    spans: dict[Surface, list[Mask]] = {}
    for rule, redaction in wanted(decision):
        surface: Surface | None = _SURFACES.get(redaction.path)
        if surface is None:
            raise CannotRedact(f"{rule} names no text of the answer")
        spans.setdefault(surface, []).append(_mask(rule, redaction, said[surface], code_points=True))
    return {surface: joined(masks) for surface, masks in spans.items()}


def _mask(rule: str, redaction: Redaction, said: bytes, *, code_points: bool) -> Mask:
    start, end = _bytes_of(said, redaction, code_points)
    if not 0 <= start < end <= len(said):
        raise CannotRedact(f"{rule} names a span outside of the text, or nothing")
    return Mask(start, end, redaction.replacement)


def _bytes_of(said: bytes, redaction: Redaction, code_points: bool) -> tuple[int, int]:
    start, end = redaction.start, redaction.end
    if code_points and (start is not None or end is not None):
        text = said.decode("utf-8", "surrogatepass")
        last = len(text) if end is None else end
        if not 0 <= (start or 0) <= last <= len(text):
            return -1, -1
        begin = len(_utf8(text[: start or 0]))
        return begin, begin + len(_utf8(text[start or 0 : last]))
    first, last = start or 0, len(said) if end is None else end
    while 0 < first < len(said) and said[first] & 0xC0 == 0x80:  # all of a character, or nothing
        first -= 1
    while 0 < last < len(said) and said[last] & 0xC0 == 0x80:
        last += 1
    return first, last


class MaskedArguments(NamedTuple):
    """A call's arguments with the masks made: ``text``; and the ``places``, as JSON pointers, that were masked."""

    text: str
    places: tuple[str, ...]


def mask_arguments(decision: Decision, arguments: str) -> MaskedArguments:
    """The arguments, which are one strict JSON object, with the strings masked that a decision names; every other byte
    as it was. Raises :class:`CannotRedact`."""
    raw = arguments.encode()
    strings = _Strings(raw)
    spans: dict[Span, list[Mask]] = {}
    places: dict[str, None] = {}
    for rule, redaction in wanted(decision):
        span = strings.at(redaction.path)
        if span is None:
            raise CannotRedact(f"{rule} names no string of the arguments")
        text = splice.text(raw, span)
        start = 0 if redaction.start is None else redaction.start
        end = len(text) if redaction.end is None else redaction.end
        if not 0 <= start <= end <= len(text) or (start == end and text):
            raise CannotRedact(f"{rule} names a span outside of the string, or nothing")
        spans.setdefault(span, []).append(Mask(len(_utf8(text[:start])), len(_utf8(text[:end])), redaction.replacement))
        places[redaction.path] = None
    edits = []
    for span, masks in spans.items():
        said = splice.text(raw, span)
        told = masked(said, joined(masks))
        if told != said:
            edits.append(splice.Edit(span, _literal(told)))
    return MaskedArguments(splice.apply(raw, edits).decode(), tuple(places))


def splices(before: str, after: str) -> Masks:
    """The one stretch of ``before`` that is other than in ``after``, with what stands there."""
    old, new = before.encode(), after.encode()
    if old == new:
        return ()
    most = min(len(old), len(new))
    first = next((at for at in range(most) if old[at] != new[at]), most)
    while first and new[first : first + 1] and new[first] & 0xC0 == 0x80:
        first -= 1
    last = next((at for at in range(most - first) if old[-1 - at] != new[-1 - at]), most - first)
    while last and new[len(new) - last] & 0xC0 == 0x80:
        last -= 1
    return (Mask(first, len(old) - last, new[first : len(new) - last].decode()),)


def keys_of(path: str) -> Sequence[str]:
    """The steps of a JSON pointer."""
    return [step.replace("~1", "/").replace("~0", "~") for step in path.split("/")[1:]]


class _Strings:
    """Where strings of a document stand. What was looked through once is not looked through again."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._parts: dict[Span, dict[str, Span]] = {}

    def at(self, path: str) -> Span | None:
        """Where the string that a JSON pointer names stands."""
        raw = self._raw
        if not path.startswith("/"):
            return None
        try:
            span = splice.root(raw)
            for step in keys_of(path):
                found = self._parts_of(span).get(step)
                if found is None:
                    return None
                span = found
        except Unspliceable:
            return None
        return span if raw[span.start : span.start + 1] == b'"' else None

    def _parts_of(self, span: Span) -> dict[str, Span]:
        """The values in an object or a list, by their step in a pointer."""
        known = self._parts.get(span)
        if known is None:
            opened = self._raw[span.start : span.start + 1]
            known = {}
            if opened == b"{":
                members = splice.members(self._raw, span)
                known = {member.key: member.value for member in members}
                if len(known) < len(members):
                    raise Unspliceable("a key that stands twice")
            elif opened == b"[":
                known = {str(place): value for place, value in enumerate(splice.elements(self._raw, span))}
            self._parts[span] = known
        return known


def _literal(text: str) -> bytes:
    """A JSON string. Half a surrogate pair, which arguments may hold, is written as an escape."""
    try:
        return splice.encode(text)
    except UnicodeEncodeError:
        return json.dumps(text).encode()


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
