"""The benchmark of masks measures streams in which everything is masked that is to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.masks import measure


@pytest.mark.parametrize("whole", [False, True])
async def test_every_card_is_masked(tmp_path: Path, whole: bool) -> None:
    none = await measure(0, 3000, tmp_path / "none", whole=whole, runs=1)
    some = await measure(5, 3000, tmp_path / "some", whole=whole, runs=1)
    assert (none.masked, none.questions) == (0, 0)
    assert some.masked == 5
    assert some.questions == (2 if whole else 6), "held to the end, all are asked about at once"
    assert some.journal > none.journal > 0
    assert min(none.cpu, some.cpu, some.took) > 0
