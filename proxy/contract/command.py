"""The command: arguments, what to ask of the two servers before the first case, and the exit status."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from contextlib import AsyncExitStack
from datetime import UTC, datetime

from rich.console import Console
from rich.progress import Progress

from proxy.contract.answer import Answer, NoAnswer
from proxy.contract.cases import Ask, chosen, groups, matrix
from proxy.contract.client import Request, Target, ask
from proxy.contract.matrix import CannotRun, Run
from proxy.contract.report import as_json, printed
from proxy.contract.tap import tapped
from serving.text import printable

_DESCRIPTION = """\
Send a matrix of requests to a model server directly and through a proxy in front of it, and print every
difference between the answers: status, headers, fields, bytes, how streams are cut into events, and whether they
are held until their end. Works on any OpenAI-compatible proxy. Values that a server makes anew each time (random
ids, timestamps, dates) are masked by their shape; docs/contract.md says exactly which. Cases that differ are asked
for again, so that the server's own chance is not the proxy's fault.
"""

_EPILOG = """\
examples:
  interlock contract --direct http://127.0.0.1:8000 --proxy http://127.0.0.1:8080
  interlock contract --direct http://gpu:8000 --proxy http://gpu:4000 --proxy-key sk-1234 --only chat/
  interlock contract --direct … --proxy … --only 'messages/*streamed' --json > differences.json
  interlock contract --direct … --proxy … --skip hiding/     without what a proxy that judges must refuse
  interlock contract --list

Keys can be given as INTERLOCK_CONTRACT_KEY and INTERLOCK_CONTRACT_PROXY_KEY, where no `ps` shows them.

exit status: 0 no difference; 1 there are differences; 2 it could not be run (a server does not answer, wrong key)
"""

WIDTH = 160
"""Columns of a table that goes into a file."""


def add_contract_command(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``contract``."""
    parser = subparsers.add_parser(
        "contract",
        help="what a proxy changes: the same requests directly and through it",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--direct", metavar="URL", help="the model server (vLLM), as the proxy reaches it")
    parser.add_argument("--proxy", metavar="URL", help="the proxy in front of that same server")
    parser.add_argument("--model", metavar="NAME", help="the model to ask for (the first that --direct lists)")
    parser.add_argument("--key", metavar="KEY", help="the model server's API key")
    parser.add_argument("--proxy-key", metavar="KEY", help="the proxy's API key (the same as --key)")
    parser.add_argument(
        "--only",
        metavar="PATTERN",
        action="append",
        default=[],
        help="only cases with this in their name, or that match it (*, ?); may be repeated",
    )
    parser.add_argument("--skip", metavar="PATTERN", action="append", default=[], help="not these cases; likewise")
    parser.add_argument(
        "--tap",
        metavar="PORT",
        type=int,
        help="listen on this loopback port in front of --direct and compare what reaches it, too; the proxy's "
        "upstream must be http://127.0.0.1:PORT",
    )
    parser.add_argument("--tries", metavar="N", type=_positive, default=4, help="ask for what differs N times (4)")
    parser.add_argument("--timeout", metavar="S", type=float, default=120.0, help="seconds for one answer (120)")
    parser.add_argument("--all", action="store_true", help="every difference of every case, not the first six")
    parser.add_argument("--json", action="store_true", help="as JSON, with every case")
    parser.add_argument("--list", action="store_true", help="print the cases' names and stop")
    parser.set_defaults(run=_run)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _run(arguments: argparse.Namespace) -> int:
    asks = chosen(matrix(groups()), arguments.only, arguments.skip)
    if arguments.list:
        for one in asks:
            print(one.name)
        return 0
    try:
        if not asks:
            raise CannotRun(f"no case matches {', '.join(arguments.only)}; `--list` prints their names")
        run = asyncio.run(_ask_all(arguments, asks))
    except CannotRun as error:
        print(printable(f"interlock contract: {error}", 1000), file=sys.stderr)
        return 2
    if arguments.json:
        print(as_json(run, datetime.now(UTC)))
    else:
        printed(run, Console(width=None if sys.stdout.isatty() else WIDTH), every=arguments.all)
    return 1 if any(outcome.verdict == "differs" for outcome in run.outcomes) else 0


async def _ask_all(arguments: argparse.Namespace, asks: list[Ask]) -> Run:
    direct, proxy = _targets(arguments)
    async with AsyncExitStack() as stack:
        tap = None
        if arguments.tap is not None:
            try:
                tap = await stack.enter_async_context(tapped(direct, arguments.tap))
            except OSError as error:
                raise CannotRun(f"--tap {arguments.tap}: {error.strerror}") from None
        listed = await _models(direct, "--key", arguments.timeout)
        await _models(proxy, "--proxy-key", arguments.timeout)
        if arguments.model is None and not listed:
            raise CannotRun(f"{direct.url} lists no model; give --model")
        model = arguments.model or listed[0][0]
        run = Run(direct, proxy, model, dict(listed).get(model), arguments.tries, arguments.timeout, tap)
        with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
            task = progress.add_task("asking", total=len(asks))
            await run.through(asks, lambda outcome: progress.advance(task))
        return run


def _targets(arguments: argparse.Namespace) -> tuple[Target, Target]:
    """The server and the proxy. Raises :class:`CannotRun` where they are not given, or are no URLs."""
    if not arguments.direct or not arguments.proxy:
        raise CannotRun("--direct and --proxy are needed: the model server, and the proxy in front of it")
    key = arguments.key or os.environ.get("INTERLOCK_CONTRACT_KEY")
    proxy_key = arguments.proxy_key or os.environ.get("INTERLOCK_CONTRACT_PROXY_KEY") or key
    try:
        return Target.of(arguments.direct, key), Target.of(arguments.proxy, proxy_key)
    except ValueError as error:
        raise CannotRun(str(error)) from None


async def _models(target: Target, flag: str, seconds: float) -> list[tuple[str, int | None]]:
    """The names of the models that a server lists, each with how many tokens it takes if that is said."""
    try:
        answer = await ask(target, Request("GET", "/v1/models"), seconds)
    except NoAnswer as error:
        raise CannotRun(f"{target.url} does not answer: {error}") from None
    if answer.status in (401, 403):
        raise CannotRun(f"{target.url} wants a key ({answer.status} {answer.reason}): give {flag}")
    return list(_listed(answer))


def _listed(answer: Answer) -> list[tuple[str, int | None]]:
    try:
        entries = json.loads(answer.body)["data"]
        return [
            (str(entry["id"]), length if isinstance(length := entry.get("max_model_len"), int) else None)
            for entry in entries
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []
