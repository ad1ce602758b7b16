"""`interlock doctor`: what is installed, what is missing, and what that costs.

How to think about it. Each probe is a small function that looks at one thing and gives one :class:`Finding`. Only
what the settings ask for can be *broken*; what they do not ask for is *off* or *missing*, and the finding says
which feature that costs. Nothing is started and nothing is changed (a missing state folder is not made).
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import json
import os
import socket
import stat
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import aiohttp
import msgspec
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table
from rich.text import Text

from policies.authoring.opa_tool import OpaMissingError, OpaTool
from policies.bundle import configured
from policies.in_force import rollout_of
from policies.service import effective_bundle
from proxy.identity import ANONYMOUS
from proxy.reloading import serials_of
from proxy.serve_cli import add_config_flag, overrides_of
from serving.config_file import ConfigError, load
from serving.launch.commands import LaunchError, find_command
from serving.launch.vllm import choose_parsers
from serving.settings import Settings
from serving.text import printable
from tracing.prices import PriceBook, PriceBookError

Status = Literal["ok", "off", "missing", "broken"]

TESTED_VLLM = "0.32.0"
SLOW_SYNC_MS = 10.0
TIMEOUT = aiohttp.ClientTimeout(total=5.0)


class Finding(msgspec.Struct, frozen=True):
    """``cost`` is what does not work without it; empty where nothing is lost."""

    name: str
    status: Status
    detail: str
    cost: str = ""


Probe = Callable[[Settings], Awaitable[Finding]]


def add_doctor_command(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``doctor``."""
    parser = subparsers.add_parser(
        "doctor",
        help="what is installed, what is missing, and what that costs",
        description="Look at everything that Interlock needs or could use, with the settings that `serve` would have. "
        "Exit status 1 if something that the settings ask for does not work.",
    )
    add_config_flag(parser)
    parser.add_argument("--upstream", metavar="URL", help="the model server to look for")
    parser.add_argument("--state-dir", type=Path, metavar="DIR", help="the state folder to look at")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    try:
        settings = load(arguments.config, overrides=overrides_of(arguments))
    except ConfigError as error:
        for problem in error.problems:
            print(printable(f"interlock: {problem}", 2000), file=sys.stderr)
        return 2
    findings = asyncio.run(examine(settings))
    if arguments.json:
        print(json.dumps([msgspec.structs.asdict(finding) for finding in findings], indent=2))
    else:
        _print(findings)
    return 1 if any(finding.status == "broken" for finding in findings) else 0


async def examine(settings: Settings) -> list[Finding]:
    """All findings, in the order in which a person wants them."""
    return list(await asyncio.gather(*(probe(settings) for probe in PROBES)))


def _print(findings: Iterable[Finding]) -> None:
    marks = {
        "ok": ("ok", "green"),
        "off": ("off", "dim"),
        "missing": ("missing", "yellow"),
        "broken": ("BROKEN", "red"),
    }
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("what", "state", "found", "what that costs"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        word, style = marks[finding.status]
        cells = (finding.name, printable(finding.detail, 300), finding.cost)
        table.add_row(Text(cells[0]), Text(word, style), Text(cells[1]), Text(cells[2]))
    Console().print(table)


# -- this machine ------------------------------------------------------------------------------------


async def python(settings: Settings) -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    fits = (3, 11) <= sys.version_info[:2] <= (3, 12)
    return Finding("Python", "ok" if fits else "broken", found, "" if fits else "Interlock is made for 3.11 and 3.12")


async def packages(settings: Settings) -> Finding:
    names = ("aiohttp", "uvloop", "google-re2", "opa-py-wasm", "opentelemetry-sdk")
    found, lacking = [], []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            lacking.append(name)
    if lacking:
        return Finding("packages", "broken", f"not installed: {', '.join(lacking)}", "install Interlock anew")
    return Finding("packages", "ok", ", ".join(found))


async def state_folder(settings: Settings) -> Finding:
    folder = settings.state_dir
    name = "state folder"
    if not folder.exists():
        above = next(parent for parent in folder.absolute().parents if parent.exists())
        if os.access(above, os.W_OK):
            return Finding(name, "ok", f"{folder} is not there yet; `serve` makes it")
        return Finding(name, "broken", f"{folder} cannot be made: {above} is not writable", "give another --state-dir")
    found = folder.stat()
    mode = stat.S_IMODE(found.st_mode)
    if not folder.is_dir() or found.st_uid != os.geteuid() or mode & 0o077 or not os.access(folder, os.W_OK):
        return Finding(name, "broken", f"{folder} has mode {mode:04o}", "`serve` needs it writable and 0700, yours")
    return Finding(name, "ok", f"{folder}, mode {mode:04o}")


async def disk(settings: Settings) -> Finding:
    folder = next(path for path in (settings.state_dir, *settings.state_dir.absolute().parents) if path.is_dir())
    try:
        taken = await asyncio.to_thread(_sync_times, folder)
    except OSError as error:
        return Finding(
            "disk", "broken", f"{folder}: {error.strerror}", "no record can be written, so nothing is let by"
        )
    median = statistics.median(taken) * 1000
    slow = "held tool calls and refusals wait this long for the record" if median > SLOW_SYNC_MS else ""
    return Finding("disk", "ok", f"fdatasync {median:.1f} ms (worst of {len(taken)}: {max(taken) * 1000:.1f})", slow)


def _sync_times(folder: Path) -> list[float]:
    taken = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(16):
            file.write(b"\0" * 6400)
            file.flush()
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - began)
    return taken


