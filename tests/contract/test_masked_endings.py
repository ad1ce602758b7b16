"""An answer that ends while it is not yet decided what of it is masked: its budget is used up, an operator ends the
run, the client or the model server is gone. Nothing of what waits leaves.

Scripted answers in vLLM's wire form, through a whole Interlock; its engine takes as long as the test says.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from policies.asking import Answers, Asking
from proxy.app import Interlock
from tests.policies.support import built
from tests.support.apis import APIS, STREAMED, heard
from tests.support.interlock import port_of, running
from tests.support.masking import KEY, POLICY, finishes, leaks
from tests.support.raw import scripted, send
from tests.support.served import until
from tests.support.serving import HEAD, post, streaming
from tests.support.text_stage import HOLDS, TextStage, says
from tests.support.wire import parse
from tracing.records import Settled

pytestmark = [pytest.mark.opa, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def bundle(opa_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("endings")
    source = {"team/keys/policy.rego": POLICY.format(name="keys", hold=HOLDS["tail"])}
    built(opa_binary, folder / "sources", source, with_library=True).write(folder / "bundle")
    return folder / "bundle"


class Slow(TextStage):
    """``asked`` is set when a policy is asked about a text, and ``go`` lets it answer."""

    interlock: Interlock

    def __init__(self, state: Path) -> None:
        super().__init__(state)
        self.asked, self.go = asyncio.Event(), asyncio.Event()


@asynccontextmanager
async def staged(
    bundle: Path, state: Path, monkeypatch: pytest.MonkeyPatch, nth: int, **settings: Any
) -> AsyncIterator[Slow]:
    """The engine takes its time with the ``nth`` question about a text."""
    stage, asks, count = Slow(state), Asking.answers, 0

    async def answers(self: Asking, stage_: Any, document: bytes, those: frozenset[str], *more: Any) -> Answers:
        nonlocal count
        if stage_ in ("output", "reasoning") and "team.keys" in those:
            count += 1
            if count == nth:
                stage.asked.set()
                await stage.go.wait()
        return await asks(self, stage_, document, those, *more)

    monkeypatch.setattr(Asking, "answers", answers)
    policies = {"bundle": bundle, "modes": {"team.keys": "enforce"}}
    async with scripted(stage.play) as upstream, running(upstream.url, state, policies=policies, **settings) as it:
        stage.interlock, stage.port = it, port_of(it)
        try:
            yield stage
        finally:
            stage.go.set()


async def ending(stage: Slow) -> Settled:
    await until(lambda: stage.records(Settled))
    (settled,) = stage.records(Settled)
    assert isinstance(settled, Settled)
    return settled


BEFORE = "word " * 20
TEXT = f"{BEFORE}{KEY} and more {KEY} {'xyzzy ' * 3000}"


@pytest.mark.parametrize("name", [name for name in STREAMED if APIS[name].choices == 1])
@pytest.mark.parametrize("surface", ["text", "reasoning"])
@pytest.mark.parametrize("nth", [1, 2])
async def test_a_budget_that_ends_meanwhile(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, surface: str, nth: int
) -> None:
    api = APIS[name]
    if surface not in api.says:
        surface = "text"
    agents = {"anonymous": {"run_tokens": 1000}}
    async with staged(bundle, tmp_path, monkeypatch, nth, agents=agents) as stage:
        stage.script = streaming(api.events(says(surface, TEXT)))
        body = await stage.asks(api, stream=True)
        assert stage.asked.is_set() and not stage.go.is_set()
        assert leaks(body) == {}
        told = heard(body)
        assert "budget_exhausted" in str(api.said(told, "text", stream=True)) and "xyzzy" not in str(told)
        if "choices" in api.says["text"][0]:
            assert finishes(body) == ["length"]
        stage.go.set()
        assert (await ending(stage)).ending == "cut"


@pytest.mark.parametrize("name", ["chat", "messages", "responses", "completions"])
@pytest.mark.parametrize("how", ["killed", "client", "upstream"])
@pytest.mark.parametrize("nth", [1, 2])
async def test_whoever_ends_it_meanwhile(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, how: str, nth: int
) -> None:
    api = APIS[name]
    events = api.events(says("text", f"{BEFORE}{KEY} and more {KEY} {'xyzzy ' * 30}"))
    fails = asyncio.Event()

    async def script(_request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        for event in events[:-12]:
            writer.write(b"%x\r\n%s\r\n" % (len(event), event))
        await writer.drain()
        await fails.wait()
        writer.close()

    async with staged(bundle, tmp_path, monkeypatch, nth) as stage:
        stage.script = script
        reader, writer = await asyncio.open_connection("127.0.0.1", stage.port)
        writer.write(post(api.ask(stream=True), "Connection: close", path=api.path))
        async with asyncio.timeout(20):
            await stage.asked.wait()
        got = bytearray()
        if how == "killed":
            assert stage.interlock._plane is not None
            stage.interlock._plane.relay.live.cut(None, None)
        elif how == "upstream":
            fails.set()
        if how != "client":
            with suppress(ConnectionError):
                while data := await reader.read(65536):
                    got += data
        writer.close()
        fails.set()
        settled = await ending(stage)
        stage.go.set()
        await stage.interlock._plane.relay.live.settled()  # type: ignore[union-attr]
    assert settled.ending == {"killed": "cut", "client": "client_gone", "upstream": "upstream_failed"}[how]
    assert KEY[:3].encode() not in got and b"xyzzy" not in got
    if how == "killed":
        answer = parse(bytes(got))
        assert leaks(answer.body) == {}
        assert "run_killed" in str(api.said(heard(answer.body), "text", stream=True))


async def test_what_is_decided_too_late_changes_no_later_answer(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = APIS["chat"]
    async with staged(bundle, tmp_path, monkeypatch, 1, agents={"anonymous": {"run_tokens": 4000}}) as stage:
        stage.script = streaming(api.events(says("text", TEXT)))
        late = asyncio.create_task(stage.asks(api, stream=True))
        async with asyncio.timeout(20):
            await stage.asked.wait()
        stage.script = streaming(api.events(says("text", f"It is {KEY}, so.")))
        other = post(api.ask(stream=True), path=api.path)
        assert api.said(heard(parse(await send(stage.port, other)).body), "text", stream=True) == ["It is [key], so."]
        stage.go.set()
        assert leaks(await late) == {}
