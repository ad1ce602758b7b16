"""Several workers on one port: one budget, one run, one kill switch, one record; and what follows when one is gone.

Every process is a real one. A test has connections to each worker, so it says itself which worker an exchange goes by.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.breakers.budgets import estimate_prompt_tokens
from tests.support.chat import Call, Say, read_stream, stream, whole
from tests.support.lanes import ROOT
from tests.support.raw import ScriptedUpstream, scripted, send
from tests.support.served import COMMAND, Served, served, until
from tests.support.servers import plain_environment
from tests.support.serving import HEAD, answering, ask, post
from tests.support.wire import Message, parse
from tests.support.workers import Connection, alive, connections, workers_of
from tracing.audit import verify
from tracing.records import Alerted, Opened, Operated, Refused, Settled, Started

TOKEN = "operators-only"
ORDER = {"operator": "ann", "reason": "enough"}
LOOK = Call("get_weather", '{"city": "Oslo"}')


class Model:
    """A model server that answers at once, or (to whoever says "wait") when ``go`` is set. To "look" it answers with
    the same call each time, under an id of its own."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.waiting = 0
        self._calls = 0

    async def __call__(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        body = json.loads(parse(request).body)
        word = body["messages"][0]["content"]
        if word == "look":
            self._calls += 1
            answer = whole(Say(calls=(LOOK,))).replace(b"chatcmpl-tool-0", b"chatcmpl-tool-x%dy" % self._calls)
            await answering(answer)(request, writer)
        elif body.get("stream"):
            await self._stream(writer, wait=word == "wait")
        else:
            await self._wait(word == "wait")
            await answering(whole(Say(text="Done.")))(request, writer)

    async def _stream(self, writer: asyncio.StreamWriter, *, wait: bool) -> None:
        events = stream(Say(text="One two three."))
        writer.write(HEAD)
        for at, event in enumerate(events):
            if at == 3:
                await writer.drain()
                await self._wait(wait)
            writer.write(b"%x\r\n%s\r\n" % (len(event), event))
        writer.write(b"0\r\n\r\n")

    async def _wait(self, really: bool) -> None:
        if really:
            self.waiting += 1
            try:
                await self.go.wait()
            finally:
                self.waiting -= 1


class Setting:
    """A served Interlock with two workers before a scripted model."""

    def __init__(self, interlock: Served, upstream: ScriptedUpstream, model: Model) -> None:
        self.interlock = interlock
        self.upstream = upstream
        self.model = model

    @property
    def workers(self) -> dict[int, int]:
        return workers_of(self.interlock.process.pid)

    async def order(self, path: str) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with aiohttp.ClientSession(headers=headers) as session:
            method = "GET" if path == "/v1/runs" else "POST"
            async with session.request(method, self.interlock.admin_url + path, json=ORDER) as answer:
                return answer.status, await answer.json()

    def chains(self, kind: type) -> set[str]:
        return {entry.chain for entry in self.interlock.entries() if isinstance(entry.record, kind)}


@asynccontextmanager
async def serving(folder: Path, **sections: Any) -> AsyncIterator[Setting]:
    model = Model()
    listen = {"admin_token": TOKEN, "drain_seconds": 5.0}
    async with (
        scripted(model) as upstream,
        served(upstream.url, folder, workers=2, listen=listen, **sections) as interlock,
    ):
        yield Setting(interlock, upstream, model)
        model.go.set()
        await asyncio.sleep(0)


def saying(word: str, **fields: object) -> dict[str, Any]:
    return ask(messages=[{"role": "user", "content": word}], **fields)


def code(answer: Message) -> str:
    given: str = json.loads(answer.body)["error"]["code"]
    return given


async def test_workers_together_never_overrun_a_budget(tmp_path: Path) -> None:
    body = saying("wait", max_tokens=1000)
    lease = estimate_prompt_tokens(len(json.dumps(body))) + 1000
    agents = {"anonymous": {"tokens": int(7.5 * lease)}}
    async with (
        serving(tmp_path, agents=agents) as it,
        connections(it.interlock.port, it.workers.values(), each=12) as by_worker,
    ):
        asking = [asyncio.create_task(one.ask(body)) for kept in by_worker.values() for one in kept]
        await until(lambda: it.model.waiting + sum(task.done() for task in asking) == 24)
        assert it.model.waiting == 7
        it.model.go.set()
        answers = await asyncio.gather(*asking)
        refused = [answer for answer in answers if answer.start.startswith("HTTP/1.1 429")]
        assert len(refused) == 17 and {code(answer) for answer in refused} == {"budget_exhausted"}
        assert it.chains(Opened) == {"local/w1", "local/w2"}
        assert len(it.upstream.requests) == 7
        again = await next(iter(by_worker.values()))[0].ask(body)  # what was leased and not used is free again
        assert again.start == "HTTP/1.1 200 OK"


async def test_a_loop_whose_steps_go_by_different_workers_trips_at_the_third_repeat(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, breakers={"slow_seconds": 0}) as it,
        connections(it.interlock.port, it.workers.values()) as by_worker,
    ):
        (one,), (two,) = by_worker.values()
        history: list[dict[str, Any]] = [{"role": "user", "content": "look"}]
        statuses = []
        for turn in range(5):
            answer = await (one, two)[turn % 2].ask(ask(messages=history))
            statuses.append(answer.start.split()[1])
            if statuses[-1] != "200":
                break
            message = json.loads(answer.body)["choices"][0]["message"]
            history += [
                {key: message[key] for key in ("role", "content", "tool_calls")},
                {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "rain"},
            ]
        assert statuses == ["200", "200", "200", "200", "429"]
        assert code(answer) == "loop_detected"
        refused = [await connection.ask(ask(messages=history)) for connection in (one, two)]
        assert [code(answer) for answer in refused] == ["loop_detected", "loop_detected"]
        opened = it.interlock.records(Opened)
        assert len({record.run for record in opened}) == 1
        assert sorted(record.step for record in opened) == list(range(7))
        assert it.chains(Opened) == {"local/w1", "local/w2"}
        await until(lambda: firing(it) == ["loop_suspected", "loop_detected"])
        _, listed = await it.order("/v1/runs")
        assert [(run["steps"], run["tripped"]) for run in listed["runs"]] == [(7, "loop_detected")]
        status, _ = await it.order(f"/v1/runs/{opened[0].run}/release")
        assert status == 200
        assert (await two.ask(ask(messages=history))).start == "HTTP/1.1 200 OK"


