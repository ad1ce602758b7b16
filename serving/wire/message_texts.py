"""Where a request's texts stand in its body, for changing them there.

Each API has its own nesting; what they have in common is that a message's text (``SentMessage.text``) is joined from
strings of the body. :func:`message_places` says, for every message of the view in order, which strings those are and
which value holds all of the message's content. It is the counterpart of the readers, and trusted as little as any: who
changes a body by it reads the result again and compares (:func:`rewrite`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from serving.wire import splice
from serving.wire.chat_request import text_key
from serving.wire.dialect import Api
from serving.wire.request import ChatRequest, SentMessage
from serving.wire.splice import Edit, Path, Unspliceable
from serving.wire.strict import read


class Place(msgspec.Struct, frozen=True):
    """One message: the strings that its text is joined from, and the value that holds its whole content, media and
    all (None: it shares that with other messages)."""

    texts: tuple[Path, ...]
    content: Path | None


class TextChange(msgspec.Struct, frozen=True):
    """What is to become of a message: ``spans`` of its text (code points) get other words; or ``whole``: these words
    stand in place of all of its content."""

    spans: tuple[tuple[int, int, str], ...] = ()
    whole: str | None = None

    @property
    def weight(self) -> int:
        """Bytes that it takes, about."""
        return 4 * len(self.whole or "") + sum(160 + 4 * len(words) for _, _, words in self.spans)

    def of(self, text: str) -> str:
        """The text with the change made."""
        if self.whole is not None:
            return self.whole
        parts, done = [], 0
        for start, end, words in self.spans:
            parts += [text[done:start], words]
            done = end
        return "".join([*parts, text[done:]])


def message_places(api: Api, value: Any) -> list[Place]:
    """``value`` is the body as read; a reader of that API has taken it."""
    if api == "chat":
        return _chat(value["messages"], ("messages",))
    if api == "batch":
        conversations = enumerate(value["messages"])
        return [place for at, one in conversations for place in _chat(one, ("messages", at))]
    if api == "completions":
        prompt = value.get("prompt")
        if isinstance(prompt, str):
            return [Place((("prompt",),), ("prompt",))]
        texts = [("prompt", at) for at, one in enumerate(prompt or ()) if isinstance(one, str)]
        return [Place((path,), path) for path in texts]
    return _messages(value) if api == "messages" else _responses(value)


def rewrite(api: Api, body: bytes, view: ChatRequest, changes: Mapping[int, TextChange]) -> bytes:
    """``body`` with ``changes`` made (index of a message → what), every other byte as it was.

    Raises :class:`Unspliceable` if a message's text cannot be found in the body just as it was read."""
    places = message_places(api, read(body))
    before = len(view.messages) - len(places)  # messages that the model server keeps from an answer before
    if before < 0 or (before and view.previous is None) or any(index < before for index in changes):
        raise Unspliceable("the messages are not where they should be")
    edits: list[Edit] = []
    for index, change in changes.items():
        edits += _edits(body, places[index - before], view.messages[index], change)
    return splice.apply(body, edits)


def _edits(body: bytes, place: Place, message: SentMessage, change: TextChange) -> list[Edit]:
    if change.whole is not None and place.content is not None:
        return [splice.replace(_span(body, place.content), change.whole)]
    if change.whole is not None and message.media:
        raise Unspliceable("what is beside the text cannot be taken out alone")
    spans = change.spans if change.whole is None else ((0, len(message.text), change.whole),)
    found = [_span(body, path) for path in place.texts]
    said = [splice.text(body, span) for span in found]
    strings = list(zip(said, _begins(message.text, said), strict=True))
    told = _told(strings, spans)
    return [splice.replace(span, new) for span, old, new in zip(found, said, told, strict=True) if new != old]


def _begins(text: str, said: Sequence[str]) -> list[int]:
    """Where in ``text`` each of the strings that it is joined from begins: by new lines, by nothing, or by either."""
    for between in ("\n", ""):
        if between.join(said) == text:
            lengths = [len(one) + len(between) for one in said]
            return [sum(lengths[:at]) for at in range(len(said))]
    begins, at = [], 0
    for one in said:
        if not text.startswith(one, at) and text[at : at + 1] == "\n":
            at += 1
        if not text.startswith(one, at):
            raise Unspliceable("a text is not what was read")
        begins.append(at)
        at += len(one)
    if at != len(text):
        raise Unspliceable("a text is longer than what it is joined from")
    return begins


