"""What matches in a text, in one pass, from as many threads as like to ask."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import hyperscan
import pytest

from serving.block_scan import BlockScan


def test_the_numbers_of_those_that_match() -> None:
    scan = BlockScan(["red|blue", "[0-9]{3}", "grün"])
    assert sorted(scan.found(b"a RED car, number 4711").once) == [0, 1]
    assert scan.found("grün".encode()).once == [2]
    assert scan.found(b"").once == []


def test_where_the_others_end_and_which_they_are() -> None:
    scan = BlockScan(once=["red"], every=["car", "[a-z]ar", "[0-9]{3}"])
    assert scan.found(b"a red CAR, a bar, 4711", 9) == (
        [0],
        [(9, 0), (9, 1), (16, 1), (21, 2), (22, 2)],
        False,
    )


def test_a_scan_ends_where_there_are_more_than_were_asked_for() -> None:
    scan = BlockScan(once=["last"], every=["car"])
    assert scan.found(b"car car car last", 3) == ([0], [(3, 0), (7, 0), (11, 0)], False)
    found = scan.found(b"car car car last", 2)
    assert found.more and found.places[:2] == [(3, 0), (7, 0)] and not found.once


def test_threads_do_not_disturb_each_other() -> None:
    scan = BlockScan([f"word{number}x" for number in range(50)])
    texts = [
        f"{'word ' * 200_000}word{number}x {'word ' * 200_000} word{49 - number}x".encode() for number in range(50)
    ] * 4
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(scan.found, texts))
    assert [sorted(one.once) for one in found] == [sorted((nth % 50, 49 - nth % 50)) for nth in range(len(texts))]


def test_what_is_no_expression_is_refused() -> None:
    with pytest.raises(hyperscan.HyperscanError):
        BlockScan(["("])
