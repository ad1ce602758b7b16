"""The journal: what is appended is on disk in order, and stays whole whatever happens to process and disk."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tracing.audit import verify
from tracing.journal import Journal, JournalClosed, JournalFailed, JournalOverloaded
from tracing.records import CallOutcome, Decided, Gap, Opened, Record, Settled, Started
from tracing.segments import read

ROOT = Path(__file__).parents[2]


def opened(number: int, **facts: object) -> Opened:
    return Opened(time_ns=number, exchange=f"x{number}", agent="coder", run="r1", **facts)  # type: ignore[arg-type]


def settled(number: int, **facts: object) -> Settled:
    return Settled(time_ns=number, exchange=f"x{number}", ending="done", **facts)  # type: ignore[arg-type]


def records(state: Path) -> list[Record]:
    return [entry.record for entry in read(state)]


def bytes_below(state: Path) -> bytes:
    return b"".join(path.read_bytes() for path in state.rglob("*.jsonl"))


async def recovered(journal: Journal) -> None:
    """The disk is back; the writing thread finds out by itself."""
    for _ in range(2000):
        if journal.healthy:
            return
        await asyncio.to_thread(threading.Event().wait, 0.005)
    raise AssertionError(journal.failure)


def open_journal(state: Path, **options: object) -> Journal:
    options = {"instance": "one", "linger": 0.0, "retry_seconds": 0.01, **options}
    return Journal.open(state, **options)  # type: ignore[arg-type]


async def test_what_is_committed_is_read_back_in_the_order_of_the_appends(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    for number in range(50):
        last = journal.append(opened(number, messages=[{"role": "user", "content": f"hello {number}"}]))
    await journal.commit(last)
    found = records(tmp_path)
    journal.close()
    assert isinstance(found[0], Started)
    assert [record.exchange for record in found[1:]] == [f"x{number}" for number in range(50)]
    assert found[7].messages == [{"role": "user", "content": "hello 6"}]  # type: ignore[attr-defined]


async def test_several_waiters_share_one_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = open_journal(tmp_path, linger=5.0)
    syncs: list[int] = []
    real = os.write

    def counted(file: int, data: bytes) -> int:
        syncs.append(file)
        return real(file, data)

    monkeypatch.setattr("tracing.segment_file.os.write", counted)
    await asyncio.gather(*(journal.commit(journal.append(opened(number))) for number in range(100)))
    journal.close()
    assert 1 <= len(syncs) <= 3


async def test_a_commit_hurries_a_thread_that_lets_appends_gather(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, linger=3600.0)
    await journal.commit(journal.append(opened(1)))
    journal.close()
    assert len(records(tmp_path)) == 2


async def test_a_commit_of_what_is_on_disk_already_returns_at_once(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    seq = journal.append(opened(1))
    await journal.commit(seq)
    await journal.commit(seq)
    assert journal.durable == seq
    assert journal.pending_records == 0
    assert journal.pending_bytes == 0
    journal.close()


async def test_a_cancelled_waiter_disturbs_no_other(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    first = asyncio.ensure_future(journal.commit(journal.append(opened(1))))
    second = asyncio.ensure_future(journal.commit(journal.append(opened(2))))
    await asyncio.sleep(0)
    first.cancel()
    await second
    journal.close()


def test_close_writes_what_is_left(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, linger=3600.0)
    journal.append(opened(1))
    journal.close()
    journal.close()
    assert len(records(tmp_path)) == 2
    with pytest.raises(JournalClosed):
        journal.append(opened(2))


def test_nobody_else_may_look_into_the_folders_and_files(tmp_path: Path) -> None:
    state = tmp_path / "state"
    open_journal(state).close()
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [state, *state.rglob("*")]}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}


def test_a_second_writer_of_the_same_chain_is_refused(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    with pytest.raises(JournalClosed, match="instance name"):
        open_journal(tmp_path)
    open_journal(tmp_path, worker=1).close()
    journal.close()
    open_journal(tmp_path).close()


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "x" * 65])
def test_an_instance_name_that_is_no_folder_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="instance name"):
        open_journal(tmp_path, instance=name)


def test_segments_rotate_by_size_and_stay_one_chain(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, segment_bytes=2000, fsync=False)
    for number in range(40):
        journal.append(opened(number))
        while journal.pending_records:
            threading.Event().wait(0.0005)
    journal.close()
    assert len(list((tmp_path / "journal/one/w0").glob("*.jsonl"))) > 3
    assert len(records(tmp_path)) == 41
    assert verify(tmp_path).faults == []


def test_a_new_epoch_links_to_the_last_one_and_settles_what_was_open(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    for number in range(4):
        journal.append(opened(number))
    journal.append(settled(1))
    journal.close()
    open_journal(tmp_path).close()
    open_journal(tmp_path).close()
    found = records(tmp_path)
    assert [record.exchange for record in found if isinstance(record, Settled) and record.ending == "interrupted"] == [
        "x0",
        "x2",
        "x3",
    ]
    starts = [record for record in found if isinstance(record, Started)]
    assert [(start.epoch, start.interrupted) for start in starts] == [(1, 0), (2, 3), (3, 0)]
    assert verify(tmp_path).faults == []


@pytest.mark.parametrize("cut", [1, 40, 200])
def test_a_torn_last_line_is_cut_off_and_the_chain_goes_on(tmp_path: Path, cut: int) -> None:
    journal = open_journal(tmp_path)
    journal.append(opened(1))
    journal.append(opened(2))
    journal.close()
    (segment,) = (tmp_path / "journal/one/w0").glob("*.jsonl")
    os.truncate(segment, segment.stat().st_size - cut)
    open_journal(tmp_path).close()
    found = records(tmp_path)
    start = [record for record in found if isinstance(record, Started)][1]
    assert start.torn_bytes > 0
    assert [type(record).__name__ for record in found] == ["Started", "Opened", "Started", "Settled"]
    assert verify(tmp_path).faults == []


def test_an_epoch_that_died_while_it_settled_the_interrupted_is_made_good_by_the_next(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    for number in range(3):
        journal.append(opened(number))
    journal.close()
    open_journal(tmp_path).close()
    second = sorted((tmp_path / "journal/one/w0").glob("*.jsonl"))[1]
    os.truncate(second, len(b"".join(second.read_bytes().splitlines(keepends=True)[:2])))
    open_journal(tmp_path).close()
    endings = [record.exchange for record in records(tmp_path) if isinstance(record, Settled)]
    assert sorted(endings) == ["x0", "x1", "x2"]
    assert verify(tmp_path).faults == []


KILLED = """
import asyncio, sys
from pathlib import Path
from tracing.journal import Journal
from tracing.records import CallOutcome, Opened, Settled

