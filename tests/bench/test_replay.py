"""The benchmark of replay compares what it measures: its counts agree with what enforcement does."""

from __future__ import annotations

from pathlib import Path

from bench.replay import measure


async def test_replay_and_enforcement_agree(tmp_path: Path) -> None:
    seen = await measure(120, 3, tmp_path)
    assert seen.agree
    assert (seen.exchanges, seen.newly_allowed, seen.unanswerable) == (120, 0, 0)
    assert seen.newly_denied > 5 < seen.refused_before
    assert seen.refused_by_enforcement == seen.refused_before + seen.newly_denied
    assert seen.decisions > 90 and seen.bare_engine > 0
