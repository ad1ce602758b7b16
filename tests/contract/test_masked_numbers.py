"""Numbers that stand beside other digits and words, and are masked in what a model says, at any chunks: the client's
text is the one that the shipped patterns mask in a record."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.patterns import redact, shipped_set
from tests.contract.test_text_policies import TextStage, pieces
from tests.policies.support import built
from tests.support.apis import APIS, heard
from tests.support.chat import Say
from tests.support.interlock import port_of, running
from tests.support.raw import scripted
from tests.support.serving import answering, streaming

pytestmark = [pytest.mark.opa, pytest.mark.asyncio(loop_scope="module")]

POLICY = """\
# METADATA
# title: No numbers
# custom:
#   severity: high
#   hold: tail(45)
#   patterns: [pii/payment_card, pii/iban]
package interlock.policies.team.numbers

output contains finding if {
	finding := {
		"id": "number",
		"severity": "high",
		"action": "redact",
		"message": "It named a number.",
		"tags": [],
		"redactions": [redaction |
			some hit in input.signals
			hit.id in {"payment_card", "iban"}
			mask := concat("", ["[redacted:", hit.id, "]"])
			redaction := {"path": hit.path, "start": hit.start, "end": hit.end, "replacement": mask}
		],
	}
	count(finding.redactions) > 0
}
"""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(opa_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TextStage]:
    folder = tmp_path_factory.mktemp("numbers")
    bundle = folder / "bundle"
    built(opa_binary, folder / "sources", {"team/numbers/policy.rego": POLICY}, with_library=True).write(bundle)
    one = TextStage(folder / "state")
    policies = {"bundle": bundle, "modes": {"team.numbers": "enforce"}}
    async with scripted(one.play) as upstream, running(upstream.url, one.state, policies=policies) as interlock:
        one.port = port_of(interlock)
        yield one


def wanted(text: str) -> str:
    return redact(text, [hit for hit in shipped_set("pii").scan(text) if hit.id in ("payment_card", "iban")])


TEXTS = [
    "In 2026 4111 1111 1111 1111 2026 12/27 123 it was.",
    "4000 4111 1111 1111 1111, ES91 2100 0418 4502 0005 1332 BIC CAIXESBB and so on",
    "BE68 5390 0754 7034 NO93 8601 1117 947 DE89 3704 0044 0532 0130 00 IS IT",
    "5555 5555 5555 4444 5555 5555 5555 4444 5555 5555 5555 4444 then",
    "☂ 2026 4111-1111-1111-1111 5500 0000 0000 0004",
]


@pytest.mark.parametrize("text", TEXTS)
@settings(max_examples=25, deadline=None)
@given(
    interval=st.integers(1, 6),
    before=st.sampled_from(["", "word " * 30, "1234 " * 9]),
    after=st.sampled_from(["", " word" * 30, " 9"]),
    cuts=st.lists(st.integers(1, 900), min_size=1, max_size=8).filter(lambda cuts: sum(cuts) > 40),
)
async def test_a_stream_says_the_masked_numbers(
    stage: TextStage, text: str, interval: int, before: str, after: str, cuts: list[int]
) -> None:
    said = before + text + after
    stage.script = streaming(pieces(APIS["chat"].events(Say("", said), interval), cuts))
    told = heard(await stage.asks(APIS["chat"], stream=True))
    assert APIS["chat"].said(told, "text", stream=True) == [wanted(said)]


@pytest.mark.parametrize("text", TEXTS)
async def test_a_whole_answer_says_the_masked_numbers(stage: TextStage, text: str) -> None:
    stage.script = answering(APIS["chat"].body(Say("", text)))
    told = heard(await stage.asks(APIS["chat"], stream=False))
    assert APIS["chat"].said(told, "text", stream=False) == [wanted(text)]
