"""From the pieces of an exchange to the questions that are asked about them. Pure.

What the model reads: the user's messages (surface ``request``) and tool results (``tool_result``), both as
input. What it made: its text (``output``) and every tool call (``tool_call``), as output. The harness's own
system prompt and earlier answers of the model, which were asked about when they were made, are not asked
again. Empty text asks nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from checks.readable import MAX_JSON_CHARACTERS, readable, readable_call
from checks.verdict import CheckJob, Surface
from serving.wire.request import SentMessage
from serving.wire.vocabulary import ToolCall

_SURFACES: dict[str, Surface] = {"user": "request", "tool": "tool_result", "function": "tool_result"}


def jobs_for_request(ref: str, new_messages: Iterable[SentMessage], room: int = MAX_JSON_CHARACTERS) -> list[CheckJob]:
    """One job for each message that the model has not read yet and that others than the harness wrote. ``room``: bytes
    that are asked about at most."""
    return [
        CheckJob(ref, surface, "input", readable(message.text, room))
        for message in new_messages
        if (surface := _SURFACES.get(message.role)) is not None and message.text.strip()
    ]


def jobs_for_answer(ref: str, text: str | None, calls: Iterable[ToolCall]) -> list[CheckJob]:
    """One job for the text of a choice, if there is any, and one for each call, cut-off ones too."""
    jobs = [CheckJob(ref, "output", "output", readable(text))] if text and text.strip() else []
    jobs += [CheckJob(ref, "tool_call", "output", readable_call(call.name, call.arguments)) for call in calls]
    return jobs
