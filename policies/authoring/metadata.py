"""What a policy says of itself in the METADATA block above its package, and on which line it says so."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from policies.authoring.opa_tool import OpaTool
from policies.authoring.sources import PolicySources, SourceError
from policies.bundle import PolicyEntry
from policies.model import TEXT_STAGES, Severity, Stage

KEYS = ("severity", "tags", "hold", "patterns", "needs")
"""What Interlock reads below ``custom:``; other keys are whoever's they are."""

_NEAR = 0.75
_PARTS = {"holds": "hold"}
_HOLD = "expected none, all or tail(N) with N in bytes, or {output: …, reasoning: …}"


class MetadataError(SourceError):
    """Metadata that say what cannot be: ``file`` is the path in the tree, ``row`` the line, ``text`` what is wrong."""

    def __init__(self, policy: PolicySources, key: str, text: str) -> None:
        self.file, self.row, self.text = main_file(policy), row_of(policy, key), text
        super().__init__(f"{policy.modules[self.file]}:{self.row}: {text}")


def main_file(policy: PolicySources) -> str:
    """The file whose metadata count, as a path in the tree: ``policy.rego`` before others."""
    return min(policy.modules, key=lambda file: (not file.endswith("/policy.rego"), file))


def row_of(policy: PolicySources, key: str) -> int:
    """The line on which the metadata say ``key``; 1 where they do not."""
    said = re.compile(rf"#\s*{re.escape(key)}\s*:")
    for row, line in enumerate(_lines(policy), 1):
        if said.match(line):
            return row
        if line.startswith("package "):
            break
    return 1


def entry_from(policy: PolicySources, stages: Mapping[Stage, list[str]], opa: OpaTool) -> PolicyEntry:
    """The policy's entry in the manifest. Raises :class:`MetadataError`."""
    about = _annotation(policy, opa)
    custom = about.get("custom") or {}
    try:
        severity = Severity(custom["severity"]) if "severity" in custom else None
    except ValueError:
        words = ", ".join(Severity)
        text = f"metadata: there is no severity {custom['severity']}; there are: {words}"
        raise MetadataError(policy, "severity", text) from None
    try:
        return PolicyEntry(
            name=policy.name,
            title=str(about.get("title", "")),
            description=str(about.get("description", "")),
            severity=severity,
            tags=[str(tag) for tag in custom.get("tags") or []],
            stages=dict(stages),
            holds=_holds(custom.get("hold"), stages),
            patterns=[str(name) for name in custom.get("patterns") or []],
            needs=[str(name) for name in custom.get("needs") or []],
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        part = str(first["loc"][0]) if first["loc"] else ""
        key = _PARTS.get(part, part)
        rest = ".".join((key, *map(str, first["loc"][1:])))
        said = f"{_HOLD}; not {custom.get('hold')!r}" if first["type"] == "string_pattern_mismatch" else first["msg"]
        raise MetadataError(policy, key, f"metadata: {rest}: {said}") from error


def remarks(policy: PolicySources, opa: OpaTool) -> Iterator[tuple[int, str]]:
    """What is probably not meant, with its line."""
    custom = _annotation(policy, opa).get("custom") or {}
    for key in custom:
        near = difflib.get_close_matches(str(key), KEYS, n=1, cutoff=_NEAR)
        if key not in KEYS and near:
            yield row_of(policy, str(key)), f"metadata: {key} means nothing; did you mean {near[0]}"
    for key in KEYS:
        if key not in custom and (row := row_of(policy, key)) > 1:
            yield row, f"metadata: {key} is read below `custom:` only"


def _holds(said: Any, stages: Iterable[Stage]) -> dict[Any, Any]:
    """``custom.hold``: one for every text stage of the policy, or one for each by its name."""
    if said is None or isinstance(said, Mapping):
        return dict(said or {})
    return {stage: said for stage in stages if stage in TEXT_STAGES}


def _annotation(policy: PolicySources, opa: OpaTool) -> dict[str, Any]:
    """The package's metadata."""
    for entry in opa.annotations([policy.modules[main_file(policy)]]):
        found: dict[str, Any] = entry.get("annotations") or {}
        if found.get("scope") == "package":
            return found
    return {}


def _lines(policy: PolicySources) -> list[str]:
    return policy.modules[main_file(policy)].read_text("utf-8").splitlines()
