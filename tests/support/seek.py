"""Looks for secrets in whatever was written, however it is spelt there.

A secret that was cut in two or escaped is still a secret, so what is looked for are parts of it, and every text
is looked at as it stands and with its escapes (JSON's, a URL's) resolved until nothing changes.
"""

from __future__ import annotations

import gzip
import re
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote

_ESCAPE = re.compile(r'\\(?:u([0-9a-fA-F]{4})|(["\\/]))')
_PART = 10


def parts_of(secret: str) -> tuple[str, ...]:
    """The pieces of a secret (without its public prefix) of which none may stand anywhere."""
    body = secret[8:]
    return (secret, body[-_PART:], *(body[at : at + _PART] for at in range(0, len(body) - _PART, _PART // 2)))


def spellings(raw: bytes) -> Iterator[str]:
    """What a file or a message says, in every reading."""
    if raw[:2] == b"\x1f\x8b":
        raw = gzip.decompress(raw)
    text = raw.decode("utf-8", "replace")
    yield text
    yield unquote(text)
    if b"\0" in raw:
        yield raw.replace(b"\0", b"").decode("utf-8", "replace")
    for _ in range(6):
        plain = _ESCAPE.sub(lambda m: chr(int(m[1], 16)) if m[1] else m[2], text)
        if plain == text:
            return
        text = plain
        yield text


def found(secrets: Iterable[str], raw: bytes) -> list[str]:
    """Which of ``secrets`` stand in ``raw``, each with the text around it."""
    hits = []
    texts = list(spellings(raw))
    for secret in secrets:
        for part in parts_of(secret):
            for text in texts:
                if (at := text.find(part)) >= 0:
                    hits.append(f"{part!r} in {text[max(0, at - 200) : at + 60]!r}")
                    break
            else:
                continue
            break
    return hits


def found_below(secrets: Iterable[str], *folders: Path) -> list[str]:
    """The same for every file below some folders, with its name; databases are read by their tables too."""
    secrets = list(secrets)
    hits = []
    for file in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        hits += [f"{file}: {hit}" for hit in found(secrets, file.read_bytes())]
        hits += [f"name of {file}: {hit}" for hit in found(secrets, str(file).encode())]
        if file.suffix == ".db":
            with sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=120) as base:
                base.text_factory = lambda raw: raw.decode("utf-8", "replace")
                hits += [f"{file}: {hit}" for line in base.iterdump() for hit in found(secrets, line.encode())]
    return hits


def escaped(text: str) -> str:
    """A JSON string of ``text`` in which every character is an escape."""
    return '"' + "".join(f"\\u{ord(character):04x}" for character in text) + '"'
