"""How far each policy counts: its mode, and the digest of the document that says so.

Modes are no part of a bundle: the same policies run in shadow on Monday and are enforced on Friday without
being built again. A policy that nobody has given a mode is in shadow, so that a new rule changes nothing until
somebody decides that it should. The exceptions are the two starter policies below, which are useful to
everybody from the first minute.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Literal

from policies.model import Mode

ENFORCED_BY_DEFAULT = frozenset({"interlock.shell", "interlock.secrets"})


class UnknownPolicyError(ValueError):
    """The settings name a policy that the bundle does not have."""


def default_mode(policy: str) -> Literal["enforce", "shadow"]:
    """The mode of a policy that nobody has given one."""
    return "enforce" if policy in ENFORCED_BY_DEFAULT else "shadow"


def unknown_policies(policies: Iterable[str], named: Iterable[str], where: str) -> None:
    """Raises :class:`UnknownPolicyError` if ``where`` speaks of a policy that is not there."""
    names = sorted(policies)
    unknown = sorted(set(named) - set(names))
    if unknown:
        near = [found[0] for name in unknown if (found := difflib.get_close_matches(name, names, n=1, cutoff=0.75))]
        hint = f"did you mean {', '.join(near)}" if near else f"it has: {', '.join(names)}"
        raise UnknownPolicyError(f"{where} names {', '.join(unknown)}, which the bundle does not have; {hint}")


def rollout_digest(modes: Mapping[str, Mode]) -> str:
    """``sha256:…`` over the modes in force."""
    text = json.dumps({name: modes[name].value for name in sorted(modes)}, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
