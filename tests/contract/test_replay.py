"""Every recorded exchange, by a scripted upstream and at several chunkings: the same bytes through as direct.

Nothing is masked: status line, header multiset, body, ending; and the request that arrives upstream is the
client's but for what contract C2 excepts.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.interlock import port_of, running
from tests.support.raw import Script, ScriptedUpstream, replay, scripted, send
from tests.support.wire import Capture, captures, parse

CAPTURES = captures()


def whole(data: bytes) -> list[bytes]:
    return [data]


def by_seven(data: bytes) -> list[bytes]:
    """Pieces of seven bytes for the first part, which has the head and some events; then the rest."""
    return [*(data[i : min(i + 7, 4000)] for i in range(0, min(len(data), 4000), 7)), data[4000:]]


def at_random(data: bytes) -> list[bytes]:
    places = sorted(random.Random(len(data)).sample(range(len(data) + 1), min(30, len(data))))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


RAMBLING = frozenset({"s2_engine_killed", "s3_queue0", "s3_sigterm"})
"""Long answers to requests without tools, by a model that wrote one half-made ``<tool_call>`` after the other into its
text. Those are judged as the calls that a harness might read there; so these recordings are played where policies
only record."""
ONLY_RECORDING = {"interlock.shell": "shadow", "interlock.secrets": "shadow"}


class Stage:
    """One Interlock for all recordings, before an upstream that answers as it is told."""

    def __init__(self) -> None:
        self.script: Script = replay(b"", whole)
        self.upstream: ScriptedUpstream
        self.port = 0
        self.recording_port = 0

    def port_for(self, capture: Capture) -> int:
        return self.recording_port if capture.name in RAMBLING else self.port

    async def play(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        await self.script(request, writer)


@pytest.fixture(scope="module")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("replay") / "state"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(state_dir: Path) -> AsyncIterator[Stage]:
    stage = Stage()
    async with (
        scripted(stage.play) as stage.upstream,
        running(stage.upstream.url, state_dir, unjudged="allow") as interlock,
        running(
            stage.upstream.url,
            state_dir / "recording",
            unjudged="allow",
            policies={"modes": ONLY_RECORDING},
        ) as recording,
    ):
        stage.port, stage.recording_port = port_of(interlock), port_of(recording)
        yield stage


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("pieces", [whole, by_seven, at_random], ids=lambda f: f.__name__)
@pytest.mark.parametrize("capture", CAPTURES, ids=lambda c: c.name)
async def test_an_exchange_is_the_same_bytes_through_interlock_as_direct(
    capture: Capture, pieces, stage: Stage
) -> None:
    answer = capture.response_bytes.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert b"".join(pieces(answer)) == answer
    stage.script = replay(answer, pieces)
    seen = len(stage.upstream.requests)
    direct, through = capture.response, parse(await send(stage.port_for(capture), capture.request_bytes))
    assert through.start == direct.start
    assert through.multiset() == direct.multiset()
    assert through.body == direct.body
    assert through.whole == direct.whole
    if capture.request.start.startswith("POST"):
        assert len(stage.upstream.requests) == seen + 1
    sent, arrived = capture.request, stage.upstream.last
    assert arrived.start == sent.start
    assert arrived.multiset("expect") == sent.multiset("expect")
    assert arrived.body == sent.body
