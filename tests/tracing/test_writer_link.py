"""The journal that a process of its own writes: nothing is lost, doubled or let go too early, whoever dies."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from serving.wire.request import SentCall, SentMessage, SentTool
from tracing import writer_process
from tracing.audit import verify
from tracing.captures import CaptureModes
from tracing.drafts import CallDraft, OpenedDraft, SettledDraft
from tracing.journal import JournalClosed, JournalFailed, JournalOverloaded
from tracing.records import CallOutcome, Decided, Gap, Opened, Record, Settled, Started
from tracing.segments import read
from tracing.writer_link import WriterLink

ROOT = Path(__file__).parents[2]
CANARY = "sk-proj-" + "aB3" * 16


def opened(number: int, **facts: Any) -> Opened:
    return Opened(time_ns=number, exchange=f"x{number}", agent="coder", run="r1", **facts)


def settled(number: int, **facts: Any) -> Settled:
    return Settled(time_ns=number, exchange=f"x{number}", ending="done", **facts)


def asked(text: str) -> OpenedDraft:
    return OpenedDraft("tiny", (SentMessage("user", text),), (), [], {})


def records(state: Path) -> list[Record]:
    return [entry.record for entry in read(state)]


def bytes_below(state: Path) -> bytes:
    return b"".join(path.read_bytes() for path in state.rglob("*.jsonl"))


def open_link(state: Path, **options: Any) -> WriterLink:
    return WriterLink.open(state, **{"instance": "one", "linger": 0.0, "retry_seconds": 0.02, **options})


def pid_of(link: WriterLink) -> int:
    assert link.writer_pid is not None
    return link.writer_pid


async def until(reached: Callable[[], bool]) -> None:
    for _ in range(4000):
        if reached():
            return
        await asyncio.to_thread(threading.Event().wait, 0.005)
    raise AssertionError("not reached")


async def until_healthy(link: WriterLink) -> None:
    await until(lambda: link.healthy)


async def until_lost(link: WriterLink) -> None:
    await until(lambda: not link.healthy)


async def test_what_is_committed_is_read_back_in_order_with_its_content(tmp_path: Path) -> None:
    link = open_link(tmp_path)
    message = SentMessage("assistant", "hm", calls=(SentCall("c1", "shell", "{}"),), name="me")
    for number in range(50):
        draft = OpenedDraft("tiny", (message,), (SentTool("shell", "runs", {"type": "object"}),), [], {"n": number})
        last = link.append(opened(number), draft, agent="coder")
    await link.commit(last)
    assert link.durable == last
    assert (link.pending_records, link.pending_bytes) == (0, 0)
    found = records(tmp_path)
    link.close()
    assert isinstance(found[0], Started)
    assert not found[0].resumed
    assert [record.exchange for record in found[1:]] == [f"x{number}" for number in range(50)]
    one = found[8]
    assert isinstance(one, Opened)
    assert (one.model, one.params, one.run) == ("tiny", {"n": 7}, "r1")
    call = {"id": "c1", "type": "function", "function": {"name": "shell", "arguments": "{}"}}
    assert one.messages == [{"role": "assistant", "content": "hm", "tool_calls": [call], "name": "me"}]
    assert one.tools[0]["function"]["parameters"] == {"type": "object"}
    assert link.written_bytes > len(bytes_below(tmp_path)) / 2


async def test_content_is_kept_as_the_agents_mode_wants_it(tmp_path: Path) -> None:
    link = open_link(tmp_path, modes=CaptureModes("redacted", {"open": "full", "shut": "none"}))
    for number, agent in enumerate(("coder", "open", "shut")):
        link.append(opened(number), asked(f"{agent} uses {CANARY}"), agent=agent)
        answer = [{"index": 0, "content": f"{agent} said {CANARY}"}]
        link.append(settled(number), SettledDraft("r1", "tiny", "a1", answer), agent=agent)
        link.append(
            CallOutcome(time_ns=number, exchange=f"x{number}", outcome="denied"),
            CallDraft("r1", "c1", "shell", f"echo {CANARY}", given=False),
            agent=agent,
        )
    link.close()
    redacted, full, none = (found for found in records(tmp_path) if isinstance(found, Opened))
    assert CANARY not in str(redacted)
    assert "coder uses" in str(redacted)
    assert CANARY in str(full)
    assert none.messages == []
    text = bytes_below(tmp_path)
    assert text.count(CANARY.encode()) == 3  # all of them of the agent whose content is kept as it is
    assert b"coder said" in text
    assert b"shut said" not in text


async def test_a_commit_does_not_wait_for_more(tmp_path: Path) -> None:
    link = open_link(tmp_path, linger=3600.0)
    async with asyncio.timeout(20):
        await link.commit(link.append(opened(1)))
        await link.commit(0)
    link.close()
    assert len(records(tmp_path)) == 2


async def test_closing_writes_what_is_left(tmp_path: Path) -> None:
    link = open_link(tmp_path, linger=3600.0)
    for number in range(3000):
        link.append(opened(number), asked("y" * 2000))
    link.close()
    link.close()
    assert len(records(tmp_path)) == 3001
    assert verify(tmp_path).faults == []
    with pytest.raises(JournalClosed):
        link.append(opened(2))


async def test_a_second_writer_of_the_same_chain_is_refused(tmp_path: Path) -> None:
    link = open_link(tmp_path)
    with pytest.raises(JournalClosed, match="instance name"):
        open_link(tmp_path, patience=0.0)
    open_link(tmp_path, worker=1).close()
    link.close()
    with pytest.raises(ValueError, match="instance name"):
        open_link(tmp_path, instance="../up")


async def test_what_has_no_form_on_the_wire_costs_the_content_and_not_the_record(tmp_path: Path) -> None:
    link = open_link(tmp_path)
    link.append(opened(0), asked("half \ud800 pair"))
    link.append(opened(1), OpenedDraft("tiny", (), (), [], {"seed": 2**70}))
    link.append(opened(2), OpenedDraft("tiny", (), (), [], {"odd": object()}))
    link.close()
    _, pair, number, thing = records(tmp_path)
    assert isinstance(pair, Opened)
    assert "half" in str(pair.messages)
    assert [found.capture_error for found in (pair, number, thing)] == [None, "OverflowError", "TypeError"]
    assert link.capture_errors == 2
    assert verify(tmp_path).faults == []


@pytest.mark.parametrize("committed", [True, False])
async def test_a_killed_writer_is_followed_by_another_and_nothing_is_lost_or_doubled(
    tmp_path: Path, committed: bool
) -> None:
    link = open_link(tmp_path)
    await link.commit(link.append(opened(0), asked("first")))
    os.kill(pid_of(link), signal.SIGSTOP)
    seq = link.append(opened(1), asked("second"))
    waiting = asyncio.ensure_future(link.commit(seq)) if committed else None
    await asyncio.sleep(0.05)
    os.kill(pid_of(link), signal.SIGKILL)
    await until_lost(link)
    with pytest.raises(JournalFailed):
        link.append(opened(9))
    if waiting is not None:
        with pytest.raises(JournalFailed, match="process has ended"):
            await waiting
    link.append(settled(0))
    await until_healthy(link)
    await link.commit(link.append(settled(1)))
    link.close()
    found = records(tmp_path)
    assert [type(record).__name__ for record in found] == [
        *("Started", "Opened", "Started", "Opened", "Settled", "Settled"),
    ]
    assert [record.resumed for record in found if isinstance(record, Started)] == [False, True]
    assert [record.ending for record in found if isinstance(record, Settled)] == ["done", "done"]
    assert "second" in str(found[3])
    assert verify(tmp_path).faults == []


async def test_what_the_killed_writer_had_written_unheard_is_not_written_again(tmp_path: Path) -> None:
    link = open_link(tmp_path)
    link._loop.remove_reader(link._connection)  # type: ignore[arg-type]
    link.append(opened(0))
    link._flush()
    await until(lambda: b"x0" in bytes_below(tmp_path))
    os.kill(pid_of(link), signal.SIGKILL)
    link._lost("told so by the test")
    link.append(settled(0))
    await until_healthy(link)
    link.close()
    assert [type(record).__name__ for record in records(tmp_path)] == ["Started", "Opened", "Started", "Settled"]
    assert verify(tmp_path).faults == []


async def test_what_was_open_when_the_writer_died_and_the_server_after_it_is_interrupted(tmp_path: Path) -> None:
    link = open_link(tmp_path)
    await link.commit(link.append(opened(0)))
    os.kill(pid_of(link), signal.SIGKILL)
    await until_lost(link)
    await until_healthy(link)
    await link.commit(link.append(opened(1)))
    link.close()
    open_link(tmp_path).close()
    open_link(tmp_path).close()
    endings = [(record.exchange, record.ending) for record in records(tmp_path) if isinstance(record, Settled)]
    assert endings == [("x0", "interrupted"), ("x1", "interrupted")]
    assert verify(tmp_path).faults == []


async def test_content_over_which_two_writers_ended_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    dies = """
import os, tracing.drafts
tracing.drafts.OpenedDraft.fill = lambda *_: os._exit(9)
"""
    head, run = writer_process.START.split("runpy.run_module", 1)
    monkeypatch.setattr(writer_process, "START", f"{head}{dies}runpy.run_module{run}")
    link = open_link(tmp_path)
    link.append(opened(0), asked(f"poison {CANARY}"))
    await until_lost(link)
    await until_healthy(link)
    await link.commit(link.append(settled(0)))
    link.close()
    kinds = [record for record in records(tmp_path) if not isinstance(record, Started)]
    assert [type(record).__name__ for record in kinds] == ["Opened", "Settled"]
    assert (kinds[0].capture_error, kinds[0].messages) == ("WriterEnded", [])  # type: ignore[attr-defined]
    assert b"poison" not in bytes_below(tmp_path)


async def test_closing_after_the_writer_was_killed_still_writes_everything(tmp_path: Path) -> None:
    link = open_link(tmp_path, linger=3600.0, retry_seconds=3600.0)
    await link.commit(link.append(opened(0)))
    link.append(settled(0))
    os.kill(pid_of(link), signal.SIGKILL)
    link._lost("told so by the test")
    link.close()
    assert [type(record).__name__ for record in records(tmp_path)] == ["Started", "Opened", "Started", "Settled"]


@contextmanager
def disk_full_for(pid: int, more_bytes: int, segment: Path) -> Iterator[None]:
    """A real write error: no file of that process may grow beyond what the segment has now and ``more_bytes``."""
    soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (segment.stat().st_size + more_bytes, hard))
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_full_disk_fails_the_commit_refuses_new_exchanges_and_loses_nothing(tmp_path: Path) -> None:
    link = open_link(tmp_path)
    await link.commit(link.append(opened(0)))
    (segment,) = (tmp_path / "journal/one/w0").glob("*.jsonl")
    with disk_full_for(pid_of(link), 100, segment):
        seq = link.append(CallOutcome(time_ns=1, exchange="x0", name="shell", outcome="allowed"))
        with pytest.raises(JournalFailed, match="too large"):
            await link.commit(seq)
        assert not link.healthy
        with pytest.raises(JournalFailed):
            link.append(opened(1))
        last = link.append(settled(0))
        with pytest.raises(JournalFailed):
            await link.commit(last)
    await until_healthy(link)
    await link.commit(last)
    await link.commit(link.append(opened(2)))
    link.close()
    assert [type(record).__name__ for record in records(tmp_path)] == [
        *("Started", "Opened", "CallOutcome", "Settled", "Opened"),
    ]
    assert verify(tmp_path).faults == []


async def test_a_journal_closed_while_the_disk_fails_says_what_it_could_not_write(tmp_path: Path) -> None:
    link = open_link(tmp_path)
    (segment,) = (tmp_path / "journal/one/w0").glob("*.jsonl")
    with disk_full_for(pid_of(link), 0, segment):
        with pytest.raises(JournalFailed):
            await link.commit(link.append(settled(0)))
        link.append(settled(1))
        with pytest.raises(JournalFailed, match="2 records"):
            link.close()


async def test_a_slow_writer_refuses_new_exchanges_first_and_then_says_how_much_it_refused(tmp_path: Path) -> None:
    link = open_link(tmp_path, pending_bytes=8 * 1024)
    os.kill(pid_of(link), signal.SIGSTOP)
    link.append(opened(0), asked("y" * 4000))
    with pytest.raises(JournalOverloaded, match="no new exchange"):
        link.append(opened(1), asked("y" * 4000))
    for number in range(8):
        link.append(Decided(time_ns=number, exchange="x0", stage="request"))
    big = {"decision": {"why": "y" * 3000}}
    for moment in (77, 78):
        with pytest.raises(JournalOverloaded, match="was not taken"):
            link.append(Decided(time_ns=moment, exchange="x0", stage="response", **big))  # type: ignore[arg-type]
    os.kill(pid_of(link), signal.SIGCONT)
    await link.commit(link.durable + link.pending_records)
    await link.commit(link.append(settled(0)))
    link.close()
    (gap,) = (record for record in records(tmp_path) if isinstance(record, Gap))
    assert (gap.refused, gap.since_ns) == (2, 77)
    assert verify(tmp_path).faults == []


KILLED = """
import asyncio, sys
from pathlib import Path
from tracing.drafts import CallDraft, OpenedDraft
from tracing.records import CallOutcome, Opened, Settled
from tracing.writer_link import WriterLink

