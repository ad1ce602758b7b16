"""Arguments that are not written as JSON, said in JSON: Python's keyword arguments, XML parameters, Gemma's maps.

What cannot be said in JSON without guessing stays as it was written. The strict reading denies that.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Iterable, Set
from itertools import islice
from typing import Any

from serving.wire.shadow_calls.markers import KEYED, PARAMETER

LONGEST_PROGRAM = 16 * 1024
"""Bytes of Python that are parsed; longer text is taken as written."""

MOST_CALLS = 64
"""Calls that are looked for inside a longer program, whose text is judged as a whole besides."""

_QUALIFIERS = ("functions.", "default_api.", "tools.", "tool.")


def plain_name(name: str) -> str:
    """A tool's name without white space around it and without the name space some families write before it."""
    name = name.strip()
    for qualifier in _QUALIFIERS:
        name = name.removeprefix(qualifier)
    return name


def of_function_tag(body: bytes) -> str:
    """What stands between ``<function=…>`` and its end: JSON, or parameters in tags of their own."""
    text = body.strip()
    if text.startswith(b"{"):
        return text.decode("utf-8", "surrogatepass")
    found = [(_text(m[1]).strip(), _unwrapped(_text(m[2]))) for m in PARAMETER.finditer(text)]
    if not found and text:
        return text.decode("utf-8", "surrogatepass")
    return of_values(found)


def of_keyed(body: bytes) -> str:
    """``<arg_key>k</arg_key><arg_value>v</arg_value>`` pairs."""
    found: list[tuple[str, str]] = []
    key, opened, at = "", b"", 0
    for tag in (*KEYED.finditer(body), None):
        value = _text(body[at : tag.start() if tag else len(body)])
        if opened == b"arg_key":
            key = value.strip()
        elif opened == b"arg_value":
            found.append((key, value))
        if tag is None:
            break
        opened, at = b"" if tag[1] else tag[2].lower(), tag.end()
    return of_values(found) if found or not body.strip() else _text(body.strip())


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")


def _unwrapped(value: str) -> str:
    return value.removeprefix("\n").removesuffix("\n")


_PIECE = re.compile(
    r"(?P<text><\|\"\|>(?P<a>.*?)<\|\"\|>|<escape>(?P<b>.*?)<escape>|\"(?:[^\"\\]|\\.)*\")"
    r"|(?P<key>[A-Za-z_][\w\-]*)(?=\s*:)"
    r"|(?P<literal>true|false|null|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)(?=\s*[,\]}])"
    r"|(?P<sign>[{}\[\],:]|\s+)"
    r"|(?P<bare>[^,\]}{\[<]+)",
    re.DOTALL,
)


def of_gemma(body: str) -> str:
    """``{key:<escape>text<escape>,number:42}`` (function Gemma, Gemma 4)."""
    pieces: list[str] = []
    at = 0
    while at < len(body):
        match = _PIECE.match(body, at)
        if match is None:
            return body
        if (text := match["a"] if match["a"] is not None else match["b"]) is not None:
            pieces.append(json.dumps(text, ensure_ascii=False))
        elif match["key"] is not None or match["bare"] is not None:
            pieces.append(json.dumps((match["key"] or match["bare"]).strip(), ensure_ascii=False))
        else:
            pieces.append(match[0])
        at = match.end()
    return "".join(pieces)


def calls_in_python(text: str) -> list[tuple[str, str]] | None:
    """Each statement's call, as name and arguments, if the program is nothing but calls; None if it is more.

    ``print(f(x=1))`` and ``y = f(x=1)`` are the call of ``f``; so is each element of a list of calls.
    """
    program = _Program.parsed(text)
    if program is None:
        return None
    found: list[tuple[str, str]] = []
    for statement in program.tree.body:
        if not isinstance(statement, ast.Expr | ast.Assign):
            return None
        value = statement.value
        for one in value.elts if isinstance(value, ast.List | ast.Tuple) else [value]:
            if isinstance(one, ast.Name):  # a notebook's last line shows a value
                continue
            call = one.value if isinstance(one, ast.Await) else one
            if isinstance(call, ast.Call) and _dotted(call.func) == "print":
                if not call.args or not isinstance(call.args[0], ast.Call):
                    if all(isinstance(argument, ast.Name | ast.Constant) for argument in call.args):
                        continue
                    return None
                call = call.args[0]
            if not isinstance(call, ast.Call) or not (name := _dotted(call.func)):
                return None
            found.append((plain_name(name), program.arguments(call)))
    return found


def calls_within_python(text: str, names: Set[str]) -> list[tuple[str, str]]:
    """Calls of ``names`` in a program, wherever they stand."""
    program = _Program.parsed(text)
    if program is None:
        return []
    calls = (node for node in ast.walk(program.tree) if isinstance(node, ast.Call))
    named = ((plain_name(_dotted(call.func)), call) for call in calls)
    return [(name, program.arguments(call)) for name, call in islice((n for n in named if n[0] in names), MOST_CALLS)]


def literal_call(text: str) -> tuple[str, str] | None:
    """One call whose arguments are all literals, as name and arguments; None for any other text."""
    program = _Program.parsed(text)
    if program is None or len(program.tree.body) != 1:
        return None
    statement = program.tree.body[0]
    if not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Call):
        return None
    call = statement.value
    try:
        for argument in (*call.args, *(keyword.value for keyword in call.keywords)):
            ast.literal_eval(argument)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None
    return plain_name(_dotted(call.func)), program.arguments(call)


class _Program:
    """A parsed program, and its lines, to show what was written."""

    def __init__(self, tree: ast.Module, text: str) -> None:
        self.tree = tree
        self._lines = text.encode("utf-8", "surrogatepass").split(b"\n")

    @classmethod
    def parsed(cls, text: str) -> _Program | None:
        text = text.strip().removesuffix(";").replace("\r\n", "\n").replace("\r", "\n")
        if len(text) > LONGEST_PROGRAM:
            return None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return cls(ast.parse(text), text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None

    def arguments(self, call: ast.Call) -> str:
        """A call's arguments as a JSON object; the call as it was written where that needs guessing."""
        try:
            if call.args or any(keyword.arg is None for keyword in call.keywords):
                raise ValueError("positional arguments have no names")
            return of_values([(keyword.arg or "", ast.literal_eval(keyword.value)) for keyword in call.keywords])
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            return self._written(call)

    def _written(self, call: ast.Call) -> str:
        first, last = call.lineno - 1, (call.end_lineno or call.lineno) - 1
        lines = self._lines[first : last + 1]
        lines[-1] = lines[-1][: call.end_col_offset]
        lines[0] = lines[0][call.col_offset :]
        return b"\n".join(lines).decode("utf-8", "replace")


def of_values(members: Iterable[tuple[str, Any]]) -> str:
    """A JSON object. A key that stands twice stays so, because the harness's choice is not known.

    Raises ValueError for a value that JSON does not have."""
    said = []
    for key, value in members:
        if not _sayable(value):
            raise ValueError("not a JSON value")
        said.append(f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False, allow_nan=False)}")
    return "{" + ", ".join(said) + "}"


def _sayable(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _sayable(part) for key, part in value.items())
    if isinstance(value, list):
        return all(map(_sayable, value))
    return value is None or isinstance(value, bool | int | float | str)


def _dotted(node: ast.expr) -> str:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""
