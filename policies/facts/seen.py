"""What the model had seen before it made a call, as pieces of text that each have one source.

A message is one piece, or several: what an assistant said, what it thought and the arguments that it wrote are three
sources. A tool's result is known by its call's id. Harnesses without tool messages put a result into a user's message
behind a word such as ``Observation:``; that is taken for a result too, of a tool that is not known, because who reads
it as the user's own words would believe a stranger.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Literal, NamedTuple

from policies.model import Sink, Trust
from serving.settings import ToolSettings
from serving.wire.request import SentCall, SentMessage

Source = Literal["system", "user", "assistant", "reasoning", "call", "tool"]
TOLD: tuple[Source, ...] = ("user", "system")
"""Who tells the model what to do."""
OWN: tuple[Source, ...] = ("assistant", "reasoning")
"""Where the model's own plan is."""

_RESULT_IN_USERS_WORDS = re.compile(
    r"\s*(?:\[|<|\*\*|#+ )?\s*(?:observation|tool[_ ](?:result|results|response|output)|function[_ ](?:result|results|"
    r"response|output)|api[_ ]response)s?\s*(?:\]|>|\*\*)?\s*(?::|\n|\{|\[|(?<=>))",
    re.I,
)


class Piece(NamedTuple):
    """Text of message ``message``. ``tool`` and ``trust`` are of a tool's result."""

    source: Source
    text: str
    message: int
    tool: str | None = None
    trust: Trust | None = None


class ToolTable:
    """What the settings say of tools: how far their results are trusted, and which arguments are sinks."""

    def __init__(self, tools: dict[str, ToolSettings] | None = None) -> None:
        self._exact = tools or {}
        patterns = [name for name in self._exact if any(mark in name for mark in "*?[")]
        self._patterns = sorted(patterns, key=lambda name: (-len(name), name))

    def _entry(self, tool: str | None) -> ToolSettings | None:
        if tool is None or not self._exact:
            return None
        exact = self._exact.get(tool)
        if exact is not None:
            return exact
        return next((self._exact[name] for name in self._patterns if fnmatchcase(tool, name)), None)

    @cached_property
    def digest(self) -> str:
        """Of all that is said of tools."""
        said = sorted((name, entry.trust, sorted(entry.sinks.items())) for name, entry in self._exact.items())
        return hashlib.blake2b(repr(said).encode("utf-8", "backslashreplace"), digest_size=16).hexdigest()

    def trust(self, tool: str | None) -> Trust:
        entry = self._entry(tool)
        return "untrusted" if entry is None else entry.trust

    def sinks(self, tool: str) -> dict[str, Sink | Literal["none"]]:
        entry = self._entry(tool)
        return {} if entry is None else dict(entry.sinks)


NO_SETTINGS = ToolTable()


def calls_of_results(
    messages: Iterable[SentMessage], calls: dict[str, SentCall] | None = None
) -> list[SentCall | None]:
    """For each message the call whose result it is; None for any other, and for a result whose call is not in sight.
    ``calls``: those of the messages before these, by their id; those of these come to them."""
    calls = {} if calls is None else calls
    found: list[SentCall | None] = []
    for message in messages:
        calls.update((call.id, call) for call in message.calls if call.id is not None)
        result = message.role in ("tool", "function")
        found.append(calls.get(message.tool_call_id or "") if result else None)
    return found


def tools_of_results(
    messages: Sequence[SentMessage], calls: Sequence[SentCall | None] | None = None
) -> list[str | None]:
    """For each message the tool whose result it is; None for any other, and for one of a tool that is not known.
    ``calls``: what :func:`calls_of_results` gives, if that is known."""
    return [
        call.name if call is not None else message.name if message.role in ("tool", "function") else None
        for message, call in zip(messages, calls_of_results(messages) if calls is None else calls, strict=True)
    ]


def is_result(message: SentMessage) -> bool:
    """Whether a message is what a tool gave, whatever role it was sent in."""
    if message.role in ("tool", "function"):
        return True
    return message.role == "user" and _RESULT_IN_USERS_WORDS.match(message.text, 0, 64) is not None


def pieces_of(
    messages: Sequence[SentMessage],
    tools: ToolTable,
    calls: Sequence[SentCall | None] | None = None,
    first: int = 0,
) -> list[Piece]:
    """Every text of a history, in order; empty ones are left out. ``calls`` as in :func:`tools_of_results`; ``first``:
    the number of the first message."""
    pieces: list[Piece] = []
    names = tools_of_results(messages, calls)
    for at, (message, name) in enumerate(zip(messages, names, strict=True), first):
        if is_result(message):
            if message.text:
                pieces.append(Piece("tool", message.text, at, name, tools.trust(name)))
            continue
        own = message.role == "assistant"
        if message.reasoning:
            pieces.append(Piece("reasoning" if own else "user", message.reasoning, at))
        if message.text:
            source: Source = "assistant" if own else "system" if message.role in ("system", "developer") else "user"
            pieces.append(Piece(source, message.text, at))
        pieces += (Piece("call", call.arguments, at) for call in message.calls if call.arguments)
    return pieces
