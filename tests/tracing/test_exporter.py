"""The exporter as a process, with real receivers that are away, slow, or refuse."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from pydantic import SecretStr

from serving.settings import AlertSettings, MlflowSettings, OtlpSettings, TracingSettings, WebhookSettings
from tests.support.processes import free_port
from tests.tracing.exchanges import MS, checked, opened, refused, settled, span_id, trace_id, whole
from tests.tracing.receivers import Receiver, attributes, receiving
from tracing.alerts import AlertBook
from tracing.exporter import (
    ExporterSettings,
    OtlpTarget,
    WebhookTarget,
    exporter_command,
    exporter_settings,
)
from tracing.journal import Journal
from tracing.records import Alerted, AnyRecord

ROOT = Path(__file__).parents[2]
SECRET = "sk-exporter-credential-0123456789"


def begin() -> int:
    return time.time_ns() - 1000 * MS


def journal_of(state: Path, *exchanges: list[AnyRecord], close: bool = True) -> Journal:
    journal = Journal.open(state, instance="one", linger=0.0)
    for exchange in exchanges:
        for record in exchange:
            journal.append(record)
    if close:
        journal.close()
    return journal


def printed(state: Path) -> str:
    """What the exporter processes printed."""
    return Path(f"{state}.log").read_text()


def everything_below(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def shown_by_ps(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()


@asynccontextmanager
async def exporter(state: Path, settings: ExporterSettings) -> AsyncIterator[asyncio.subprocess.Process]:
    """The exporter process; ended by SIGTERM. What it printed is in ``<state>.log``."""
    with open(f"{state}.log", "ab") as log:  # noqa: ASYNC230, PTH123 - handed to the child
        process = await asyncio.create_subprocess_exec(
            *exporter_command(state), cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=log, stderr=log
        )
    assert process.stdin is not None
    process.stdin.write(msgspec.json.encode(settings))
    process.stdin.close()
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def otlp(*receivers: Receiver | str, headers: dict[str, str] | None = None) -> ExporterSettings:
    urls = [one if isinstance(one, str) else one.url for one in receivers]
    targets = [OtlpTarget(f"{url}/v1/traces", headers or {}) for url in urls]
    return ExporterSettings(instance="one", version="test", otlp=targets, grace_seconds=1.0)


async def test_a_settled_exchange_becomes_one_span_tree(tmp_path: Path) -> None:
    state = tmp_path / "state"
    journal_of(state, whole("x1", begin(), parent_id=span_id("caller")))
    async with receiving() as receiver, exporter(state, otlp(receiver, headers={"x-tenant": "blue"})):
        await receiver.until(lambda: bool(receiver.taken))
    spans = {span.name: span for span in receiver.spans}
    root, chat = spans["invoke_agent coder"], spans["chat tiny"]
    assert {span.trace_id.hex() for span in receiver.spans} == {trace_id("x1")}
    assert root.parent_span_id.hex() == span_id("caller")
    assert {span.parent_span_id.hex() for name, span in spans.items() if name != root.name} == {span_id("x1")}
    assert chat.span_id.hex() == span_id("x1model")
    assert attributes(chat)["gen_ai.usage.input_tokens"] == 347
    assert not [name for span in receiver.spans for name in attributes(span) if name.startswith("mlflow.")]
    sent, _ = receiver.requests[0]
    assert (sent["x-tenant"], sent["Content-Type"]) == ("blue", "application/x-protobuf")


async def test_exchanges_are_sent_while_the_journal_grows(tmp_path: Path) -> None:
    state = tmp_path / "state"
    journal = journal_of(state, whole("x1", begin()), close=False)
    async with receiving() as receiver, exporter(state, otlp(receiver)):
        await receiver.until(lambda: receiver.traces == ["x1"])
        for record in whole("x2", begin()):
            journal.append(record)
        await receiver.until(lambda: receiver.traces == ["x1", "x2"])
    journal.close()


async def test_a_receiver_that_is_away_loses_nothing_and_holds_no_other(tmp_path: Path) -> None:
    state, port = tmp_path / "state", free_port()
    journal = journal_of(state, whole("x1", begin()), close=False)
    async with receiving() as other, exporter(state, otlp(f"http://127.0.0.1:{port}", other)):
        await other.until(lambda: other.traces == ["x1"])
        for record in whole("x2", begin()):
            journal.append(record)
        await other.until(lambda: other.traces == ["x1", "x2"])
        async with receiving(port) as receiver:
            await receiver.until(lambda: receiver.traces == ["x1", "x2"])
    journal.close()


async def test_a_receiver_that_fails_is_asked_again_until_it_takes_the_spans(tmp_path: Path) -> None:
    state = tmp_path / "state"
    journal_of(state, whole("x1", begin()))
    answers = iter([503, 429, 500, 401])
    async with receiving() as receiver:
        receiver.answer = lambda body: next(answers, 200)
        async with exporter(state, otlp(receiver)):
            await receiver.until(lambda: bool(receiver.taken))
    assert len(receiver.requests) == 5
    assert len({body for _, body in receiver.requests}) == 1


async def test_after_a_kill_9_it_goes_on_at_its_place(tmp_path: Path) -> None:
    state = tmp_path / "state"
    journal = journal_of(state, whole("x1", begin()), [opened("open", begin())], close=False)
    async with receiving() as receiver:
        async with exporter(state, otlp(receiver)) as process:
            await receiver.until(lambda: receiver.traces == ["x1"])
            await receiver.until(lambda: any((state / "exporter").glob("otlp-*.json")))
            process.send_signal(signal.SIGKILL)
            await process.wait()
        for record in [*whole("x2", begin()), settled("open", begin())]:
            journal.append(record)
        async with exporter(state, otlp(receiver)):
            await receiver.until(lambda: len(receiver.traces) >= 3)
    journal.close()
    assert sorted(receiver.traces) == ["open", "x1", "x2"]


async def test_what_a_receiver_will_never_take_is_noted_and_holds_nothing_up(tmp_path: Path) -> None:
    state = tmp_path / "state"
    journal_of(state, *(whole(f"x{number}", begin()) for number in range(5)))
    async with receiving() as receiver:
        receiver.answer = lambda body: 400 if b"chatcmpl-x3" in body else 200
        async with exporter(state, otlp(receiver)):
            await receiver.until(lambda: any((state / "exporter").glob("*.undeliverable.jsonl")))
    assert sorted(receiver.traces) == ["x0", "x1", "x2", "x4"]
    (note,) = (state / "exporter").glob("*.undeliverable.jsonl")
    assert json.loads(note.read_text()) == {"exchanges": ["x3"], "reason": "HTTP 400"}
    assert stat.S_IMODE(note.stat().st_mode) == 0o600


async def test_content_that_a_receiver_does_not_take_is_left_out(tmp_path: Path) -> None:
    state = tmp_path / "state"
    journal_of(state, whole("x1", begin()))
    async with receiving() as receiver:
        receiver.answer = lambda body: 413 if b"Clean the build folder." in body else 200
        async with exporter(state, otlp(receiver)):
            await receiver.until(lambda: bool(receiver.taken))
    assert {attributes(span)["interlock.content_left_out"] for span in receiver.spans} == {True}


async def test_an_unsampled_trace_is_not_exported(tmp_path: Path) -> None:
    state = tmp_path / "state"
    journal_of(state, whole("quiet", begin(), traced=False), whole("x1", begin()))
    async with receiving() as receiver, exporter(state, otlp(receiver)):
        await receiver.until(lambda: bool(receiver.taken))
    assert receiver.traces == ["x1"]


async def test_a_check_that_comes_late_gets_a_span_of_its_own_in_the_same_trace(tmp_path: Path) -> None:
    state = tmp_path / "state"
    journal = journal_of(state, whole("x1", begin()), close=False)
    async with receiving() as receiver, exporter(state, otlp(receiver)):
        await receiver.until(lambda: receiver.traces == ["x1"])
        journal.append(checked("x1", time.time_ns(), check="slow", status="blocked"))
        await receiver.until(lambda: receiver.spans[-1].name == "check slow")
    journal.close()
    late = receiver.spans[-1]
    assert (late.trace_id.hex(), late.parent_span_id.hex()) == (trace_id("x1"), span_id("x1"))


async def test_a_refused_request_has_a_root_and_no_model_call(tmp_path: Path) -> None:
    state = tmp_path / "state"
    journal_of(state, refused("x1", begin()))
    async with receiving() as receiver, exporter(state, otlp(receiver)):
        await receiver.until(lambda: bool(receiver.taken))
    (root,) = receiver.spans
    assert attributes(root)["error.type"] == "policy_denied"
    assert attributes(root)["http.response.status_code"] == 403


PARENT = """
import json, os, subprocess, sys, time
command = json.loads(sys.argv[1]) + ["--parent", str(os.getpid())]
child = subprocess.Popen(command, stdin=subprocess.PIPE)
child.stdin.write(b"{}")
child.stdin.close()
while not os.path.exists(sys.argv[2]):
    time.sleep(0.05)
