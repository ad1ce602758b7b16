"""What was found when an exchange was live is taken from the record, and gives what looking again gives."""

from __future__ import annotations

from pathlib import Path

import pytest

import policies.facts.provenance
from bench.replay import judged
from policies.bundle import Bundle
from policies.rollout import Rollout
from proxy.replay.asking import Histories
from proxy.replay.judging import Rejudge, Said
from proxy.replay.running import Sets
from proxy.replay.stored import stored
from serving.settings import Settings, ToolSettings
from tracing.lookup import find_exchanges

NUMBER = 60


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.load()


async def said(folder: Path, sets: Sets) -> list[list[Said]]:
    """Everything that is said of every exchange, without what no two decisions have in common."""
    policies = sets.of("", None)
    rejudge = Rejudge(policies, tools=sets.tools, histories=Histories(sets.tools))
    found = []
    for exchange in find_exchanges(folder):
        x = stored(exchange)
        assert x is not None
        found.append([_timeless(one) for one in await rejudge.exchange(x)])
    return found


def _timeless(one: Said) -> Said:
    decision = one.decision.model_copy(update={"duration_us": 0}) if one.decision is not None else None
    return Said(one.place, one.stage, one.question, decision, one.stopped_by, one.missing, one.about)


async def test_the_record_gives_what_looking_again_gives(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings.model_validate({"state_dir": tmp_path, "tracing": {"capture": "full", "fsync": False}})
    await judged(NUMBER, 5, Sets(bundle, settings, rollout=Rollout.of_modes({})).of("", None), settings)
    looked_at: list[object] = []
    facts = policies.facts.provenance.Background.facts

    def counting(self: policies.facts.provenance.Background, *rest: object) -> object:
        looked_at.append(rest)
        return facts(self, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(policies.facts.provenance.Background, "facts", counting)
    taken = await said(tmp_path, Sets(bundle, settings))
    assert not looked_at
    monkeypatch.setattr(Histories, "notes", lambda self, x: {})
    again = await said(tmp_path, Sets(bundle, settings))
    assert len(looked_at) > NUMBER // 2
    assert taken == again
    assert any(one.question is not None and one.question.request.orders for each in taken for one in each)


async def test_other_settings_of_tools_have_it_looked_at_again(bundle: Bundle, tmp_path: Path) -> None:
    settings = Settings.model_validate({"state_dir": tmp_path, "tracing": {"capture": "full", "fsync": False}})
    await judged(NUMBER, 5, Sets(bundle, settings, rollout=Rollout.of_modes({})).of("", None), settings)
    trusting = settings.model_copy(update={"tools": {"*": ToolSettings(trust="trusted")}})
    orders = [
        order
        for each in await said(tmp_path, Sets(bundle, trusting))
        for one in each
        if one.question is not None
        for order in one.question.request.orders
    ]
    assert {order.trust for order in orders} == {"trusted"}
