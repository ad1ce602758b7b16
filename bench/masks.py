"""What masks in a streamed answer cost: ``python -m bench.masks``.

A stream of 100 KB of text, one event a word, with so many card numbers in it, goes through the objects that judge live
traffic (reader, gate, judge, recorder and the journal with its writing process; no sockets), under the shipped
`interlock.pii_mask`: as it is, where it holds the last 160 bytes, and with everything held to the end. ``none`` is the
same policy, enforced, and a text in which there is nothing to mask. Each time: CPU of this process, the time that it
took (each commit waits for the disk), questions put to the policies, and bytes of journal.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec

from policies.bundle import Bundle
from policies.model import BudgetFacts, CheckFact
from policies.rollout import Rollout
from proxy.approvals import Approvals
from proxy.exchange import Exchange
from proxy.gate import Gate
from proxy.judge import Judge
from proxy.plane import make_recorder, open_journal
from proxy.random_ids import random_hex
from proxy.replay.running import Sets
from proxy.runs import RunBook
from proxy.streamed import StreamedAnswer
from proxy.trace_context import join
from serving.settings import Settings
from serving.wire.dialects import DIALECTS
from serving.wire.masking import Surface
from serving.wire.request import ChatRequest
from tracing.metrics import Metrics
from tracing.records import Decided, Opened
from tracing.segments import read

PATH = "/v1/chat/completions"
SIZE = 100_000
MASKS = (0, 1, 10, 100, 1000)
RUNS = 3
READ = 20
"""Events that come in one read."""

CARD = "4111 1111 1111 1111"
_WORDS = ("the", "report", "of", "a", "team", "was", "sent", "to", "all", "who", "had", "asked", "for", "it")


class Cost(NamedTuple):
    """Seconds, of CPU and by the clock; ``masked`` is how many cards the client does not see."""

    cpu: float
    took: float
    questions: int
    journal: int
    masked: int


class Upstream:
    """What the model server sends, some events a read."""

    def __init__(self, events: Sequence[bytes]) -> None:
        self._reads = [b"".join(events[at : at + READ]) for at in range(0, len(events), READ)]

    async def readany(self) -> bytes:
        await asyncio.sleep(0)
        return self._reads.pop(0) if self._reads else b""


class Client:
    """Takes all that it is given."""

    def __init__(self) -> None:
        self.got = bytearray()

    def give(self, data: bytes) -> bool:
        self.got += data
        return True

    async def drained(self) -> None:
        return None


def events(masks: int, size: int) -> list[bytes]:
    """A streamed chat completion: words, with card numbers spread evenly among them."""
    chance = random.Random(7)
    words: list[str] = []
    while sum(map(len, words)) + len(words) < size - masks * (len(CARD) + 2):
        words += (chance.choice(_WORDS) for _ in range(500))
    for at in range(masks):
        words.insert(round(len(words) * (at + 0.5) / masks), f"{CARD},")
    pieces = [f"{word} " for word in words]

    def event(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        document = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "bench"}
        return b"data: " + json.dumps({**document, "choices": [choice]}).encode() + b"\n\n"

    said = [event({"content": piece}) for piece in pieces]
    return [event({"role": "assistant", "content": ""}), *said, event({}, "stop"), b"data: [DONE]\n\n"]


async def stream(judge: Judge, recorder: Any, parts: Sequence[bytes], *, whole: bool) -> bytes:
    """What the client is given. ``whole``: all text waits for its end."""
    dialect = DIALECTS[PATH]
    body = {"model": "bench", "messages": [{"role": "user", "content": "Tell me."}], "stream": True}
    request = dialect.request(body)
    assert isinstance(request, ChatRequest)
    runs = RunBook(Settings().breakers, time.monotonic, lambda: random_hex(8), b"key of this run")
    sighting = runs.identify("bench", request)
    x = Exchange(random_hex(16), "bench", None, None, judge, dialect, request, sighting, join(None, random_hex), 0, 99)
    recorder.opened(x, "POST", PATH)
    reader, writer = dialect.stream(request)
    rules = {surface: replace(cast(Any, rule), hold=None) if whole else rule for surface, rule in judge.texts.items()}
    gate = Gate(writer, hold=judge.holds_calls, held_limit=1 << 26, texts=cast(dict[Surface, Any], rules))
    flow = StreamedAnswer(
        x,
        reader,
        gate,
        judge=judge.ask,
        extend=None,
        ended=lambda _number: None,
        unjudged_passes=False,
        limit=1 << 26,
    )
    client = Client()
    await flow.run(cast(Any, Upstream(parts)), client)
    return bytes(client.got)


async def measure(masks: int, size: int, folder: Path, *, whole: bool, runs: int = RUNS) -> Cost:
    """The least CPU of some runs, each with a journal of its own."""
    parts, found = events(masks, size), []
    for run in range(runs):
        modes = {"interlock.pii_mask": "enforce"}
        settings = Settings.model_validate({"state_dir": folder / str(run), "policies": {"modes": modes}})
        policies = Sets(Bundle.load(), settings, rollout=Rollout.of_modes({}), changed=modes).of("bench", None)
        journal = open_journal(settings)
        recorder = make_recorder(settings, journal, metrics := Metrics())

        async def facts(_: Exchange) -> tuple[list[CheckFact], list[BudgetFacts]]:
            return [], []

        desk = Approvals(settings.policies.approval, recorder)
        judge = Judge(policies, settings.policies, recorder, metrics, json_depth=64, facts=facts, approvals=desk)
        await stream(judge, recorder, events(1, 2000), whole=whole)  # the engine's first answers take longer
        cpu, clock = time.process_time(), time.perf_counter()
        got = await stream(judge, recorder, parts, whole=whole)
        cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
        journal.close()
        records = [entry.record for entry in read(settings.state_dir)]
        opened = [one.exchange for one in records if isinstance(one, Opened)]
        own = [one for one in records if one.exchange == opened[-1]]
        questions = sum(isinstance(one, Decided) for one in own)
        written = sum(len(msgspec.json.encode(one)) for one in own)
        found.append(Cost(cpu, clock, questions, written, masks - got.count(b"4111")))
    return min(found)


def main() -> int:
    print(f"{'100 KB, cards':>14} {'held':>10} {'CPU':>9} {'took':>9} {'questions':>10} {'journal':>9} {'masked':>7}")
    for whole in (False, True):
        for masks in MASKS:
            with tempfile.TemporaryDirectory(prefix="interlock-masks-") as folder:
                cost = asyncio.run(measure(masks, SIZE, Path(folder), whole=whole))
            held = "all" if whole else "160 bytes"
            times = f"{cost.cpu * 1000:6.0f} ms {cost.took * 1000:6.0f} ms"
            rest = f"{cost.questions:10} {cost.journal / 1e3:6.1f} KB {cost.masked:7}"
            print(f"{masks or 'none':>14} {held:>10} {times} {rest}")
            if cost.masked != masks:
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
