"""The values of a call that say who gets something, where it goes, which file, or what is run: what a person who is
asked about the call decides about."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from policies.facts.seen import ToolTable
from policies.facts.value_forms import Leaf, leaves
from policies.model import Sink

MOST_VALUES = 4096
"""Values of one call that are looked at."""

_SINK_NAMES: dict[Sink, str] = {
    "recipient": "to cc bcc recipient recipients email emails mail address addresses phone payee iban account attendee "
    "attendees participant participants invitee invitees receiver contact contacts guest guests member members user "
    "users username wallet beneficiary destination",
    "url": "url urls uri link links href webhook endpoint callback website site domain domains host",
    "path": "path paths file files filename folder directory dir",
    "command": "command commands cmd script code shell query sql expression program",
}
_SINK_OF: dict[str, Sink] = {word: sink for sink, words in _SINK_NAMES.items() for word in words.split()}
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_MAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_LINK = re.compile(r"(?:[a-z][a-z0-9+.-]{1,15}://|www\.)\S+", re.I)


class SinkValue(NamedTuple):
    """``path`` is a JSON pointer in the arguments."""

    path: str
    sink: Sink
    text: str


def sink_values(
    table: ToolTable, tool: str, arguments: Mapping[str, Any] | None, most: int
) -> tuple[list[SinkValue], bool]:
    """At most ``most`` of them, in the order of the arguments, and whether that is all; none of a call whose arguments
    are not whole."""
    if arguments is None:
        return [], False
    said = table.sinks(tool)
    found: list[SinkValue] = []
    for at, leaf in enumerate(leaves(dict(arguments))):
        sink = sink_of(leaf, said) if at < MOST_VALUES else None
        if at >= MOST_VALUES or (sink is not None and len(found) == most):
            return found, False
        if sink is not None:
            found.append(SinkValue(leaf.path, sink, leaf.text))
    return found, True


def sink_of(leaf: Leaf, settings: Mapping[str, Sink | Literal["none"]]) -> Sink | None:
    """What an argument decides: by the settings, else by the name of its innermost key, else by what it looks like."""
    for name in reversed(leaf.names):
        if name in settings:
            said = settings[name]
            return None if said == "none" else said
    if leaf.names:
        named = [_SINK_OF[word] for part in _WORD.findall(leaf.names[-1]) if (word := part.lower()) in _SINK_OF]
        if named:
            return named[-1]
    if not leaf.number and len(leaf.text) < 2048:
        text = leaf.text.strip()
        if _MAIL.fullmatch(text):
            return "recipient"
        if _LINK.fullmatch(text):
            return "url"
    return None
