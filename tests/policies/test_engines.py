"""The two engines, and what each does when something is wrong with it, the input or the policy."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from policies.bundle import Bundle, BundleError
from policies.engines import embedded
from policies.engines.base import EngineError
from policies.engines.embedded import EmbeddedEngine
from policies.model import Action, Mode, Stage
from policies.service import PolicySet
from tests.policies.questions import about as about_call
from tests.policies.questions import call, shell
from tests.policies.support import ALWAYS, built, modes_of, opa_engine, opa_server
from tests.support.processes import free_port

ENDLESS = """\
package interlock.policies.acme.endless

tool_call contains {"id": "x", "severity": "low", "action": "flag", "message": "x", "tags": []} if {
	all := numbers.range(1, input.call.arguments.size)
	some a in all
	some b in all
	some c in all
	some d in all
	(((a * b) * c) * d) + 1 == 0
}
"""

GREEDY = """\
package interlock.policies.acme.greedy

tool_call contains {"id": "x", "severity": "low", "action": "flag", "message": "x", "tags": []} if {
	count(numbers.range(1, input.call.arguments.size)) == 0
}
"""

CLOCK = """\
package interlock.policies.acme.clock

tool_call contains {"id": "x", "severity": "low", "action": "flag", "message": "x", "tags": []} if time.now_ns() > 0
"""


def document(size: int) -> bytes:
    return b'{"call":{"name":"x","arguments":{"size":%d}}}' % size


async def test_a_policy_that_is_not_there_is_an_error(library_engine: EmbeddedEngine) -> None:
    with pytest.raises(EngineError) as caught:
        await library_engine.ask_one("acme.nobody", Stage.TOOL_CALL, b"{}")
    assert caught.value.cause == "policy"


@pytest.mark.parametrize("text", [b"", b"{", b'{"call":', b"nonsense", b"[]", b"null", b'"x"'])
async def test_an_input_that_is_no_object_is_never_taken_for_one_without_findings(
    library_engine: EmbeddedEngine, text: bytes
) -> None:
    for question in (
        library_engine.ask_all(Stage.TOOL_CALL, text),
        library_engine.ask_one("interlock.shell", Stage.TOOL_CALL, text),
    ):
        with pytest.raises(EngineError) as caught:
            await question
        assert caught.value.cause == "input"


async def test_an_input_that_is_too_large_is_the_inputs_fault(library_engine: EmbeddedEngine) -> None:
    with pytest.raises(EngineError) as caught:
        await library_engine.ask_all(Stage.TOOL_CALL, b'{"x":"%s"}' % (b"a" * embedded.INPUT_BYTES))
    assert caught.value.cause == "input"


async def test_a_large_input_is_judged_off_the_event_loop_with_the_same_result(
    library_bundle: Bundle, library_engine: EmbeddedEngine
) -> None:
    policies = PolicySet(library_bundle, library_engine, {"interlock.shell": Mode.ENFORCE})
    padding = "x" * (2 * embedded.LOOP_BYTES)
    decision = await policies.decide(about_call(call("run_shell", {"command": "rm -rf /srv/data", "note": padding})))
    assert decision.rule == "interlock.shell/destructive_command"
    assert not decision.errors


@pytest.mark.opa
async def test_a_policy_without_end_is_stopped_and_the_engine_goes_on(opa_binary: Path, tmp_path: Path) -> None:
    bundle = built(opa_binary, tmp_path, {"acme/endless/policy.rego": ENDLESS})
    engine = EmbeddedEngine(bundle, 0.3)
    for _ in range(2):
        with pytest.raises(EngineError) as caught:
            await engine.ask_all(Stage.TOOL_CALL, document(2_000))
        assert caught.value.cause == "input"
    with pytest.raises(EngineError):
        await engine.ask_one("acme.endless", Stage.TOOL_CALL, document(2_000))
    with pytest.raises(EngineError, match="no time was left") as caught:
        await engine.ask_one("acme.endless", Stage.TOOL_CALL, document(1), seconds=0)
    assert caught.value.cause == "input"
    assert await engine.ask_all(Stage.TOOL_CALL, document(1)) == {"acme.endless": []}
    assert await engine.ask_one("acme.endless", Stage.TOOL_CALL, document(1)) == []
    await engine.close()


@pytest.mark.opa
async def test_a_policy_that_wants_all_memory_is_stopped_and_the_engine_goes_on(
    opa_binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "MEMORY_PAGES", 128)
    monkeypatch.setattr(embedded, "LOOP_SECONDS", 20.0)
    bundle = built(opa_binary, tmp_path, {"acme/greedy/policy.rego": GREEDY})
    engine = EmbeddedEngine(bundle, 20)
    with pytest.raises(EngineError) as caught:
        await engine.ask_all(Stage.TOOL_CALL, document(10_000_000))
    assert caught.value.cause == "input"
    assert await engine.ask_all(Stage.TOOL_CALL, document(1)) == {"acme.greedy": []}
    await engine.close()


@pytest.mark.opa
def test_a_bundle_that_needs_the_clock_is_refused_at_load(opa_binary: Path, tmp_path: Path) -> None:
    bundle = built(opa_binary, tmp_path, {"acme/clock/policy.rego": CLOCK})
    with pytest.raises(BundleError, match=r"time\.now_ns"):
        EmbeddedEngine(bundle, 1)


@pytest.mark.opa
async def test_a_module_with_many_constants_loads(opa_binary: Path, tmp_path: Path) -> None:
    texts = "\n".join(f'words contains "{index:06d}{"y" * 200}"' for index in range(1500))
    rego = ALWAYS.format(name="wide", action="flag") + f"\n{texts}\n\nwide if count(words) > 0\n"
    rego = rego.replace("} if input.call.name", "} if wide")
    bundle = built(opa_binary, tmp_path, {"acme/wide/policy.rego": rego})
    engine = EmbeddedEngine(bundle, 20)
    answer = await engine.ask_all(Stage.TOOL_CALL, b'{"call":{"name":"x"}}')
    assert len(answer["acme.wide"]) == 1
    assert len(await engine.ask_one("acme.wide", Stage.TOOL_CALL, b'{"call":{"name":"x"}}')) == 1
    await engine.close()


# The OPA server.


def served(bundle: Bundle, url: str, token: str | None = "opa-token-of-this-test", seconds: float = 20.0) -> PolicySet:
    modes = modes_of(bundle)
    return PolicySet(bundle, opa_engine(bundle, url, token, seconds), modes)


@pytest.mark.opa
async def test_an_opa_that_is_stopped_denies_and_one_that_is_back_decides(opa_binary: Path, tmp_path: Path) -> None:
    bundle = Bundle.load()
    port = free_port()
    policies = served(bundle, f"http://127.0.0.1:{port}")
    await policies.start()
    before = await policies.decide(shell("git status"))
    with opa_server(opa_binary, tmp_path, bundle, port):
        during = await policies.decide(shell("git status"))
        denied = await policies.decide(shell("rm -rf /srv/data"))
    after = await policies.decide(shell("git log"))
    for decision in (before, after):
        assert (decision.action, decision.code) == (Action.DENY, "judge_unavailable")
        assert {error.cause for error in decision.errors} == {"engine"}
        assert decision.refusal is not None and "on_error" in decision.refusal
    assert (during.action, during.errors, during.engine) == (Action.ALLOW, [], "opa")
    assert denied.rule == "interlock.shell/destructive_command"
    await policies.close()


@pytest.mark.opa
async def test_an_opa_with_another_bundle_is_no_judge(opa_binary: Path, tmp_path: Path) -> None:
    bundle = Bundle.load()
    other = bundle.with_data({"interlock.paths": {"workspace": ["/elsewhere"]}})
    with opa_server(opa_binary, tmp_path, other) as url:
        policies = served(bundle, url)
        await policies.start()
        decision = await policies.decide(shell("git status"))
        await policies.close()
    assert decision.code == "judge_unavailable"
    assert all(other.digest in error.message for error in decision.errors)


@pytest.mark.opa
@pytest.mark.parametrize("token", [None, "guessed"])
async def test_an_opa_that_does_not_know_us_is_no_judge(opa_binary: Path, tmp_path: Path, token: str | None) -> None:
    bundle = Bundle.load()
    with opa_server(opa_binary, tmp_path, bundle) as url:
        policies = served(bundle, url, token)
        await policies.start()
        decision = await policies.decide(shell("git status"))
        await policies.close()
    assert decision.code == "judge_unavailable"
    assert {error.cause for error in decision.errors} == {"engine"}


@pytest.mark.opa
async def test_undefined_and_contradictions_of_a_served_policy_are_errors_of_the_policy(
    opa_binary: Path, tmp_path: Path
) -> None:
    from tests.policies.support import CONTRADICTS

    files = {
        "acme/contradicts/policy.rego": CONTRADICTS,
        "acme/steady/policy.rego": ALWAYS.format(name="steady", action="deny"),
    }
    bundle = built(opa_binary, tmp_path / "policies", files)
    with opa_server(opa_binary, tmp_path / "opa", bundle) as url:
        engine = opa_engine(bundle, url)
        await engine.start()
        with pytest.raises(EngineError) as caught:
            await engine.ask_one("acme.nobody", Stage.TOOL_CALL, b"{}")
        assert "undefined" in str(caught.value)
        policies = PolicySet(bundle, engine, dict.fromkeys(("acme.contradicts", "acme.steady"), Mode.ENFORCE))
        decision = await policies.decide(shell("ls"))
        await policies.close()
    assert decision.rule == "acme.steady/steady"
    assert [(error.policy, error.cause) for error in decision.errors] == [("acme.contradicts", "policy")]


@pytest.mark.opa
async def test_an_opa_that_has_no_time_left_is_the_engines_fault(opa_binary: Path, tmp_path: Path) -> None:
    bundle = Bundle.load()
    with opa_server(opa_binary, tmp_path, bundle) as url:
        engine = opa_engine(bundle, url)
        await engine.start()
        with pytest.raises(EngineError) as caught:
            await engine.ask_all(Stage.TOOL_CALL, b"{}", seconds=0)
        await engine.close()
    assert (caught.value.cause, caught.value.excusable) == ("engine", False)


@pytest.mark.parametrize(
    ("answer", "excusable"),
    [(b"", False), (b"HTTP/1.1 504 Too Slow\r\nContent-Length: 0\r\n\r\n", False), (None, True)],
    ids=["dies of it", "a balancer gives up", "not there"],
)
async def test_only_a_server_that_is_not_there_before_it_is_asked_may_be_excused(
    answer: bytes | None, excusable: bool
) -> None:
    """Or an input of which a server dies would draw on the budget of what may pass unjudged."""

    async def dies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer or b"")
        writer.close()

    server = await asyncio.start_server(dies, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    if answer is None:
        server.close()
    engine = opa_engine(Bundle.load(), f"http://127.0.0.1:{port}")
    await engine.start()
    with pytest.raises(EngineError) as caught:
        await engine.ask_all(Stage.TOOL_CALL, b"{}")
    await engine.close()
    server.close()
    assert (caught.value.cause, caught.value.excusable) == ("engine", excusable)


def test_an_opa_url_with_a_path_is_refused() -> None:
    with pytest.raises(ValueError, match="opa_url"):
        opa_engine(Bundle.load(), "http://127.0.0.1:8181/v1/data")


NUMBERS = """\
package interlock.policies.acme.numbers

