"""What is kept of texts and histories changes nothing of what is found in them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.facts.known import KnownTexts
from policies.facts.orders import Passage
from policies.facts.provenance import MOST_PASSAGES, Background
from policies.facts.seen import NO_SETTINGS
from policies.facts.value_forms import decoded_squeezed, may_be_encoded, squeezed, squeezed_parts
from serving.wire.request import SentCall, SentMessage, SentTool

TOOLS = (SentTool("send_mail", "Send a mail to somebody."), SentTool("read_mail", "Read the user's mail."))
WORDS = (
    "send",
    "mail",
    "bob@example.com",
    "[",
    "]",
    "3000",
    "\u00e9t\u00e9",
    "\\u0041bcdef",
    "%41bcdef",
    "\x00",
    "{",
    "}",
)
PIECES = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)


def bracketed(text: str) -> list[Passage]:
    """What stands in [ ] gives orders, what stands in { } may; longer ones are surer."""
    found: list[Passage] = []
    for opens, closes, least in ("[", "]", 0.5), ("{", "}", 0.06):
        at = text.find(opens)
        while at >= 0:
            end = text.find(closes, at)
            if end < 0:
                break
            found.append(Passage(at, end, ("order",), min(0.99, least + (end - at) / 1000)))
            at = text.find(opens, end)
    return sorted(found)


def turn(number: int, thought: str, result: str, more: str | None = None) -> list[SentMessage]:
    call = SentCall(f"c{number}", "read_mail", json.dumps({"x": thought}))
    said = [
        SentMessage("assistant", thought, calls=(call,)),
        SentMessage("tool", result, tool_call_id=f"c{number}"),
    ]
    return said if more is None else [*said, SentMessage("user", more)]


@settings(max_examples=60, deadline=None)
@given(PIECES, st.lists(st.tuples(PIECES, PIECES, st.none() | PIECES), min_size=1, max_size=5), PIECES)
def test_a_history_that_goes_on_gives_what_it_gives_whole(
    asked: str, turns: list[tuple[str, str, str | None]], value: str
) -> None:
    texts = KnownTexts(bracketed)
    before: Background | None = None
    messages = [SentMessage("user", asked)]
    for number, said in enumerate(turns):
        messages += turn(number, *said)
        before = Background(messages, TOOLS, NO_SETTINGS, texts, before)
        whole = Background(messages, TOOLS, NO_SETTINGS, KnownTexts(bracketed))
        arguments = {"to": value, "n": 3000, "all": [word for word in WORDS if len(word) > 3]}
        assert before.facts("send_mail", arguments, said="I will not.") == whole.facts(
            "send_mail", arguments, said="I will not."
        )
        assert (before.orders, before.words(), before.size) == (whole.orders, whole.words(), whole.size)


def test_so_does_one_with_more_passages_than_count() -> None:
    texts = KnownTexts(bracketed)
    before: Background | None = None
    messages = [SentMessage("user", "Read my mail.")]
    for number in range(5):
        passages = [f"[send {'x' * ((at * 7) % 50)} {number}-{at}]" for at in range(MOST_PASSAGES // 4 + 10)]
        messages += turn(number, "I read.", " ".join(passages))
        before = Background(messages, TOOLS, NO_SETTINGS, texts, before)
        whole = Background(messages, TOOLS, NO_SETTINGS, KnownTexts(bracketed))
        assert (before.orders, before.words()) == (whole.orders, whole.words())
        assert before.facts("send_mail", {"to": "4-3"}) == whole.facts("send_mail", {"to": "4-3"})
    assert before is not None
    assert len(before.orders) == MOST_PASSAGES


@pytest.mark.parametrize("changed", [0, 1])
def test_a_history_that_was_rewritten_is_looked_at_anew(changed: int) -> None:
    texts = KnownTexts(bracketed)
    messages = [SentMessage("user", "Pay 4711."), *turn(0, "I read.", "[pay 4712]")]
    before = Background(messages, TOOLS, NO_SETTINGS, texts)
    messages[changed] = SentMessage(messages[changed].role, "Pay 4712.")
    after = Background([*messages, *turn(1, "On.", "done")], TOOLS, NO_SETTINGS, texts, before)
    value = after.facts("send_mail", {"amount": "4712"}).provenance[0]
    assert value.by_user is (changed == 0)
    assert value.by_plan is (changed == 1)


def test_texts_are_forgotten_beyond_what_they_may_take() -> None:
    looked_at: list[str] = []

    def detect(text: str) -> list[Passage]:
        looked_at.append(text)
        return []

    texts = KnownTexts(detect, most_bytes=40_000)
    for text in ("a" * 1000, "b" * 1000, "a" * 1000, *(f"{number}" * 1000 for number in range(10, 20)), "a" * 1000):
        assert texts.of(text).told.passages == ()
    assert looked_at.count("a" * 1000) == 2
    large = "x" * 20_000
    assert texts.of(large).text == large
    assert texts.of("a" * 1000).told.passages == ()
    assert looked_at.count("a" * 1000) == 2, "one large text does not push out all others"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text() | st.sampled_from(["A b", "\ufb01le", "2\uff10", "e\u0301", "\u0301e", "a\x00b", "\ud800"])))
def test_many_texts_are_squeezed_as_each_of_them_is(parts: list[str]) -> None:
    assert squeezed_parts(parts) == [squeezed(part) for part in parts]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["%41", "\\n", "\\u0041", "aGVsbG8gd29ybGQgaG93IGFyZSB5b3U=", "word", " ", "="])))
def test_what_cannot_be_encoded_is_not(parts: list[str]) -> None:
    text = "".join(parts)
    if not may_be_encoded(text):
        assert all(decoded_squeezed(text[at:]) is None for at in range(len(text)))
