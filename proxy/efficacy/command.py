"""`interlock bench efficacy`: judges a file of cases, prints what was caught and what was stopped wrongly."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from checks.verdict import CheckFailed
from policies.bundle import Bundle, BundleError
from policies.facts.seen import NO_SETTINGS, ToolTable
from proxy.efficacy.cases import Case, CaseError, cases
from proxy.efficacy.gaps import WHAT
from proxy.efficacy.judging import Scorer, Verdict, injection_policies
from proxy.efficacy.report import as_json, errors, halves, misses, rows
from proxy.efficacy.second_command import second_opinions, settings_of
from serving.config_file import ConfigError

OK, UNABLE = 0, 2
_COLUMNS = 140
"""Of tables that go into a file or a pipe."""


def add_bench_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    bench = subparsers.add_parser("bench", help="score the policies on marked cases")
    commands = bench.add_subparsers(title="commands", required=True, metavar="COMMAND")
    efficacy = commands.add_parser(
        "efficacy",
        help="what the policies catch, and what they stop that they should not",
        description="Judges every line of FILE as live traffic is judged (reader, facts, policies on the embedded "
        "engine) and prints recall and false positives per source. Lines are calls in context or texts; "
        "docs/efficacy.md says what they look like. The policies are those about injected orders, enforced, with "
        "their shipped data.",
    )
    efficacy.add_argument("file", type=Path, metavar="FILE", help="JSON lines")
    efficacy.add_argument("--json", action="store_true", help="one JSON object, with examples of each error")
    efficacy.add_argument("--split", action="store_true", help="attacks by instruction, in two halves")
    efficacy.add_argument("--examples", type=int, default=3, metavar="N", help="errors to show per source (default: 3)")
    efficacy.add_argument("--policy", action="append", metavar="NAME", help="ask this policy instead; may be repeated")
    efficacy.add_argument("--bundle", type=Path, metavar="DIR", help="a bundle other than the shipped one")
    efficacy.add_argument(
        "--config", type=Path, metavar="FILE", help="take the settings `tools` and `checks` from here"
    )
    efficacy.add_argument("--misses", action="store_true", help="why attacks were let by, with counts")
    second = efficacy.add_argument_group(
        "a second opinion",
        "Put the attacks that were let by, the benign cases that were stopped, and as many other benign ones to a "
        "guardrail check, as live traffic puts them to it (docs/checks.md), and say what it would add and cost.",
    )
    second.add_argument(
        "--llm", nargs="?", const="", metavar="URL", help="a model; without URL as `checks.llm` of the settings says"
    )
    second.add_argument("--llm-model", metavar="NAME", help="the model's name at URL")
    second.add_argument("--nemo", nargs="?", const="", metavar="URL", help="a NeMo Guardrails server")
    second.add_argument("--limit", type=_count, metavar="N", help="at most so many attacks of each source")
    second.add_argument("--benign", type=_count, metavar="N", help="so many benign cases (default: as many as attacks)")
    efficacy.set_defaults(run=_run)


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError(text)
    return number


def _run(arguments: argparse.Namespace) -> int:
    console = Console() if sys.stdout.isatty() else Console(width=_COLUMNS)
    try:
        bundle = Bundle.load(arguments.bundle)
        names = arguments.policy or [entry.name for entry in injection_policies(bundle)]
        settings = settings_of(arguments)
        table = ToolTable(settings.tools) if settings is not None else NO_SETTINGS
        verdicts = asyncio.run(_verdicts([*cases(arguments.file)], bundle, names, table))
        seconds = asyncio.run(second_opinions(verdicts, arguments, settings)) if settings is not None else []
    except (OSError, CaseError, BundleError, ConfigError, CheckFailed, ValueError) as error:
        Console(stderr=True).print(f"[bold red]error[/] {escape(str(error))}", soft_wrap=True)
        return UNABLE
    if arguments.json:
        said = as_json(verdicts, names) | {"checks": {one.check: one.as_json() for one in seconds}}
        json.dump(said, sys.stdout, indent=1)
        print()
        return OK
    _print(console, verdicts, names, arguments)
    for one in seconds:
        one.show(console, arguments.examples)
    return OK


async def _verdicts(found: list[Case], bundle: Bundle, names: list[str], table: ToolTable) -> list[Verdict]:
    async with Scorer(bundle, names, table) as scorer:
        return [await scorer.verdict(case) for case in found]


def _print(console: Console, verdicts: list[Verdict], names: list[str], arguments: argparse.Namespace) -> None:
    console.print(f"{len(verdicts)} cases, policies: {', '.join(names)}", soft_wrap=True)
    table = Table("source", "cases", "stopped", "of", "share", "by rule", box=None)
    for row in rows(verdicts):
        rules = ", ".join(f"{rule.removeprefix('interlock.')} {count}" for rule, count in sorted(row.rules.items()))
        table.add_row(escape(row.source), row.kind, str(row.stopped), str(row.cases), f"{row.share:.1%}", escape(rules))
    console.print(table)
    if arguments.split:
        split = Table(
            "source", "half", "attacks", "stopped", "instructions", "stopped always", "at least once", box=None
        )
        for half in halves(verdicts):
            split.add_row(
                escape(half.source),
                half.half,
                str(half.cases),
                f"{half.stopped} ({half.stopped / half.cases:.1%})",
                str(half.instructions),
                str(half.whole),
                str(half.some),
            )
        console.print(split)
    if arguments.misses:
        console.print("\nattacks that were let by", _misses(verdicts), sep="\n")
        for gap in sorted({miss.gap for miss in misses(verdicts)}):
            console.print(f"  {gap}: {WHAT[gap]}", markup=False, highlight=False, soft_wrap=True)
    for what, examples in errors(verdicts, arguments.examples).items() if arguments.examples else ():
        console.print(f"\n{what}", markup=False, highlight=False)
        for example in examples:
            console.print(f"  {example['id']}  {example['call']}", markup=False, highlight=False, soft_wrap=True)
            said = [*example["rules"], *([example["error"]] if example["error"] else []), example["named"]]
            console.print(f"    {'; '.join(filter(None, said))}", markup=False, highlight=False, soft_wrap=True)
            for order in example["orders"]:
                console.print(f"    order: {order}", markup=False, highlight=False, soft_wrap=True)
    seconds = sorted(verdict.seconds for verdict in verdicts) or [0.0]
    console.print(
        f"\nfacts and decision: median {1e3 * seconds[len(seconds) // 2]:.1f} ms, most {1e3 * seconds[-1]:.1f} ms",
        highlight=False,
    )


def _misses(verdicts: list[Verdict]) -> Table:
    table = Table("source", "because", "cases", "instructions", "one of them", box=None)
    for miss in misses(verdicts):
        cells = (miss.source, miss.gap, str(miss.cases), str(miss.instructions), miss.example)
        table.add_row(*map(escape, cells))
    return table
