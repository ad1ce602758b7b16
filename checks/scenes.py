"""Questions for a check that can weigh one thing against another: a call against what the user asked for. Pure.

What a tool returns is asked about when it is new (surface ``tool_result``), with the conversation beside it. A call
(``tool_call``) is asked about with all the results that are in sight as the text; where there are none, nobody's orders
could have led to it, and nothing is asked. Everything has its bound: of the conversation the first thing that the
user said and the newest turns stay; of the results the newest, and that the others are missing is said (``cut``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from checks.readable import MAX_JSON_CHARACTERS, readable, readable_call
from checks.verdict import CheckJob, Scene
from serving.wire.request import SentMessage
from serving.wire.vocabulary import ToolCall

CONVERSATION_CHARACTERS = 8_000
CALL_CHARACTERS = 8_000
_TURN_CHARACTERS = {"user": 4_000, "system": 2_000, "developer": 2_000, "assistant": 1_000}
RESULTS = ("tool", "function")


class Sight(msgspec.Struct, frozen=True):
    """What the model had before it when it answered: ``results`` in the order in which they came, without the oldest if
    ``cut``."""

    conversation: str
    results: str
    cut: bool = False


def sight(messages: Sequence[SentMessage], room: int) -> Sight:
    """``room``: bytes (UTF-8) of the results that are kept."""
    kept, used, cut = list[str](), 0, False
    for message in reversed(messages):
        if message.role not in RESULTS or not message.text.strip():
            continue
        encoded = readable(message.text, room).encode("utf-8", "replace")
        left = room - used
        if len(encoded) > left:
            cut = True
            if left > 0:
                kept.append(encoded[-left:].decode("utf-8", "ignore"))
            break
        kept.append(encoded.decode("utf-8"))
        used += len(encoded) + 1
    return Sight(_conversation(messages), "\n".join(reversed(kept)), cut)


def jobs_for_results(
    ref: str, news: Iterable[SentMessage], conversation: str, room: int = MAX_JSON_CHARACTERS
) -> list[CheckJob]:
    """One job for each result that the model has not read yet. ``room``: bytes that are asked about at most."""
    scene = Scene(conversation)
    return [
        CheckJob(ref, "tool_result", "input", readable(message.text, room), scene)
        for message in news
        if message.role in RESULTS and message.text.strip()
    ]


def jobs_for_calls(ref: str, seen: Sight, calls: Iterable[ToolCall]) -> list[CheckJob]:
    """One job for each call that a result could have led to."""
    if not seen.results:
        return []
    jobs = []
    for call in calls:
        shown = readable_call(call.name, call.arguments)
        scene = Scene(seen.conversation, _clean(shown[:CALL_CHARACTERS]))
        cut = seen.cut or len(shown) > CALL_CHARACTERS
        jobs.append(CheckJob(ref, "tool_call", "output", seen.results, scene, cut))
    return jobs


def _conversation(messages: Sequence[SentMessage]) -> str:
    turns = [
        f"{message.role}: {_indented(message.text, _TURN_CHARACTERS[message.role])}"
        for message in messages
        if message.role in _TURN_CHARACTERS and message.text.strip()
    ]
    if sum(map(len, turns)) > CONVERSATION_CHARACTERS:
        first = next((number for number, turn in enumerate(turns) if turn.startswith("user:")), 0)
        left, newest = CONVERSATION_CHARACTERS - len(turns[first]), list[str]()
        for turn in reversed(turns[first + 1 :]):
            left -= len(turn)
            if left < 0:
                break
            newest.append(turn)
        turns = [turns[first], *reversed(newest)]
    return _clean("\n".join(turns))


def _indented(text: str, most: int) -> str:
    """Its first ``most`` characters. No line but the first begins as a turn does: what one says is nobody else's."""
    return "\n  ".join(text.strip()[:most].splitlines())[:most]


def _clean(text: str) -> str:
    """Lone surrogates become "?": no JSON carries them."""
    return text.encode("utf-8", "replace").decode("utf-8")
