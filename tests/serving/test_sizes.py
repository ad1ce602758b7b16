"""What a value is said to take is what the interpreter took for it."""

from __future__ import annotations

import gc
import json
import tracemalloc

import pytest

from serving.sizes import bytes_of


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"role": "user", "content": "x" * 2000}),
        json.dumps([{"n": number, "f": number / 7, "s": f"é{number}", "none": None} for number in range(50)]),
        "[" * 200 + "]" * 200,
        json.dumps({f"key {number}": [[], {}] for number in range(100)}),
        json.dumps("\U0001f600" * 1000),
    ],
)
def test_a_value_takes_about_what_is_said(text: str) -> None:
    gc.collect()
    tracemalloc.start()
    try:
        kept = [json.loads(text) for _ in range(50)]
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert taken * 0.7 < sum(map(bytes_of, kept)) < taken * 2
