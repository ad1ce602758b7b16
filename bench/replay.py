"""``python -m bench.replay``: what judging stored exchanges again costs, beside the engine's bare time for them.

10 000 exchanges of a coding agent are judged and recorded by the very objects that judge live traffic (judge, recorder,
journal; no sockets), under the policies that are enforced unless set. Then, in this process:

* *replay*: `interlock policy replay`, with every policy enforced and the agent's tools limited, from the journal's
  files to the last count;
* *bare engine*: the same documents, handed straight to the same engine, one after the other, and nothing else;
* *enforcement*: the same exchanges judged anew under the changed policies. What is refused then must be what replay
  called newly denied, and what was refused already.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from policies.bundle import Bundle, together
from policies.engines.embedded import EmbeddedEngine
from policies.model import BudgetFacts, CheckFact, Stage
from policies.rollout import Rollout
from policies.service import PolicySet
from proxy.approvals import Approvals
from proxy.exchange import Exchange
from proxy.judge import Judge
from proxy.plane import make_recorder, open_journal
from proxy.random_ids import random_hex
from proxy.refusals import Refuse
from proxy.replay.running import Sets, replay
from proxy.runs import RunBook
from proxy.trace_context import join
from proxy.whole import judge_whole
from serving.settings import Settings
from serving.wire.dialects import DIALECTS
from serving.wire.request import ChatRequest
from serving.wire.vocabulary import Usage
from tracing.lookup import find_exchanges
from tracing.metrics import Metrics
from tracing.records import Decided
from tracing.segments import read

PATH = "/v1/chat/completions"
STEPS = 12
RUNS = 3
"""Both are timed so often, in turns, and the least of each counts: other programs on the machine make both slower."""
AGENTS = ("coder", "helper", "qa")
ALLOWED = {"interlock.tools": {"agents": {"helper": ["run_shell", "read_file", "write_file"]}}}
TOOLS = ("run_shell", "read_file", "write_file", "search", "fetch")
COMMANDS = (
    "ls -la src/{n}",
    "git status --short && git diff HEAD~{n}",
    "python -m pytest tests/test_{n}.py -q",
    "rm -rf build/{n}",
    "rm -rf /var/lib/data{n}",
    "sed -i 's/a{n}/b/' README.md",
    "curl -s https://example.org/{n} | jq .",
    "grep -rn 'todo {n}' --include='*.py' .",
)


class Seen(msgspec.Struct, frozen=True):
    """Times in seconds of CPU, the least of some runs. ``ratio`` is of replay to bare engine. ``call_bytes``: what the
    decisions about ``calls`` take of the journal, ``facts_bytes`` of them for what was found in the history."""

    exchanges: int
    journal_bytes: int
    calls: int
    call_bytes: int
    facts_bytes: int
    decisions: int
    replay: float
    bare_engine: float
    ratio: float
    newly_denied: int
    newly_allowed: int
    unanswerable: int
    refused_before: int
    refused_by_enforcement: int
    agree: bool


class Documents(EmbeddedEngine):
    """An engine that keeps what it was asked."""

    def __init__(self, bundle: Bundle, timeout_seconds: float) -> None:
        super().__init__(bundle, timeout_seconds)
        self.asked: list[tuple[Stage, bytes]] = []

    async def ask_all(
        self, stage: Stage, document: bytes, seconds: float = math.inf, exchange: str = ""
    ) -> dict[str, Any]:
        self.asked.append((stage, document))
        return await super().ask_all(stage, document, seconds)


def conversations(number: int, seed: int) -> Iterator[tuple[str, dict[str, Any], bytes]]:
    """(agent, request, the model server's answer), the same for the same seed: runs of up to ``STEPS`` exchanges, each
    of which shows the whole history and brings the result of the call before, as agents do."""
    chance = random.Random(seed)
    tools = [_tool(name) for name in TOOLS]
    messages: list[dict[str, Any]] = []
    agent, left = "", 0
    for at in range(number):
        if left == 0:
            agent, left = chance.choice(AGENTS), chance.randrange(1, STEPS + 1)
            messages = [
                {"role": "system", "content": "You are a careful engineer."},
                {"role": "user", "content": f"Please look at ticket {at} and repair what is broken. " * 3},
            ]
        answer = _answer(at, chance)
        request = {"model": "bench", "messages": [*messages], "tools": tools, "temperature": 0.2, "max_tokens": 512}
        yield agent, request, json.dumps(answer).encode()
        message = answer["choices"][0]["message"]
        messages.append(message)
        for call in message["tool_calls"]:
            text = "".join(f"def f{n}(x):\n    return x + {n}\n" for n in range(chance.randrange(5, 40)))
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": f"{at}\n{text}"})
        left = left - 1 if message["tool_calls"] else 0


def _tool(name: str) -> dict[str, Any]:
    kinds = {"type": "object", "properties": {"path": {"type": "string"}, "command": {"type": "string"}}}
    return {"type": "function", "function": {"name": name, "description": f"Does {name}.", "parameters": kinds}}


def _answer(at: int, chance: random.Random) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": f"I look into number {at} now.", "tool_calls": []}
    kind = chance.random()
    if kind < 0.55:
        message["tool_calls"] = [_call(at, "run_shell", {"command": chance.choice(COMMANDS).format(n=at)})]
    elif kind < 0.7:
        path = chance.choice(("src/a{n}.py", "docs/{n}.md", "/etc/app/{n}.conf")).format(n=at)
        message["tool_calls"] = [_call(at, chance.choice(("read_file", "write_file")), {"path": path})]
    elif kind < 0.85:
        message["tool_calls"] = [_call(at, chance.choice(("search", "fetch")), {"query": f"what is {at}"})]
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if message["tool_calls"] else "stop"}
    usage = {"prompt_tokens": 400, "completion_tokens": 40, "total_tokens": 440}
    return {"id": f"chatcmpl-{at}", "model": "bench", "choices": [choice], "usage": usage}


def _call(at: int, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"id": f"made-{at}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


async def judged(number: int, seed: int, policies: PolicySet, settings: Settings) -> dict[int, str]:
    """Judge and record ``number`` exchanges below ``settings.state_dir``; gives those that were refused, with the
    exchange's id."""
    journal = open_journal(settings)
    recorder = make_recorder(settings, journal, metrics := Metrics())

    async def facts(_: Exchange) -> tuple[list[CheckFact], list[BudgetFacts]]:
        return [], []

    depth = settings.limits.json_depth
    approvals = Approvals(settings.policies.approval, recorder)
    judge = Judge(policies, settings.policies, recorder, metrics, json_depth=depth, facts=facts, approvals=approvals)
    runs = RunBook(settings.breakers, time.monotonic, lambda: random_hex(8), b"key of this run")
    dialect, refused = DIALECTS[PATH], {}
    for at, (agent, body, answer) in enumerate(conversations(number, seed)):
        request = dialect.request(body)
        assert isinstance(request, ChatRequest)
        sighting = runs.identify(agent, request)
        now, trace = time.time_ns(), join(None, random_hex)
        x = Exchange(random_hex(16), agent, None, None, judge, dialect, request, sighting, trace, now, len(str(body)))
        recorder.opened(x, "POST", PATH)
        try:
            await judge.request(x)
            given = await judge_whole(
                x, answer, judge.ask, judge.texts, hold=judge.holds_calls, closing=judge.closing, held_limit=1 << 20
            )
            x.ending = "done" if x.cut_text is None else "cut"
        except Refuse as refusal:
            given, x.ending = None, "refused"
            await recorder.refused(x, refusal.status, refusal.code, str(refusal), refusal.rule)
        if given is not answer:
            refused[at] = x.id
        for number, seen in x.seen.choices.items() if given is not None else ():
            outcomes = [(index, x.outcomes.get((number, index))) for index in sorted(seen.calls)]
            calls = [seen.call(index) for index, outcome in outcomes if outcome is None or outcome.given]
            runs.left(sighting, x.given_text(number), calls)
        await judge.response(x)
        used = x.seen.usage or Usage(0, 0)
        runs.settled(sighting.run, used.prompt + used.completion, 0.0)
        recorder.settled(x, used, estimated=False)
    journal.close()
    return refused


async def measure(number: int, seed: int, folder: Path, off: Sequence[str] = (), unread: Sequence[str] = ()) -> Seen:
    """Record, replay, ask the bare engine, enforce. ``off``: policies that are left out; ``unread``: those that were
    not in force when it was recorded."""
    without = dict.fromkeys(off, "off")
    then = without | dict.fromkeys(unread, "off")
    bundle = Bundle.load()
    settings = Settings.model_validate(
        {
            "state_dir": folder / "then",
            "tracing": {"capture": "full", "fsync": False},
            "policies": {"data": ALLOWED},
        }
    )
    usual = Sets(bundle, _without_data(settings), rollout=Rollout.of_modes({}), changed=then).of("", None)
    before = await judged(number, seed, usual, settings)
    documents: list[Documents] = []

    def keeping(whole: Bundle, seconds: float) -> Documents:
        documents.append(Documents(whole, seconds))
        return documents[0]

    depth = settings.limits.json_depth
    warm = Sets(bundle, settings, changed=without, engine=keeping)
    await replay(find_exchanges(settings.state_dir), warm, depth=depth)
    whole = warm.bundle
    cost = bare = math.inf
    for _ in range(RUNS):
        again = Sets(bundle, settings, changed=without)
        began = time.process_time()
        found = await replay(find_exchanges(settings.state_dir), again, depth=depth, examples=number)
        cost = min(cost, time.process_time() - began)
        bare = min(bare, _bare(EmbeddedEngine(whole, 60.0), documents[0].asked))
    anew = settings.model_copy(update={"state_dir": folder / "now"})
    after = await judged(number, seed, Sets(bundle, settings, changed=without).of("", None), anew)
    place_of = {x.id: at for at, x in enumerate(find_exchanges(settings.state_dir))}
    examples = [one for (kind, _), some in found.tally.examples.items() if kind == "newly_denied" for one in some]
    newly = {place_of[change.exchange] for change in examples}
    calls, call_bytes, facts_bytes = _of_calls(settings.state_dir)
    return Seen(
        exchanges=found.tally.exchanges,
        journal_bytes=sum(file.stat().st_size for file in (folder / "then").rglob("*.jsonl")),
        calls=calls,
        call_bytes=call_bytes,
        facts_bytes=facts_bytes,
        decisions=len(documents[0].asked),
        replay=cost,
        bare_engine=bare,
        ratio=cost / bare,
        newly_denied=found.tally.changed["newly_denied"],
        newly_allowed=found.tally.changed["newly_allowed"],
        unanswerable=found.tally.unanswerable,
        refused_before=len(before),
        refused_by_enforcement=len(after),
        agree=newly | {*before} == {*after} and not newly & {*before},
    )


def _of_calls(state: Path) -> tuple[int, int, int]:
    """How many calls were decided about, the bytes of these decisions (what only records is often asked later, so a
    call has two), and those of the facts from the history."""
    calls: set[tuple[str, str]] = set()
    size = facts = 0
    for record in (entry.record for entry in read(state)):
        if isinstance(record, Decided) and record.stage == Stage.TOOL_CALL:
            without = {name: part for name, part in record.moment.items() if name != "history"}
            bare = msgspec.structs.replace(record, moment=without)
            whole = len(msgspec.json.encode(record))
            calls.add((record.exchange, record.surface))
            size, facts = size + whole, facts + whole - len(msgspec.json.encode(bare))
    return len(calls), size, facts


def _without_data(settings: Settings) -> Settings:
    return settings.model_copy(update={"policies": settings.policies.model_copy(update={"data": {}})})


def _bare(engine: EmbeddedEngine, documents: list[tuple[Stage, bytes]]) -> float:
    questions = [(document, together(stage).replace(".", "/")) for stage, document in documents]
    for document, rule in questions[:100]:  # its first answers take longer
        engine._evaluate(document, rule, 60.0)
    began = time.process_time()
    for document, rule in questions:
        engine._evaluate(document, rule, 60.0)
    return time.process_time() - began


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.replay", description=__doc__.partition("\n")[0])
    parser.add_argument("--exchanges", type=int, default=10_000, metavar="N", help="stored exchanges (10000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--off", action="append", default=[], metavar="POLICY", help="leave a policy out (repeatable)")
    parser.add_argument(
        "--unread", action="append", default=[], metavar="POLICY", help="leave it out when recording (repeatable)"
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="interlock-replay-") as folder:
        seen = asyncio.run(measure(arguments.exchanges, arguments.seed, Path(folder), arguments.off, arguments.unread))
    if arguments.json:
        print(msgspec.json.encode(seen).decode())
    else:
        size = f"{seen.journal_bytes / 1e6:.1f} MB of journal"
        print(f"{seen.exchanges} stored exchanges, {size}, {seen.decisions} questions")
        each = [round(part / max(1, seen.calls)) for part in (seen.call_bytes, seen.facts_bytes)]
        facts = f"{each[1]} of them for where its values come from"
        print(f"a call's decisions: {each[0]} bytes of journal, {facts} ({seen.calls} calls)")
        print(f"replay {seen.replay:.2f} s, bare engine {seen.bare_engine:.2f} s: ratio {seen.ratio:.2f}")
        print(f"newly denied {seen.newly_denied}, newly allowed {seen.newly_allowed}, unanswerable {seen.unanswerable}")
        words = "the same exchanges" if seen.agree else "OTHER exchanges"
        print(f"refused then {seen.refused_before}, by enforcement {seen.refused_by_enforcement}: {words}")
    return 0 if seen.agree else 1


if __name__ == "__main__":
    sys.exit(main())
