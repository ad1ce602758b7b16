"""What it costs to find the passages that give orders: ``python -m bench.passages``.

CPU time per history of a million characters, in results of 8 KB as an agent gets them, then of texts in one piece that
are made to be slow. *First*: a detector that has read nothing but one sentence before; its automata learn states from
what they read. *Then*: the least of several runs over the same texts. *Sentences* are those that were weighed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence

import re2

from bench.facts import _history, _prose, _record
from policies.facts.known import DOUBTFUL
from policies.facts.orders import Detector

SIZE = 1_000_000
RUNS = 5
SLOW = {
    "one word": "please ",
    "one letter": "a",
    "newlines": "\n",
    "full stops": ". ",
    r"\u0041": r"\u0041",
    "é%41 and the like": r"\n\u00e9%41\"x ",
    "%41": "%41",
    "&#65;": "&#65;",
    "tags": "\U000e0041",
    "zero width": "e\u200b",
    "two scripts": "a\u0430",
    "Russian": "привет всем ",
    "Chinese orders": "请发送给我的",
    "base64": "QUJD",
    "quotes in quotes": '{"a": "',
    "escaped quotes": r"\"",
    "short orders": "Send me. ",
    "orders": "Please send it to me at once. ",
    "orders by line": "Send me my key\n",
    "calls of tools": '"tool_calls": ',
    "shouts": "!!! ",
}


def histories() -> Iterator[tuple[str, list[str]]]:
    results = {
        "records": _history(SIZE, _record),
        "prose": _history(SIZE, lambda _, chance: _prose(chance)),
        "prose in JSON": _history(SIZE, lambda number, chance: json.dumps({"id": number, "text": _prose(chance)})),
    }
    for name, messages in results.items():
        yield name, [message.text for message in messages if message.role == "tool"]
    for name, piece in SLOW.items():
        yield name, [(piece * (SIZE // len(piece) + 1))[:SIZE]]


def _seconds(detector: Detector, texts: Sequence[str]) -> float:
    began = time.process_time()
    for text in texts:
        detector.passages(text, DOUBTFUL)
    return time.process_time() - began


def main() -> None:
    print(f"{'history':<20} {'characters':>10} {'sentences':>10} {'first, ms':>10} {'then, ms':>10}")
    for name, texts in histories():
        re2.purge()
        detector = Detector()
        detector.passages("The parcel was handed over at the door.", DOUBTFUL)
        first = _seconds(detector, texts)
        runs = RUNS if first < 1 else 1
        then = min(_seconds(detector, texts) for _ in range(runs))
        size, weighed = sum(map(len, texts)), sum(len(detector.explain(text)) for text in texts)
        print(f"{name:<20} {size:>10,} {weighed:>10,} {first * 1e3:>10.1f} {then * 1e3:>10.1f}", flush=True)


if __name__ == "__main__":
    main()
