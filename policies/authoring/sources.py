"""The source tree of policies: ``<owner>/<name>/*.rego`` with an optional ``data.json``, and a shared ``lib/``.

    mine/
      acme/deploys/policy.rego          package interlock.policies.acme.deploys
      acme/deploys/policy_test.rego     package interlock.policies.acme.deploys_test
      acme/deploys/data.json            data.acme.deploys
    acme/deploys/cases.json           beside the data for its tests; in no bundle
    acme/deploys/examples/….json      exchanges that it stops and lets by (``policies.authoring.examples``)

The shipped library is such a tree. Another one is laid over it, so that its policies can use the shared helpers;
a policy of the same name replaces the shipped one.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LIBRARY = Path(__file__).parent.parent / "library"

EXAMPLES = "examples"

_NAME = re.compile(r"^[a-z][a-z0-9]*(_[a-z0-9]+)*$")
_KEYWORDS = frozenset(
    {"as", "contains", "data", "default", "else", "every", "false", "if", "import", "in", "input", "not", "null"}
    | {"package", "some", "true", "with"}
)
_RESERVED = frozenset({"lib", "entry", "policies"})


class SourceError(ValueError):
    """A source tree that is not laid out as it should be: which file, and what is expected."""


@dataclass
class PolicySources:
    """One policy's files. ``modules`` and ``tests`` map the path in the tree to the file."""

    name: str
    folder: Path
    modules: dict[str, Path] = field(default_factory=dict)
    tests: dict[str, Path] = field(default_factory=dict)
    cases: list[Path] = field(default_factory=list)
    examples: list[Path] = field(default_factory=list)
    data: dict[str, Any] | None = None

    @property
    def package(self) -> str:
        return f"interlock.policies.{self.name}"


@dataclass
class SourceTree:
    """Policies by name, and the shared modules by their path in the tree."""

    policies: dict[str, PolicySources]
    library: dict[str, Path]

    def modules(self) -> dict[str, Path]:
        """Every module that goes into a bundle: path in the bundle → file."""
        files = dict(self.library)
        for policy in self.policies.values():
            files |= policy.modules
        return files

    def tests(self) -> dict[str, Path]:
        """Every test file, in the same way."""
        return {name: path for policy in self.policies.values() for name, path in policy.tests.items()}

    def data(self) -> dict[str, Any]:
        """The data document: ``owner`` → ``name`` → the policy's ``data.json``."""
        document: dict[str, Any] = {}
        for policy in self.policies.values():
            if policy.data is not None:
                owner, _, short = policy.name.partition(".")
                document.setdefault(owner, {})[short] = policy.data
        return document

    def laid_over(self, below: SourceTree) -> SourceTree:
        return SourceTree({**below.policies, **self.policies}, {**below.library, **self.library})


def read_tree(root: Path) -> SourceTree:
    """Read one source tree. Raises :class:`SourceError`."""
    if not root.is_dir():
        if root.is_file():
            raise SourceError(f"{root}: is a file{_trunk(root.parent) or '; name the folder above <owner>/<name>'}")
        raise SourceError(f"{root}: no such folder")
    if above := _trunk(root):
        raise SourceError(f"{root}: is not the folder above <owner>/<name>{above}")
    policies: dict[str, PolicySources] = {}
    library: dict[str, Path] = {}
    folders: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*")):
        steps = path.relative_to(root).parts
        if not path.is_file() or any(step.startswith(".") for step in steps):
            continue
        if steps[0] == "lib":
            if path.suffix == ".rego" and not path.name.endswith("_test.rego"):
                library["/".join(steps)] = path
            continue
        if path.suffix not in (".rego", ".json"):
            continue
        if len(steps) == 4 and steps[2] == EXAMPLES and path.suffix == ".json":
            folders.setdefault(f"{steps[0]}.{steps[1]}", []).append(path)
            continue
        if len(steps) != 3:
            raise SourceError(f"{path}: expected {root}/<owner>/<name>/{path.name}")
        owner, short, file = steps
        name = policy_name(owner, short, str(path))
        policy = policies.setdefault(name, PolicySources(name, path.parent))
        _place(policy, "/".join(steps), file, path)
    for name, examples in folders.items():
        policies.setdefault(name, PolicySources(name, examples[0].parents[1])).examples = examples
    for policy in policies.values():
        if not policy.modules:
            raise SourceError(f"{policy.folder}: no policy.rego")
    return SourceTree(policies, library)


def _trunk(folder: Path) -> str:
    """What to name instead of a folder that is a policy, or an owner with policies; empty if it is neither."""
    if (folder / "policy.rego").is_file():
        above = folder.resolve().parent.parent
    elif any(folder.glob("*/policy.rego")):
        above = folder.resolve().parent
    else:
        return ""
    return f"; name {os.path.relpath(above)}"


def policy_name(owner: str, short: str, where: str) -> str:
    """``owner.short``. Raises :class:`SourceError`, which begins with ``where``, if that cannot be a policy's name."""
    for step in (owner, short):
        if not _NAME.match(step):
            raise SourceError(f"{where}: {step!r} is no name: a-z first, then a-z, 0-9 and single _")
        if step in _KEYWORDS:
            raise SourceError(f"{where}: {step!r} is a word of Rego; take another name")
    if owner == "interlock" and short in _RESERVED:
        raise SourceError(f"{where}: interlock.{short} is reserved")
    return f"{owner}.{short}"


def _place(policy: PolicySources, relative: str, file: str, path: Path) -> None:
    if file.endswith("_test.rego"):
        policy.tests[relative] = path
    elif file.endswith(".rego"):
        policy.modules[relative] = path
    elif file == "data.json":
        policy.data = read_object(path)
    else:
        policy.cases.append(path)


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file whose top is an object; anything else is a :class:`SourceError`."""
    try:
        document = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise SourceError(f"{path}: {error}") from error
    if not isinstance(document, Mapping):
        raise SourceError(f"{path}: the top must be an object")
    return dict(document)


def tree_to_build(root: Path | None, with_library: bool = True) -> SourceTree:
    """The tree at ``root`` over the shipped library; the library alone without one."""
    library = read_tree(LIBRARY)
    if root is None or root.resolve() == LIBRARY.resolve():
        return library
    own = read_tree(root)
    if not own.policies:
        raise SourceError(f"{root}: no policies; expected {root}/<owner>/<name>/policy.rego (`interlock policy new`)")
    if not with_library:
        library = SourceTree({}, library.library)
    return own.laid_over(library)
