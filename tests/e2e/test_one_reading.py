"""The judge and the model read the same request: the bypass corpus against vLLM's own models, routes and renderer."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from serving.wire.request import ChatRequest
from tests.support.bypass import BODIES, CASES, Case, read_here
from tests.support.bypass_fuzz import OVER, mutated, shaped
from tests.support.interlock import port_of, running
from tests.support.raw import send
from tests.support.servers import VllmServer
from tests.support.tap import Tap, tapped
from tests.support.vllm_oracle import Oracle, differences, reading
from tests.support.wire import parse

pytestmark = pytest.mark.vllm

LIVE = [case for case in CASES if case.live and case.expect != ("hidden_surface",)]
"""What a policy in force decides about hidden surfaces is shown where all of them are read: on the bodies."""


@pytest.fixture(scope="module")
def oracle(vllm_env: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Oracle]:
    with reading(vllm_env, tmp_path_factory.mktemp("reading")) as reader:
        yield reader


@pytest.mark.parametrize("case", BODIES, ids=str)
def test_both_read_the_same_or_one_refuses(case: Case, oracle: Oracle) -> None:
    assert case.body is not None
    ours = read_here(case.body, case.path)
    theirs = oracle.read(case.body, case.path)
    if case.expect == ("same",):
        assert isinstance(ours, ChatRequest)
        assert theirs["verdict"] == "read", theirs
        assert differences(ours, theirs) == []
    elif case.expect == ("vllm",):
        assert theirs["verdict"] == "refused"
        assert isinstance(ours, ChatRequest) or ours == "vllm"
    else:
        assert ours in case.expect


EXAMPLES = int(os.environ.get("INTERLOCK_FUZZ_EXAMPLES", "300"))
"""How many requests the fuzzer makes up, of each kind. More are tried with the environment variable."""

fuzzing = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES == 300,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate, Phase.shrink),
)


@fuzzing
@given(st.sampled_from(sorted(OVER)).flatmap(lambda path: st.tuples(st.just(path), mutated(path))))
def test_changed_bytes_are_read_alike_or_refused(oracle: Oracle, asked: tuple[str, bytes]) -> None:
    alike_or_refused(oracle, *asked)


@fuzzing
@given(st.sampled_from(sorted(OVER)).flatmap(lambda path: st.tuples(st.just(path), shaped(path))))
def test_odd_shapes_are_read_alike_or_refused(oracle: Oracle, asked: tuple[str, bytes]) -> None:
    alike_or_refused(oracle, *asked)


def alike_or_refused(oracle: Oracle, path: str, body: bytes) -> None:
    ours = read_here(body, path)
    if isinstance(ours, str) and ours != "vllm":
        return
    theirs = oracle.read(body, path)
    if isinstance(ours, ChatRequest):
        assert theirs["verdict"] == "refused" or differences(ours, theirs) == []
    else:
        assert theirs["verdict"] == "refused"


@dataclass
class Stage:
    direct: int
    tap: Tap
    through: int


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(vllm_server: VllmServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    state: Path = tmp_path_factory.mktemp("reading-state")
    async with tapped(vllm_server.port) as tap, running(tap.url, state) as interlock:
        yield Stage(vllm_server.port, tap, port_of(interlock))


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("case", LIVE, ids=str)
async def test_on_the_wire_it_arrives_as_read_or_not_at_all(case: Case, stage: Stage, oracle: Oracle) -> None:
    before = len(stage.tap.exchanges)
    through = parse(await send(stage.through, case.raw))
    arrived = stage.tap.exchanges[before:]
    if not {"same", "vllm"} & set(case.expect) or (len(case.expect) > 1 and not arrived):
        assert json.loads(through.body)["error"]["code"] in case.expect
        assert arrived == []
        return
    assert len(arrived) == 1
    said = arrived[0].response
    assert through.start.partition(" ")[2] == said.start.partition(" ")[2]
    assert through.body == said.body
    if "same" not in case.expect:
        assert not through.start.startswith("HTTP/1.1 2")
        direct = parse(await send(stage.direct, case.raw))
        assert (direct.start, direct.body) == (through.start, through.body)
        return
    assert through.start.endswith(" 200 OK")
    body = arrived[0].request.body
    read = read_here(body, case.path)
    assert isinstance(read, ChatRequest)
    if case.body is not None:
        assert body == case.body
    if (through.header("content-type") or "").startswith("application/json"):
        prompt = oracle.read(body, case.path)["seen"]["ids"]
        usage = json.loads(through.body)["usage"]
        assert usage.get("prompt_tokens", usage.get("input_tokens")) == len(prompt)
