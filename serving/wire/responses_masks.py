"""Masks in the answers of the Responses API: every copy of an item says what its deltas said to the client."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from serving.wire import splice
from serving.wire.chat_writer import hidden_tokens
from serving.wire.masking import Masks, Surface, each_masked
from serving.wire.responses_items import CALL, MESSAGE, REASONING, Item, Stage
from serving.wire.splice import Edit, Span, Unspliceable

SURFACES: Mapping[str, Surface] = {MESSAGE: "text", REASONING: "reasoning"}


def given_instead(raw: bytes, top: Span, stage: int, item: Item) -> list[Edit]:
    """The edits that make an event's copy of ``item`` say what the client was given of it."""
    assert item.given is not None
    said = item.given.decode("utf-8", "surrogatepass")
    if stage == Stage.TEXT_DONE:
        edits = [splice.replace(_at(raw, top, "arguments" if item.type == CALL else "text"), said)]
        listed = splice.member(raw, top, "logprobs")
        return edits + ([splice.replace(listed.value, [])] if listed is not None else [])
    if stage == Stage.PART_DONE:
        part = _at(raw, top, "part")
        return [splice.replace(_at(raw, part, "text"), said), *splice.null(raw, part, "logprobs")]
    return item_instead(raw, _at(raw, top, "item"), item) if stage == Stage.DONE else []


def item_instead(raw: bytes, copy: Span, item: Item) -> list[Edit]:
    """The same for the whole item that stands at ``copy``; without the tokens, if only those are hidden."""
    if item.given is None:
        return [edit for part in _parts(raw, copy) for edit in splice.null(raw, part, "logprobs")]
    said = item.given.decode("utf-8", "surrogatepass")
    if item.type == CALL:
        return [splice.replace(_at(raw, copy, "arguments"), said)]
    parts = _parts(raw, copy)
    edits: list[Edit] = []
    for place, part in enumerate(parts):
        edits.append(splice.replace(_at(raw, part, "text"), "" if place else said))
        edits += splice.null(raw, part, "logprobs")
    return edits


def whole_masked(
    body: bytes, items: Sequence[Span], values: Sequence[Mapping[str, Any]], texts: Mapping[Surface, Masks]
) -> list[Edit]:
    """The edits that mask the texts of a whole answer's items; their logprobs are another matter."""
    edits: list[Edit] = []
    for kind, surface in SURFACES.items():
        parts = [
            _at(body, part, "text")
            for item, one in zip(items, values, strict=True)
            if one.get("type") == kind
            for part in _parts(body, item)
        ]
        said = [splice.text(body, where) for where in parts]
        told = each_masked(said, texts.get(surface, ()))
        edits += [splice.replace(w, new) for w, old, new in zip(parts, said, told, strict=True) if new != old]
    return edits


def masked_texts(values: Sequence[Mapping[str, Any]], texts: Mapping[Surface, Masks]) -> dict[str, Masks]:
    """The texts of a whole answer, each with what is masked of it."""
    found: dict[str, Masks] = {}
    for kind, surface in SURFACES.items():
        if surface in texts:
            said = "".join(
                str(part.get("text") or "")
                for one in values
                if one.get("type") == kind
                for part in one.get("content") or ()
            )
            found[said] = texts[surface]
    return found


def without_tokens(
    body: bytes, item: Span, calls: Sequence[Mapping[str, Any]], hidden: Collection[int], texts: Mapping[str, Masks]
) -> list[Edit]:
    """A message's logprobs show the tokens of the whole answer: those of ``hidden`` calls and of masked spans go, all
    of them if it is not certain which they are."""
    edits: list[Edit] = []
    functions = [{"function": {"name": _name(call), "arguments": call.get("arguments") or ""}} for call in calls]
    for part in _parts(body, item):
        listed = splice.member(body, part, "logprobs")
        if listed is None or body[listed.value.start : listed.value.start + 1] != b"[":
            continue
        tokens = splice.elements(body, listed.value)
        if not tokens:
            continue
        gone = hidden_tokens([json.loads(body[token.start : token.end]) for token in tokens], functions, hidden, texts)
        if gone is None:
            edits.append(splice.replace(listed.value, None))
        else:
            edits += splice.remove_elements(body, listed.value, gone)
    return edits


def _parts(raw: bytes, item: Span) -> list[Span]:
    content = splice.member(raw, item, "content")
    if content is None or raw[content.value.start : content.value.start + 1] != b"[":
        return []
    return splice.elements(raw, content.value)


def _name(call: Mapping[str, Any]) -> str:
    namespace = call.get("namespace")
    return f"{namespace}__{call.get('name')}" if namespace else str(call.get("name"))


def _at(raw: bytes, span: Span, key: str) -> Span:
    found = splice.member(raw, span, key)
    if found is None:
        raise Unspliceable(f"no {key}")
    return found.value
