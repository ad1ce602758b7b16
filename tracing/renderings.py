"""What a captured value can be read as: every text in it, as it stands and as what it decodes to.

A secret in JSON tool arguments may be spelt ``\\u0041KIA…``; a value may only be a secret beside its key. Here
is the one place that knows the decodings. :func:`renderings` gives them all as one text, so that a value without
secrets, which most are, is found to be so in one scan.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

DEPTH = 64
PROBED = 512

_BETWEEN = "\n\0x\0\n"  # no pattern reaches across: not by blanks, not by non-word characters
_ESCAPE = re.compile(r'\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(["\\/\'bfnrt]))')
_CONTROL = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def renderings(value: Any, plain_keys: frozenset[str], limit: int) -> tuple[str, int] | None:
    """Every text that is in ``value``, and how many characters ``value`` itself has; None if it must be walked
    with more care: it is longer than ``limit``, too deep, or not plain JSON."""
    texts: list[str] = []
    room = limit
    stack: list[tuple[Any, str, int]] = [(value, "", 0)]
    while stack:
        inner, key, depth = stack.pop()
        if depth > DEPTH or room < 0:
            return None
        if isinstance(inner, str):
            room -= len(inner)
            texts.append(inner)
            if key and key not in plain_keys:
                texts += probes(key, inner)
            read = decoded(inner)
            if read is not None:
                stack.append((read, key, depth + 1))
            elif "\\" in inner:
                texts.append(unescaped(inner))
        elif isinstance(inner, dict):
            for name, under in inner.items():
                if not isinstance(name, str):
                    return None
                room -= len(name)
                texts.append(name)
                if "\\" in name:
                    texts.append(unescaped(name))
                stack.append((under, name, depth + 1))
        elif isinstance(inner, list):
            stack += ((under, key, depth + 1) for under in inner)
        elif isinstance(inner, int | float) and not isinstance(inner, bool):
            texts.append(str(inner))
            room -= 8
        elif inner is not None and not isinstance(inner, bool):
            return None
    return (_BETWEEN.join(texts), limit - room) if room >= 0 else None


def probes(key: str, value: str) -> Iterable[str]:
    """A short value beside its key, as it stands in files and in JSON."""
    return (f"{key}={value}", f'"{key}": "{value}"') if len(value) <= PROBED else ()


def decoded(text: str) -> Any | None:
    """What a JSON text says, if it is an object, an array or a string; None else."""
    if text.lstrip()[:1] not in ("{", "[", '"'):
        return None
    try:
        return json.loads(text, object_pairs_hook=_all_pairs)
    except (ValueError, RecursionError):
        return None


def _all_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a JSON text with every value kept, also of a key that stands twice."""
    whole: dict[str, Any] = {}
    for key, value in pairs:
        while key in whole:
            key += "+"
        whole[key] = value
    return whole


def unescaped(text: str) -> str:
    """A text with backslash escapes resolved, also doubled ones: for texts that do not parse as JSON."""
    for _ in range(4):
        plain = _ESCAPE.sub(_unescape_one, text)
        if plain == text:
            return text
        text = plain
    return text


def _unescape_one(match: re.Match[str]) -> str:
    number = match[1] or match[2]
    if number:
        return clean(chr(int(number, 16)))
    return _CONTROL.get(match[3], match[3])


def clean(text: str) -> str:
    """The text without lone surrogates, which no JSON writer takes."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
