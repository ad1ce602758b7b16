"""A request's history without its words: the digests by which a run is found again.

Whoever keeps the runs needs no more of a request than this, so that it can be kept where no request comes by.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

import msgspec

from proxy.history import ASSISTANT, answer_form, digest, prefixes
from serving.wire.request import SentCall, SentMessage

NUMBERED = re.compile(r"(?:.*[^0-9A-Za-z])?[0-9]{1,6}", re.DOTALL)
"""``functions.look:0``, ``call_1``, ``17``: the same in every run."""
_ASSISTANTS, _OTHERS = b"a."


class Shape(msgspec.Struct, frozen=True):
    """A request's history without its words, which is all that it takes to find its run. ``chain[i]`` stands for its
    first ``i`` messages; ``speakers`` has a byte for each message, ``a`` if the assistant said it."""

    chain: list[bytes]
    speakers: bytes

    @classmethod
    def of(cls, seed: bytes, messages: Sequence[SentMessage]) -> Shape:
        speakers = bytes([_ASSISTANTS if message.role == ASSISTANT else _OTHERS for message in messages])
        return cls(prefixes(seed, messages), speakers)

    @property
    def first(self) -> int | None:
        """The first message of the assistant."""
        at = self.speakers.find(_ASSISTANTS)
        return at if at >= 0 else None

    def is_assistants(self, at: int) -> bool:
        return self.speakers[at] == _ASSISTANTS


class Answered(msgspec.Struct, frozen=True):
    """What the client was given for one choice, as the next history will show it: the key of the history up to it,
    and those of its calls that tell runs apart."""

    key: bytes
    calls: tuple[bytes, ...]


CallKeys = Callable[[int], Sequence[bytes]]
"""The keys of the telling calls of a message, by its place."""


@lru_cache(maxsize=1024)
def seed_of(key: bytes, agent: str) -> bytes:
    """What every digest of an agent's histories begins with."""
    return digest(key, ["agent", agent])


def call_keys(seed: bytes, message: SentMessage) -> list[bytes]:
    """The keys of a message's calls whose ids tell runs apart."""
    return [_call_key(seed, call.id, call.name) for call in message.calls if _telling(call.id)]


def answered(seed: bytes, head: bytes, text: str, calls: Sequence[SentCall]) -> Answered:
    """The point that a history reaches with an answer to the request ``head``."""
    telling = {_call_key(seed, call.id, call.name) for call in calls if _telling(call.id)}
    return Answered(digest(head, answer_form(text, calls)), tuple(telling))


def _telling(call_id: str | None) -> bool:
    return bool(call_id) and NUMBERED.fullmatch(call_id or "") is None


def _call_key(seed: bytes, call_id: str | None, name: str) -> bytes:
    return digest(seed, [call_id, name])
