"""Make a lane and print where it is.

A lane is a heavy thing that tests and demos run for real, kept apart from Interlock's own environment:
the environments of ``vllm``, ``nemo`` and ``mlflow``, and the ``opa`` binary. Each is made once per machine, in
``${INTERLOCK_CACHE:-${XDG_CACHE_HOME:-~/.cache}/interlock}/lanes/<name>-<digest>``; the digest is over what
it is made from, so a changed lock makes a new one and every clone shares the old. Environments cannot be
moved, so they are made in place; ``made`` is written last, and a lock file lets a second run wait.

    python deploy/lane.py NAME             make it if it is missing; print its path
    python deploy/lane.py NAME --if-made   print its path, or exit 3

The path is the environment's folder; for ``opa``, the binary. Only the standard library is used.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

DEPLOY = Path(__file__).resolve().parent
OPA_VERSION = (DEPLOY / "lanes" / "opa" / "version").read_text().strip()
NOT_MADE = 3


class LaneError(Exception):
    """Why a lane cannot be made here, and what to do about it."""


def say(text: str) -> None:
    print(f"lane: {text}", file=sys.stderr, flush=True)


def run(*command: str | Path, **variables: str) -> None:
    """Run a command with its output on our stderr; our stdout carries the path alone."""
    try:
        subprocess.run(command, check=True, stdout=sys.stderr, env={**os.environ, **variables})
    except (OSError, subprocess.CalledProcessError) as problem:
        raise LaneError(f"{' '.join(map(str, command))}: {problem}") from problem


def apt_install(package: str, why: str) -> None:
    remedy = f"apt-get install -y --no-install-recommends {package}"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise LaneError(f"{why}. Remedy: sudo {remedy}")
    say(f"{why}; running: {remedy}")
    run("apt-get", "update", "-qq")
    run(*remedy.split(), DEBIAN_FRONTEND="noninteractive")


# -- the environments


def environment(name: str, home: Path) -> None:
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    run(sys.executable, "-m", "venv", home)
    given = ["--uv", uv] if uv else ["--pip"]
    lock = DEPLOY / "lanes" / name / f"{name}.lock"
    run(home / "bin" / "python", DEPLOY / "install.py", home, lock, *given)


def libnuma_is_there() -> bool:
    try:
        ctypes.CDLL("libnuma.so.1")
    except OSError:
        return False
    return True


def make_vllm(home: Path) -> None:
    """vLLM's CPU build, with the metadata that its command asks for (vllm_stub.py)."""
    if not libnuma_is_there():
        apt_install("libnuma1", "vLLM on a CPU needs the system library libnuma.so.1")
    environment("vllm", home)
    run(home / "bin" / "python", DEPLOY / "vllm_stub.py")


def make_nemo(home: Path) -> None:
    environment("nemo", home)


def make_mlflow(home: Path) -> None:
    environment("mlflow", home)


# -- OPA


def opa_version(binary: str | Path) -> str | None:
    try:
        said = subprocess.run([binary, "version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    found = re.search(r"^Version: (\S+)$", said, re.MULTILINE)
    return found.group(1) if found else None


def go_command() -> str:
    """A Go that can fetch newer toolchains by itself (1.21 or later), from PATH or made from an older one."""
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        remedy = f"put an opa {OPA_VERSION} on PATH (or its path in INTERLOCK_OPA)"
        apt_install("golang-go", f"there is no OPA {OPA_VERSION} and no Go to build it; or {remedy}")
        go = shutil.which("go") or "go"
    said = subprocess.run([go, "version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"go1\.(\d+)", said)
    if found and int(found.group(1)) >= 21:
        return go
    return newer_go(go)


def newer_go(old: str) -> str:
    """Toolchains are modules too; an old Go can download one, but does not mark its programs executable."""
    wanted = (DEPLOY / "lanes" / "opa" / "go-toolchain").read_text().strip()
    platform = subprocess.run([old, "env", "GOOS", "GOARCH"], capture_output=True, text=True, check=True)
    module = f"golang.org/toolchain@v0.0.1-go{wanted}.{'-'.join(platform.stdout.split())}"
    say(f"this Go is older than 1.21; fetching Go {wanted} as a module")
    run(old, "mod", "download", module)
    cache = subprocess.run([old, "env", "GOMODCACHE"], capture_output=True, text=True, check=True)
    root = Path(cache.stdout.strip()) / module
    for program in [*root.glob("bin/*"), *root.glob("pkg/tool/*/*")]:
        program.chmod(0o755)
    return str(root / "bin" / "go")


def make_opa(home: Path) -> None:
    target = home / "bin" / "opa"
    target.parent.mkdir(parents=True)
    present = shutil.which("opa")
    if present and opa_version(present) == OPA_VERSION:
        shutil.copy2(present, target)
        return
    say(f"building OPA {OPA_VERSION} from its module; this takes a minute or two")
    package = f"github.com/open-policy-agent/opa@v{OPA_VERSION}"
    run(go_command(), "install", package, GOBIN=str(target.parent), GOFLAGS="-buildvcs=false", CGO_ENABLED="0")
    if opa_version(target) != OPA_VERSION:
        raise LaneError(f"what Go built says it is OPA {opa_version(target)}, not {OPA_VERSION}")


# -- keeping them

MAKERS: dict[str, Callable[[Path], None]] = {
    "vllm": make_vllm,
    "nemo": make_nemo,
    "mlflow": make_mlflow,
    "opa": make_opa,
}


def home_of(name: str) -> Path:
    """Where the lane lies on this machine, made or not."""
    base = os.environ.get("INTERLOCK_CACHE")
    cache = Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "interlock"
    parts = [Path(__file__), *sorted((DEPLOY / "lanes" / name).iterdir())]
    digest = hashlib.sha256()
    if name != "opa":
        digest.update(f"{sys.base_prefix} {sys.version}".encode())
        parts += [DEPLOY / "install.py", DEPLOY / "vllm_stub.py"]
    for part in parts:
        digest.update(part.read_bytes())
    return cache.expanduser().absolute() / "lanes" / f"{name}-{digest.hexdigest()[:16]}"


def path_in(name: str, home: Path) -> Path:
    return home / "bin" / "opa" if name == "opa" else home


def is_made(name: str, home: Path) -> bool:
    program = home / "bin" / ("opa" if name == "opa" else "python")
    return (home / "made").exists() and program.exists()


def make(name: str, home: Path) -> None:
    home.parent.mkdir(parents=True, exist_ok=True)
    with home.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{name} is being made by another run; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if is_made(name, home):
            return
        say(f"making {name} in {home} (once)")
        shutil.rmtree(home, ignore_errors=True)
        MAKERS[name](home)
        (home / "made").touch()


def main() -> int:
    parser = argparse.ArgumentParser(description="Make a lane if it is missing and print its path.")
    parser.add_argument("name", choices=sorted(MAKERS))
    parser.add_argument("--if-made", action="store_true", help="never make it; exit 3 if it is missing")
    options = parser.parse_args()
    home = home_of(options.name)
    if not is_made(options.name, home):
        if options.if_made:
            return NOT_MADE
        try:
            make(options.name, home)
        except LaneError as problem:
            say(f"{options.name} cannot be made: {problem}")
            return 1
    print(path_in(options.name, home))
    return 0


if __name__ == "__main__":
    sys.exit(main())
