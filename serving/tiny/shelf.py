"""Which recording answers which request.

A conversation is known by what came to the model from outside: the user's messages and the tools'
results, in their order. System prompt, reasoning, ids, and what the model itself said do not count;
so a history in which a guard's refusal replaced a call still finds its recording. Options that
change the form of an answer must be equal. ``include_usage`` need not: a recording has the usage
event, and it is left out where the client did not ask for it.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from serving.tiny.recording import Recording

TRAFFIC = Path(__file__).with_name("traffic")
CHAT = "/v1/chat/completions"

_FORM = ("stream", "n", "logprobs", "top_logprobs", "return_token_ids", "stream_interval")
_PLAIN = {"n": 1}
"""Values that mean the same as an absent field; null, false and 0 always do."""

Key = tuple[tuple[tuple[str, str], ...], frozenset[tuple[str, Any]]]


def key(body: Mapping[str, Any]) -> Key:
    """What a chat request is looked up by."""
    said = tuple(
        (message["role"], _text(message.get("content")))
        for message in body.get("messages") or []
        if message.get("role") in ("user", "tool")
    )
    form = {(name, body[name]) for name in _FORM if body.get(name) and body[name] != _PLAIN.get(name)}
    if (body.get("stream_options") or {}).get("continuous_usage_stats"):
        form.add(("continuous_usage_stats", True))
    return said, frozenset(form)


def wants_usage(body: Mapping[str, Any]) -> bool:
    """Whether a stream's last event shall carry the usage."""
    return bool((body.get("stream_options") or {}).get("include_usage"))


class Shelf:
    """All recordings of a folder (or those given), by request."""

    def __init__(self, recordings: Iterable[tuple[str, Recording]]) -> None:
        self._chats: dict[Key, tuple[str, Recording]] = {}
        self._others: dict[tuple[str, str], tuple[str, Recording]] = {}
        for name, recording in recordings:
            if recording.path == CHAT:
                self._chats.setdefault(key(json.loads(recording.body)), (name, recording))
            else:
                self._others[recording.method, recording.path] = name, recording

    @classmethod
    def of(cls, folder: Path = TRAFFIC) -> "Shelf":
        """Read every ``*.http`` file of a folder."""
        paths = sorted(folder.glob("*.http"))
        return cls((path.stem, Recording.loads(path.read_bytes())) for path in paths)

    def chat(self, body: Mapping[str, Any]) -> tuple[str, Recording] | None:
        """Name and recording of the answer to a chat request."""
        return self._chats.get(key(body))

    def other(self, method: str, path: str) -> tuple[str, Recording] | None:
        """Name and recording of the answer to any other request."""
        return self._others.get((method, path))


def _text(content: object) -> str:
    if isinstance(content, list):
        parts = (part.get("text", "") for part in content if isinstance(part, dict))
        return "".join(str(part) for part in parts)
    return str(content or "").strip()
