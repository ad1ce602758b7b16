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
    assert seen.calls > 50 and 0 < seen.facts_bytes < seen.call_bytes < seen.journal_bytes


async def test_without_the_policies_that_read_it_nothing_of_the_history_is_on_record(tmp_path: Path) -> None:
    readers = ("interlock.tainted_recipients", "interlock.concealment", "interlock.ordered_actions")
    seen = await measure(60, 3, tmp_path, off=readers)
    assert seen.calls > 20 and seen.facts_bytes == 0
