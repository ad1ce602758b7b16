"""What Interlock asks vLLM for beyond the client's request: who makes it ask, what the client sees of it (nothing), and
what follows where vLLM does not take it. The upstream is scripted in vLLM's form; ``tests/e2e/test_vllm_injection.py``
is the real one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.policies.support import built
from tests.support.chat import Call, Say, read_stream, stream, whole
from tests.support.interlock import port_of, running
from tests.support.raw import Script, ScriptedUpstream, scripted, send
from tests.support.serving import answering, ask, post, streaming
from tests.support.unsure import RULE
from tests.support.wire import Message, parse

SAY = Say("I look.\n", "So: 🌤️.\n", (Call("get_weather", '{"city": "Oslo ☂"}'),))
SURE, UNSURE = "0.5", "0.9"
"""The scripted tokens have a probability of exp(-0.25), 0.78: enough for the one bound, not for the other."""


def without_print(events: list[bytes]) -> list[bytes]:
    return [event.replace(b',"system_fingerprint":"vllm-0.32.0-06be4308"', b"") for event in events]


async def script(request: bytes, writer: asyncio.StreamWriter) -> None:
    """As vLLM does with these fields; a server that writes no fingerprint."""
    asked = json.loads(parse(request).body)
    logprobs = bool(asked.get("logprobs"))
    if not asked.get("stream"):
        await answering(whole(SAY, logprobs=logprobs))(request, writer)
        return
    usage = bool((asked.get("stream_options") or {}).get("include_usage"))
    await streaming(without_print(stream(SAY, logprobs=logprobs, usage=usage)))(request, writer)


async def refusing(request: bytes, writer: asyncio.StreamWriter) -> None:
    if json.loads(parse(request).body).get("logprobs"):
        body = b'{"error":{"message":"no logprobs here","type":"BadRequestError","param":"logprobs","code":400}}'
        writer.write(
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        )
        writer.write(body)
    else:
        await script(request, writer)


async def refusing_inside(request: bytes, writer: asyncio.StreamWriter) -> None:
    """As vLLM refuses a stream's logprobs: behind a 200."""
    asked = json.loads(parse(request).body)
    if asked.get("logprobs") and asked.get("stream"):
        error = b'data: {"error": {"message": "no", "type": "BadRequestError", "param": "logprobs", "code": 400}}\n\n'
        await streaming([error, b"data: [DONE]\n\n"])(request, writer)
    else:
        await refusing(request, writer)


async def failing_inside(request: bytes, writer: asyncio.StreamWriter) -> None:
    error = b'data: {"error": {"message": "no", "type": "InternalServerError", "code": 500}}\n\n'
    await streaming([error, b"data: [DONE]\n\n"])(request, writer)


@asynccontextmanager
async def interlock(
    opa_binary: Path, folder: Path, bound: str = SURE, mode: str = "enforce", upstream: Any = script, **sections: Any
) -> AsyncIterator[tuple[int, ScriptedUpstream]]:
    built(opa_binary, folder / "mine", {"acme/unsure/policy.rego": RULE % bound}).write(folder / "bundle")
    policies = {"bundle": folder / "bundle", "modes": {"acme.unsure": mode}}
    async with (
        scripted(upstream) as server,
        running(server.url, folder / "state", policies=policies, **sections) as it,
    ):
        yield port_of(it), server


async def direct(server: ScriptedUpstream, request: bytes) -> Message:
    answer = parse(await send(server.port, request))
    server.requests.pop()
    return answer


def sent(server: ScriptedUpstream) -> dict[str, Any]:
    asked: dict[str, Any] = json.loads(server.last.body)
    return asked


def coverage(folder: Path) -> list[dict[str, str]]:
    """What the journal says of each settled exchange."""
    found = []
    for segment in sorted(folder.rglob("*")):
        if segment.is_file():
            for line in segment.read_bytes().splitlines():
                if b'"coverage"' in line and line.startswith(b"{"):
                    found.append(line)
    return [one for line in found for one in _coverages(json.loads(line))]


def _coverages(value: Any) -> list[dict[str, str]]:
    if isinstance(value, dict):
        own = [value["coverage"]] if isinstance(value.get("coverage"), dict) else []
        return own + [one for part in value.values() for one in _coverages(part)]
    return [one for part in value for one in _coverages(part)] if isinstance(value, list) else []


