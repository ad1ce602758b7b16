"""The examples beside policies, tried: each as `interlock policy eval` judges it, with its policy alone and enforced.

That is the embedded engine, and the file as one exchange with those before it; the tests beside the policies are what
both engines are asked.
"""

from __future__ import annotations

import asyncio
import json
from itertools import groupby
from pathlib import Path

from pydantic import ValidationError

from policies.authoring.examples import Example, Tried, examples_of
from policies.authoring.sources import SourceError, SourceTree
from policies.bundle import Bundle
from policies.engines.embedded import EmbeddedEngine
from policies.service import with_settings
from proxy.replay.files import FileError, exchange_of
from proxy.replay.judging import Rejudge, Said
from proxy.replay.running import PATIENCE, Sets
from serving.settings import Settings


def try_examples(tree: SourceTree, bundle: Bundle) -> list[Tried]:
    """Every example of the tree, in order. Raises :class:`SourceError` for a file that is none."""
    every = [(policy.name, path, one) for policy in tree.policies.values() for path, one in examples_of(policy)]
    every.sort(key=_settings_of)
    tried: list[Tried] = []
    for _, group in groupby(every, _settings_of):
        tried += asyncio.run(_together(list(group), bundle))
    return sorted(tried, key=lambda one: (one.policy, one.path))


def _settings_of(one: tuple[str, Path, Example]) -> str:
    """Examples with the same settings share an engine, which takes a second to make."""
    return json.dumps(one[2].settings, sort_keys=True)


async def _together(group: list[tuple[str, Path, Example]], bundle: Bundle) -> list[Tried]:
    path, settings = group[0][1], group[0][2].settings
    try:
        known = Settings.model_validate(settings)
    except ValidationError as error:
        raise SourceError(f"{path}: settings: {error}") from error
    engine = EmbeddedEngine(with_settings(bundle, known.policies, known.agents), PATIENCE)
    try:
        return [
            await _try(name, where, example, Sets(bundle, known, only=[name], engine=lambda *_: engine), known)
            for name, where, example in group
        ]
    finally:
        await engine.close()


async def _try(name: str, path: Path, example: Example, sets: Sets, settings: Settings) -> Tried:
    try:
        x = exchange_of(example.model_dump(mode="json", exclude_unset=True), path.name)
    except FileError as problem:
        return Tried(name, path, problem=str(problem))
    policies = sets.of(x.agent, x.team)
    said = await Rejudge(policies, json_depth=settings.limits.json_depth, tools=sets.tools).exchange(x)
    found = {
        entry.finding.id
        for one in said
        if one.decision is not None
        for entry in one.decision.findings
        if entry.policy == name
    }
    why = _unknown(said)
    if why is not None and found <= set(example.findings):
        return Tried(name, path, unknown=why)
    if found != set(example.findings):
        wanted = ", ".join(sorted(example.findings)) or "nothing"
        return Tried(name, path, problem=f"finds {', '.join(sorted(found)) or 'nothing'}; expected {wanted}")
    return Tried(name, path)


def _unknown(said: list[Said]) -> str | None:
    return next((f"reads {gap.field}: {gap.why}" for one in said for gap in one.missing), None)
