"""A stored exchange gives the inputs that its policies were shown when it was live, field by field, on every API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from policies.in_force import Policies
from policies.model import Decision, DecisionInput
from policies.service import PolicySet
from proxy.replay.judging import Rejudge
from proxy.replay.stored import stored
from serving.settings import PolicySettings
from tests.policies.support import built
from tests.support.apis import APIS, STREAMED
from tests.support.chat import Call, Say, whole
from tests.support.interlock import port_of, running
from tests.support.raw import scripted, send
from tests.support.serving import answering, ask, post, streaming
from tests.support.wire import parse
from tracing.lookup import find_exchanges

pytestmark = pytest.mark.opa

READS_ALL = """
package interlock.policies.acme.all

seen if {
	input.time != ""
	input.identity.agent
	input.run.recent_calls
	input.request
	input.checks
	input.budgets
	input.signals
}

finding(id) := {"id": id, "severity": "low", "action": "flag", "message": "Seen.", "tags": []}

request contains finding("request") if seen

tool_call contains finding("call") if {
	seen
	input.call
	object.get(input.call, "logprobs", null) != 0
	object.get(input.call.logprobs, "name", null) != 0
}

reasoning contains finding("reasoning") if {
	seen
	input.surface.text
}

output contains finding("output") if {
	seen
	input.surface.text
}

response contains finding("response") if {
	seen
	input.response
}
"""
KEY = "AKIA" + "QWERTYUIOPASDFGH"
SAYS = {
    "text": Say(text="It is fine, ünd so on."),
    "thought": Say("Let me think about it.", "It is fine."),
    "key": Say("So.", f"The key is {KEY} and that is all."),
    "calls": Say("I look.", "One moment.", (Call("run_shell", '{"command": "ls", "n": 3}'), Call("odd", "{not json"))),
    "cut off": Say("", "One moment.", (Call("run_shell", '{"command": "ls'),), "length"),
    "written": Say(text='I do <tool_call>{"name": "run_shell", "arguments": {"command": "ls -l"}}</tool_call> now.'),
}
TALKS = ("calls", "cut off")


@pytest.fixture(scope="module")
def bundle(opa_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    built(opa_binary, folder / "src", {"acme/all/policy.rego": READS_ALL}, with_library=True).write(folder / "out")
    return folder / "out"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[DecisionInput]:
    """Every input that a policy set is asked about from now on."""
    found: list[DecisionInput] = []
    decide = PolicySet.decide

    async def watched(self: PolicySet, question: DecisionInput, *rest: Any, **more: Any) -> Decision:
        found.append(question)
        return await decide(self, question, *rest, **more)

    monkeypatch.setattr(PolicySet, "decide", watched)
    return found


@pytest.mark.parametrize("mode", ["enforce", "shadow"])
@pytest.mark.parametrize("name", APIS)
async def test_a_stored_exchange_gives_the_inputs_of_the_live_one(
    name: str, mode: str, bundle: Path, asked: list[DecisionInput], tmp_path: Path
) -> None:
    api = APIS[name]
    policies = {"bundle": bundle, "modes": {"acme.all": mode}}
    scripts = [
        (say, stream)
        for kind, say in SAYS.items()
        for stream in (False, True)
        if (not stream or name in STREAMED) and not (say.calls and "completions" in name)
        if not (kind in TALKS and name == "batch")
    ]
    turns = iter(scripts)

    async def script(request: bytes, writer: Any) -> None:
        say, stream = next(turns)
        await (streaming(api.events(say)) if stream else answering(api.body(say)))(request, writer)

    state = tmp_path / "state"
    sections: dict[str, Any] = {"policies": policies, "tracing": {"capture": "full"}}
    async with scripted(script) as upstream, running(upstream.url, state, **sections) as interlock:
        for _, stream in scripts:
            await send(port_of(interlock), post(json.dumps(api.ask(stream=stream)).encode(), path=api.path))
    live = _last_of_each(asked)
    asked.clear()
    await _rebuild(state, policies)
    assert _by_place(asked, moved=mode == "shadow") == _by_place(live, moved=mode == "shadow")
    assert len({question.stage for question in live}) >= (2 if mode == "shadow" else 3)
    if "tokens" in name:
        assert any(question.call and question.call.logprobs for question in live) or "chat" not in name


async def test_so_does_a_run_that_goes_on(bundle: Path, asked: list[DecisionInput], tmp_path: Path) -> None:
    policies = {"bundle": bundle, "modes": {"acme.all": "enforce"}}
    calls = Say("", "", (Call("run_shell", '{"command": "ls"}'),))
    turns = iter(range(10))

    async def script(_request: bytes, writer: Any) -> None:
        at = next(turns)
        body = whole(calls if at < 2 else Say(text="Done."))
        await answering(body.replace(b"chatcmpl-tool-", b"chatcmpl-tool-%d" % at))(_request, writer)

    state = tmp_path / "state"
    sections: dict[str, Any] = {"policies": policies, "tracing": {"capture": "full"}, "breakers": {"run_tokens": 99999}}
    messages: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Go."}]
    async with scripted(script) as upstream, running(upstream.url, state, **sections) as interlock:
        for turn in range(3):
            body = ask(messages=messages, temperature=0.5, tool_choice="required", max_tokens=50 + turn)
            answer = json.loads(parse(await send(port_of(interlock), post(body))).body)["choices"][0]["message"]
            made = [call["id"] for call in answer.get("tool_calls") or ()]
            messages += [answer, *({"role": "tool", "tool_call_id": one, "content": f"r{turn}"} for one in made)]
    live = [*asked]
    asked.clear()
    await _rebuild(state, policies)
    assert _by_place(asked) == _by_place(live)
    last = live[-1]
    assert len(last.run.recent_calls) == 2 and last.run.step == 2 and last.budgets and last.run.findings
    assert last.run.recent_calls[1].result_changed is True
    assert {message.new for message in last.request.messages} == {True} and last.request.message_count == 6
    assert (last.request.tool_choice, last.request.sampling) == ("required", {"temperature": 0.5, "max_tokens": 52})


def _last_of_each(asked: list[DecisionInput]) -> list[DecisionInput]:
    """Policies that only record, and read where a call's values come from, are asked about it once more when the answer
    is over; that question says all that the first one says."""
    found: dict[object, DecisionInput] = {}
    for at, one in enumerate(asked):
        place = (one.exchange, one.call.choice, one.call.index, one.call.raw) if one.call is not None else at
        found[place] = one
    return [*found.values()]


async def _rebuild(state: Path, policies: dict[str, Any]) -> None:
    """Ask the same policies again, from the record."""
    rejudge = Rejudge(Policies.load(PolicySettings.model_validate(policies)).of("anonymous", None), as_then=True)
    for exchange in find_exchanges(state):
        found = stored(exchange)
        assert found is not None
        for said in await rejudge.exchange(found):
            assert not said.missing, said


def _by_place(questions: list[DecisionInput], *, moved: bool = False) -> list[dict[str, Any]]:
    """In an order that does not depend on which of several questions at once came first. ``moved``: of calls without
    the run, which has gone on when the answer is over; rebuilt it is as it was when the call was held."""
    plain = [question.model_dump(mode="json") for question in questions]
    for one in plain:
        if moved and one["call"] is not None:
            del one["run"]
    return sorted(plain, key=lambda one: json.dumps([one["exchange"], one["stage"], one["call"], one["surface"]]))
