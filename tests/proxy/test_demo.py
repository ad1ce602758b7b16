"""The demo tells its story, every claim holds, and nothing of it is left over."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.cli import main
from serving.tiny.scripts import CANARY, KEY

REPOSITORY = Path(__file__).parents[2]
DEMO = (sys.executable, "-m", "proxy.cli", "demo")
SECONDS = 120


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Ours without what steers Interlock or colours; temporary folders are made in ``folder``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("INTERLOCK_")}
    return kept | {"TMPDIR": str(folder), "PYTHONPATH": str(REPOSITORY), "COLUMNS": "100"} | more


def processes_that_name(text: str) -> list[str]:
    """The command lines of running processes in which ``text`` stands."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return [line for line in lines if text in line]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The whole story as one prints it into a file, and the temporary folder that it had."""
    folder, home = tmp_path_factory.mktemp("demo"), tmp_path_factory.mktemp("home")
    done = subprocess.run(
        [*DEMO, "--fast"],
        env=environment(folder, HOME=str(home)),
        cwd=home,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "4 exchanges\n")
    assert list(home.iterdir()) == []
    yield done.stdout, folder


def flat(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize(
    "statement",
    [
        r"checked The model server sent ([\d,]+) bytes in 5 answers \(sha256 (\w+)…\); the agent received \1 bytes "
        r"\(sha256 \2…\)",
        r"STOPPED by interlock\.shell/destructive_command\.",
        r"checked The marker stands once in the model server's answer and nowhere in what the agent received",
        r"1: run_shell rm -rf /srv/<marker> -  ?a refusal in its place",
        r"2: read_file CHANGELOG\.md 1: read_file CHANGELOG\.md",
        r"once in the arguments and once in the logprobs; in what was received, in neither",
        r"checked Nothing was stopped\. The record says what would have refused the call: "
        r"interlock\.paths/outside_workspace and interlock\.paths/sensitive_file",
        r"checked The key stands once in the model server's answer and nowhere in what the agent received",
        r"as it is stored: REGION=eu-1 ACCESS=\[redacted:aws_access_key_id\]",
        r"make status → pending .* says: The build is green\. STOPPED refused: 429 loop_detected",
        r"ALERT loop_suspected: .* ALERT loop_detected:",
        r"429 with x-should-retry: false",
        r"Every record is as it was written, in its place\.",
        r"cost 7 runs: 24 exchanges, [\d,]+ tokens in, [\d,]+ out, \$0\.00\d+\. From price book",
        r"The key of scene 5 is in none of the \d+ files below the state folder",
    ],
)
def test_every_statement_of_the_story_is_made(told: tuple[str, Path], statement: str) -> None:
    assert re.search(statement, flat(told[0]).replace("run_shell make status", "make status"))


def test_no_claim_fails_and_neither_canary_nor_key_is_printed(told: tuple[str, Path]) -> None:
    assert "FAILED  " not in told[0]
    assert CANARY not in told[0]
    assert KEY not in told[0]


def test_into_a_file_come_plain_lines(told: tuple[str, Path]) -> None:
    assert "\x1b" not in told[0]
    assert "\r" not in told[0]


def test_the_record_stays_where_the_story_says_and_nothing_runs_on(
    told: tuple[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    text, folder = told
    (state,) = folder.iterdir()
    assert f"The record stays in {state}" in flat(text)
    assert main(["audit", "verify", "--state-dir", str(state)]) == 0
    assert "Every record is as it was written" in capsys.readouterr().out
    assert processes_that_name(str(state)) == []


def test_an_interrupt_ends_everything(tmp_path: Path) -> None:
    with subprocess.Popen(
        DEMO, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stdout is not None
        assert demo.stderr is not None
        while "user" not in (line := demo.stdout.readline()):
            assert line
        demo.send_signal(signal.SIGINT)
        _, said = demo.communicate(timeout=SECONDS)
    assert demo.returncode == 130
    assert said == "\ninterrupted; everything that ran has ended\n"
    assert processes_that_name(str(tmp_path)) == []


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--traffic", "no-such-folder"], "there are no recordings in no-such-folder; take a whole clone"),
        (["--vllm-command", "no-such-vllm"], "the `vllm` command is not there; install vLLM"),
    ],
)
def test_what_is_missing_is_one_line_with_the_remedy(
    words: list[str], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert main(["demo", "--fast", *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"interlock demo: {why}")
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_conversation_without_a_recording_ends_the_show_with_one_line(tmp_path: Path) -> None:
    first = REPOSITORY / "serving" / "tiny" / "traffic" / "repair-0-stream.http"
    (tmp_path / "traffic").mkdir()
    (tmp_path / "traffic" / first.name).write_bytes(first.read_bytes())
    done = subprocess.run(
        [*DEMO, "--fast", "--traffic", str(tmp_path / "traffic")],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == (
        "interlock demo: the request was answered with 404: the player has no recording of this conversation\n"
    )
