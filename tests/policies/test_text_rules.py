"""What the policies of a stage want of text that is still being written."""

from __future__ import annotations

from typing import Any

import pytest

from policies.bundle import Bundle, PolicyEntry
from policies.engines.embedded import EmbeddedEngine
from policies.model import Action, DecisionInput, Identity, Mode, RequestFacts, RunFacts, Signal, Stage, SurfaceFacts
from policies.rollout import Wanted
from policies.service import PolicySet
from policies.signals import signals_of_hits
from policies.text_rules import HoldError, TextRule, text_rule
from serving.patterns import Pattern, PatternError, PatternSet, shipped_patterns
from tests.policies.support import modes_of

KEYS = PatternSet(
    "own",
    [
        Pattern(id="short", regex="KEY-[0-9]{4}"),
        Pattern(id="long", regex="LONG-[0-9]{100}"),
        Pattern(id="endless", regex="<<[a-z]*>>"),
    ],
)


def entry(name: str, reads: list[str] | None = None, hold: str | None = None, patterns: Any = ()) -> PolicyEntry:
    return PolicyEntry(
        name=f"acme.{name}",
        stages={Stage.OUTPUT: ["signals"] if reads is None else reads},
        holds={} if hold is None else {Stage.OUTPUT: hold},
        patterns=list(patterns),
    )


def rule(*entries: PolicyEntry, sets: tuple[PatternSet, ...] = (KEYS,), **modes: Wanted) -> TextRule | None:
    in_force = {found.name: Mode(modes.get(found.name.removeprefix("acme."), "enforce")) for found in entries}
    return text_rule(Stage.OUTPUT, entries, in_force, sets)


def held(*entries: PolicyEntry, **modes: Wanted) -> int | None:
    found = rule(*entries, **modes)
    assert found is not None
    return found.hold


def ids(found: TextRule | None, text: str) -> list[str]:
    assert found is not None and found.scanner is not None
    scanner = found.scanner()
    return [hit.id for hit in scanner.feed(text) + scanner.end()]


def test_without_a_policy_of_the_stage_there_is_no_rule() -> None:
    assert text_rule(Stage.REASONING, [entry("a")], {"acme.a": Mode.ENFORCE}, [KEYS]) is None
    assert text_rule(Stage.OUTPUT, [entry("a")], {}, [KEYS]) is None


def test_the_longest_hold_of_the_enforced_policies_counts() -> None:
    short = entry("short", hold="tail(8)", patterns=["own/short"])
    longer = entry("longer", hold="tail(105)", patterns=["own/short", "own/long"])
    every = entry("every", hold="all")
    assert held(entry("none")) == 0
    assert held(entry("none"), short) == 8
    assert held(short, longer) == 105
    assert held(short, every, longer) is None
    assert held(short, every, every="shadow") == 8
    assert held(short, every, every="warn") == 8


def test_only_an_enforced_policy_may_hold() -> None:
    shadow = rule(entry("a", hold="all"), a="shadow")
    assert shadow is not None and shadow.scanner is not None
    assert (shadow.hold, shadow.holds) == (0, False)
    enforced = rule(entry("a", hold="all"), entry("b"), a="shadow")
    assert enforced is not None and (enforced.hold, enforced.holds) == (0, True)


@pytest.mark.parametrize(
    ("reads", "scans", "at_end", "text"),
    [
        (["signals"], True, False, False),
        (["signals", "identity.agent"], True, True, False),
        (["surface.text"], False, True, True),
        (["surface"], False, True, True),
        (["surface.choice"], False, True, False),
        (["*"], True, True, True),
    ],
)
def test_what_is_read_says_what_looks_at_the_text(reads: list[str], scans: bool, at_end: bool, text: bool) -> None:
    found = rule(entry("a", reads, "all"))
    assert found is not None
    assert (found.scanner is not None, found.at_end, found.text) == (scans, at_end, text)


def test_only_patterns_that_somebody_is_asked_for_are_looked_for() -> None:
    text = "KEY-1234 <<abc>> LONG-" + "1" * 100
    assert ids(rule(entry("a")), text) == ["short", "endless", "long"]
    assert ids(rule(entry("a", patterns=["own/short"])), text) == ["short"]
    assert ids(rule(entry("a", patterns=["own/short"]), entry("b", patterns=["own/long"])), text) == ["short", "long"]
    assert ids(rule(entry("a", patterns=["own/short"]), entry("b", patterns=["own"])), text) == [
        "short",
        "endless",
        "long",
    ]
    assert ids(rule(entry("a", patterns=["own/short"]), entry("b")), text) == ["short", "endless", "long"]


def test_a_pattern_wider_than_its_hold_is_refused() -> None:
    with pytest.raises(HoldError, match=r"acme\.a: hold tail\(104\) at stage output .*own/endless \(any width\)") as no:
        rule(entry("a", hold="tail(104)"))
    assert "own/long (105)" in str(no.value)
    assert "own/short" not in str(no.value)
    with pytest.raises(HoldError, match=r"own/long \(105\)"):
        rule(entry("a", hold="tail(104)", patterns=["own/long"]), a="shadow")
    assert held(entry("a", hold="tail(105)", patterns=["own/long"])) == 105


