"""The arithmetic, /proc, metrics and the table."""

import math
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.machine import file_system
from bench.measure import Cell, Latency, Options, Result
from bench.proc import Stat, parse_stat, tree
from bench.report import Report, render, rows_of
from bench.stats import median, percentile, ratio
from bench.targets import parse_metrics, total


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.sampled_from([0.0, 0.5, 0.99, 1.0]))
def test_a_percentile_is_a_value_that_so_many_do_not_exceed(values: list[float], part: float) -> None:
    found = percentile(values, part)
    assert found in values
    assert sum(value <= found for value in values) >= part * len(values)


def test_figures_of_nothing_are_not_numbers() -> None:
    assert math.isnan(median([])) and math.isnan(percentile([], 0.5)) and math.isnan(ratio(1.0, 0.0))
    assert median([3.0, 1.0]) == 2.0
    assert percentile([4.0, 1.0, 2.0, 3.0], 0.5) == 2.0


def test_a_process_name_may_hold_blanks_and_parentheses() -> None:
    line = "42 (a) b (c) S 7 42 42 0 -1 4194304 1 2 3 4 150 50 30 20 20 0 1 0 100 1 1"
    assert parse_stat(line, ticks=100) == Stat(pid=42, parent=7, cpu=2.0, reaped=0.5)


def test_a_tree_is_a_process_and_all_below_it_and_nobody_else() -> None:
    parents = {1: 0, 10: 1, 11: 10, 12: 11, 20: 1}
    stats = {pid: Stat(pid, parent, 1.0, 0.0) for pid, parent in parents.items()}
    assert {stat.pid for stat in tree(10, stats)} == {10, 11, 12}
    assert tree(99, stats) == []


def test_metrics_are_summed_over_the_rows_that_have_all_labels() -> None:
    metrics = parse_metrics(
        '# HELP d x\nd_total{stage="a",mode="enforce"} 2.0\nd_total{stage="a",mode="shadow"} 4.0\n'
        'd_total_other{stage="a"} 9\nplain 1\n'
    )
    assert total(metrics, "d_total", 'stage="a"') == 6.0
    assert total(metrics, "d_total", 'stage="a"', 'mode="enforce"') == 2.0
    assert total(metrics, "plain") == 1.0


def test_the_innermost_mount_holds_a_folder() -> None:
    mounts = "/dev/vda / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/vdb /tmp/x xfs rw 0 0\n"
    assert file_system(Path("/tmp/x/y"), mounts) == "xfs"
    assert file_system(Path("/tmpfoo"), mounts) == "ext4"


def cell(target: str, rate: float, **more: object) -> Cell:
    plain = Cell(target, "whole", rate, answers=100, wrong=0, first_wrong="", cpu_us=50.0, root_cpu_us=40.0, rss_mb=1.0)
    return msgspec.structs.replace(plain, **more)


def report(cells: list[Cell], nemo: list[Cell] | None = None) -> Report:
    options = Options(rounds=2, seconds=1, warm_seconds=0, connections=4, events=10, catch_up_seconds=1, requests=10)
    latency = Latency("direct", "whole", p50=0.2, p99=0.9, added_p50=0.0, added_p99=0.0, count=50)
    result = Result(cells, [], nemo or [], [latency], ["nginx is not installed"])
    return Report("python -m bench", "a day", "a machine", {"python": "3"}, 0.1, 0.5, 10.0, options, result)


def test_a_row_is_the_median_of_its_rounds_with_the_extremes_of_the_rate() -> None:
    rows = rows_of([cell("a", 10.0), cell("b", 1.0), cell("a", 30.0), cell("a", 11.0)], "whole")
    assert [(row.target, row.rate, row.low, row.high) for row in rows] == [
        ("a", 11.0, 10.0, 30.0),
        ("b", 1.0, 1.0, 1.0),
    ]


def test_the_table_gives_ratios_to_the_bare_pass_through() -> None:
    text = render(report([cell("aiohttp", 1000.0), cell("interlock", 250.0, cpu_us=200.0)]))
    line = next(line for line in text.splitlines() if line.startswith("| interlock"))
    assert [part.strip() for part in line.strip("| ").split("|")] == [
        "interlock", "250 (250–250)", "0.25", "200 (40)", "4.00", "1"
    ]  # fmt: skip


def test_wrong_answers_unfinished_work_and_a_busy_machine_are_said() -> None:
    text = render(report([cell("interlock", 1.0, wrong=3, first_wrong="status 500", late=True)]))
    assert "WRONG: interlock, whole: 3 of 100 answers; status 500" in text
    assert "still at work behind the traffic" in text
    assert "other programs were running" in text


def test_the_share_of_dropped_checks_is_said() -> None:
    text = render(report([cell("aiohttp", 9.0)], [cell("interlock+nemo", 3.0, checks=2.0, checks_dropped=1.5)]))
    assert "2.0 checks for each exchange; its queue was full for 75.0% of them" in text
    assert "all 200 answers" in text


@pytest.mark.parametrize("missing", ["aiohttp", "direct"])
def test_a_reference_that_is_missing_leaves_dashes(missing: str) -> None:
    present = "direct" if missing == "aiohttp" else "aiohttp"
    assert "nan" not in render(report([cell(present, 5.0, cpu_us=0.0, root_cpu_us=0.0)]))