def _told(strings: Sequence[tuple[str, int]], spans: Sequence[tuple[int, int, str]]) -> list[str]:
    """The strings with the spans masked. The words for a span that goes over several strings stand in the first of
    them; for one between two strings, in the second."""
    pieces: list[list[tuple[int, int, str]]] = [[] for _ in strings]
    for start, end, words in spans:
        placed = False
        for which, (said, at) in enumerate(strings):
            if at + len(said) <= start or (at >= end and placed):
                continue
            first, last = max(start - at, 0), max(min(end - at, len(said)), 0)
            pieces[which].append((first, max(last, first), "" if placed else words))
            placed = True
            if at + len(said) >= end:
                break
        if not placed:
            raise Unspliceable("a span has no place in the body")
    return [TextChange(spans=tuple(found)).of(said) for found, (said, _) in zip(pieces, strings, strict=True)]


def _span(body: bytes, path: Path) -> splice.Span:
    found = splice.locate(body, path)
    if found is None:
        raise Unspliceable("a text is not where it should be")
    return found


def _chat(messages: Sequence[Any], above: Path) -> list[Place]:
    return [
        Place(_parts(message.get("content"), (*above, at, "content")), (*above, at, "content"))
        for at, message in enumerate(messages)
    ]


def _parts(content: Any, above: Path) -> tuple[Path, ...]:
    """The strings of a content that is a text or a list of parts."""
    if isinstance(content, str):
        return (above,)
    found: list[Path] = []
    for at, part in enumerate(content or ()):
        if isinstance(part, str):
            found.append((*above, at))
        elif (key := text_key(part.get("type"))) is not None and isinstance(part.get(key), str):
            found.append((*above, at, key))
    return tuple(found)


def _messages(value: Mapping[str, Any]) -> list[Place]:
    places: list[Place] = []
    if value.get("system"):
        places += _blocks(value["system"], ("system",), "system")
    for at, message in enumerate(value["messages"]):
        places += _blocks(message.get("content"), ("messages", at, "content"), message["role"])
    return places


def _blocks(content: Any, above: Path, role: str) -> list[Place]:
    if isinstance(content, str):
        if role == "system" and (not content or content.startswith("x-anthropic-billing-header")):
            return []
        return [Place((above,), above)]
    results: list[Place] = []
    texts: list[Path] = []
    others = False
    for at, block in enumerate(content or ()):
        kind, text = block["type"], block.get("text")
        if kind == "tool_result" and role == "user":
            inner = block.get("content")
            found = _parts(inner, (*above, at, "content")) if inner is not None else ()
            results.append(Place(found, (*above, at, "content")))
        elif kind == "text" and text and not (role == "system" and text.startswith("x-anthropic-billing-header")):
            texts.append((*above, at, "text"))
        elif kind == "image" and block.get("source"):
            others = True
    if role == "assistant" or texts or others:
        results.append(Place(tuple(texts), None))
    return results


def _responses(value: Mapping[str, Any]) -> list[Place]:
    places: list[Place] = []
    if value.get("instructions"):
        places.append(Place((("instructions",),), ("instructions",)))
    sent = value["input"]
    if isinstance(sent, str):
        return [*places, Place((("input",),), ("input",))]
    assistant = False  # what an assistant said in a row is one message
    for at, item in enumerate(sent):
        kind = item.get("type", "message")
        own = kind in ("function_call", "custom_tool_call", "reasoning") or item.get("role") == "assistant"
        field = "output" if kind.endswith("_output") else "content"
        texts = _parts(item.get(field), ("input", at, field)) if kind == "message" or field == "output" else ()
        if own and assistant:
            places[-1] = Place((*places[-1].texts, *texts), None)
        else:
            places.append(Place(texts, None if own else ("input", at, field)))
        assistant = own
    return places