os._exit(0)
"""


async def test_it_ends_when_its_parent_is_gone(tmp_path: Path) -> None:
    state = tmp_path / "state"
    command = json.dumps(exporter_command(state)[:-2])
    ready = str(state / "exporter" / "status.json")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, command, ready, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        await process.communicate()  # its stdout is the exporter's too: this returns when both have ended
    assert process.returncode == 0


async def test_a_second_exporter_on_the_same_state_waits_for_the_first(tmp_path: Path) -> None:
    state = tmp_path / "state"
    journal_of(state, whole("x1", begin()))
    async with receiving() as receiver, exporter(state, otlp(receiver)):
        await receiver.until(lambda: receiver.traces == ["x1"])
        async with exporter(state, otlp(receiver)) as second:
            await asyncio.sleep(1)
            assert second.returncode is None
    assert receiver.traces == ["x1"]


def alert_records(book: AlertBook, count: int) -> list[Alerted]:
    fired = [
        book.fire(
            "loop", "repeat", "coder", run="run-1", summary="the same call 3 times", release="interlock release run-1"
        )
        for _ in range(count)
    ]
    return [record for record in fired if record is not None]


async def test_an_alert_is_posted_once_signed_and_logged(tmp_path: Path) -> None:
    state = tmp_path / "state"
    journal = journal_of(state, list(alert_records(AlertBook(), 5)), close=False)
    async with receiving() as receiver:
        answers = iter([500, 503])
        receiver.answer = lambda body: next(answers, 200)
        hooks = ExporterSettings(instance="one", webhooks=[WebhookTarget(f"{receiver.url}/hook", SECRET)])
        async with exporter(state, hooks):
            await receiver.until(lambda: len(receiver.taken) == 1)
        journal.append(alert_records(AlertBook(), 1)[0])  # a restarted worker fires again what fires already
        book = AlertBook()
        alert_records(book, 1)
        resolved = book.resolve("loop", "repeat", "coder")
        assert resolved is not None
        journal.append(resolved)
        async with exporter(state, hooks):
            await receiver.until(lambda: len(receiver.taken) == 2)
    journal.close()
    headers, body = receiver.requests[0]
    expected = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    assert headers["X-Interlock-Signature"] == f"sha256={expected}"
    assert abs(int(headers["X-Interlock-Timestamp"]) - time.time()) < 60
    assert len({headers["X-Interlock-Delivery"] for headers, _ in receiver.requests[:3]}) == 1
    assert [alert["state"] for alert in receiver.alerts] == ["firing", "resolved"]
    assert receiver.alerts[0]["summary"] == "the same call 3 times"
    assert printed(state).count("alert firing") == 1
    assert "interlock release run-1" in printed(state)


async def test_no_credential_is_in_a_log_or_a_file(tmp_path: Path) -> None:
    state = tmp_path / "state"
    journal_of(state, whole("x1", begin()), list(alert_records(AlertBook(), 1)))
    async with receiving() as receiver:
        receiver.answer = lambda body: 500
        settings = ExporterSettings(
            otlp=[OtlpTarget(f"{receiver.url}/{SECRET}/v1/traces?key={SECRET}", {"authorization": SECRET})],
            webhooks=[WebhookTarget(f"{receiver.url}/{SECRET}", SECRET)],
        )
        async with exporter(state, settings) as process:
            await receiver.until(lambda: len(receiver.requests) >= 4)
            line = shown_by_ps(process.pid)
    assert SECRET.encode() not in line
    assert SECRET.encode() not in everything_below(tmp_path)


def test_its_settings_are_made_from_ours() -> None:
    tracing = TracingSettings(
        otlp=[OtlpSettings(endpoint="http://c/v1/traces", headers={"authorization": SecretStr("Bearer a")})],
        mlflow=MlflowSettings(url="http://m", token=SecretStr("t")),
    )
    alerts = AlertSettings(webhooks=[WebhookSettings(url="http://w", secret=SecretStr("s"))])
    made = msgspec.json.decode(exporter_settings(tracing, alerts, instance="i", version="v"), type=ExporterSettings)
    assert made.otlp == [OtlpTarget("http://c/v1/traces", {"authorization": "Bearer a"})]
    assert made.mlflow is not None
    assert (made.mlflow.url, made.mlflow.experiment, made.mlflow.token) == ("http://m", "interlock", "t")
    assert made.webhooks == [WebhookTarget("http://w", "s")]
    assert (made.instance, made.version) == ("i", "v")


def test_it_runs_its_own_code_wherever_it_is_started(tmp_path: Path) -> None:
    stranger = tmp_path / "tracing"
    stranger.mkdir()
    (stranger / "__init__.py").write_text("")
    (stranger / "exporter.py").write_text("print('a stranger')")
    command = [*exporter_command(tmp_path / "state"), "--help"]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)}
    said = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert "--settings-json" in said and "stranger" not in said
