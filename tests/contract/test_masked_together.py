"""Several policies about one text or call, of which one masks: those that only observe change nothing, spans that
overlap are masked once, and one that fails, whatever the settings say of failures, lets nothing by that another masks.

Scripted answers in vLLM's wire form, through a whole Interlock; the policies are real ones.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from policies.asking import Answers, Asking
from policies.engines.base import EngineError
from tests.policies.support import built
from tests.support.apis import APIS, heard
from tests.support.chat import Call, Say
from tests.support.masking import KEY, MASK, OTHER, POLICY, leaks
from tests.support.serving import answering, streaming
from tests.support.text_stage import HOLDS, TextStage, says, staged
from tracing.records import Decided

pytestmark = [pytest.mark.opa, pytest.mark.asyncio(loop_scope="module")]

HEAD = """\
# METADATA
# title: {title}
# custom:
#   severity: low
#   hold: {hold}
#   patterns: [secrets/aws_access_key_id]
package interlock.policies.{owner}.{name}

"""
SPANNING = (
    HEAD
    + """\
finding := {{
	"id": "key",
	"severity": "low",
	"action": "redact",
	"message": "It named a key.",
	"tags": [],
	"redactions": [masked |
		some hit in input.signals
		masked := {{"path": hit.path, "start": hit.start + {first}, "end": hit.end - {last}, "replacement": "[{word}]"}}
	],
}}

output contains finding if count(finding.redactions) > 0

tool_call contains finding if count(finding.redactions) > 0
"""
)
FAILING = (
    HEAD
    + """\
{body}
"""
)
FAILURES = {
    "conflict": """\
of(_) := "a"

of(_) := "b"

finding := {"id": of("x"), "severity": "low", "action": "flag", "message": "", "tags": [], "redactions": []}

output contains finding if some hit in input.signals

tool_call contains finding if some hit in input.signals""",
    "form": """\
output contains "nonsense" if some hit in input.signals

