"""What people get wrong when they write a policy, and what `interlock policy …` tells them: file, line, the way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from policies.authoring.new import new_policy
from policies.authoring.opa_tool import VARIABLE, OpaMissingError, OpaTool
from policies.authoring.sources import SourceError, read_tree, tree_to_build
from policies.model import Stage
from proxy.cli import main

pytestmark = pytest.mark.opa


@pytest.fixture
def mine(opa_binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree with the new policy hr.mails, which passes as it is."""
    monkeypatch.setenv(VARIABLE, str(opa_binary))
    monkeypatch.chdir(tmp_path)
    new_policy(Path("mine/hr/mails"), Stage.TOOL_CALL)
    return Path("mine")


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text("utf-8")
    assert old in text
    file.write_text(text.replace(old, new), "utf-8")


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    status = main(["policy", *words])
    out = capsys.readouterr()
    return status, out.out + out.err


@pytest.mark.parametrize(
    ("old", "new", "status", "text"),
    [
        ("interlock.policies.hr.mails\n", "hr.mails\n", 2, "policy.rego:8: package hr.mails; expected package"),
        ("severity: medium\n", "severity: hihg\n", 1, "policy.rego:7: error: metadata: there is no severity hihg"),
        ("#   severity: medium", "#   severitty: low", 0, "policy.rego:7: warning: metadata: severitty means nothing;"),
        ("# custom:\n#   severity", "# severity", 0, "policy.rego:6: warning: metadata: severity is read below"),
        ("tool_call contains", "toolcall contains", 1, "policy.rego:12: error: there is no stage toolcall; did you"),
        ("tool_call contains", "deny contains", 1, "no stage: write `tool_call contains finding if …`; stages are"),
        ("tool_call contains f", "tool_call := f", 1, "policy.rego:12: error: tool_call must be a set of findings"),
        ("mails.words", "mails.wrods", 0, "policy.rego:13: warning: data.hr.mails has no key wrods; did you mean"),
        ("data.hr.mails.agents", "data.hr.mail.agents", 0, "policy.rego:16: warning: data.hr.mail: no policy here has"),
        ('"id": "mails_named",', "", 1, "policy.rego:17: error: the finding has no id; it needs id"),
        ("contains(text, word)", 'regex.find_n(word, text, 1) != []', 1, "policy.rego:15: error: builtin regex.find_n"),
    ],
)  # fmt: skip
def test_the_line_is_named_and_the_way_out(
    mine: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, status: int, text: str
) -> None:
    edit(mine / "hr/mails/policy.rego", old, new)
    found, told = said(capsys, "check", "mine", "--no-library")
    assert f"{text}" in told
    assert found == status


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ('"iban"', '"ibann"', "policy.rego:6: warning: no pattern has the id ibann; did you mean iban"),
        ('"pii"', '"pi"', "policy.rego:5: warning: there is no pattern set pi; did you mean pii"),
        (
            'signal.id == "iban"',
            '"us_snn" == signal.id',
            "policy.rego:6: warning: no pattern has the id us_snn",
        ),
        ('"iban"', '"zzz"', "policy.rego:6: warning: no pattern has the id zzz\n"),
    ],
)
def test_a_signal_that_no_pattern_gives_is_named(
    mine: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, text: str
) -> None:
    rule = """package interlock.policies.hr.mails

output contains {"id": "x", "severity": "low", "action": "deny", "message": "No."} if {
	some signal in input.signals
	signal.set == "pii"
	signal.id == "iban"
}
"""
    (mine / "hr/mails/policy.rego").write_text(rule)
    assert "pattern" not in said(capsys, "check", "mine", "--no-library")[1]
    (mine / "hr/mails/policy.rego").write_text(rule.replace(old, new))
    assert text in said(capsys, "check", "mine", "--no-library")[1]