async def test_a_kill_cuts_what_streams_on_every_worker(tmp_path: Path) -> None:
    async with serving(tmp_path) as it, connections(it.interlock.port, it.workers.values(), each=3) as by_worker:
        for kept in by_worker.values():
            kept[0].writer.write(post(saying("wait", stream=True)))
            kept[1].writer.write(post(saying("wait")))
        await until(lambda: it.model.waiting == 4)
        status, _ = await it.order("/v1/all/kill")
        assert status == 200
        for kept in by_worker.values():
            (cut,) = read_stream((await kept[0].answer()).body).values()
            assert "run_killed" in cut.text and cut.finish == "stop"
            assert code(await kept[1].answer()) == "run_killed"
            refused = await kept[2].ask(saying("more"))
            assert (refused.start.split()[1], code(refused)) == ("403", "run_killed")
        (operated,) = it.interlock.records(Operated)
        assert (operated.operator, operated.target) == ("ann", "all")
        assert it.chains(Operated) == {"local/w0"}
        assert (await it.order("/v1/all/release"))[0] == 200
        for kept in by_worker.values():
            assert (await kept[2].ask(saying("more"))).start == "HTTP/1.1 200 OK"


async def test_a_killed_worker_is_replaced_and_what_it_held_returns(tmp_path: Path) -> None:
    body = saying("wait", max_tokens=5000)
    lease = estimate_prompt_tokens(len(json.dumps(body))) + 5000
    async with serving(tmp_path, agents={"anonymous": {"tokens": int(1.5 * lease)}}) as it:
        before = it.workers
        async with connections(it.interlock.port, before.values(), each=2) as by_worker:
            mine, other = by_worker[before[1]], by_worker[before[2]]
            for one in (mine[0], other[0]):
                assert (await one.ask(saying("hello", max_tokens=10))).start == "HTTP/1.1 200 OK"
            mine[1].writer.write(post(body))
            await until(lambda: it.model.waiting == 1)
            assert code(await other[0].ask(body)) == "budget_exhausted"
            await until(lambda: len(it.interlock.records(Opened)) == 4)
            os.kill(before[1], signal.SIGKILL)
            with contextlib.suppress(ConnectionResetError):
                assert await mine[1].reader.read() == b""
            await until(lambda: it.workers.get(1, before[1]) != before[1])
            asking = asyncio.create_task(other[0].ask(body))  # its lease is free again
            await until(lambda: it.model.waiting >= 1 and len(it.upstream.requests) == 4)
            it.model.go.set()
            assert (await asking).start == "HTTP/1.1 200 OK"
        await until(lambda: _ready(it, 2))
        after = it.workers
        assert after[2] == before[2] and after[1] != before[1]
        async with connections(it.interlock.port, after.values()) as by_worker:
            for kept in by_worker.values():
                assert (await kept[0].ask(saying("hello", max_tokens=10))).start == "HTTP/1.1 200 OK"
        # Two by the first worker 1 (one broke off), two by worker 2 with one refusal, and one each at the end.
        await until(lambda: _counts(it, "interlock_exchanges_total", 6))
        assert await it.interlock.count("interlock_added_seconds_count") == 6
        assert await it.interlock.count("interlock_worker_restarts_total") == 1
        assert await it.interlock.count("interlock_active_exchanges") == 0
        assert await it.interlock.count("interlock_refusals_total", code="budget_exhausted") == 1
        await until(lambda: "worker_down" in firing(it))
        (alert,) = [record for record in it.interlock.records(Alerted) if record.cause == "worker_down"]
        assert (alert.state, alert.evidence["worker"]) == ("firing", 1)
        broken = [entry for entry in it.interlock.entries() if getattr(entry.record, "ending", "") == "interrupted"]
        assert [entry.chain for entry in broken] == ["local/w1"]
    assert verify(it.interlock.state).faults == []
    assert {report.chain: report.epochs for report in verify(it.interlock.state).chains} == {
        "local/w0": 1,
        "local/w1": 2,
        "local/w2": 1,
    }


