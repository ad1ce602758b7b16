"""OPA's own log of decisions: each of an exchange is in it under the exchange's id, and nothing of what was said."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from policies.bundle import Bundle
from proxy.cli import main
from serving.launch.decision_log import LOG_DECISIONS, write_mask
from tests.policies.support import built
from tests.support import servers
from tests.support.chat import Call, Say, read_whole, whole
from tests.support.interlock import port_of, running
from tests.support.raw import scripted, send
from tests.support.served import until
from tests.support.serving import answering, ask, post
from tests.support.wire import parse
from tracing.records import Decided
from tracing.segments import read

pytestmark = pytest.mark.opa

WORDS = ("wombat", "quokka", "numbat", "bilby", "potoroo", "dunnart", "bettong", "kowari")
"""Of the user, a tool's result, the reasoning, the text and findings, an argument's name and value, made-up tools."""

NOSY = """\
# METADATA
# title: Reads everything
# custom:
#   severity: high
package interlock.policies.acme.nosy

request contains finding if {
	some message in input.request.messages
	message.text != ""
	finding := {"id": "read", "severity": "low", "action": "flag", "message": message.text, "tags": ["t"]}
}

tool_call contains finding if {
	input.call.name
	finding := {
		"id": "called",
		"severity": "high",
		"action": "deny",
		"message": concat(" ", ["bilby", input.call.raw]),
		"tags": ["OWASP-LLM06", concat(" ", ["bilby", "too"])],
	}
}