tool_call contains "nonsense" if some hit in input.signals""",
}


def sources(hold: str) -> dict[str, str]:
    at = {"hold": hold}
    spanning = {
        "platform/outer": SPANNING.format(
            owner="platform", name="outer", title="O", first=0, last=0, word="outer", **at
        ),
        "team/inner": SPANNING.format(owner="team", name="inner", title="I", first=4, last=4, word="inner", **at),
        "team/begins": SPANNING.format(owner="team", name="begins", title="B", first=0, last=5, word="begins", **at),
        "platform/ends": SPANNING.format(owner="platform", name="ends", title="E", first=5, last=0, word="ends", **at),
    }
    failing = {
        f"team/{name}": FAILING.format(owner="team", name=name, title=name, body=body, **at)
        for name, body in FAILURES.items()
    }
    keys = {"team/keys": POLICY.format(name="keys", hold=hold)}
    return {f"{path}/policy.rego": source for path, source in (spanning | failing | keys).items()}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def bundles(opa_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("together")
    for hold in ("tail", "all"):
        found = built(opa_binary, folder / f"sources-{hold}", sources(HOLDS[hold]), with_library=True)
        found.write(folder / hold)
    return {hold: folder / hold for hold in ("tail", "all")}


NAMES = ("team.inner", "team.begins", "team.conflict", "team.form", "team.keys", "platform.outer", "platform.ends")
OFF = dict.fromkeys((*NAMES, "interlock.secrets"), "off")


def scripts(stage: TextStage, name: str, say: Say, *, stream: bool) -> None:
    api = APIS[name]
    stage.script = streaming(api.events(say, 3)) if stream else answering(api.body(say))


CALLED = Call("read_file", f'{{"path":"a {KEY} b"}}')


async def told(stage: TextStage, name: str, *, stream: bool) -> tuple[str, bytes]:
    """What the client reads where the text has a key, and all of the answer that has it in a call as well."""
    api = APIS[name]
    scripts(stage, name, says("text", f"It is {KEY}, yes.", (CALLED,)), stream=stream)
    body = await stage.asks(api, stream=stream)
    return api.said(heard(body), "text", stream=stream)[0], body


@pytest.mark.parametrize("hold", ["tail", "all"])
@pytest.mark.parametrize(
    ("modes", "words"),
    [
        ({"platform.outer": "enforce", "team.inner": "shadow"}, "[outer]"),
        ({"platform.outer": "shadow", "team.inner": "enforce"}, f"{KEY[:4]}[inner]{KEY[-4:]}"),
        ({"platform.outer": "warn", "team.inner": "enforce"}, f"{KEY[:4]}[inner]{KEY[-4:]}"),
        ({"platform.outer": "enforce", "team.inner": "enforce"}, "[outer]"),
        ({"team.begins": "enforce", "platform.ends": "enforce"}, "[begins]"),
        ({"team.begins": "enforce", "platform.ends": "shadow"}, f"[begins]{KEY[-5:]}"),
        ({"team.begins": "enforce", "team.inner": "enforce", "platform.ends": "enforce"}, "[begins]"),
        ({"team.conflict": "shadow", "team.form": "warn", "team.keys": "enforce"}, MASK),
    ],
)
async def test_what_several_policies_mask(
    bundles: dict[str, Path], tmp_path: Path, hold: str, modes: dict[str, str], words: str
) -> None:
    async with staged(tmp_path, bundle=bundles[hold], modes=OFF | modes) as stage:
        for name, stream in product(("chat", "messages", "responses"), (True, False)):
            said, body = await told(stage, name, stream=stream)
            assert said == f"It is {words}, yes."
            assert f"a {words} b" in str(heard(body))
            assert KEY not in str(heard(body))
    decided = stage.records(Decided)
    noted = {one["policy"] for record in decided for one in record.decision.get("findings", [])}
    assert {name for name in modes if name not in ("team.conflict", "team.form")} <= noted


FAIL_OPEN = {"on_error": "allow", "fail_open": {"share": 1.0, "least": 1}}


@pytest.mark.parametrize("hold", ["tail", "all"])
@pytest.mark.parametrize("failing", FAILURES)
@pytest.mark.parametrize("settings", [{}, FAIL_OPEN])
async def test_a_policy_that_fails_beside_one_that_masks(
    bundles: dict[str, Path], tmp_path: Path, hold: str, failing: str, settings: dict[str, Any]
) -> None:
    """It fails by itself, so no setting lets by what it would have judged; what the other found is on record."""
    modes = {"team.keys": "enforce", f"team.{failing}": "enforce"}
    async with staged(tmp_path, bundle=bundles[hold], modes=OFF | modes, **settings) as stage:
        for stream in (True, False):
            said, body = await told(stage, "chat", stream=stream)
            assert leaks(body) == {}
            assert f"team.{failing}/on_error" in said and "yes" not in said
            scripts(stage, "chat", Say("Hm.", "Look.", (CALLED,)), stream=stream)
            body = await stage.asks(APIS["chat"], stream=stream)
            assert leaks(body) == {}
            assert f"team.{failing}/on_error" in str(heard(body)) and "read_file" in str(heard(body))
    decided = stage.records(Decided)
    kept = [one for one in decided if one.action == "deny"]
    assert {one.stage for one in kept} == {"output", "tool_call"}
    for one in kept:
        assert "team.keys" in [found["policy"] for found in one.decision["findings"]]
        assert [(error["policy"], error["cause"]) for error in one.decision["errors"]] == [
            (f"team.{failing}", "policy")
        ]


@pytest.mark.parametrize("hold", ["tail", "all"])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("settings", [{}, FAIL_OPEN])
@pytest.mark.parametrize("fails", [1, 2])
async def test_one_of_two_that_is_away(
    bundles: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hold: str,
    stream: bool,
    settings: dict[str, Any],
    fails: int,
) -> None:
    """The engine has no answer for one of them, at first or when it is asked again: with a fail-open too, no more than
    what is masked is let by."""
    asks, asked = Asking.answers, 0

    async def answers(self: Asking, stage: Any, document: bytes, those: frozenset[str], *more: Any) -> Answers:
        nonlocal asked
        found = await asks(self, stage, document, those, *more)
        if "team.inner" not in those:
            return found  # one that only records is asked later
        asked += 1
        return found | ({"team.inner": EngineError("engine", "gone", True)} if asked == fails else {})

    monkeypatch.setattr(Asking, "answers", answers)
    modes = OFF | {"team.keys": "enforce", "team.inner": "enforce"}
    async with staged(tmp_path, bundle=bundles[hold], modes=modes, **settings) as stage:
        scripts(stage, "chat", says("text", f"It is {KEY}, or {OTHER}, yes."), stream=stream)
        body = await stage.asks(APIS["chat"], stream=stream)
        assert leaks(body) == {}
        said = APIS["chat"].said(heard(body), "text", stream=stream)[0]
    assert asked >= fails
    if settings and fails == 1:
        assert said == f"It is {MASK}, or {MASK}, yes.", "it may be away, and what the other masks is masked"
    else:
        assert "team.inner/on_error" in said and "yes" not in said
