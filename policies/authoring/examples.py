"""Example exchanges beside a policy: one file each, of an exchange that it stops or lets by.

    policies/library/interlock/egress/examples/stops_metadata.json

    {"title": "A page asks for the machine's credentials",
     "settings": {"policies": {"data": {"interlock.egress": {"hosts": ["example.com"]}}}},
     "agent": "coder",
     "request": {"model": "m", "messages": […], "tools": […]},
     "answer": {"choices": [{"index": 0, "message": {…}, "finish_reason": "stop"}]},
     "findings": ["metadata_address"]}

``request`` and ``answer`` are as on the wire (``path`` says of which API; chat completions by default), so that
`interlock policy eval` shows the same file. ``settings`` are laid over the defaults, with the policy enforced.
``earlier`` are exchanges of the same run before this one, from which follows what is known of it; ``run`` says what
does not. ``findings`` are the ids that the policy finds, in any order: none, if it lets the exchange by.
`interlock policy test` tries them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from policies.authoring.sources import PolicySources, SourceError

CHAT = "/v1/chat/completions"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Earlier(_Part):
    """An exchange before the one at hand."""

    request: dict[str, Any]
    answer: dict[str, Any]


class Example(_Part):
    """One exchange and what the policy beside it finds in it. ``stops`` if it finds anything."""

    title: str
    description: str = ""
    settings: dict[str, Any] = {}
    agent: str = "anonymous"
    owner: str | None = None
    team: str | None = None
    path: str = CHAT
    earlier: list[Earlier] = []
    request: dict[str, Any]
    answer: dict[str, Any] | None = None
    run: dict[str, Any] = {}
    checks: list[dict[str, Any]] = []
    budgets: list[dict[str, Any]] = []
    findings: list[str]

    @property
    def stops(self) -> bool:
        return bool(self.findings)


@dataclass(frozen=True)
class Tried:
    """What became of an example. ``problem``: what is not as it says; ``unknown``: why it cannot be judged from a file.
    Neither: it is as it says."""

    policy: str
    path: Path
    problem: str | None = None
    unknown: str | None = None


def examples_of(policy: PolicySources) -> Iterator[tuple[Path, Example]]:
    """The examples of a policy with their files. Raises :class:`SourceError` for a file that is none."""
    for path in policy.examples:
        try:
            yield path, Example.model_validate_json(path.read_text("utf-8"))
        except (ValidationError, UnicodeDecodeError) as error:
            raise SourceError(f"{path}: {error}") from error
