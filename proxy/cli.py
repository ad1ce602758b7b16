"""The `interlock` command: one parser, whose commands live with the rooms that they belong to.

How to think about it. Only the command that is asked for is imported, so that `--help` and a misspelt word cost
nothing. Each command's builder adds its parser and sets ``run``, a function from the parsed arguments to the exit
status. What keeps `serve` from starting is one line for each cause, with the remedy.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress

from proxy import __version__

Subparsers = argparse._SubParsersAction

_DESCRIPTION = """\
Interlock stands between an agent and vLLM. The agent changes one thing, its base URL. Interlock passes every
byte on as vLLM would have sent it, judges tool calls against OPA policies before the agent sees them, runs
guardrail checks beside the traffic, records what happened and what it cost, and stops an agent that runs away.
"""

_EPILOG = """\
examples:
  interlock serve --upstream http://127.0.0.1:8000      stand before a vLLM that runs; agents use port 8080
  interlock serve --model Qwen/Qwen3-8B                 launch vLLM too, with the right parsers and a random key
  OPENAI_BASE_URL=http://127.0.0.1:8080/v1 my-agent     the one change in the agent
  interlock doctor                                      what is installed, what is missing, what that costs
  interlock demo                                        see agents being stopped, on recorded traffic
  interlock policy test                                 run the policies' own tests, on every engine at hand
  interlock audit verify                                prove offline that the record is whole
  interlock selftest                                    does what must be stopped get through, on any API
  interlock contract --direct URL --proxy URL           what a proxy changes on the way, byte by byte
  interlock config check interlock.yaml                 every error with its line and its remedy

what runs where:
  port 8080   the data port: vLLM's API, as vLLM speaks it. Chat completions, completions, batches, Responses and
              Messages are judged; what else makes tokens is refused until you say `unjudged: allow`
              (INTERLOCK_UNJUDGED=allow)
  port 8081   the admin port: /healthz, /readyz, /metrics; with a token also runs, release and kill
  ~/.local/state/interlock   the record, keys and logs, readable by you alone (--state-dir)

exit status: 0 all is well; 1 the answer is no (a test failed, a record is broken, a setting is wrong);
2 it could not be asked or started (usage, unreadable files, a port that is taken)
"""


def _serve(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    from proxy.serve_cli import add_serve_command

    add_serve_command(subparsers)


def _config(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    from proxy.config_cli import add_config_commands

    add_config_commands(subparsers)


def _doctor(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    from proxy.doctor import add_doctor_command

    add_doctor_command(subparsers)


def _policy(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    from policies.authoring.cli import add_policy_commands
    from proxy.replay.commands import add_replay_command
    from proxy.replay.evaluating import add_eval_command
    from proxy.replay.examples import try_examples
    from proxy.replay.promoting import add_promote_command

    commands = add_policy_commands(subparsers, try_examples)
    add_eval_command(commands)
    add_replay_command(commands)
    add_promote_command(commands)


def _audit(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    from tracing.cli import add_audit_commands

    add_audit_commands(subparsers)


def _demo(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    from proxy.demo import add_demo_command

    add_demo_command(subparsers)


def _contract(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    from proxy.contract import add_contract_command

    add_contract_command(subparsers)


def _bench(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    from proxy.efficacy import add_bench_commands

    add_bench_commands(subparsers)


def _selftest(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    from proxy.selftest.command import add_selftest_command

    add_selftest_command(subparsers)


COMMANDS: dict[str, tuple[str, Callable[[Subparsers[argparse.ArgumentParser]], None]]] = {
    "serve": ("stand between agents and a model server", _serve),
    "config": ("check, show and describe the settings", _config),
    "doctor": ("what is installed, what is missing, and what that costs", _doctor),
    "policy": ("write, check, test and replay policies", _policy),
    "audit": ("verify, list and show the record", _audit),
    "contract": ("what a proxy changes: the same requests directly and through it", _contract),
    "selftest": ("do the settings stop what they should: canaries on every API", _selftest),
    "bench": ("score the policies on marked cases", _bench),
    "demo": ("agents being stopped, on recorded vLLM traffic", _demo),
}

GROUPS = ("config", "policy", "audit", "bench")
"""Commands with commands of their own."""


def build_parser(command: str | None) -> argparse.ArgumentParser:
    """The parser, with the arguments of ``command`` alone; the others are there by name."""
    parser = argparse.ArgumentParser(
        prog="interlock",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"interlock {__version__}")
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, (text, build) in COMMANDS.items():
        if name == command:
            build(subparsers)
        else:
            subparsers.add_parser(name, help=text)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and run; gives the exit status. Raises :class:`SystemExit` for words that are no command."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    command = next((word for word in given if not word.startswith("-")), None)
    if not given or given in ([group] for group in GROUPS):
        with redirect_stdout(sys.stderr), suppress(SystemExit):
            build_parser(command).parse_args([*given, "--help"])
        raise SystemExit(2)
    parsed = build_parser(command).parse_args(given)
    run: Callable[[argparse.Namespace], int] = parsed.run
    try:
        return run(parsed)
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
