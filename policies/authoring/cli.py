"""`interlock policy build | check | test | log-mask | keygen | sign`: for whoever writes policies.

Each handler takes parsed arguments and returns the exit status: 0 all is well, 1 the policies are wrong, 2 they
could not be looked at (no ``opa``, a folder laid out wrong, Rego that does not parse).
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from policies.authoring.build import build
from policies.authoring.check import Report, check
from policies.authoring.examples import Tried
from policies.authoring.new import new_policy
from policies.authoring.opa_tool import OpaFailedError, OpaMissingError, OpaTool
from policies.authoring.signing_cli import add_serial_arguments, add_signing_commands
from policies.authoring.sources import SourceError, SourceTree, tree_to_build
from policies.authoring.testing import TestResult, run_tests
from policies.bundle import Bundle, BundleError, PolicyEntry
from policies.engines.embedded import EmbeddedEngine
from policies.model import TEXT_STAGES, Mode, Stage
from policies.modes import default_mode
from policies.rollout import RolloutError
from policies.service import PolicySet, with_settings
from policies.signing import SignatureError, read_private
from serving.config_file import ConfigError, load
from serving.launch.decision_log import LOG_DECISIONS, write_mask

OK, WRONG, UNABLE = 0, 1, 2

TryExamples = Callable[[SourceTree, Bundle], Sequence[Tried]]
Handler = Callable[[argparse.Namespace], int]

_FOLDER = "folder with <owner>/<name>/policy.rego; without it, the shipped library"


def add_policy_commands(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
    try_examples: TryExamples | None = None,
) -> argparse._SubParsersAction[argparse.ArgumentParser]:
    """Add ``policy`` with its commands; each sets ``run`` to a handler. Gives what takes further commands.
    ``try_examples`` tries the examples beside the policies, as live traffic is judged."""
    policy = subparsers.add_parser(
        "policy",
        help="write, check, test and replay policies",
        description="Policies are Rego, one folder each with its test beside it; docs/policies.md writes one in ten "
        "minutes. build, check and test need `opa` on the PATH (or INTERLOCK_OPA); running Interlock does not.",
    )
    commands = policy.add_subparsers(title="commands", required=True, metavar="COMMAND")

    beginning = commands.add_parser(
        "new",
        help="begin a policy: its Rego, test, data and examples, which pass as they are",
        description="Writes a small policy that works into OWNER/NAME, to be changed. Writes over nothing.",
    )
    beginning.add_argument("folder", type=Path, metavar="OWNER/NAME", help="such as mine/acme/deploys")
    beginning.add_argument(
        "--stage",
        choices=[stage.value for stage in Stage],
        default=Stage.TOOL_CALL.value,
        help="when it is asked (tool_call)",
    )
    beginning.set_defaults(run=_guarded(_new))

    making = commands.add_parser("build", help="compile policies into a bundle that both engines load")
    _tree_arguments(making)
    making.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder, or a .tar.gz file")
    making.add_argument(
        "--config", type=Path, metavar="FILE", help="lay the settings' data over the bundle, for an OPA server"
    )
    making.add_argument("--sign", type=Path, metavar="KEY", help="sign it with this private key (`policy keygen`)")
    add_serial_arguments(making)
    _verbose_argument(making)
    making.set_defaults(run=_guarded(_build))

    checking = commands.add_parser(
        "check", help="compile, compare with the input's schema, and say what each policy reads"
    )
    _tree_arguments(checking)
    _verbose_argument(checking)
    checking.set_defaults(run=_guarded(_check))

    testing = commands.add_parser("test", help="run the _test.rego files on both engines, and try the examples")
    _tree_arguments(testing)
    testing.add_argument("-v", "--verbose", action="store_true", help="every test, not only those that fail")
    testing.set_defaults(run=_guarded(partial(_test, try_examples)))

    masking = commands.add_parser(
        "log-mask",
        help="write the mask for the decision log of an OPA server of your own",
        description="A bundle with system.log: of what Interlock asks, the log keeps ids, names of tools and findings, "
        "and no content.",
    )
    masking.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="where to write the bundle")
    masking.set_defaults(run=_guarded(_log_mask))

    add_signing_commands(commands, _guarded)
    return commands


def _tree_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", type=Path, metavar="DIR", help=_FOLDER)
    parser.add_argument("--no-library", action="store_true", help="leave out the shipped policies")


def _verbose_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-v", "--verbose", action="store_true", help="list the shipped policies too")


def _guarded(handler: Callable[[argparse.Namespace, Console], int]) -> Handler:
    def run(arguments: argparse.Namespace) -> int:
        try:
            return handler(arguments, Console())
        except (
            OpaMissingError,
            OpaFailedError,
            SourceError,
            BundleError,
            RolloutError,
            SignatureError,
            ConfigError,
            OSError,
        ) as error:
            Console(stderr=True).print(f"[bold red]error[/] {escape(str(error))}", soft_wrap=True)
            return UNABLE

    return run


def _new(arguments: argparse.Namespace, console: Console) -> int:
    folder = arguments.folder
    for path in new_policy(folder, Stage(arguments.stage)):
        console.print(f"[green]wrote[/] {escape(str(path))}", soft_wrap=True)
    root = escape(str(folder.parent.parent))
    console.print(f"next: interlock policy check {root} && interlock policy test {root}", soft_wrap=True)
    return OK


def _log_mask(arguments: argparse.Namespace, console: Console) -> int:
    write_mask(arguments.output)
    console.print(f"[green]wrote[/] {escape(str(arguments.output))}", soft_wrap=True)
    settings = " ".join(f"--set '{setting}'" for setting in LOG_DECISIONS)
    console.print(escape(f"for OPA: --bundle {arguments.output} {settings}"), soft_wrap=True)
    return OK


def _tree(arguments: argparse.Namespace) -> SourceTree:
    return tree_to_build(arguments.folder, with_library=not arguments.no_library)


def _build(arguments: argparse.Namespace, console: Console) -> int:
    bundle = build(_tree(arguments), OpaTool.find())
    if arguments.config is not None:
        settings = load(arguments.config)
        bundle = with_settings(bundle, settings.policies, settings.agents)
    if arguments.sign is not None:
        bundle = bundle.signed(read_private(arguments.sign), arguments.serial, arguments.not_before)
    _require_loadable(bundle)
    bundle.write(arguments.output)
    _print_policies(bundle.policies, arguments, console)
    size = sum(map(len, bundle.files().values())) // 1024
    console.print(f"[green]built[/] {escape(str(arguments.output))} ({size} KB, OPA {bundle.manifest.opa})")
    console.print(f"digest {bundle.digest}")
    return OK


def _require_loadable(bundle: Bundle) -> None:
    """Raises what whoever loads it would: nothing is written over that could be used by what cannot."""
    engine = EmbeddedEngine(bundle, 1.0)
    try:
        PolicySet(bundle, engine, {entry.name: Mode.SHADOW for entry in bundle.policies})
    finally:
        asyncio.run(engine.close())


def _many(number: int, one: str, more: str = "") -> str:
    return f"{number} {one if number == 1 else more or one + 's'}"


def _check(arguments: argparse.Namespace, console: Console) -> int:
    tree = _tree(arguments)
    report = check(tree, OpaTool.find())
    _print_problems(report, tree, console)
    _print_policies(report.entries, arguments, console)
    errors = sum(problem.level == "error" for problem in report.problems)
    counts = (
        _many(len(tree.policies), "policy", "policies"),
        _many(errors, "error"),
        _many(len(report.problems) - errors, "warning"),
    )
    console.print(f"[{'green' if report.ok else 'red'}]{', '.join(counts)}[/]")
    return OK if report.ok else WRONG


def _print_problems(report: Report, tree: SourceTree, console: Console) -> None:
    files = tree.modules() | tree.tests()
    for problem in report.problems:
        colour = "red" if problem.level == "error" else "yellow"
        where = str(files.get(problem.file, problem.file))
        place = f"{where}:{problem.row}: " if problem.row else f"{where}: " if where else ""
        console.print(f"{escape(place)}[{colour}]{problem.level}[/]: {escape(problem.text)}", soft_wrap=True)


def _print_policies(entries: list[PolicyEntry], arguments: argparse.Namespace, console: Console) -> None:
    """The table; the shipped policies are counted only, where somebody has his own."""
    own = [entry for entry in entries if not entry.name.startswith("interlock.")]
    shown = own if own and not arguments.verbose else entries
    console.print(_policies_table(shown))
    if left_out := len(entries) - len(shown):
        console.print(f"[dim]and {_many(left_out, 'shipped policy', 'shipped policies')} (-v lists them)[/]")


def _policies_table(entries: list[PolicyEntry]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("policy", "mode unless set", "stage", "holds", "reads"):
        table.add_column(column)
    for entry in entries:
        for stage, reads in sorted(entry.stages.items()):
            shown = "all of the input" if reads == ["*"] else ", ".join(reads) or "nothing"
            mode = default_mode(entry.name)
            colour = "green" if mode == "enforce" else "dim"
            if entry.patterns:
                shown += f" (of {', '.join(entry.patterns)})"
            if entry.needs:
                shown += f"; idle without {' or '.join(entry.needs)}"
            table.add_row(entry.name, f"[{colour}]{mode}[/]", stage.value, _held(entry, stage), escape(shown))
    return table


def _held(entry: PolicyEntry, stage: Stage) -> str:
    """What waits for the policy: a call for its end, a text as the policy says; what came before it waits anyway."""
    if stage is Stage.TOOL_CALL:
        return "the call"
    return entry.holds.get(stage, "none") if stage in TEXT_STAGES else ""


def _test(try_examples: TryExamples | None, arguments: argparse.Namespace, console: Console) -> int:
    opa, tree = OpaTool.find(), _tree(arguments)
    results = run_tests(tree, opa)
    shown = results if arguments.verbose else [result for result in results if not result.ok]
    if shown:
        console.print(_results_table(shown))
    files = tree.tests()
    for result in results:
        if not result.ok:
            place = f"{files.get(result.file, result.file)}:{result.row}: {result.name}"
            console.print(f"\n{escape(place)}", style="bold", soft_wrap=True, highlight=False)
            console.print(escape(result.why), soft_wrap=True, highlight=False)
    disagreements = sum(result.disagree for result in results)
    failed = sum(not result.ok for result in results)
    engines = f"OPA {opa.version()} and the embedded engine"
    if disagreements:
        console.print(f"[red]{_many(disagreements, 'test')} with another result on the other engine[/]")
    colour = "red" if failed else "green"
    console.print(f"[{colour}]{len(results) - failed} of {len(results)} tests pass[/] on {engines}")
    if try_examples is not None and any(policy.examples for policy in tree.policies.values()):
        try:
            failed += _print_examples(try_examples(tree, build(tree, opa)), console)
        except BundleError as error:
            console.print(f"the examples cannot be tried: [red]{escape(str(error))}[/]", soft_wrap=True)
            failed += 1
    return WRONG if failed else OK


def _print_examples(tried: Sequence[Tried], console: Console) -> int:
    """Gives how many are not as they say."""
    for one in tried:
        if one.problem is not None:
            console.print(f"{escape(str(one.path))}: [red]{escape(one.problem)}[/]", soft_wrap=True)
        elif one.unknown is not None:
            said = f"[yellow]cannot be judged from a file[/]: {escape(one.unknown)}"
            console.print(f"{escape(str(one.path))}: {said}", soft_wrap=True)
    failed = sum(one.problem is not None for one in tried)
    good = sum(one.problem is None and one.unknown is None for one in tried)
    colour = "red" if failed else "green"
    console.print(f"[{colour}]{good} of {len(tried)} examples are as they say[/] on the embedded engine")
    return failed


def _results_table(results: list[TestResult]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("test", "opa", "embedded"):
        table.add_column(column)
    for result in results:
        cells = (
            f"[{'green' if outcome == 'pass' else 'red'}]{outcome}[/]" for outcome in (result.opa, result.embedded)
        )
        package = result.package.removeprefix("interlock.policies.")
        table.add_row(escape(f"{package}.{result.name}"), *cells)
    return table
