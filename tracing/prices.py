"""What an exchange cost: a price book, and the arithmetic. Pure but for reading the file.

Prices are per model (or glob) in USD per million tokens, or per GPU hour. What is not in the book has no known
cost, and the answer says so: an unknown cost is never 0.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Self

import msgspec
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from serving.wire.vocabulary import Usage

_NAMES_KEPT, _NAME_CHARACTERS = 1000, 256  # of models that were looked up; what they are called is up to clients
SHIPPED = Path(__file__).with_name("prices.yaml")

Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class PriceBookError(Exception):
    """The price book cannot be used; the message names file, entry and what was expected."""


class Cost(msgspec.Struct, frozen=True):
    """Cost in ``currency``. The four parts are None where the price is one of time, not of tokens; ``total``
    too where the cost is not known. ``book`` is the version of the price book."""

    known: bool
    book: str
    total: float | None = None
    input: float | None = None
    cached: float | None = None
    output: float | None = None
    reasoning: float | None = None
    currency: str = "USD"

    def record(self) -> dict[str, Any]:
        """As the journal's ``settled`` record holds it."""
        if not self.known:
            return {"known": False, "book": self.book, "currency": self.currency}
        return {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    match: Annotated[str, Field(min_length=1)]
    input: Price | None = None
    cached: Price | None = None
    output: Price | None = None
    reasoning: Price | None = None
    gpu_usd_per_hour: Price | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        by_token = self.input is not None and self.output is not None
        if by_token == (self.gpu_usd_per_hour is not None):
            raise ValueError("give either input and output, or gpu_usd_per_hour")
        return self


class _Book(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Annotated[str, Field(min_length=1, max_length=100)]
    models: list[_Entry] = []


class PriceBook:
    """The prices of one file. Look-ups are remembered per model."""

    def __init__(self, book: _Book) -> None:
        self.version = book.version
        self._entries = book.models
        self._found: dict[str, _Entry | None] = {}

    @classmethod
    def load(cls, path: Path | None = None) -> Self:
        """From a YAML file; None: the shipped one. :class:`PriceBookError` if it cannot be read or used."""
        path = path or SHIPPED
        try:
            return cls(_Book.model_validate(yaml.safe_load(path.read_text("utf-8"))))
        except OSError as error:
            raise PriceBookError(f"price book {path}: {error.strerror}") from error
        except yaml.YAMLError as error:
            raise PriceBookError(f"price book {path}: not YAML: {' '.join(str(error).split())}") from error
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "the file"
            raise PriceBookError(f"price book {path}: {place}: {first['msg']}") from error

    def knows(self, model: str | None) -> bool:
        """Whether a usage of ``model`` has a price in tokens."""
        entry = self._entry(model or "")
        return entry is not None and entry.gpu_usd_per_hour is None

    @property
    def by_time(self) -> bool:
        """Whether any model is priced by its share of the elapsed time."""
        return any(entry.gpu_usd_per_hour is not None for entry in self._entries)

    def cost(self, model: str | None, usage: Usage, seconds: float | None = None) -> Cost:
        """What ``usage`` cost. ``seconds`` is the GPU time that the exchange used, its measured share of the
        elapsed time; without it a model that is priced by time has no known cost."""
        entry = self._entry(model or "")
        if entry is None:
            return Cost(known=False, book=self.version)
        if entry.gpu_usd_per_hour is not None:
            if seconds is None:
                return Cost(known=False, book=self.version)
            return Cost(known=True, book=self.version, total=_usd(entry.gpu_usd_per_hour * seconds / 3600))
        per_input, per_output = entry.input or 0.0, entry.output or 0.0
        per_cached = per_input if entry.cached is None else entry.cached
        per_reasoning = per_output if entry.reasoning is None else entry.reasoning
        cached = min(usage.cached, usage.prompt)
        reasoning = min(usage.reasoning, usage.completion)
        parts = (
            (usage.prompt - cached) * per_input / 1e6,
            cached * per_cached / 1e6,
            (usage.completion - reasoning) * per_output / 1e6,
            reasoning * per_reasoning / 1e6,
        )
        return Cost(
            known=True,
            book=self.version,
            total=_usd(sum(parts)),
            input=_usd(parts[0]),
            cached=_usd(parts[1]),
            output=_usd(parts[2]),
            reasoning=_usd(parts[3]),
        )

    def _entry(self, model: str) -> _Entry | None:
        if model in self._found:
            return self._found[model]
        entry = next((entry for entry in self._entries if fnmatchcase(model, entry.match)), None)
        if len(model) <= _NAME_CHARACTERS:
            if len(self._found) >= _NAMES_KEPT:
                self._found.clear()
            self._found[model] = entry
        return entry


def _usd(amount: float) -> float:
    return round(amount, 12)
