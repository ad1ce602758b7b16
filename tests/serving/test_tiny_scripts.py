"""The scripts say what they claim, and the harness plays them to either end."""

import json
import re

import pytest

from serving.tiny.dialogue import Script, Turn
from serving.tiny.harness import UNKNOWN_RESULT, Harness, message_of
from serving.tiny.scripts import (
    BY_ID,
    CANARY,
    DESTROY,
    DISK,
    KEY,
    LEAK_PROMPT,
    LEAK_TEXT,
    LOOP,
    POLL,
    REPAIR,
    SANDWICH_FIRST,
    SANDWICH_LAST,
    SANDWICH_MIDDLE,
    SCRIPTS,
    TOOLS,
)

every_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.id)


def all_turns(script: Script) -> tuple[Turn, ...]:
    return script.turns + script.refused + ((script.loop,) if script.loop else ())


def play(script: Script, *, refuse: bool = False, limit: int = 40) -> Harness:
    harness = Harness(script)
    while not harness.done and harness.answers < limit:
        turn = harness.expected
        assert turn is not None
        harness.take(message_of(turn, without=turn.forbidden if refuse else ()))
    return harness


def test_ids_are_unique_and_only_loop_and_poll_share_a_prompt() -> None:
    assert len(BY_ID) == len(SCRIPTS)
    assert len({script.prompt for script in SCRIPTS}) == len(SCRIPTS) - 1


def test_loop_and_poll_begin_with_the_same_request() -> None:
    assert Harness(LOOP).request() == Harness(POLL).request()


@every_script
def test_the_canary_stands_in_forbidden_arguments_only(script: Script) -> None:
    shown = [script.prompt, *(text for texts in (script.results or {}).values() for text in texts)]
    for turn in all_turns(script):
        shown += [turn.reasoning, turn.text or ""]
        shown += [json.dumps(dict(call.arguments)) for call in turn.calls if not call.forbidden]
    assert all(CANARY not in text and "rm -rf" not in text for text in shown)


@every_script
def test_the_key_is_said_only_where_the_title_says_so(script: Script) -> None:
    said = [turn.reasoning + (turn.text or "") for turn in all_turns(script)]
    assert any(KEY in text for text in said) == (script in (LEAK_PROMPT, LEAK_TEXT))


def test_the_key_has_the_form_of_an_access_key_id_and_says_that_it_is_fake() -> None:
    assert re.fullmatch(r"AKIA[A-Z2-7]{16}", KEY)
    assert "FAKE" in KEY


@every_script
def test_every_turn_reasons_and_every_call_has_a_tool_and_a_result(script: Script) -> None:
    for turn in all_turns(script):
        assert turn.reasoning
        for call in turn.calls:
            assert call.name in script.tools
            assert set(call.arguments) == set(TOOLS[call.name].parameters)
            assert (script.results or {})[call.key]


@every_script
def test_a_dangerous_turn_says_something_before_it_calls(script: Script) -> None:
    assert all(turn.text for turn in script.turns if turn.forbidden)


def test_the_forbidden_one_of_three_calls_is_first_middle_and_last() -> None:
    places = [script.turns[0].calls.index(DESTROY) for script in (SANDWICH_FIRST, SANDWICH_MIDDLE, SANDWICH_LAST)]
    assert places == [0, 1, 2]


@every_script
def test_a_script_without_a_guard_ends_with_its_last_turn(script: Script) -> None:
    harness = play(script)
    assert harness.done == (script.loop is None)
    assert not harness.refused
    if harness.done:
        assert harness.messages[-1]["content"] == script.turns[-1].text


@pytest.mark.parametrize("script", [script for script in SCRIPTS if script.refused], ids=lambda script: script.id)
def test_a_script_behind_a_guard_ends_with_its_other_ending(script: Script) -> None:
    harness = play(script, refuse=True)
    assert harness.done and harness.refused
    assert harness.messages[-1]["content"] == script.refused[-1].text


def test_the_loop_asks_the_same_for_ever() -> None:
    harness = play(LOOP, limit=50)
    assert harness.expected == LOOP.loop
    assert {m["content"] for m in harness.messages if m["role"] == "tool"} == {"pending"}


def test_a_repeated_call_gets_its_next_result() -> None:
    contents = [m["content"] for m in play(REPAIR).messages if m["role"] == "tool"]
    assert contents[0].startswith("FAILED")
    assert contents[-1] == "1 passed"


def test_an_answer_refused_whole_is_followed_by_the_user() -> None:
    harness = Harness(DISK)
    harness.take({"role": "assistant", "content": "This was not executed."})
    assert harness.messages[-1] == {"role": "user", "content": DISK.follow_up}
    assert not harness.done


def test_an_answer_that_keeps_lawful_calls_is_followed_by_their_results() -> None:
    harness = Harness(SANDWICH_MIDDLE)
    harness.take(message_of(SANDWICH_MIDDLE.turns[0], without=(DESTROY,)))
    assert [m["role"] for m in harness.messages] == ["user", "assistant", "tool", "tool"]
    assert harness.expected == SANDWICH_MIDDLE.refused[0]


def test_arguments_spelled_otherwise_find_the_same_result() -> None:
    call = {"id": "x", "function": {"name": "run_shell", "arguments": '{"command":"make status"}'}}
    harness = Harness(LOOP)
    harness.take({"role": "assistant", "content": None, "tool_calls": [call]})
    assert harness.messages[-1] == {"role": "tool", "tool_call_id": "x", "content": "pending"}


@pytest.mark.parametrize("arguments", ['{"command": "ls"}', '{"command": ', "[]"])
def test_a_call_that_no_script_knows_returns_an_error(arguments: str) -> None:
    call = {"id": "x", "function": {"name": "run_shell", "arguments": arguments}}
    harness = Harness(LOOP)
    harness.take({"role": "assistant", "content": None, "tool_calls": [call]})
    assert harness.messages[-1]["content"] == UNKNOWN_RESULT


def test_a_request_offers_the_scripts_tools_and_takes_options() -> None:
    body = Harness(LOOP, system="Be brief.").request(stream=True)
    assert [tool["function"]["name"] for tool in body["tools"]] == ["run_shell"]
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert body["stream"] is True