async def ports(settings: Settings) -> Finding:
    listen = settings.listen
    taken = [
        f"{host}:{port}"
        for host, port in ((listen.host, listen.port), (listen.admin_host, listen.admin_port))
        if port and _is_taken(host, port)
    ]
    if taken:
        return Finding("ports", "missing", f"{', '.join(taken)} in use", "none, if that is Interlock already running")
    return Finding("ports", "ok", f"data {listen.host}:{listen.port}, admin {listen.admin_host}:{listen.admin_port}")


def _is_taken(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind((host, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


# -- the model server --------------------------------------------------------------------------------


async def upstream(settings: Settings) -> Finding:
    if settings.model.name is not None:
        return Finding("model server", "off", "`serve` launches it")
    url = settings.upstream.url
    try:
        status, body = await _get(url.rstrip("/") + "/version", settings.upstream.api_key)
        found = str(json.loads(body)["version"])
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return Finding("model server", "broken", f"{url}: {_why(error)}", "every request is answered with 502")
    except (ValueError, KeyError, TypeError):
        why = "set `upstream.api_key`" if status in (401, 403) else "it may be no vLLM"
        return Finding("model server", "broken", f"{url} answered {status} to /version", why)
    cost = "" if found == TESTED_VLLM else f"Interlock is tested with vLLM {TESTED_VLLM}"
    return Finding("model server", "ok", f"vLLM {found} at {url}", cost)


async def vllm(settings: Settings) -> Finding:
    command = find_command(settings.model.vllm, "vllm")
    asked = settings.model.name is not None
    if command is None:
        return Finding("vllm command", "broken" if asked else "missing", "not found", "`interlock serve --model`")
    if asked:
        try:
            parsers = choose_parsers(settings.model)
        except LaunchError as error:
            return Finding("vllm command", "broken", str(error), "`interlock serve --model`")
        return Finding("vllm command", "ok", f"{command}; parsers: {parsers.tool}, {parsers.reasoning}")
    return Finding("vllm command", "ok", command)


# -- policies and checks -----------------------------------------------------------------------------


async def policies(settings: Settings) -> Finding:
    try:
        intake = serials_of(settings).intake()
        bundle = effective_bundle(settings.policies, settings.agents, intake)
        modes = rollout_of(settings.policies, bundle, intake).modes(
            [entry.name for entry in bundle.policies], ANONYMOUS, None
        )
    except ValueError as error:
        return Finding("policies", "broken", str(error), "`serve` does not start")
    idle = {entry.name for entry in bundle.policies if not configured(entry, bundle.data)}
    said = ", ".join(
        f"{name} {mode.value}{' (not asked: no data)' if name in idle else ''}" for name, mode in modes.items()
    )
    return Finding("policies", "ok", f"{settings.policies.engine} engine, bundle {bundle.digest[:19]}: {said}")


async def opa(settings: Settings) -> Finding:
    asked = settings.policies.engine == "opa"
    if asked and settings.policies.opa_url is not None:
        url = settings.policies.opa_url
        try:
            status, _ = await _get(url.rstrip("/") + "/health", settings.policies.opa_token)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return Finding("OPA", "broken", f"{url}: {_why(error)}", "every decision is a denial")
        return Finding("OPA", "ok" if status == 200 else "broken", f"{url} answered {status}")
    command = find_command(settings.policies.opa, "opa")
    if command is None:
        with suppress(OpaMissingError):
            if not asked and settings.policies.opa is None:
                return Finding("OPA", "ok", f"{OpaTool.find().path}, for writing policies")
        cost = "`policies.engine: opa`, and writing policies (`make opa`); running embedded needs none"
        return Finding("OPA", "broken" if asked else "missing", "no `opa` command", cost)
    said = await asyncio.to_thread(_output, command, "version")
    number = next((line.removeprefix("Version: ") for line in said.splitlines() if line.startswith("Version: ")), "")
    fits = number.startswith("1.")
    return Finding(
        "OPA", "ok" if fits else "broken", f"{command}, {number or said}", "" if fits else "OPA 1.x is needed"
    )


async def nemo(settings: Settings) -> Finding:
    given = settings.checks.nemo
    if given.url is not None:
        try:
            status, _ = await _get(given.url.rstrip("/") + "/v1/health", None)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return Finding("NeMo Guardrails", "broken", f"{given.url}: {_why(error)}", "verdicts say `error`")
        return Finding("NeMo Guardrails", "ok" if status < 500 else "broken", f"{given.url} answered {status}")
    if not given.launch:
        return Finding(
            "NeMo Guardrails", "off", "`checks.nemo` gives no server", "no guardrail checks beside the traffic"
        )
    python_path = str(given.python) if given.python is not None else sys.executable
    code = "import importlib.metadata as m; print(m.version('nemoguardrails'))"
    found = (await asyncio.to_thread(_output, python_path, "-c", code)).strip()
    if not found[:1].isdigit():
        remedy = "install nemoguardrails[server] and set `checks.nemo.python` to its interpreter"
        return Finding("NeMo Guardrails", "broken", f"{python_path} does not have it", remedy)
    return Finding("NeMo Guardrails", "ok", f"{found} in {python_path}")


async def llm(settings: Settings) -> Finding:
    """The server that has the model is asked for its models; launched ones are not there yet."""
    given = settings.checks.llm
    if given.model is None:
        return Finding("LLM check", "off", "`checks.llm` names no model", "no model judges tool results and calls")
    if given.url is None and settings.model.name is not None:
        return Finding("LLM check", "off", f"{given.model} on the model server that `serve` launches")
    url, key = (given.url, given.key) if given.url is not None else (settings.upstream.url, settings.upstream.api_key)
    try:
        status, body = await _get(url.rstrip("/") + "/v1/models", key)
        names = [str(one["id"]) for one in json.loads(body)["data"]]
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return Finding("LLM check", "broken", f"{url}: {_why(error)}", "verdicts say `error`")
    except (ValueError, KeyError, TypeError):
        return Finding("LLM check", "broken", f"{url} answered {status} to /v1/models", "verdicts say `error`")
    if given.model not in names:
        return Finding("LLM check", "broken", printable(f"{url} has {', '.join(names)}", 200), "verdicts say `error`")
    return Finding("LLM check", "ok", f"{given.model} at {url}")


# -- the record --------------------------------------------------------------------------------------


async def prices(settings: Settings) -> Finding:
    try:
        book = PriceBook.load(settings.tracing.prices)
    except PriceBookError as error:
        return Finding("price book", "broken", str(error), "`serve` does not start")
    return Finding("price book", "ok", f"version {book.version}")


async def mlflow(settings: Settings) -> Finding:
    given = settings.tracing.mlflow
    if given is None:
        return Finding("MLflow", "off", "`tracing.mlflow` is not set", "no traces in MLflow")
    try:
        status, _ = await _get(given.url.rstrip("/") + "/health", given.token)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return Finding("MLflow", "broken", f"{given.url}: {_why(error)}", "its traces wait in the journal")
    return Finding("MLflow", "ok" if status == 200 else "broken", f"{given.url} answered {status}")


async def collectors(settings: Settings) -> Finding:
    given = settings.tracing.otlp
    if not given:
        return Finding("OpenTelemetry", "off", "`tracing.otlp` is not set", "no spans are exported")
    lost = [target.endpoint for target in given if not await _connects(target.endpoint)]
    if lost:
        return Finding("OpenTelemetry", "broken", f"no connection to {', '.join(lost)}", "spans wait in the journal")
    return Finding("OpenTelemetry", "ok", ", ".join(target.endpoint for target in given))


PROBES: tuple[Probe, ...] = (
    *(python, packages, state_folder, disk, ports, upstream, vllm),
    *(policies, opa, nemo, llm, prices, mlflow, collectors),
)


# -- looking -----------------------------------------------------------------------------------------


async def _get(url: str, key: SecretStr | None) -> tuple[int, bytes]:
    headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key is not None else {}
    async with (
        aiohttp.ClientSession(timeout=TIMEOUT, headers=headers) as session,
        session.get(url, allow_redirects=False) as answer,
    ):
        return answer.status, await answer.content.read(64 * 1024)


async def _connects(url: str) -> bool:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(parts.hostname, port), 5.0)
    except (TimeoutError, OSError):
        return False
    writer.close()
    return True


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return _why(error)
    return done.stdout or done.stderr


def _why(error: BaseException) -> str:
    if isinstance(error, TimeoutError | subprocess.TimeoutExpired):
        return "no answer in time"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return type(error).__name__
