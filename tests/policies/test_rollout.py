"""The roll-out: which mode counts for whom, what a team may and may not say, exceptions, and signatures."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.model import DecisionInput, Mode
from policies.modes import UnknownPolicyError
from policies.rollout import LABEL, Document, Exempt, Rollout, RolloutError, Wanted
from policies.signing import SignatureError, make_keys, read_private, sign, signature_path, verify
from tests.policies.questions import about, call
from tests.policies.support import PLATFORM, written

POLICIES = ["interlock.shell", "interlock.paths", "payments.refunds", "acme.deploys"]
LAYER = ["off", "shadow", "warn", "enforce"]

EXCEPTION = {
    "id": "one",
    "policy": "payments.refunds",
    "reason": "A migration.",
    "owner": "lena",
    "approver": "omar",
    "expires": "2027-01-31",
}


def asked(name: str, arguments: dict[str, Any]) -> DecisionInput:
    return about(call(name, arguments))


def test_the_most_special_entry_counts(tmp_path: Path) -> None:
    rollout = Rollout.load(written(tmp_path))
    assert rollout.mode("interlock.paths", "other", None) == "shadow"
    assert rollout.mode("interlock.paths", "other", "payments") == "warn"
    assert rollout.mode("interlock.paths", "coder", "payments") == "enforce"
    assert rollout.mode("interlock.secrets", "other", None) == "enforce"
    assert rollout.mode("acme.deploys", "other", None) == "shadow"


def test_a_teams_policies_are_its_own_affair(tmp_path: Path) -> None:
    rollout = Rollout.load(written(tmp_path, payments="modes: {payments.refunds: enforce, interlock.paths: enforce}"))
    assert rollout.modes(POLICIES, "clerk", "payments") == {
        "interlock.shell": Mode.ENFORCE,
        "interlock.paths": Mode.ENFORCE,
        "payments.refunds": Mode.ENFORCE,
        "acme.deploys": Mode.SHADOW,
    }
    others = rollout.modes(POLICIES, "clerk", "search")
    assert "payments.refunds" not in others
    assert others["interlock.paths"] is Mode.SHADOW


def test_no_team_has_the_librarys_name(tmp_path: Path) -> None:
    """Its policies would be that team's own, and off for everybody else."""
    with pytest.raises(RolloutError, match="not named after a team"):
        Rollout.load(written(tmp_path, interlock="modes: {}"))
    with pytest.raises(RolloutError, match="not named after a team"):
        Rollout.of_modes({}).with_document("interlock", Document())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("modes: {interlock.shell: warn}", "a team may make it stricter, not warn"),
        ("modes: {interlock.secrets: off}", "a team may make it stricter, not off"),
        ("modes: {interlock.paths: shadow}", "interlock.paths is warn for everybody"),
        ("modes: {interlock.paths: {agents: {coder: warn}}}", "interlock.paths is enforce for everybody"),
        ("modes: {interlock.paths: {teams: {search: enforce}}}", "no mode for other teams"),
        ("modes: {search.index: enforce}", "belongs to team search"),
        (
            "exceptions: [{id: x, policy: interlock.shell, reason: r, owner: a, approver: b, expires: 2027-01-01}]",
            "exceptions of it belong into platform.yaml",
        ),
    ],
)
def test_a_team_cannot_relax_what_the_platform_says(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(RolloutError, match=said):
        Rollout.load(written(tmp_path, payments=text, search="{}"))


@given(
    platform=st.dictionaries(st.sampled_from(POLICIES), st.sampled_from(LAYER)),
    team=st.dictionaries(st.sampled_from(POLICIES), st.sampled_from(LAYER)),
)
def test_no_team_document_that_is_taken_makes_anything_milder(
    platform: dict[str, Wanted], team: dict[str, Wanted]
) -> None:
    alone = Rollout.of_modes(platform)
    documents = {"payments": Document.model_validate({"modes": team})}
    try:
        both = Rollout._made(alone.platform, documents)
    except RolloutError:
        return
    for policy in POLICIES:
        if policy.startswith("payments.") and policy not in platform:
            continue
        assert LAYER.index(both.mode(policy, "clerk", "payments")) >= LAYER.index(
            alone.mode(policy, "clerk", "payments")
        )


def test_a_misspelt_policy_is_an_error(tmp_path: Path) -> None:
    rollout = Rollout.load(written(tmp_path, "modes: {interlock.shel: enforce}"))
    with pytest.raises(UnknownPolicyError, match=r"interlock\.shel,"):
        rollout.check(POLICIES)
    rollout = Rollout.load(written(tmp_path, PLATFORM.replace("policy: interlock.shell", "policy: interlock.shel")))
    with pytest.raises(UnknownPolicyError, match=r"an exception names interlock\.shel,"):
        rollout.check(POLICIES)


def test_agents_that_nobody_knows_are_named(tmp_path: Path) -> None:
    rollout = Rollout.load(written(tmp_path))
    assert rollout.strangers({"coder"}) == {"release-bot"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("modes: {interlock.shell: enforced}", r"platform\.yaml:1: modes\.interlock\.shell\.default: "),
        ("modes:\n  interlock.shell:\n    agent: {a: warn}", r"platform\.yaml:3: modes\.interlock\.shell\.agent"),
        ("mode: {}", r"platform\.yaml:1: mode: Extra inputs"),
        ("modes: {a.b: warn, a.b: off}", "twice"),
        ("exceptions: [{id: x}]", r"platform\.yaml:1: exceptions\.0\.policy: Field required"),
    ],
)
def test_errors_name_file_line_and_field(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(RolloutError, match=said):
        Rollout.load(written(tmp_path, text))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"approver": "Lena"}, "somebody else"),
        ({"expires": "2027-01-31T00:00:00"}, "time zone"),
        ({"reason": "  "}, "reason"),
        ({"expires": None}, "expires"),
        ({"when": {"arguments": {"command": ["x"]}}}, "arguments"),
    ],
)
def test_an_exception_has_reason_owner_approver_and_end(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Exempt.model_validate(EXCEPTION | change)


def test_an_exception_covers_just_what_it_says(tmp_path: Path) -> None:
    (one,) = Rollout.load(written(tmp_path)).exceptions("release-bot", None)
    assert one.name == "platform/build-cleaning"
    assert one.covers("interlock.shell", "destructive_command")
    assert not one.covers("interlock.shell", "other")
    assert not one.covers("interlock.paths", "destructive_command")
    before, after = datetime(2027, 1, 31, 23, 59, tzinfo=UTC), datetime(2027, 2, 1, tzinfo=UTC)
    question = asked("bash", {"command": "rm -rf ./build"})
    assert one.holds(question, before)
    assert not one.holds(question, after)
    for name, arguments in (
        ("sh", {"command": "rm -rf ./build"}),
        ("bash", {"command": "rm -rf ./build; rm -rf /"}),
        ("bash", {"command": ["rm -rf ./build"]}),
        ("bash", {}),
        ("bash", {"Command": "rm -rf ./build"}),
    ):
        assert not one.holds(asked(name, arguments), before)
    assert Rollout.load(tmp_path).exceptions("other", None) == []


@pytest.mark.parametrize(("value", "holds"), [(1, True), (1.0, False), (True, False), ("1", False), (None, False)])
def test_values_are_compared_exactly(value: Any, holds: bool) -> None:
    when = Exempt.model_validate(EXCEPTION | {"when": {"arguments": {"/a/0": [1]}}}).when
    assert when.holds(asked("t", {"a": [value]})) is holds


@pytest.mark.parametrize(
    ("more", "holds"),
    [
        ({}, True),
        ({"timeout": 30, "background": False, "env": None}, True),
        ({"script": "rm -rf /"}, False),
        ({"cwd": "/etc"}, False),
        ({"then": [{"run": ["rm -rf /"]}]}, False),
        ({"rm -rf /": 1}, False),
        ({"then": {"ghp_" + "a" * 36: True}}, False),
    ],
)
def test_what_else_a_call_says_is_not_covered_by_the_value_that_is(more: dict[str, Any], holds: bool) -> None:
    """What was found may stand there."""
    only = {"arguments": {"/command": ["rm -rf ./build"], "/in a/list": [["x"]]}}
    said = {"command": "rm -rf ./build", "in a": {"list": ["x"]}, **more}
    assert Exempt.model_validate(EXCEPTION | {"when": only}).when.holds(asked("bash", said)) is holds
    assert Exempt.model_validate(EXCEPTION | {"when": {**only, "others": "any"}}).when.holds(asked("bash", said))


def test_a_signature_is_needed_where_a_key_is_named(tmp_path: Path) -> None:
    folder = written(tmp_path / "rollout", payments="modes: {payments.refunds: enforce}")
    keys = {layer: [make_keys(tmp_path / f"{layer}.pem")] for layer in ("platform", "payments")}

    def signed(layer: str, path: Path, label: str | None = None) -> None:
        key = read_private(tmp_path / f"{layer}.pem")
        signature_path(path).write_text(sign(key, label or f"{LABEL} {layer}", path.read_bytes()) + "\n")

    platform, team = folder / "platform.yaml", folder / "teams" / "payments.yaml"
    with pytest.raises(RolloutError, match="is not signed"):
        Rollout.load(folder, keys)
    signed("platform", platform)
    with pytest.raises(RolloutError, match=r"payments\.yaml: is not signed"):
        Rollout.load(folder, keys)
    signed("platform", team, "rollout payments")
    with pytest.raises(RolloutError, match="by none of the keys"):
        Rollout.load(folder, keys)
    signed("payments", team, "rollout platform")
    with pytest.raises(RolloutError, match="by none of the keys"):
        Rollout.load(folder, keys)
    signed("payments", team)
    digest = Rollout.load(folder, keys).digest
    with pytest.raises(RolloutError, match="has no key for payments"):
        Rollout.load(folder, {"platform": keys["platform"]})
    with pytest.raises(RolloutError, match="which has no document"):
        Rollout.load(folder, keys | {"search": keys["platform"]})
    platform.write_text(PLATFORM.replace("enforce", "shadow"))
    with pytest.raises(RolloutError, match="the file was changed"):
        Rollout.load(folder, keys)
    signed("platform", platform)
    assert Rollout.load(folder, keys).digest != digest


def test_keys_are_not_overwritten_and_not_readable_by_others(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    line = make_keys(path)
    assert path.stat().st_mode & 0o077 == 0
    with pytest.raises(SignatureError, match="never overwritten"):
        make_keys(path)
    text = sign(read_private(path), "a", b"b")
    verify([line], "a", b"b", text, "x")
    for label, content in (("b", b"b"), ("a", b"c")):
        with pytest.raises(SignatureError):
            verify([line], label, content, text, "x")
    with pytest.raises(SignatureError, match="is none, or has no serial"):
        verify([line], "a", b"b", "nonsense", "x")
