"""How a worker process is started: its command line, and what it is told over its standard input."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
from pydantic import SecretStr

from serving.settings import Settings

# What ``python -m proxy.workers.worker`` does, but from the folder that this file is in: neither the folder that
# Interlock was started in nor a variable has a say in which code gets the settings' credentials.
_START = """
import runpy, sys
sys.path.insert(0, sys.argv.pop(1))
runpy.run_module("proxy.workers.worker", run_name="__main__", alter_sys=True)
"""


class Order(msgspec.Struct, frozen=True):
    """``settings`` as the YAML file has them, credentials in clear; ``token`` is what the worker must show at
    ``socket``. ``asks_opa``: the parent runs the OPA servers."""

    number: int
    socket: str
    token: str
    settings: dict[str, Any]
    asks_opa: bool = False


def command(number: int) -> tuple[str, ...]:
    return (sys.executable, "-P", "-c", _START, str(Path(__file__).parents[2]), str(number))


def order(number: int, socket: Path, token: str, settings: Settings, *, asks_opa: bool) -> bytes:
    """For the worker's standard input. Holds credentials."""
    said = Order(number, str(socket), token, settings.model_dump(mode="python"), asks_opa)
    return msgspec.json.encode(said, enc_hook=_plain)


def read_order(data: bytes) -> tuple[Order, Settings]:
    taken = msgspec.json.decode(data, type=Order)
    return taken, Settings.model_validate(taken.settings)


def _plain(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(type(value).__name__)
