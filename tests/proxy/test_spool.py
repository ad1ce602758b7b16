"""Histories that wait for a tool call."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from proxy.spool import BLOCK, IN_MEMORY, Spool
from serving.wire.request import ChatRequest, SentCall, SentMessage, SentTool


def request(size: int, mark: str = "x") -> ChatRequest:
    calls = (SentCall("c1", "look", '{"a": 1}'),)
    messages = (
        SentMessage("assistant", "", reasoning="hm", calls=calls),
        SentMessage("tool", mark * size, name="look"),
    )
    return ChatRequest(model="m", messages=messages, tools=(SentTool("look", "d" * 5000, {"type": "object"}),))


@pytest.mark.parametrize("size", [0, 1000, IN_MEMORY, BLOCK - 300, BLOCK, 5 * BLOCK, 1024 * 1024])
def test_what_is_kept_comes_back(tmp_path: Path, size: int) -> None:
    spool = Spool(tmp_path)
    sent = request(size)
    history = spool.keep(sent).read()
    assert history.messages == sent.messages
    assert history.tools[0].name == "look"
    assert len(history.tools[0].description or "") < 1000
    spool.close()


def test_many_at_once_do_not_mix(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    kept = [spool.keep(request(IN_MEMORY + n * 7000, chr(97 + n))) for n in range(20)]
    for one in kept[::3]:
        one.release()
    again = [spool.keep(request(IN_MEMORY + n * 9000, chr(65 + n))) for n in range(20)]
    for n, one in enumerate(kept):
        if n % 3:
            assert one.read().messages[1].text == chr(97 + n) * (IN_MEMORY + n * 7000)
    for n, one in enumerate(again):
        assert one.read().messages[1].text == chr(65 + n) * (IN_MEMORY + n * 9000)
    spool.close()


def test_the_file_has_no_name_and_shrinks(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    kept = [spool.keep(request(10 * BLOCK)) for _ in range(4)]
    assert list(tmp_path.iterdir()) == []
    assert spool._file is not None
    assert os.fstat(spool._file).st_size > 40 * BLOCK
    used = spool._blocks
    kept.pop().release()
    kept.append(spool.keep(request(10 * BLOCK)))
    assert spool._blocks == used, "blocks are used again"
    kept[0].release()
    kept[0].release()
    kept.clear()
    assert os.fstat(spool._file).st_size == 0
    spool.close()


def test_without_a_file_memory_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    spool = Spool(tmp_path)
    monkeypatch.setattr(os, "pwrite", full)
    kept = spool.keep(request(4 * BLOCK))
    assert kept.read().messages == request(4 * BLOCK).messages
    assert spool._free == [] or len(spool._free) == spool._blocks
    spool.close()


def test_half_a_character_is_kept_too(tmp_path: Path) -> None:
    sent = request(1, "\ud83d")
    assert Spool(tmp_path).keep(sent).read().messages == sent.messages