@pytest.mark.parametrize("streamed", [True, False])
async def test_the_client_sees_nothing_of_it(opa_binary: Path, tmp_path: Path, streamed: bool) -> None:
    request = post(ask(stream=streamed))
    async with interlock(opa_binary, tmp_path) as (port, server):
        expected = await direct(server, request)
        answer = parse(await send(port, request))
        assert sent(server) == ask(stream=streamed, logprobs=True)
        assert server.last.header("content-length") == str(len(server.last.body))
    assert answer.body == expected.body
    assert answer.multiset("date") == expected.multiset("date")


@pytest.mark.parametrize("streamed", [True, False])
async def test_the_policy_has_what_was_asked_for(opa_binary: Path, tmp_path: Path, streamed: bool) -> None:
    async with interlock(opa_binary, tmp_path, UNSURE) as (port, _):
        answer = parse(await send(port, post(ask(stream=streamed))))
    assert b"Ask which city." in answer.body
    assert b"Oslo" not in answer.body
    assert b'"logprobs":{' not in answer.body


@pytest.mark.parametrize(
    "fields",
    [
        {"logprobs": True, "top_logprobs": 2},
        {"tools": None},
        {"tool_choice": "none"},
    ],
)
async def test_where_there_is_nothing_to_add_the_request_is_the_clients(
    opa_binary: Path, tmp_path: Path, fields: dict[str, Any]
) -> None:
    body = {name: value for name, value in ask(stream=True, **fields).items() if value is not None}
    async with interlock(opa_binary, tmp_path) as (port, server):
        expected = await direct(server, post(body))
        answer = parse(await send(port, post(body)))
        assert sent(server) == body
    assert answer.body == expected.body


@pytest.mark.parametrize("mode", ["shadow", "warn"])
async def test_a_policy_that_changes_nothing_asks_for_nothing(opa_binary: Path, tmp_path: Path, mode: str) -> None:
    async with interlock(opa_binary, tmp_path, UNSURE, mode) as (port, server):
        await send(port, post(ask(stream=True)))
        assert sent(server) == ask(stream=True)


async def test_a_server_that_fails_is_not_asked_twice(opa_binary: Path, tmp_path: Path) -> None:
    async with interlock(opa_binary, tmp_path, upstream=failing_inside) as (port, server):
        expected = await direct(server, post(ask(stream=True)))
        answer = parse(await send(port, post(ask(stream=True))))
        assert len(server.requests) == 1
    assert answer.body == expected.body


@pytest.mark.parametrize(("upstream", "streamed"), [(refusing, True), (refusing, False), (refusing_inside, True)])
async def test_what_the_server_does_not_take_is_sent_once_more_as_it_was(
    opa_binary: Path, tmp_path: Path, upstream: Script, streamed: bool
) -> None:
    request = post(ask(stream=streamed))
    async with interlock(opa_binary, tmp_path, upstream=upstream) as (port, server):
        expected = await direct(server, request)
        answer = parse(await send(port, request))
        assert [bool(json.loads(parse(one).body).get("logprobs")) for one in server.requests] == [True, False]
        assert server.last.body == parse(request).body
    assert answer.body == expected.body
    [said] = [one for one in coverage(tmp_path / "state") if "injection" in one]
    assert said["injection"] == "the request for logprobs was answered with 400; the raw one was sent"


async def test_a_request_that_the_server_does_not_take_either_way_has_the_servers_words(
    opa_binary: Path, tmp_path: Path
) -> None:
    async def never(request: bytes, writer: asyncio.StreamWriter) -> None:
        body = b'{"error":%s}' % json.dumps(sorted(json.loads(parse(request).body))).encode()
        writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))

    async with interlock(opa_binary, tmp_path, upstream=never) as (port, server):
        answer = parse(await send(port, post(ask())))
        assert len(server.requests) == 2
    assert answer.start == "HTTP/1.1 404 Not Found"
    assert json.loads(answer.body)["error"] == sorted(ask())


async def test_a_budget_asks_for_exact_usage(opa_binary: Path, tmp_path: Path) -> None:
    agents = {"anonymous": {"run_tokens": 100_000}}
    request = post(ask(stream=True))
    async with interlock(opa_binary, tmp_path, mode="off", agents=agents) as (port, server):
        expected = await direct(server, request)
        answer = parse(await send(port, request))
        assert sent(server) == ask(stream=True, stream_options={"include_usage": True})
        await send(port, post(ask(max_tokens=50)))
        assert sent(server) == ask(max_tokens=50)  # a whole answer has its usage
    assert answer.body == expected.body
    assert read_stream(answer.body)[0].calls


async def test_without_settings_nothing_is_asked_for(tmp_path: Path) -> None:
    async with scripted(script) as server, running(server.url, tmp_path / "state") as it:
        await send(port_of(it), post(ask(stream=True)))
        assert server.last.body == parse(post(ask(stream=True))).body
