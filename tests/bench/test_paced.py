"""Paced streams against the benchmark's own upstream, and the tables of what was seen."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec
import pytest

from bench.measure import Cell, Measurer, Options
from bench.paced import Paced, Task
from bench.report_scale import ScaleReport, render_scale
from bench.scale import CONNECTIONS, EVENTS, HISTORIES, Open, Scale, paced
from bench.targets import Stage
from bench.wire import Answers, Shape, request, shape_of, stamps_in

OPTIONS = Options(1, 0.2, 0.1, 2, 20, 5.0, 50)


def test_a_request_says_what_it_wants_and_how_large_it_is() -> None:
    sent = request("stream", "x", Shape(1024 * 1024, 20_000, 50)).number(7)
    head, _, body = sent.partition(b"\r\n\r\n")
    assert shape_of(body) == Shape(0, 20_000, 50)
    assert f"Content-Length: {len(body)}".encode() in head
    assert 0.9 < len(body) / 1024**2 < 1.2
    assert shape_of(request("stream", "x").number(1).partition(b"\r\n\r\n")[2]) == Shape()


def test_a_stamp_can_be_read_out_of_what_came() -> None:
    event = Answers("n", 3).stamped()
    assert len(stamps_in(event + event)) == 2
    assert stamps_in(event[:-20]) != []
    assert stamps_in(event[: event.index(b"sent at") + 12]) == []


def test_paced_streams_flow_and_every_event_says_when_it_was_made(tmp_path: Path) -> None:
    with Stage(tmp_path, name="paced", events=20) as stage:
        words: list[str] = []
        seen = paced(Task(stage.upstream, 3, 0.5, 0.1, 20, 0, 1), words.append)
        assert words == ["open", "over"]
        assert (seen.flowing, seen.refused) == (3, "")
        assert seen.events > 3
        assert 0 < seen.p50 <= seen.p99 <= seen.worst
        long = Measurer(OPTIONS, "paced", words.append).cell(stage.direct(), "stream", 1, Shape(events=500))
        assert (long.wrong, long.events) == (0, 500)
        large = Measurer(OPTIONS, "paced", words.append).cell(stage.direct(), "whole", 1, Shape(history=256 * 1024))
        assert large.wrong == 0


def test_a_rival_is_started_by_its_command_and_held_to_status_and_ending(tmp_path: Path) -> None:
    script = tmp_path / "rival.py"
    script.write_text(
        "import asyncio, sys\n"
        "async def one(reader, writer):\n"
        "    up_reader, up_writer = await asyncio.open_connection('127.0.0.1', int(sys.argv[1].rpartition(':')[2]))\n"
        "    async def copy(a, b):\n"
        "        while data := await a.read(65536):\n"
        "            b.write(data)\n"
        "    await asyncio.gather(copy(reader, up_writer), copy(up_reader, writer))\n"
        "async def main():\n"
        "    server = await asyncio.start_server(one, '127.0.0.1', int(sys.argv[2]))\n"
        "    await server.serve_forever()\n"
        "asyncio.run(main())\n"
    )
    with Stage(tmp_path, name="rival", events=5) as stage:
        rival = stage.rival("copier", f"python3 {script} {{upstream}} {{port}}")
        cell = Measurer(OPTIONS, "rival", lambda _: None).cell(rival, "stream", 2)
        assert (cell.wrong, cell.answers > 0) == (0, True)


def test_the_tables_of_scale_say_what_was_seen_and_what_was_wrong() -> None:
    def cell(target: str, kind: str, **more: int) -> Cell:
        return Cell(target, kind, 100.0, 50, 0, "", 200.0 if target != "direct" else 0.0, 150.0, 40.0, **more)  # type: ignore[arg-type]

    names = ("direct", "aiohttp", "interlock")
    connections = [cell(n, k, connections=c) for k in ("whole", "stream") for c in CONNECTIONS for n in names]
    lengths = [cell(n, "stream", events=e) for e in EVENTS for n in names[1:]]
    lengths += [cell(n, "whole", history=h) for h in HISTORIES for n in names[1:]]
    flow = Paced(1000, 9000, 1.0, 2.0, 3.0)
    opened = [Open(n, 1000, 0, flow, 50.0 if n != "direct" else 0.0, 77.0, 0.5, 0.1, 1.5) for n in names]
    scale = Scale(connections, lengths, opened, {"aiohttp": 90.0, "interlock": 120.0})
    report = ScaleReport("c", "d", "m", {"python": "3"}, 0.1, 0.0, 10.0, OPTIONS, scale)
    text = render_scale(report)
    (row,) = [line.split() for line in text.splitlines() if line.startswith("| interlock") and "2 KB" in line]
    assert "77" in row
    assert "interlock 120 KB" in text
    assert "every answer had the right status" in text
    scale.open[2].paced = msgspec.structs.replace(flow, flowing=3, refused="HTTP/1.1 503")
    assert "WRONG: interlock: 3 of 1000 flowed; HTTP/1.1 503" in render_scale(report)


def test_a_load_that_cannot_connect_says_so() -> None:
    with pytest.raises(RuntimeError, match="Connect"), contextlib.suppress(TimeoutError):
        paced(Task(1, 1, 0.1, 0.1, 20, 0, 1), lambda _: None)
