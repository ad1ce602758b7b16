"""The roll-out: which policy counts how much for whom, and what is excepted from it.

A folder with one document per layer, each signed by whoever owns the layer:

    platform.yaml            for every agent; nobody below can relax it
    teams/<team>.yaml        for the agents of one team: its own policies, and stricter modes of others
    *.yaml.sig               the signatures, needed where the settings name a key for the layer

    modes:
      interlock.shell: enforce
      interlock.paths:
        default: shadow
        teams: {payments: warn}
        agents: {coder: enforce}
    exceptions:
      - id: build-cleaning
        policy: interlock.shell
        findings: [destructive_command]          # without it: all of that policy
        agents: [release-bot]                    # without it: every agent of the layer
        when: {tools: [run_shell], arguments: {/command: [rm -rf ./build]}}
        reason: The release job empties its own build folder.
        owner: lena@example.com
        approver: omar@example.com
        expires: 2027-01-31

Modes: the most special entry counts (agent, then team, then default). A team's document may make a policy of the
platform stricter, never milder; a policy that carries the team's name is in force for that team only, in the mode that
the team chose, but never milder than what the platform says of it.

An exception is applied after the policies were asked: what it covers is recorded with the exception's id and changes
nothing. It has a reason, an owner, an approver who is somebody else, and an end. It compares whole values, no patterns:
a pattern that lets one command by lets another one by as well. A team's exception covers policies of that team only.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError, field_validator, model_validator

from policies.model import DecisionInput, Mode
from policies.modes import default_mode, unknown_policies
from policies.serials import Intake, NotYet
from policies.signing import SignatureError, signature_path, verify
from serving.strict_yaml import YamlProblem, read

PLATFORM = "platform"
LABEL = "rollout"
_NO_TEAMS = frozenset({PLATFORM, "interlock"})  # the library is nobody's own: a team of its name would switch it off
SOON = timedelta(days=7)

Wanted = Literal["enforce", "warn", "shadow", "off"]
PolicyName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+\.[a-z0-9_]+$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=500, strip_whitespace=True)]
_STRICTNESS: Mapping[Wanted, int] = {"off": 0, "shadow": 1, "warn": 2, "enforce": 3}
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,31}")
_TEAM = re.compile(r"^[A-Za-z0-9._-]{1,64}$")


class RolloutError(ValueError):
    """A roll-out that cannot be used: which file, which line, what is wrong, what to do."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Modes(_Part):
    """How much one policy counts."""

    default: Wanted | None = None
    teams: dict[str, Wanted] = {}
    agents: dict[str, Wanted] = {}


class When(_Part):
    """What an exception is limited to. All that is given must hold; a tool call's values are compared whole. With
    ``arguments``, a call that says anything else in text is not covered (``others: any``: it is)."""

    tools: list[str] | None = None
    models: list[str] | None = None
    arguments: dict[Annotated[str, StringConstraints(pattern=r"^/")], list[Any]] = {}
    others: Literal["none", "any"] = "none"

    def holds(self, question: DecisionInput) -> bool:
        call = question.call
        if self.tools is not None and (call is None or call.name not in self.tools):
            return False
        if self.models is not None and question.request.model not in self.models:
            return False
        if not self.arguments:
            return True
        if call is None or call.arguments is None:
            return False
        if not all(_at(call.arguments, path) in map(_exact, values) for path, values in self.arguments.items()):
            return False
        return self.others == "any" or not _says_more(call.arguments, self.arguments.keys())


class Exempt(_Part):
    """One exception. ``expires``: a day (its end, UTC) or a moment with its zone."""

    id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_.-]{1,64}$")]
    policy: PolicyName
    findings: list[str] | None = None
    agents: list[str] | None = None
    when: When = When()
    reason: Text
    owner: Text
    approver: Text
    expires: datetime

    @field_validator("expires", mode="before")
    @classmethod
    def _a_day_counts_to_its_end(cls, value: object) -> object:
        if isinstance(value, str) and re.fullmatch(r"\d{4}-\d{2}-\d{2}", value):
            return datetime.combine(date.fromisoformat(value) + timedelta(days=1), time(), UTC)
        return value

    @model_validator(mode="after")
    def _somebody_else_approved(self) -> Self:
        if self.expires.tzinfo is None:
            raise ValueError("expires needs a time zone, or is a day alone")
        if self.owner.casefold() == self.approver.casefold():
            raise ValueError("the approver must be somebody else than the owner")
        return self


