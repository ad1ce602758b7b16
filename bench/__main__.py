"""``python -m bench``: start everything, measure, print the table, stop everything."""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from bench import machine
from bench.measure import Measurer, Options, Tools, measure
from bench.report import Header, Report, render
from bench.report_scale import ScaleReport, render_scale
from bench.scale import Plan, Scale, scale
from bench.soak import render_soak, soak
from bench.targets import Stage, StartError

_FULL = Options(
    rounds=3, seconds=4.0, warm_seconds=0.7, connections=16, events=200, catch_up_seconds=40.0, requests=500_000
)
_QUICK = msgspec.structs.replace(_FULL, rounds=1, seconds=1.5, warm_seconds=0.4, catch_up_seconds=8.0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="What Interlock costs, beside nothing, a bare aiohttp pass-through and nginx. No thresholds.",
    )
    parser.add_argument("--quick", action="store_true", help="about a minute: one short round, without NeMo")
    parser.add_argument(
        "--scale",
        action="store_true",
        help="how costs grow with connections, lengths and open streams, in place of the usual tables (ten minutes)",
    )
    parser.add_argument("--soak", action="store_true", help="whether memory stays flat over many requests and events")
    parser.add_argument("--soak-warm", type=int, default=50_000, metavar="N", help="requests before it (50000)")
    parser.add_argument("--soak-requests", type=int, default=200_000, metavar="N", help="requests of a soak (200000)")
    parser.add_argument("--soak-events", type=int, default=20_000_000, metavar="N", help="its events (20000000)")
    parser.add_argument(
        "--rival",
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="another proxy to measure: what starts it, with {upstream}, {port} and {folder} to be filled in",
    )
    parser.add_argument("--json", action="store_true", help="print everything that was seen as JSON")
    parser.add_argument("--rounds", type=int, help=f"rounds ({_FULL.rounds})")
    parser.add_argument("--seconds", type=float, help=f"seconds of one load ({_FULL.seconds:g})")
    parser.add_argument("--connections", type=int, help=f"connections of one load ({_FULL.connections})")
    parser.add_argument("--events", type=int, help=f"pieces of text in a stream ({_FULL.events})")
    parser.add_argument(
        "--folder", type=Path, help="where a temporary folder for state and logs is made (the system's)"
    )
    return parser


def _tools(quick: bool, rivals: dict[str, str]) -> Tools:
    return replace(_installed(quick), opa=os.environ.get("INTERLOCK_OPA") or shutil.which("opa"), rivals=rivals)


def _installed(quick: bool) -> Tools:
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if quick:
        return Tools(nginx, None, "Interlock with NeMo Guardrails is not in a quick run")
    lane = os.environ.get("INTERLOCK_LANE_NEMO")
    python = Path(lane) / "bin" / "python" if lane else None
    if python is None or not python.exists():
        return Tools(nginx, None, "no NeMo Guardrails environment (INTERLOCK_LANE_NEMO; `make lanes` makes one)")
    return Tools(nginx, python)


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is ended then too
    arguments = _parser().parse_args()
    given = {
        name: value
        for name in ("rounds", "seconds", "connections", "events")
        if (value := getattr(arguments, name)) is not None
    }
    options = msgspec.structs.replace(_QUICK if arguments.quick else _FULL, **given)
    rivals = dict(rival.partition("=")[::2] for rival in arguments.rival)
    if not all(rivals.values()):
        _tell("bench: --rival takes NAME=COMMAND")
        return 2
    tools, name = _tools(arguments.quick, rivals), secrets.token_hex(6)
    load, began = os.getloadavg()[0], machine.moment()
    with tempfile.TemporaryDirectory(prefix="interlock-bench-", dir=arguments.folder) as folder:
        try:
            with Stage(Path(folder), name=name, events=options.events) as stage:
                if arguments.soak:
                    return _soaked(stage, options, name, arguments)
                result = None if arguments.scale else measure(stage, options, name, tools, _tell)
                scaled = _scaled(stage, options, name, tools) if arguments.scale else None
        except StartError as error:
            _tell(f"bench: {error}")
            return 2
        where = machine.describe(Path(folder))
    ended = machine.moment()
    head = Header(
        command=machine.command(),
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        machine=where,
        versions=machine.versions(tools.nginx),
        load_before=load,
        others=machine.others(began, ended),
        seconds=time.monotonic() - began.at,
        options=options,
    )
    report: Report | ScaleReport
    if scaled is not None:
        report = ScaleReport(**msgspec.structs.asdict(head), scale=scaled)
        text, cells = render_scale(report), [*scaled.connections, *scaled.lengths]
    else:
        assert result is not None
        report = Report(**msgspec.structs.asdict(head), result=result)
        text, cells = render(report), [*result.cells, *result.call_cells, *result.nemo_cells]
    print(msgspec.json.encode(report).decode() if arguments.json else text)
    return 1 if any(cell.wrong for cell in cells) else 0


def _soaked(stage: Stage, options: Options, name: str, arguments: argparse.Namespace) -> int:
    measurer = Measurer(options, name, _tell)
    stage.direct()
    target = stage.interlock()
    measurer.warm([target], ("whole", "stream"))
    seen = soak(
        measurer,
        target,
        warm=arguments.soak_warm,
        requests=arguments.soak_requests,
        events=arguments.soak_events,
        tell=_tell,
    )
    print(msgspec.json.encode(seen).decode() if arguments.json else f"{machine.command()}\n\n{render_soak(seen)}")
    return 1 if seen.wrong else 0


def _scaled(stage: Stage, options: Options, name: str, tools: Tools) -> Scale:
    measurer = Measurer(options, name, _tell)
    targets = [stage.direct(), stage.aiohttp()]
    if tools.nginx is not None:
        targets.append(stage.nginx(tools.nginx))
    targets += [stage.rival(rival, command) for rival, command in tools.rivals.items()]
    targets.append(stage.interlock())
    measurer.warm(targets, ("whole", "stream"))
    return scale(measurer, targets, Plan(), _tell)


if __name__ == "__main__":
    sys.exit(main())
