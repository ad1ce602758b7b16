"""A secret that passes through Interlock is written down nowhere, whatever way it takes.

One Interlock with everything on: the OPA engine and NeMo Guardrails launched by it, an OTLP collector, MLflow, an
alert webhook, the secrets policy in shadow so that a call with a secret is let by. Secrets of several shipped
patterns take every way that traffic has: prompts, results, reasoning, text, calls lawful and not, names, ids,
headers, the query, malformed requests. Each is first shown to have gone its way; then every file, span, alert,
metric and line of output is searched for it.

No secret stands in this file: each is put together from parts.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import string
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.support.chat import Call, Say, read_stream, read_whole, stream, whole
from tests.support.interlock import port_of, running
from tests.support.processes import Server
from tests.support.raw import Script, ScriptedUpstream, scripted, send
from tests.support.seek import escaped, found, found_below, parts_of
from tests.support.served import Served, served, until
from tests.support.serving import HEAD, TOOLS, answering, ask, post, streaming
from tests.support.wire import parse
from tests.tracing.receivers import Receiver, attributes, receiving
from tracing.records import Checked, Opened, Settled

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.opa,
    pytest.mark.nemo,
    pytest.mark.mlflow,
]

ADMIN = "operators-own-token"
_CHANCE = random.Random(7)


def _some(alphabet: str, size: int) -> str:
    return "".join(_CHANCE.choice(alphabet) for _ in range(size))


_ALNUM = string.ascii_letters + string.digits
SECRETS = {
    "aws": "AK" + "IA" + _some("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 16),
    "github": "gh" + "p_" + _some(_ALNUM, 36),
    "openai": "sk" + "-proj-" + _some(_ALNUM, 48),
    "pem": "\n".join(
        [
            "-----BEGIN " + "RSA PRIVATE KEY-----",
            *(_some(_ALNUM + "+/", 64) for _ in range(3)),
            "-----END " + "RSA PRIVATE KEY-----",
        ]
    ),
}
ONE_LINE = [name for name in SECRETS if name != "pem"]
NEEDLES_OF = {name: secret.split("\n")[1:-1] or [secret] for name, secret in SECRETS.items()}
NEEDLES = [needle for needles in NEEDLES_OF.values() for needle in needles]
OK = Say(text="Done.")


@dataclass
class Stage:
    upstream: ScriptedUpstream
    interlock: Served
    collector: Receiver
    hook: Receiver
    script: Script = field(init=False)
    answers: list[bytes] = field(default_factory=list)

    async def send(self, raw: bytes, script: Script) -> bytes:
        """One request as the client; gives the raw answer."""
        self.script = script
        self.answers.append(await send(self.interlock.port, raw, seconds=120))
        return self.answers[-1]

    async def ask(self, script: Script, *headers: str, path: str = "/v1/chat/completions", **fields: Any) -> bytes:
        return await self.send(post(ask(**fields), *headers, path=path), script)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(
    opa_binary: Path, nemo_python: Path, mlflow_server: Server, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stage]:
    folder = tmp_path_factory.mktemp("canary")
    made: list[Stage] = []

    async def play(request: bytes, writer: asyncio.StreamWriter) -> None:
        await made[0].script(request, writer)

    async with (
        scripted(play) as upstream,
        receiving() as collector,
        receiving() as hook,
        served(
            upstream.url,
            folder,
            listen={"drain_seconds": 0.2, "admin_token": ADMIN},
            policies={
                "engine": "opa",
                "opa": str(opa_binary),
                "timeout_seconds": 3,
                "modes": {"interlock.secrets": "shadow", "interlock.shell": "enforce"},
            },
            checks={"nemo": {"launch": True, "python": str(nemo_python)}, "timeout_seconds": 30, "queue": 2000},
            tracing={
                "otlp": [{"endpoint": f"{collector.url}/v1/traces"}],
                "mlflow": {"url": mlflow_server.url, "experiment": "canary"},
            },
            alerts={"webhooks": [{"url": hook.url, "secret": "shared"}]},
            breakers={"slow_seconds": 0},
        ) as interlock,
    ):
        made.append(Stage(upstream, interlock, collector, hook))
        yield made[0]


def both(say: Say) -> list[tuple[dict[str, Any], Script, Callable[[bytes], Any]]]:
    """A streamed and a whole answer that say the same, with how a client reads each."""
    return [
        ({"stream": True}, streaming(stream(say, logprobs=True, top=1, token_ids=True)), read_stream),
        ({"stream": False}, answering(whole(say)), read_whole),
    ]


def results(call: Call, text: str) -> list[dict[str, Any]]:
    """A turn of the conversation: a call and its result."""
    made = {"id": "call_1", "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
    return [
        {"role": "assistant", "content": None, "tool_calls": [made]},
        {"role": "tool", "tool_call_id": "call_1", "content": text},
    ]


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


# -- the ways of a request ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SECRETS)
async def test_it_reaches_the_model_in_prompts_results_and_parameters(stage: Stage, kind: str) -> None:
    secret = SECRETS[kind]
    ok = answering(whole(OK))
    deep = json.dumps({"env": [{"k": json.dumps({"value": secret})}]})
    asked: list[dict[str, Any]] = [
        {"messages": [user(f"Deploy with {secret}, please.")]},
        {"messages": [{"role": "system", "content": f"key: {secret}"}, user(f"Deploy. {kind}")]},
        {"messages": [user([{"type": "text", "text": f"key {secret}"}])]},
        {"messages": [user(deep)]},
        {"messages": [user(f"see {deep} there")]},
        {"messages": [user("x" * 70_000 + f" {secret} " + "y" * 70_000)]},
        {"messages": [user("Read it."), *results(Call("read_file", '{"path": ".env"}'), f"TOKEN={secret}\n")]},
        {"messages": [user("Use it."), *results(Call("get_weather", json.dumps({"city": secret})), "sunny")]},
        {"messages": [user(f"By name. {kind}")], "tools": [*TOOLS, _tool("send", f"Uses {secret}", secret)]},
        {
            "messages": [user(f"Parameters. {kind}")],
            "stop": [secret],
            "user": secret,
            "unknown_field": {secret: secret},
        },
        {"messages": [{"role": "user", "name": secret, "content": f"Named. {kind}"}]},
        {"messages": [user("Again."), {"role": "assistant", "content": f"It is {secret}."}, user("And?")]},
        {"messages": [user("Why."), {"role": "assistant", "reasoning": f"It is {secret}.", "content": "x"}, user("?")]},
    ]
    for fields in asked:
        seen = len(stage.upstream.requests)
        answer = parse(await stage.ask(ok, **fields))
        assert answer.start == "HTTP/1.1 200 OK", answer.body
        assert len(stage.upstream.requests) == seen + 1
        assert len(found(NEEDLES_OF[kind], stage.upstream.last.body)) == len(NEEDLES_OF[kind])


def _tool(name: str, description: str, secret: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"to": {"type": "string", "default": secret, "enum": [secret]}}}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


@pytest.mark.parametrize("kind", SECRETS)
async def test_it_reaches_the_model_when_every_character_is_an_escape(stage: Stage, kind: str) -> None:
    body = json.dumps(ask(messages=[user("SECRET")])).replace('"SECRET"', escaped(f"Use {SECRETS[kind]} now."))
    await stage.send(post(body.encode()), answering(whole(OK)))
    assert escaped(SECRETS[kind])[1:-1] in stage.upstream.last.body.decode()
    assert SECRETS[kind] in json.loads(stage.upstream.last.body)["messages"][0]["content"]


@pytest.mark.parametrize("kind", ONE_LINE)
async def test_it_passes_in_headers_the_query_and_names(stage: Stage, kind: str) -> None:
    secret, ok = SECRETS[kind], answering(whole(OK))
    for header in ("X-Api-Key", "X-Request-Id", "User-Agent", "Cookie", "Referer", "Tracestate", "Traceparent"):
        await stage.ask(ok, f"{header}: {secret}", messages=[user(f"{header} {kind}")])
        if header != "Traceparent":  # not valid: ours takes its place
            assert secret in dict(stage.upstream.last.headers).get(header, "")
    await stage.ask(ok, f"Authorization: Bearer {secret}", messages=[user(f"Authorization {kind}")])
    assert stage.upstream.last.header("authorization") == f"Bearer {secret}"
    await stage.ask(ok, f"{secret}: 1", messages=[user(f"Header's name {kind}")])
    await stage.ask(ok, path=f"/v1/chat/completions?key={secret}", messages=[user(f"Query {kind}")])
    assert secret in stage.upstream.last.start
    await stage.ask(ok, f"X-Interlock-Run: {secret}", messages=[user(f"Run's name {kind}")])
    for fields in ({"stream": True}, {"stream": False}):
        script = streaming(_of_model(secret)) if fields["stream"] else answering(_whole_of_model(secret))
        answer = parse(await stage.ask(script, model=secret, messages=[user(f"Model {kind}")], **fields))
        assert secret.encode() in answer.body


def _of_model(model: str) -> list[bytes]:
    return [event.replace(b'"tiny"', json.dumps(model).encode()) for event in stream(OK)]


def _whole_of_model(model: str) -> bytes:
    return whole(OK).replace(b'"tiny"', json.dumps(model).encode())


@pytest.mark.parametrize("kind", ONE_LINE)
async def test_requests_that_are_refused_keep_it_to_themselves(stage: Stage, kind: str) -> None:
    secret = SECRETS[kind]
    ok = answering(whole(OK))
    plain = json.dumps(ask(messages=[user(f"about {secret}")]))
    for raw in (
        post(plain.encode()[:-1]),
        post(f'{{"{secret}": 1, "{secret}": 2}}'.encode()),
        post(plain.replace('"model"', f'"temperature": NaN, "x": "{secret}", "model"').encode()),
        post(plain.encode("utf-16")),
        post(json.dumps({**ask(), "stream": secret}).encode()),
        post(json.dumps({**ask(), "n": secret}).encode()),
        post(json.dumps({**ask(), "tool_choice": secret, "response_format": secret}).encode()),
        post(json.dumps({**ask(), "chat_template": secret}).encode()),
        post(json.dumps({**ask(), "messages": [{"role": secret, "content": secret}]}).encode()),
        post(plain.encode(), "Content-Encoding: gzip"),
        post(plain.encode(), path=f"/v1/{secret}"),
        post(plain.encode(), path=f"/v1/completions?{secret}"),
        post(plain.encode(), path=f"/v1/chat%2Fcompletions/{secret}"),
        post(plain.encode(), f"X-{kind}: \xff {secret}"),
        post(plain.encode(), f"Transfer-Encoding: {secret}"),
        f"GET /{secret} HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
        f"{secret} / HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n{secret}\r\n\r\n".encode(),
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {secret}\r\n\r\n".encode(),
    ):
        answer = parse(await stage.send(raw, ok))
        assert answer.start.split()[1] in ("200", "400", "403", "404", "502"), answer.start


# -- the ways of an answer ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SECRETS)
async def test_it_reaches_the_client_in_text_and_reasoning(stage: Stage, kind: str) -> None:
    secret = SECRETS[kind]
    say = Say(reasoning=f"The key is {secret}.\n", text=f"I found {secret} for you.")
    for fields, script, read in both(say):
        answer = read(parse(await stage.ask(script, messages=[user(f"What is it? {kind}")], **fields)).body)[0]
        assert secret in answer.text and secret in answer.reasoning


@pytest.mark.parametrize("kind", SECRETS)
async def test_it_reaches_the_client_in_a_call_that_is_let_by_and_not_in_one_that_is_denied(
    stage: Stage, kind: str
) -> None:
    secret = SECRETS[kind]
    lawful = Call("get_weather", json.dumps({"city": secret}))
    spelt = Call("get_weather", f'{{"city": {escaped(secret)}}}')
    key = Call("get_weather", json.dumps({secret: [secret, {"deep": json.dumps({"x": secret})}]}))
    bad = Call("run_shell", json.dumps({"command": f"rm -rf / --token '{secret}'"}))
    hidden = Call("run_shell", f'{{"command": {escaped("rm -rf / # " + secret)}}}')
    twice = Call("get_weather", f'{{"city": {json.dumps(secret)}, "city": "Oslo"}}')
    for fields, script, read in both(Say(text="Now.", calls=(bad, lawful, spelt, hidden, key, twice))):
        answer = read(parse(await stage.ask(script, messages=[user(f"Go. {kind}")], **fields)).body)[0]
        assert [call["arguments"] for call in answer.calls.values()] == [
            lawful.arguments,
            spelt.arguments,
            key.arguments,
        ]
        assert "interlock.shell" in answer.text and "malformed_arguments" in answer.text
        assert secret not in answer.text
    cut = Say(text="Cut.", calls=(Call("get_weather", json.dumps({"city": secret})[:-2]),), finish="length")
    for fields, script, _ in both(cut):
        await stage.ask(script, messages=[user(f"Cut off. {kind}")], **fields)


@pytest.mark.parametrize("kind", ONE_LINE)
async def test_it_passes_as_a_tools_name_a_calls_id_and_the_answers_id(stage: Stage, kind: str) -> None:
    secret = SECRETS[kind]
    named = Say(text="By name.", calls=(Call(secret, "{}"), Call(secret, '{"command": "rm -rf /"}')))
    for tools in (TOOLS, [*TOOLS, _tool(secret, "", "")]):
        for fields, script, read in both(named):
            answer = read(
                parse(await stage.ask(script, tools=tools, messages=[user(f"Tool {kind} {len(tools)}")], **fields)).body
            )[0]
            assert answer.calls[0]["name"] == secret
    plain = Say(
        text="By id.", calls=(Call("get_weather", '{"city": "Oslo"}'), Call("run_shell", '{"command":"rm -rf /"}'))
    )
    for before, after in (
        (b"chatcmpl-tool-", f"{secret}-".encode()),
        (b"chatcmpl-00112233aabbccdd", secret.encode()),
        (b'"tool_calls","stop_reason"', json.dumps(secret).encode() + b',"stop_reason"'),
        (b'"vllm-0.32.0-06be4308"', json.dumps(secret).encode()),
    ):
        for streamed in (True, False):
            events = stream(plain) if streamed else [whole(plain)]
            changed = [event.replace(before, after) for event in events]
            assert changed != events
            script = streaming(changed) if streamed else answering(changed[0])
            await stage.ask(script, stream=streamed, messages=[user(f"Ids {kind}")])
            assert secret.encode() in stage.answers[-1] or b"refused" in stage.answers[-1]


@pytest.mark.parametrize("kind", ONE_LINE)
async def test_it_passes_when_the_model_server_fails(stage: Stage, kind: str) -> None:
    secret = SECRETS[kind]

    def says(raw: bytes) -> Script:
        async def script(_request: bytes, writer: asyncio.StreamWriter) -> None:
            writer.write(raw)
            await writer.drain()
            writer.close()

        return script

    error = json.dumps({"error": {"message": f"cannot use {secret}", "type": secret, "code": 400}}).encode()
    events = stream(Say(text=f"I have {secret} and", calls=(Call("get_weather", json.dumps({"city": secret})),)))
    broken = HEAD + b"".join(b"%x\r\n%s\r\n" % (len(e), e) for e in events[:-4])
    odd = b'data: {"error": {"message": "' + secret.encode() + b'"}}\n\n'
    strange = b"data: {" + secret.encode() + b"\n\n"
    for raw in (
        b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
        % (len(error), error),
        b"HTTP/1.1 500 %s\r\nx-why: %s\r\ncontent-length: 0\r\n\r\n" % (secret.encode(), secret.encode()),
        broken,
        HEAD + b"%x\r\n%s\r\n0\r\n\r\n" % (len(odd), odd),
        HEAD + b"%x\r\n%s\r\n0\r\n\r\n" % (len(strange), strange),
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 30\r\n\r\n" + secret.encode()[:30],
        b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 20\r\n\r\n" + secret.encode()[:20],
        b"%s\r\n\r\n" % secret.encode(),
        b"HTTP/1.1 200 OK\r\n%s\r\n\r\n" % secret.encode(),
        b"HTTP/1.1 200 OK\r\ncontent-length: %s\r\n\r\n" % secret.encode(),
        b"HTTP/1.1 200 OK\r\nx-odd: \xff%s\r\ncontent-length: 0\r\n\r\n" % secret.encode(),
    ):
        await stage.ask(says(raw), stream=True, messages=[user(f"Fail {kind} {len(raw)}")])
    assert any(secret.encode() in answer for answer in stage.answers[-11:])


# -- what says something about a run ----------------------------------------------------------------


@pytest.mark.parametrize("kind", ONE_LINE)
async def test_a_run_that_repeats_a_call_with_it_is_alerted_and_stopped(stage: Stage, kind: str) -> None:
    secret = SECRETS[kind]
    call = Call(secret, json.dumps({"city": secret}))
    messages = [user(f"Loop with {secret}")]
    answer = b""
    for turn in range(6):
        script = answering(whole(Say(calls=(call,))).replace(b"chatcmpl-tool-", b"chatcmpl-tool-%d-" % turn))
        answer = await stage.ask(
            script, f"X-Interlock-Run: loop-{secret}", messages=messages, tools=[_tool(secret, "", "")]
        )
        if answer.startswith(b"HTTP/1.1 429"):
            break
        message = json.loads(parse(answer).body)["choices"][0]["message"]
        assert message["tool_calls"][0]["function"]["name"] == secret
        messages += [message]
        messages += [
            {"role": "tool", "tool_call_id": made["id"], "content": f"got {secret}"} for made in message["tool_calls"]
        ]
    assert answer.startswith(b"HTTP/1.1 429")
    assert secret.encode() not in answer


async def test_decisions_that_opa_cannot_make_say_nothing_of_it(stage: Stage) -> None:
    opa = stage.interlock.children()["opa"]
    os.kill(opa, signal.SIGSTOP)
    try:
        for kind in ONE_LINE:
            say = Say(text="x", calls=(Call("run_shell", json.dumps({"command": f"ls {SECRETS[kind]}"})),))
            answer = await stage.ask(answering(whole(say)), messages=[user(f"Stopped {kind} {SECRETS[kind]}")])
            assert b"not available" in answer or b"judge_unavailable" in answer
    finally:
        os.kill(opa, signal.SIGCONT)


async def test_operators_see_and_kill_a_run_that_was_named_after_it(stage: Stage) -> None:
    status, text = await stage.interlock.admin("/v1/runs?limit=1000", ADMIN)
    assert status == 200 and '"runs"' in text
    assert found(NEEDLES, text.encode()) == []


# -- what is left of it -------------------------------------------------------------------------------


async def test_it_is_nowhere(stage: Stage, mlflow_server: Server) -> None:
    """Last in this file: lets everything arrive, ends Interlock, and searches."""
    interlock = stage.interlock
    client = b"".join(stage.answers)
    upstream = b"".join(stage.upstream.requests)
    assert len(found(NEEDLES, client)) == len(found(NEEDLES, upstream)) == len(NEEDLES)

    def checked() -> bool:
        expected = sum(record.checks_pending for record in interlock.records(Settled))
        done = [record for record in interlock.records(Checked) if record.status in ("passed", "blocked", "modified")]
        return len(done) > 0 and len(interlock.records(Checked)) >= expected

    await until(checked, 240)
    _, metrics = await interlock.admin("/metrics")
    opened = [record for record in interlock.records(Opened) if record.traced]
    await until(lambda: len(stage.collector.traces) >= len(opened), 120)
    await until(lambda: "loop_detected" in {alert["cause"] for alert in stage.hook.alerts}, 60)
    await until(lambda: "judge_unavailable" in {alert["cause"] for alert in stage.hook.alerts}, 60)

    def exported() -> bool:
        sinks = json.loads((interlock.state / "exporter" / "status.json").read_bytes())["sinks"]
        spans = {sink["delivered"] for name, sink in sinks.items() if name.startswith(("otlp", "mlflow"))}
        return len(spans) == 1 and spans.pop() >= len(stage.collector.spans)

    await until(exported)
    interlock.process.terminate()
    await asyncio.to_thread(interlock.process.wait, 60)

    assert "redacted:aws_access_key_id" in b"".join(stage.collector.taken).decode("utf-8", "replace")
    names = {file.name for file in (interlock.state / "logs").iterdir()}
    assert {"opa.log", "nemo.log", "exporter.log"} <= names
    spans = [json.dumps({"name": span.name, **attributes(span)}, default=str) for span in stage.collector.spans]
    mlflow_folder = mlflow_server.log.parent
    leaks = {
        "state": found_below(NEEDLES, interlock.state),
        "terminal": found(NEEDLES, interlock.terminal.read_bytes()),
        "metrics": found(NEEDLES, metrics.encode()),
        "spans on the wire": found(NEEDLES, b"\n".join(stage.collector.taken)),
        "spans": found(NEEDLES, "\n".join(spans).encode()),
        "alerts": found(NEEDLES, b"\n".join(body for _, body in stage.hook.requests)),
        "alerts' headers": found(NEEDLES, json.dumps([headers for headers, _ in stage.hook.requests]).encode()),
        "MLflow": found_below(NEEDLES, mlflow_folder),
    }
    assert {place: hits for place, hits in leaks.items() if hits} == {}


async def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    """The other side of the proof: with ``capture: full`` the same search does find it in the record."""
    upstream_says = answering(whole(Say(text=f"It is {SECRETS['aws']}.")))
    async with scripted(upstream_says) as upstream:
        async with running(upstream.url, tmp_path / "state", tracing={"capture": "full"}) as interlock:
            await send(port_of(interlock), post(ask(messages=[user(SECRETS["github"])])))
        hits = found_below(NEEDLES, tmp_path / "state")
    for kind in ("aws", "github"):
        assert any(parts_of(SECRETS[kind])[0] in hit for hit in hits)
    assert found([SECRETS["aws"]], escaped(SECRETS["aws"]).encode())
    assert found([SECRETS["aws"]], json.dumps(escaped(SECRETS["aws"])).encode())
    assert found([SECRETS["aws"]], f"x {SECRETS['aws'][10:]}".encode())
