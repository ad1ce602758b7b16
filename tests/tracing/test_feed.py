"""A feed: every exchange comes whole, once, also across restarts, rotations and disk errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tracing.exchanges import BEGIN, MS, checked, opened, settled, whole
from tracing.chain import genesis, write_line
from tracing.feed import Batch, Feed
from tracing.records import Alerted, AnyRecord, Settled
from tracing.segments import chain_folder, segment_name


class Writer:
    """Writes a chain as the journal does, record by record."""

    def __init__(self, state: Path, worker: int = 0) -> None:
        self.folder = chain_folder(state, "one", worker)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.seq, self.head = 0, genesis("one", worker)
        self.segment = 1

    def write(self, *records: AnyRecord) -> None:
        with (self.folder / segment_name(1, self.segment)).open("ab") as stream:
            for record in records:
                line, self.head = write_line(self.seq, self.head, record)
                stream.write(line)
                self.seq += 1


def feed(state: Path, old: Feed | None = None, at: int = BEGIN, **options: Any) -> Feed:
    return Feed(state, old.place() if old else None, clock=lambda: at, **options)


def names(batch: Batch) -> list[str]:
    return [exchange.id for exchange in batch.exchanges]


def test_an_exchange_comes_when_it_is_settled_and_only_once(tmp_path: Path) -> None:
    writer, reader = Writer(tmp_path), feed(tmp_path)
    records = whole("x1")
    writer.write(*records[:-1])
    assert not reader.read()
    writer.write(records[-1])
    batch = reader.read()
    assert names(batch) == ["x1"]
    assert len(batch.exchanges[0].calls) == 2
    assert not reader.read()


def test_a_line_that_is_being_written_is_waited_for(tmp_path: Path) -> None:
    writer, reader = Writer(tmp_path), feed(tmp_path)
    writer.write(opened("x1"))
    line, _ = write_line(1, writer.head, settled("x1"))
    file = writer.folder / segment_name(1, 1)
    with file.open("ab") as stream:
        stream.write(line[:50])
    assert not reader.read()
    with file.open("ab") as stream:
        stream.write(line[50:])
    assert names(reader.read()) == ["x1"]


def test_segments_and_new_writers_are_followed(tmp_path: Path) -> None:
    writer, reader = Writer(tmp_path), feed(tmp_path)
    writer.write(opened("x1"))
    reader.read()
    writer.segment = 2
    writer.write(settled("x1"))
    Writer(tmp_path, worker=1).write(opened("y1"), settled("y1"))
    assert sorted(names(reader.read())) == ["x1", "y1"]


def test_lines_that_were_written_again_after_a_disk_error_count_once(tmp_path: Path) -> None:
    writer, reader = Writer(tmp_path), feed(tmp_path)
    writer.write(opened("x1"), settled("x1"))
    assert names(reader.read()) == ["x1"]
    again = Writer(tmp_path)
    again.segment = 2
    again.write(opened("x1"), settled("x1"), opened("x2"), settled("x2"))
    assert names(reader.read()) == ["x2"]


def test_a_place_remembers_what_is_finished_and_what_is_not(tmp_path: Path) -> None:
    writer, reader = Writer(tmp_path), feed(tmp_path)
    writer.write(opened("long"), opened("short"), settled("short"), opened("other"))
    assert names(reader.read()) == ["short"]
    again = feed(tmp_path, reader)
    assert names(again.read()) == []
    writer.write(settled("other"), settled("long"))
    batch = again.read()
    assert sorted(names(batch)) == ["long", "other"]
    assert all(exchange.opened is not None for exchange in batch.exchanges)


def test_what_was_handed_out_and_not_marked_as_done_comes_again(tmp_path: Path) -> None:
    writer, reader = Writer(tmp_path), feed(tmp_path)
    before = feed(tmp_path)
    before.read()
    writer.write(*whole("x1"))
    assert names(reader.read()) == ["x1"]
    assert names(feed(tmp_path, before).read()) == ["x1"]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whenever_it_stops_every_exchange_comes_exactly_once(data: st.DataObject, tmp_path_factory: Any) -> None:
    """Any interleaving of exchanges, read in any pieces, with restarts anywhere between."""
    state = tmp_path_factory.mktemp("state")
    writer = Writer(state)
    exchanges = [f"x{number}" for number in range(data.draw(st.integers(1, 6)))]
    steps = data.draw(st.permutations([name for name in exchanges for _ in range(2)]))
    begun: set[str] = set()
    reader, seen = feed(state), list[str]()
    for step in steps:
        writer.write(settled(step) if step in begun else opened(step))
        begun.add(step)
        if data.draw(st.booleans()):
            writer.segment += data.draw(st.integers(0, 1))
            seen += names(reader.read())
        if data.draw(st.booleans()):
            seen += names(reader.read())
            reader = feed(state, reader)
    seen += names(reader.read())
    assert sorted(seen) == exchanges


def test_an_exchange_waits_for_checks_that_are_still_out(tmp_path: Path) -> None:
    writer, reader = Writer(tmp_path), feed(tmp_path)
    writer.write(opened("x1"), settled("x1", checks_pending=2))
    assert not reader.read()
    writer.write(checked("x1"))
    assert not reader.read()
    writer.write(checked("x1", check="other"))
    batch = reader.read()
    assert names(batch) == ["x1"]
    assert [check.check for check in batch.exchanges[0].checks] == ["nemo", "other"]


def test_a_check_that_never_comes_is_not_waited_for_beyond_the_grace_time(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.write(opened("x1"), settled("x1", checks_pending=1))
    over = BEGIN + 100 * MS + 10_000 * MS
    assert not feed(tmp_path, at=over - MS).read()
    assert names(feed(tmp_path, at=over).read()) == ["x1"]


def test_a_check_that_comes_after_its_exchange_was_sent_comes_alone(tmp_path: Path) -> None:
    writer, reader = Writer(tmp_path), feed(tmp_path)
    writer.write(opened("x1"), settled("x1"))
    reader.read()
    again = feed(tmp_path, reader)
    writer.write(checked("x1", status="blocked"))
    batch = again.read()
    assert names(batch) == []
    assert [check.status for check in batch.late_checks] == ["blocked"]


def test_an_interrupted_exchange_comes_with_what_is_known_of_it(tmp_path: Path) -> None:
    writer, reader = Writer(tmp_path), feed(tmp_path)
    writer.write(opened("x1"), Settled(time_ns=BEGIN, exchange="x1", ending="interrupted"))
    assert reader.read().exchanges[0].ending == "interrupted"


def test_a_new_sink_passes_over_what_is_old(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.write(*whole("old", BEGIN - 90_000_000 * MS), *whole("new"))
    assert names(feed(tmp_path).read()) == ["new"]


def test_alerts_come_once_also_when_an_exchange_around_them_is_read_again(tmp_path: Path) -> None:
    writer, reader = Writer(tmp_path), feed(tmp_path)
    alert = Alerted(time_ns=BEGIN, exchange="x1", fingerprint="f", cause="loop")
    writer.write(opened("x1"), alert)
    assert [one.fingerprint for one in reader.read().alerts] == ["f"]
    assert feed(tmp_path, reader).read().alerts == []


def test_a_feed_of_alerts_reads_nothing_else(tmp_path: Path) -> None:
    writer, reader = Writer(tmp_path), feed(tmp_path, alerts_only=True)
    alert = Alerted(time_ns=BEGIN, exchange="x1", fingerprint="f", cause="loop")
    writer.write(*whole("x1"), alert, *whole("x2"))
    batch = reader.read()
    assert (len(batch.alerts), batch.exchanges) == (1, [])
    assert not feed(tmp_path, reader, alerts_only=True).read()


def test_an_unreadable_line_is_passed_over(tmp_path: Path, caplog: Any) -> None:
    writer, reader = Writer(tmp_path), feed(tmp_path)
    writer.write(opened("x1"))
    with (writer.folder / segment_name(1, 1)).open("ab") as stream:
        stream.write(b"secret rubbish\n")
    writer.write(settled("x1"))
    assert names(reader.read()) == ["x1"]
    assert "secret" not in caplog.text


def test_a_long_journal_is_read_in_pieces(tmp_path: Path) -> None:
    writer, reader = Writer(tmp_path), feed(tmp_path, limit_bytes=10_000)
    for number in range(20):
        writer.write(*whole(f"x{number}"))
    pieces = []
    while batch := reader.read():
        pieces.append(len(batch.exchanges))
    assert sum(pieces) == 20
    assert len(pieces) > 3


def long_request(name: str) -> AnyRecord:
    return opened(name, messages=[{"role": "user", "content": "word " * 10_000}])


def test_the_content_of_a_long_request_is_kept_by_the_journal_alone_while_the_exchange_runs(tmp_path: Path) -> None:
    writer, reader = Writer(tmp_path), feed(tmp_path)
    begun = long_request("x2")
    writer.write(opened("x1"), begun)
    assert not reader.read()
    held = {name: growing.exchange.opened for name, growing in reader._growing.items()}
    assert held["x1"] is not None and held["x1"].messages
    assert held["x2"] is not None and not held["x2"].messages and held["x2"].run == "run-1"
    writer.write(settled("x2"), settled("x1"))
    assert [exchange.opened for exchange in reader.read().exchanges] == [opened("x1"), begun]


def test_content_that_is_gone_when_the_exchange_is_over_is_said_to_be_gone(tmp_path: Path) -> None:
    writer, reader = Writer(tmp_path), feed(tmp_path)
    writer.write(long_request("x1"))
    assert not reader.read()
    writer.segment = 2
    writer.write(settled("x1"))
    (writer.folder / segment_name(1, 1)).unlink()
    (exchange,) = reader.read().exchanges
    assert exchange.opened is not None and exchange.opened.run == "run-1"
    assert not exchange.opened.messages and exchange.opened.capture_error == "not to be read any more"
