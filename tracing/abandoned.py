"""Chains that nobody writes any more, because there are fewer workers than there were: what was open there ends."""

from __future__ import annotations

import contextlib
from collections.abc import Container
from pathlib import Path

from tracing.journal import Journal, JournalClosed
from tracing.recovery import interrupted
from tracing.segments import chains, segments


def settle_abandoned(state_dir: Path, used: Container[int], instance: str = "local") -> None:
    """Put ``interrupted`` on record for every exchange that was left open in a chain of this instance whose worker's
    number is not in ``used``. One that is still being written is left alone. Blocks on the disk."""
    for chain in chains(state_dir):
        if chain.instance == instance and chain.worker not in used and interrupted(segments(chain.folder)):
            with contextlib.suppress(JournalClosed):
                Journal.open(state_dir, instance=instance, worker=chain.worker).close()
