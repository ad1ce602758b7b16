"""A supervised child: real processes, told apart by what they print and how they end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from serving.launch.process import (
    Backoff,
    Child,
    ChildFailed,
    ChildSpec,
    ChildState,
    Watch,
    reduced_environment,
)

SLEEPER = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + SLEEPER
QUICK = Watch(ready=20, every=0.02, starting_every=0.02, failures=2, stop=0.3)
SOON = Backoff(first=0.01, ceiling=0.02)


class States:
    """The states that a child went through, and a way to wait for one."""

    def __init__(self) -> None:
        self.seen: list[ChildState] = []
        self._changed = asyncio.Event()

    def __call__(self, state: ChildState) -> None:
        self.seen.append(state)
        self._changed.set()

    async def until(self, done: Callable[[list[ChildState]], bool]) -> None:
        async with asyncio.timeout(20):
            while not done(self.seen):
                self._changed.clear()
                await self._changed.wait()


def content(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def printed(log: Path) -> Callable[[], object]:
    async def probe() -> bool:
        return "up" in content(log)

    return probe


async def until(condition: Callable[[], object]) -> None:
    """Another process's deeds come with no event of ours."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


Made = Callable[..., Child]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Made]:
    children: list[Child] = []

    def build(code: str, **options: object) -> Child:
        log = tmp_path / "logs" / "child.log"
        spec = ChildSpec("child", (sys.executable, "-c", code), log=log)
        settings = {"probe": printed(log), "watch": QUICK, "backoff": SOON} | options
        child = Child(options.pop("spec", spec), **{k: v for k, v in settings.items() if k != "spec"})  # type: ignore[arg-type]
        children.append(child)
        return child

    yield build
    for child in children:
        await child.stop()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


async def test_a_child_becomes_ready_in_a_group_of_its_own_and_ends_on_stop(make: Made) -> None:
    child = make(SLEEPER)
    child.start()
    await child.wait_ready()
    pid = child.pid
    assert pid is not None and child.state == "ready"
    assert os.getpgid(pid) == pid != os.getpgid(0)
    await child.stop()
    assert not alive(pid)
    assert child.state == "stopped" and child.pid is None


async def test_a_child_that_ignores_sigterm_is_killed(make: Made) -> None:
    child = make(STUBBORN)
    child.start()
    await child.wait_ready()
    pid = child.pid
    assert pid is not None
    await child.stop()
    assert not alive(pid)


async def test_grandchildren_go_with_their_parent(make: Made, tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time, pathlib;"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(p.pid));" + SLEEPER
    )
    child = make(code)
    child.start()
    await child.wait_ready()
    grandchild = int((tmp_path / "pid").read_text())
    assert alive(grandchild)
    await child.stop()
    await until(lambda: not alive(grandchild))


async def test_a_child_that_is_killed_is_started_again(make: Made) -> None:
    states = States()
    child = make(SLEEPER, on_state=states)
    child.start()
    await child.wait_ready()
    first = child.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await states.until(lambda seen: seen.count("ready") == 2)
    assert states.seen[:5] == ["starting", "ready", "waiting", "starting", "ready"]
    assert child.pid not in (None, first)
    assert child.restarts == 1


async def test_a_child_that_fails_its_probes_is_unhealthy_and_started_again(make: Made) -> None:
    states = States()
    health = [True, False, False, True]

    async def probe() -> bool:
        return health.pop(0) if health else True

    child = make(SLEEPER, probe=probe, on_state=states)
    child.start()
    await states.until(lambda seen: seen.count("ready") == 2)
    assert states.seen[:6] == ["starting", "ready", "unhealthy", "waiting", "starting", "ready"]


async def test_an_exit_before_readiness_is_told_with_the_code_and_the_log(make: Made, tmp_path: Path) -> None:
    child = make("import sys; print('no such flag'); sys.exit(3)")
    child.start()
    with pytest.raises(ChildFailed, match=r"child exited with code 3 before it was ready; its log is .*child\.log"):
        await child.wait_ready()
    assert "no such flag" in (tmp_path / "logs" / "child.log").read_text()


