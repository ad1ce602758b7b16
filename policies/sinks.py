"""The values of a call that say who gets something, where it goes, which file, or what is run: what a person who is
asked about the call decides about."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any, NamedTuple

from policies.model import Sink
from policies.provenance import sink_of
from policies.seen import ToolTable
from policies.value_forms import leaves

MOST_VALUES = 256
"""Values of one call that are looked at."""


class SinkValue(NamedTuple):
    """``path`` is a JSON pointer in the arguments."""

    path: str
    sink: Sink
    text: str


def sink_values(table: ToolTable, tool: str, arguments: Mapping[str, Any] | None) -> list[SinkValue]:
    """In the order of the arguments; none of a call whose arguments are not whole."""
    said = table.sinks(tool)
    known = ((leaf, sink_of(leaf, said)) for leaf in islice(leaves(dict(arguments or {})), MOST_VALUES))
    return [SinkValue(leaf.path, sink, leaf.text) for leaf, sink in known if sink is not None]
