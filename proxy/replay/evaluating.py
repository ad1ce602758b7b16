"""`interlock policy eval`: one exchange, stage by stage: its input, who was asked, which rules fired, what follows.

Exit status: 0 nothing stops it, 1 something does, 2 it could not be asked (no such exchange, a file that is none).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from pydantic import ValidationError
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from policies.authoring.opa_tool import OpaFailedError, OpaMissingError, OpaTool
from policies.bundle import Bundle, PolicyEntry, merged
from policies.in_force import rollout_of
from policies.model import Mode, Stage
from policies.modes import UnknownPolicyError
from policies.service import PolicySet
from policies.text_rules import wakes
from proxy.replay.commands import UsageError, add_state_argument, guarded, state_of
from proxy.replay.explain import Explainer, RuleSeen
from proxy.replay.files import FROM_FILE, FileError, exchange_in, settings_in
from proxy.replay.judging import Rejudge, Said
from proxy.replay.running import Sets, masked
from proxy.replay.stored import Stored, stored
from proxy.replay.tally import STOPS, stopped_then
from serving.config_file import load
from serving.settings import Settings
from serving.text import printable
from tracing.exchange import Exchange, utc
from tracing.lookup import entries_of

PASSES, STOPPED = 0, 1
_ID = 80
_VALUE = 400
_WIDE = 160


def add_eval_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``eval``; it sets ``run``, a function from the parsed arguments to the exit status."""
    parser = commands.add_parser(
        "eval",
        help="one exchange, stage by stage: which rules fired, with file and line",
        description="Judges one exchange again and says, for each place where policies are asked, what they were "
        "shown, which rules fired, where the others stopped, and what follows. Lines need `opa` on the PATH (or "
        "INTERLOCK_OPA). Changes nothing.",
        epilog="exit status: 0 nothing stops it; 1 something does; 2 it could not be asked",
    )
    parser.add_argument(
        "exchange", metavar="EXCHANGE|FILE", help="an exchange's id, or the beginning of it; or a JSON file of one"
    )
    parser.add_argument("--bundle", type=Path, metavar="B", help="policies to ask (the settings', else the library)")
    parser.add_argument(
        "--policy", action="append", default=[], metavar="NAME", help="ask this policy only, as enforced (repeatable)"
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="modes, data and agents as these settings have them"
    )
    add_state_argument(parser)
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="of the shipped policies too: where each rule stopped"
    )
    parser.add_argument("--json", action="store_true", help="as JSON, with the whole inputs, unmasked")
    parser.set_defaults(run=guarded(_eval))


def _eval(arguments: argparse.Namespace) -> int:
    settings = _with_settings(load(arguments.config), settings_in(Path(arguments.exchange)))
    bundle = Bundle.load(arguments.bundle or settings.policies.bundle)
    try:
        sets = Sets(bundle, settings, rollout=rollout_of(settings.policies, bundle), only=arguments.policy)
    except UnknownPolicyError as error:
        if arguments.bundle is None and settings.policies.bundle is None:
            raise UsageError(f"{error}; this is the bundle that comes with Interlock, --bundle names yours") from None
        raise
    x = _exchange(arguments, settings)
    policies = sets.of(x.agent, x.team)
    as_then = arguments.bundle is None and any(one.decision.get("bundle") == policies.digest for one in x.decided)
    rejudge = Rejudge(policies, json_depth=settings.limits.json_depth, as_then=as_then, tools=sets.tools)
    said = asyncio.run(_asked(rejudge, x))
    rules, hint = _rules(policies, said)
    if arguments.json:
        print(json.dumps(as_json(x, policies, said, rules), ensure_ascii=True))
    else:
        console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)
        for line in report(x, policies, said, rules, every=arguments.verbose or bool(arguments.policy)):
            console.print(line)
        if hint:
            console.print(Text(hint, style="yellow"))
    return STOPPED if any(one.stopped_by for one in said) else PASSES


