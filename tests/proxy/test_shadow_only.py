"""With every policy in shadow nothing is held or changed, and the record does not say that it was."""

from __future__ import annotations

from pathlib import Path

from tests.support.chat import Call, Say, read_stream, stream
from tests.support.interlock import port_of, running
from tests.support.raw import scripted, send
from tests.support.serving import ask, post, streaming
from tests.support.wire import parse
from tracing.records import CallOutcome
from tracing.segments import read

MODES = {"interlock.shell": "shadow", "interlock.secrets": "shadow"}
TWICE = Call("run_shell", '{"command": "ls", "command": "rm -rf /"}')


async def test_a_malformed_call_that_is_given_is_not_recorded_as_denied(tmp_path: Path) -> None:
    script = streaming(stream(Say(text="Go.", calls=(TWICE,))))
    state = tmp_path / "state"
    async with scripted(script) as upstream, running(upstream.url, state, policies={"modes": MODES}) as interlock:
        answer = read_stream(parse(await send(port_of(interlock), post(ask(stream=True)))).body)[0]
        assert answer.calls[0]["arguments"] == TWICE.arguments
    (call,) = [entry.record for entry in read(state, []) if isinstance(entry.record, CallOutcome)]
    assert (call.outcome, call.rule) == ("unasked", "interlock/malformed_arguments")