async def test_a_program_that_is_missing_is_told(make: Made, tmp_path: Path) -> None:
    log = tmp_path / "missing.log"
    child = make("", spec=ChildSpec("ghost", ("/nonexistent/ghost",), log=log))
    child.start()
    with pytest.raises(ChildFailed, match="ghost exited with code 1"):
        await child.wait_ready()
    assert "cannot run /nonexistent/ghost" in log.read_text()


async def test_readiness_has_a_deadline_on_the_clock_that_was_passed_in(make: Made) -> None:
    ticks = iter(range(0, 10_000, 7))

    async def never() -> bool:
        return False

    child = make(SLEEPER, probe=never, clock=lambda: float(next(ticks)))
    child.start()
    with pytest.raises(ChildFailed, match="was not ready within 20 s"):
        await child.wait_ready()


async def test_the_log_is_private_and_begun_again_when_it_is_full(make: Made, tmp_path: Path) -> None:
    log = tmp_path / "state" / "noisy.log"
    states = States()
    spec = ChildSpec("noisy", (sys.executable, "-c", "print('up' * 400, flush=True)"), log=log, log_bytes=500)
    child = make("", spec=spec, on_state=states)
    child.start()
    await states.until(lambda seen: seen.count("waiting") == 2)
    assert log.parent.stat().st_mode & 0o777 == 0o700
    assert log.stat().st_mode & 0o777 == 0o600
    assert log.with_name("noisy.log.1").exists()
    assert log.stat().st_size < 1000


def test_the_environment_keeps_only_what_is_named_and_no_credential_of_ours() -> None:
    source = {
        "PATH": "/bin",
        "LC_ALL": "C",
        "HF_HOME": "/models",
        "OPENAI_API_KEY": "sk-1",
        "INTERLOCK_ADMIN": "secret",
    }
    environment = reduced_environment(("HF_*", "INTERLOCK_*"), {"EXTRA": "1"}, source)
    assert environment["PATH"] == "/bin" and environment["LC_ALL"] == "C" and environment["HF_HOME"] == "/models"
    assert environment["EXTRA"] == "1"
    assert environment["DO_NOT_TRACK"] == environment["VLLM_NO_USAGE_STATS"] == "1"
    assert not {"OPENAI_API_KEY", "INTERLOCK_ADMIN"} & environment.keys()


def test_the_pause_doubles_to_its_ceiling_and_at_most_half_is_chance() -> None:
    backoff = Backoff(first=1.0, ceiling=10.0)
    assert [backoff.seconds(n, 0.0) for n in (1, 2, 3, 4, 5, 500)] == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert backoff.seconds(4, 0.999) == pytest.approx(4.004)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tie a child to its parent's life")
async def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    code = f"""
import asyncio, sys
from pathlib import Path
from serving.launch.process import Child, ChildSpec
log = Path({str(tmp_path / "log")!r})
async def up(): return log.read_text() == "up\\n"
async def main():
    child = Child(ChildSpec("c", (sys.executable, "-c", {SLEEPER!r}), log=log), probe=up)
    child.start()
    await child.wait_ready()
    Path({str(pid_file)!r}).write_text(str(child.pid))
    await asyncio.sleep(600)
asyncio.run(main())
"""
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", code, cwd=Path(__file__).parents[2])
    await until(lambda: content(pid_file))
    pid = int(content(pid_file))
    assert alive(pid)
    parent.kill()
    await parent.wait()
    await until(lambda: not alive(pid))


async def test_a_child_that_is_gone_before_it_is_told_anything_has_just_exited(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(_writer: asyncio.StreamWriter, _data: bytes) -> None:
        raise RuntimeError("unable to perform operation on a closed pipe")  # as uvloop says it

    monkeypatch.setattr(asyncio.StreamWriter, "write", closed)

    async def never() -> bool:
        return False

    spec = ChildSpec("brief", (sys.executable, "-S", "-c", "raise SystemExit(3)"), stdin=b"told")
    child = Child(spec, probe=never, watch=QUICK, backoff=SOON)
    child.start()
    with pytest.raises(ChildFailed, match="exited with"):
        await child.wait_ready()
    await child.stop()
