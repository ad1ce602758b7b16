"""``interlock audit …``: verify the record, list exchanges, show one.

Exit status: 0 all is well; 1 ``verify`` found a fault, or nothing was found to show; 2 the question could not
be asked (no journal, unreadable files, a wrong argument).

What is printed may come from an attacker, so every text passes ``printable`` and none is read as markup.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.text import Text

from serving.text import printable
from tracing.alerts import Alert
from tracing.audit import UNPROVEN, Head, verify
from tracing.exchange import Exchange, utc
from tracing.lookup import entries_of, facts, find_exchanges, parse_since
from tracing.records import AnyRecord
from tracing.segments import Entry, ReadFault, chains

_DEFAULT_STATE = "~/.local/state/interlock"


def add_audit_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``audit`` with its commands; each sets ``run``, a function from the parsed arguments to the exit
    status."""
    audit = subparsers.add_parser("audit", help="verify, list and show the record")
    commands = audit.add_subparsers(title="commands", required=True, metavar="COMMAND")

    check = commands.add_parser(
        "verify",
        help="find changed, removed and swapped records, offline",
        description="Check every chain of the journal from its first record. Needs no running Interlock.",
    )
    check.add_argument(
        "--head",
        action="append",
        default=[],
        metavar="CHAIN:SEQ:HASH",
        help="a head that you noted down from an earlier verify; it must still be there (repeatable)",
    )
    check.set_defaults(run=_asking(_verify))

    show = commands.add_parser("show", help="everything that the record holds of one exchange")
    show.add_argument("exchange", metavar="EXCHANGE", help="its id, or the beginning of it")
    show.set_defaults(run=_asking(_show))

    listing = commands.add_parser("list", help="exchanges, newest last")
    listing.add_argument("--agent", help="of this agent only")
    listing.add_argument("--run", dest="run_id", metavar="RUN", help="of this run only (or beginning of its id)")
    listing.add_argument("--since", metavar="WHEN", help="90m, 24h, 7d, or a date like 2026-11-21T14:00 (UTC)")
    listing.add_argument("--denied", action="store_true", help="only where something was refused, denied or cut")
    listing.add_argument("--limit", type=int, default=50, metavar="N", help="the newest N (50; 0: all)")
    listing.set_defaults(run=_asking(_list))

    schema = commands.add_parser("schema", help="the JSON Schema of the records, or of alerts as webhooks get them")
    schema.add_argument("of", choices=("records", "alert"), nargs="?", default="records")
    schema.set_defaults(run=_schema)

    for command in (check, show, listing):
        command.add_argument(
            "--state-dir",
            type=Path,
            default=Path(os.environ.get("INTERLOCK_STATE_DIR") or _DEFAULT_STATE),
            help="the state folder (INTERLOCK_STATE_DIR; %(default)s)",
        )
        command.add_argument("--json", action="store_true", help="as JSON")


