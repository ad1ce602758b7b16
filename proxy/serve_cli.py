"""`interlock serve`: flags over variables over the file, then the server; every refusal to start in one line."""

from __future__ import annotations

import argparse
import errno
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from proxy.app import serve
from serving.config_file import ConfigError, Override, load
from serving.launch.commands import LaunchError
from serving.launch.process import ChildFailed
from serving.settings import Settings
from serving.state_dir import StateDirError, prepare
from serving.text import printable
from tracing.journal import JournalError
from tracing.prices import PriceBookError

_FLAGS = {
    "upstream": "upstream.url",
    "model": "model.name",
    "host": "listen.host",
    "port": "listen.port",
    "admin_host": "listen.admin_host",
    "admin_port": "listen.admin_port",
    "state_dir": "state_dir",
    "workers": "workers",
    "insecure_open": "listen.insecure_open",
}
_EPILOG = """\
With no flag, no variable and no file: data port 127.0.0.1:8080, admin port 127.0.0.1:8081, model server
127.0.0.1:8000, the starter policies in force. A flag wins over INTERLOCK_* variables, these over the file.
All settings: docs/settings.md. SIGTERM or Ctrl-C ends it in good order; what runs may finish first.
"""


def add_serve_command(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``serve``."""
    parser = subparsers.add_parser(
        "serve",
        help="stand between agents and a model server",
        description="Stand between agents and a model server that runs (--upstream) or is launched (--model).",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    server = parser.add_mutually_exclusive_group()
    server.add_argument("--upstream", metavar="URL", help="the model server, without /v1 (http://127.0.0.1:8000)")
    server.add_argument("--model", metavar="NAME", help="launch vLLM with this model, a name or a folder")
    add_config_flag(parser)
    parser.add_argument("--host", metavar="H", help="address of the data port; beyond loopback agents need keys")
    parser.add_argument("--port", type=int, metavar="P", help="the data port (8080; 0: any free one)")
    parser.add_argument("--admin-host", metavar="H", help="address of the admin port; beyond loopback needs a token")
    parser.add_argument("--admin-port", type=int, metavar="Q", help="the admin port (8081; 0: any free one)")
    parser.add_argument("--state-dir", type=Path, metavar="DIR", help="where everything is written, mode 0700")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that share the data port (1)")
    parser.add_argument(
        "--insecure-open", action="store_true", default=None, help="bind beyond loopback without authentication"
    )
    parser.set_defaults(run=_run)


def add_config_flag(parser: argparse.ArgumentParser) -> None:
    """``--config``, the same for every command that reads the settings."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings in YAML (INTERLOCK_CONFIG; else none)")


def overrides_of(arguments: argparse.Namespace) -> list[Override]:
    """The flags that were given."""
    given = []
    for name, key in _FLAGS.items():
        value = getattr(arguments, name, None)
        if value is not None:
            given.append(Override(key, value, "--" + name.replace("_", "-")))
    if getattr(arguments, "upstream", None) is not None:
        given.append(Override("model.name", None, "--upstream"))
    return given


def _run(arguments: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = load(arguments.config, overrides=overrides_of(arguments))
    except ConfigError as error:
        return _refuse(*map(str, error.problems))
    if settings.listen.insecure_open:
        _tell("warning: --insecure-open: whoever reaches the ports may use the model", sys.stderr)
    try:
        prepare(settings.state_dir)
        return serve(settings, _tell)
    except OSError as error:
        return _refuse(_words(error, settings))
    except (StateDirError, LaunchError, ChildFailed, PriceBookError, JournalError) as error:
        return _refuse(str(error))
    except ValueError as error:  # bundle, modes, patterns: each says which setting or file is wrong
        return _refuse(str(error))


def _refuse(*why: str) -> int:
    for line in why:
        _tell(f"interlock: {line}", sys.stderr)
    return 2


def _words(error: OSError, settings: Settings) -> str:
    listen = settings.listen
    ports: Mapping[int, str] = {listen.port: "--port", listen.admin_port: "--admin-port"}
    if error.errno in (errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL):
        said = error.strerror or "cannot be bound"
        which = next((port for port in ports if f", {port})" in said), None)
        remedy = f"choose another by {ports[which]}" if which is not None else "choose another by --host or --port"
        return f"{said}; {remedy}"
    return f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")


def _tell(text: str, stream: TextIO | None = None) -> None:
    print(printable(text, 2000), file=stream or sys.stdout, flush=True)
