"""What an exchange keeps of its request."""

from __future__ import annotations

from typing import Any

from proxy.breakers.loops import START
from proxy.exchange import Exchange
from proxy.run import Run
from proxy.runs import Sighting
from proxy.trace_context import TraceContext
from serving.wire.chat import Chat
from serving.wire.request import ChatRequest, SentMessage, SentTool
from tests.support.nobody import NOBODY

MESSAGES = tuple(SentMessage("user", text) for text in ("old", "older", "new"))
TOOLS = (SentTool("bash", "Runs a command.", {"type": "object"}),)


def exchange(**fields: Any) -> Exchange:
    view = ChatRequest("tiny", MESSAGES, tools=TOOLS, **fields)
    sighting = Sighting(Run("run", "ann", 0.0, 0.0), 2, (), START, "history", b"", True)
    return Exchange(
        "x",
        "ann",
        None,
        None,
        NOBODY,
        Chat(),
        view,
        sighting,
        TraceContext("0" * 32, "0" * 16, "0" * 16, "", True, ""),
        0,
        0,
    )


def test_what_is_new_is_known_apart_from_the_rest() -> None:
    x = exchange()
    assert (x.news, x.message_count) == (MESSAGES[2:], 3)


def test_what_nobody_reads_any_more_is_forgotten() -> None:
    x = exchange()
    x.forget(messages=True, tools=True)
    assert (x.news, x.request.messages, x.message_count) == ((), (), 3)
    assert x.request.tools == (SentTool("bash"),), "calls are still compared with what was offered"


def test_what_policies_may_still_read_is_kept() -> None:
    x = exchange()
    x.forget(messages=False, tools=False)
    assert (x.news, x.request.messages, x.request.tools) == (MESSAGES[2:], (), TOOLS)


def test_the_conversation_behind_an_answer_that_is_stored_is_kept() -> None:
    x = exchange(stored=True)
    x.forget(messages=True, tools=True)
    assert x.request.messages == MESSAGES
