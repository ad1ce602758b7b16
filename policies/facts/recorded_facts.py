"""What was found in a call's history when it was live, as it is put on record: where the call's values are from, who
asked for it, and which passages of the new results give orders.

Whoever judges the call again takes it from there and need not look through the history once more, which is most of the
work. It counts only if it would be found again just so: :func:`version` is over the code and the data that find it,
what the settings say of tools, and the libraries below. Anything else is found anew.
"""

from __future__ import annotations

import hashlib
import platform
import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from policies.facts.known import KnownTexts
from policies.facts.orders import Passage
from policies.facts.provenance import MOST_PASSAGES, Background, Facts
from policies.facts.seen import ToolTable, pieces_of
from policies.model import CallMismatch, CallNamed, OrderPassage, UnplacedValue, ValueProvenance
from policies.projection import Orders
from serving.wire.request import SentMessage

_ROOT = Path(__file__).parents[2]
_SOURCES = ("policies/*.py", "policies/facts/*.py", "policies/facts/*.yaml", "serving/*.py", "serving/wire/request.py")
_LIBRARIES = ("google-re2", "hyperscan", "pydantic")


class _Call(BaseModel):
    """What is known of the call, as :class:`policies.facts.provenance.Facts`."""

    provenance: list[ValueProvenance] = []
    unplaced: list[UnplacedValue] = []
    named: CallNamed
    mismatch: CallMismatch


class Note(msgspec.Struct, frozen=True, omit_defaults=True):
    """``call``: as plain data; ``asked``: the messages whose source the user named; ``passages``: of each new message
    that gives orders, by its number, as one JSON text (numbers and names of kinds, nothing of the traffic).
    ``replaced``: something was gone from the history that the run had shown; ``inherited``: the passages of it."""

    version: str
    call: dict[str, Any]
    asked: list[int] = []
    passages: str = ""
    replaced: bool = False
    inherited: list[dict[str, Any]] = []


@cache
def _code() -> str:
    digest = hashlib.blake2b(digest_size=16)
    for pattern in _SOURCES:
        for path in sorted(_ROOT.glob(pattern)):
            digest.update(f"{path.name}\n".encode() + path.read_bytes())
    below = [platform.python_version(), unicodedata.unidata_version, *map(metadata.version, _LIBRARIES)]
    digest.update("\n".join(below).encode())
    return digest.hexdigest()


@lru_cache(maxsize=16)
def version(table: ToolTable) -> str:
    """Of all that decides what is found, but for the history and the call."""
    return hashlib.blake2b(f"{_code()} {table.digest}".encode(), digest_size=12).hexdigest()


def noted(background: Background, facts: Facts, table: ToolTable, first: int) -> dict[str, Any]:
    """What is put on record of ``facts``, as plain data; ``first``: the first message that the run had not shown
    before."""
    call = _Call.model_construct(
        provenance=facts.provenance, unplaced=facts.unplaced, named=facts.named, mismatch=facts.mismatch
    )
    new = background.passages_from(first)
    note = Note(
        version(table),
        call.model_dump(mode="json", exclude_defaults=True),
        sorted({order.message for order in background.orders if order.asked}),
        msgspec.json.encode(new).decode() if new else "",
        background.gone is not None,
        [order.model_dump(mode="json") for order in background.inherited],
    )
    plain: dict[str, Any] = msgspec.to_builtins(note)
    return plain


def read_note(plain: object, table: ToolTable) -> Note | None:
    """None if it is none, or if it might be found otherwise now."""
    try:
        note = msgspec.convert(plain, Note)
    except msgspec.ValidationError:
        return None
    return note if note.version == version(table) else None


def found_as_now(plain: object, table: ToolTable) -> bool:
    """Whether a note was made by the code and the settings of now, whatever of it is masked."""
    return isinstance(plain, dict) and plain.get("version") == version(table)


def was_replaced(plain: object) -> bool:
    """Whether a note says that something was gone, which cannot be looked at again."""
    return isinstance(plain, dict) and bool(plain.get("replaced"))


def facts_of(note: Note) -> Facts | None:
    """What was known of the call; None if it is not there as it was written."""
    try:
        call = _Call.model_validate(note.call)
    except ValidationError:
        return None
    return Facts(call.provenance, call.unplaced, call.named, call.mismatch)


_passages = msgspec.json.Decoder(dict[int, list[Passage]])


def tell(note: Note, messages: Sequence[SentMessage], texts: KnownTexts) -> None:
    """Let ``texts`` know the passages of the new messages."""
    try:
        found = _passages.decode(note.passages) if note.passages else {}
    except msgspec.DecodeError:
        return
    for at, passages in found.items():
        if 0 <= at < len(messages):
            texts.of(messages[at].text).tell(passages)


def orders_of(
    note: Note, messages: Sequence[SentMessage], table: ToolTable, texts: KnownTexts
) -> Sequence[OrderPassage] | None:
    """The passages of a history that give orders, as :class:`policies.facts.provenance.Background` has them; None if
    not all of them count."""
    found: list[OrderPassage] = []
    written: list[bytes] = []
    asked = frozenset(note.asked)
    try:
        for piece in pieces_of(messages, table):
            if piece.source == "tool" and (text := texts.of(piece.text)).told.passages:
                found += text.orders(piece, piece.message in asked)
                written.append(text.orders_written(piece, piece.message in asked))
        if len(found) > MOST_PASSAGES:
            return None
        inherited = [OrderPassage.model_validate(plain) for plain in note.inherited]
        written += [order.model_dump_json().encode() for order in inherited]
    except (ValidationError, PydanticSerializationError):
        return None
    return Orders([*found, *inherited], b",".join(written))
