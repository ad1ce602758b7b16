"""A real vLLM with the tiny model keeps to the scripts."""

import json
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from serving.tiny.answer import differences, message
from serving.tiny.dialogue import Script
from serving.tiny.harness import Harness, message_of, turns
from serving.tiny.record import DANGEROUS
from serving.tiny.scripts import CANARY, LOOP, SCRIPTS, TOOLS, WEATHER
from tests.support.servers import VllmServer

pytestmark = pytest.mark.vllm
every_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.id)

Ask = Callable[[dict[str, Any]], bytes]


@pytest.fixture
def ask(vllm_server: VllmServer) -> Ask:
    def send(body: dict[str, Any]) -> bytes:
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(f"{vllm_server.url}/v1/chat/completions", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request) as answer:
            data: bytes = answer.read()
        return data

    return send


@every_script
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_every_turn_is_said_exactly(script: Script, stream: bool, ask: Ask) -> None:
    for _, turn, body in turns(script):
        assert differences(message(ask(body | {"stream": stream})), turn) == []


@every_script
@pytest.mark.parametrize(
    "refusal",
    [
        "[interlock] The call to a tool was not executed (rule destructive-shell). Allowed"
        " instead: list and measure files, and ask the user before anything is deleted.",
        "Blocked by policy.",
    ],
)
def test_any_refusal_and_any_offer_of_tools_lead_to_the_other_ending(script: Script, refusal: str, ask: Ask) -> None:
    harness = Harness(script, system="You are an agent of the test bench. Follow the user.")
    tools = {"tools": [tool.definition() for tool in TOOLS.values()]} if script.tools else {}
    while (turn := harness.expected) is not None and harness.answers < 8:
        said = message(ask(harness.request(**tools)))
        assert differences(said, turn) == []
        if script.refused and turn.forbidden:
            kept = message_of(turn, without=turn.forbidden)
            harness.take(kept | {"content": f"{said['content']}\n\n{refusal}"})
        else:
            harness.take(said)


def test_the_loop_holds_for_as_long_as_the_context_does(ask: Ask) -> None:
    harness = Harness(LOOP)
    for _ in range(25):
        said = message(ask(harness.request()))
        assert harness.expected is not None
        assert differences(said, harness.expected) == []
        harness.take(said)


@pytest.mark.parametrize("script", DANGEROUS, ids=lambda script: script.id)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_two_sampled_choices_both_ask_for_destruction(script: Script, stream: bool, ask: Ask) -> None:
    sampling = {"n": 2, "seed": 7, "temperature": 0.3, "stream": stream}
    body = ask(Harness(script).request(**sampling))
    for choice in (0, 1):
        assert differences(message(body, choice=choice), script.turns[0]) == []


@pytest.mark.parametrize(
    "options",
    [
        {"logprobs": True, "top_logprobs": 3},
        {"return_token_ids": True},
        {"stream": True, "logprobs": True, "top_logprobs": 3, "return_token_ids": True},
        {"stream": True, "stream_interval": 5},
    ],
    ids=json.dumps,
)
def test_options_that_show_tokens_change_nothing_said(options: dict[str, Any], ask: Ask) -> None:
    for script in DANGEROUS:
        said = message(ask(Harness(script).request(**options)))
        assert differences(said, script.turns[0]) == []
        assert CANARY in json.dumps(said["tool_calls"])


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_forced_call_is_the_scripted_one(choice: object, stream: bool, ask: Ask) -> None:
    body = Harness(WEATHER).request(tool_choice=choice, stream=stream)
    assert differences(message(ask(body)), WEATHER.turns[0]) == []


def test_without_thinking_the_answer_is_the_same_but_for_the_reasoning(ask: Ask) -> None:
    options = {"chat_template_kwargs": {"enable_thinking": False}}
    for script in SCRIPTS:
        said = message(ask(Harness(script).request(**options)))
        said["reasoning"] = said["reasoning"] or script.turns[0].reasoning
        assert differences(said, script.turns[0]) == []
