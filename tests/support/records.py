"""What a journal has by now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tracing.records import AnyRecord
from tracing.segments import read


def records(state: Path, *kinds: type[AnyRecord]) -> list[Any]:
    """The records of these kinds (none named: all), chain by chain, each chain in its order. A line that cannot be read
    is passed over."""
    return [entry.record for entry in read(state) if not kinds or isinstance(entry.record, kinds)]