def _with_settings(settings: Settings, over: dict[str, Any]) -> Settings:
    if not over:
        return settings
    try:
        return Settings.model_validate(merged(settings.model_dump(exclude_unset=True), over))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise UsageError(f"settings: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _exchange(arguments: argparse.Namespace, settings: Settings) -> Stored:
    name: str = arguments.exchange
    if Path(name).is_file():
        try:
            return exchange_in(Path(name))
        except FileError as error:
            raise UsageError(str(error)) from None
    if name.endswith(".json") or "/" in name:
        raise UsageError(f"{name}: no such file")
    state = state_of(arguments, settings)
    found = entries_of(state, name)
    if name in found:
        found = {name: found[name]}
    if len(found) != 1:
        such = ", ".join(printable(one, 40) for one in sorted(found)[:10])
        said = f"{len(found)} exchanges begin with {printable(name, _ID)}: {such}" if found else "no such exchange"
        raise UsageError(f"{said} in {state}" if not found else said)
    ((exchange_id, entries),) = found.items()
    exchange = Exchange(exchange_id)
    for entry in entries:
        exchange.add(entry.record)
    x = stored(exchange)
    if x is None:
        raise UsageError(f"exchange {exchange_id}: its beginning is not on record")
    return x


async def _asked(rejudge: Rejudge, x: Stored) -> list[Said]:
    try:
        return await rejudge.exchange(x)
    finally:
        await rejudge.policies.close()


def _rules(policies: PolicySet, said: list[Said]) -> tuple[dict[int, list[RuleSeen]], str]:
    """The rules at each place, and what to tell if they cannot be had."""
    try:
        with Explainer(policies.bundle, OpaTool.find()) as explainer:
            return {
                at: explainer.rules(one.question, one.decision.asked, _found(one))
                for at, one in enumerate(said)
                if one.question is not None and one.decision is not None
            }, ""
    except (OpaMissingError, OpaFailedError) as error:
        return {}, f"which lines fired is not known: {printable(error, 300)}"


def _found(one: Said) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for entry in one.decision.findings if one.decision is not None else ():
        found.setdefault(entry.policy, set()).add(entry.finding.id)
    return found


# -- what is printed -----------------------------------------------------------------------------------


def report(
    x: Stored, policies: PolicySet, said: list[Said], rules: dict[int, list[RuleSeen]], *, every: bool
) -> list[RenderableType]:
    """What is printed, from top to bottom. Texts of the traffic are masked and printable. ``every``: where the shipped
    policies' rules stopped is told too."""
    opened = f"{utc(x.opened_ns)[:19]} UTC  " if x.opened_ns else ""
    parts: list[RenderableType] = [
        Text(f"exchange {printable(x.id, _ID)}", style="bold"),
        Text(f"{opened}agent {printable(x.agent, 60)}  {x.api}  run {printable(x.run.id, 20)} step {x.run.step}"),
        Text(f"bundle {policies.digest.removeprefix('sha256:')[:12]}, engine {policies.engine}"),
    ]
    if not said:
        why = "no policy in force is asked about it" if x.judged else "it was refused before any policy was asked"
        parts.append(Text(f"\n{why}"))
        parts += _waiting(policies) if x.judged else ()
    for at, one in enumerate(said):
        parts += _place(x, policies, one, rules.get(at, []), every=every)
    return [*parts, _outcome(x, said)]


def _waiting(policies: PolicySet) -> Iterator[Text]:
    """What one's own policies would be asked about; of the shipped ones only where there are no others."""
    names = sorted(policies.modes)
    own = [name for name in names if not name.startswith("interlock.")]
    for name in own or names:
        entry = policies.entry(name)
        stages = " and ".join(sorted(stage.value for stage in entry.stages))
        signals = f" where a signal of {', '.join(entry.patterns) or 'its sets'} is" if _only_signals(entry) else ""
        data = f"; its data has none of {', '.join(entry.needs)}" if name not in _awake(policies) else ""
        yield Text(f"  {name} ({policies.modes[name].value}) is asked about: {stages}{signals}{data}", style="dim")


def _only_signals(entry: PolicyEntry) -> bool:
    return all(set(reads) == {"signals"} for reads in entry.stages.values())


def _awake(policies: PolicySet) -> set[str]:
    """The policies whose data give them something to say."""
    return {name for stage in Stage for name in policies.asked(stage)}


def _outcome(x: Stored, said: list[Said]) -> Text:
    stops = [one for one in said if one.stopped_by is not None]
    if stops:
        words = Text("\n").append("stopped", style="bold red").append(f" by {printable(stops[0].stopped_by, 120)}")
    elif any(gap.enforced for one in said for gap in one.missing):
        words = Text("\n").append("not known", style="bold yellow").append(": not every policy could be asked")
    else:
        words = Text("\n").append("passes", style="bold green")
        if waiting := _would_stop(said):
            words.append(f"; enforced, it would be stopped by {', '.join(waiting)}")
    if then := stopped_then(x):
        words.append(f"; then, stopped by {', '.join(sorted({printable(rule, 120) for rule in then.values()}))}")
    elif x.id != FROM_FILE:
        words.append("; then, it passed")
    return words


def _would_stop(said: list[Said]) -> list[str]:
    """The rules that find what they would stop, in modes that stop nothing."""
    return sorted(
        {
            f"{entry.policy}/{entry.finding.id}"
            for one in said
            if one.decision is not None and not one.recorded
            for entry in one.decision.findings
            if entry.mode is not Mode.ENFORCE and entry.finding.action.value in STOPS
        }
    )


def _place(x: Stored, policies: PolicySet, one: Said, rules: list[RuleSeen], *, every: bool) -> list[RenderableType]:
    stop = one.stopped_by
    outcome = Text(f"stopped by {printable(stop, 120)}", style="bold red") if stop else Text("passes", style="green")
    if one.recorded:
        outcome = Text("recorded only", style="dim")
    elif not stop and any(gap.enforced for gap in one.missing):
        outcome = Text("not known", style="yellow")
    rows = Rows()
    if one.question is not None:
        _input(rows, policies, one)
    elif one.about is not None:
        rows.add("call", masked(f"{one.about.name} {one.about.arguments}"))
        rows.add("asked", "nobody: it is denied unasked" if stop else "nobody")
    if one.decision is not None:
        _asked_rows(rows, policies, one)
        _findings(rows, one)
        _rules_rows(rows, one, rules, every=every)
        for error in one.decision.errors:
            rows.add("failed", f"{error.policy} ({error.cause}): {printable(error.message, 200)}", "red")
        if one.decision.refusal:
            rows.add("told", printable(one.decision.refusal, 400))
    if one.as_then:
        rows.add("as then", f"{', '.join(one.as_then)}: what it reads is not on record, its answer is")
    for gap in one.missing:
        rows.add("unknown", f"{gap.policy} reads {gap.field}: {gap.why}", "yellow")
    if one.missing:
        _then(rows, x, one)
    return [Text.assemble("\n", (one.place, "bold cyan"), f"  stage {one.stage.value}  ", outcome), rows.table]


class Rows:
    """Lines below a place: a word, and what there is to say under it."""

    def __init__(self) -> None:
        self.table = Table.grid(padding=(0, 2, 0, 0))
        self.table.add_column(width=9, style="dim", justify="right")
        self.table.add_column(overflow="fold")
        self._last = ""

    def add(self, name: str, text: str | Text, style: str = "") -> None:
        self.table.add_row("" if name == self._last else name, text if isinstance(text, Text) else Text(text, style))
        self._last = name


def _input(rows: Rows, policies: PolicySet, one: Said) -> None:
    """The parts of the input that a policy is shown, a line each; long values are cut."""
    assert one.question is not None
    plain = one.question.model_dump(mode="json", exclude_defaults=True)
    wanted = {".".join(name.split(".")[:2]) for name in policies.reads(one.stage) - {"*"}} or set(plain)
    for name in sorted(name for name in wanted if name.partition(".")[0] not in wanted - {name}):
        part, _, below = name.partition(".")
        value = plain.get(part)
        if below:
            value = value.get(below) if isinstance(value, dict) else None
        shown = "–" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        rows.add("shown", Text.assemble((f"input.{name} ", "dim"), _short(shown)))


def _asked_rows(rows: Rows, policies: PolicySet, one: Said) -> None:
    assert one.decision is not None and one.question is not None
    rows.add("asked", ", ".join(f"{name} ({policies.modes[name].value})" for name in one.decision.asked) or "nobody")
    waits = [
        name
        for name, reads in policies.asked(one.stage).items()
        if name not in one.decision.asked and not wakes(policies.entry(name), reads, one.question.signals)
    ]
    if waits:
        rows.add("not asked", f"{', '.join(sorted(waits))}: no signal that they wait for", "dim")


def _findings(rows: Rows, one: Said) -> None:
    assert one.decision is not None
    for entry in one.decision.findings:
        found = entry.finding
        text = Text(f"{entry.policy}/{found.id}", style="bold")
        rows.add(
            "found", text.append(f"  {found.action.value}, {found.severity.value} ({entry.mode.value})", "not bold")
        )


def _rules_rows(rows: Rows, one: Said, rules: list[RuleSeen], *, every: bool) -> None:
    """The rules that fired, and where the others stopped."""
    for rule in rules:
        if rule.fired:
            rows.add("fired", f"{rule.file}:{rule.row}  {', '.join(rule.ids)}".rstrip(), "red")
    left_out = 0
    for rule in rules:
        if rule.fired:
            continue
        if not every and rule.policy.startswith("interlock."):
            left_out += 1
            continue
        name = f" ({', '.join(rule.ids)})" if rule.ids else ""
        rows.add(
            "stopped", f"{rule.file}:{rule.row}{name} at line {rule.stopped_at}: {printable(rule.text, 160)}", "dim"
        )
    if left_out:
        rows.add("stopped", f"{left_out} rules of shipped policies (-v says where)", "dim")


def _then(rows: Rows, x: Stored, one: Said) -> None:
    """What was found then, where it cannot be found again."""
    for decided in x.decided:
        if (decided.stage, decided.surface) == (one.stage.value, one.place):
            for entry in decided.decision.get("findings") or ():
                found = entry["finding"]
                rows.add("then", printable(f"{entry['policy']}/{found['id']}  {found['action']} ({entry['mode']})"))


def _short(text: str) -> str:
    return printable(masked(text) if len(text) < _VALUE else masked(text[:_VALUE]), _VALUE)


def as_json(x: Stored, policies: PolicySet, said: list[Said], rules: dict[int, list[RuleSeen]]) -> dict[str, Any]:
    """The same as plain data, with the inputs as they are."""
    places = []
    for at, one in enumerate(said):
        places.append(
            {
                "place": one.place,
                "stage": one.stage.value,
                "stopped_by": one.stopped_by,
                "input": None if one.question is None else one.question.model_dump(mode="json"),
                "decision": None if one.decision is None else one.decision.model_dump(mode="json"),
                "rules": [msgspec.to_builtins(rule) for rule in rules.get(at, ())],
                "unknown": [msgspec.to_builtins(gap) for gap in one.missing],
            }
        )
    return {
        "exchange": x.id,
        "agent": x.agent,
        "bundle": policies.digest,
        "modes": {name: mode.value for name, mode in sorted(policies.modes.items())},
        "then": stopped_then(x),
        "places": places,
    }
