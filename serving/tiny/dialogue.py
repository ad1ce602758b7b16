"""What a scripted dialogue is made of.

A script fixes both sides: what the user asks, what the model says at every turn, and what each tool
call returns. It has two endings. ``turns`` is how it goes when every call is carried out;
``refused`` is how it goes on once the calls marked ``forbidden`` were taken out of an answer and
some refusal, whatever its words, stands in their place.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]
"""A chat message in OpenAI's shape."""

Arguments = Mapping[str, str | int]


def canonical(arguments: object) -> str:
    """JSON with sorted keys and no spare spaces: equal for equal arguments, however spelled."""
    return json.dumps(arguments, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the agent may call; every parameter is required."""

    name: str
    description: str
    parameters: Mapping[str, str]

    def definition(self) -> dict[str, Any]:
        """The entry of a request's ``tools``."""
        schema = {
            "type": "object",
            "properties": {name: {"type": kind} for name, kind in self.parameters.items()},
            "required": list(self.parameters),
        }
        function = {"name": self.name, "description": self.description, "parameters": schema}
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call. ``forbidden`` marks the ones that a guard should stop."""

    name: str
    arguments: Arguments
    forbidden: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """Name and canonical arguments: how results are looked up."""
        return self.name, canonical(self.arguments)


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer of the model: it reasons, may say something, may call tools."""

    reasoning: str
    text: str | None = None
    calls: tuple[Call, ...] = ()

    @property
    def forbidden(self) -> tuple[Call, ...]:
        return tuple(call for call in self.calls if call.forbidden)


@dataclass(frozen=True, slots=True)
class Script:
    """One agent task from beginning to end.

    ``results`` gives for each call's key what the tool returns the first time, the second time …;
    the last one stays. With ``loop`` the script has no end: after ``turns`` the model says ``loop``
    for ever. ``follow_up`` is what the user says after an answer that was refused whole.
    """

    id: str
    title: str
    prompt: str
    turns: tuple[Turn, ...]
    tools: tuple[str, ...] = ()
    results: Mapping[tuple[str, str], tuple[str, ...]] | None = None
    refused: tuple[Turn, ...] = ()
    loop: Turn | None = None
    follow_up: str = "Go on without that."

    @property
    def refused_at(self) -> int | None:
        """Index of the first turn with a forbidden call; the turns of ``refused`` follow it."""
        return next((index for index, turn in enumerate(self.turns) if turn.forbidden), None)

    def expected(self, index: int, *, refused: bool) -> Turn | None:
        """What the model says as its ``index``-th answer, or ``None`` after the end."""
        at = self.refused_at
        turns = self.turns[: at + 1] + self.refused if refused and at is not None else self.turns
        return turns[index] if index < len(turns) else self.loop
