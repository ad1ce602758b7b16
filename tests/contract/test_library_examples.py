"""The example exchanges beside the policies of the library, through a whole Interlock on both engines: each is stopped
or let by as its file says, by the findings that it names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from policies.authoring.examples import Example, examples_of
from policies.authoring.sources import LIBRARY, read_tree
from policies.bundle import Bundle
from proxy.app import Interlock
from proxy.replay.examples import try_examples
from tests.support.interlock import port_of, running
from tests.support.raw import scripted, send
from tests.support.serving import answering, post
from tests.support.wire import parse
from tracing.records import Decided, Opened
from tracing.segments import read

pytestmark = pytest.mark.opa

POLICIES = read_tree(LIBRARY).policies
EXAMPLES = [
    (name, path.stem, example) for name, policy in sorted(POLICIES.items()) for path, example in examples_of(policy)
]
KEY = "sk-interlock-of-this-test"
MASKING = {"interlock.pii_mask"}
"""What they find is masked, and the answer goes on."""


def _together(one: tuple[str, str, Example]) -> tuple[str, str]:
    """Examples that one Interlock can be asked: of one policy, agent and settings."""
    policy, _, example = one
    return policy, json.dumps([example.agent, example.team, example.owner, example.settings], sort_keys=True)


GROUPS = [list(group) for _, group in groupby(sorted(EXAMPLES, key=_together), _together)]


def test_every_policy_has_an_example_that_it_stops_and_one_that_it_lets_by() -> None:
    for policy in POLICIES:
        stops = {example.stops for name, _, example in EXAMPLES if name == policy}
        assert stops == {True, False}, policy


def test_the_command_finds_in_each_what_a_whole_interlock_does(opa_binary: Path) -> None:
    """The tests below say what that is."""
    tried = try_examples(read_tree(LIBRARY), Bundle.load())
    assert [(one.path, one.problem, one.unknown) for one in tried if one.problem or one.unknown] == []
    assert len(tried) == len(EXAMPLES)


@pytest.mark.parametrize("engine", ["embedded", "opa"])
@pytest.mark.parametrize("group", GROUPS, ids=lambda group: f"{group[0][0]}:{'+'.join(stem for _, stem, _ in group)}")
async def test_examples_are_stopped_or_let_by_as_they_say(
    group: list[tuple[str, str, Example]], engine: str, tmp_path: Path, opa_binary: Path
) -> None:
    policy, _, first = group[0]
    state = tmp_path / "state"
    waiting: list[bytes] = []
    sent_on: list[bytes] = []

    async def script(request: bytes, writer: Any) -> None:
        sent_on.append(request)
        await answering(waiting.pop(0))(request, writer)

    settings = _settings(policy, first, engine, opa_binary)
    async with scripted(script) as upstream, running(upstream.url, state, **settings) as it:
        for _, _, example in group:
            for before in example.earlier:
                waiting[:] = [json.dumps(before.answer).encode()]
                answer = await _ask(it, example, before.request)
                assert json.loads(answer.body) == before.answer
            waiting[:] = [sent := json.dumps(example.answer).encode()]
            answer = await _ask(it, example, example.request)
            withheld = f"Withheld by policy {policy}/".encode() in sent_on[-1] if sent_on else False
            if example.stops and withheld:
                assert answer.body == sent
            elif example.stops and policy in MASKING:
                assert answer.start == "HTTP/1.1 200 OK"
                assert b"[redacted]" in answer.body and b"1111" not in answer.body
                (given,), (made,) = (json.loads(body)["choices"] for body in (answer.body, sent))
                assert given["finish_reason"] == made["finish_reason"]
            elif example.stops:
                assert f"Blocked by policy {policy}/".encode() in answer.body
            else:
                assert answer.start == "HTTP/1.1 200 OK"
                assert answer.body == sent and not withheld
    expected = [ids for _, _, one in group for ids in (*([] for _ in one.earlier), sorted(one.findings))]
    assert list(_found(state, policy).values()) == expected


async def _ask(it: Interlock, example: Example, request: Mapping[str, Any]) -> Any:
    key = [] if example.agent == "anonymous" else [f"Authorization: Bearer {KEY}"]
    return parse(await send(port_of(it), post(dict(request), *key, path=example.path)))


def _settings(policy: str, example: Example, engine: str, opa_binary: Path) -> dict[str, Any]:
    given = json.loads(json.dumps(example.settings))
    policies = given.setdefault("policies", {})
    policies |= {"engine": engine, "timeout_seconds": 20, "modes": {policy: "enforce", **policies.get("modes", {})}}
    if engine == "opa":
        policies["opa"] = opa_binary
    if example.agent != "anonymous":
        agent = given.setdefault("agents", {}).setdefault(example.agent, {})
        agent |= {"keys": [KEY], "team": example.team, "owner": example.owner}
    return dict(given)


def _found(state: Path, policy: str) -> dict[str, list[str]]:
    """Exchange → the ids that the policy found in it, of all exchanges of the journal in their order."""
    found: dict[str, set[str]] = {}
    for record in (entry.record for entry in read(state)):
        if isinstance(record, Opened):
            found[record.exchange] = set()
        if isinstance(record, Decided):
            names = [f["finding"]["id"] for f in record.decision.get("findings", ()) if f["policy"] == policy]
            found[record.exchange].update(names)
    return {exchange: sorted(ids) for exchange, ids in found.items()}
