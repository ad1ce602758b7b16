"""Names are the caller's and the model's words too: those of models, tools and runs are recorded without secrets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.chat import Call, Say, whole
from tests.support.interlock import port_of, running
from tests.support.raw import Script, scripted, send
from tests.support.records import records
from tests.support.serving import answering, ask, post
from tests.support.wire import parse
from tracing.records import Alerted, Opened, Settled

SECRET = "AK" + "IA" + "QWERTYUIOPASDFGH"


def journal(state: Path) -> str:
    return "".join(file.read_text() for file in (state / "journal").rglob("*.jsonl"))


async def test_a_models_name_that_is_a_secret_is_masked_on_both_sides(tmp_path: Path) -> None:
    body = whole(Say(text="hi")).replace(b'"tiny"', json.dumps(f"org/{SECRET}").encode())
    async with scripted(answering(body)) as upstream, running(upstream.url, tmp_path / "state") as interlock:
        answer = await send(port_of(interlock), post(ask(model=f"my-{SECRET}\u202e")))
        assert SECRET.encode() in answer
    (opened,), (settled,) = records(tmp_path / "state", Opened), records(tmp_path / "state", Settled)
    assert opened.model.startswith("my-[redacted") and "\u202e" not in opened.model
    assert settled.answer_model.startswith("org/[redacted")
    assert SECRET not in journal(tmp_path / "state")


async def test_a_loops_alert_does_not_say_a_tools_name_that_is_a_secret(tmp_path: Path) -> None:
    def calls(turn: int) -> Script:
        body = whole(Say(calls=(Call(SECRET, "{}"),))).replace(b"chatcmpl-tool-", b"chatcmpl-tool-%d" % turn)
        return answering(body)

    turns = iter(range(10))

    async def script(request: bytes, writer: Any) -> None:
        await calls(next(turns))(request, writer)

    state, breakers = tmp_path / "state", {"slow_seconds": 0}
    async with scripted(script) as upstream, running(upstream.url, state, breakers=breakers) as interlock:
        messages: list[Any] = [{"role": "user", "content": "Go."}]
        tools = [{"type": "function", "function": {"name": SECRET, "parameters": {"type": "object"}}}]
        while True:
            answer = parse(await send(port_of(interlock), post(ask(messages=messages, tools=tools))))
            if answer.start == "HTTP/1.1 429 Too Many Requests":
                break
            message = json.loads(answer.body)["choices"][0]["message"]
            made = message["tool_calls"][0]["id"]
            messages += [message, {"role": "tool", "tool_call_id": made, "content": "same"}]
    causes = {alert.cause: alert.evidence for alert in records(state, Alerted)}
    assert causes["loop_detected"]["tool"].startswith("[redacted")
    assert SECRET not in journal(state)
