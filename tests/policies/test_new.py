"""A new policy works as it is written: it checks, its tests pass on both engines, its examples say what is true."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from policies.authoring.check import check
from policies.authoring.names import unknown_field
from policies.authoring.new import new_policy
from policies.authoring.opa_tool import OpaTool
from policies.authoring.sources import SourceError, tree_to_build
from policies.authoring.testing import run_tests
from policies.model import Stage
from proxy.cli import main


@pytest.mark.opa
def test_a_new_policy_of_every_stage_passes_as_it_is(
    opa_binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("INTERLOCK_OPA", str(opa_binary))
    opa, mine = OpaTool(opa_binary), tmp_path / "mine"
    for stage in Stage:
        assert main(["policy", "new", str(mine / "acme" / f"at_{stage.value}"), "--stage", stage.value]) == 0
    tree = tree_to_build(mine, with_library=False)
    report = check(tree, opa)
    assert report.problems == []
    assert [list(entry.stages) for entry in report.entries] == [[Stage(e.name[8:])] for e in report.entries]
    results = run_tests(tree, opa)
    assert len(results) == 3 * len(Stage) + 1
    assert all(result.ok for result in results), results
    assert main(["policy", "build", str(mine), "--no-library", "-o", str(tmp_path / "bundle")]) == 0
    capsys.readouterr()
    for stage in Stage:
        name = f"acme.at_{stage.value}"
        for short in ("stops", "passes"):
            file = mine / "acme" / f"at_{stage.value}" / "examples" / f"{short}.json"
            words = [str(file), "--bundle", str(tmp_path / "bundle"), "--policy", name, "--json"]
            stops = short == "stops" and stage is not Stage.RESPONSE
            assert main(["policy", "eval", *words]) == (1 if stops else 0)
            places = json.loads(capsys.readouterr().out)["places"]
            found = [one["finding"]["id"] for place in places for one in place["decision"]["findings"]]
            assert (
                found == json.loads(file.read_text())["findings"] == ([f"{name[5:]}_named"] if short == "stops" else [])
            )


def test_nothing_is_written_over(tmp_path: Path) -> None:
    folder = tmp_path / "acme" / "mine"
    folder.mkdir(parents=True)
    (folder / "policy.rego").write_text("package mine")
    with pytest.raises(SourceError, match="is there already; nothing was written"):
        new_policy(folder, Stage.OUTPUT)
    assert [path.name for path in folder.iterdir()] == ["policy.rego"]
    for name in ("acme/Upper", "9acme/x", "interlock/lib", "acme/two__lines"):
        with pytest.raises(SourceError):
            new_policy(tmp_path / name, Stage.OUTPUT)


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("call.nmae", "input.call has no field nmae; did you mean name"),
        ("call.logprobs.arguments", None),
        ("call.logprobs.argments", "input.call.logprobs has no field argments; did you mean arguments"),
        ("call.arguments.anything.at.all", None),
        ("run.tokns", "input.run has no field tokns; did you mean tokens"),
        ("idenity", "input has no field idenity; did you mean identity"),
        ("request.sampling.temprature", None),
        ("", None),
    ],
)
def test_a_field_that_the_input_has_not_is_named_with_the_nearest(field: str, said: str | None) -> None:
    assert unknown_field([step for step in field.split(".") if step]) == said
