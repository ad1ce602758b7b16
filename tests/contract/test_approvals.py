"""Calls that wait for a person: approved, denied, too late; what the client hears meanwhile, and what is on record."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from proxy.app import Interlock
from serving.config_file import ConfigError, load
from tests.policies.support import built
from tests.support.apis import APIS, Api
from tests.support.chat import Call, Say
from tests.support.interlock import port_of, running
from tests.support.raw import scripted, send
from tests.support.records import records
from tests.support.served import until
from tests.support.serving import answering, ask, post, streaming
from tests.support.stage import Stage
from tests.support.wire import parse
from tracing.records import Alerted, CallOutcome, Operated

pytestmark = [pytest.mark.opa, pytest.mark.asyncio(loop_scope="module")]

POLICY = """\
package interlock.policies.team.ask

tool_call contains {
	"id": "pay",
	"severity": "high",
	"action": "approve",
	"message": "Payments need a person.",
	"tags": [],
} if input.call.name == "pay"

request contains {
	"id": "books",
	"severity": "high",
	"action": "approve",
	"message": "Books need a person.",
	"tags": [],
} if {
	some message in input.request.messages
	contains(message.text, "Close the books")
}

request contains {
	"id": "number",
	"severity": "high",
	"action": "redact",
	"message": "A number.",
	"tags": [],
	"redactions": [{"path": concat("", ["/messages/", format_int(index, 10), "/text"]), "start": at, "end": at + 4,
		"replacement": "[number]"}],
} if {
	some index, message in input.request.messages
	at := indexof(message.text, "4711")
	at >= 0
}