# to_number( in a comment and "json.unmarshal(" in a string are none
tool_call contains {"id": "x", "severity": "low", "action": "flag", "message": "to_number(x)", "tags": []} if {
	text := `
json.unmarshal(
`
	text != ""
	to_number(input.call.name) > 0
}
"""


@pytest.mark.opa
def test_a_builtin_that_answers_otherwise_on_the_other_engine_is_refused_by_both_with_policy_and_line(
    opa_binary: Path, tmp_path: Path
) -> None:
    bundle = built(opa_binary, tmp_path, {"acme/numbers/policy.rego": NUMBERS, "acme/clock/policy.rego": CLOCK})
    said = (
        r"^policy acme\.clock, acme/clock/policy\.rego:3: builtin time\.now_ns is refused: a decision depends .*; "
        r"policy acme\.numbers, acme/numbers/policy\.rego:9: builtin to_number is refused: .*values\.number$"
    )
    with pytest.raises(BundleError, match=said):
        EmbeddedEngine(bundle, 1)
    with pytest.raises(BundleError, match=said):
        opa_engine(bundle, "http://127.0.0.1:8181")


@pytest.mark.opa
def test_a_builtin_that_the_embedded_engine_lacks_is_refused_with_policy_and_line(
    opa_binary: Path, tmp_path: Path
) -> None:
    rego = ALWAYS.format(name="parts", action="flag").replace(
        "if input.call.name", 'if regex.split("a", input.call.name)'
    )
    bundle = built(opa_binary, tmp_path, {"acme/parts/policy.rego": rego})
    said = r"policy acme\.parts, acme/parts/policy\.rego:9: builtin regex\.split is refused: only a server has it"
    with pytest.raises(BundleError, match=said):
        EmbeddedEngine(bundle, 1)
