"""The roll-out as agents meet it: each has the modes that it says, and exceptions are on record."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from policies.rollout import RolloutError
from policies.signing import make_keys, read_private, sign, signature_path
from tests.policies.support import written
from tests.support.chat import Call, Say, read_stream, read_whole, stream, whole
from tests.support.interlock import port_of, running
from tests.support.raw import scripted, send
from tests.support.serving import answering, ask, post, streaming
from tests.support.wire import parse
from tracing.records import Alerted, Decided
from tracing.segments import read

AGENTS = {"careful": {"keys": ["ilk-careful"]}, "other": {"keys": ["ilk-other"], "team": "payments"}}
OUTSIDE = Call("read_file", json.dumps({"path": "/etc/shadow"}))
WIPE = Call("bash", json.dumps({"command": "rm -rf /srv/data"}))


def rollout(expires: str) -> str:
    return f"""\
modes:
  interlock.paths: {{default: shadow, agents: {{careful: enforce}}}}
exceptions:
  - id: cleaning
    policy: interlock.shell
    agents: [other]
    when: {{arguments: {{/command: ["rm -rf /srv/data"]}}}}
    reason: It is rebuilt every night.
    owner: lena
    approver: omar
    expires: {expires}
"""


def day(ahead: int) -> str:
    return (datetime.now(UTC) + timedelta(days=ahead)).date().isoformat()


@pytest.mark.parametrize("streamed", [True, False])
async def test_each_agent_is_judged_as_the_rollout_says(tmp_path: Path, streamed: bool) -> None:
    folder, state = written(tmp_path / "rollout", rollout(day(3))), tmp_path / "state"
    says = {name: Say("Now.", "So be it.", (call,)) for name, call in (("outside", OUTSIDE), ("wipe", WIPE))}
    answers = {name: streaming(stream(say)) if streamed else answering(whole(say)) for name, say in says.items()}
    given: dict[tuple[str, str], bool] = {}
    for name, script in answers.items():
        async with (
            scripted(script) as upstream,
            running(upstream.url, state, agents=AGENTS, policies={"rollout": folder}) as interlock,
        ):
            for agent in AGENTS:
                request = post(ask(stream=streamed), f"Authorization: Bearer ilk-{agent}")
                body = parse(await send(port_of(interlock), request)).body
                (choice,) = (read_stream(body) if streamed else read_whole(body)).values()
                given[(name, agent)] = bool(choice.calls)
    assert given == {
        ("outside", "careful"): False,
        ("outside", "other"): True,
        ("wipe", "careful"): False,
        ("wipe", "other"): True,
    }
    decided = [entry.record for entry in read(state) if isinstance(entry.record, Decided)]
    assert len({record.decision["rollout"] for record in decided}) == 1
    covered = {
        (found["policy"], found["exception"])
        for record in decided
        for found in record.decision.get("findings", ())
        if found.get("exception")
    }
    assert covered == {("interlock.shell", "platform/cleaning")}


async def test_an_alert_says_that_an_exception_ends(tmp_path: Path) -> None:
    for ahead, cause in ((30, None), (3, "exception_expires"), (-2, "exception_expired")):
        state = tmp_path / f"state{ahead}"
        folder = written(tmp_path / f"rollout{ahead}", rollout(day(ahead)))
        async with running("http://127.0.0.1:9", state, agents=AGENTS, policies={"rollout": folder}):
            pass
        alerts = [entry.record for entry in read(state) if isinstance(entry.record, Alerted)]
        assert [alert.cause for alert in alerts] == ([cause] if cause else [])
        for alert in alerts:
            assert alert.subject == "exception platform/cleaning"
            assert alert.evidence["owner"] == "lena"


async def test_a_rollout_that_was_changed_after_it_was_signed_keeps_interlock_from_starting(tmp_path: Path) -> None:
    folder = written(tmp_path / "rollout", rollout(day(30)))
    document = folder / "platform.yaml"
    policies = {"rollout": folder, "rollout_keys": {"platform": [make_keys(tmp_path / "key.pem")]}}
    line = sign(read_private(tmp_path / "key.pem"), "rollout platform", document.read_bytes())
    signature_path(document).write_text(line)
    async with running("http://127.0.0.1:9", tmp_path / "state", agents=AGENTS, policies=policies):
        pass
    document.write_text(document.read_text().replace("enforce", "shadow"))
    with pytest.raises(RolloutError, match="the file was changed"):
        async with running("http://127.0.0.1:9", tmp_path / "state", agents=AGENTS, policies=policies):
            pass
