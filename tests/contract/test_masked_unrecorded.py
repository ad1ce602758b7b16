"""What a policy masks is given only when the record says so: where the journal cannot be written the answer is stopped
in its place, and what is cut is cut all the same.

Scripted answers in vLLM's wire form, through a whole Interlock whose disk is full when the answer begins.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.policies.support import built
from tests.support.apis import APIS, STREAMED, heard
from tests.support.chat import Call, Say, stream, whole
from tests.support.disk import Disk
from tests.support.interlock import port_of, running
from tests.support.masking import KEY, MASK, POLICY, leaks
from tests.support.raw import Script, scripted, send
from tests.support.served import until
from tests.support.serving import answering, ask, post, streaming
from tests.support.text_stage import TextStage
from tests.support.wire import parse
from tracing.audit import verify
from tracing.journal import JournalOverloaded
from tracing.records import UNRECORDED, CallOutcome, Decided, Opened, Settled
from tracing.segments import read
from tracing.writer_link import WriterLink

pytestmark = [pytest.mark.opa, pytest.mark.asyncio(loop_scope="module")]

MORE = """
finding_of(id, action, redactions) := {
	"id": id,
	"severity": "high",
	"action": action,
	"message": "It named Eve.",
	"tags": [],
	"redactions": redactions,
}

request contains finding_of("asked", "flag", []) if {
	some message in input.request.messages
	contains(message.text, "Eve")
}

