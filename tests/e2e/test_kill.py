"""Interlock killed with kill −9 under load: whatever a client has, the record has.

Several rounds on one state folder. In each, many clients at once ask for streamed and whole answers with tool
calls, whose ids are unique; after a chance number of calls has reached any client, the process gets SIGKILL. The
next start repairs the record, and then it is held against what the clients' sockets got.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path

from tests.support.chat import Call, Say, stream, whole
from tests.support.raw import Script, scripted
from tests.support.served import Served, served, until
from tests.support.serving import HEAD, answering, ask, post
from tests.support.wire import parse
from tracing.audit import verify
from tracing.records import CallOutcome, Opened, Refused, Settled, Started

CLIENTS = 12
ROUNDS = 4
CALLS = (
    Call("get_weather", '{"city": "Oslo"}'),
    Call("run_shell", '{"command": "rm -rf /"}'),
    Call("run_shell", '{"command": "pytest -q"}'),
    Call("read_file", '{"path": "notes.txt"}'),
)
ID = re.compile(rb'"id":"(call-\d+-\d+)"')


class Load:
    """Clients that ask without end, keep every byte that they got, and stop when the server is gone."""

    def __init__(self, numbers: Iterator[int]) -> None:
        self.numbers = numbers
        self.got: list[bytes] = []
        self.finished = 0
        self.given: set[bytes] = set()

    async def client(self, port: int) -> None:
        while True:
            number = next(self.numbers)
            body = ask(stream=number % 3 != 0, messages=[{"role": "user", "content": f"Task {number}"}])
            raw = bytearray()
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionError:
                return
            try:
                writer.write(post(body, "Connection: close"))
                while data := await reader.read(4096):
                    raw += data
                    self.given |= set(ID.findall(raw))
                self.finished += raw.endswith(b"0\r\n\r\n") or (bool(raw) and not body["stream"])
            except ConnectionError:
                return
            finally:
                self.got.append(bytes(raw))
                self.given |= set(ID.findall(raw))
                writer.close()


def upstream_script() -> Script:
    """Answers with calls whose ids stand nowhere else; a stream pauses between its events."""
    answers = 0

    async def script(request: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal answers
        answers += 1
        mark = b"call-%d-" % answers
        say = Say(reasoning="I look.\n", text="On it.\n", calls=CALLS)
        if b'"stream": true' not in request:
            await answering(_named(whole(say), mark))(request, writer)
            return
        writer.write(HEAD)
        for event in (_named(event, mark) for event in stream(say, interval=3)):
            writer.write(b"%x\r\n%s\r\n" % (len(event), event))
            await writer.drain()
            await asyncio.sleep(0.001)
        writer.write(b"0\r\n\r\n")

    return script


def _named(raw: bytes, mark: bytes) -> bytes:
    return re.sub(rb"chatcmpl-tool-0*(\d)", lambda match: mark + match[1], raw)


async def one_round(interlock: Served, load: Load, calls: int) -> set[bytes]:
    """Load until so many calls have reached clients, then kill -9; gives the calls that clients have."""
    before = set(load.given)
    await until(lambda: "exporter" in interlock.children())
    exporter = interlock.children()["exporter"]
    clients = [asyncio.create_task(load.client(interlock.port)) for _ in range(CLIENTS)]
    await until(lambda: len(load.given - before) >= calls)
    interlock.process.kill()
    await asyncio.gather(*clients)
    interlock.process.wait()
    await until(lambda: not Path(f"/proc/{exporter}/exe").exists() or not _alive(exporter))
    return load.given - before


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


async def test_every_call_that_a_client_has_was_on_disk_before(tmp_path: Path) -> None:
    chance = random.Random()
    load = Load(iter(range(1, 1_000_000)))
    given: set[bytes] = set()
    interrupted = 0
    async with scripted(upstream_script()) as upstream:
        for number in range(ROUNDS + 1):
            async with served(upstream.url, tmp_path) as interlock:
                check(interlock, given)
                (*_, started) = interlock.records(Started)
                assert started.epoch == number + 1
                interrupted += started.interrupted
                if number < ROUNDS:
                    given |= await one_round(interlock, load, chance.randint(1, 150))
    denied = {b"call-%d-1" % int(name.split(b"-")[1]) for name in given}
    assert len(given) >= ROUNDS and not denied & given
    assert interrupted > 0 and load.finished > 0
    assert verify(tmp_path / "state").faults == []


def check(interlock: Served, given: set[bytes]) -> None:
    """The record after a start: whole, each given call decided, nothing left open."""
    assert verify(interlock.state).faults == []
    opened = {record.exchange for record in interlock.records(Opened)}
    settled = {record.exchange: record for record in interlock.records(Settled)}
    assert opened <= settled.keys()
    begun: set[str] = set()
    decided: dict[str, CallOutcome] = {}
    for record in interlock.records(Opened, CallOutcome):
        if isinstance(record, Opened):
            begun.add(record.exchange)
        else:
            assert record.exchange in begun
            decided[record.call_id or ""] = record
    for name in given:
        call = decided[name.decode()]
        assert call.outcome == "allowed" and call.complete, call
        assert call.name in ("get_weather", "run_shell", "read_file") and call.arguments
    endings = {record.ending for record in settled.values()}
    assert endings <= {"done", "interrupted", "client_gone"}, endings


async def test_a_refusal_that_a_client_has_was_on_disk_before(tmp_path: Path) -> None:
    """A run that loops is refused; killed at once after the first byte of the refusal, the record has it."""
    call = Call("get_weather", '{"city": "Oslo"}')
    turns = 0

    async def script(request: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal turns
        turns += 1
        await answering(_named(whole(Say(calls=(call,))), b"call-%d-" % turns))(request, writer)

    async with scripted(script) as upstream:
        async with served(upstream.url, tmp_path, breakers={"slow_seconds": 0}) as interlock:
            messages: list[dict[str, object]] = [{"role": "user", "content": "Weather?"}]
            for _ in range(8):
                reader, writer = await asyncio.open_connection("127.0.0.1", interlock.port)
                writer.write(post(ask(messages=messages), "Connection: close"))
                begun = await reader.readexactly(12)
                if begun == b"HTTP/1.1 429":
                    interlock.process.kill()
                    writer.close()
                    break
                message = json.loads(parse(begun + await reader.read()).body)["choices"][0]["message"]
                writer.close()
                made = message["tool_calls"][0]["id"]
                messages += [message, {"role": "tool", "tool_call_id": made, "content": "rain"}]
            else:
                raise AssertionError("the loop was never refused")
            interlock.process.wait()
        async with served(upstream.url, tmp_path) as interlock:
            (refused,) = interlock.records(Refused)
            assert refused.code == "loop_detected"
            assert verify(interlock.state).faults == []