async def exchange(journal, number):
    journal.append(Opened(time_ns=number, exchange=f"x{number}", run="r", messages=["m" * (number % 3000)]))
    seq = journal.append(CallOutcome(time_ns=number, exchange=f"x{number}", name="shell", outcome="allowed"))
    await journal.commit(seq)
    sys.stdout.write(f"x{number}\\n")
    sys.stdout.flush()
    journal.append(Settled(time_ns=number, exchange=f"x{number}", ending="done"))

async def main():
    journal = Journal.open(Path(sys.argv[1]), instance="one", segment_bytes=200_000)
    number = 0
    while True:
        await asyncio.gather(*(exchange(journal, number + lane) for lane in range(20)))
        number += 20

asyncio.run(main())
"""


def test_kill_9_under_load_loses_no_call_that_was_released(tmp_path: Path) -> None:
    """The child says which calls it let go only after their commit; each must be found after the kill."""
    for round_, released_before in enumerate((30, 130, 317)):
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        released = [child.stdout.readline().strip() for _ in range(released_before)]
        child.send_signal(signal.SIGKILL)
        released += [line.strip() for line in child.stdout if line.endswith("\n")]
        child.wait()
        child.stdout.close()
        epoch = [entry.record for entry in read(tmp_path) if entry.file.name.startswith(f"e{2 * round_ + 1:06d}")]
        assert set(released) <= {record.exchange for record in epoch if isinstance(record, CallOutcome)}
        open_journal(tmp_path).close()
        assert verify(tmp_path).faults == []
    found = records(tmp_path)
    open_count = sum(isinstance(record, Opened) for record in found)
    assert sum(isinstance(record, Settled) for record in found) == open_count


@contextmanager
def disk_full_after(more_bytes: int, segment: Path) -> Iterator[None]:
    """A real write error: no file may grow beyond what the segment has now and ``more_bytes``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (segment.stat().st_size + more_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_full_disk_fails_the_commit_refuses_new_exchanges_and_loses_nothing(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    await journal.commit(journal.append(opened(0)))
    (segment,) = (tmp_path / "journal/one/w0").glob("*.jsonl")
    with disk_full_after(100, segment):
        seq = journal.append(CallOutcome(time_ns=1, exchange="x0", name="shell", outcome="allowed"))
        with pytest.raises(JournalFailed, match="too large"):
            await journal.commit(seq)
        assert not journal.healthy
        assert journal.failure is not None
        with pytest.raises(JournalFailed):
            journal.append(opened(1))
        last = journal.append(settled(0))
        with pytest.raises(JournalFailed):
            await journal.commit(last)
    await recovered(journal)
    await journal.commit(last)
    await journal.commit(journal.append(opened(2)))
    journal.close()
    assert [type(record).__name__ for record in records(tmp_path)] == [
        "Started",
        "Opened",
        "CallOutcome",
        "Settled",
        "Opened",
    ]
    assert verify(tmp_path).faults == []


async def test_a_journal_closed_while_the_disk_fails_says_what_it_could_not_write(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    (segment,) = (tmp_path / "journal/one/w0").glob("*.jsonl")
    with disk_full_after(0, segment):
        with pytest.raises(JournalFailed):
            await journal.commit(journal.append(settled(0)))
        journal.append(settled(1))
        with pytest.raises(JournalFailed, match="2 records"):
            journal.close()


async def test_a_segment_deleted_under_the_journal_is_a_failure_and_not_a_silent_loss(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    shutil.rmtree(tmp_path / "journal")
    with pytest.raises(JournalFailed, match="deleted"):
        await journal.commit(journal.append(opened(0)))
    await recovered(journal)
    journal.close()
    assert any(record.exchange == "x0" for record in records(tmp_path))
    assert verify(tmp_path).faults != []


async def test_a_slow_disk_refuses_new_exchanges_first_and_then_says_how_much_it_refused(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, pending_bytes=8 * 1024)
    free = threading.Event()

    def slow() -> Record:
        free.wait()
        return opened(0)

    journal.append(opened(0), slow, weight=4000)
    with pytest.raises(JournalOverloaded, match="no new exchange"):
        journal.append(opened(1), weight=4000)
    for number in range(5):
        journal.append(Decided(time_ns=number, exchange="x0", stage="request"), weight=1000)
    with pytest.raises(JournalOverloaded, match="was not taken"):
        journal.append(Decided(time_ns=77, exchange="x0", stage="response"), weight=3000)
    with pytest.raises(JournalOverloaded):
        journal.append(Decided(time_ns=78, exchange="x0", stage="response"), weight=3000)
    free.set()
    await journal.commit(5)
    await journal.commit(journal.append(settled(0)))
    journal.close()
    (gap,) = (record for record in records(tmp_path) if isinstance(record, Gap))
    assert (gap.refused, gap.since_ns) == (2, 77)
    assert verify(tmp_path).faults == []


def slow_until(free: threading.Event, number: int = 0) -> Callable[[], Record]:
    def fill() -> Record:
        free.wait()
        return opened(number)

    return fill


async def waiting(*rooms: Awaitable[bool]) -> list[asyncio.Task[bool]]:
    """Tasks that have begun to wait."""
    tasks = [asyncio.ensure_future(room) for room in rooms]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


async def test_where_there_is_room_nobody_waits(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, pending_bytes=8 * 1024)
    assert await journal.room(1_000_000, 0.0) is False
    await journal.commit(journal.append(opened(0), weight=1_000_000))
    journal.close()


async def test_who_finds_no_room_waits_until_the_disk_has_taken_enough(tmp_path: Path) -> None:
    journal, free = open_journal(tmp_path, pending_bytes=8 * 1024), threading.Event()
    journal.append(opened(0), slow_until(free), weight=4000)
    (waits,) = await waiting(journal.room(4000, 60.0))
    assert not waits.done()
    free.set()
    assert await waits is True
    journal.append(opened(1), weight=4000)
    journal.close()


async def test_who_finds_no_room_in_time_is_refused(tmp_path: Path) -> None:
    journal, free = open_journal(tmp_path, pending_bytes=8 * 1024), threading.Event()
    journal.append(opened(0), slow_until(free), weight=4000)
    with pytest.raises(JournalOverloaded, match="no new exchange is taken after"):
        await journal.room(4000, 0.01)
    free.set()
    await journal.commit(1)
    assert await journal.room(4000, 60.0) is False
    journal.close()


async def test_room_is_given_in_the_order_of_asking_and_no_more_than_there_is(tmp_path: Path) -> None:
    journal, free = open_journal(tmp_path, pending_bytes=64 * 1024), threading.Event()
    journal.append(opened(0), slow_until(free), weight=60_000)
    order: list[int] = []
    entered = asyncio.Event()

    async def enters(number: int) -> None:
        assert await journal.room(10_000, 60.0)
        order.append(number)
        entered.set()
        journal.append(opened(number), slow_until(again, number), weight=10_000)

    again = threading.Event()
    tasks = [asyncio.create_task(enters(number)) for number in range(1, 7)]
    await asyncio.sleep(0)
    free.set()
    await entered.wait()
    await asyncio.sleep(0.05)
    assert order == [1, 2]
    again.set()
    await asyncio.gather(*tasks)
    assert order == [1, 2, 3, 4, 5, 6]
    journal.close()


async def test_who_no_longer_wants_its_room_takes_none(tmp_path: Path) -> None:
    journal, free = open_journal(tmp_path, pending_bytes=8 * 1024), threading.Event()
    journal.append(opened(0), slow_until(free), weight=4000)
    gone, stays = await waiting(journal.room(4000, 60.0), journal.room(4000, 60.0))
    gone.cancel()
    free.set()
    assert await stays is True
    assert journal._room._promised == 0
    journal.close()


async def test_who_waits_for_room_is_told_that_the_disk_failed(tmp_path: Path) -> None:
    journal, free = open_journal(tmp_path, pending_bytes=8 * 1024), threading.Event()
    shutil.rmtree(tmp_path / "journal")
    journal.append(opened(0), slow_until(free), weight=4000)
    (waits,) = await waiting(journal.room(4000, 60.0))
    free.set()
    with pytest.raises(JournalFailed, match="deleted"):
        await waits
    await recovered(journal)
    journal.close()


async def test_a_request_larger_than_all_that_may_wait_is_taken_when_little_waits(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, pending_bytes=8 * 1024)
    await journal.commit(journal.append(opened(0), weight=1_000_000))
    journal.close()


async def test_a_fill_is_called_in_the_writing_thread_and_keeps_the_order(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    threads: list[str] = []

    def fill() -> Record:
        threads.append(threading.current_thread().name)
        return opened(1, messages=[{"role": "user", "content": "filled in"}])

    journal.append(opened(1), fill)
    await journal.commit(journal.append(settled(1)))
    journal.close()
    found = records(tmp_path)
    assert threads == ["journal"]
    assert [type(record).__name__ for record in found] == ["Started", "Opened", "Settled"]
    assert found[1].messages == [{"role": "user", "content": "filled in"}]  # type: ignore[attr-defined]


async def test_a_fill_that_fails_leaves_the_facts_without_content_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = open_journal(tmp_path)

    def fill() -> Record:
        raise RuntimeError("the secret sk-123 broke me")

    journal.append(opened(1, messages=["unredacted"]), fill)
    await journal.commit(journal.append(settled(1)))
    assert journal.capture_errors == 1
    journal.close()
    first = records(tmp_path)[1]
    assert isinstance(first, Opened)
    assert (first.capture_error, first.agent, first.messages) == ("RuntimeError", "coder", [])
    assert verify(tmp_path).faults == []
    assert "sk-123" not in caplog.text
    assert b"unredacted" not in bytes_below(tmp_path)


@pytest.mark.parametrize(
    "content", [["\ud800"], [{1j: 2}], [object()]], ids=["lone surrogate", "no JSON key", "no JSON value"]
)
async def test_content_that_cannot_be_written_as_json_does_not_break_the_chain(
    tmp_path: Path, content: list[object]
) -> None:
    journal = open_journal(tmp_path)
    journal.append(opened(1, messages=content))
    await journal.commit(journal.append(settled(1)))
    journal.close()
    first = records(tmp_path)[1]
    assert isinstance(first, Opened)
    assert first.capture_error is not None
    assert first.agent == "coder"
    assert verify(tmp_path).faults == []


async def test_facts_that_cannot_be_written_leave_a_record_of_the_exchange(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    journal.append(Opened(time_ns=1, exchange="x1", agent="\ud800"))
    await journal.commit(journal.append(settled(1)))
    journal.close()
    first = records(tmp_path)[1]
    assert isinstance(first, Opened)
    assert (first.exchange, first.agent) == ("x1", "")
    assert first.capture_error is not None


async def test_a_fault_in_the_writing_thread_leaves_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = open_journal(tmp_path)

    def broken(*_: object) -> bytes:
        raise ZeroDivisionError

    monkeypatch.setattr(journal._pen._lines, "line", broken)
    with pytest.raises(JournalFailed, match="ZeroDivisionError"):
        await journal.commit(journal.append(settled(1)))
    assert not journal.healthy
    with pytest.raises(JournalFailed):
        journal.append(opened(2))
    with pytest.raises(JournalFailed, match="1 records"):
        journal.close()


@pytest.mark.parametrize("fsync", [True, False])
def test_segments_are_written_through_to_the_disk_where_that_is_asked_for(tmp_path: Path, fsync: bool) -> None:
    """The kernel says with which flags a file is open (proc(5), fdinfo)."""
    journal = open_journal(tmp_path, fsync=fsync)
    flags = []
    for link in Path("/proc/self/fd").iterdir():
        if link.is_symlink() and str(link.readlink()).startswith(str(tmp_path)) and ".jsonl" in str(link.readlink()):
            flags.append(int(Path(f"/proc/self/fdinfo/{link.name}").read_text().split()[3], 8))
    journal.close()
    assert [bool(flag & os.O_DSYNC) for flag in flags] == [fsync]
