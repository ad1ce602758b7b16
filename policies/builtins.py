"""Builtins that a policy may not use: those that make a decision depend on more than its input and the bundle, those
that only an OPA server has, and those that answer otherwise on the other engine.

`interlock policy check` says so when a policy is written, from its syntax tree. When a bundle is loaded there is no
compiler, so the sources are read as text, without comments and strings.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from policies.bundle import Bundle, BundleError

REFUSED_PREFIXES = ("time.", "http.", "rand.", "uuid.", "opa.runtime", "net.lookup", "io.jwt", "crypto.", "yaml.")
_DECIDES_ALONE = "a decision depends on nothing but its input and the bundle"
_ONLY_A_SERVER = "only a server has it"

_LENIENT = "the embedded engine takes text that is no JSON; take data.interlock.lib.values.from_json"
DIFFERENT_BETWEEN_ENGINES: Mapping[str, str] = {
    "sprintf": "it prints numbers differently on the two engines; messages are constants, and `concat` joins strings",
    "json.unmarshal": _LENIENT,
    "json.is_valid": _LENIENT,
    "json.marshal": "the engines order keys and escape characters differently",
    "base64.decode": "the embedded engine takes text without its padding",
    "base64.is_valid": "the embedded engine takes text without its padding",
    "to_number": "the engines differ on text that is no plain number; take data.interlock.lib.values.number",
}
"""Builtins that the embedded engine has, and that give another answer there for some arguments, with what to do."""

_INSTEAD: Mapping[str, str] = {
    "regex.find_n": "take regex.find_all_string_submatch_n, whose matches are lists",
    "time.now_ns": "take input.time",
}
"""What does the same."""

SHARED = "lib/"
"""The helpers that policies use instead: they hand those builtins only what both engines take alike."""

_LITERALS = re.compile(r"\"(?:[^\"\\\n]|\\.)*\"|`[^`]*`|#[^\n]*")


@dataclass(frozen=True)
class Use:
    """Where a builtin is used: the path in the bundle, and its line."""

    file: str
    row: int
    builtin: str

    @property
    def policy(self) -> str:
        """``owner.name``; the file itself where it belongs to no policy."""
        steps = self.file.split("/")
        return f"policy {steps[0]}.{steps[1]}" if len(steps) == 3 else self.file

    def __str__(self) -> str:
        return f"{self.policy}, {self.file}:{self.row}: builtin {self.builtin} is refused: {why(self.builtin)}"


def why(builtin: str) -> str:
    """What is wrong with a builtin that is refused."""
    if builtin in DIFFERENT_BETWEEN_ENGINES:
        return DIFFERENT_BETWEEN_ENGINES[builtin]
    reason = _DECIDES_ALONE if builtin.startswith(REFUSED_PREFIXES) else _ONLY_A_SERVER
    return f"{reason}; {_INSTEAD[builtin]}" if builtin in _INSTEAD else reason


def refused(builtin: str, file: str) -> bool:
    """Whether a module in ``file`` may not use a builtin that the embedded engine has."""
    if builtin.startswith(REFUSED_PREFIXES):
        return True
    return builtin in DIFFERENT_BETWEEN_ENGINES and not file.startswith(SHARED)


def require_alike(bundle: Bundle, missing: Collection[str] = ()) -> None:
    """Raises :class:`BundleError` with policy, line and builtin if a source uses one that is refused, or one of
    ``missing``, which the engine does not have."""
    found = [use for use in uses(bundle.sources) if use.builtin in missing or refused(use.builtin, use.file)]
    if found:
        raise BundleError("; ".join(map(str, found)))
    if missing:
        raise BundleError(f"the bundle needs {', '.join(sorted(missing))}: {_ONLY_A_SERVER}")


def uses(sources: Mapping[str, str]) -> Iterator[Use]:
    """Every call of something with a dotted name, or of a builtin of :data:`DIFFERENT_BETWEEN_ENGINES`."""
    for file, text in sorted(sources.items()):
        plain = _LITERALS.sub(lambda found: " " + "\n" * found[0].count("\n"), text)
        for row, line in enumerate(plain.split("\n"), 1):
            for call in re.finditer(r"(?<![\w.])([a-z_][\w.]*)\s*\(", line):
                if "." in call[1] or call[1] in DIFFERENT_BETWEEN_ENGINES:
                    yield Use(file, row, call[1])
