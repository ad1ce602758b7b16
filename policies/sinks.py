"""The values of a call that say who gets something, where it goes, which file, or what is run: what a person who is
asked about the call decides about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from policies.model import Sink
from policies.provenance import sink_of
from policies.seen import ToolTable
from policies.value_forms import leaves

MOST_VALUES = 4096
"""Values of one call that are looked at."""


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
