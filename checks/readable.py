"""Text as a reader would see it in the end, so that an encoding hides nothing from a pattern.

Two layers are taken off. JSON: a document is written out as ``key: value`` lines with its strings decoded,
for ``\\u0069gnore`` in a tool result is "ignore" to the model. Characters: fullwidth and other compatible
forms (NFKC), invisible ones, and Unicode tags, which spell ASCII that nobody sees. What is found beneath is
appended to a text; a call's arguments are shown decoded only. Base64, other ciphers and the look-alikes of
other alphabets stay as they are.
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

MAX_JSON_CHARACTERS = 1024 * 1024

_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060-\u2064\ufeff\U000e0001\U000e007f]")
_TAGS = re.compile("[\U000e0020-\U000e007e]")


def readable(text: str, most: int = MAX_JSON_CHARACTERS) -> str:
    """``text``, and below it what its escapes and characters hide, if anything. Beneath more than ``most`` characters
    nobody looks: ``text`` alone fills the room that there is."""
    if len(text) > most:
        return text
    layers = [text]
    if (document := _document(text)) is not None:
        layers.append(document)
    plain = _plain(layers[-1])
    if plain != layers[-1]:
        layers.append(plain)
    return "\n".join(layers)


def readable_call(name: str, arguments: str) -> str:
    """A tool call as text: its name, then its arguments decoded; as sent where they are not JSON."""
    document = _document(arguments)
    shown = arguments if document is None else document
    plain = _plain(shown)
    return f"{name}\n{shown}" if plain == shown else f"{name}\n{shown}\n{plain}"


class _Object(list[tuple[str, Any]]):
    """A JSON object as its pairs: a key written twice has two values, and both are shown."""


def _document(text: str) -> str | None:
    """A JSON object, array or string written out, each leaf as ``key: value``; null for anything else."""
    if text.lstrip()[:1] not in ("{", "[", '"') or len(text) > MAX_JSON_CHARACTERS:
        return None
    try:
        # Not strict: raw line breaks inside strings are what sloppy tools write.
        value = json.loads(text, strict=False, object_pairs_hook=_Object)
    except (ValueError, RecursionError):
        return None
    return "\n".join(_lines(value))


def _lines(value: Any) -> list[str]:
    found: list[str] = []
    stack: list[tuple[str, Any]] = [("", value)]
    while stack:
        name, here = stack.pop()
        label = f"{name}: " if name else ""
        if isinstance(here, _Object):
            stack.extend(reversed(here))
        elif isinstance(here, list):
            words = [part for part in here if isinstance(part, str)]
            if len(words) > 1:  # an argument vector, as a shell would see it
                found.append(label + " ".join(words))
            stack.extend((name, part) for part in reversed(here))
        elif here is not None:
            found.append(f"{label}{here}")
    return found


def _plain(text: str) -> str:
    if text.isascii():
        return text
    shown = _TAGS.sub(lambda found: chr(ord(found[0]) - 0xE0000), text)
    return unicodedata.normalize("NFKC", _INVISIBLE.sub("", shown))
