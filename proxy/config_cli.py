"""`interlock config …`: is the file right, what is in force, what may stand in it."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import yaml

from policies.in_force import rollout_of
from policies.service import effective_bundle
from proxy.serve_cli import add_config_flag
from serving.config_file import ConfigError, ConfigProblem, load, readable_secrets
from serving.settings import Settings
from serving.settings_doc import schema
from serving.text import printable
from tracing.prices import PriceBook, PriceBookError


def add_config_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``config`` with its commands."""
    config = subparsers.add_parser(
        "config",
        help="check, show and describe the settings",
        description="Settings come from a YAML file, INTERLOCK_* variables and flags; docs/settings.md has them all.",
    )
    commands = config.add_subparsers(title="commands", required=True, metavar="COMMAND")

    check = commands.add_parser(
        "check",
        help="every error with its line, key and remedy",
        description="Read the settings as `serve` would, and the policies and prices that they name. Starts nothing. "
        "Exit status 1 if anything is wrong.",
    )
    check.add_argument("file", nargs="?", type=Path, metavar="FILE", help="the file (INTERLOCK_CONFIG; else none)")
    check.set_defaults(run=_check)

    show = commands.add_parser("show", help="the settings in force, secrets masked")
    add_config_flag(show)
    show.add_argument("--json", action="store_true", help="as JSON")
    show.set_defaults(run=_show)

    describe = commands.add_parser("schema", help="the file's JSON Schema, for editors")
    describe.set_defaults(run=_schema)


def _check(arguments: argparse.Namespace) -> int:
    where = str(arguments.file or "settings")
    warnings: list[str] = []
    try:
        settings = load(arguments.file)
        problems = list(_named_things(settings, where, warnings))
    except ConfigError as error:
        problems = error.problems
    for problem in problems:
        _say(str(problem), error=True)
    if problems:
        return 1
    for warning in (*(readable_secrets(arguments.file) if arguments.file else ()), *warnings):
        _say(f"warning: {warning}", error=True)
    _say(f"{where}: all is well")
    return 0


def _named_things(settings: Settings, where: str, warnings: list[str]) -> list[ConfigProblem]:
    """What can be told only by reading the files that the settings name; what is worth a look goes to ``warnings``."""
    problems = []
    try:
        bundle = effective_bundle(settings.policies, settings.agents)
        now = datetime.now(UTC)
        for exempted in rollout_of(settings.policies, bundle).exceptions():
            if exempted.written.expires <= now:
                when = f"{exempted.written.expires:%Y-%m-%d %H:%M} UTC"
                warnings.append(
                    f"{settings.policies.rollout}: exception {exempted.name} ended {when} and covers nothing"
                )
    except ValueError as error:
        problems.append(ConfigProblem(where, "policies", str(error), "correct `policies`"))
    try:
        PriceBook.load(settings.tracing.prices)
    except PriceBookError as error:
        problems.append(ConfigProblem(where, "tracing.prices", str(error), "correct the price book"))
    return problems


def _show(arguments: argparse.Namespace) -> int:
    try:
        data = load(arguments.config).model_dump(mode="json")
    except ConfigError as error:
        for problem in error.problems:
            _say(str(problem), error=True)
        return 2
    if arguments.json:
        print(json.dumps(data, indent=2, ensure_ascii=True))
    else:
        print(yaml.safe_dump(data, sort_keys=False, allow_unicode=False), end="")
    return 0


def _schema(arguments: argparse.Namespace) -> int:
    print(schema(), end="")
    return 0


def _say(text: str, *, error: bool = False) -> None:
    print(printable(text, 2000), file=sys.stderr if error else sys.stdout)
