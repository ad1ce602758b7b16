"""The agent's side: plays a script over HTTP, lets somebody listen, and keeps the bytes that came.

It does what an agent's harness does and no more: it sends the conversation, takes what comes, "executes" the
calls that it was given (their results stand in the script), and goes on. It knows nothing of Interlock.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from serving.tiny.answer import message
from serving.tiny.dialogue import Message, Script
from serving.tiny.harness import Harness
from serving.tiny.shelf import CHAT
from serving.wire.chat_stream import ChatStreamReader
from serving.wire.vocabulary import ChoiceDelta

TURNS = 8
"""More turns than any script of the demo has: who takes more has left its script."""

Listener = Callable[[ChoiceDelta], None]


class OffScript(Exception):
    """The model server did not answer as the script says; the message is for the user."""


@dataclass(frozen=True)
class Heard:
    """One answer as it arrived. ``trace_id`` is the one that the request carried."""

    trace_id: str
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The ``error`` object of an answer with a status other than 200."""
        error: dict[str, Any] = json.loads(self.body)["error"]
        return error


@dataclass
class Spelled:
    """What a streamed answer says, its pieces joined: text, reasoning, each call as name and arguments, and what
    the tokens in its logprobs spell."""

    text: str = ""
    reasoning: str = ""
    calls: list[list[str]] = field(default_factory=list)
    logprobs: str = ""
    tokens: int = 0

    @classmethod
    def of(cls, body: bytes) -> Spelled:
        spelled = cls()
        for event in ChatStreamReader().feed(body):
            for delta in event.choices:
                spelled._add(delta)
        return spelled

    def _add(self, delta: ChoiceDelta) -> None:
        self.text += delta.text or ""
        self.reasoning += delta.reasoning or ""
        self.logprobs += delta.logprob_text or ""
        self.tokens += delta.tokens
        for piece in delta.tools:
            while len(self.calls) <= piece.index:
                self.calls.append(["", ""])
            self.calls[piece.index][0] += piece.name or ""
            self.calls[piece.index][1] += piece.arguments

    def count(self, word: str) -> int:
        """How often ``word`` stands in text, reasoning and arguments."""
        return sum(part.count(word) for part in (self.text, self.reasoning, *(call[1] for call in self.calls)))


class Agent:
    """One run of a script against ``url``. ``options`` are added to every request."""

    def __init__(self, session: aiohttp.ClientSession, url: str, script: Script, **options: Any) -> None:
        self._session = session
        self._url = url + CHAT
        self._options = {"stream": True, "stream_options": {"include_usage": True}, **options}
        self._harness = Harness(script)
        self.heard: list[Heard] = []

    @property
    def prompt(self) -> str:
        return self._harness.script.prompt

    @property
    def done(self) -> bool:
        """The agent has nothing more to ask, or was refused."""
        return self._harness.done or bool(self.heard and self.heard[-1].status != 200)

    async def turn(self, listener: Listener = lambda delta: None) -> tuple[Heard, list[Message]]:
        """Ask once; gives the answer and what the harness adds to the conversation (results, or the user's word).

        Raises :class:`OffScript` where a script has ended that should not go on.
        """
        if len(self.heard) >= TURNS:
            raise OffScript("the model server left its script: the conversation does not end")
        heard = await self._ask(listener)
        self.heard.append(heard)
        if heard.status != 200:
            return heard, []
        before = len(self._harness.messages) + 1
        self._harness.take(message(heard.body))
        return heard, self._harness.messages[before:]

    async def _ask(self, listener: Listener) -> Heard:
        trace_id = secrets.token_hex(16)
        headers = {"traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01"}
        body = self._harness.request(**self._options)
        async with self._session.post(self._url, json=body, headers=headers) as answer:
            received, reader = bytearray(), ChatStreamReader()
            async for data in answer.content.iter_any():
                received += data
                for event in reader.feed(data) if answer.status == 200 else ():
                    for delta in event.choices:
                        listener(delta)
            return Heard(trace_id, answer.status, {k.lower(): v for k, v in answer.headers.items()}, bytes(received))
