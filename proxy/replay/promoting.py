"""`interlock policy promote`: gives a policy another mode in the roll-out, after its replay was shown.

Exit status: 0 promoted; 1 not, because the replay cannot answer for enough of the record; 2 it could not be tried.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
from contextlib import suppress
from pathlib import Path

import yaml
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

from policies.bundle import Bundle
from policies.rollout import LABEL, PLATFORM, Document, Rollout, Wanted
from policies.service import effective_bundle
from policies.signing import read_private, sign, signature_path
from proxy.replay.commands import UsageError, add_state_argument, guarded, state_of
from proxy.replay.output import report
from proxy.replay.running import Replay, Sets, replay
from serving.config_file import load
from serving.settings import Settings
from serving.strict_yaml import YamlProblem, read
from tracing.lookup import find_exchanges, parse_since

PROMOTED, NOT_PROMOTED = 0, 1
ANSWERABLE = 0.95
"""Share of the stored exchanges that a replay must be able to judge."""

_MODES: tuple[Wanted, ...] = ("enforce", "warn", "shadow", "off")


def add_promote_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``promote``; it sets ``run``."""
    parser = commands.add_parser(
        "promote",
        help="give a policy another mode in the roll-out, after showing what that changes",
        description="Replays the stored exchanges under the roll-out as it would be, compared with the roll-out as it "
        "is, shows what changes, and writes the new mode into the roll-out's document. A running Interlock takes it "
        "up by itself. Nothing is written where fewer than 95 % of the exchanges can be judged again, or none are on "
        "record, unless --force says so.",
        epilog="exit status: 0 promoted; 1 not promoted; 2 it could not be tried",
    )
    parser.add_argument("policy", metavar="OWNER.NAME")
    parser.add_argument(
        "--to", choices=_MODES, default="enforce", metavar="MODE", help=f"{', '.join(_MODES)} (enforce)"
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="settings that name the roll-out")
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--agent", help="for this agent only")
    who.add_argument("--team", help="for this team only")
    parser.add_argument("--layer", default=PLATFORM, metavar="TEAM", help="write it into this team's document")
    parser.add_argument("--since", default="7d", metavar="WHEN", help="replay 90m, 24h, 7d, or from a date (7d; `all`)")
    parser.add_argument("--key", type=Path, metavar="KEY", help="sign the document with this private key")
    parser.add_argument("--force", action="store_true", help="also if the replay cannot answer for 95 %%")
    add_state_argument(parser)
    parser.set_defaults(run=guarded(_promote))


def _promote(arguments: argparse.Namespace) -> int:
    settings = load(arguments.config)
    folder, keys = settings.policies.rollout, settings.policies.rollout_keys
    if folder is None:
        raise UsageError("the settings name no roll-out (policies.rollout); docs/rollout.md says how to write one")
    if keys and arguments.key is None:
        raise UsageError("the roll-out is signed (policies.rollout_keys): name the private key with --key")
    path = folder / "platform.yaml" if arguments.layer == PLATFORM else folder / "teams" / f"{arguments.layer}.yaml"
    bundle = effective_bundle(settings.policies, {})
    present = Rollout.load(folder, keys)
    text = path.read_text(encoding="utf-8") if path.exists() else "modes: {}\n"
    wanted = with_mode(text, arguments.policy, arguments.to, agent=arguments.agent, team=arguments.team)
    whom = arguments.agent or arguments.team or "everybody"
    try:
        document = Document.model_validate(read(wanted)[0])
    except ValidationError:
        raise UsageError(f"{arguments.policy}: a policy is named OWNER.NAME") from None
    then = present.with_document(arguments.layer, document)
    then.check([entry.name for entry in bundle.policies])
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    if wanted == text and path.exists():
        already = f"{arguments.policy} is {arguments.to} for {whom} already: {path}; nothing was written"
        console.print(escape(already), soft_wrap=True)
        return PROMOTED
    found = _replayed(arguments, settings, bundle, present, then)
    console.print(report(found, "the roll-out as it is"))
    if not arguments.force and (not found.tally.judged or found.tally.answerable < ANSWERABLE):
        why = (
            "no stored exchange says what it would do"
            if not found.tally.judged
            else (f"only {found.tally.answerable:.1%} of the exchanges can be judged again ({ANSWERABLE:.0%} wanted)")
        )
        console.print(f"\n[bold red]not promoted[/]: {why}; --force promotes it all the same", soft_wrap=True)
        return NOT_PROMOTED
    _write(path, wanted, arguments.layer, arguments.key)
    console.print(
        f"\n[bold green]promoted[/] {escape(arguments.policy)} to {arguments.to} for {escape(whom)}: {path}",
        soft_wrap=True,
    )
    return PROMOTED


def _replayed(
    arguments: argparse.Namespace, settings: Settings, bundle: Bundle, present: Rollout, then: Rollout
) -> Replay:
    try:
        since = 0 if arguments.since == "all" else parse_since(arguments.since)
    except ValueError as error:
        raise UsageError(f"--since {error}") from None
    exchanges = find_exchanges(state_of(arguments, settings), agent=arguments.agent, since_ns=since)
    sets, against = (Sets(bundle, settings, rollout=rollout) for rollout in (then, present))
    return asyncio.run(replay(exchanges, sets, against=against, depth=settings.limits.json_depth))


def _write(path: Path, text: str, layer: str, key: Path | None) -> None:
    """The document and its signature, each in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [(path, text)]
    if key is not None:
        line = sign(read_private(key), f"{LABEL} {layer}", text.encode())
        files.insert(0, (signature_path(path), line + "\n"))
    for target, content in files:
        beside = target.with_name(f".{os.getpid()}-{target.name}")
        beside.write_text(content, encoding="utf-8")
        beside.replace(target)


def with_mode(text: str, policy: str, mode: Wanted, *, agent: str | None = None, team: str | None = None) -> str:
    """The document with the policy's mode; comments and order stay where the change is one line, else they are lost."""
    document = read(text)[0] or {}
    modes = dict(document.get("modes") or {})
    entry = modes.get(policy)
    if agent is None and team is None and not isinstance(entry, dict):
        modes[policy] = mode
    else:
        entry = dict(entry) if isinstance(entry, dict) else {} if entry is None else {"default": entry}
        place, name = ("agents", agent) if agent is not None else ("teams", team)
        if name is None:
            entry["default"] = mode
        else:
            entry[place] = {**(entry.get(place) or {}), name: mode}
        modes[policy] = entry
    wanted = {**document, "modes": modes}
    if wanted == document:
        return text
    for changed in _by_line(text, policy, mode):
        with suppress(YamlProblem):
            if read(changed)[0] == wanted:
                return changed
    written: str = yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True)
    return written


def _by_line(text: str, policy: str, mode: str) -> list[str]:
    """Tries at changing one line: the policy's own, its default, or a new one below ``modes:``."""
    name = re.escape(policy)
    tries = [
        re.sub(rf"(?m)^(\s+{name}:\s+)(?:enforce|warn|shadow|off)\b", rf"\g<1>{mode}", text, count=1),
        re.sub(
            rf"(?m)^(\s+{name}:\s*\n(?:\s+#.*\n)*\s+default:\s+)(?:enforce|warn|shadow|off)\b", rf"\g<1>{mode}", text
        ),
        re.sub(r"(?m)^modes:[ \t]*(#.*)?$", rf"\g<0>\n  {policy}: {mode}", text, count=1),
    ]
    return [one for one in tries if one != text]