def firing(it: Setting) -> list[str]:
    """Causes of the alerts that are on record, in order."""
    return [record.cause for record in it.interlock.records(Alerted) if record.state == "firing"]


async def _ready(it: Setting, workers: int) -> bool:
    return await it.interlock.count("interlock_workers_ready") == workers


async def _counts(it: Setting, metric: str, number: float) -> bool:
    return await it.interlock.count(metric) == number


async def test_without_the_parent_workers_admit_nothing_finish_what_runs_and_end(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        pids = it.workers
        async with connections(it.interlock.port, pids.values(), each=2) as by_worker:
            for kept in by_worker.values():
                kept[0].writer.write(post(saying("wait", stream=True)))
            await until(lambda: it.model.waiting == 2)
            it.interlock.process.kill()
            it.interlock.process.wait()
            for kept in by_worker.values():
                refused = await kept[1].ask(saying("hello"))
                assert (refused.start.split()[1], code(refused)) == ("503", "admission_unavailable")
                assert refused.header("retry-after") is not None
            with pytest.raises(ConnectionRefusedError):
                await Connection.open(it.interlock.port)
            it.model.go.set()
            for kept in by_worker.values():
                (given,) = read_stream((await kept[0].answer()).body).values()
                assert given.text == "One two three."
        await until(lambda: not any(alive(pid) for pid in pids.values()), 30)
        assert verify(it.interlock.state).faults == []
        endings = {record.exchange: record.ending for record in it.interlock.records(Settled)}
        assert endings.keys() == {record.exchange for record in it.interlock.records(Opened)}
        assert set(endings.values()) == {"done"}
        # The next start has the place to itself, with as many workers as it likes.
        async with served(it.upstream.url, tmp_path / "again", state=it.interlock.state) as alone:
            answer = parse(await send(alone.port, post(saying("hello"), "Connection: close")))
            assert answer.start == "HTTP/1.1 200 OK"
            assert [record.epoch for record in alone.records(Started)].count(2) == 1


async def test_what_a_killed_interlock_left_open_is_ended_by_the_next_however_many_workers_it_has(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as it:
        pids = it.workers
        async with connections(it.interlock.port, pids.values()) as by_worker:
            for kept in by_worker.values():
                kept[0].writer.write(post(saying("wait", stream=True)))
            await until(lambda: it.model.waiting == 2)
            await until(lambda: len(it.interlock.records(Opened)) == 2)
            for pid in (it.interlock.process.pid, *pids.values()):
                os.kill(pid, signal.SIGKILL)
            it.interlock.process.wait()
            await until(lambda: not any(alive(pid) for pid in pids.values()))
        async with served(it.upstream.url, tmp_path / "again", state=it.interlock.state) as alone:
            assert [record.ending for record in alone.records(Settled)] == ["interrupted", "interrupted"]
        assert verify(it.interlock.state).faults == []


async def test_a_term_lets_every_worker_finish(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        pids = it.workers
        async with connections(it.interlock.port, pids.values()) as by_worker:
            for kept in by_worker.values():
                kept[0].writer.write(post(saying("wait", stream=True)))
            await until(lambda: it.model.waiting == 2)
            it.interlock.process.send_signal(signal.SIGTERM)
            await until(lambda: _refuses(it.interlock.port))
            it.model.go.set()
            for kept in by_worker.values():
                (given,) = read_stream((await kept[0].answer()).body).values()
                assert given.text == "One two three."
        await until(lambda: it.interlock.process.poll() is not None, 30)
        assert it.interlock.process.returncode == 0
        assert not any(alive(pid) for pid in pids.values())
        assert not (it.interlock.state / "parent.sock").exists()
        assert it.interlock.records(Refused) == []


async def _refuses(port: int) -> bool:
    try:
        one = await Connection.open(port)
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # it was in the queue of a socket that closed just then
        return False
    one.writer.close()
    return False


async def test_a_second_one_on_the_same_port_and_a_bundle_that_is_none_are_refused_in_one_line(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        line = await refused_start(tmp_path / "second", "--port", str(it.interlock.port))
        assert "address already in use" in line and "--port" in line
    line = await refused_start(tmp_path / "third", "--port", "0", policies={"bundle": str(tmp_path)})
    assert str(tmp_path) in line


async def refused_start(folder: Path, *flags: str, **sections: Any) -> str:
    """The one line that an `interlock serve --workers 2` that cannot start prints."""
    config = written(folder, sections)
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        "serve",
        *("--config", str(config), "--workers", "2", "--admin-port", "0", "--state-dir", str(folder / "state"), *flags),
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=plain_environment(PYTHONPATH=str(ROOT)),
    )
    async with asyncio.timeout(120):
        _, errors = await process.communicate()
    assert process.returncode == 2, errors
    return errors.decode().splitlines()[-1]


def written(folder: Path, sections: dict[str, Any]) -> Path:
    folder.mkdir()
    config = folder / "interlock.yaml"
    config.write_text(json.dumps(sections))
    config.chmod(0o600)
    return config
