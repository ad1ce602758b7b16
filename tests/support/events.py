"""The events of a recorded or live stream, as bytes."""

from __future__ import annotations

import json
import re


def events(body: bytes) -> list[bytes]:
    """The events of a stream with their blank lines; a rest without one is the last."""
    return re.findall(rb".*?\n\n|.+", body, re.S)


def by_choice(body: bytes) -> dict[int | None, list[bytes]]:
    """The events of a stream for each choice, in their order; under None those without choices."""
    found: dict[int | None, list[bytes]] = {}
    for event in events(body):
        data = event.removeprefix(b"data: ").strip()
        choices = json.loads(data)["choices"] if data.startswith(b"{") and b'"choices"' in data else []
        numbers = {choice["index"] for choice in choices}
        assert len(numbers) < 2, "an event of several choices"
        found.setdefault(numbers.pop() if numbers else None, []).append(event)
    return found
