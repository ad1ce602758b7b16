"""The bypass corpus through Interlock: what it refuses never goes upstream, what it reads arrives as it was sent."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from proxy.app import Interlock
from serving.wire.request import ChatRequest
from tests.support.bypass import BODIES, CASES, FOLDER, Case, read_here
from tests.support.chat import Say, whole
from tests.support.interlock import port_of, running
from tests.support.raw import ScriptedUpstream, scripted, send
from tests.support.serving import answering
from tests.support.wire import parse

WHOLE = [case for case in CASES if case.body is None]


def test_the_corpus_is_large_and_each_case_stands_once() -> None:
    assert len(CASES) >= 80
    assert len({str(case) for case in CASES}) == len(CASES)
    for path in FOLDER.glob("*.json"):
        assert json.loads(path.read_text())["about"]


@pytest.mark.parametrize("case", BODIES, ids=str)
def test_a_body_is_read_or_refused_as_the_corpus_says(case: Case) -> None:
    assert case.body is not None
    read = read_here(case.body, case.path)
    if case.expect == ("same",):
        assert isinstance(read, ChatRequest)
    elif case.expect == ("vllm",):  # whether we read it or not: it is vLLM that refuses
        assert isinstance(read, ChatRequest) or read == "vllm"
    else:
        assert read in case.expect


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[ScriptedUpstream, Interlock]]:
    state: Path = tmp_path_factory.mktemp("bypass")
    async with scripted(answering(whole(Say(text="ok")))) as upstream, running(upstream.url, state) as interlock:
        yield upstream, interlock


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("case", WHOLE, ids=str)
async def test_a_request_arrives_as_sent_or_not_at_all(case: Case, stage: tuple[ScriptedUpstream, Interlock]) -> None:
    upstream, interlock = stage
    before = len(upstream.requests)
    sent = case.raw.partition(b"\r\n")[0].decode("latin-1").rpartition(" ")[0]
    answer = parse(await send(port_of(interlock), case.raw))
    arrived = upstream.requests[before:]
    if answer.start.split()[1] == "200":
        assert {"same", "vllm"} & set(case.expect)
        assert len(arrived) == 1
        received = parse(arrived[0])
        assert received.start.rpartition(" ")[0] == sent.rstrip("?")  # a query that is there and empty says nothing
        assert received.body == body_of(case)
        assert received.header("transfer-encoding") is None or received.header("content-length") is None
    else:
        assert json.loads(answer.body)["error"]["code"] in case.expect
        assert arrived == []


def body_of(case: Case) -> bytes:
    """The body as HTTP frames it: that of the plain request of its group."""
    plain = next(other for other in CASES if other.group == case.group and other.name == "plain")
    return b"" if case.name == "no length" else parse(plain.raw).body
