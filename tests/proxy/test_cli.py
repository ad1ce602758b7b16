"""The command line: help that costs nothing, one line for what is wrong, exit statuses that scripts can use."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("INTERLOCK_CONFIG", "INTERLOCK_STATE_DIR", "INTERLOCK_UNJUDGED"):
        monkeypatch.delenv(name, raising=False)


def test_help_names_every_command_an_example_and_the_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for name, (text, _) in COMMANDS.items():
        assert f"{name} " in said
        assert text in said
    for part in ("examples:", "exit status:", "OPENAI_BASE_URL", "port 8081"):
        assert part in said


def test_help_imports_none_of_the_rooms() -> None:
    code = (
        "import sys, contextlib, io\n"
        "from proxy.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    main(['--help'])\n"
        "print([name for name in ('aiohttp', 'pydantic', 'policies', 'tracing', 'rich') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help_of_its_own(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"interlock {command}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["srve"], ["serve", "--prot", "1"], ["config"], ["serve", "--port", "x"]])
def test_a_misspelt_word_is_a_usage_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_serve_tells_each_wrong_setting_in_a_line_and_starts_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "interlock.yaml"
    file.write_text("listen: {prot: 1}\nlimits: {json_depth: 0}\n", encoding="utf-8")
    assert main(["serve", "--config", str(file)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"interlock: {file}:1: listen.prot: ")
    assert lines[1].startswith(f"interlock: {file}:2: limits.json_depth: ")
    assert not (tmp_path / ".local").exists()


def test_serve_refuses_an_open_bind_and_names_the_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--host", "0.0.0.0"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("interlock: --host: listen.host: ")
    assert said.count("\n") == 1


def test_serve_refuses_a_state_folder_that_others_can_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tmp_path.chmod(0o755)
    assert main(["serve", "--state-dir", str(tmp_path)]) == 2
    assert "chmod 700" in capsys.readouterr().err


def test_serve_says_which_port_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        assert main(["serve", "--port", port, "--admin-port", "0", "--state-dir", str(tmp_path / "state")]) == 2
    said = capsys.readouterr().err
    assert port in said
    assert "--port" in said


def test_serve_says_what_to_install_for_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "interlock.yaml"
    file.write_text("model: {vllm: /nowhere/vllm}\n", encoding="utf-8")
    state = str(tmp_path / "state")
    assert main(["serve", "--config", str(file), "--model", "Qwen/Qwen3-8B", "--state-dir", state]) == 2
    assert "model.vllm" in capsys.readouterr().err


def test_config_check_says_what_is_wrong_or_that_all_is_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "interlock.yaml"
    file.write_text("unjudged: allow\n", encoding="utf-8")
    assert main(["config", "check", str(file)]) == 0
    assert "all is well" in capsys.readouterr().out
    file.write_text("policies: {modes: {interlock.shel: enforce}}\n", encoding="utf-8")
    assert main(["config", "check", str(file)]) == 1
    assert "interlock.shell" in capsys.readouterr().err
    file.write_text("tracing: {prices: /nowhere.yaml}\n", encoding="utf-8")
    assert main(["config", "check", str(file)]) == 1
    assert "/nowhere.yaml" in capsys.readouterr().err


def test_config_check_names_what_has_ended_and_from_where_a_path_is_seen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rollout").mkdir()
    ended = "owner: a@x, approver: b@x, reason: why, expires: 2026-01-31"
    document = f"exceptions: [{{id: old, policy: interlock.shell, {ended}}}]\n"
    Path("rollout/platform.yaml").write_text(document, encoding="utf-8")
    Path("interlock.yaml").write_text("policies: {rollout: rollout}\n", encoding="utf-8")
    assert main(["config", "check", "interlock.yaml"]) == 0
    said = "warning: rollout: exception platform/old ended 2026-02-01 00:00 UTC and covers nothing"
    assert said in capsys.readouterr().err
    Path("interlock.yaml").write_text("policies: {bundle: bundle}\n", encoding="utf-8")
    assert main(["config", "check", "interlock.yaml"]) == 1
    assert f"bundle: there is none, seen from {tmp_path}" in capsys.readouterr().err


def test_config_check_warns_of_a_secret_that_others_can_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "k")
    file = tmp_path / "interlock.yaml"
    file.write_text('upstream:\n  api_key: canary-1\nagents: {a: {keys: ["${KEY}"]}}\n', encoding="utf-8")
    file.chmod(0o644)
    assert main(["config", "check", str(file)]) == 0
    said = capsys.readouterr().err
    assert f"{file}:2: upstream.api_key" in said
    assert "canary-1" not in said
    assert said.count("warning") == 1
    file.chmod(0o600)
    assert main(["config", "check", str(file)]) == 0
    assert capsys.readouterr().err == ""


def test_config_show_masks_secrets(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERLOCK_UPSTREAM__API_KEY", "canary-2")
    assert main(["config", "show", "--json"]) == 0
    said = capsys.readouterr().out
    assert json.loads(said)["upstream"]["api_key"] == "**********"
    assert main(["config", "show"]) == 0
    assert "canary-2" not in said + capsys.readouterr().out


def test_config_schema_is_the_published_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema"]) == 0
    assert capsys.readouterr().out == (ROOT / "docs" / "settings.schema.json").read_text(encoding="utf-8")
