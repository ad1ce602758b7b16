"""What of the traffic may be stored: the one door between content and every sink.

Four modes, per agent. ``full`` keeps content as it is. ``redacted`` (the default) hands every string to
``redact``, which masks secrets and personal data. ``hashes`` keeps only keyed hashes of strings, so that
equal texts of one run can be told to be equal. ``none`` keeps nothing. Headers are never captured.

How to think about redaction here: ``redact`` finds patterns in *text*, but a secret reaches us in many
spellings. So each string is scanned as it stands, and again as what it decodes to: tool arguments are JSON in
a string, in which ``\\u0041KIA…`` is a key too; a cut-off JSON text is unescaped as well as it can be; object
keys and numbers are scanned as the strings that they look like, and a short value also beside its key
(``{"password": "…"}``). If only a decoded form gives a secret away, the decoded and masked form is what is
stored.

Truncation comes after redaction, and never shows a part of a secret: where a text is too long to be scanned
whole, what is kept ends ``_MARGIN`` characters before the end of what was scanned. No pattern may match more
than ``_MARGIN`` characters.

Everything here is CPU work without I/O but for a run's key; it is meant to run in the journal's writing
thread (``Journal.append(record, fill)``).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Literal

import msgspec

from serving.sizes import bytes_of
from tracing.renderings import DEPTH, clean, decoded, probes, renderings, unescaped

_encoder = msgspec.json.Encoder()

Mode = Literal["full", "redacted", "hashes", "none"]

_MARGIN = 64 * 1024
_MASK = "[redacted]"
_WORD = 200
_ENTRY_BYTES = 384  # of what is remembered, beside itself
# In mode ``hashes`` the shape of a message stays readable: the wire's own field names and enumerations.
_KEYS = (
    "role content type text name function arguments tool_calls id index tool_call_id reasoning "
    "reasoning_content parameters description choices finish_reason outcome refusal image_url url properties "
    "required choice complete"
)
_VALUES = (
    "system developer user assistant tool function text image_url object string number integer array boolean "
    "stop length tool_calls content_filter allowed approved denied malformed redacted unjudged"
)
_PLAIN_KEYS = frozenset(_KEYS.split())
_PLAIN_VALUES = frozenset(_VALUES.split())
_PLAIN_FIELDS = frozenset(("role", "type", "finish_reason", "outcome"))


class Denied(msgspec.Struct, frozen=True):
    """What is kept of denied content: a masked excerpt, and the commitment (hex) to the whole text."""

    excerpt: str | None
    commitment: str | None


class Capture:
    """One mode applied to values. ``redact`` gives a string back with its secrets masked (the same string if
    it has none); ``key`` gives a run's key (``RunKeys.key``); ``limit`` is in characters per captured value.
    """

    def __init__(
        self, mode: Mode, redact: Callable[[str], str], key: Callable[[str], bytes], limit: int = 64 * 1024
    ) -> None:
        self.mode = mode
        self._redact = redact
        self._key = key
        self._limit = limit
        self._memory = _Memory()
        self._masked = lru_cache(maxsize=4096)(self.mask)

    @property
    def keeps_words(self) -> bool:
        """Whether what is kept can be read, but for what is masked."""
        return self.mode in ("full", "redacted")

    def text(self, text: str | None, run: str) -> str | None:
        """One text; None in mode ``none``."""
        if text is None or self.mode == "none":
            return None
        captured = self.value(text, run)
        return captured if isinstance(captured, str) else None

    def value(self, value: Any, run: str) -> Any:
        """Any JSON-like value, copied; None in mode ``none``."""
        return None if self.mode == "none" else _Walk(self, run, self._limit).value(value)

    def items(self, values: list[Any], run: str) -> list[Any]:
        """A list of independent things (offered tools, choices) within one limit; [] in mode ``none``.
        What no longer fits is left out at the end."""
        return self._within(values, run)[0]

    def messages(self, messages: list[Any], run: str) -> tuple[list[Any], int]:
        """A conversation within one limit, its newest part first of all; gives what is kept, in order, and
        how many older messages were left out."""
        kept, left_out = self._within(messages[::-1], run)
        return kept[::-1], left_out

    def denied(self, text: str, run: str) -> Denied:
        """What may be kept of content that a policy denied: in mode ``full`` the text itself, else a masked
        excerpt (``redacted``) and the commitment."""
        if self.mode == "none":
            return Denied(None, None)
        commitment = hmac.digest(self._key(run), _utf8(text), "sha256").hex()
        if self.mode == "full":
            return Denied(self.text(text, run), commitment)
        if self.mode == "hashes":
            return Denied(None, commitment)
        return Denied(_excerpt(self.mask(clean(text[:_MARGIN]))), commitment)

    def _within(self, values: list[Any], run: str) -> tuple[list[Any], int]:
        if self.mode == "none":
            return [], len(values)
        walk = _Walk(self, run, self._limit)
        kept: list[Any] = []
        for value in values:
            if kept and walk.left <= 0:
                break
            kept.append(self._remembered(value, walk, run))
        return kept, len(values) - len(kept)

    def _remembered(self, value: Any, walk: _Walk, run: str) -> Any:
        """One value of many. Tools and earlier messages come again with every request of a run: what was
        captured whole once is not captured again."""
        try:
            name = hashlib.blake2b(_encoder.encode(value), digest_size=16).digest()
        except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
            return walk.value(value)
        if self.mode == "hashes":
            name += run.encode("utf-8", "surrogatepass")
        known = self._memory.get(name)
        if known is not None and known[1] <= walk.left:
            walk.left -= known[1]
            return known[0]
        before = walk.left
        captured = walk.value(value)
        if walk.left > 0:
            self._memory.put(name, captured, before - walk.left)
        return captured

    def has_no_secret(self, text: str) -> bool:
        return self._redact(text) == text

    def mask(self, text: str) -> str:
        """``text`` without secrets, whatever they are spelt like; not truncated."""
        masked = self._redact(text)
        read = decoded(text)
        if read is not None:
            cleaned = _Walk(self, "", -1).value(read)
            if cleaned != read:
                return self._redact(json.dumps(cleaned, ensure_ascii=False))
        elif "\\" in text:
            plain = unescaped(text)
            found = self._redact(plain)
            if found != plain:
                return self._redact(found)
        return masked

    def mask_word(self, text: str) -> str:
        """:meth:`mask` for what comes again and again: names, rules, digests."""
        return self._masked(text) if len(text) <= _WORD else self.mask(text)

    def mask_pair(self, key: str, value: str) -> str:
        """``value`` masked, also if only the key before it gives it away."""
        masked = self.mask(value)
        if masked == value and key and key not in _PLAIN_KEYS:
            for probe in probes(key, value):
                found = self._redact(probe)
                if found != probe and value not in found:
                    return _MASK
        return masked

    def hash(self, text: str, run: str) -> str:
        return "hmac:" + hmac.digest(self._key(run), _utf8(text), "sha256").hex()[:32]


class _Memory:
    """What was captured lately, by digest of the original; bounded in bytes, ``room`` of which are free."""

    def __init__(self, room: int = 16 * 1024 * 1024) -> None:
        self.room = room
        self._known: OrderedDict[bytes, tuple[Any, int, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: bytes) -> tuple[Any, int] | None:
        """What was captured, and how many characters were kept."""
        with self._lock:
            known = self._known.get(name)
            if known is None:
                return None
            self._known.move_to_end(name)
            return known[0], known[1]

    def put(self, name: bytes, captured: Any, size: int) -> None:
        taken = bytes_of(captured) + _ENTRY_BYTES
        with self._lock:
            if name not in self._known:
                self.room -= taken
                self._known[name] = (captured, size, taken)
            while self.room < 0 and self._known:
                _, (_, _, gone) = self._known.popitem(last=False)
                self.room += gone


class _Walk:
    """One value, copied; ``left`` counts down the characters that may still be kept (below 0 from the
    start: no limit)."""

    def __init__(self, capture: Capture, run: str, limit: int) -> None:
        self._capture = capture
        self._run = run
        self._bounded = limit >= 0
        self.left = limit

    def value(self, value: Any, key: str = "", depth: int = 0) -> Any:
        if depth == 0 and self._bounded and self._capture.mode == "redacted":
            seen = renderings(value, _PLAIN_KEYS, self.left)
            if seen is not None and clean(seen[0]) == seen[0] and self._capture.has_no_secret(seen[0]):
                self.left -= seen[1]
                return value
        if depth > DEPTH:
            return "[too deep]"
        if isinstance(value, str):
            return self._text(value, key)
        if isinstance(value, Mapping):
            return self._object(value, depth)
        if isinstance(value, list | tuple):
            return self._array(value, key, depth)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int | float):
            return self._number(value)
        return self._text(str(value), key)

    def _object(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        copy: dict[str, Any] = {}
        for key, inner in value.items():
            name = self._name(str(key))
            while name in copy:
                name += "+"
            copy[name] = self.value(inner, str(key), depth + 1)
            if self._spent():
                break
        return copy

    def _array(self, value: list[Any] | tuple[Any, ...], key: str, depth: int) -> list[Any]:
        copy = []
        for inner in value:
            copy.append(self.value(inner, key, depth + 1))
            if self._spent():
                break
        return copy

    def _name(self, key: str) -> str:
        mode = self._capture.mode
        if key in _PLAIN_KEYS:
            return key
        if mode == "full":
            return clean(key)
        return self._keep(self._capture.hash(key, self._run) if mode == "hashes" else self._scan(key, ""))

    def _number(self, value: float) -> Any:
        mode = self._capture.mode
        self.left -= 8 if self._bounded else 0
        if mode == "hashes":
            return self._capture.hash(str(value), self._run)
        if mode == "redacted":
            text = str(value)
            masked = self._capture.mask(text)
            if masked != text:
                return masked
        return value

    def _text(self, text: str, key: str) -> str:
        mode = self._capture.mode
        if mode == "hashes":
            if key in _PLAIN_FIELDS and text in _PLAIN_VALUES:
                return text
            return self._keep(self._capture.hash(text, self._run))
        if mode == "redacted":
            return self._keep(self._scan(text, key))
        return self._keep(clean(text))

    def _scan(self, text: str, key: str) -> str:
        """The text without secrets; of a very long one, what can be vouched for."""
        text = clean(text)
        if not self._bounded:
            return self._capture.mask_pair(key, text)
        window = max(self.left, 0) + _MARGIN
        if len(text) <= window:
            return self._capture.mask_pair(key, text)
        masked = self._capture.mask(text[:window])
        return masked[: max(0, len(masked) - _MARGIN)] + "…"

    def _keep(self, text: str) -> str:
        if not self._bounded:
            return text
        room = max(self.left, 0)
        self.left -= len(text) + 4
        return text if len(text) <= room else text[:room] + "…"

    def _spent(self) -> bool:
        return self._bounded and self.left <= 0


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _excerpt(text: str, limit: int = 120) -> str:
    """The shape of a text: of every word its first two characters, no more."""
    head = " ".join(text[: limit * 4].split())[:limit]
    masked = re.sub(r"\w{3,}", lambda word: word[0][:2] + "*" * (len(word[0]) - 2), head)
    return masked + ("…" if len(text) > len(head) else "")