response contains finding if {
	said := concat(" ", [input.response.text, input.response.reasoning])
	finding := {"id": "said", "severity": "low", "action": "flag", "message": said, "tags": []}
}
"""

MESSAGES = [
    {"role": "user", "content": "Where is the wombat?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c0", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "c0", "content": "The quokka has it."},
]
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
SAID = Say(
    "A numbat thinks.", "The bilby speaks.", (Call("look", '{"potoroo": "dunnart"}'), Call("bettong_kowari", "{}"))
)


@pytest.fixture(scope="module")
def bundle(opa_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return built(opa_binary, tmp_path_factory.mktemp("nosy"), {"acme/nosy/policy.rego": NOSY})


def logged(log: Path) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("{"))
    return [line for line in lines if line.get("msg") == "Decision Log"]


def decided(state: Path) -> list[Decided]:
    return [entry.record for entry in read(state) if isinstance(entry.record, Decided)]


async def exchanged(state: Path, policies: dict[str, Any]) -> None:
    """Two exchanges of the same words through a whole Interlock."""
    async with scripted(answering(whole(SAID))) as upstream, running(upstream.url, state, policies=policies) as served:
        for nth in (1, 2):
            answer = parse(await send(port_of(served), post(ask(messages=MESSAGES, tools=TOOLS))))
            assert not any(choice.calls for choice in read_whole(answer.body).values())
            await until(lambda nth=nth: [r.decision["stage"] for r in decided(state)].count("response") == nth, 10)


def holds(log: Path, state: Path, bundle: Bundle) -> None:
    """Each decision of the record is in OPA's log under its exchange's id, with its rule, and no word of content."""
    entries, records = logged(log), decided(state)
    seen = [
        (entry["request_context"]["http"]["headers"]["X-Interlock-Exchange"][0], entry["path"].rpartition("/")[2])
        for entry in entries
        if "request_context" in entry
    ]
    assert sorted(seen) == sorted((record.exchange, record.decision["stage"]) for record in records)
    assert len(records) == len({record.exchange for record in records}) * 4 == 8
    text = log.read_text(encoding="utf-8")
    assert not [word for word in WORDS if word in text]
    calls = [entry for entry in entries if entry["path"].endswith("/tool_call")]
    names = Counter(entry["input"]["call"].get("name") for entry in calls)  # asked at once, in whichever order
    assert names == {"look": 2, None: 2}
    for entry in entries:
        assert bundle.digest in {one.get("revision") for one in entry["bundles"].values()}
        assert {"/input", "/result"} <= set(entry["masked"])
    (found,) = calls[0]["result"]["acme.nosy"]
    assert found == {"id": "called", "severity": "high", "action": "deny", "tags": ["OWASP-LLM06"]}


def settings(path: Path, **more: Any) -> dict[str, Any]:
    modes = {"acme.nosy": "enforce"}
    return {"bundle": path, "modes": modes, "engine": "opa", "timeout_seconds": 10, "decision_log": True} | more


async def test_an_opa_that_interlock_launches(bundle: Bundle, opa_binary: Path, tmp_path: Path) -> None:
    bundle.write(tmp_path / "bundle")
    state = tmp_path / "state"
    await exchanged(state, settings(tmp_path / "bundle", opa=opa_binary))
    holds(state / "logs" / "opa.log", state, bundle)


async def test_without_the_setting_it_logs_no_decision(bundle: Bundle, opa_binary: Path, tmp_path: Path) -> None:
    bundle.write(tmp_path / "bundle")
    state = tmp_path / "state"
    await exchanged(state, settings(tmp_path / "bundle", opa=opa_binary, decision_log=False))
    assert not logged(state / "logs" / "opa.log")


@contextmanager
def own_opa(binary: Path, folder: Path, *more: str | Path) -> Iterator[servers.Server]:
    flags = [part for setting in LOG_DECISIONS for part in ("--set", setting)]
    with servers.opa(binary, folder, *flags, *more) as server:
        yield server


async def test_an_opa_of_ones_own_with_the_mask_that_is_shipped(
    bundle: Bundle, opa_binary: Path, tmp_path: Path
) -> None:
    bundle.write(tmp_path / "bundle")
    assert main(["policy", "log-mask", "-o", str(tmp_path / "mask")]) == 0
    with own_opa(opa_binary, tmp_path, "--bundle", tmp_path / "bundle", "--bundle", tmp_path / "mask") as server:
        await exchanged(tmp_path / "state", settings(tmp_path / "bundle", opa_url=server.url))
    holds(tmp_path / "opa.log", tmp_path / "state", bundle)


async def test_without_the_mask_such_a_log_holds_the_words(bundle: Bundle, opa_binary: Path, tmp_path: Path) -> None:
    """So that the other tests would see them."""
    bundle.write(tmp_path / "bundle")
    with own_opa(opa_binary, tmp_path, "--bundle", tmp_path / "bundle") as server:
        await exchanged(tmp_path / "state", settings(tmp_path / "bundle", opa_url=server.url))
    text = (tmp_path / "opa.log").read_text(encoding="utf-8")
    assert [word for word in WORDS if word in text] == list(WORDS)


async def test_questions_of_any_form_are_masked_and_those_of_others_are_left_alone(
    bundle: Bundle, opa_binary: Path, tmp_path: Path
) -> None:
    bundle.write(tmp_path / "bundle")
    write_mask(tmp_path / "mask")
    word = WORDS[0]
    odd: list[Any] = [word, [word], {word: word}, {"call": word}, {"call": {"name": [word], "offered": True}}, None]
    odd += [{"call": {"name": f"a {word}", "raw": word, "offered": True}, "signals": word}, {"stage": f"{word} " * 99}]
    other = {"rule": {"input": word}}
    with own_opa(opa_binary, tmp_path, "--bundle", tmp_path / "bundle", "--bundle", tmp_path / "mask") as server:
        async with aiohttp.ClientSession() as session:
            for path in ("tool_call", "request", "acme__nosy__tool_call", word):
                for said in odd:
                    url = f"{server.url}/v1/data/interlock/entry/{path.replace(word, 'nothing')}"
                    async with session.post(url, json={"input": said}) as answer:
                        assert answer.status == 200
            masked = (tmp_path / "opa.log").read_text(encoding="utf-8")
            async with session.post(f"{server.url}/v1/data/other", json={"input": other}) as answer:
                assert answer.status == 200
    assert masked.count("Decision Log") == 4 * len(odd)
    assert word not in masked
    (last,) = (line["input"] for line in logged(tmp_path / "opa.log")[4 * len(odd) :])
    assert last == other


async def test_the_embedded_engine_has_no_such_log(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs policies\.engine: opa"):
        async with running("http://127.0.0.1:9", tmp_path / "state", policies={"decision_log": True}):
            pass
