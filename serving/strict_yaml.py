"""YAML read strictly, with the line of every value.

How to think about it. A settings file says who may do what, so it must have one reading. PyYAML's nodes are
turned into plain data here, with four differences to ``yaml.safe_load``: a key that stands twice is an error
(PyYAML keeps the last), ``on``/``off``/``yes``/``no`` are words (YAML 1.2; a policy's mode may be ``off``),
there are no dates, octal or base-60 numbers, and merge keys and tags are refused. The line of each value is
kept by its path, so that a later error can say where it is.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

Path = tuple[str | int, ...]

MAX_VALUES = 100_000
"""Aliases can make a small file name a huge value; beyond this many values it is refused."""


class YamlProblem(Exception):
    """The text is not the YAML that we take: ``line`` (from 1), what is wrong, and what to do."""

    def __init__(self, line: int, message: str, remedy: str) -> None:
        super().__init__(f"line {line}: {message}; {remedy}")
        self.line = line
        self.message = message
        self.remedy = remedy


class _Loader(yaml.SafeLoader):
    """Core schema of YAML 1.2."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+0123456789.")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def read(text: str) -> tuple[Any, dict[Path, int]]:
    """The data, and path → line (from 1). Raises ``YamlProblem``."""
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise YamlProblem(line, str(error.problem or error.context), "correct the YAML") from error
    except yaml.YAMLError as error:
        raise YamlProblem(1, str(error).split("\n")[0], "correct the YAML") from error
    if node is None:
        return None, {}
    reader = _Reader()
    return reader.value(node, ()), reader.lines


class _Reader:
    def __init__(self) -> None:
        self.lines: dict[Path, int] = {}
        self._open: set[int] = set()

    def value(self, node: yaml.Node, path: Path) -> Any:
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        if len(self.lines) > MAX_VALUES or id(node) in self._open:
            raise YamlProblem(line, "the file's aliases make it endless", "write the value out")
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                self._plain(node, "seq")
                return [self.value(child, (*path, index)) for index, child in enumerate(node.value)]
            return self._scalar(node)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        self._plain(node, "map")
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise YamlProblem(line, "a key must be a word", "write `name: value`")
            key = str(key_node.value)
            if key == "<<":
                raise YamlProblem(line, "merge keys (`<<`) are not supported", "write the keys out")
            if key in data:
                first = self.lines[(*path, key)]
                remedy = f"keep one of them (the first is on line {first})"
                raise YamlProblem(line, f"`{key}` stands twice in the same section", remedy)
            self.lines[(*path, key)] = line
            data[key] = self.value(value_node, (*path, key))
        return data

    def _scalar(self, node: yaml.Node) -> Hashable:
        text, tag = str(node.value), node.tag.removeprefix("tag:yaml.org,2002:")
        match tag:
            case "str":
                return text
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int":
                return int(text)
            case "float":
                return float(text)
        raise YamlProblem(node.start_mark.line + 1, f"the tag `{node.tag}` is not supported", "leave it out")

    def _plain(self, node: yaml.Node, kind: str) -> None:
        if node.tag != f"tag:yaml.org,2002:{kind}":
            raise YamlProblem(node.start_mark.line + 1, f"the tag `{node.tag}` is not supported", "leave it out")