tool_call contains {
	"id": "much",
	"severity": "high",
	"action": "redact",
	"message": "So much is not to be seen.",
	"tags": [],
} if input.call.arguments.usd > 999
"""
PAY = Call("pay", '{"usd": 3, "to": "kim@corp.dk"}')
TOKEN = "operators"
KEEPS_ALIVE = {"chat": b": waiting\n\n", "messages": b"event: ping\n", "responses": b": waiting\n\n"}
SAYS = Say("Hm.", "I pay.", (PAY,))
ORDER = {"operator": "ann", "reason": "It is for the invoice."}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def bundle(opa_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ask")
    built(opa_binary, folder / "sources", {"team/ask/policy.rego": POLICY}).write(folder / "bundle")
    return folder / "bundle"


@asynccontextmanager
async def asking(bundle: Path, state: Path, **approval: Any) -> AsyncIterator[tuple[Stage, Interlock]]:
    stage = Stage()
    policies = {
        "bundle": bundle,
        "modes": {"team.ask": "enforce"},
        "approval": {"seconds": 30, "alive_seconds": 0.1, **approval},
    }
    listen = {"admin_token": TOKEN}
    async with (
        scripted(stage.play) as upstream,
        running(upstream.url, state, policies=policies, listen=listen) as interlock,
    ):
        stage.upstream, stage.port = upstream, port_of(interlock)
        yield stage, interlock


@asynccontextmanager
async def admin(interlock: Interlock) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with aiohttp.ClientSession(interlock.admin_url, headers=headers) as session:
        yield session


async def waiting(session: aiohttp.ClientSession) -> list[dict[str, Any]]:
    async with session.get("/v1/approvals") as answer:
        found: list[dict[str, Any]] = (await answer.json())["approvals"]
        return found


async def answered(session: aiohttp.ClientSession, word: str, name: str) -> int:
    async with session.post(f"/v1/approvals/{name}/{word}", json=ORDER) as answer:
        return answer.status


def script(api: Api, stream: bool) -> Any:
    return streaming(api.events(SAYS)) if stream else answering(api.body(SAYS))


@pytest.mark.parametrize("word", ["approve", "deny"])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", ["chat", "messages", "responses"])
async def test_a_call_waits_for_an_operator(bundle: Path, tmp_path: Path, name: str, stream: bool, word: str) -> None:
    api = APIS[name]
    async with asking(bundle, tmp_path) as (stage, interlock), admin(interlock) as session:
        stage.script = script(api, stream)
        given = asyncio.ensure_future(send(stage.port, post(api.ask(stream=stream), path=api.path)))
        await until(lambda: waiting(session), 20)
        await asyncio.sleep(0.5)
        assert not given.done()
        (one,) = await waiting(session)
        assert (one["tool"], one["rule"], one["agent"]) == ("pay", "team.ask/pay", "anonymous")
        assert one["arguments_characters"] == len(PAY.arguments)
        assert "usd" in one["arguments"] and "kim@corp.dk" not in one["arguments"]
        assert [(d["path"], d["sink"], d["value"]) for d in one["decides"]] == [("/to", "recipient", "kim@corp.dk")]
        assert one["decides_whole"] is True
        assert await answered(session, word, one["id"]) == 200
        assert await answered(session, word, one["id"]) == 409
        body = parse(await given).body
        assert await waiting(session) == []
    whole = b"".join(api.events(SAYS)) if stream else api.body(SAYS)
    if stream:
        assert KEEPS_ALIVE[name] in body
        kept = b'event: ping\ndata: {"type": "ping"}\n\n' if name == "messages" else KEEPS_ALIVE[name]
        body = body.replace(kept, b"")
    if word == "approve":
        assert body == whole
    else:
        assert b"usd" not in body and b"Payments need a person." in body
    (outcome,) = records(tmp_path, CallOutcome)
    assert (outcome.outcome, outcome.rule) == ("approved" if word == "approve" else "denied", "team.ask/pay")
    (operated,) = records(tmp_path, Operated)
    assert (operated.operator, operated.action, operated.reason) == ("ann", word, ORDER["reason"])
    assert [(one.cause, one.state) for one in records(tmp_path, Alerted)] == [
        ("approval_needed", "firing"),
        ("approval_needed", "resolved"),
    ]
    assert all("decides" not in one.evidence for one in records(tmp_path, Alerted))


@pytest.mark.parametrize(("otherwise", "outcome"), [("deny", "denied"), ("allow", "approved")])
async def test_after_the_deadline_the_setting_decides(
    bundle: Path, tmp_path: Path, otherwise: str, outcome: str
) -> None:
    api = APIS["chat"]
    async with asking(bundle, tmp_path, seconds=0.3, otherwise=otherwise) as (stage, _):
        stage.script = script(api, True)
        await send(stage.port, post(api.ask(stream=True), path=api.path))
    (call,) = records(tmp_path, CallOutcome)
    assert call.outcome == outcome
    (operated,) = records(tmp_path, Operated)
    assert (operated.operator, operated.action) == ("interlock", "approval_expired")


async def test_a_client_that_goes_away_takes_its_question_with_it(bundle: Path, tmp_path: Path) -> None:
    api = APIS["chat"]
    async with asking(bundle, tmp_path) as (stage, interlock), admin(interlock) as session:
        stage.script = script(api, True)
        given = asyncio.ensure_future(send(stage.port, post(api.ask(stream=True), path=api.path)))
        await until(lambda: waiting(session), 20)
        given.cancel()

        async def none() -> bool:
            return not await waiting(session)

        await until(none, 20)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_kill_ends_what_waits(bundle: Path, tmp_path: Path, stream: bool) -> None:
    """Also where the model server has said all, and only the verdict is waited for."""
    api = APIS["chat"]
    async with asking(bundle, tmp_path) as (stage, interlock), admin(interlock) as session:
        stage.script = script(api, stream)
        given = asyncio.ensure_future(send(stage.port, post(api.ask(stream=stream), path=api.path)))
        await until(lambda: waiting(session), 20)
        (one,) = await waiting(session)
        await asyncio.sleep(0.3)
        async with session.post(f"/v1/runs/{one['run']}/kill", json=ORDER) as answer:
            assert answer.status == 200
        async with asyncio.timeout(10):
            body = parse(await given).body
        assert b"usd" not in body and (b"an operator stopped this run" in body)
        assert await answered(session, "approve", one["id"]) == 404
    assert not records(tmp_path, CallOutcome)


async def test_a_shutdown_ends_what_waits(bundle: Path, tmp_path: Path) -> None:
    api = APIS["chat"]
    async with asking(bundle, tmp_path) as (stage, interlock), admin(interlock) as session:
        stage.script = script(api, True)
        given = asyncio.ensure_future(send(stage.port, post(api.ask(stream=True), path=api.path)))
        await until(lambda: waiting(session), 20)
        await asyncio.sleep(0.3)
    body = parse(await given).body
    assert b"usd" not in body and b"shutting down" in body


async def test_nobody_can_approve_what_another_rule_wants_changed(bundle: Path, tmp_path: Path) -> None:
    """A call cannot be changed, so it is refused; an approval is stricter than a change, and not in its place."""
    api = APIS["chat"]
    async with asking(bundle, tmp_path) as (stage, _):
        stage.script = answering(api.body(Say("", "I pay.", (Call("pay", '{"usd": 1000}'),))))
        async with asyncio.timeout(10):
            body = parse(await send(stage.port, post(api.ask(stream=False), path=api.path))).body
    assert b"usd" not in body and b"team.ask/much" in body
    (outcome,) = records(tmp_path, CallOutcome)
    assert (outcome.outcome, outcome.rule) == ("denied", "team.ask/much")


async def test_no_more_than_so_many_wait(bundle: Path, tmp_path: Path) -> None:
    api = APIS["chat"]
    async with asking(bundle, tmp_path, most=1) as (stage, interlock), admin(interlock) as session:
        stage.script = script(api, False)
        first = asyncio.ensure_future(send(stage.port, post(api.ask(stream=False), path=api.path)))
        await until(lambda: waiting(session), 20)
        second = parse(await send(stage.port, post(api.ask(stream=False), path=api.path))).body
        assert b"Payments need a person." in second
        (one,) = await waiting(session)
        assert await answered(session, "approve", one["id"]) == 200
        assert json.loads(parse(await first).body)["choices"][0]["message"]["tool_calls"]


async def test_of_two_who_answer_at_once_the_first_counts(bundle: Path, tmp_path: Path) -> None:
    api = APIS["chat"]
    async with asking(bundle, tmp_path) as (stage, interlock), admin(interlock) as session:
        stage.script = script(api, False)
        given = asyncio.ensure_future(send(stage.port, post(api.ask(stream=False), path=api.path)))
        await until(lambda: waiting(session), 20)
        (one,) = await waiting(session)

        async def says(operator: str, word: str) -> tuple[int, dict[str, Any]]:
            order = {"operator": operator, "reason": "Mine."}
            async with session.post(f"/v1/approvals/{one['id']}/{word}", json=order) as answer:
                return answer.status, await answer.json()

        sides = [("ann", "approve"), ("bob", "deny")] * 10
        answers = await asyncio.gather(*(says(*side) for side in sides))
        body = parse(await given).body
    (nth,) = (at for at, (status, _) in enumerate(answers) if status == 200)
    winner, word = sides[nth]
    for status, said in answers[:nth] + answers[nth + 1 :]:
        assert (status, said["error"]["code"]) == (409, "already_decided")
        assert (said["operator"], said["action"]) == (winner, word)
    assert bool(json.loads(body)["choices"][0]["message"].get("tool_calls")) == (word == "approve")
    assert [(one.operator, one.action) for one in records(tmp_path, Operated)] == [(winner, word)]


async def test_who_comes_after_the_deadline_is_told_so(bundle: Path, tmp_path: Path) -> None:
    api = APIS["chat"]
    async with asking(bundle, tmp_path, seconds=0.3) as (stage, interlock), admin(interlock) as session:
        stage.script = script(api, False)
        await send(stage.port, post(api.ask(stream=False), path=api.path))
        name = records(tmp_path, Alerted)[0].evidence["id"]
        async with session.post(f"/v1/approvals/{name}/approve", json=ORDER) as answer:
            said = await answer.json()
        assert (answer.status, said["operator"], said["action"]) == (409, "interlock", "approval_expired")


async def test_secrets_are_masked_where_the_value_is_what_is_decided(bundle: Path, tmp_path: Path) -> None:
    api = APIS["chat"]
    key = "sk-proj-" + "aB3dE5fG7hJ9" * 4
    pays = Say("", "I pay.", (Call("pay", json.dumps({"to": ["kim@corp.dk"], "command": f"pay --key {key}"})),))
    async with asking(bundle, tmp_path) as (stage, interlock), admin(interlock) as session:
        stage.script = answering(api.body(pays))
        given = asyncio.ensure_future(send(stage.port, post(api.ask(stream=False), path=api.path)))
        await until(lambda: waiting(session), 20)
        (one,) = await waiting(session)
        shown = {value["path"]: value["value"] for value in one["decides"]}
        assert shown["/to/0"] == "kim@corp.dk"
        assert key not in json.dumps(one) and shown["/command"].startswith("pay --key ")
        assert await answered(session, "deny", one["id"]) == 200
        await given


@pytest.mark.parametrize("junk", [10, 100, 10_000])
async def test_what_operators_are_not_shown_they_are_told_of(bundle: Path, tmp_path: Path, junk: int) -> None:
    """Many values before the one that counts hide it, and do not hide that there are more."""
    api = APIS["chat"]
    arguments = {"cc": ["kim@corp.dk"] * junk, "note": "x" * 3000, "to": ["eve@evil.example"], "command": "y" * 3000}
    pays = Say("", "I pay.", (Call("pay", json.dumps(arguments)),))
    async with asking(bundle, tmp_path) as (stage, interlock), admin(interlock) as session:
        stage.script = answering(api.body(pays))
        given = asyncio.ensure_future(send(stage.port, post(api.ask(stream=False), path=api.path)))
        await until(lambda: waiting(session), 20)
        (one,) = await waiting(session)
        whole = junk == 10
        assert one["decides_whole"] is False
        assert ("/to/0" in {value["path"] for value in one["decides"]}) is whole
        cut = {value["path"] for value in one["decides"] if value["characters"] > len(value["value"])}
        assert cut == ({"/command"} if whole else set())
        assert len(one["decides"]) <= 50
        assert await answered(session, "deny", one["id"]) == 200
        await given


def saying(api: Api, words: str, stream: bool) -> bytes:
    return post(ask(stream=stream, messages=[{"role": "user", "content": words}]), path=api.path)


@pytest.mark.parametrize("word", ["approve", "deny"])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_request_waits_for_an_operator(bundle: Path, tmp_path: Path, stream: bool, word: str) -> None:
    api = APIS["chat"]
    says = Say("", "It is done.")
    async with asking(bundle, tmp_path) as (stage, interlock), admin(interlock) as session:
        stage.script = streaming(api.events(says)) if stream else answering(api.body(says))
        given = asyncio.ensure_future(
            send(stage.port, saying(api, "Close the books of kim@corp.dk and hide 4711.", stream))
        )
        await until(lambda: waiting(session), 20)
        (one,) = await waiting(session)
        assert (one["surface"], one["rule"], one["messages"]) == ("request", "team.ask/books", 1)
        assert "Close the books" in one["text"] and "kim@corp.dk" not in one["text"]
        assert not stage.upstream.requests and not given.done()
        assert await answered(session, word, one["id"]) == 200
        answer = parse(await given)
        sent = [parse(request).body for request in stage.upstream.requests]
    if word == "approve":
        assert answer.body == (b"".join(api.events(says)) if stream else api.body(says))
        assert len(sent) == 1 and b"4711" not in sent[0] and b"[number]" in sent[0]
    else:
        assert answer.start.startswith("HTTP/1.1 403") and b"Books need a person." in answer.body
        assert not sent
    (operated,) = records(tmp_path, Operated)
    assert (operated.operator, operated.action) == ("ann", word) and operated.target.endswith("request")


@pytest.mark.parametrize(("otherwise", "status"), [("deny", 403), ("allow", 200)])
async def test_after_the_deadline_the_setting_decides_about_a_request(
    bundle: Path, tmp_path: Path, otherwise: str, status: int
) -> None:
    api = APIS["chat"]
    async with asking(bundle, tmp_path, seconds=0.3, otherwise=otherwise) as (stage, _):
        stage.script = answering(api.body(Say("", "Done.")))
        answer = parse(await send(stage.port, saying(api, "Close the books.", False)))
    assert answer.start.startswith(f"HTTP/1.1 {status}")
    (operated,) = records(tmp_path, Operated)
    assert (operated.operator, operated.action) == ("interlock", "approval_expired")


@pytest.mark.parametrize("ends", ["gone", "killed"])
async def test_a_request_that_waits_ends_with_its_client_or_its_run(bundle: Path, tmp_path: Path, ends: str) -> None:
    api = APIS["chat"]
    async with asking(bundle, tmp_path) as (stage, interlock), admin(interlock) as session:
        given = asyncio.ensure_future(send(stage.port, saying(api, "Close the books.", True)))
        await until(lambda: waiting(session), 20)
        (one,) = await waiting(session)
        if ends == "gone":
            given.cancel()
        else:
            async with session.post(f"/v1/runs/{one['run']}/kill", json=ORDER) as answer:
                assert answer.status == 200
            assert parse(await given).start.startswith("HTTP/1.1 403")

        async def none() -> bool:
            return not await waiting(session)

        await until(none, 20)
        assert await answered(session, "approve", one["id"]) == 404
        assert not stage.upstream.requests


async def test_settings_with_which_nobody_could_approve_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "interlock.yaml"
    path.write_text(json.dumps({"policies": {"approval": {"seconds": 5}}}))
    with pytest.raises(ConfigError, match="nobody could approve"):
        load(path)
