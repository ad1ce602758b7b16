"""Fill a virtual environment from one of the project's locks: by uv where that is right, else by pip.

uv is four times as fast, but it does not read pip's configuration, and that is where a company's index,
certificates and wheel folders stand. So pip is asked for its settings; if each of them has a word in
uv's language, uv gets them; if one has none, or uv fails, pip does the work. Hashes are checked either way,
and nothing is built from source.

    python deploy/install.py ENVIRONMENT LOCK [--uv PATH | --pip]

With neither, uv itself is first installed into the environment from the lock, which must name it.
Only the standard library is used: this runs before anything is installed.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# pip's setting → uv's variable (lists are joined by the separator that uv reads there).
TRANSLATED: dict[str, tuple[str, str] | None] = {
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "trusted-host": ("UV_INSECURE_HOST", " "),
    "cert": ("SSL_CERT_FILE", " "),
    "client-cert": ("SSL_CLIENT_CERT", " "),
    "timeout": ("UV_HTTP_TIMEOUT", " "),
    "default-timeout": ("UV_HTTP_TIMEOUT", " "),
    "cache-dir": None,
    "disable-pip-version-check": None,
    "no-input": None,
    "progress-bar": None,
    "quiet": None,
    "verbose": None,
    "root-user-action": None,
    "break-system-packages": None,
    "no-color": None,
}


def pip_settings(python: Path) -> dict[str, str]:
    """pip's effective settings by bare name; the later of global, install and environment wins."""
    listed = subprocess.run([python, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True).stdout
    found = re.findall(r"^(\S+?)\.([\w-]+)=(.*)$", listed, re.MULTILINE)
    order = {"global": 0, "install": 1, ":env:": 2}
    ranked = sorted((order[section], key, value) for section, key, value in found if section in order)
    return {key: str(ast.literal_eval(value)) for _, key, value in ranked}


def as_uv_variables(settings: dict[str, str]) -> dict[str, str] | None:
    """The same settings as uv's variables; None where one of them has no counterpart."""
    variables: dict[str, str] = {}
    for key, value in settings.items():
        if key not in TRANSLATED:
            return None
        target = TRANSLATED[key]
        if target is not None:
            name, separator = target
            variables[name] = separator.join(value.split())
    return variables


def entry(lock: Path, package: str) -> str:
    """The lines of one package in a lock: its pin and its hashes."""
    found = re.search(rf"^{package}==(?:.*\\\n)*.*\n", lock.read_text(), re.MULTILINE)
    if found is None:
        raise SystemExit(f"install: {lock} does not name {package}")
    return found.group(0)


def pip_install(python: Path, lock: Path) -> None:
    flags = "-m pip --disable-pip-version-check --quiet install --no-deps --require-hashes --only-binary :all:"
    command = [str(python), *flags.split(), "--requirement", str(lock)]
    subprocess.run(command, check=True)


def uv_install(uv: Path, python: Path, lock: Path, variables: dict[str, str]) -> bool:
    flags = "pip install --quiet --no-deps --require-hashes --no-build --index-strategy unsafe-best-match"
    command = [str(uv), *flags.split(), "--python", str(python), "--requirement", str(lock)]
    return subprocess.run(command, env={**os.environ, **variables}, check=False).returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description="Fill a virtual environment from a lock.")
    parser.add_argument("environment", type=Path)
    parser.add_argument("lock", type=Path)
    parser.add_argument("--uv", type=Path, help="a uv that is already there")
    parser.add_argument("--pip", action="store_true", help="use pip alone")
    options = parser.parse_args()
    python, lock = options.environment / "bin" / "python", options.lock

    variables = as_uv_variables(pip_settings(python))
    if variables is not None and not options.pip:
        if options.uv is None:
            with tempfile.NamedTemporaryFile("w", suffix=".txt") as only_uv:
                only_uv.write(entry(lock, "uv"))
                only_uv.flush()
                pip_install(python, Path(only_uv.name))
        if uv_install(options.uv or options.environment / "bin" / "uv", python, lock, variables):
            return
        print("install: uv could not do it; trying pip", file=sys.stderr)
    try:
        pip_install(python, lock)
    except subprocess.CalledProcessError as problem:
        raise SystemExit(
            f"install: pip could not install {lock} (its words are above).\n"
            "         No network, or an index of your own? pip's configuration is honoured: pip config list"
        ) from problem


if __name__ == "__main__":
    main()
