"""Policies that read the text itself, and policies at the stage `response`, which see the whole answer. One that is
given as a whole can still be masked or withheld; of a stream all has left, so what they say is recorded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.policies.support import built
from tests.support.apis import APIS, STREAMED, heard
from tests.support.chat import Say
from tests.support.masking import finishes
from tests.support.served import until
from tests.support.serving import answering, streaming
from tests.support.text_stage import TextStage, staged
from tracing.records import Decided, Settled

pytestmark = [pytest.mark.opa, pytest.mark.asyncio(loop_scope="module")]

POLICY = """\
# METADATA
# title: Nobody is named in an answer
# custom:
#   severity: high
#   hold: {output: all}
package interlock.policies.team.names

finding(id, action, redactions) := {
	"id": id,
	"severity": "high",
	"action": action,
	"message": "Name nobody.",
	"tags": [],
	"redactions": redactions,
}

places contains {"path": concat("", ["/", name]), "start": at, "end": at + 7} if {
	some name in ["text", "reasoning"]
	at := indexof(input.response[name], "Mallory")
	at >= 0
}

output contains finding("eve", "redact", [{"path": "/text", "start": at, "end": at + 3, "replacement": "E."}]) if {
	at := indexof(input.surface.text, "Eve")
	at >= 0
}

response contains finding("named", "redact", places) if count(places) > 0

response contains finding("nowhere", "redact", [{"path": "/calls/0"}]) if contains(input.response.text, "nowhere")

response contains finding("secret", "deny", []) if contains(input.response.text, "top secret")
"""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(opa_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TextStage]:
    folder = tmp_path_factory.mktemp("response")
    built(opa_binary, folder / "sources", {"team/names/policy.rego": POLICY}, with_library=True).write(
        folder / "bundle"
    )
    async with staged(folder / "state", bundle=folder / "bundle", modes={"team.names": "enforce"}) as it:
        yield it


async def decided(stage: TextStage, exchanges: int) -> list[Decided]:
    """The decisions of the newest exchange, when so many are over."""
    await until(lambda: so_far(stage) >= exchanges)
    last = stage.records(Settled)[-1]
    return [one for one in stage.records(Decided) if one.exchange == last.exchange]


def so_far(stage: TextStage) -> int:
    return len(stage.records(Settled))


@pytest.mark.parametrize("name", APIS)
async def test_a_whole_answer_is_masked(stage: TextStage, name: str) -> None:
    api, before = APIS[name], so_far(stage)
    say = Say("So ☂ Mallory asks.", "Dear Mallory, hello.")
    stage.script = answering(api.body(say))
    body = await stage.asks(api, stream=False)
    told = heard(body)
    assert "Mallory" not in str(told)
    assert api.said(told, "text", stream=False) == ["Dear [redacted], hello."] * api.choices
    if "reasoning" in api.says:
        assert api.said(told, "reasoning", stream=False) == ["So ☂ [redacted] asks."] * api.choices
    assert finishes(body) == finishes(api.body(say))
    made = [one for one in await decided(stage, before + 1) if one.stage == "response"]
    assert [one.action for one in made] == ["redact"] * api.choices, "each choice is asked about once"
    assert all(len(one.masked) == (2 if "reasoning" in api.says else 1) for one in made)


@pytest.mark.parametrize("name", APIS)
@pytest.mark.parametrize(("text", "rule"), [("It is top secret.", "secret"), ("It is nowhere.", "nowhere")])
async def test_a_whole_answer_is_withheld(stage: TextStage, name: str, text: str, rule: str) -> None:
    api = APIS[name]
    stage.script = answering(api.body(Say("Hm.", text)))
    told = heard(await stage.asks(api, stream=False))
    assert text not in str(told)
    for said in api.said(told, "text", stream=False):
        assert said.startswith(f"Blocked by policy team.names/{rule}. The answer was withheld.")


@pytest.mark.parametrize("name", STREAMED)
async def test_of_a_stream_it_is_only_recorded(stage: TextStage, name: str) -> None:
    api, before = APIS[name], so_far(stage)
    events = api.events(Say("Hm.", "Dear Mallory, it is top secret."), 2)
    stage.script = streaming(events)
    body = await stage.asks(api, stream=True)
    assert sorted(body.split(b"\n\n")) == sorted(b"".join(events).split(b"\n\n"))
    made = [one for one in await decided(stage, before + 1) if one.stage == "response"]
    assert [one.action for one in made] == ["deny"] * api.choices
    assert not any(one.masked for one in made)


@pytest.mark.parametrize(("name", "stream"), [*((name, False) for name in APIS), *((name, True) for name in STREAMED)])
async def test_a_policy_that_reads_the_text_masks_by_its_code_points(stage: TextStage, name: str, stream: bool) -> None:
    """It holds the text and is asked when that is over."""
    api = APIS[name]
    say = Say("Eve thinks.", "é☂ Eve says so.")
    stage.script = streaming(api.events(say, 2)) if stream else answering(api.body(say))
    body = await stage.asks(api, stream=stream)
    told = heard(body)
    assert api.said(told, "text", stream=stream) == ["é☂ E. says so."] * api.choices
    if "reasoning" in api.says:
        assert api.said(told, "reasoning", stream=stream) == ["Eve thinks."] * api.choices
    assert "Eve says" not in str(told)