def test_a_test_file_is_checked_too(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(mine / "hr/mails/policy_test.rego", "policies.hr.mails\n\nlists", "policies.hr.mail\n\nlists")
    status, told = said(capsys, "check", "mine", "--no-library")
    assert (status, "mine/hr/mails/policy_test.rego:10: error: var mails is unsafe" in told) == (1, True)
    status, told = said(capsys, "test", "mine", "--no-library")
    assert (status, "mine/hr/mails/policy_test.rego:10: rego_unsafe_var_error: var mails is unsafe" in told) == (
        2,
        True,
    )


def test_a_failure_shows_what_was_not_true(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(mine / "hr/mails/policy_test.rego", 'the weather"}) == set()', 'the weather"}) == {"x"}')
    status, told = said(capsys, "test", "mine", "--no-library")
    assert status == 1
    assert "mine/hr/mails/policy_test.rego:17: test_other_words_are_let_by\n  line 17:\n    ids(" in told
    assert told.index('== {"x"}') < told.index("set()") < told.index("3 of 4 tests pass")


def test_what_one_engine_lacks_is_said_of_the_test(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(mine / "hr/mails/policy.rego", "contains(text, word)", 'regex.replace(text, word, "") != text')
    status, told = said(capsys, "test", "mine", "--no-library")
    assert status == 1
    assert "the embedded engine: policy requires builtin 'regex.replace'" in told


def test_nothing_is_built_over_by_what_could_not_be_loaded(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("build", "mine", "--no-library", "-o", "bundle")
    assert said(capsys, *words)[0] == 0
    before = Path("bundle/manifest.json").read_bytes()
    edit(mine / "hr/mails/policy.rego", "contains(text, word)", 'sprintf("%v", [text]) == word')
    status, told = said(capsys, *words)
    assert (status, "policy hr.mails, hr/mails/policy.rego:15: builtin sprintf is refused" in told) == (2, True)
    assert Path("bundle/manifest.json").read_bytes() == before


def test_the_tables_show_ones_own(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, told = said(capsys, "check", "mine")
    assert status == 0
    assert "hr.mails" in told and "interlock." not in told and "shipped policies (-v lists them)" in told
    assert "interlock.shell" in said(capsys, "check", "mine", "-v")[1]
    assert "interlock.shell" in said(capsys, "check")[1]


@pytest.mark.parametrize(
    ("folder", "text"),
    [
        ("mine/hr/mails", "mine/hr/mails: is not the folder above <owner>/<name>; name mine"),
        ("mine/hr", "name mine"),
        ("mine/hr/mails/policy.rego", "is a file; name mine"),
        ("none", "no such folder"),
        ("empty", "no policies; expected empty/<owner>/<name>/policy.rego"),
    ],
)
def test_another_folder_says_which_was_meant(mine: Path, folder: str, text: str) -> None:
    Path("empty").mkdir()
    with pytest.raises(SourceError, match=text):
        tree_to_build(Path(folder), with_library=False)


def test_words_of_rego_are_no_names(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="'if' is a word of Rego"):
        new_policy(tmp_path / "hr" / "if", Stage.OUTPUT)
    assert read_tree(tmp_path).policies == {}


def test_the_opa_of_make_opa_is_found(opa_binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("PATH", str(tmp_path)), (VARIABLE, ""), ("INTERLOCK_CACHE", str(tmp_path))):
        monkeypatch.setenv(name, value)
    with pytest.raises(OpaMissingError, match="run `make opa`"):
        OpaTool.find()
    lane = tmp_path / "lanes" / "opa-0123"
    (lane / "bin").mkdir(parents=True)
    (lane / "bin" / "opa").symlink_to(opa_binary)
    with pytest.raises(OpaMissingError):
        OpaTool.find()  # `made` is written last
    (lane / "made").touch()
    assert OpaTool.find().path == lane / "bin" / "opa"


@pytest.mark.parametrize("words", [[], ["policy"], ["config"], ["audit"]])
def test_a_command_that_is_missing_shows_which_there_are(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    out = capsys.readouterr()
    assert out.out == ""
    assert "commands:" in out.err
