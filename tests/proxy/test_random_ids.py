"""Ids from a page of random bytes: as good as ids that are fetched one by one."""

from __future__ import annotations

import os
import re

from proxy.random_ids import RandomHex


def test_ids_have_the_length_that_was_asked_for_and_never_come_twice() -> None:
    random_hex = RandomHex()

    ids = [random_hex(8) for _ in range(5000)]

    assert all(re.fullmatch("[0-9a-f]{16}", one) for one in ids)
    assert len(set(ids)) == len(ids)


def test_an_id_that_is_longer_than_a_page_is_whole() -> None:
    assert re.fullmatch("[0-9a-f]{20000}", RandomHex()(10_000))


def test_a_forked_child_gives_other_ids() -> None:
    random_hex = RandomHex()
    random_hex(8)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, random_hex(8).encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reading, 16).decode()
    os.close(reading)
    os.close(writing)

    assert len(theirs) == 16
    assert random_hex(8) != theirs
