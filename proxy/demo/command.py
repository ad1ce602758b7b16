"""The ``demo`` command: its arguments, its pace, and one clear line for whatever is missing."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import aiohttp
import uvloop
from rich.console import Console

from proxy.demo.agent import OffScript
from proxy.demo.ledger import NotOnRecord
from proxy.demo.narrator import Narrator
from proxy.demo.stage import CannotStart, ModelServer, new_state_dir, staged
from proxy.demo.story import MARKER, Story
from serving.launch.commands import LaunchError
from serving.launch.process import ChildFailed
from serving.patterns import shipped_patterns
from serving.text import printable
from serving.tiny.scripts import CANARY
from serving.tiny.shelf import TRAFFIC

_EVERY = 14.0
"""Milliseconds from one recorded event to the next, so that one can read along."""

_DESCRIPTION = """\
Plays scripted agents through a whole Interlock and shows what flowed, what was stopped and why, what it cost and
where the record lies. The model server is a player of recorded vLLM traffic, so nothing else is needed; with
--vllm it is a real vLLM with a tiny model on this machine's CPU. About a minute. Uses free ports of loopback and
one new folder below the temporary folder, which stays so that you can look at the record.
"""


def add_demo_command(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``demo``."""
    parser = subparsers.add_parser(
        "demo",
        help="agents being stopped, on recorded vLLM traffic",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--fast", action="store_true", help="without pauses")
    parser.add_argument("--vllm", action="store_true", help="on a real vLLM, launched for the show")
    parser.add_argument(
        "--vllm-command", type=Path, metavar="PATH", help="the vllm command (else that of the lane, or on PATH)"
    )
    parser.add_argument("--traffic", type=Path, default=TRAFFIC, help=argparse.SUPPRESS)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    with contextlib.suppress(AttributeError):
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        return uvloop.run(_show(arguments))
    except (CannotStart, LaunchError, ChildFailed, OffScript, NotOnRecord) as problem:
        return _refuse(str(problem))
    except (aiohttp.ClientError, TimeoutError) as problem:
        return _refuse(
            f"the connection to Interlock broke ({type(problem).__name__}); see demo.log in the state folder"
        )
    except OSError as problem:
        return _refuse(f"{problem.strerror or problem}" + (f": {problem.filename}" if problem.filename else ""))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("\ninterrupted; everything that ran has ended", file=sys.stderr)
        return 130


async def _show(arguments: argparse.Namespace) -> int:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    tell = _narrator(arguments)
    state_dir, interlock = new_state_dir(), _typed()
    real = arguments.vllm or arguments.vllm_command is not None
    tell.title("Interlock stands between agents and their model server.")
    began = time.monotonic()
    if real:
        tell.plain(
            f"Starting a real vLLM on this machine's CPU, about half a minute. Its log: {state_dir}/logs/vllm.log"
        )
    try:
        async with contextlib.AsyncExitStack() as stack:
            model = ModelServer(real, _vllm_command(arguments), 0.0 if arguments.fast else _EVERY, arguments.traffic)
            upstream = await model.start(state_dir, stack)
            what = "a real vLLM with a tiny model" if real else "a player of recorded vLLM traffic" + _pace(model.every)
            stage = await stack.enter_async_context(staged(upstream, state_dir))
            _credits(tell, what, stage.notices, time.monotonic() - began)
            await tell.pause(2.0)
            await Story(stage, tell, interlock).play()
    except BaseException:
        tell.end()
        with contextlib.suppress(OSError):
            state_dir.rmdir()  # it stays if anything is in it
        raise
    _closing(tell, interlock, state_dir)
    if tell.failed:
        return _refuse(f"{tell.failed} claims did not hold; the record is in {state_dir}", status=1)
    return 0


def _pace(every: float) -> str:
    return f", an event each {every:.0f} ms" if every else ""


def _credits(tell: Narrator, what: str, notices: tuple[str, ...], seconds: float) -> None:
    tell.plain(
        f"Here the agents are scripted and the model server is {what}. Everything between them is Interlock as "
        f"`{_typed()} serve` runs it, with no settings. Started in {seconds:.1f} s:"
    )
    tell.blank()
    for notice in notices:
        tell.plain(notice, indent=6, style="dim")


def _closing(tell: Narrator, interlock: str, state_dir: Path) -> None:
    """What to type next."""
    tell.scene(None, "Now you", f"Everything that ran has ended. The record stays in {state_dir}.")
    for command, what in (
        (f"{interlock} audit list --state-dir {state_dir}", "every exchange of this show"),
        (f"{interlock} serve --upstream http://127.0.0.1:8000", "stand before your own vLLM; agents use port 8080"),
        (f"{interlock} policy test", "the policies' own tests; copy one and change it"),
        (f"{interlock} doctor", "what is installed, what is missing, what that costs"),
    ):
        tell.plain(command, style="bold")
        tell.plain(what, indent=6, style="dim")
    tell.plain("Read on: README.md, docs/policies.md, docs/threat-model.md")
    tell.blank()


def _narrator(arguments: argparse.Namespace) -> Narrator:
    sets = shipped_patterns()

    def redact(text: str) -> str:
        for patterns in sets:
            text = patterns.redact(text)
        return text

    console = Console(highlight=False)
    return Narrator(console, pace=0.0 if arguments.fast else 1.0, redact=redact, masks={CANARY: MARKER})


def _vllm_command(arguments: argparse.Namespace) -> Path | None:
    if arguments.vllm_command is not None:
        return Path(arguments.vllm_command)
    lane = os.environ.get("INTERLOCK_LANE_VLLM")
    return Path(lane) / "bin" / "vllm" if lane else None


def _typed() -> str:
    """How the user may type this command from where they are."""
    here = Path(sys.argv[0])
    if here.name != "interlock" or shutil.which("interlock"):
        return "interlock"
    return os.path.relpath(here)


def _refuse(why: str, status: int = 2) -> int:
    print(f"interlock demo: {printable(why, 2000)}", file=sys.stderr)
    return status
