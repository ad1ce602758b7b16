"""`interlock selftest`: with the starter policies their cells pass; with one of them off exactly its cells leak; and a
set of policies that reads every surface passes in every cell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from proxy.cli import main
from proxy.selftest.canaries import SURFACES
from proxy.selftest.forms import FORMS
from tests.policies.support import built, written
from tests.support.masking import POLICY as MASKING

CELLS = {(form.name, stream, surface.name) for form in FORMS for stream in form.streams for surface in form.surfaces}
OF = {
    "interlock.shell": {"command_call", "command_text", "command_reasoning"},
    "interlock.secrets": {"secret_call", "secret_call_text"},
}
STARTER = {cell for cell in CELLS if cell[2] in OF["interlock.shell"] | OF["interlock.secrets"]}
TEAM = """\
# METADATA
# title: No secrets anywhere, and no orders in results
# custom:
#   severity: high
#   hold: {hold}
#   patterns: [secrets/aws_access_key_id]
package interlock.policies.team.everywhere

a_key := {{"id": "key", "severity": "high", "action": "deny", "message": "It named a key.", "tags": []}}

an_order := {{"id": "order", "severity": "high", "action": "deny", "message": "It gives orders.", "tags": []}}

output contains a_key if some signal in input.signals

reasoning contains a_key if some signal in input.signals

request contains finding if {{
	masks := [{{"path": hit.path, "start": hit.start, "end": hit.end, "replacement": "[key]"}} |
		some hit in input.signals
		hit.set == "secrets"
	]
	count(masks) > 0
	finding := object.union(a_key, {{"action": "redact", "redactions": masks}})
}}

request contains finding if {{
	some index, message in input.request.messages
	some order in input.request.orders
	order.message == message.index
	path := concat("", ["/messages/", format_int(index, 10)])
	finding := object.union(an_order, {{"action": "quarantine", "redactions": [{{"path": path}}]}})
}}

