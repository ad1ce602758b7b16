"""`interlock policy new`: a policy that does something small, with everything that belongs to one, to be changed.

It looks for words that its data lists, at the stage that was asked for. Its files pass ``policy check`` and
``policy test`` as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policies.authoring.sources import SourceError, policy_name
from policies.model import Stage

WORD = "project-kestrel"
"""What a new policy looks for until its data says something else."""


@dataclass(frozen=True)
class _Shape:
    """What differs between stages. ``lines`` find ``word``; ``question`` is the part of the input that holds a text
    (``%s``, JSON); ``says`` ends the message, ``meta`` are lines of metadata."""

    what: str
    lines: tuple[str, ...]
    question: str
    says: str
    action: str = "deny"
    imports: tuple[str, ...] = ()
    meta: tuple[str, ...] = ()


_CALL = '{"call": {"name": "run_shell", "arguments": %s, "raw": "", "complete": true}}'
_TEXT = ("contains(input.surface.text, word)",)
_HOLD = ("#   hold: all # the text waits for its end, so that nothing of it leaves; none lets it flow",)
_SHAPES: Mapping[Stage, _Shape] = {
    Stage.REQUEST: _Shape(
        "a request whose new messages name",
        ("some message in input.request.messages", "contains(message.text, word)"),
        '{"request": {"messages": [{"role": "user", "text": %s}]}}',
        "Ask without naming it.",
    ),
    Stage.REASONING: _Shape(
        "an answer whose reasoning names",
        _TEXT,
        '{"surface": {"name": "reasoning", "text": %s, "complete": true}}',
        "Think about something else.",
        meta=_HOLD,
    ),
    Stage.TOOL_CALL: _Shape(
        "a tool call whose arguments name",
        ("some text in values.of_call(input.call)", "contains(text, word)"),
        _CALL,
        "Make the call without naming it.",
        imports=("import data.interlock.lib.values",),
    ),
    Stage.OUTPUT: _Shape(
        "an answer that names",
        _TEXT,
        '{"surface": {"name": "output", "text": %s, "complete": true}}',
        "Answer without naming it.",
        meta=_HOLD,
    ),
    Stage.RESPONSE: _Shape(
        "a finished answer that names (it is recorded: what has left cannot be stopped)",
        ("contains(input.response.text, word)",),
        '{"response": {"text": %s}}',
        "It should not have been named.",
        action="flag",
    ),
}


def new_policy(folder: Path, stage: Stage) -> list[Path]:
    """Write the files of a policy into ``folder``, which ends in OWNER/NAME; gives them. Raises :class:`SourceError`
    if that is no name, or if there is anything."""
    if len(folder.parts) < 2:
        raise SourceError(f"{folder}: expected OWNER/NAME, such as mine/acme/deploys")
    name = policy_name(folder.parent.name, folder.name, str(folder))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SourceError(f"{folder}: is there already; nothing was written")
    files = {
        "policy.rego": _policy(name, stage),
        "policy_test.rego": _test(name, stage),
        "data.json": _json({"words": [WORD], "agents": []}),
        "examples/stops.json": _json(_example(stage, f"It names {WORD}", f"about {WORD}", [_id(name)])),
        "examples/passes.json": _json(_example(stage, "It names nothing of the kind", "about the weather", [])),
    }
    written = []
    for short, text in files.items():
        path = folder / short
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
        written.append(path)
    return written


def _id(name: str) -> str:
    return f"{name.partition('.')[2]}_named"


def _policy(name: str, stage: Stage) -> str:
    shape = _SHAPES[stage]
    title = name.partition(".")[2].replace("_", " ").capitalize()
    lines = [
        "# METADATA",
        f"# title: {title}",
        "# description: >-",
        f"#   Stops {shape.what}",
        "#   one of the words in data.json, unless the agent is on the list there.",
        "# custom:",
        "#   severity: medium",
        *shape.meta,
        f"package interlock.policies.{name}",
        "",
        *(line for one in shape.imports for line in (one, "")),
        f"{stage.value} contains finding if {{",
        f"\tsome word in data.{name}.words",
        *(f"\t{line}" for line in shape.lines),
        f"\tnot input.identity.agent in data.{name}.agents",
        "\tfinding := {",
        f'\t\t"id": "{_id(name)}",',
        '\t\t"severity": "medium",',
        f'\t\t"action": "{shape.action}",',
        f'\t\t"message": "It names something that this agent must not name. {shape.says}",',
        '\t\t"tags": [],',
        "\t}",
        "}",
    ]
    return "\n".join(lines) + "\n"


def _test(name: str, stage: Stage) -> str:
    owner, _, short = name.partition(".")
    question = _SHAPES[stage].question.replace("%s", "said")
    found, silent = f'{{"{_id(name)}"}}', "set()"
    lines = [
        f"package interlock.policies.{owner}.{short}_test",
        "",
        f"import data.interlock.policies.{name}",
        "",
        'lists := {"words": ["secret-name"], "agents": ["insider"]}',
        "",
        f'question(agent, said) := object.union({question}, {{"identity": {{"agent": agent}}}})',
        "",
        "ids(agent, said) := {finding.id |",
        f"\tsome finding in {short}.{stage.value} with input as question(agent, said) with data.{name} as lists",
        "}",
        "",
        f'test_the_word_is_found if ids("coder", {_said(stage, "all about secret-name")}) == {found}',
        "",
        f'test_who_is_on_the_list_may if ids("insider", {_said(stage, "all about secret-name")}) == {silent}',
        "",
        f'test_other_words_are_let_by if ids("coder", {_said(stage, "all about the weather")}) == {silent}',
    ]
    if stage is Stage.TOOL_CALL:
        lines += [
            "",
            "test_the_word_is_found_wherever_it_stands if {",
            f'\tids("coder", {{"command": ["echo", "secret-name"]}}) == {found}',
            f'\tids("coder", {{"options": {{"deep": [{{"x": "secret-name"}}]}}}}) == {found}',
            f'\tids("coder", {{"secret-name": null}}) == {found}',
            f'\tids("coder", {{"number": 3, "flag": true}}) == {silent}',
            "}",
        ]
    return "\n".join(lines) + "\n"


def _said(stage: Stage, text: str) -> str:
    return f'{{"command": "{text}"}}' if stage is Stage.TOOL_CALL else f'"{text}"'


def _example(stage: Stage, title: str, said: str, findings: list[str]) -> dict[str, Any]:
    """One exchange, as it stands on the wire."""
    asked = f"Tell me {said}." if stage is Stage.REQUEST else "Please help."
    message: dict[str, Any] = {"role": "assistant", "content": "Here you are."}
    request: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": asked}]}
    finish = "stop"
    if stage is Stage.TOOL_CALL:
        parameters = {"type": "object", "properties": {"command": {"type": "string"}}}
        request["tools"] = [{"type": "function", "function": {"name": "run_shell", "parameters": parameters}}]
        arguments = json.dumps({"command": f"echo {said}"})
        call = {"id": "call-1", "type": "function", "function": {"name": "run_shell", "arguments": arguments}}
        message, finish = {"role": "assistant", "content": None, "tool_calls": [call]}, "tool_calls"
    elif stage is Stage.REASONING:
        message["reasoning"] = f"I think {said}."
    elif stage in (Stage.OUTPUT, Stage.RESPONSE):
        message["content"] = f"It is {said}."
    choice = {"index": 0, "message": message, "finish_reason": finish}
    answer = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    return {"title": title, "agent": "coder", "request": request, "answer": answer, "findings": findings}


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
