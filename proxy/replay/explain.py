"""Which rules fired, with file and line, and where the others stopped: what OPA's own coverage says of one input.

The policies of a bundle are evaluated once more, by the ``opa`` command, with the same input. A rule fired if OPA
reached its head; one that did not stopped at the last line of its body that was reached.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from policies.authoring.opa_tool import OpaFailedError, OpaTool
from policies.authoring.references import Tree, rule_name
from policies.bundle import POLICY_PACKAGE, Bundle
from policies.model import DecisionInput


class RuleSeen(msgspec.Struct, frozen=True):
    """A rule of a stage. ``file`` is the path in the bundle, ``row`` the rule's line; ``ids``: the findings that it
    may give, as far as they are written out. ``stopped_at``: the line that was not true (None: it fired), with its
    ``text``."""

    policy: str
    file: str
    row: int
    fired: bool
    ids: tuple[str, ...] = ()
    stopped_at: int | None = None
    text: str = ""


class Explainer:
    """A bundle laid out for the ``opa`` command. To be used as a context manager."""

    def __init__(self, bundle: Bundle, opa: OpaTool) -> None:
        self._bundle = bundle
        self._opa = opa
        self._folder = tempfile.TemporaryDirectory(prefix="interlock-eval-")
        self._trees: dict[str, Tree] = {}

    def __enter__(self) -> Self:
        self._bundle.write(Path(self._folder.name) / "bundle")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._folder.cleanup()

    def rules(self, question: DecisionInput, policies: Sequence[str], found: Mapping[str, Set[str]]) -> list[RuleSeen]:
        """The rules of these policies at the question's stage, in the order of their lines. ``found``: the ids that
        each policy found. Raises :class:`OpaFailedError`."""
        if not policies:
            return []
        root = Path(self._folder.name)
        (root / "input.json").write_text(question.model_dump_json(), "utf-8")
        stage = question.stage.value
        query = "; ".join(f"x{at} = data.{POLICY_PACKAGE}.{name}.{stage}" for at, name in enumerate(policies))
        whole = ("--disable-indexing", "--disable-early-exit")  # else a rule can be ruled out before its first line
        files = ("--bundle", "bundle", "--input", "input.json")
        text = self._opa.run("eval", *files, "--coverage", *whole, "--format", "json", query, cwd=root)
        try:
            seen_files = json.loads(text)["coverage"]["files"]
        except (ValueError, KeyError, TypeError) as error:
            raise OpaFailedError(f"opa eval gave no coverage: {text[:300]}") from error
        covered = {
            name.removeprefix("bundle/"): {
                row
                for part in seen.get("covered") or ()
                for row in range(part["start"]["row"], part["end"]["row"] + 1)
                if part["start"]["row"] == row or _one_line(part)
            }
            for name, seen in seen_files.items()
        }
        return [rule for name in policies for rule in self._rules(name, stage, covered, found.get(name, frozenset()))]

    def _rules(self, policy: str, stage: str, covered: dict[str, set[int]], found: Set[str]) -> Iterator[RuleSeen]:
        prefix = f"{policy.replace('.', '/')}/"
        for file in sorted(self._bundle.sources):
            if not file.startswith(prefix):
                continue
            rows, lines = covered.get(file, set()), self._bundle.sources[file].splitlines()
            for rule in self._tree(file).get("rules") or ():
                if rule_name(rule) == stage:
                    yield _seen(policy, file, rule, rows, lines, found)

    def _tree(self, file: str) -> Tree:
        if file not in self._trees:
            self._trees[file] = self._opa.parse(Path(self._folder.name) / "bundle" / file)
        return self._trees[file]


def _one_line(part: Any) -> bool:
    return bool(part["start"]["row"] == part["end"]["row"])


def _seen(policy: str, file: str, rule: Tree, rows: set[int], lines: list[str], found: Set[str]) -> RuleSeen:
    row = int((rule["head"].get("location") or rule.get("location") or {}).get("row", 0))
    body = sorted({int((one.get("location") or {}).get("row", 0)) for one in rule.get("body") or ()})
    said = set(_texts(rule))
    ids = tuple(sorted({*_ids(rule)} or said & found))
    fired = row in rows and (not body or body[-1] in rows)
    if fired and row in body:  # coverage has no columns: a head and a body on one line look alike
        fired = bool(said & found)
    if fired:
        return RuleSeen(policy, file, row, True, ids)
    reached = [at for at in body if at in rows]
    at = reached[-1] if reached else (body[0] if body else row)
    text = lines[at - 1].strip() if 0 < at <= len(lines) else ""
    return RuleSeen(policy, file, row, False, ids, at, text)


def _ids(tree: Tree) -> Iterator[str]:
    """The texts that stand under the key ``id`` of an object."""
    if isinstance(tree, list):
        for item in tree:
            yield from _ids(item)
    elif isinstance(tree, dict):
        if tree.get("type") == "object":
            for key, value in tree.get("value") or ():
                if key.get("value") == "id" and value.get("type") == "string":
                    yield str(value["value"])
        for name, part in tree.items():
            if name not in ("location", "annotations"):
                yield from _ids(part)


def _texts(tree: Tree) -> Iterator[str]:
    if isinstance(tree, list):
        for item in tree:
            yield from _texts(item)
    elif isinstance(tree, dict):
        if tree.get("type") == "string":
            yield str(tree["value"])
        for name, part in tree.items():
            if name not in ("location", "annotations"):
                yield from _texts(part)
