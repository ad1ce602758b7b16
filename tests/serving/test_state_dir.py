"""The state folder is private or refused."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from serving.state_dir import StateDirError, prepare


def test_a_missing_folder_is_made_private(tmp_path: Path) -> None:
    made = prepare(tmp_path / "a" / "b")
    assert stat.S_IMODE(made.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o701])
def test_a_folder_that_others_may_enter_is_refused_and_left_as_it_is(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(StateDirError, match="chmod 700"):
        prepare(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == mode


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(StateDirError, match="--state-dir"):
        prepare(tmp_path / "file")
