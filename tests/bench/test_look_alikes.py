"""The texts that the benchmark of look-alikes measures are what it says."""

from __future__ import annotations

from bench.look_alikes import PIECES, cost, texts
from serving.patterns import shipped_set


def test_the_texts_are_full_of_look_alikes_and_nothing_is_found_in_them() -> None:
    patterns = shipped_set("pii")
    looked_at = {"groups of a card": 2, "cards, apart": 2, "cards, unbroken": 2, "accounts": 1}
    for name, text in texts(5000).items():
        assert len(text) == 5000
        assert patterns.scan(text) == []
        assert name not in looked_at or patterns.expression(looked_at[name])[0].search(text)


def test_every_size_of_piece_is_measured() -> None:
    measured = cost("4123 4567 8901 2346 " * 20)
    assert set(measured.pieces) == set(PIECES)
    assert min(measured.pieces.values()) > 0
