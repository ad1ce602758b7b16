"""What holds of runs whatever the conversations are and however they interleave."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.breakers import loops
from proxy.history import canonical, canonical_arguments, prefixes
from proxy.run import Run
from proxy.runs import TWINS_KEPT
from serving.wire.request import SentMessage
from tests.proxy.breakers.made_up import Harness, book, call_id, request, said

CALLS = st.tuples(st.sampled_from(["look", "list"]), st.sampled_from(["{}", '{"a": 1}']), st.sampled_from("xyz"))
TURNS = st.lists(st.one_of(st.lists(CALLS, min_size=1, max_size=3), st.sampled_from(["More.", "Again."])), max_size=12)
TEXTS = st.text(max_size=8)


def play(agent: Harness, turn: list[tuple[str, str, str]] | str) -> None:
    """The agent was seen; it is answered, and its history goes on with what comes back."""
    if isinstance(turn, str):
        agent.is_given("What now?")
        agent.history.append(said("user", turn))
        return
    ids = agent.is_given("", *((name, arguments) for name, arguments, _ in turn))
    for given_id, (_, _, result) in zip(ids, turn, strict=True):
        agent.returns(given_id, result)


@given(TURNS)
def test_a_run_seen_turn_by_turn_says_the_same_as_its_history_seen_at_once(
    turns: list[list[tuple[str, str, str]] | str],
) -> None:
    agent = Harness(book())
    seen = agent.asks()
    steps = list(seen.steps)
    for turn in turns:
        play(agent, turn)
        seen = agent.asks()
        steps.extend(seen.steps)
    whole = book().identify("alice", request(*agent.history))
    assert [step.pair for step in whole.steps] == [step.pair for step in steps]
    assert whole.loop == seen.loop
    assert whole.run.loop == seen.run.loop


@given(TURNS)
def test_asking_again_changes_neither_run_nor_loop(turns: list[list[tuple[str, str, str]] | str]) -> None:
    agent = Harness(book())
    run = agent.asks().run
    for turn in turns:
        play(agent, turn)
        once, twice = agent.asks(), agent.asks()
        assert once.run is twice.run is run
        assert once.loop == twice.loop


@given(st.integers(2, 4), st.lists(st.integers(0, 3), max_size=24))
def test_twins_whose_calls_have_ids_never_mix(twins: int, order: list[int]) -> None:
    runs = book()
    agents = [Harness(runs, prefix=str(number)) for number in range(twins)]
    own = [agent.asks().run for agent in agents]
    assert len({run.id for run in own}) == twins
    for number in order:
        agent = agents[number % twins]
        play(agent, [("look", "{}", "the same")])
        seen = agent.asks()
        assert seen.run is own[number % twins]
        assert seen.steps[-1].pair is not None


@given(st.integers(2, TWINS_KEPT), st.randoms(use_true_random=False), st.booleans())
def test_twins_that_were_answered_alike_go_on_as_as_many_runs(twins: int, random: object, numbered: bool) -> None:
    """No ids tell them apart, so any pairing is right, as long as no two go on in one run."""
    runs = book()
    calls = [("functions.look:0", "look", "{}")] if numbered else []
    opening = (said("user", "Go."),)
    for _ in range(twins):
        runs.left(runs.identify("alice", request(*opening)), "Hm.", calls)
    went_on: list[Run] = []
    parted: dict[str, Run] = {}
    names = [f"twin {number}" for number in range(twins)]
    random.shuffle(names)  # type: ignore[attr-defined]
    for name in names:
        history = (*opening, said("assistant", "Hm.", calls), said("user", name))
        seen = runs.identify("alice", request(*history))
        runs.left(seen, "Well.")
        went_on.append(seen.run)
        parted[name] = seen.run
    assert len({run.id for run in went_on}) == twins
    for name, run in parted.items():
        answered = [*opening, said("assistant", "Hm.", calls), said("user", name), said("assistant", "Well.")]
        assert runs.identify("alice", request(*answered, said("user", "On."))).run is run


def test_a_name_tells_twins_apart_that_were_answered_alike() -> None:
    runs = book()
    opening = (said("user", "Go."),)
    own = {}
    for name in ("one", "two", "three"):
        seen = runs.identify("alice", request(*opening), name)
        runs.left(seen, "Hm.")
        own[name] = seen.run
    on = (*opening, said("assistant", "Hm."), said("user", "On."))
    for name in ("three", "one", "two", "one"):
        assert runs.identify("alice", request(*on), name).run is own[name]


@given(
    st.lists(
        st.builds(
            SentMessage,
            role=st.sampled_from(["system", "user", "tool"]),
            text=TEXTS,
            tool_call_id=st.none() | TEXTS,
            name=st.none() | TEXTS,
        ),
        max_size=5,
    ),
    st.lists(st.builds(SentMessage, role=st.just("user"), text=TEXTS), max_size=5),
)
def test_two_histories_have_the_same_digest_only_if_they_are_the_same(
    one: list[SentMessage], two: list[SentMessage]
) -> None:
    same = [canonical(message) for message in one] == [canonical(message) for message in two]
    assert (prefixes(b"seed", one)[-1] == prefixes(b"seed", two)[-1]) == same
    assert prefixes(b"seed", one) == prefixes(b"seed", one + two)[: len(one) + 1]


def test_half_a_surrogate_pair_has_a_digest_of_its_own() -> None:
    ends = {prefixes(b"s", [said("user", text)])[-1] for text in ("\ud800", "\\ud800", "?", "\udfff")}
    assert len(ends) == 4


def test_arguments_are_the_same_however_their_json_was_written() -> None:
    assert canonical_arguments('{ "b": [1, 2.0],\n "a": "\\u00e9" }') == canonical_arguments('{"a":"é","b":[1,2.0]}')
    assert canonical_arguments(" ") == canonical_arguments("{}") == "{}"


def test_arguments_that_are_read_in_two_ways_stand_for_themselves() -> None:
    for text in ('{"a": 1, "a": 2}', '{"a": NaN}', '{"a": 1} {}', '{"a": ', "[" * 5000, '{"a": 1e999}'):
        assert canonical_arguments(text) == text


def test_a_result_that_shows_an_image_repeats_nothing() -> None:
    agent = Harness(book())
    for number in range(1, 6):
        agent.asks()
        agent.is_given("", ("screenshot", "{}"))
        shown = SentMessage("tool", "see", tool_call_id=call_id(number), media=("image_url",))
        agent.history.append(shown)
        seen = agent.asks()
    assert seen.loop.repeats == 0
    assert seen.steps[-1].result is None


def test_results_without_ids_answer_the_calls_in_order() -> None:
    agent = Harness(book())
    agent.asks()
    agent.is_given("", ("look", "{}"), ("list", "{}"))
    agent.returns(None, "first")
    agent.returns(None, "second")
    agent.returns("of no call", "third")
    steps = agent.asks().steps
    assert [step.name for step in steps] == ["look", "list", ""]
    assert steps[2].pair is None


def test_a_result_that_comes_later_than_its_siblings_still_finds_its_call() -> None:
    agent = Harness(book())
    agent.asks()
    one, two = agent.is_given("", ("look", "{}"), ("list", "{}"))
    agent.returns(one, "first")
    sent = agent.asks()
    agent.runs.left(sent, "And the other?")
    agent.returns(two, "second")
    (step,) = agent.asks().steps
    assert (step.name, step.call_id) == ("list", two)
    assert agent.asks().loop.repeats_of(step.pair) == 0
    assert loops.START.repeats_of(step.pair) == 0