async def exchange(link, number):
    draft = OpenedDraft("m" * (number % 3000), (), (), [], {})
    link.append(Opened(time_ns=number, exchange=f"x{number}", run="r"), draft)
    facts = CallOutcome(time_ns=number, exchange=f"x{number}", name="shell", outcome="allowed")
    await link.commit(link.append(facts, CallDraft("r", "c", "shell", "{}", True)))
    sys.stdout.write(f"x{number}\\n")
    sys.stdout.flush()
    link.append(Settled(time_ns=number, exchange=f"x{number}", ending="done"))

async def main():
    link = WriterLink.open(Path(sys.argv[1]), instance="one", segment_bytes=200_000)
    number = 0
    while True:
        await asyncio.gather(*(exchange(link, number + lane) for lane in range(20)))
        number += 20

asyncio.run(main())
"""


def killed_under_load(state: Path, released_before: int) -> list[str]:
    """The calls that a server had let go when it was killed."""
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(state)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    released = [child.stdout.readline().strip() for _ in range(released_before)]
    child.send_signal(signal.SIGKILL)
    released += [line.strip() for line in child.stdout if line.endswith("\n")]
    child.wait()
    child.stdout.close()
    return released


async def test_kill_9_under_load_loses_no_call_that_was_released(tmp_path: Path) -> None:
    """The server says which calls it let go only after their commit; each must be found after the kill."""
    for round_, released_before in enumerate((30, 317)):
        released = killed_under_load(tmp_path, released_before)
        open_link(tmp_path).close()  # waits for the writer, which ends by itself
        epoch = [entry.record for entry in read(tmp_path) if entry.file.name.startswith(f"e{2 * round_ + 1:06d}")]
        assert set(released) <= {record.exchange for record in epoch if isinstance(record, CallOutcome)}
        assert verify(tmp_path).faults == []
    found = records(tmp_path)
    assert sum(isinstance(r, Settled) for r in found) == sum(isinstance(r, Opened) for r in found)


async def test_signals_that_end_a_server_do_not_end_its_writer(tmp_path: Path) -> None:
    link = open_link(tmp_path)
    await link.commit(link.append(opened(0)))
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(pid_of(link), number)
    await asyncio.to_thread(threading.Event().wait, 0.05)
    await link.commit(link.append(settled(0)))
    link.close()
    assert [type(record).__name__ for record in records(tmp_path)] == ["Started", "Opened", "Settled"]
