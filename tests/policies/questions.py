"""Decision inputs for tests: a question is one line."""

from __future__ import annotations

import json
from typing import Any

from policies.model import (
    CallFacts,
    DecisionInput,
    Identity,
    RequestFacts,
    ResponseFacts,
    RunFacts,
    Signal,
    Stage,
)

LIBRARY_CASES = ("destructive", "ordinary")


def call(name: str, arguments: dict[str, Any] | None, raw: str | None = None) -> CallFacts:
    """A complete call; an incomplete one if ``arguments`` is None."""
    text = json.dumps(arguments) if raw is None else raw
    return CallFacts(name=name, arguments=arguments, raw=text, complete=arguments is not None)


def about(
    facts: CallFacts, agent: str = "anonymous", signals: list[Signal] | None = None, exchange: str = "x-1"
) -> DecisionInput:
    """The question of the stage ``tool_call`` about one call."""
    return DecisionInput(
        stage=Stage.TOOL_CALL,
        time="2026-11-21T00:00:00Z",
        exchange=exchange,
        identity=Identity(agent=agent),
        run=RunFacts(id="run-1"),
        request=RequestFacts(),
        call=facts,
        signals=signals or [],
    )


def shell(command: Any, **rest: Any) -> DecisionInput:
    """A question about ``run_shell`` with this command."""
    return about(call("run_shell", {"command": command}), **rest)


def at_stage(stage: Stage) -> DecisionInput:
    return DecisionInput(
        stage=stage,
        time="2026-11-21T00:00:00Z",
        exchange="x-1",
        identity=Identity(agent="anonymous"),
        run=RunFacts(id="run-1"),
        request=RequestFacts(model="m"),
        response=ResponseFacts() if stage is Stage.RESPONSE else None,
    )
