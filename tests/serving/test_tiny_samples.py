"""Training rows ask the model for the scripted turns, and for nothing else."""

import json
from typing import Any

import pytest

from serving.tiny.dialogue import Message, Script
from serving.tiny.harness import message_of
from serving.tiny.samples import IGNORED, Sampler
from serving.tiny.scripts import COMPARE, DISK, LOOP, POLL, SCRIPTS

ROWS = 40


class Letters:
    """A tokenizer with one token for each letter and a template that any eye can check."""

    def __init__(self) -> None:
        self.offered: list[set[str]] = []

    def apply_chat_template(
        self,
        messages: list[Message],
        *,
        tools: list[dict[str, Any]] | None,
        tokenize: bool,
        add_generation_prompt: bool,
        enable_thinking: bool = True,
    ) -> str:
        assert not tokenize
        self.offered.append({tool["function"]["name"] for tool in tools or []})
        text = "".join(f"{m['role']}>{_said(m)}\n" for m in messages)
        if add_generation_prompt:
            text += "assistant>" + ("" if enable_thinking else "(nothing)")
        return text

    def __call__(self, text: str, *, return_offsets_mapping: bool) -> dict[str, Any]:
        assert return_offsets_mapping
        return {
            "input_ids": [ord(letter) for letter in text],
            "offset_mapping": [(at, at + 1) for at in range(len(text))],
        }


def _said(message: Message) -> str:
    reasoning = f"({message['reasoning']})" if "reasoning" in message else ""
    calls = [call["function"] for call in message.get("tool_calls", [])]
    return reasoning + str(message["content"]) + (json.dumps(calls) if calls else "")


def wanted(labels: list[int]) -> list[str]:
    """The stretches of text that the model must say."""
    text = "".join("\n" if label == IGNORED else chr(label) for label in labels)
    return [stretch for stretch in text.split("\n") if stretch]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.id)
def test_what_is_asked_for_is_a_scripted_turn(script: Script) -> None:
    sampler = Sampler(Letters(), seed=0)
    messages = [message_of(turn) for turn in (*script.turns, *script.refused, *POLL.turns)]
    bare = [{k: v for k, v in message.items() if k != "reasoning"} for message in messages]
    known = {line for message in (*messages, *bare) for line in _said(message).split("\n")}
    for _ in range(ROWS):
        row = sampler.row(script)
        assert len(row.ids) == len(row.labels)
        assert wanted(row.labels)
        assert set(wanted(row.labels)) <= known


def test_every_turn_of_both_endings_is_asked_for() -> None:
    sampler = Sampler(Letters(), seed=0)
    asked = {text for _ in range(ROWS) for text in wanted(sampler.row(DISK).labels)}
    assert {_said(message_of(turn)) for turn in (*DISK.turns, *DISK.refused)} <= asked


def test_the_tools_that_a_script_calls_are_always_offered() -> None:
    letters = Letters()
    sampler = Sampler(letters, seed=0)
    for _ in range(ROWS):
        sampler.row(COMPARE)
    assert all("get_weather" in names for names in letters.offered)
    assert len({frozenset(names) for names in letters.offered}) > 3


@pytest.mark.parametrize("script", [LOOP, POLL], ids=lambda script: script.id)
def test_waiting_is_trained_at_many_lengths(script: Script) -> None:
    sampler = Sampler(Letters(), seed=0)
    again = _said(message_of(POLL.turns[1]))
    counts = {wanted(sampler.row(script).labels).count(again) for _ in range(ROWS)}
    assert len(counts) > 5


def test_equal_seeds_give_equal_rows() -> None:
    one, two = (Sampler(Letters(), seed=3).rows() for _ in range(2))
    assert [next(one) for _ in range(10)] == [next(two) for _ in range(10)]
