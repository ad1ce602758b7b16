"""On a real vLLM: of two agents with identical prompts on one key-less port, only the looping one is stopped."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest
import pytest_asyncio

from serving.tiny.dialogue import Script
from serving.tiny.harness import Harness
from serving.tiny.scripts import LOOP, POLL
from tests.support.interlock import port_of, running
from tests.support.servers import VllmServer
from tests.support.tap import Tap, tapped
from tests.tracing.receivers import Receiver, receiving
from tracing.records import AnyRecord, Opened, Refused
from tracing.segments import read

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]

SECRET = "a webhook's secret of some length"
TURNS = 4
"""What both agents do side by side: the call, and three results that bring it again."""


@dataclass
class Agent:
    """One agent with an SDK of its own, in the SDK's default settings. ``wire`` has what the SDK really sent."""

    harness: Harness
    client: openai.AsyncOpenAI
    wire: Tap
    stopped: openai.APIStatusError | None = None

    async def step(self) -> None:
        try:
            answer = await self.client.chat.completions.create(**self.harness.request())
        except openai.APIStatusError as error:
            self.stopped = error
        else:
            self.harness.take(answer.choices[0].message.model_dump(exclude_none=True))

    async def run(self, together: asyncio.Barrier) -> None:
        while not self.harness.done and self.stopped is None:
            if self.harness.answers < TURNS:
                await together.wait()
            await self.step()


@asynccontextmanager
async def agent(script: Script, port: int) -> AsyncIterator[Agent]:
    async with tapped(port) as wire, openai.AsyncOpenAI(base_url=f"{wire.url}/v1", api_key="any") as client:
        yield Agent(Harness(script), client, wire)


@dataclass
class Story:
    """What happened: both agents, what vLLM was asked, what the journal and the webhook's receiver have."""

    looping: Agent
    polling: Agent
    tap: Tap
    port: int
    records: list[AnyRecord]
    receiver: Receiver


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def story(vllm_server: VllmServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Story]:
    state: Path = tmp_path_factory.mktemp("loops") / "state"
    async with receiving() as receiver, tapped(vllm_server.port) as tap:
        alerts = {"webhooks": [{"url": f"{receiver.url}/alerts", "secret": SECRET}]}
        async with running(tap.url, state, alerts=alerts) as interlock:
            port = port_of(interlock)
            async with agent(LOOP, port) as looping, agent(POLL, port) as polling:
                assert looping.harness.request() == polling.harness.request()
                together = asyncio.Barrier(2)
                async with asyncio.TaskGroup() as group:
                    group.create_task(looping.run(together))
                    group.create_task(polling.run(together))
                records = [entry.record for entry in read(state)]
                yield Story(looping, polling, tap, port, records, receiver)


async def test_the_twin_whose_results_change_goes_on_to_its_end(story: Story) -> None:
    assert story.polling.stopped is None
    assert story.polling.harness.messages[-1]["content"].strip() == POLL.turns[-1].text
    assert len(story.polling.wire.exchanges) == TURNS


async def test_the_looping_twin_is_tripped_after_three_repeats(story: Story) -> None:
    refused = story.looping.stopped
    assert isinstance(refused, openai.RateLimitError)
    assert refused.code == "loop_detected"
    assert refused.response.headers["x-should-retry"] == "false"
    assert int(refused.response.headers["retry-after"]) > 0
    results = [message["content"] for message in story.looping.harness.messages if message["role"] == "tool"]
    assert results == ["pending"] * 4, "the first result, and three repeats of it"


async def test_its_sdk_sends_one_request_into_the_breaker_and_none_reaches_vllm(story: Story) -> None:
    assert story.looping.client.max_retries > 0
    assert len(story.looping.wire.exchanges) == TURNS + 1
    assert len(story.tap.exchanges) == 2 * TURNS
    refusals = [(record.status, record.code) for record in story.records if isinstance(record, Refused)]
    assert refusals == [(429, "loop_detected")]


async def test_they_were_two_runs_of_one_agent_without_any_header_of_theirs(story: Story) -> None:
    opened = [record for record in story.records if isinstance(record, Opened)]
    assert {record.agent for record in opened} == {"anonymous"}
    assert sorted(Counter(record.run for record in opened).values()) == [TURNS, TURNS + 1]
    sent = {name.lower() for passed in story.looping.wire.exchanges for name, _ in passed.request.headers}
    assert "user-agent" in sent
    assert not {name for name in sent if name.startswith("x-interlock") or name == "x-request-id"}


async def test_the_trip_is_alerted_once_by_a_signed_webhook(story: Story) -> None:
    def trips() -> list[tuple[dict[str, str], bytes]]:
        return [one for one in story.receiver.requests if json.loads(one[1])["cause"] == "loop_detected"]

    async with asyncio.timeout(120):
        while not trips():  # noqa: ASYNC110 - the exporter is another process
            await asyncio.sleep(0.05)
    ((headers, body),) = trips()
    alert = json.loads(body)
    refused = next(record for record in story.records if isinstance(record, Refused))
    opened = next(r for r in story.records if isinstance(r, Opened) and r.exchange == refused.exchange)
    assert (alert["state"], alert["agent"], alert["run"]) == ("firing", "anonymous", opened.run)
    assert alert["evidence"]["repeats"] == 3
    assert alert["evidence"]["tool"] == "run_shell"
    assert opened.run in alert["release"]
    assert headers["X-Interlock-Signature"] == f"sha256={hmac.digest(SECRET.encode(), body, 'sha256').hex()}"
    fired = [one["cause"] for one in story.receiver.alerts if one["state"] == "firing"]
    assert fired == ["loop_suspected", "loop_detected"], "each cause once"


async def test_the_tripped_run_stays_refused_while_the_same_prompt_may_begin_anew(story: Story) -> None:
    asked = len(story.tap.exchanges)
    story.looping.stopped = None
    await story.looping.step()
    assert story.looping.stopped is not None
    assert story.looping.stopped.status_code == 429
    assert len(story.tap.exchanges) == asked
    async with agent(LOOP, story.port) as fresh:
        await fresh.step()
        assert fresh.stopped is None
    assert len(story.tap.exchanges) == asked + 1
    assert len([one for one in story.receiver.alerts if one["cause"] == "loop_detected"]) == 1