class Document(_Part):
    """One layer, as it is written."""

    modes: dict[PolicyName, Modes] = {}
    exceptions: list[Exempt] = []

    @field_validator("modes", mode="before")
    @classmethod
    def _a_word_is_the_default(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        return {name: {"default": mode} if isinstance(mode, str) else mode for name, mode in value.items()}

    @model_validator(mode="after")
    def _ids_are_told_apart(self) -> Self:
        ids = [one.id for one in self.exceptions]
        if len(set(ids)) != len(ids):
            raise ValueError("two exceptions have one id")
        return self


@dataclass(frozen=True, eq=False)
class Exempted:
    """An exception with its layer; ``name`` is unique in the roll-out (``platform/build-cleaning``)."""

    layer: str
    written: Exempt

    @property
    def name(self) -> str:
        return f"{self.layer}/{self.written.id}"

    def covers_agent(self, agent: str, team: str | None) -> bool:
        return (self.layer == PLATFORM or self.layer == team) and (
            self.written.agents is None or agent in self.written.agents
        )

    def covers(self, policy: str, finding: str) -> bool:
        return self.written.policy == policy and (self.written.findings is None or finding in self.written.findings)

    def holds(self, question: DecisionInput, now: datetime) -> bool:
        return now < self.written.expires and self.written.when.holds(question)


@dataclass(frozen=True)
class Rollout:
    """All layers. ``digest`` is over what they say, and is in every decision."""

    platform: Document
    teams: Mapping[str, Document]
    digest: str

    @classmethod
    def of_modes(cls, modes: Mapping[str, Wanted]) -> Rollout:
        """The roll-out of an installation that has no documents: the settings' modes are the platform."""
        return cls._made(Document(modes={name: Modes(default=mode) for name, mode in modes.items()}), {})

    @classmethod
    def load(
        cls, folder: Path, keys: Mapping[str, Sequence[str]] | None = None, intake: Intake | None = None
    ) -> Rollout:
        """Read and verify a folder. ``keys``: layer (``platform``, or a team) → public keys, one of which must have
        signed it; without any keys nothing needs a signature. ``intake`` says whether what is signed may hold now.
        Raises :class:`RolloutError`."""
        signers = keys or {}
        platform = folder / "platform.yaml"
        if not platform.is_file():
            raise RolloutError(f"{folder}: has no platform.yaml; write one, or drop policies.rollout")
        teams: dict[str, Document] = {}
        for path in sorted((folder / "teams").glob("*.yaml")):
            teams[path.stem] = _document(path, path.stem, signers, intake)
        missing = set(signers) - {PLATFORM, *teams}
        if missing:
            raise RolloutError(
                f"{folder}: policies.rollout_keys names {', '.join(sorted(missing))}, which has no document"
            )
        return cls._made(_document(platform, PLATFORM, signers, intake), teams)

    @classmethod
    def _made(cls, platform: Document, teams: Mapping[str, Document]) -> Rollout:
        for name in teams:
            if not _TEAM.match(name) or name in _NO_TEAMS:
                raise RolloutError(f"teams/{name}.yaml: is not named after a team")
        told = {PLATFORM: platform.model_dump(mode="json", exclude_defaults=True)} | {
            f"team {name}": document.model_dump(mode="json", exclude_defaults=True) for name, document in teams.items()
        }
        text = json.dumps(told, sort_keys=True, separators=(",", ":"))
        rollout = cls(platform, dict(teams), "sha256:" + hashlib.sha256(text.encode()).hexdigest())
        rollout._only_tightens()
        return rollout

    def with_document(self, layer: str, document: Document) -> Rollout:
        """The roll-out with another document of a layer. Raises :class:`RolloutError`."""
        if layer == PLATFORM:
            return self._made(document, self.teams)
        return self._made(self.platform, {**self.teams, layer: document})

    def check(self, policies: Iterable[str]) -> None:
        """Raises :class:`policies.modes.UnknownPolicyError` if the roll-out speaks of a policy that is not there: a
        misspelt name must not leave a guard in shadow."""
        documents = [self.platform, *self.teams.values()]
        unknown_policies(policies, [name for document in documents for name in document.modes], "the roll-out")
        unknown_policies(policies, [one.written.policy for one in self.exceptions()], "an exception")

    def modes(self, policies: Iterable[str], agent: str, team: str | None) -> dict[str, Mode]:
        """The mode of each policy that is in force for an agent; one that is switched off is not in the answer."""
        wanted = {name: self.mode(name, agent, team) for name in sorted(policies)}
        return {name: Mode(mode) for name, mode in wanted.items() if mode != "off"}

    def mode(self, policy: str, agent: str, team: str | None) -> Wanted:
        said = _mode(self.platform, policy, agent, team)
        document = self.teams.get(team) if team is not None else None
        theirs = _mode(document, policy, agent, team) if document is not None else None
        owner = policy.partition(".")[0]
        if owner in self.teams:
            if owner != team:
                return said or "off"
            return _stricter(said or "off", theirs or "shadow")
        return _stricter(said or default_mode(policy), theirs or "off")

    def exceptions(self, agent: str | None = None, team: str | None = None) -> list[Exempted]:
        """All of them, or those that may hold for an agent, in a fixed order."""
        layers = [(PLATFORM, self.platform), *sorted(self.teams.items())]
        every = [Exempted(layer, one) for layer, document in layers for one in document.exceptions]
        return every if agent is None else [one for one in every if one.covers_agent(agent, team)]

    def strangers(self, agents: Set[str]) -> set[str]:
        """Names of agents that the documents speak of and ``agents`` does not have."""
        documents = [self.platform, *self.teams.values()]
        named = {name for document in documents for modes in document.modes.values() for name in modes.agents}
        named |= {name for one in self.exceptions() for name in one.written.agents or ()}
        return named - agents

    def _only_tightens(self) -> None:
        for team, document in self.teams.items():
            for policy, modes in document.modes.items():
                owner = policy.partition(".")[0]
                if owner in self.teams and owner != team:
                    raise RolloutError(f"teams/{team}.yaml: {policy} belongs to team {owner}")
                if set(modes.teams) - {team}:
                    raise RolloutError(f"teams/{team}.yaml: {policy}: a team's document sets no mode for other teams")
                for agent, mode in (("", modes.default), *modes.agents.items()):
                    said = _mode(self.platform, policy, agent, team)
                    floor = said or ("off" if owner == team else default_mode(policy))
                    if mode is not None and _STRICTNESS[mode] < _STRICTNESS[floor]:
                        raise RolloutError(
                            f"teams/{team}.yaml: {policy} is {floor} for everybody; a team may make it stricter, "
                            f"not {mode}"
                        )
            for one in document.exceptions:
                if one.policy.partition(".")[0] != team:
                    raise RolloutError(
                        f"teams/{team}.yaml: exception {one.id} is of {one.policy}, which is not the team's own; "
                        "exceptions of it belong into platform.yaml"
                    )


def _mode(document: Document, policy: str, agent: str, team: str | None) -> Wanted | None:
    modes = document.modes.get(policy)
    if modes is None:
        return None
    return modes.agents.get(agent) or (modes.teams.get(team) if team is not None else None) or modes.default


def _stricter(one: Wanted, other: Wanted) -> Wanted:
    return max(one, other, key=lambda mode: _STRICTNESS[mode])


def _document(path: Path, layer: str, keys: Mapping[str, Sequence[str]], intake: Intake | None) -> Document:
    try:
        content = path.read_bytes()
        if keys:
            if layer not in keys:
                raise RolloutError(f"{path}: policies.rollout_keys has no key for {layer}")
            signature = signature_path(path)
            line = signature.read_text() if signature.is_file() else None
            label = f"{LABEL} {layer}"
            signed = verify(keys[layer], label, content, line, str(path))
            if intake is not None:
                intake.take(label, signed, content, str(path))
        plain, lines = read(content.decode())
    except NotYet:
        raise
    except SignatureError as problem:
        raise RolloutError(str(problem)) from None
    except (OSError, UnicodeDecodeError) as problem:
        raise RolloutError(f"{path}: cannot be read: {problem}") from None
    except YamlProblem as problem:
        raise RolloutError(f"{path}: {problem}") from None
    try:
        return Document.model_validate(plain or {})
    except ValidationError as problem:
        first = problem.errors(include_url=False, include_input=False)[0]
        place = tuple(step for step in first["loc"])
        line_number = next((lines[place[:n]] for n in range(len(place), 0, -1) if place[:n] in lines), 1)
        what = ".".join(map(str, place)) or "the document"
        raise RolloutError(f"{path}:{line_number}: {what}: {first['msg'].removeprefix('Value error, ')}") from None


class _Missing:
    pass


def _at(value: Any, pointer: str) -> Any:
    """The value at a JSON pointer, in a form that compares exactly."""
    for step in pointer.split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        if isinstance(value, Mapping) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            return _Missing
    return _exact(value)


def _says_more(value: Any, known: Set[str], pointer: str = "") -> bool:
    """Whether a text stands in ``value`` elsewhere than at or below the ``known`` pointers, be it as a key. Arguments
    are at most 64 deep."""
    if pointer in known:
        return False
    if isinstance(value, Mapping):
        for key, part in value.items():
            below = f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}"
            on_the_way = below in known or any(one.startswith(f"{below}/") for one in known)
            if not (on_the_way or _PLAIN_KEY.fullmatch(key)) or _says_more(part, known, below):
                return True
        return False
    if isinstance(value, list):
        return any(_says_more(part, known, f"{pointer}/{step}") for step, part in enumerate(value))
    return isinstance(value, str)


def _exact(value: Any) -> str:
    """JSON in one form: 1, 1.0, true and "1" are four values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
