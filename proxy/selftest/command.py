"""The ``selftest`` command: its arguments, its exit status, and one line for what keeps it from running."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import uvloop
from rich.console import Console

from policies.bundle import BundleError
from policies.engines.base import EngineError
from policies.in_force import rollout_of
from policies.model import Mode
from policies.modes import unknown_policies
from policies.service import effective_bundle
from proxy.reloading import with_bundle
from proxy.selftest.report import as_json, counts, show
from proxy.selftest.running import all_cells, asked, logging_to, recording_all
from proxy.selftest.verdicts import Verdict, Verdicts, finders_of
from proxy.serve_cli import add_config_flag
from serving.config_file import ConfigError, load
from serving.launch.commands import LaunchError
from serving.launch.process import ChildFailed
from serving.settings import Settings
from serving.text import printable
from tracing.journal import JournalError
from tracing.prices import PriceBookError

PASSED, LEAKED, UNABLE = 0, 1, 2
_REFERENCE = "chat"

Results = dict[str | None, list[Verdict]]
Modes = dict[str | None, dict[str, Mode]]
"""By agent; None is whoever asks where nobody has a key."""

_DESCRIPTION = """\
Stands an Interlock with the settings in force before a built-in model server whose answers carry canaries:
destructive commands and secrets in calls, in calls left in plain text, in text and in reasoning, and calls that only a
tool's result asked for; and sends requests that carry them. Every API, streamed and whole, one choice and two. Says of
each cell: pass (the canary was stopped), leak (a policy was to stop it, and it came through), or unjudged (no policy in
force was to stop it).

It runs in this process on free ports of loopback, and writes to a temporary folder that goes away. It touches neither a
running Interlock nor its budgets, record and alerts; no model is asked.
"""
_EPILOG = """\
exit status: 0 no leak; 1 a leak; 2 it could not be run
"""


def add_selftest_command(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``selftest``."""
    parser = subparsers.add_parser(
        "selftest",
        help="do the settings stop what they should: canaries on every API",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_flag(parser)
    parser.add_argument(
        "--agent", action="append", metavar="NAME", help="test what holds for this agent; may be repeated (all of them)"
    )
    parser.add_argument(
        "--expect", nargs="+", action="extend", default=[], metavar="POLICY", help="what it finds is to be stopped"
    )
    parser.add_argument("--all", action="store_true", help="what any policy of the bundle finds is to be stopped")
    parser.add_argument("--as-model", default="canary", metavar="NAME", help="the model that the requests name")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    try:
        settings = load(arguments.config)
        return uvloop.run(_test(settings, arguments))
    except ConfigError as error:
        return _refuse(*map(str, error.problems))
    except (BundleError, EngineError, LaunchError, ChildFailed, PriceBookError, JournalError, ValueError) as error:
        return _refuse(str(error))
    except OSError as error:
        return _refuse(f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
    except KeyboardInterrupt:
        return _refuse("interrupted")


async def _test(settings: Settings, arguments: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="interlock-selftest-") as name:
        folder = Path(name)
        with logging_to(folder / "log"), Console(stderr=True).status("asking on every API"):
            results, modes = await _tested(settings, arguments, folder)
    _tell(results, modes, arguments)
    return LEAKED if any(counts(verdicts)["leak"] for verdicts in results.values()) else PASSED


async def _tested(settings: Settings, arguments: argparse.Namespace, folder: Path) -> tuple[Results, Modes]:
    settings = await _with_bundle_at_hand(settings, folder)
    bundle = effective_bundle(settings.policies, settings.agents)
    rollout = rollout_of(settings.policies, bundle)
    names = [entry.name for entry in bundle.policies]
    unknown_policies(names, arguments.expect, "--expect")
    expected = frozenset(names if arguments.all else arguments.expect)
    agents = _agents(settings, arguments.agent)
    modes = {agent: rollout.modes(names, agent or "anonymous", _team(settings, agent)) for agent in agents}
    cells = all_cells()
    shadow, model = recording_all(settings, names), arguments.as_model
    reference = [cell for cell in cells if cell.form.name == _REFERENCE and not cell.stream]
    finders = finders_of(await asked(shadow, agents[0], model, reference, folder / "reference"))
    results: Results = {}
    for number, agent in enumerate(agents):
        verdicts = Verdicts(finders, modes[agent], frozenset(names), expected)
        seen = await asked(settings, agent, model, cells, folder / f"agent-{number}")
        results[agent] = [verdicts.of(one) for one in seen]
    return results, modes


async def _with_bundle_at_hand(settings: Settings, folder: Path) -> Settings:
    """A bundle that is fetched is fetched once, to the folder of the test."""
    if settings.policies.bundle_url is None:
        return settings
    fetched = await with_bundle(settings.model_copy(update={"state_dir": folder}), [])
    policies = fetched.policies.model_copy(update={"bundle_url": None})
    return settings.model_copy(update={"policies": policies})


def _agents(settings: Settings, wanted: list[str] | None) -> list[str | None]:
    """Those to test: the ones named, or all that have keys; without keys there is one, who is nobody."""
    known = [name for name, agent in settings.agents.items() if agent.keys]
    if strangers := sorted(set(wanted or []) - set(known)):
        has = ", ".join(known) or "none, so every caller is anonymous"
        raise ValueError(f"--agent: {', '.join(strangers)} has no key in the settings; agents that have: {has}")
    return [*(wanted or known)] or [None]


def _team(settings: Settings, agent: str | None) -> str | None:
    return settings.agents[agent].team if agent is not None else None


def _tell(results: Results, modes: Modes, arguments: argparse.Namespace) -> None:
    if arguments.json:
        json.dump({"agents": [as_json(agent, verdicts) for agent, verdicts in results.items()]}, sys.stdout, indent=1)
        print()
        return
    console = Console(highlight=False)
    for agent, verdicts in results.items():
        enforced = sorted(name for name, mode in modes[agent].items() if mode is Mode.ENFORCE)
        console.print(f"[bold]{agent or 'anonymous'}[/]  enforced: {', '.join(enforced) or 'nothing'}")
        console.print()
        show(console, verdicts)
        concerned = {policy for verdict in verdicts for policy in verdict.policies}
        if untried := [name for name in enforced if name not in concerned]:
            console.print(
                f"Enforced, and no canary is theirs: {', '.join(untried)} (`interlock policy test` tries them)"
            )
        if not any(v.outcome == "pass" for v in verdicts if v.cell.surface.name == "lawful"):
            console.print("[bold red]No lawful answer arrives, so a pass above may mean nothing.[/]")


def _refuse(*why: str) -> int:
    for line in why:
        print(f"interlock selftest: {printable(line, 2000)}", file=sys.stderr)
    return UNABLE
