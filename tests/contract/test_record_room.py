"""A disk that is slower than the traffic: a request waits for the record to have room, and is refused in the end."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from proxy.app import Interlock
from proxy.runs import RunBook
from proxy.state import OwnRuns
from tests.support.chat import Say, whole
from tests.support.interlock import port_of, running
from tests.support.raw import scripted, send
from tests.support.serving import answering, ask, post
from tests.support.wire import parse
from tracing.records import Opened

_MANY = 9000
"""Records of a KB or so: more than may wait."""


@contextmanager
def _slow_disk(interlock: Interlock) -> Iterator[Callable[[], None]]:
    """Much waits to be written until it is called."""
    assert interlock._plane is not None
    journal = interlock._plane.journal
    pid = journal.writer_pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        for number in range(_MANY):
            journal.append(Opened(time_ns=1, exchange=f"x{number}", agent="a", run="r"))
        yield lambda: os.kill(pid, signal.SIGCONT)
    finally:
        os.kill(pid, signal.SIGCONT)


def _book(interlock: Interlock) -> RunBook:
    return cast(OwnRuns, cast(Any, interlock._plane)._runs)._book


async def _until_settled(interlock: Interlock) -> None:
    assert interlock._plane is not None
    await interlock._plane.relay.live.settled()


@pytest.mark.asyncio
async def test_a_request_waits_for_the_record_to_have_room(tmp_path: Path) -> None:
    async with scripted(answering(whole(Say(text="ok")))) as upstream, running(upstream.url, tmp_path) as interlock:
        assert interlock._plane is not None
        with _slow_disk(interlock) as free:
            asked = asyncio.create_task(send(port_of(interlock), post(ask(stream=False))))
            await asyncio.sleep(0.3)
            assert not asked.done() and not upstream.requests
            (run,) = _book(interlock)
            assert run.live == 1
            free()
            assert parse(await asked).start == "HTTP/1.1 200 OK"
        await _until_settled(interlock)
        assert run.live == 0
        assert b"interlock_record_waits_total 1.0" in interlock._plane.metrics.render()


@pytest.mark.asyncio
async def test_a_request_that_waited_in_vain_is_refused_and_never_asked(tmp_path: Path) -> None:
    impatient = {"wait_seconds": 0.05}
    async with (
        scripted(answering(whole(Say(text="ok")))) as upstream,
        running(upstream.url, tmp_path, tracing=impatient) as interlock,
    ):
        with _slow_disk(interlock):
            answer = parse(await send(port_of(interlock), post(ask(stream=False))))
        assert answer.start == "HTTP/1.1 503 Service Unavailable"
        assert b"record_unavailable" in answer.body
        assert not upstream.requests
        assert [run.live for run in _book(interlock)] == [0]
        assert interlock._plane is not None
        assert b'interlock_refusals_total{code="record_unavailable"} 1.0' in interlock._plane.metrics.render()
