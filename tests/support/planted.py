"""Recorded streams of a real vLLM with words in them that it never said: as if the model had, on the wire.

The words come as deltas of their own, copies of a recorded one; what repeats the text at its end (``*.done``,
``response.completed``) repeats them too, and the events are counted anew.
"""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

from tests.support.wire import Capture, captures


class Stream:
    """The events of a recording. ``places`` gives, for each surface, the events that say a piece of it."""

    def __init__(self, capture: Capture) -> None:
        self.capture = capture
        self._events = [_split(part) for part in capture.response.body.split(b"\n\n") if part]

    @property
    def api(self) -> str:
        return {"chat": "chat", "comp": "completions", "mess": "messages", "resp": "responses"}[
            self.capture.request.start.split("/v1/")[1][:4]
        ]

    @property
    def ended(self) -> bool:
        """The answer came to its end; else the model server died or the client went away."""
        said = [value for _, value in self._events]
        failed = any(isinstance(value, dict) and (value.get("error") or value.get("type") == "error") for value in said)
        last = said[-1] if isinstance(said[-1], dict) else {}
        return not failed and (said[-1] == b"[DONE]" or last.get("type") in ("message_stop", "response.completed"))

    def places(self, surface: str) -> list[int]:
        return [place for place, (_, value) in enumerate(self._events) if _piece(value, surface)]

    def with_words(self, surface: str, place: int, pieces: list[str]) -> list[bytes]:
        """The events, with ``pieces`` said one by one before the event at ``place``."""
        events = copy.deepcopy(self._events)
        text = "".join(_said(value, surface) for _, value in events)
        before = "".join(_said(value, surface) for _, value in events[:place])
        head, template = events[place]
        said = [(head, _saying(template, surface, piece)) for piece in pieces]
        events[place:place] = said
        changed = before + "".join(pieces) + text.removeprefix(before)
        for number, (_, value) in enumerate(events):
            if isinstance(value, dict) and "sequence_number" in value:
                value["sequence_number"] = number
                _replace(value, text, changed)
        return [_joined(head, value) for head, value in events]


@st.composite
def planted(draw: st.DrawFn, stream: Stream, surface: str, words: str) -> tuple[int, list[str]]:
    """A place in a stream, and the words cut anywhere: what :meth:`Stream.with_words` takes."""
    cuts = draw(st.lists(st.integers(1, len(words) - 1), unique=True).map(sorted))
    pieces = [words[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(words)], strict=True)]
    return draw(st.sampled_from(stream.places(surface))), pieces


def _split(part: bytes) -> tuple[bytes, Any]:
    head, _, data = part.rpartition(b"data: ")
    return head, json.loads(data) if data.startswith(b"{") else data


def _joined(head: bytes, value: Any) -> bytes:
    data = value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    return head + b"data: " + data + b"\n\n"


def _piece(value: Any, surface: str) -> tuple[dict[str, Any], str] | None:
    """Where an event says a piece of choice 0's surface: the object and its key."""
    if not isinstance(value, dict):
        return None
    found: tuple[dict[str, Any], str] | None = None
    kind = value.get("type")
    if value.get("choices") and value["choices"][0]["index"] == 0:
        choice = value["choices"][0]
        if "delta" in choice:
            found = choice["delta"], "content" if surface == "text" else "reasoning"
        elif surface == "text":
            found = choice, "text"
    elif kind == "content_block_delta":
        found = value["delta"], "text" if surface == "text" else "thinking"
    elif kind == ("response.output_text.delta" if surface == "text" else "response.reasoning_text.delta"):
        found = value, "delta"
    return found if found is not None and found[0].get(found[1]) else None


def _said(value: Any, surface: str) -> str:
    found = _piece(value, surface)
    return found[0][found[1]] if found is not None else ""


def _saying(template: dict[str, Any], surface: str, piece: str) -> dict[str, Any]:
    """An event like ``template`` that says ``piece``, its one token."""
    value = copy.deepcopy(template)
    found = _piece(value, surface)
    assert found is not None
    found[0][found[1]] = piece
    if found[1] in ("content", "reasoning"):  # an event that goes over from one surface to the other says both
        found[0].pop("content" if found[1] == "reasoning" else "reasoning", None)
    entry = {"token": piece, "logprob": -0.25, "bytes": list(piece.encode())}
    for choice in value.get("choices", []):
        choice["finish_reason"] = None
        if (choice.get("logprobs") or {}).get("content"):
            choice["logprobs"] = {"content": [{**entry, "top_logprobs": [entry]}]}
        if choice.get("token_ids"):
            choice["token_ids"] = choice["token_ids"][:1]
    if value.get("logprobs"):
        value["logprobs"] = [{**entry, "top_logprobs": [entry]}]
    return value


def _replace(value: Any, text: str, changed: str) -> None:
    """Every copy of ``text`` becomes ``changed``; a delta is no copy."""
    for key, one in value.items() if isinstance(value, dict) else enumerate(value):
        if one == text and key != "delta":
            value[key] = changed
        elif isinstance(one, dict | list):
            _replace(one, text, changed)


_HIDDEN = {"include_reasoning_false_stream"}
"""A request that hides the reasoning is refused while a policy reads it."""
RECORDED = {
    (capture.name, surface): Stream(capture)
    for capture in captures()
    if "text/event-stream" in (capture.response.header("content-type") or "") and capture.name not in _HIDDEN
    for surface in ("text", "reasoning")
    if Stream(capture).places(surface)
}
"""The recorded streams that say something, by name and surface."""
