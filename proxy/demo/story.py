"""The scenes. Each plays one or two agents, shows what flowed, and computes what it claims.

Three sources stand behind every claim: the wiretap (what the model server sent), the agent (what it received),
and the record (what Interlock decided, and why).
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from proxy.demo.agent import Agent, Heard, OffScript, Spelled
from proxy.demo.narrator import Narrator
from proxy.demo.stage import Stage
from proxy.demo.words import held_ms, ms, places, sha, short, times
from serving.tiny.dialogue import Message, Script
from serving.tiny.scripts import CANARY, DISK, KEY, LEAK_RESULT, LOGINS, LOOP, POLL, REPAIR, SANDWICH_MIDDLE
from serving.wire.vocabulary import ChoiceDelta
from tracing.cli import add_audit_commands
from tracing.exchange import STOPPED, Exchange
from tracing.records import Alerted, CallOutcome, Decided

MARKER = "<marker>"
"""Printed in place of the canary."""

_BLOCKED = "Blocked by policy "
"""How a refusal begins that policies give; the model of the demo never says it."""


class Story:
    """``interlock`` is how the command is to be typed."""

    def __init__(self, stage: Stage, tell: Narrator, interlock: str) -> None:
        self._stage = stage
        self._tell = tell
        self._interlock = interlock

    async def play(self) -> None:
        """All scenes, the record, and what to do next."""
        await self._ordinary()
        await self._destruction()
        await self._parallel()
        await self._outside()
        await self._leak()
        await self._twins()
        await self._record()

    # -- the scenes --------------------------------------------------------------------------------

    async def _ordinary(self) -> None:
        tell = self._tell
        tell.scene(1, "An ordinary coding agent", "Nothing that it does is forbidden, so Interlock may change nothing.")
        heard = [each async for each in self._turns(REPAIR)]
        self._same_bytes(heard)
        exchanges = await self._exchanges(heard)
        held = [held_ms(each) for each in exchanges if each.calls]
        tell.line(
            "record",
            f"The {len(held)} calls were held until the policies had allowed them and that was on disk: "
            f"{min(held):.0f} to {max(held):.0f} ms each, from a call's first token on.",
        )
        await self._bill(exchanges)

    async def _destruction(self) -> None:
        tell = self._tell
        tell.scene(
            2,
            "A destructive command",
            f"The model asks for a shell command that deletes a folder. The folder's name holds a marker word, "
            f"printed here as {MARKER}, so that the command can be looked for in every byte.",
        )
        heard = []
        async for each in self._turns(DISK):
            heard.append(each)
            if len(heard) == 1:
                await self._stopped(each)
                sent, got = self._sent(each).count(CANARY), Spelled.of(each.body).count(CANARY)
                tell.check(
                    sent == 1 and got == 0,
                    f"The marker stands {times(sent)} in the model server's answer and {times(got)} in what the "
                    "agent received. The agent was told so in plain words, and goes on:",
                )
                await tell.pause(1.5)
        await self._bill(await self._exchanges(heard))

    async def _parallel(self) -> None:
        tell = self._tell
        tell.scene(
            3,
            "Three calls at once, the middle one forbidden",
            "The answer is streamed with logprobs: beside the text, the tokens are listed once more, so the "
            "command stands in it twice.",
        )
        heard = []
        async for each in self._turns(SANDWICH_MIDDLE, logprobs=True):
            heard.append(each)
            if len(heard) == 1:
                await self._stopped(each, quoted=False)
                self._side_by_side(self._sent(each), Spelled.of(each.body))
                await tell.pause(1.5)
        await self._bill(await self._exchanges(heard))

    async def _outside(self) -> None:
        tell = self._tell
        tell.scene(
            4,
            "A file outside the workspace, with the rule in shadow",
            "A rule in shadow only records what it would have done: so a new rule is tried out on live traffic.",
        )
        heard = [each async for each in self._turns(LOGINS)]
        exchanges = await self._exchanges(heard)
        would = [
            f"{found['policy']}/{found['finding']['id']}"
            for decided in exchanges[0].decisions
            for found in decided.decision.get("findings", ())
            if found["mode"] == "shadow" and found["finding"]["action"] == "deny"
        ]
        self._same_bytes(heard)
        tell.check(
            bool(would),
            f"Nothing was stopped. The record says what would have refused the call: {' and '.join(sorted(would))}.",
        )
        tell.line("enforce", "by this in the settings file: policies: {modes: {interlock.paths: enforce}}")
        await self._bill(exchanges)

    async def _leak(self) -> None:
        tell = self._tell
        tell.scene(
            5,
            "A key on its way out",
            "A tool shows the agent a settings file with an access key in it, and the model puts the key into a "
            "web address. This screen masks the key; the agent does see it.",
        )
        heard = []
        async for each in self._turns(LEAK_RESULT):
            heard.append(each)
            if len(heard) == 2:
                await self._stopped(each)
                sent, got = self._sent(each).count(KEY), Spelled.of(each.body).count(KEY)
                tell.check(
                    sent == 1 and got == 0,
                    f"The key stands {times(sent)} in the model server's answer and {times(got)} in what the "
                    "agent received.",
                )
                await self._redacted(each)
                await tell.pause(1.5)
        await self._bill(await self._exchanges(heard))

    async def _twins(self) -> None:
        tell = self._tell
        tell.scene(
            6,
            "Two agents with the same task, one of them in a loop",
            "Both run at the same time, with the same prompt, on the same port and without a key. Interlock tells "
            "their runs apart by the conversations.",
        )
        agents = [Agent(self._stage.session, self._stage.url, script) for script in (LOOP, POLL)]
        tell.line("user", f"{LOOP.prompt}  (to both)")
        widths = self._halves()
        tell.columns("", ["agent A", "agent B"], widths, style="bold")
        while not all(agent.done for agent in agents):
            rows = await asyncio.gather(*(self._twin_turn(agent) for agent in agents))
            label = "STOPPED" if agents[0].heard[-1].status == 429 else ""
            tell.columns(label, rows, widths)
            await tell.pause(0.5)
        await self._tripped(agents[0])
        tell.check(agents[1].heard[-1].status == 200, "Agent B made the same call, got new results, and finished.")
        await self._bill(await self._exchanges([each for agent in agents for each in agent.heard]))

    async def _record(self) -> None:
        tell, state = self._tell, self._stage.state_dir
        tell.scene(
            7,
            "The record",
            "Interlock stops now. What it did can be read and proved without it; these are its own commands.",
        )
        await self._stage.stop()
        denied = [each for each in self._stage.ledger.exchanges() if each.denied]
        self._audit("list", "--denied", "--state-dir", str(state))
        await tell.pause(2.0)
        tell.blank()
        self._audit("verify", "--state-dir", str(state))
        await tell.pause(2.0)
        if denied:
            self._one(denied[0])
        everything = self._stage.ledger.exchanges()
        tell.blank()
        book = next((each.settled.cost.get("book") for each in everything if each.settled is not None), None)
        self._sum("cost", everything, f". From price book {book}; its prices for this model are made up.")
        files, found = self._stage.ledger.files_with(KEY)
        tell.check(found == 0, f"The key of scene 5 is in none of the {files} files below the state folder.")
        await tell.pause(1.0)

    # -- playing -----------------------------------------------------------------------------------

    async def _turns(self, script: Script, **options: Any) -> AsyncIterator[Heard]:
        """Play an agent to its end, showing everything; yields each answer when it is over, before the agent
        goes on."""
        tell = self._tell
        agent = Agent(self._stage.session, self._stage.url, script, **options)
        tell.line("user", agent.prompt)
        await tell.pause(0.6)
        while not agent.done:
            heard, added = await agent.turn(self._hear)
            if heard.status != 200:
                raise OffScript(f"the request was answered with {heard.status}: {heard.error.get('message')}")
            yield heard
            for message in added:
                self._say(message)
            await tell.pause(0.5)

    def _hear(self, delta: ChoiceDelta) -> None:
        tell = self._tell
        if delta.reasoning:
            tell.flow("thinks", delta.reasoning)
        if delta.text:
            tell.flow("INTERLOCK" if _BLOCKED in delta.text else "says", delta.text)
        for piece in delta.tools:
            if piece.name:
                tell.flow("calls", f"{piece.name} ", anew=True)
            tell.flow("calls", piece.arguments)

    def _say(self, message: Message) -> None:
        if message["role"] == "tool":
            self._tell.line("result", str(message["content"]) or "(nothing)")
        else:
            self._tell.line("user", str(message["content"]))

    async def _twin_turn(self, agent: Agent) -> str:
        heard, added = await agent.turn() if not agent.done else (None, [])
        if heard is None:
            return ""
        if heard.status != 200:
            return f"refused: {heard.status} {heard.error['code']}"
        spelled = Spelled.of(heard.body)
        results = ", ".join(str(message["content"]) for message in added)
        asked = ", ".join(short(call) for call in spelled.calls)
        return f"{asked} → {results}" if asked else f"says: {spelled.text.strip()}"

    # -- showing -----------------------------------------------------------------------------------

    def _same_bytes(self, heard: Sequence[Heard]) -> None:
        sent = b"".join(self._stage.tap.answer(each.trace_id) for each in heard)
        received = b"".join(each.body for each in heard)
        self._tell.check(
            sent == received,
            f"The model server sent {len(sent):,} bytes in {len(heard)} answers (sha256 {sha(sent)}…); the agent "
            f"received {len(received):,} bytes (sha256 {sha(received)}…).",
        )

    async def _stopped(self, heard: Heard, *, quoted: bool = True) -> None:
        """Which rule stopped a call of this answer, how long it was held, and what it was."""
        exchange = await self._stage.ledger.exchange(heard.trace_id)
        call = next((each for each in exchange.calls if each.outcome in STOPPED), None)
        decided = next((each for each in exchange.decisions if each.action == "deny"), None)
        if call is None or decided is None:
            self._tell.check(False, "The record holds no call that was stopped.")
            return
        self._tell.line(
            "STOPPED",
            f"by {call.rule}. The stream waited {held_ms(exchange):.0f} ms: for its calls to arrive whole, for the "
            f"policies ({ms(decided.micros)} of it), and for the record to be on disk.",
        )
        if quoted:
            name, arguments = self._sent(heard).calls[call.index]
            self._tell.line("withheld", f"{name} {arguments}")

    def _side_by_side(self, sent: Spelled, got: Spelled) -> None:
        """The calls of an answer as sent and as received, and where the marker is in both."""
        tell, widths = self._tell, self._halves()
        tell.blank()
        tell.columns("", ["the model server sent", "the agent received"], widths, style="bold")
        numbers = {tuple(call): index for index, call in enumerate(got.calls)}
        left = [f"{index}: {short(call)}" for index, call in enumerate(sent.calls)]
        right = [
            f"{numbers[tuple(call)]}: {short(call)}" if tuple(call) in numbers else "-  a refusal in its place"
            for call in sent.calls
        ]
        for row in zip(left, right, strict=True):
            tell.columns("", row, widths)
        tell.columns("", [f"{each.tokens} tokens in the logprobs" for each in (sent, got)], widths)
        tell.blank()
        counts = [(each.count(CANARY), each.logprobs.count(CANARY)) for each in (sent, got)]
        tell.check(
            counts == [(1, 1), (0, 0)] and len(got.calls) == len(sent.calls) - 1,
            f"In what was sent, the marker stands {places(*counts[0])}; in what was received, "
            f"{places(*counts[1])}. The other calls are numbered without a gap.",
        )

    async def _redacted(self, heard: Heard) -> None:
        """The tool's result as it stands in the record."""
        exchange = await self._stage.ledger.exchange(heard.trace_id)
        messages = exchange.opened.messages if exchange.opened is not None else []
        stored = next((str(each["content"]) for each in messages if each["role"] == "tool"), "")
        self._tell.line("record", f"What the tool showed, as it is stored: {stored}")
        self._tell.check("[redacted:" in stored and KEY not in stored, "The record holds the mask and not the key.")

    async def _tripped(self, agent: Agent) -> None:
        last = agent.heard[-1]
        alerts = [
            each
            for exchange in await self._exchanges(agent.heard)
            for each in exchange.others
            if isinstance(each, Alerted)
        ]
        for alert in alerts:
            self._tell.line("ALERT", f"{alert.cause}: {alert.summary} {alert.release}")
        if last.status == 429:
            self._tell.line("told", str(last.error["message"]))
        self._tell.check(
            last.status == 429 and last.headers.get("x-should-retry") == "false" and len(alerts) == 2,
            f"Agent A made the same call with the same result again and again: an alert at the 2nd repeat, and at "
            f"the 3rd {last.status} with x-should-retry: {last.headers.get('x-should-retry')}, so that SDKs do "
            "not try again.",
        )

    def _audit(self, *words: str) -> None:
        """Run one of the audit commands, as the user would."""
        self._tell.command(f"{self._interlock} audit {' '.join(words)}")
        parser = argparse.ArgumentParser(prog="interlock")
        add_audit_commands(parser.add_subparsers())
        arguments = parser.parse_args(["audit", *words])
        if arguments.run(arguments):
            self._tell.check(False, f"interlock audit {words[0]} did not succeed.")

    def _one(self, exchange: Exchange) -> None:
        """One exchange, record by record."""
        tell, opened, settled = self._tell, exchange.opened, exchange.settled
        if opened is None or settled is None:
            return
        tell.blank()
        tell.plain(f"One of them in short; `{self._interlock} audit show {exchange.id[:8]} …` prints every field:")
        count = len(opened.messages)
        tell.line(
            "opened",
            f"agent {opened.agent}, run {opened.run}, {count} message{'s' * (count > 1)}, model {opened.model}",
        )
        for record in sorted([*exchange.decisions, *exchange.calls], key=lambda each: each.time_ns):
            at = f"+{(record.time_ns - opened.time_ns) / 1e6:.0f} ms"
            match record:
                case Decided():
                    tell.line("decided", f"{at}: {record.stage}: {record.action}, {record.rule or 'no rule'}")
                case CallOutcome():
                    tell.line(
                        "call", f"{at}: {record.name} {record.outcome}; kept of its arguments: {record.arguments}"
                    )
        tell.line("settled", f"{settled.ending}, {settled.answer_bytes:,} bytes; trace {opened.trace_id}")

    # -- counting ----------------------------------------------------------------------------------

    async def _exchanges(self, heard: Sequence[Heard]) -> list[Exchange]:
        return [await self._stage.ledger.exchange(each.trace_id) for each in heard]

    async def _bill(self, exchanges: Sequence[Exchange]) -> None:
        self._sum("cost", exchanges)
        await self._tell.pause(1.5)

    def _sum(self, label: str, exchanges: Sequence[Exchange], more: str = "") -> None:
        settled = [each.settled for each in exchanges if each.settled is not None]
        runs = sorted({each.opened.run for each in exchanges if each.opened is not None})
        named = f"run {runs[0]}" if len(runs) == 1 else f"{len(runs)} runs"
        self._tell.line(
            label,
            f"{named}: {len(exchanges)} exchanges, {sum(each.prompt_tokens for each in settled):,} tokens in, "
            f"{sum(each.completion_tokens for each in settled):,} out, ${sum(each.cost or 0 for each in exchanges):.6f}"
            f"{more}",
        )

    def _sent(self, heard: Heard) -> Spelled:
        return Spelled.of(self._stage.tap.answer(heard.trace_id))

    def _halves(self) -> tuple[int, int]:
        half = (self._tell.room - 2) // 2
        return half, half