tool_call contains an_order if input.call.name == "send_email"
"""


def selftest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], *flags: str, **sections: Any
) -> tuple[int, dict[tuple[str, bool, str], dict[str, Any]]]:
    """The exit status, and what was said of each cell of the one agent."""
    config = tmp_path / "interlock.yaml"
    config.write_text(json.dumps(sections))
    config.chmod(0o600)
    status = main(["selftest", "--config", str(config), "--json", *flags])
    told = json.loads(capsys.readouterr().out)["agents"]
    assert len(told) == 1
    return status, {(cell["api"], cell["stream"], cell["surface"]): cell for cell in told[0]["cells"]}


def outcomes(cells: dict[tuple[str, bool, str], dict[str, Any]], outcome: str) -> set[tuple[str, bool, str]]:
    return {place for place, cell in cells.items() if cell["outcome"] == outcome}


def lawful() -> set[tuple[str, bool, str]]:
    return {cell for cell in CELLS if cell[2] == "lawful"}


def test_the_starter_policies_stop_what_is_theirs_on_every_api(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, cells = selftest(tmp_path, capsys)
    assert cells.keys() == CELLS
    assert outcomes(cells, "pass") == STARTER | lawful()
    assert outcomes(cells, "leak") == set()
    assert status == 0
    text = cells["chat", True, "secret_text"]
    assert (text["outcome"], text["policies"]) == ("unjudged", ["interlock.secrets_out"])


@pytest.mark.parametrize("policy", OF)
@pytest.mark.parametrize("mode", ["off", "shadow"])
def test_with_a_policy_off_exactly_its_cells_leak(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], policy: str, mode: str
) -> None:
    status, cells = selftest(tmp_path, capsys, policies={"modes": {policy: mode}})
    assert outcomes(cells, "leak") == {cell for cell in CELLS if cell[2] in OF[policy]}
    assert outcomes(cells, "pass") == (STARTER | lawful()) - outcomes(cells, "leak")
    assert status == 1


def test_what_the_user_expects_and_no_policy_enforces_leaks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, cells = selftest(tmp_path, capsys, "--expect", "interlock.secrets_out")
    assert outcomes(cells, "leak") == {cell for cell in CELLS if cell[2] in {"secret_text", "secret_reasoning"}}
    assert status == 1


def test_an_enforced_policy_without_a_canary_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "interlock.yaml"
    config.write_text("policies: {modes: {interlock.models: enforce}, data: {interlock.models: {models: [canary]}}}")
    assert main(["selftest", "--config", str(config)]) == 0
    said = capsys.readouterr().out
    assert "Enforced, and no canary is theirs: interlock.models (" in said.replace("\n", " ")


@pytest.mark.opa
@pytest.mark.parametrize("engine", ["embedded", "opa"])
def test_policies_for_every_surface_pass_in_every_cell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], opa_binary: Path, engine: str
) -> None:
    sources = {"team/everywhere/policy.rego": TEAM.format(hold="tail(64)")}
    built(opa_binary, tmp_path / "sources", sources, with_library=True).write(tmp_path / "bundle")
    policies = {
        "bundle": str(tmp_path / "bundle"),
        "engine": engine,
        "opa": str(opa_binary),
        "timeout_seconds": 5,
        "modes": {"team.everywhere": "enforce"},
    }
    status, cells = selftest(tmp_path, capsys, policies=policies, agents={"clerk": {"keys": ["ilk-clerk"]}})
    assert outcomes(cells, "pass") == CELLS, [cell for cell in cells.values() if cell["outcome"] != "pass"]
    assert status == 0


def test_the_library_s_policies_on_orders_stop_them_before_the_model_or_after_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    modes = {"interlock.ordered_actions": "enforce"}
    status, cells = selftest(tmp_path, capsys, policies={"modes": modes})
    orders = {cell for cell in CELLS if cell[2] == "order_call"}
    assert outcomes(cells, "pass") == STARTER | lawful() | orders
    assert "ordered_actions" in cells["chat", True, "order_call"]["why"]
    modes["interlock.injected_results"] = "enforce"
    data = {"interlock.injected_results": {"watch": True}}
    status, cells = selftest(tmp_path, capsys, policies={"modes": modes, "data": data})
    orders |= {cell for cell in CELLS if cell[2] == "order_result"}
    assert outcomes(cells, "pass") == STARTER | lawful() | orders
    assert "injected_results" in cells["chat", True, "order_call"]["why"]
    assert status == 0


def test_a_call_that_waits_for_approval_gets_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policies = {
        "modes": {"interlock.approvals": "enforce", "interlock.shell": "off"},
        "data": {"interlock.approvals": {"tools": ["run_shell"]}},
        "approval": {"seconds": 3600},
    }
    status, cells = selftest(tmp_path, capsys, policies=policies, listen={"admin_token": "an-operators-token"})
    assert outcomes(cells, "pass") == STARTER | lawful()
    assert status == 0


@pytest.mark.opa
def test_a_policy_that_holds_nothing_leaks_what_left_before_the_match(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], opa_binary: Path
) -> None:
    sources = {"team/everywhere/policy.rego": TEAM.format(hold="none")}
    built(opa_binary, tmp_path / "sources", sources, with_library=True).write(tmp_path / "bundle")
    policies = {"bundle": str(tmp_path / "bundle"), "modes": {"team.everywhere": "enforce"}}
    status, cells = selftest(tmp_path, capsys, policies=policies)
    texts = {cell for cell in CELLS if cell[2] in {"secret_text", "secret_reasoning"}}
    assert outcomes(cells, "leak") == {cell for cell in texts if cell[1]}
    assert "holds no text back" in cells["chat", True, "secret_text"]["why"]
    assert status == 1


@pytest.mark.opa
def test_what_is_masked_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str], opa_binary: Path) -> None:
    sources = {"team/masks/policy.rego": MASKING.format(name="masks", hold="tail(64)")}
    built(opa_binary, tmp_path / "sources", sources, with_library=True).write(tmp_path / "bundle")
    modes = {"team.masks": "enforce", "interlock.secrets": "off"}
    status, cells = selftest(tmp_path, capsys, policies={"bundle": str(tmp_path / "bundle"), "modes": modes})
    answers = {"secret_call", "secret_call_text", "secret_text", "secret_reasoning"}
    assert outcomes(cells, "pass") >= {cell for cell in CELLS if cell[2] in answers} | lawful()
    assert "team.masks/key" in cells["chat", True, "secret_text"]["why"]
    assert status == 0


def test_each_agent_is_tested_as_the_rollout_has_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = written(tmp_path / "rollout", "modes:\n  interlock.shell: {default: enforce, agents: {lax: off}}\n")
    config = tmp_path / "interlock.yaml"
    agents = {"careful": {"keys": ["ilk-careful"], "run_tokens": 1}, "lax": {"keys": ["ilk-lax"]}}
    config.write_text(json.dumps({"policies": {"rollout": str(folder)}, "agents": agents}))
    config.chmod(0o600)
    assert main(["selftest", "--config", str(config), "--json"]) == 1
    told = {one["agent"]: one for one in json.loads(capsys.readouterr().out)["agents"]}
    shells = sum(cell[2] in OF["interlock.shell"] for cell in CELLS)
    assert {name: one["counts"]["leak"] for name, one in told.items()} == {"careful": 0, "lax": shells}
    assert main(["selftest", "--config", str(config), "--agent", "careful", "--json"]) == 0


def test_what_is_wrong_with_the_settings_is_said_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "interlock.yaml"
    config.write_text(json.dumps({"policies": {"modes": {"interlock.shel": "off"}}}))
    assert main(["selftest", "--config", str(config)]) == 2
    assert "interlock.shel" in capsys.readouterr().err
    assert main(["selftest", "--expect", "nobody.knows"]) == 2
    assert main(["selftest", "--agent", "stranger"]) == 2


def test_every_surface_is_asked_somewhere() -> None:
    assert {cell[2] for cell in CELLS} == {surface.name for surface in SURFACES}
