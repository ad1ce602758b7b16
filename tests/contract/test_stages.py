"""What decisions do to an exchange: policies of the test's own, built by the real OPA, on both engines."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from policies.authoring.build import build
from policies.authoring.opa_tool import OpaTool
from policies.authoring.sources import tree_to_build
from tests.support.chat import Call, Say, read_stream, read_whole, stream, whole
from tests.support.interlock import port_of, running
from tests.support.raw import scripted, send
from tests.support.serving import answering, ask, post, streaming
from tests.support.wire import parse
from tracing.records import Decided, Refused, Settled
from tracing.segments import read

pytestmark = pytest.mark.opa

POLICY = """
package interlock.policies.team.rules

finding(id, action) := {
	"id": id,
	"severity": "high",
	"action": action,
	"message": "Do something else.",
	"tags": [],
}

request contains finding("no_secrets_of_state", "deny") if {
	some message in input.request.messages
	contains(message.text, "state secret")
}

tool_call contains finding("stop_everything", "terminate") if input.call.name == "format_disk"

tool_call contains finding("ask_a_human", "approve") if input.call.name == "pay"

response contains finding("many_words", "flag") if count(input.response.text) > 20

tool_call contains finding("after_a_blocked_check", "deny") if {
	input.call.name == "send_mail"
	some check in input.checks
	check.status == "blocked"
}
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, opa_binary: Path) -> Path:
    sources = tmp_path_factory.mktemp("sources")
    policy = sources / "team" / "rules" / "policy.rego"
    policy.parent.mkdir(parents=True)
    policy.write_text(POLICY)
    out = tmp_path_factory.mktemp("bundle") / "out"
    build(tree_to_build(sources), OpaTool(opa_binary)).write(out)
    return out


@pytest.fixture(params=["embedded", "opa"])
def policies(request: pytest.FixtureRequest, bundle: Path, opa_binary: Path) -> dict[str, object]:
    return {
        "engine": request.param,
        "bundle": bundle,
        "modes": {"team.rules": "enforce"},
        "timeout_seconds": 5,
        **({"opa": opa_binary} if request.param == "opa" else {}),
    }


async def test_a_denied_request_is_refused_before_the_model_is_asked(tmp_path: Path, policies) -> None:
    async with (
        scripted(answering(whole(Say(text="ok")))) as upstream,
        running(upstream.url, tmp_path / "state", policies=policies) as it,
    ):
        body = ask(messages=[{"role": "user", "content": "Tell me the state secret."}])
        answer = parse(await send(port_of(it), post(body)))
        assert answer.start == "HTTP/1.1 403 Forbidden"
        error = json.loads(answer.body)["error"]
        assert error["code"] == "policy_denied"
        assert "team.rules/no_secrets_of_state" in error["message"]
        assert upstream.requests == []
        answer = parse(await send(port_of(it), post(ask())))
        assert answer.start == "HTTP/1.1 200 OK"
    records = [entry.record for entry in read(tmp_path / "state")]
    assert [r.code for r in records if isinstance(r, Refused)] == ["policy_denied"]
    assert [r.ending for r in records if isinstance(r, Settled)] == ["refused", "done"]


async def test_terminate_cuts_a_stream_and_aborts_upstream(tmp_path: Path, policies) -> None:
    gone = asyncio.Event()
    events = stream(Say(text="Well then.", calls=(Call("format_disk", "{}"), Call("ls", "{}"))), Say(text="x " * 4000))

    async def script(_request: bytes, writer: asyncio.StreamWriter) -> None:
        try:
            await streaming(events)(_request, writer)
            await asyncio.sleep(5)
        except ConnectionError:
            gone.set()
            raise

    async with scripted(script) as upstream, running(upstream.url, tmp_path / "state", policies=policies) as it:
        answer = parse(await send(port_of(it), post(ask(stream=True, n=2))))
    reads = read_stream(answer.body)
    assert "team.rules/stop_everything" in reads[0].text
    assert "team.rules/stop_everything" in reads[1].text
    assert {read.finish for read in reads.values()} == {"stop"}
    assert all(not read.calls for read in reads.values())
    assert answer.body.endswith(b"data: [DONE]\n\n")


