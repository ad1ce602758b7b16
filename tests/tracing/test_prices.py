"""What an exchange cost."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.wire.vocabulary import Usage
from tracing.prices import Cost, PriceBook, PriceBookError

BOOK = """
version: "test-1"
models:
  - {match: "qwen3-*", input: 1.0, cached: 0.1, output: 4.0, reasoning: 2.0}
  - {match: "plain", input: 1.0, output: 4.0}
  - {match: "free", input: 0, output: 0}
  - {match: "own-gpu", gpu_usd_per_hour: 3.6}
"""


@pytest.fixture
def book(tmp_path: Path) -> PriceBook:
    path = tmp_path / "prices.yaml"
    path.write_text(BOOK)
    return PriceBook.load(path)


def test_each_kind_of_token_has_its_price(book: PriceBook) -> None:
    cost = book.cost("qwen3-8b", Usage(prompt=1000, completion=500, cached=400, reasoning=100))
    assert cost == Cost(
        known=True, book="test-1", input=0.0006, cached=0.00004, output=0.0016, reasoning=0.0002, total=0.00244
    )


def test_cached_and_reasoning_cost_like_the_rest_where_they_have_no_price(book: PriceBook) -> None:
    cost = book.cost("plain", Usage(prompt=1000, completion=500, cached=400, reasoning=100))
    assert cost.total == pytest.approx(0.001 + 0.002)


def test_an_unknown_model_has_no_cost_and_not_zero(book: PriceBook) -> None:
    for model in ("other", None, ""):
        cost = book.cost(model, Usage(prompt=1000, completion=500))
        assert (cost.known, cost.total) == (False, None)
        assert cost.record() == {"known": False, "book": "test-1", "currency": "USD"}


def test_a_free_model_costs_nothing_and_that_is_known(book: PriceBook) -> None:
    cost = book.cost("free", Usage(prompt=1000, completion=500))
    assert (cost.known, cost.total) == (True, 0.0)


def test_gpu_time_has_a_price_where_it_was_measured(book: PriceBook) -> None:
    cost = book.cost("own-gpu", Usage(prompt=1, completion=1), seconds=2.0)
    assert (cost.known, cost.total, cost.input) == (True, 0.002, None)
    assert not book.cost("own-gpu", Usage(prompt=1, completion=1)).known


def test_the_shipped_book_loads_and_knows_the_shipped_model() -> None:
    book = PriceBook.load()
    assert book.version
    assert book.cost("tiny", Usage(prompt=100, completion=100)).known


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("models: []", "version"),
        ("version: a\nmodels:\n- {match: x, input: -1, output: 1}", "models.0.input"),
        ("version: a\nmodels:\n- {match: x, input: .nan, output: 1}", "models.0.input"),
        ("version: a\nmodels:\n- {match: x, input: 1}", "models.0: .*either input and output"),
        ("version: a\nmodels:\n- {match: x, input: 1, output: 1, gpu_usd_per_hour: 1}", "either"),
        ("version: a\nmodels:\n- {match: x, input: 1, output: 1, otput: 1}", "otput"),
        ("version: [", "not YAML"),
        ("just text", "the file"),
    ],
)
def test_a_book_that_is_wrong_is_refused_with_the_place(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(text)
    with pytest.raises(PriceBookError, match=says) as error:
        PriceBook.load(path)
    assert str(path) in str(error.value)


def test_a_book_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PriceBookError, match="No such file"):
        PriceBook.load(tmp_path / "none.yaml")


def test_what_clients_call_models_is_remembered_in_bounds(book: PriceBook) -> None:
    for number in range(3000):
        book.cost(f"model {number}", Usage(1, 1))
    book.cost("m" * 100_000, Usage(1, 1))
    assert sum(map(len, book._found)) < 50_000
