"""Policies about text, on every API: under a hold no byte of a match leaves, by whatever channel; without one nothing
comes after the event that completed the match, and the record says what had left.

Scripted answers in vLLM's wire form, through a whole Interlock; the policy and its patterns are real ones. The starter
policies are in force beside it, so calls are held too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.apis import APIS, STREAMED, Api, heard
from tests.support.chat import Call
from tests.support.planted import RECORDED, planted
from tests.support.raw import send
from tests.support.serving import answering, post, streaming
from tests.support.text_stage import HOLDS, TextStage, pieces, says, staged_by_hold
from tests.support.wire import parse
from tracing.records import CallOutcome

pytestmark = [pytest.mark.opa, pytest.mark.asyncio(loop_scope="module")]

KEY = "AKIA" + "Z7FAKE2DEMO3KEY5"
SHUT = "It named a key."
LATER = "xyzzy"
LOOK = Call("get_weather", '{"city":"Oslo"}')
POLICY = """\
# METADATA
# title: No keys in what the model says and thinks
# custom:
#   severity: high
#   hold: {hold}
#   patterns: [secrets/aws_access_key_id]
package interlock.policies.team.{name}

finding := {{"id": "key", "severity": "high", "action": "deny", "message": "It named a key.", "tags": []}}

output contains finding if some signal in input.signals