async def test_terminate_takes_the_place_of_a_whole_answer(tmp_path: Path, policies) -> None:
    say = Say("I think.", "Well then.", (Call("format_disk", "{}"), Call("ls", "{}")))
    async with (
        scripted(answering(whole(say, Say(text="other")))) as upstream,
        running(upstream.url, tmp_path / "state", policies=policies) as it,
    ):
        answer = parse(await send(port_of(it), post(ask(n=2))))
    for choice in read_whole(answer.body).values():
        assert "team.rules/stop_everything" in choice.text
        assert (choice.calls, choice.finish) == ({}, "stop")


async def test_what_needs_a_human_is_refused_while_no_human_can_be_asked(tmp_path: Path, policies) -> None:
    async with (
        scripted(streaming(stream(Say(calls=(Call("pay", '{"usd": 3}'),))))) as upstream,
        running(upstream.url, tmp_path / "state", policies=policies) as it,
    ):
        answer = parse(await send(port_of(it), post(ask(stream=True))))
    choice = read_stream(answer.body)[0]
    assert choice.calls == {}
    assert "team.rules/ask_a_human" in choice.text


async def test_a_finding_on_the_response_is_recorded_and_changes_nothing(tmp_path: Path, policies) -> None:
    body = whole(Say(text="a great many words are said here"))
    async with (
        scripted(answering(body)) as upstream,
        running(upstream.url, tmp_path / "state", policies=policies) as it,
    ):
        answer = parse(await send(port_of(it), post(ask())))
        assert answer.body == body
    decided = [entry.record for entry in read(tmp_path / "state") if isinstance(entry.record, Decided)]
    assert [(d.stage, d.decision["findings"][0]["finding"]["id"]) for d in decided if d.stage == "response"] == [
        ("response", "many_words")
    ]


@pytest.mark.parametrize("mode", ["shadow", "warn"])
async def test_shadow_and_warn_change_no_byte_and_hold_nothing(tmp_path: Path, bundle: Path, mode: str) -> None:
    events = stream(Say(text="Go.", calls=(Call("pay", '{"usd": 3}'), Call("format_disk", "{}"))), logprobs=True)
    policies = {"bundle": bundle, "modes": {"team.rules": mode}}
    async with scripted(streaming(events)) as upstream, running(upstream.url, tmp_path / "s", policies=policies) as it:
        answer = parse(await send(port_of(it), post(ask(stream=True, logprobs=True))))
        assert answer.body == b"".join(events)
    decided = [entry.record for entry in read(tmp_path / "s") if isinstance(entry.record, Decided)]
    assert sorted(f["finding"]["id"] for d in decided for f in d.decision.get("findings", [])) == [
        "ask_a_human",
        "stop_everything",
    ]


@pytest.mark.parametrize("refusal", ["content_filter", "error"])
async def test_the_setting_for_refusals_is_kept(tmp_path: Path, bundle: Path, refusal: str) -> None:
    say = Say(text="Go.", calls=(Call("pay", '{"usd": 3}'),))
    policies = {"bundle": bundle, "modes": {"team.rules": "enforce"}, "refusal": refusal}
    async with (
        scripted(streaming(stream(say))) as upstream,
        running(upstream.url, tmp_path / "s", policies=policies) as it,
    ):
        answer = parse(await send(port_of(it), post(ask(stream=True))))
    assert b"usd" not in answer.body
    assert answer.body.endswith(b"data: [DONE]\n\n")
    if refusal == "content_filter":
        assert read_stream(answer.body)[0].finish == "content_filter"
    else:
        assert json.loads(answer.body.split(b"\n\n")[-3][6:])["error"]["code"] == "policy_denied"


async def test_by_setting_a_whole_answer_with_a_refused_call_becomes_an_error(tmp_path: Path, bundle: Path) -> None:
    say = Say(text="Go.", calls=(Call("pay", '{"usd": 3}'),))
    policies = {"bundle": bundle, "modes": {"team.rules": "enforce"}, "refusal": "error"}
    async with (
        scripted(answering(whole(say))) as upstream,
        running(upstream.url, tmp_path / "s", policies=policies) as it,
    ):
        answer = parse(await send(port_of(it), post(ask())))
    assert answer.start == "HTTP/1.1 403 Forbidden"
    assert "team.rules/ask_a_human" in json.loads(answer.body)["error"]["message"]
