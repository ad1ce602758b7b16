"""``interlock audit``: what is printed, and the exit status."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.tracing.exchanges import BEGIN, opened, refused, settled, whole
from tracing.cli import add_audit_commands
from tracing.exchange import utc
from tracing.journal import Journal
from tracing.lookup import parse_since
from tracing.records import CallOutcome


def interlock(*words: str) -> int:
    parser = argparse.ArgumentParser()
    add_audit_commands(parser.add_subparsers(required=True))
    arguments = parser.parse_args(words)
    status = arguments.run(arguments)
    assert isinstance(status, int)
    return status


@pytest.fixture
def state(tmp_path: Path) -> Path:
    journal = Journal.open(tmp_path, instance="one", clock=lambda: BEGIN)
    plain = [opened("x-plain", BEGIN + 1, agent="writer", run="run-2"), settled("x-plain", BEGIN + 1, choices=[])]
    for records in (
        plain,
        whole("x-denied", BEGIN + 2),
        refused("x-refused", BEGIN + 3),
        [opened("x-open", BEGIN + 4)],
    ):
        for record in records:
            journal.append(record)
    journal.close()
    return tmp_path


def rows(capsys: Any, *words: str) -> list[dict[str, Any]]:
    assert interlock("audit", "list", "--json", *words) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_verify_says_that_all_is_well_and_what_it_cannot_show(state: Path, capsys: Any) -> None:
    assert interlock("audit", "verify", "--state-dir", str(state)) == 0
    out = capsys.readouterr().out
    assert "Every record is as it was written" in out
    assert "What this cannot show" in out
    assert "newest records" in out
    assert "one/w0:13:" in out


def test_verify_names_the_place_of_a_fault_and_exits_with_1(state: Path, capsys: Any) -> None:
    (file,) = (state / "journal/one/w0").glob("*.jsonl")
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:5] + lines[6:]))
    assert interlock("audit", "verify", "--state-dir", str(state)) == 1
    out = capsys.readouterr().out
    assert f"{file}:6 (sequence 5): record 5 was removed" in out
    assert "NOT whole" in out


def test_verify_speaks_json(state: Path, capsys: Any) -> None:
    assert interlock("audit", "verify", "--json", "--state-dir", str(state)) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["faults"] == []
    assert answer["chains"][0]["records"] == 14
    assert answer["unproven"]


def test_a_noted_head_is_checked(state: Path, capsys: Any) -> None:
    interlock("audit", "verify", "--state-dir", str(state))
    (head,) = (line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("  head"))
    (file,) = (state / "journal/one/w0").glob("*.jsonl")
    assert interlock("audit", "verify", "--state-dir", str(state), "--head", head) == 0
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-1]))
    assert interlock("audit", "verify", "--state-dir", str(state)) == 0
    assert interlock("audit", "verify", "--state-dir", str(state), "--head", head) == 1
    assert interlock("audit", "verify", "--state-dir", str(state), "--head", "nonsense") == 2


def test_where_there_is_no_journal_nothing_is_well(tmp_path: Path, capsys: Any) -> None:
    for command in (["verify"], ["list"], ["show", "x"]):
        assert interlock("audit", *command, "--state-dir", str(tmp_path)) == 2
        assert "no journal below" in capsys.readouterr().err


def test_list_shows_each_exchange_with_its_ending_rule_tokens_and_cost(state: Path, capsys: Any) -> None:
    found = {row["exchange"]: row for row in rows(capsys, "--state-dir", str(state))}
    assert {name: row["ending"] for name, row in found.items()} == {
        "x-plain": "done",
        "x-denied": "done",
        "x-refused": "refused",
        "x-open": "open",
    }
    assert found["x-denied"]["rule"] == "interlock.shell/destructive"
    assert (found["x-denied"]["tokens"], found["x-denied"]["cost_usd"]) == (392, 0.0005)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--denied"], ["x-denied", "x-refused"]),
        (["--agent", "writer"], ["x-plain"]),
        (["--run", "run-2"], ["x-plain"]),
        (["--since", utc(BEGIN + 10**12)], []),
        (["--limit", "2"], ["x-refused", "x-open"]),
    ],
)
def test_list_can_be_narrowed(state: Path, capsys: Any, words: list[str], expected: list[str]) -> None:
    assert [row["exchange"] for row in rows(capsys, "--state-dir", str(state), *words)] == expected


def test_list_draws_a_table(state: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    assert interlock("audit", "list", "--state-dir", str(state)) == 0
    out = capsys.readouterr().out
    assert "x-denied" in out
    assert "interlock.shell/destructive" in out


def test_show_tells_the_story_of_an_exchange(state: Path, capsys: Any) -> None:
    assert interlock("audit", "show", "x-den", "--state-dir", str(state)) == 0
    out = capsys.readouterr().out
    for word in (
        "opened",
        "decided",
        "call",
        "checked",
        "settled",
        "make clean",
        "interlock.shell/destructive",
        "seq 3",
    ):
        assert word in out


def test_show_speaks_json(state: Path, capsys: Any) -> None:
    assert interlock("audit", "show", "x-denied", "--json", "--state-dir", str(state)) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["record"]["type"] for line in lines] == [
        "opened",
        "decided",
        "call",
        "decided",
        "call",
        "checked",
        "settled",
    ]


def test_show_of_none_or_of_several_exits_with_1(state: Path, capsys: Any) -> None:
    assert interlock("audit", "show", "y", "--state-dir", str(state)) == 1
    assert interlock("audit", "show", "x-", "--state-dir", str(state)) == 1
    assert "4 exchanges begin so" in capsys.readouterr().err


def test_nothing_of_the_traffic_reaches_the_terminal_as_it_is(tmp_path: Path, capsys: Any) -> None:
    evil = "\x1b[2J\u202e[bold red]\x07"
    journal = Journal.open(tmp_path, instance="one")
    journal.append(
        opened(f"x{evil}", agent=evil, model=evil, run=evil, messages=[{"role": "user", "content": evil * 9999}])
    )
    journal.append(CallOutcome(time_ns=1, exchange=f"x{evil}", name=evil, outcome="denied", rule=evil))
    journal.close()
    for words in (
        ["list"],
        ["show", "x"],
        ["verify"],
        ["list", "--json"],
        ["show", "x", "--json"],
        ["verify", "--json"],
    ):
        interlock("audit", *words, "--state-dir", str(tmp_path))
        printed = "".join(capsys.readouterr())
        assert "\x1b" not in printed
        assert "\u202e" not in printed
        assert "\x07" not in printed
        assert len(printed) < 1_000_000
    interlock("audit", "show", "x", "--state-dir", str(tmp_path))
    assert "[bold red]" in capsys.readouterr().out


def test_since_is_an_age_or_a_date() -> None:
    now = datetime(2026, 11, 21, 12, tzinfo=UTC)
    assert parse_since("90m", lambda: now) == int((now.timestamp() - 5400) * 1e9)
    assert parse_since("2026-11-21T12:00") == int(now.timestamp() * 1e9)
    assert parse_since("2026-11-21T13:00+01:00") == int(now.timestamp() * 1e9)
    assert parse_since("2026-11-21") == int((now.timestamp() - 43200) * 1e9)
    with pytest.raises(ValueError, match="expected an age"):
        parse_since("yesterday")


def test_a_wrong_since_exits_with_2(state: Path, capsys: Any) -> None:
    assert interlock("audit", "list", "--since", "yesterday", "--state-dir", str(state)) == 2


@pytest.mark.parametrize(("words", "named"), [([], "CallOutcome"), (["alert"], "Alert")])
def test_the_schemas_are_published(capsys: Any, words: list[str], named: str) -> None:
    assert interlock("audit", "schema", *words) == 0
    schema = json.loads(capsys.readouterr().out)
    assert named in json.dumps(schema)


def test_a_journal_that_cannot_be_read_exits_with_2(state: Path, capsys: Any) -> None:
    (file,) = (state / "journal/one/w0").glob("*.jsonl")
    file.unlink()
    file.mkdir()
    for words in (["verify"], ["list"], ["show", "x"]):
        assert interlock("audit", *words, "--state-dir", str(state)) == 2
        assert "directory" in capsys.readouterr().err