reasoning contains finding if some signal in input.signals
"""
SURFACES = [(name, surface) for name, api in APIS.items() for surface in api.says]
STREAMED_SURFACES = [(name, surface) for name, surface in SURFACES if name in STREAMED]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stages(opa_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, TextStage]]:
    async with staged_by_hold(opa_binary, tmp_path_factory.mktemp("text"), POLICY, HOLDS) as stages:
        yield stages


def leaks(told: dict[str, str]) -> dict[str, str]:
    """The kinds of field with a part of the key that is more than its first letter."""
    return {path: text for path, text in told.items() if any(KEY[at : at + 3] in text for at in range(len(KEY) - 2))}


def prefix_only(api: Api, told: dict[str, str], surface: str, before: str, *, stream: bool) -> None:
    """Of the surface with the match the client has some beginning of what came before it."""
    for said in api.said(told, surface, stream=stream):
        given_text = said.partition(SHUT)[0].rpartition("\n\n")[0] if SHUT in said else said
        given_text = given_text.partition("Blocked")[0]
        assert before.startswith(given_text) or before.startswith(given_text.removesuffix("\n\n")), (said, before)


@pytest.mark.parametrize(("name", "surface"), STREAMED_SURFACES)
@pytest.mark.parametrize("hold", ["tail", "all"])
@settings(max_examples=25)
@given(
    before=st.text("ab \n☂é", max_size=60),
    after=st.one_of(st.just(""), st.text("ab \n☂é", max_size=40).map(lambda text: f" {LATER} {text}")),
    interval=st.integers(1, 6),
    calls=st.booleans(),
    cuts=st.lists(st.integers(1, 900), min_size=1, max_size=8).filter(lambda cuts: sum(cuts) > 40),
)
async def test_no_byte_of_a_match_leaves_a_stream_under_a_hold(
    stages: dict[str, TextStage],
    name: str,
    surface: str,
    hold: str,
    before: str,
    after: str,
    interval: int,
    calls: bool,
    cuts: list[int],
) -> None:
    api, stage = APIS[name], stages[hold]
    said = f"{before} {KEY}{after}"
    events = api.events(says(surface, said, (LOOK,) if calls else ()), interval)
    assert leaks(heard(b"".join(events)))
    stage.script = streaming(pieces(events, cuts))
    body = await stage.asks(api, stream=True)
    told = heard(body)
    assert leaks(told) == {}
    assert LATER not in str(told)
    assert SHUT in str(api.said(told, "text", stream=True))
    prefix_only(api, told, surface, before + " ", stream=True)


@pytest.mark.parametrize(("name", "surface"), STREAMED_SURFACES)
@pytest.mark.parametrize("hold", ["tail", "all"])
@pytest.mark.parametrize("between", ["\u200b", "\u200d\u2060\u00ad" * 3])
async def test_what_hides_a_match_does_not_let_it_go(
    stages: dict[str, TextStage], name: str, surface: str, hold: str, between: str
) -> None:
    """Characters without width make a match many times as long as its tail."""
    api, stage = APIS[name], stages[hold]
    events = api.events(says(surface, f"The key is {between.join(KEY)} . {LATER}"), 2)
    stage.script = streaming(events)
    told = heard(await stage.asks(api, stream=True))
    assert leaks({path: text.translate(dict.fromkeys(map(ord, between))) for path, text in told.items()}) == {}
    assert LATER not in str(told)
    assert SHUT in str(api.said(told, "text", stream=True))


@pytest.mark.parametrize(("name", "surface"), SURFACES)
@pytest.mark.parametrize("hold", HOLDS)
@pytest.mark.parametrize("after", ["", f" {LATER} and so on."])
@pytest.mark.parametrize("calls", [(), (LOOK,)])
async def test_no_byte_of_a_match_leaves_in_a_whole_answer(
    stages: dict[str, TextStage], name: str, surface: str, hold: str, after: str, calls: tuple[Call, ...]
) -> None:
    api, stage = APIS[name], stages[hold]
    body = api.body(
        says(surface, f"The key is {KEY}{after}", calls if api.path != "/v1/chat/completions/batch" else ())
    )
    assert leaks(heard(body))
    stage.script = answering(body)
    told = heard(await stage.asks(api, stream=False))
    assert leaks(told) == {}
    assert LATER not in str(told)
    assert all(SHUT in said for said in api.said(told, "text", stream=False))
    assert {record.exposed for record in stage.decided()} == {0}


@pytest.mark.parametrize(("name", "surface"), STREAMED_SURFACES)
@pytest.mark.parametrize("hold", HOLDS)
async def test_a_match_is_judged_beside_a_call_in_the_same_text(
    stages: dict[str, TextStage], name: str, surface: str, hold: str
) -> None:
    """The starter policies refuse the command; the finding about the key stands all the same."""
    api, stage = APIS[name], stages[hold]
    written = '<tool_call>{"name": "bash", "arguments": {"command": "rm -rf /"}}</tool_call>'
    stage.script = streaming([b"".join(api.events(says(surface, f"The key is {KEY} . {written}"), 1000))])
    told = heard(await stage.asks(api, stream=True))
    assert SHUT in str(api.said(told, "text", stream=True))
    assert stage.decided()
    called = stage.records(CallOutcome)
    assert [record for record in called if record.exchange == stage.decided()[0].exchange and record.in_text]


def completing(api: Api, events: list[bytes], surface: str) -> int:
    """The place of the event with the first character behind the key, at which the match is certain."""
    for place in range(len(events)):
        (said,) = api.said(heard(b"".join(events[: place + 1])), surface, stream=True)
        if KEY in said and not said.endswith(KEY):
            return place
    raise AssertionError("the key is not there, or nothing follows it")


@pytest.mark.parametrize(("name", "surface"), STREAMED_SURFACES)
@pytest.mark.parametrize("interval", [1, 4])
async def test_without_a_hold_nothing_comes_after_the_event_that_completed_the_match(
    stages: dict[str, TextStage], name: str, surface: str, interval: int
) -> None:
    api, stage = APIS[name], stages["none"]
    events = api.events(says(surface, f"The key is {KEY} . {LATER} and much more. " + "word " * 200), interval)
    stage.script = streaming(events)
    body = await stage.asks(api, stream=True)
    told = heard(body)
    if api.choices == 1:
        last = completing(api, events, surface)
        assert body.startswith(b"".join(events[: last + 1]))
        added = body.removeprefix(b"".join(events[: last + 1])).decode()
        assert LATER not in added
        assert SHUT in added
    assert f"{LATER} and" not in str(told)
    assert "word word" not in str(told)
    assert SHUT in str(api.said(told, "text", stream=True))
    (decided,) = {record.exposed for record in stage.decided()}
    assert decided == len(KEY)


@pytest.mark.parametrize(("name", "surface"), STREAMED_SURFACES)
@pytest.mark.parametrize("hold", HOLDS)
async def test_what_is_let_by_is_what_the_model_server_sent(
    stages: dict[str, TextStage], name: str, surface: str, hold: str
) -> None:
    api, stage = APIS[name], stages[hold]
    for calls in ((), (LOOK,)):
        events = api.events(says(surface, "The key is AKIA and no more. " + "word " * 40, calls), 3)
        stage.script = streaming(events)
        body = await stage.asks(api, stream=True)
        if api.choices == 1:
            assert body == b"".join(events)
        else:  # between choices the order may shift
            assert sorted(body.split(b"\n\n")) == sorted(b"".join(events).split(b"\n\n"))


async def test_there_are_recordings_of_every_api() -> None:
    assert {(stream.api, surface) for (_, surface), stream in RECORDED.items() if stream.ended} == {
        (api, surface) for api in ("chat", "completions", "messages", "responses") for surface in ("text", "reasoning")
    } - {("completions", "reasoning")}


@pytest.mark.parametrize("hold", ["tail", "all"])
@pytest.mark.parametrize(("name", "surface"), RECORDED)
@settings(max_examples=8)
@given(data=st.data())
async def test_no_byte_of_a_match_leaves_a_recorded_stream_under_a_hold(
    stages: dict[str, TextStage], name: str, surface: str, hold: str, data: st.DataObject
) -> None:
    stream, stage = RECORDED[name, surface], stages[hold]
    events = stream.with_words(surface, *data.draw(planted(stream, surface, f" {KEY} ")))
    assert leaks(heard(b"".join(events)))
    stage.script = streaming(pieces(events, data.draw(st.lists(st.integers(30, 900), min_size=1, max_size=8))))
    request = stream.capture.request
    answer = parse(await send(stage.port, post(request.body, path=request.start.split()[1])))
    assert answer.start == "HTTP/1.1 200 OK", answer.body
    told = heard(answer.body)
    assert leaks(told) == {}
    assert SHUT in str(told) or not stream.ended
