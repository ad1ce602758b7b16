"""The request matrix: cases in JSON files, one file for each API, and what they ask for when a model is known.

A file is a *group*: an API with its path, fields that every body has (``defaults``), named parts of bodies
(``parts``), and cases. A case's body is the defaults, then the parts that it uses, then its own ``body``, less
``without``; or, where a body is no JSON object, its ``raw`` text. Each form (whole, stream) of a case is asked for.
``{model}`` stands for the model's name, the text ``{too long}`` for more words than the model takes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.resources import files
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from proxy.contract.client import Request

Form = Literal["whole", "stream"]

REQUEST_ID = "interlock-contract"
"""What our ``X-Request-Id`` begins with: vLLM makes the answer's id of it, so that both answers have the same."""

MODEL, TOO_LONG = "{model}", "{too long}"
MOST_WORDS = 1_000_000


class Case(BaseModel):
    """``error``: the server refuses it. ``needs``: what a server may not offer; then it is not compared."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    use: tuple[str, ...] = ()
    body: dict[str, JsonValue] = {}
    without: tuple[str, ...] = ()
    raw: str | None = None
    charset: Literal["utf-8", "latin-1"] = "utf-8"
    method: str | None = None
    path: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str | None = "application/json"
    chunked: bool = False
    request_id: bool = True
    forms: tuple[Form, ...] | None = None
    needs: tuple[str, ...] = ()
    error: bool = False


class Group(BaseModel):
    """One file. ``headers`` and ``needs`` hold for every case; ``method`` and ``path`` for those without their own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    api: str
    method: str = "POST"
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    forms: tuple[Form, ...] = ("whole",)
    needs: tuple[str, ...] = ()
    defaults: dict[str, JsonValue] = {}
    parts: dict[str, dict[str, JsonValue]] = {}
    cases: tuple[Case, ...]


@dataclass(frozen=True, slots=True)
class Ask:
    """One case in one form. ``name`` is unique: ``api/case`` or ``api/case, streamed``."""

    name: str
    number: int
    form: Form
    group: Group
    case: Case

    @property
    def api(self) -> str:
        return self.group.api

    @property
    def needs(self) -> tuple[str, ...]:
        return self.group.needs + self.case.needs

    def request(self, model: str, longest: int | None) -> Request | None:
        """The request for ``model``, which takes ``longest`` tokens; None where that must be known and is not."""
        case = self.case
        if longest is None and f'"{TOO_LONG}"' in case.model_dump_json():
            return None
        method, path = case.method or self.group.method, case.path or self.group.path
        headers = [*self.group.headers, *case.headers]
        if case.request_id:
            headers.append(("X-Request-Id", f"{REQUEST_ID}-{self.number:04d}"))
        body = self._body(model, longest)
        if body is not None and case.content_type is not None:
            headers.append(("Content-Type", case.content_type))
        return Request(method, path, tuple(headers), body, case.chunked)

    def _body(self, model: str, longest: int | None) -> bytes | None:
        case = self.case
        if case.raw is not None:
            return case.raw.replace(MODEL, json.dumps(model)[1:-1]).encode(case.charset)
        if (case.method or self.group.method) != "POST":
            return None
        fields = dict(self.group.defaults)
        for part in case.use:
            fields |= self.group.parts[part]
        fields |= case.body
        if self.form == "stream":
            fields["stream"] = True
        for name in case.without:
            del fields[name]
        filled = _filled(fields, {MODEL: model, TOO_LONG: "7 " * min(longest or 0, MOST_WORDS)})
        return json.dumps(filled, ensure_ascii=False, separators=(",", ":")).encode()


def _filled(value: Any, words: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(inner, words) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, words) for inner in value]
    return words.get(value, value) if isinstance(value, str) else value


def groups() -> list[Group]:
    """The groups that are shipped, in the order of their files' names."""
    found = sorted((file for file in files(__package__).joinpath("cases").iterdir()), key=lambda file: file.name)
    return [Group.model_validate_json(file.read_bytes()) for file in found if file.name.endswith(".json")]


def matrix(groups: Iterable[Group]) -> list[Ask]:
    """Every case of every group in each of its forms."""
    return list(_matrix(groups))


def _matrix(groups: Iterable[Group]) -> Iterator[Ask]:
    number = 0
    for group in groups:
        for case in group.cases:
            for form in case.forms or (("whole",) if case.raw is not None or case.path else group.forms):
                number += 1
                name = f"{group.api}/{case.name}{', streamed' if form == 'stream' else ''}"
                yield Ask(name, number, form, group, case)


def chosen(asks: Iterable[Ask], only: Iterable[str], skip: Iterable[str] = ()) -> list[Ask]:
    """Those whose name matches one of ``only`` (if there are any) and none of ``skip``. In a pattern ``*`` and ``?``
    stand for anything; one without them may stand anywhere in the name."""
    wanted, unwanted = ([_pattern(text) for text in texts] for texts in (only, skip))
    return [
        ask
        for ask in asks
        if (not wanted or any(fnmatchcase(ask.name, pattern) for pattern in wanted))
        and not any(fnmatchcase(ask.name, pattern) for pattern in unwanted)
    ]


def _pattern(text: str) -> str:
    return text if any(sign in text for sign in "*?[") else f"*{text}*"
