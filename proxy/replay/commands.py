"""`interlock policy replay`: what a bundle would have done with the exchanges on record.

Exit status, as that of ``diff``: 0 nothing would be newly denied or newly allowed; 1 something would; 2 it could not
be asked (no such bundle, no journal, settings that are wrong).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from policies.bundle import Bundle, BundleError
from policies.in_force import rollout_of
from policies.modes import UnknownPolicyError
from policies.rollout import RolloutError
from proxy.replay.output import as_json, report
from proxy.replay.running import Replay, Sets, replay
from serving.config_file import ConfigError, load
from serving.settings import Settings
from tracing.lookup import find_exchanges, parse_since
from tracing.segments import chains

SAME, CHANGES, UNABLE = 0, 1, 2
_MODES = ("enforce", "warn", "shadow", "off")


class UsageError(ValueError):
    """An argument that cannot be used; says which and what is expected."""


def add_replay_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``replay``; it sets ``run``, a function from the parsed arguments to the exit status."""
    parser = commands.add_parser(
        "replay",
        help="what a bundle would have done with the exchanges on record",
        description="Judges the stored exchanges again, under BUNDLE, and prints what would change: what passed and "
        "would be stopped, what was stopped and would pass, and what cannot be said and why. Every policy counts as "
        "enforced, unless --config, --modes or --policy say otherwise. Changes nothing.",
        epilog="exit status: 0 nothing changes; 1 something is newly denied or newly allowed; 2 it could not be asked",
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="what `interlock policy build` made")
    parser.add_argument("--since", default="7d", metavar="WHEN", help="90m, 24h, 7d, or a date (7d; `all`)")
    parser.add_argument("--agent", help="exchanges of this agent only")
    parser.add_argument(
        "--policy", action="append", default=[], metavar="NAME", help="ask this policy only, as enforced (repeatable)"
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="modes, data and agents as these settings have them"
    )
    parser.add_argument(
        "--modes",
        action="append",
        default=[],
        metavar="NAME=MODE",
        help=f"the mode of a policy: {', '.join(_MODES)} (repeatable, or with commas)",
    )
    parser.add_argument(
        "--against", type=Path, metavar="BUNDLE", help="compare with this bundle, not with what was decided then"
    )
    parser.add_argument("--examples", type=int, default=3, metavar="N", help="examples of each change (3)")
    add_state_argument(parser)
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=guarded(_replay))


def add_state_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state-dir",
        "--state",
        type=Path,
        metavar="DIR",
        help="the state folder (INTERLOCK_STATE_DIR, else the settings', else ~/.local/state/interlock)",
    )


def guarded(handler: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """``handler``, with exit status 2 and one line for what is wrong with what it was given."""

    def run(arguments: argparse.Namespace) -> int:
        try:
            return handler(arguments)
        except (BundleError, RolloutError, UnknownPolicyError, ConfigError, UsageError, OSError) as error:
            Console(stderr=True).print(f"[bold red]error[/] {escape(str(error))}", soft_wrap=True)
            return UNABLE

    return run


def state_of(arguments: argparse.Namespace, settings: Settings) -> Path:
    """The state folder that is meant. Raises :class:`UsageError` if there is no journal in it."""
    named = arguments.state_dir or os.environ.get("INTERLOCK_STATE_DIR") or settings.state_dir
    state = Path(named).expanduser()
    if not chains(state):
        where = (
            "--state-dir or INTERLOCK_STATE_DIR names another folder; `interlock serve` and `interlock demo` make one"
        )
        raise UsageError(f"no journal below {state}: {where}")
    return state


def _replay(arguments: argparse.Namespace) -> int:
    settings = load(arguments.config)
    bundle = Bundle.load(arguments.bundle)
    rollout = None if arguments.config is None else rollout_of(settings.policies, bundle)
    changed = _modes(arguments)
    sets = Sets(bundle, settings, rollout=rollout, changed=changed, only=arguments.policy)
    against, what = None, "what was decided then"
    if arguments.against is not None:
        other = Bundle.load(arguments.against)
        names = {entry.name for entry in other.policies}
        known = {name: mode for name, mode in changed.items() if name in names}
        both = [name for name in arguments.policy if name in names]
        if arguments.policy and not both:
            raise UsageError(f"--against {arguments.against}: has none of {', '.join(arguments.policy)}")
        theirs = None if arguments.config is None else rollout_of(settings.policies, other)
        against = Sets(other, settings, rollout=theirs, changed=known, only=both)
        what = f"bundle {other.digest.removeprefix('sha256:')[:12]}"
    try:
        since = 0 if arguments.since == "all" else parse_since(arguments.since)
    except ValueError as error:
        raise UsageError(f"--since {error}") from None
    exchanges = find_exchanges(state_of(arguments, settings), agent=arguments.agent, since_ns=since)
    depth, examples = settings.limits.json_depth, arguments.examples
    with _progress() as tell:
        found = asyncio.run(replay(exchanges, sets, against=against, depth=depth, examples=examples, tell=tell))
    if not found.tally.exchanges:
        whose = f" of agent {arguments.agent}" if arguments.agent else ""
        raise UsageError(
            f"no stored exchange{whose} since {arguments.since} in {state_of(arguments, settings)}; `interlock audit "
            "list` shows what there is"
        )
    _print(found, what, arguments)
    changes = found.tally.changed
    return CHANGES if changes["newly_denied"] or changes["newly_allowed"] else SAME


def _modes(arguments: argparse.Namespace) -> dict[str, str]:
    changed: dict[str, str] = {}
    for word in ",".join(arguments.modes).split(","):
        name, _, mode = word.strip().partition("=")
        if name and mode not in _MODES:
            raise UsageError(f"--modes {word.strip()}: expected NAME=MODE, with a mode of {', '.join(_MODES)}")
        if name:
            changed[name] = mode
    return changed


@contextmanager
def _progress() -> Iterator[Callable[[int], None] | None]:
    """How far it has come, on a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    with console.status("reading the record") as status:
        yield lambda number: status.update(f"{number:,} exchanges")


def _print(found: Replay, against: str, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print(json.dumps(as_json(found, against), ensure_ascii=True))
        return
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    console.print(report(found, against))