def _asking(command: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """``command``, with exit status 2 where the files cannot be read."""

    def run(arguments: argparse.Namespace) -> int:
        try:
            return command(arguments)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has seen enough
            return 0
        except OSError as error:
            return _cannot(str(error))

    return run


def _schema(arguments: argparse.Namespace) -> int:
    schema = Alert.model_json_schema() if arguments.of == "alert" else msgspec.json.schema(AnyRecord)
    print(json.dumps(schema, indent=2))
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    try:
        state = _state(arguments)
        heads = [Head.parse(text) for text in arguments.head]
    except ValueError as error:
        return _cannot(str(error))
    if state is None:
        return 2
    report = verify(state, heads)
    if arguments.json:
        print(msgspec.json.encode({**_plain(report), "unproven": UNPROVEN}).decode())
        return 1 if report.faults else 0
    console = _console()
    for chain in report.chains:
        console.print(
            Text(f"{chain.chain}: {chain.records} records in {chain.segments} segments of {chain.epochs} epochs")
        )
        if chain.records:
            console.print(Text(f"  from {utc(chain.first_ns)} to {utc(chain.last_ns)}", style="dim"))
            console.print(Text(f"  head {chain.chain}:{chain.last_seq}:{chain.head}", style="dim"))
        if chain.note:
            console.print(Text(f"  note: {printable(chain.note, 300)}", style="yellow"))
    for fault in report.faults:
        place = f"{fault.file}" + (f":{fault.line}" if fault.line else "")
        seq = "" if fault.seq is None else f" (sequence {fault.seq})"
        console.print(Text(f"FAULT {printable(place, 400)}{seq}: {printable(fault.what, 400)}", style="bold red"))
    if report.faults:
        console.print(Text(f"The record is NOT whole: {len(report.faults)} faults.", style="bold red"))
    else:
        console.print(Text("Every record is as it was written, in its place.", style="bold green"))
    console.print(Text("What this cannot show:", style="dim"))
    for line in UNPROVEN:
        console.print(Text(f"  - {line}", style="dim"))
    return 1 if report.faults else 0


def _show(arguments: argparse.Namespace) -> int:
    state = _state(arguments)
    if state is None:
        return 2
    faults: list[ReadFault] = []
    found = entries_of(state, arguments.exchange, faults)
    _warn(faults)
    if arguments.exchange in found:
        found = {arguments.exchange: found[arguments.exchange]}
    if not found:
        print(f"no exchange {printable(arguments.exchange, 80)!r} in {state}", file=sys.stderr)
        return 1
    if len(found) > 1:
        several = ", ".join(printable(name, 80) for name in islice(found, 10))
        print(f"{len(found)} exchanges begin so: {several}", file=sys.stderr)
        return 1
    ((_, entries),) = found.items()
    if arguments.json:
        for entry in entries:
            place = {"chain": entry.chain, "file": entry.file.name, "line": entry.line, "seq": entry.seq}
            print(json.dumps({**place, "record": msgspec.to_builtins(entry.record)}))
        return 0
    _print_story(entries)
    return 0


def _list(arguments: argparse.Namespace) -> int:
    state = _state(arguments)
    if state is None:
        return 2
    try:
        since = parse_since(arguments.since) if arguments.since else 0
    except ValueError as error:
        return _cannot(str(error))
    faults: list[ReadFault] = []
    found = find_exchanges(
        state, agent=arguments.agent, run=arguments.run_id, since_ns=since, denied=arguments.denied, faults=faults
    )
    shown = list(deque(found, arguments.limit) if arguments.limit > 0 else found)
    shown.sort(key=lambda exchange: exchange.opened.time_ns if exchange.opened else 0)
    _warn(faults)
    if arguments.json:
        for exchange in shown:
            print(json.dumps(_row(exchange)))
        return 0
    console = _console()
    for line in _listing([_row(exchange) for exchange in shown], console.width if console.is_terminal else None):
        console.print(line)
    print(f"{len(shown)} exchanges", file=sys.stderr)
    return 0


def _row(exchange: Exchange) -> dict[str, Any]:
    opened, settled = exchange.opened, exchange.settled
    return {
        "opened": utc(opened.time_ns) if opened else None,
        "exchange": exchange.id,
        "agent": opened.agent if opened else None,
        "run": opened.run if opened else None,
        "step": opened.step if opened else None,
        "model": opened.model if opened else None,
        "ending": exchange.ending,
        "denied": exchange.denied,
        "rule": exchange.rule,
        "tokens": settled.prompt_tokens + settled.completion_tokens if settled else None,
        "cost_usd": exchange.cost,
    }


_LISTED = ("opened", "exchange", "agent", "run", "step", "ending", "tokens", "USD")


def _listing(rows: list[dict[str, Any]], width: int | None) -> Iterator[Text]:
    """A line for each exchange, under a heading. Where rules have no room in ``width`` columns (null: endless),
    each stands on a line of its own. Ids are cut to what ``show`` needs."""
    cells = [[*map(_cell, _listed(row))] for row in rows]
    widths = [max(map(len, column)) for column in zip(_LISTED, *cells, strict=True)]
    rules = [_cell(row["rule"]) for row in rows]
    beside = width is None or sum(widths) + 2 * len(widths) + max(map(len, rules), default=0) <= width
    yield Text(_aligned(_LISTED, widths) + ("  rule" if beside else ""), style="bold")
    for row, texts, rule in zip(rows, cells, rules, strict=True):
        line = _aligned(texts, widths)
        if rule:
            line += f"  {rule}" if beside else f"\n    {rule}"
        yield Text(line.rstrip(), style="red" if row["denied"] else "")


def _listed(row: dict[str, Any]) -> tuple[object, ...]:
    opened = "" if row["opened"] is None else str(row["opened"])[5:19]
    run = "" if row["run"] is None else str(row["run"])[:8]
    cost = "" if row["cost_usd"] is None else f"{row['cost_usd']:.6f}"
    return (opened, row["exchange"][:8], row["agent"], run, row["step"], row["ending"], row["tokens"], cost)


def _cell(value: object) -> str:
    return printable("" if value is None else value, 60)


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    """The last two are numbers."""
    last = len(cells) - 2
    return "  ".join(
        cell.rjust(width) if place >= last else cell.ljust(width)
        for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )


def _print_story(entries: list[Entry]) -> None:
    console = _console()
    begin = entries[0].record.time_ns
    console.print(Text(f"exchange {printable(entries[0].record.exchange, 80)}", style="bold"))
    for entry in entries:
        record = entry.record
        kind = str(record.__struct_config__.tag)
        stopped = str(facts(record).get("action") or facts(record).get("outcome") or "") in (
            "deny",
            "denied",
            "terminate",
        )
        console.print(
            Text(f"{utc(record.time_ns)}  +{(record.time_ns - begin) / 1e6:9.1f} ms  "),
            Text(kind, style="bold red" if stopped or kind == "refused" else "bold cyan"),
            Text(f"  {entry.chain} {entry.file.name}:{entry.line} seq {entry.seq}", style="dim"),
            sep="",
        )
        for name, value in facts(record).items():
            shown = value if isinstance(value, str) else json.dumps(msgspec.to_builtins(value), ensure_ascii=False)
            console.print(Text(f"    {name}: ", style="dim"), Text(printable(shown, 2000)), sep="")


def _state(arguments: argparse.Namespace) -> Path | None:
    state: Path = arguments.state_dir.expanduser()
    if chains(state):
        return state
    _cannot(f"no journal below {state} (--state-dir, INTERLOCK_STATE_DIR)")
    return None


def _cannot(why: str) -> int:
    print(f"interlock audit: {printable(why, 400)}", file=sys.stderr)
    return 2


def _warn(faults: list[ReadFault]) -> None:
    for fault in faults[:10]:
        print(
            f"{fault.file.name}:{fault.line} cannot be read ({fault.reason}); run: interlock audit verify",
            file=sys.stderr,
        )


def _plain(value: object) -> dict[str, Any]:
    plain = msgspec.to_builtins(value, enc_hook=str)
    return dict(plain)


def _console() -> Console:
    console = Console(highlight=False)
    console.soft_wrap = not console.is_terminal
    return console
