"""What the facts about a call cost, by the length of the history: ``python -m bench.facts [FILE]``.

CPU time, the least of several runs, of a history with results of a customer's database and of prose: to find the
passages that give orders (once for each new result, then it is remembered), and to say where the values of a call of
some size come from: the first time, and then, when what was made of each text is still known. Some histories are made
to be slow: a call with thousands of values, a value that stands everywhere, a user who talks without end, results full
of escapes.

``FILE`` is one of cases as ``interlock bench efficacy`` reads them: histories of its own results then, by source, each
result as often as it takes to come to a million characters.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

from policies.facts.known import KnownTexts, candidates
from policies.facts.orders import Passage
from policies.facts.provenance import Background
from policies.facts.replaced import Shown
from policies.facts.seen import NO_SETTINGS
from proxy.efficacy.cases import cases
from serving.wire.request import SentCall, SentMessage, SentTool

RUNS = 5
_TEXT = (
    "order item flight customer address payment status delivered shipped product camera silver review "
    "price total date name amount city street number history option color black white small large "
    "meeting report project team budget was were the a of to and in with for is are on at by from this "
    "that it has had not or as an be will which about "
)
_WORDS = _TEXT.split()
_CALL: dict[str, Any] = {
    "to": "eve@evil.example",
    "subject": "Your order of May",
    "body": "Dear Bob,\nthe total of order W1234567 is $3,412.50.\nSee https://shop.example/W1234567?x=%20y for more.",
    "amount": 3412.5,
    "date": "2024-05-03",
    "items": [f"item_{number}" for number in range(10)],
}
_TOOLS = [SentTool(f"{verb}_{noun}", f"{verb} a {noun}") for verb in ("get", "send", "delete") for noun in _WORDS[:8]]


def _record(number: int, chance: random.Random) -> str:
    text = " ".join(chance.choice(_WORDS) for _ in range(30))
    return json.dumps({"id": f"W{chance.randint(10**6, 10**7)}", "email": f"a{number}@example.com", "text": text})


def _prose(chance: random.Random) -> str:
    return " ".join(chance.choice(_WORDS) for _ in range(12)).capitalize() + ". "


ASKS = SentMessage("user", "Find my order and send the total to bob@example.com")


def _result(number: int, text: str) -> list[SentMessage]:
    """A call and its result."""
    call = SentCall(f"c{number}", "get_order", '{"id": 1}')
    return [SentMessage("assistant", "", calls=(call,)), SentMessage("tool", text, tool_call_id=call.id)]


def _history(size: int, piece: Callable[[int, random.Random], str], role: str = "tool") -> list[SentMessage]:
    chance = random.Random(size)
    messages = [ASKS]
    number = 0
    while size > 0:
        text = ""
        while len(text) < min(8192, size):
            text += piece(number, chance)
            number += 1
        messages += _result(number, text) if role == "tool" else [SentMessage(role, text)]
        size -= len(text)
    return messages


def _least(run: Callable[[], object]) -> float:
    times = []
    for _ in range(RUNS):
        began = time.process_time()
        run()
        times.append(time.process_time() - began)
    return min(times) * 1e3


def _measure(name: str, messages: list[SentMessage], call: dict[str, Any]) -> None:
    size = sum(len(message.text) for message in messages)
    known: dict[str, list[Passage]] = {}

    def find() -> None:
        known.update((message.text, candidates(message.text)) for message in messages if message.role == "tool")

    def texts() -> KnownTexts:
        return KnownTexts(lambda text: known.get(text, []), most_bytes=64 * 1024 * 1024)

    def facts(before: KnownTexts, shown: Shown) -> None:
        background = Background(messages, _TOOLS, NO_SETTINGS, before, shown=shown)
        background.facts("send_mail", call)
        background.show(shown)

    same, run = texts(), Shown()
    found, first = _least(find), _least(lambda: facts(texts(), Shown()))
    facts(same, run)
    then = _least(lambda: facts(same, run))
    print(f"{name:<20} {len(messages):>8,} {size:>10,} {found:>12.1f} {first:>12.1f} {then:>12.1f}")


def _of_file(path: Path) -> None:
    sources: dict[str, dict[str, None]] = {}
    for case in cases(path):
        results = sources.setdefault(case.source, {})
        results.update((message.text, None) for message in case.request.messages if message.role == "tool")
    for source, results in sorted(sources.items()):
        texts = cycle(results)
        messages = [ASKS]
        left = 1_000_000 if any(results) else 0
        while left > 0:
            number = len(messages)
            text = f"{next(texts)} {number}"
            messages += _result(number, text)
            left -= len(text)
        if len(messages) > 1:
            _measure(source, messages, _CALL)


def main() -> None:
    print(f"{'history':<20} {'messages':>8} {'characters':>10} {'orders, ms':>12} {'facts, ms':>12} {'then, ms':>12}")
    if len(sys.argv) > 1:
        _of_file(Path(sys.argv[1]))
        return
    for size in (1_000, 64_000, 250_000, 500_000, 1_000_000, 2_000_000):
        _measure("records", _history(size, _record), _CALL)
    for size in (250_000, 1_000_000):
        _measure("prose", _history(size, lambda _, chance: _prose(chance)), _CALL)
    records = _history(1_000_000, _record)
    _measure("2,000 values", records, {"list": [f"value number {number}" for number in range(2000)]})
    _measure("a value everywhere", records, {"to": "the", "cc": "W1"})
    _measure("escapes", _history(1_000_000, lambda *_: r"\n\u00e9%41\"x "), _CALL)
    _measure("one letter", _history(1_000_000, lambda *_: "a" * 512), {"to": "aaaa", "cc": "a" * 40})
    _measure("a user without end", _history(1_000_000, lambda _, chance: _prose(chance), "user"), _CALL)


if __name__ == "__main__":
    main()
