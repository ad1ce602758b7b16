"""`interlock policy keygen | sign`, and the key of `policy build --sign`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from policies.bundle import Bundle
from policies.rollout import LABEL, PLATFORM, Rollout
from policies.signing import SignatureError, make_keys, public_line, read_private, sign, signature_path

OK = 0


def add_signing_commands(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    guarded: Callable[[Callable[[argparse.Namespace, Console], int]], Callable[[argparse.Namespace], int]],
) -> None:
    making = commands.add_parser("keygen", help="make a key pair for signing bundles and roll-outs")
    making.add_argument("key", type=Path, metavar="KEY", help="file for the private key; it must not exist")
    making.set_defaults(run=guarded(_keygen))

    signing = commands.add_parser("sign", help="sign a bundle, or a roll-out's documents")
    signing.add_argument("path", type=Path, metavar="PATH", help="a bundle, or platform.yaml, or teams/TEAM.yaml")
    signing.add_argument("--key", type=Path, required=True, metavar="KEY", help="the private key")
    add_serial_arguments(signing)
    signing.set_defaults(run=guarded(_sign))


def add_serial_arguments(parser: argparse.ArgumentParser) -> None:
    """What a signature says beside whose it is."""
    parser.add_argument(
        "--serial",
        type=_serial,
        metavar="N",
        help="of two signed files the one with the higher serial is the newer (the time, in milliseconds)",
    )
    parser.add_argument(
        "--from",
        dest="not_before",
        type=_time,
        metavar="TIME",
        help="it does not hold before that: 2027-01-31, or 2027-01-31T08:00:00Z",
    )


def _serial(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise argparse.ArgumentTypeError("is no number of at most 18 digits")
    return int(text)


def _time(text: str) -> datetime:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError("is no time such as 2027-01-31T08:00:00Z") from None
    return when if when.tzinfo is not None else when.replace(tzinfo=UTC)


def _keygen(arguments: argparse.Namespace, console: Console) -> int:
    line = make_keys(arguments.key)
    console.print(
        f"[green]made[/] {escape(str(arguments.key))}: the private key, for whoever may decide and nobody else"
    )
    console.print(f"public key, for the settings:\n{line}", soft_wrap=True)
    return OK


def _sign(arguments: argparse.Namespace, console: Console) -> int:
    path, key = arguments.path, read_private(arguments.key)
    if path.is_dir() and (path / "platform.yaml").is_file():
        documents = ", ".join(map(str, [path / "platform.yaml", *sorted(path.glob("teams/*.yaml"))]))
        raise SignatureError(f"{path}: is a roll-out, whose documents are signed one by one: {documents}")
    if path.suffix in (".yaml", ".yml"):
        layer = path.stem if path.parent.name == "teams" else PLATFORM
        Rollout.load(path.parent.parent if path.parent.name == "teams" else path.parent)
        line = sign(
            key, f"{LABEL} {layer}", path.read_bytes(), serial=arguments.serial, not_before=arguments.not_before
        )
        signature_path(path).write_text(line + "\n", encoding="utf-8")
        said = f"{signature_path(path)} (layer {layer})"
    else:
        bundle = Bundle.load(path).signed(key, arguments.serial, arguments.not_before)
        bundle.write(path)
        said = f"{path} ({bundle.digest})"
    console.print(f"[green]signed[/] {escape(said)} by {public_line(key)}", soft_wrap=True)
    return OK