@pytest.mark.parametrize("reads", [["surface.text"], ["*"], ["signals", "surface"], ["identity.agent"]])
def test_a_tail_cannot_wait_for_what_only_the_end_shows(reads: list[str]) -> None:
    with pytest.raises(HoldError, match="needs hold: all"):
        rule(entry("a", reads, "tail(200)", ["own/long"]))


@pytest.mark.parametrize("name", ["secrets", "own/none", "own/short/x"])
def test_a_pattern_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"patterns|there is no pattern"):
        rule(entry("a", patterns=[name]))


def test_a_pattern_that_no_stream_can_be_scanned_for_is_refused() -> None:
    greek = PatternSet("own", [Pattern(id="greek", regex=r"\p{Greek}+")])
    with pytest.raises(HoldError, match="own/greek cannot be looked for in a stream"):
        rule(entry("a", hold="tail(200)"), sets=(greek,))
    with pytest.raises(PatternError, match="own: pattern greek in a stream"):
        rule(entry("a"), sets=(greek,))


@pytest.mark.parametrize("hold", ["tail", "tail(0)", "tail(-1)", "tail(1e3)", "some", ""])
def test_a_hold_that_is_none_is_refused(hold: str) -> None:
    with pytest.raises(ValueError, match="holds"):
        entry("a", hold=hold)


def test_only_text_can_be_held() -> None:
    with pytest.raises(ValueError, match="hold for tool_call"):
        PolicyEntry(name="acme.a", stages={Stage.TOOL_CALL: []}, holds={Stage.TOOL_CALL: "all"})
    with pytest.raises(ValueError, match="hold for reasoning"):
        PolicyEntry(name="acme.a", stages={Stage.OUTPUT: []}, holds={Stage.REASONING: "all"})


def asked(stage: Stage, signals: list[Signal]) -> DecisionInput:
    return DecisionInput(
        stage=stage,
        time="2026-11-21T00:00:00Z",
        exchange="x-1",
        identity=Identity(agent="anonymous"),
        run=RunFacts(id="run-1"),
        request=RequestFacts(),
        surface=SurfaceFacts(name="output" if stage is Stage.OUTPUT else "reasoning", bytes=60),
        signals=signals,
    )


def library(bundle: Bundle, engine: EmbeddedEngine, **modes: Wanted) -> PolicySet:
    named: dict[str, Wanted] = {f"interlock.{name}": mode for name, mode in modes.items()}
    return PolicySet(bundle, engine, modes_of(bundle, named), patterns=shipped_patterns())


@pytest.mark.parametrize("stage", [Stage.OUTPUT, Stage.REASONING])
async def test_a_secret_in_a_text_is_seen_in_shadow_and_stopped_where_that_is_set(
    stage: Stage, library_bundle: Bundle, library_engine: EmbeddedEngine
) -> None:
    for mode, action in (("shadow", Action.ALLOW), ("enforce", Action.DENY)):
        policies = library(library_bundle, library_engine, secrets_out=mode)
        found = policies.text_rule(stage)
        assert found is not None and found.scanner is not None
        assert (found.hold, found.holds, found.at_end, found.text) == (0, mode == "enforce", False, False)
        scanner = found.scanner()
        assert scanner.feed("bob@acme.com has the key ghp_") == []
        signals = signals_of_hits(scanner.feed("a1B2" * 9 + "."))
        assert signals == [Signal(set="secrets", id="github_token", severity="critical", start=25, end=65)]
        decision = await policies.decide(asked(stage, signals))
        assert decision.action is action
        assert [finding.policy for finding in decision.findings] == ["interlock.secrets_out"]
        assert decision.asked == ["interlock.secrets_out"]


async def test_a_policy_is_asked_for_its_own_patterns_only(
    library_bundle: Bundle, library_engine: EmbeddedEngine
) -> None:
    policies = library(library_bundle, library_engine, secrets_out="enforce")
    decision = await policies.decide(asked(Stage.OUTPUT, [Signal(set="pii", id="email")]))
    assert (decision.action, decision.asked) == (Action.ALLOW, [])


def test_the_shipped_default_holds_no_text(library_bundle: Bundle, library_engine: EmbeddedEngine) -> None:
    policies = library(library_bundle, library_engine)
    for stage in (Stage.OUTPUT, Stage.REASONING):
        found = policies.text_rule(stage)
        assert found is not None and not found.holds and found.hold == 0
        assert not policies.enforced(stage)
    assert policies.text_rule(Stage.TOOL_CALL) is None


def test_a_policy_switched_off_scans_nothing(library_bundle: Bundle, library_engine: EmbeddedEngine) -> None:
    off = library(library_bundle, library_engine, secrets_out="off", pii_out="off", pii_mask="off")
    assert off.text_rule(Stage.OUTPUT) is None
