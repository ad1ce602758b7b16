"""A policy that reads how sure the model was decides about calls whose answers show logprobs, streamed and whole."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.policies.support import built
from tests.support import wire
from tests.support.chat import Call, Say, read_stream, whole
from tests.support.interlock import port_of, running
from tests.support.raw import scripted, send
from tests.support.serving import answering, ask, post, streaming
from tests.support.unsure import RULE
from tests.support.wire import parse


@pytest.mark.parametrize(("bound", "denied"), [("0.9995", True), ("0.998", False)])
@pytest.mark.parametrize("streamed", [True, False])
async def test_the_facts_decide(opa_binary: Path, tmp_path: Path, bound: str, denied: bool, streamed: bool) -> None:
    """vLLM recorded that `Paris` had a probability of exp(-0.001)."""
    built(opa_binary, tmp_path / "mine", {"acme/unsure/policy.rego": RULE % bound}).write(tmp_path / "bundle")
    recorded = wire.load("tools_logprobs_stream")
    events = [event + b"\n\n" for event in recorded.response.body.split(b"\n\n")[:-1]]

    async def script(request: bytes, writer: asyncio.StreamWriter) -> None:
        if streamed:
            await streaming(events)(request, writer)
        else:
            said = Say("So.", "", (Call("get_weather", '{"city": "Paris"}'),))
            body = whole(said, logprobs=True).replace(b"-0.25", b"-0.001")
            await answering(body)(request, writer)

    policies = {"bundle": tmp_path / "bundle", "modes": {"acme.unsure": "enforce"}}
    async with scripted(script) as upstream, running(upstream.url, tmp_path / "state", policies=policies) as interlock:
        request = recorded.request.body if streamed else ask(logprobs=True)
        answer = parse(await send(port_of(interlock), post(request)))
    assert (b"Ask which city." in answer.body) == denied
    if streamed:
        [read] = read_stream(answer.body).values()
        assert bool(read.calls) != denied
    else:
        assert (b'"get_weather"' in answer.body) != denied