response contains finding_of("said", "redact", [{"path": "/text", "start": at, "end": at + 3}]) if {
	at := indexof(input.response.text, "Eve")
	at >= 0
}
"""
STOPPED = "Blocked by rule interlock/record. The answer was stopped"
KINDS = [(name, kind, False) for name, api in APIS.items() for kind in (*api.says, "response")]
KINDS += [(name, kind, True) for name in STREAMED for kind in APIS[name].says]
"""A stage `response` changes nothing of a stream."""


class Faulty(TextStage):
    """``disk`` is that of the process that writes the journal."""

    disk: Disk
    healthy: Callable[[], bool]
    metrics: Callable[[], bytes]

    def full_at(self, script: Script) -> None:
        async def play(request: bytes, writer: asyncio.StreamWriter) -> None:
            self.disk.full()
            await script(request, writer)

        self.script = play

    async def last(self) -> list[Any]:
        """Those of the last exchange, once the disk takes them."""
        self.disk.free()
        await until(lambda: self.healthy())
        await until(lambda: self._last()[-1:] and isinstance(self._last()[-1], Settled))
        return self._last()

    def _last(self) -> list[Any]:
        every = [entry.record for entry in read(self.state) if entry.record.exchange]
        opened = [one for one in every if isinstance(one, Opened)]
        return [one for one in every if one.exchange == opened[-1].exchange]


@asynccontextmanager
async def staged(bundle: Path, state: Path, **policies: Any) -> AsyncIterator[Faulty]:
    stage = Faulty(state)
    modes = {"team.keys": "enforce", "interlock.secrets": "off"}
    async with (
        scripted(stage.play) as upstream,
        running(upstream.url, state, policies={"bundle": bundle, "modes": modes, **policies}) as interlock,
    ):
        plane = interlock._plane
        assert plane is not None and isinstance(plane.journal, WriterLink) and plane.journal.writer_pid is not None
        journal = plane.journal
        stage.disk = Disk(plane.journal.writer_pid)
        stage.healthy = lambda: journal.healthy
        stage.metrics = plane.metrics.render
        stage.port = port_of(interlock)
        try:
            yield stage
        finally:
            stage.disk.free()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def bundle(opa_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unrecorded")
    source = {"team/keys/policy.rego": POLICY.format(name="keys", hold="tail(24)") + MORE}
    built(opa_binary, folder / "sources", source, with_library=True).write(folder / "bundle")
    return folder / "bundle"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Faulty]:
    async with staged(bundle, tmp_path_factory.mktemp("state") / "state") as it:
        yield it


def says(kind: str) -> Say:
    if kind == "response":
        return Say("Hm.", "So says Eve, xyzzy.")
    key = f"It is {KEY}, xyzzy."
    return Say(key, "So be it.") if kind == "reasoning" else Say("Hm.", key)


def stopped_in(stage: Faulty, before: bytes, kind: str) -> int:
    """How often an answer was stopped in place of a mask since ``before``."""
    label = f'interlock_decisions_total{{action="deny",mode="enforce",policy="interlock",stage="{kind}"}} '

    def count(metrics: bytes) -> int:
        return int(float((metrics.decode().partition(label)[2].splitlines() or ["0"])[0]))

    return count(stage.metrics()) - count(before)


@pytest.mark.parametrize(("name", "kind", "stream"), KINDS)
async def test_what_cannot_be_put_on_record_is_not_given(stage: Faulty, name: str, kind: str, stream: bool) -> None:
    api = APIS[name]
    before, say = stage.metrics(), says(kind)
    stage.full_at(streaming(api.events(say, 2)) if stream else answering(api.body(say)))
    told = heard(await stage.asks(api, stream=stream))
    assert STOPPED in str(api.said(told, "text", stream=stream))
    assert MASK not in str(told) and "xyzzy" not in str(told) and "Eve" not in str(told)
    assert KEY[:3] not in str(told)
    records = await stage.last()
    made = {"text": "output"}.get(kind, kind)
    decided = [(one.action, one.rule) for one in records if isinstance(one, Decided) and one.stage == made]
    assert decided.count(("deny", UNRECORDED)) == stopped_in(stage, before, made) >= 1
    assert "redact" in [action for action, _ in decided]
    (settled,) = [one for one in records if isinstance(one, Settled)]
    assert MASK not in str(settled.choices) and KEY not in str(settled.choices)
    assert verify(stage.state).faults == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_masked_call_is_refused_as_any_call_is(stage: Faulty, stream: bool) -> None:
    api = APIS["chat"]
    say = Say("Hm.", "Look.", (Call("read_file", f'{{"path":"{KEY}"}}'),))
    stage.full_at(streaming(api.events(say, 2)) if stream else answering(api.body(say)))
    body = await stage.asks(api, stream=stream)
    assert leaks(body) == {}
    assert "Blocked by rule interlock/record. The tool call was not executed" in str(heard(body))
    calls = [one for one in await stage.last() if isinstance(one, CallOutcome)]
    assert [one.outcome for one in calls] == ["masked", "unrecorded"]


@pytest.mark.parametrize("name", ["chat", "messages", "responses", "completions"])
async def test_once_the_disk_takes_it_the_mask_is_given(stage: Faulty, name: str) -> None:
    api = APIS[name]
    stage.full_at(streaming(api.events(says("text"))))
    assert STOPPED in str(heard(await stage.asks(api, stream=True)))
    await stage.last()
    stage.script = streaming(api.events(says("text")))
    assert api.said(heard(await stage.asks(api, stream=True)), "text", stream=True) == [f"It is {MASK}, xyzzy."]


@pytest.mark.parametrize(("kind", "streamed"), [("text", False), ("text", True), ("response", False)])
async def test_an_error_stands_in_its_place_where_the_settings_want_one(
    bundle: Path, tmp_path: Path, kind: str, streamed: bool
) -> None:
    async with staged(bundle, tmp_path / "state", refusal="error") as stage:
        say = says(kind)
        stage.full_at(streaming(stream(say, interval=2)) if streamed else answering(whole(say)))
        answer = parse(await send(stage.port, post(ask(stream=streamed))))
        assert STOPPED in answer.body.decode() and b"policy_denied" in answer.body
        assert b"xyzzy" not in answer.body and KEY.encode() not in answer.body
        assert answer.start == ("HTTP/1.1 200 OK" if streamed else "HTTP/1.1 403 Forbidden")


@pytest.mark.parametrize("kind", ["text", "response"])
async def test_a_decision_for_which_there_is_no_room_gives_nothing_either(
    stage: Faulty, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal takes none while the disk is slower than the traffic; what else is recorded goes on."""
    append = WriterLink.append

    def no_room(self: WriterLink, record: Any, *more: Any, **named: Any) -> int:
        if isinstance(record, Decided) and record.action == "redact":
            raise JournalOverloaded("no room")
        return append(self, record, *more, **named)

    monkeypatch.setattr(WriterLink, "append", no_room)
    stage.script = answering(APIS["chat"].body(says(kind)))
    told = heard(await stage.asks(APIS["chat"], stream=False))
    assert STOPPED in str(told) and "xyzzy" not in str(told)
    monkeypatch.undo()
    assert [one.ending for one in await stage.last() if isinstance(one, Settled)] == ["done"]


async def test_a_request_about_which_no_decision_can_be_recorded_is_refused(
    stage: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = WriterLink.append

    def no_room(self: WriterLink, record: Any, *more: Any, **named: Any) -> int:
        if isinstance(record, Decided):
            raise JournalOverloaded("no room")
        return append(self, record, *more, **named)

    monkeypatch.setattr(WriterLink, "append", no_room)
    answer = parse(await send(stage.port, post(ask(messages=[{"role": "user", "content": "Ask Eve."}]))))
    assert answer.start == "HTTP/1.1 503 Service Unavailable"
    assert b"record_unavailable" in answer.body
