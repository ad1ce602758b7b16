"""A conversation with the gate: bytes in, its questions answered, bytes out."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from proxy.gate import Gate
from proxy.gated_choice import Answer, Question, TextQuestion
from serving.wire.dialect import StreamReader
from serving.wire.writer import StreamWriter

CANARY = "canary-7f3a91"
SHUT = "Stopped by rule test/text."
REFUSED = "[run_shell] Blocked by rule test/deny. Ask for something else."


class Talk:
    """Feeds bytes to reader and gate, and answers the gate's questions at once, or when told. A call whose arguments
    hold the canary is refused, and a text in which something was found is cut."""

    def __init__(self, reader: StreamReader, writer: StreamWriter, *, late: bool = False, **options: object) -> None:
        self.reader = reader
        self.gate = Gate(writer, **options)  # type: ignore[arg-type]
        self.late = late
        self.sent: list[bytes] = []
        self.asked: list[Question | TextQuestion] = []
        self.open: deque[Question | TextQuestion] = deque()

    def client_gets(self) -> bytes:
        self.sent += self.gate.take()
        return b"".join(self.sent)

    def upstream_says(self, *data: bytes, unknown: bool = False) -> None:
        for piece in data:
            for event in self.reader.feed(piece):
                assert unknown or event.kind != "unknown"
                self.gate.feed(event)
            for question in self.gate.questions():
                self.asked.append(question)
                self.open.append(question)
            while self.open and not self.late:
                self.decide()
            self.client_gets()

    def upstream_says_all(self, body: bytes, sizes: Sequence[int], timing: Sequence[bool]) -> None:
        """The whole answer in pieces of these sizes; where ``timing`` has it so, a question is answered between two."""
        at = 0
        for place, size in enumerate([*sizes, len(body)]):
            self.upstream_says(body[at : at + size])
            at += size
            if place < len(timing) and timing[place] and self.open:
                self.decide()
        while self.open:
            self.decide()

    def decide(self) -> None:
        question = self.open.popleft()
        if isinstance(question, TextQuestion):
            self.gate.answer(question.ticket, Answer(SHUT, cut=True) if question.found.hits else Answer())
            return
        bad = CANARY in question.call.arguments or question.problem is not None
        self.gate.answer(question.ticket, Answer(REFUSED) if bad else Answer())
