"""What matches in a text, in one pass, from as many threads as like to ask."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import hyperscan
import pytest

from serving.block_scan import BlockScan


def test_the_numbers_of_those_that_match() -> None:
    scan = BlockScan(["red|blue", "[0-9]{3}", "grün"])
    assert sorted(scan.found(b"a RED car, number 4711")) == [0, 1]
    assert scan.found("grün".encode()) == [2]
    assert scan.found(b"") == []


def test_threads_do_not_disturb_each_other() -> None:
    scan = BlockScan([f"word{number}x" for number in range(50)])
    texts = [
        f"{'word ' * 200_000}word{number}x {'word ' * 200_000} word{49 - number}x".encode() for number in range(50)
    ] * 4
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(scan.found, texts))
    assert [sorted(numbers) for numbers in found] == [sorted((nth % 50, 49 - nth % 50)) for nth in range(len(texts))]


def test_what_is_no_expression_is_refused() -> None:
    with pytest.raises(hyperscan.HyperscanError):
        BlockScan(["("])
