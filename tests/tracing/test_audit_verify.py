"""``audit verify``: whatever is changed, removed or moved inside a chain is found, with its place."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracing.audit import Head, verify
from tracing.chain import genesis, write_line
from tracing.journal import Journal
from tracing.records import CallOutcome, Decided, Opened, Record, Settled, Started
from tracing.segments import chain_folder, segment_name


def write_chain(state: Path, segments: list[tuple[int, int, int]], worker: int = 0) -> list[Path]:
    """A chain as the journal writes it; (epoch, segment, number of records) per file."""
    folder = chain_folder(state, "one", worker)
    folder.mkdir(parents=True)
    seq, head, files = 0, genesis("one", worker), []
    for epoch, segment, count in segments:
        path = folder / segment_name(epoch, segment)
        with path.open("wb") as stream:
            for number in range(count):
                line, head = write_line(seq, head, _record(seq, epoch, segment, number, worker))
                stream.write(line)
                seq += 1
        files.append(path)
    return files


def _record(seq: int, epoch: int, segment: int, number: int, worker: int) -> Record:
    if segment == 1 and number == 0:
        return Started(time_ns=seq, instance="one", worker=worker, epoch=epoch)
    kinds: list[Record] = [
        Opened(time_ns=seq, exchange=f"x{seq}", run="r", messages=[{"role": "user", "content": 'say "hash":'}]),
        Decided(time_ns=seq, exchange=f"x{seq}", stage="request", decision={"hash": "h", "key": "k", "seal": 1}),
        CallOutcome(time_ns=seq, exchange=f"x{seq}", name="shell", arguments='{"cmd": "ls ü"}', outcome="allowed"),
        Settled(time_ns=seq, exchange=f"x{seq}", ending="done"),
    ]
    return kinds[seq % len(kinds)]


def edit(file: Path, *, remove: tuple[int, ...] = (), order: list[int] | None = None) -> None:
    lines = file.read_bytes().splitlines(keepends=True)
    if order is not None:
        lines = [lines[index] for index in order]
    file.write_bytes(b"".join(line for index, line in enumerate(lines) if index not in remove))


@pytest.fixture
def chain(tmp_path: Path) -> list[Path]:
    return write_chain(tmp_path, [(1, 1, 6), (1, 2, 5), (2, 1, 4), (3, 1, 5)])


def faults(state: Path) -> list[tuple[str, int, str]]:
    return [(fault.file.name, fault.line, fault.what) for fault in verify(state).faults]


def test_a_whole_chain_is_sound_and_its_head_is_told(tmp_path: Path, chain: list[Path]) -> None:
    report = verify(tmp_path)
    (one,) = report.chains
    assert report.faults == []
    assert (one.segments, one.epochs, one.records, one.last_seq) == (4, 3, 20, 19)
    assert one.head.encode() in chain[-1].read_bytes()


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_changed_byte_is_found(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    state = tmp_path_factory.mktemp("state")
    files = write_chain(state, [(1, 1, 4), (1, 2, 3), (2, 1, 4)])
    file = data.draw(st.sampled_from(files))
    before = file.read_bytes()
    place = data.draw(st.integers(0, len(before) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda value: value != before[place]))
    file.write_bytes(before[:place] + bytes([value]) + before[place + 1 :])
    found = verify(state).faults
    assert found
    assert found[0].file == file
    assert found[0].line == before[:place].count(b"\n") + 1
    shutil.rmtree(state)


def test_every_byte_of_a_short_chain_matters(tmp_path: Path) -> None:
    (file,) = write_chain(tmp_path, [(1, 1, 3)])
    before = file.read_bytes()
    unseen = []
    for place, byte in enumerate(before):
        file.write_bytes(before[:place] + bytes([byte ^ 1]) + before[place + 1 :])
        if not verify(tmp_path).faults:
            unseen.append(place)
    assert unseen == []


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_removed_byte_but_the_last_newline_is_found(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    state = tmp_path_factory.mktemp("state")
    files = write_chain(state, [(1, 1, 4), (2, 1, 4)])
    file = data.draw(st.sampled_from(files))
    before = file.read_bytes()
    place = data.draw(st.integers(0, len(before) - (2 if file == files[-1] else 1)))
    file.write_bytes(before[:place] + before[place + 1 :])
    assert verify(state).faults
    shutil.rmtree(state)


def test_a_removed_record_is_named(tmp_path: Path, chain: list[Path]) -> None:
    edit(chain[0], remove=(3,))
    assert faults(tmp_path) == [(chain[0].name, 4, "record 3 was removed")]


def test_removed_records_at_the_end_of_a_segment_are_found_in_the_next(tmp_path: Path, chain: list[Path]) -> None:
    edit(chain[0], remove=(4, 5))
    assert faults(tmp_path) == [
        (
            chain[1].name,
            1,
            f"records 4 to 5 were removed between {chain[0].name} and {chain[1].name} (a segment or its end)",
        )
    ]


def test_removed_records_at_the_beginning_are_found(tmp_path: Path, chain: list[Path]) -> None:
    chain[0].unlink()
    assert faults(tmp_path) == [
        (chain[1].name, 1, "records 0 to 5 were removed before the first segment (a segment or its end)")
    ]


def test_a_removed_epoch_is_found(tmp_path: Path, chain: list[Path]) -> None:
    chain[2].unlink()
    ((file, line, what),) = faults(tmp_path)
    assert (file, line) == (chain[3].name, 1)
    assert what.startswith("records 11 to 14 were removed between")


def test_two_swapped_records_are_called_swapped(tmp_path: Path, chain: list[Path]) -> None:
    edit(chain[1], order=[0, 2, 1, 3, 4])
    assert faults(tmp_path) == [
        (chain[1].name, 2, "record 7 does not stand before it"),
        (chain[1].name, 3, "stands out of place: records were swapped"),
    ]


def test_a_repeated_record_is_found(tmp_path: Path, chain: list[Path]) -> None:
    edit(chain[1], order=[0, 1, 1, 2, 3, 4])
    assert faults(tmp_path) == [(chain[1].name, 3, "stands here a second time")]


def test_two_swapped_segments_are_found(tmp_path: Path, chain: list[Path]) -> None:
    first, second = chain[2].read_bytes(), chain[3].read_bytes()
    chain[2].write_bytes(second)
    chain[3].write_bytes(first)
    found = faults(tmp_path)
    assert (chain[2].name, 1) in [fault[:2] for fault in found]
    assert any("epoch 3: the file was renamed" in fault[2] for fault in found)


def test_a_record_replaced_by_another_of_right_form_does_not_link(tmp_path: Path, chain: list[Path]) -> None:
    lines = chain[0].read_bytes().splitlines(keepends=True)
    lines[2], _ = write_line(2, "0" * 64, Decided(time_ns=2, exchange="x2", action="allow"))
    chain[0].write_bytes(b"".join(lines))
    assert [fault[1] for fault in faults(tmp_path)] == [3, 4]


def test_a_chain_copied_to_another_writer_is_found(tmp_path: Path, chain: list[Path]) -> None:
    shutil.copytree(chain[0].parent, chain[0].parent.with_name("w1"))
    found = faults(tmp_path)
    assert ("e000001-s000001.jsonl", 1, "does not link to the record before it: one of both was replaced") in found
    assert any("belongs to one/w0" in fault[2] for fault in found)


def test_a_second_spelling_of_the_same_record_is_a_change(tmp_path: Path, chain: list[Path]) -> None:
    text = chain[0].read_bytes()
    chain[0].write_bytes(text.replace(b'"hash":"', b'"hash": "', 1))
    assert faults(tmp_path)[0][1] == 1


def test_an_unfinished_last_line_is_a_note_and_not_a_fault(tmp_path: Path, chain: list[Path]) -> None:
    os.truncate(chain[-1], chain[-1].stat().st_size - 30)
    report = verify(tmp_path)
    assert report.faults == []
    assert "unfinished line" in (report.chains[0].note or "")


def test_an_unfinished_line_in_an_older_segment_is_a_fault(tmp_path: Path, chain: list[Path]) -> None:
    os.truncate(chain[0], chain[0].stat().st_size - 30)
    assert faults(tmp_path)[0] == (chain[0].name, 6, "the last line was changed")


def test_bytes_added_at_the_end_are_found(tmp_path: Path, chain: list[Path]) -> None:
    with chain[-1].open("ab") as stream:
        stream.write(b"rubbish")
    assert faults(tmp_path) == [(chain[-1].name, 6, "the last line was changed")]


def test_a_noted_head_is_a_witness_of_the_newest_records(tmp_path: Path, chain: list[Path]) -> None:
    (one,) = verify(tmp_path).chains
    head = Head.parse(f"{one.chain}:{one.last_seq}:{one.head}")
    assert verify(tmp_path, [head]).faults == []
    edit(chain[-1], remove=(4,))
    assert verify(tmp_path).faults == []
    assert "removed" in verify(tmp_path, [head]).faults[0].what
    shutil.rmtree(tmp_path / "journal" / "one")
    assert "whole chain" in verify(tmp_path, [head]).faults[0].what


@pytest.mark.parametrize("text", ["", "one/w0", "one/w0:5", "one/w0:x:" + "a" * 64, "one/w0:5:abc"])
def test_a_head_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected instance/wN"):
        Head.parse(text)


def test_a_chain_that_is_being_written_verifies(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, instance="one", linger=0.0)
    journal.append(Opened(time_ns=1, exchange="x1"))
    report = verify(tmp_path)
    journal.close()
    assert report.faults == []
