"""Patterns in a text that is still being written: what is found and where, at any chunking, and what may be let go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from serving.patterns import Pattern, PatternError, PatternSet, shipped_patterns
from serving.stream_patterns import SLACK, StreamHit, StreamPatterns

SHIPPED = StreamPatterns(shipped_patterns())
HOLD = max(pattern.max_width or 0 for patterns in shipped_patterns() for pattern in patterns.patterns)
A_KEY = "AKIAABCDEFGHIJKLMNOP"

PIECES = [
    A_KEY,
    "ghp_" + "a1B2" * 9,
    "gh%70_" + "a1B2" * 9,
    "g\u200bhp_" + "a1B2" * 9,
    "password=",
    "password: changeme-now",
    "Tr0ub4dor&3x",
    'api_key = "',
    "sk_live_9aBcD3fGh1jKlMn0pQ",
    "authorization: bearer ",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.",
    "-----BEGIN RSA PRIVATE KEY-----",
    "-----END RSA PRIVATE KEY-----",
    "aws_secret_access_key=wJalrXUtnFEMI/K7MDENG/bPxRfiCYzzKEYabcde",
    "DE89 3704 0044 0532 0130 00",
    "4111 1111 1111 1111",
    "no-reply@acme.com",
    "bob@acme.com",
    "078-05-1120",
    "+49 30 1234567",
    "(212) 555-0123",
    "curl -u bob:hunter2s3cret https://x",
    "https://bob:hunter2s@db",
]
GLUE = ["", " ", "\n", ",", "%", "%2", "%20", "%41", "\u200d", "é", "K", "ſ", "字", "_", "-", "x" * 40, "0", "."]
TEXTS = st.lists(
    st.one_of(st.sampled_from(PIECES), st.sampled_from(GLUE), st.text(alphabet="aZ09_=%4:@.- \u200bé\n", max_size=12)),
    max_size=12,
).map("".join)


def chunks(text: str, sizes: Sequence[int]) -> Iterator[str]:
    at = turn = 0
    while at < len(text):
        size = sizes[turn % len(sizes)]
        yield text[at : at + size]
        at += size
        turn += 1


def scanned(patterns: StreamPatterns, text: str, sizes: Sequence[int] = (5,)) -> list[StreamHit]:
    scanner = patterns.scanner()
    hits = [hit for chunk in chunks(text, sizes) for hit in scanner.feed(chunk)]
    return hits + scanner.end()


def whole(text: str, sets: Sequence[PatternSet] = ()) -> set[tuple[str, str]]:
    return {(patterns.name, hit.id) for patterns in sets or shipped_patterns() for hit in patterns.scan(text)}


def own(*patterns: Pattern) -> StreamPatterns:
    return StreamPatterns([PatternSet("own", patterns)])


SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=6)


@settings(max_examples=600, deadline=None)
@given(TEXTS, SIZES)
def test_what_the_whole_text_shows_is_found_at_any_chunking(text: str, sizes: list[int]) -> None:
    hits = scanned(SHIPPED, text, sizes)
    assert whole(text) <= {(hit.set, hit.id) for hit in hits}
    assert len({(hit.set, hit.id) for hit in hits}) == len(hits)


@settings(max_examples=300, deadline=None)
@given(TEXTS, SIZES, st.integers(0, 3000))
def test_no_hit_begins_in_what_was_let_go(text: str, sizes: list[int], padding: int) -> None:
    scanner = SHIPPED.scanner()
    free = 0
    for chunk in chunks("." * padding + " " + text, sizes):
        hits = scanner.feed(chunk)
        assert all(free <= hit.start < hit.end <= scanner.total for hit in hits)
        assert free <= scanner.free(HOLD) <= max(0, scanner.total - HOLD)
        free = scanner.free(HOLD)
    assert all(free <= hit.start for hit in scanner.end())


@settings(max_examples=300, deadline=None)
@given(TEXTS, SIZES, st.data())
def test_a_pause_shows_what_the_end_would_show_and_the_text_may_go_on(
    text: str, sizes: list[int], data: st.DataObject
) -> None:
    parts = list(chunks(text, sizes))
    paused = data.draw(st.integers(0, len(parts)))
    scanner, found = SHIPPED.scanner(), set[tuple[str, str]]()
    for place, part in enumerate([*parts, None]):
        if place == paused:
            found |= {(hit.set, hit.id) for hit in scanner.pause()}
            assert whole("".join(parts[:place])) <= found
        found |= {(hit.set, hit.id) for hit in (scanner.end() if part is None else scanner.feed(part))}
    assert whole(text) <= found


def let_go(text: str, sizes: Sequence[int]) -> bytes:
    """What leaves of ``text`` if the last ``HOLD`` bytes wait and the first hit ends it."""
    scanner = SHIPPED.scanner()
    free = 0
    for chunk in chunks(text, sizes):
        if scanner.feed(chunk):
            return text.encode()[:free]
        free = scanner.free(HOLD)
    return text.encode()[:free] if scanner.end() else text.encode()


@settings(max_examples=300, deadline=None)
@given(TEXTS, SIZES, st.integers(0, 3000), st.integers(0, 3000))
def test_no_byte_of_a_match_leaves_where_text_is_held(text: str, sizes: list[int], before: int, after: int) -> None:
    text = "." * before + " " + text + " " + "." * after
    left = let_go(text, sizes)
    hits = [hit for patterns in shipped_patterns() for hit in patterns.scan(text)]
    for hit in hits:
        assert len(left) <= len(text[: hit.start].encode())
    if not scanned(SHIPPED, text, sizes):
        assert left == text.encode()


CHARACTERS = [
    "a",
    "b",
    "k",
    "s",
    "é",
    ".",
    "[ab]",
    "[^a]",
    "[^kb]",
    r"\w",
    r"\W",
    r"\d",
    r"\s",
    r"\S",
    "[a-s]",
    "(?i:k)",
]
REPEATS = ["", "", "*", "+", "?", "*?", "{2}", "{1,3}", "{2,}", "{0,2}?", "{1,20}"]
ASSERTIONS = [r"\b", r"\B", "^", "$", "(?m:^)", "(?m:$)"]
REGEXES = st.recursive(
    st.one_of(st.builds(str.__add__, *map(st.sampled_from, (CHARACTERS, REPEATS))), st.sampled_from(ASSERTIONS)),
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"(?:{'|'.join(parts)})"),
        st.builds(lambda part, repeat: f"(?:{part}){repeat}", inner, st.sampled_from(REPEATS)),
    ),
    max_leaves=8,
)
WEIGHTS = st.sampled_from([{}, {"unless": ["kb"]}, {"entropy": 1.0}, {"keywords": ["s"]}])


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(REGEXES, WEIGHTS, st.text(alphabet="abkKs0éſK_. \n\u200b%41B", max_size=40), SIZES)
def test_any_expression_is_found_in_a_stream_if_it_is_in_the_whole(
    regex: str, weight: dict[str, Any], text: str, sizes: list[int]
) -> None:
    try:
        patterns = PatternSet("own", [Pattern(id="any", regex=regex, **weight)])
        scanner = StreamPatterns([patterns]).scanner()
    except PatternError:
        reject()
    width = patterns.patterns[0].max_width
    found = False
    free = 0
    for chunk in [*chunks(text, sizes), None]:
        hits = scanner.end() if chunk is None else scanner.feed(chunk)
        assert all(free <= hit.start < hit.end <= len(text.encode()) for hit in hits)
        found = found or bool(hits)
        if width is not None:
            assert scanner.free(width) >= free
            free = scanner.free(width)
    assert found or not patterns.scan(text)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_offsets_are_bytes_of_the_surface(size: int) -> None:
    text = "Grüße: " + A_KEY + " …"
    (hit,) = scanned(SHIPPED, text, [size])
    assert hit == StreamHit("secrets", "aws_access_key_id", "critical", 9, 29)
    assert text.encode()[hit.start : hit.end].decode() == A_KEY


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_hidden_hit_covers_what_hides_it(size: int) -> None:
    (hit,) = scanned(SHIPPED, "key gh%70_" + "a1B2" * 9 + " end", [size])
    assert (hit.id, hit.start, hit.end) == ("github_token", 4, 46)


def test_a_key_is_certain_with_its_first_letters_not_its_last_line() -> None:
    scanner = SHIPPED.scanner()
    assert scanner.feed("-----BEGIN PRIVATE KEY----") == []
    (hit,) = scanner.feed("-")
    assert (hit.id, hit.end) == ("private_key", 27)


def test_a_pattern_that_is_weighed_waits_until_it_goes_no_further() -> None:
    scanner = SHIPPED.scanner()
    assert scanner.feed("password=Tr0ub4dor") == []
    assert scanner.feed("&3x") == []
    (hit,) = scanner.feed(", ")
    assert (hit.id, hit.start, hit.end) == ("assigned_password", 9, 21)
    assert scanned(SHIPPED, "password=Tr0ub4dor.example.com ") == []


def test_each_pattern_is_said_once() -> None:
    assert [hit.start for hit in scanned(SHIPPED, f"{A_KEY} {A_KEY} {A_KEY}")] == [0]


def test_a_match_with_a_keyword_waits_for_the_keyword() -> None:
    pin = Pattern(id="pin", regex=r"\b\d{4}\b", keywords=["pin"])
    assert pin.max_width is None
    patterns = own(pin)
    assert scanned(patterns, "it is 1234 today") == []
    scanner = patterns.scanner()
    assert scanner.feed("it is 1234 ") == []
    assert [(hit.start, hit.end) for hit in scanner.feed("and that is my PIN")] == [(6, 10)]
    assert [hit.start for hit in scanned(patterns, "pi\u200bn 1234")] == [7]


def test_a_keyword_that_stands_in_every_match_is_not_waited_for() -> None:
    pin = Pattern(id="pin", regex=r"(?i)\bpin: (\d{4})\b", keywords=["pin"])
    assert pin.max_width == len("pin: 1234")
    assert [hit.start for hit in scanned(own(pin), "the PIN: 1234.")] == [4]


def test_a_match_wider_than_what_is_kept_is_still_found() -> None:
    patterns = own(Pattern(id="wide", regex=r"<<[a-z]*>>"), Pattern(id="heavy", regex=r"\(\([a-z]*\)\)", entropy=4.0))
    hits = scanned(patterns, "<<" + "a" * 50_000 + ">>((" + "a" * 50_000 + "))", [999])
    assert [hit.id for hit in hits] == ["wide", "heavy"]


def test_what_looks_like_a_beginning_is_none_after_text_was_let_go() -> None:
    patterns = own(Pattern(id="first", regex=r"^abc"), Pattern(id="last", regex=r"xyz$"))
    assert [hit.id for hit in scanned(patterns, "abc" * 3000 + "xyz" * 3000)] == ["first", "last"]
    assert scanned(patterns, " " + "abc" * 3000 + "xyz" * 3000 + "." + "abc" * 3000) == []
    assert scanned(patterns, "%41" + "abc" * 3000) == []


def test_lone_surrogates_hide_nothing() -> None:
    assert [hit.start for hit in scanned(SHIPPED, "\ud800 " + A_KEY + " \udfff")] == [4]


def test_a_set_may_be_narrowed_to_some_of_its_patterns() -> None:
    patterns = StreamPatterns(shipped_patterns(), {"secrets": frozenset({"github_token"}), "pii": frozenset()})
    assert scanned(patterns, A_KEY + " bob@acme.com ghp_" + "a1B2" * 9) == [
        StreamHit("secrets", "github_token", "critical", 34, 74)
    ]


def test_without_patterns_nothing_is_found() -> None:
    assert scanned(StreamPatterns([]), A_KEY) == []
    assert StreamPatterns([]).state_bytes == 0


def test_an_expression_that_no_stream_can_be_scanned_for_is_refused() -> None:
    with pytest.raises(PatternError, match="own: pattern greek in a stream"):
        own(Pattern(id="greek", regex=r"\p{Greek}+"))


def test_what_is_kept_of_a_text_does_not_grow_with_it() -> None:
    assert SHIPPED.state_bytes < 1024
    scanner = SHIPPED.scanner()
    for _ in range(2000):
        scanner.feed("50%20 of a %c3%bc text\u200b with every kind of thing in it, ")
    for track in (scanner._raw, scanner._plain):
        assert track is not None and len(track.window) <= SHIPPED.keep + SLACK
        assert len(track.shifts) <= SHIPPED.keep + SLACK + 64
    scanner.feed("and now nothing more is hidden. " * 1000)
    assert scanner._plain is None


def test_a_thousand_scanners_are_open_at_once() -> None:
    scanners = [SHIPPED.scanner() for _ in range(1000)]
    for piece in ("key: ", A_KEY[:9]):
        assert not any(scanner.feed(piece) for scanner in scanners)
    assert all(len(scanner.feed(A_KEY[9:] + " ")) == 1 for scanner in scanners)
    for scanner in scanners[::2]:
        scanner.close()
    assert all(scanner.end() == [] for scanner in scanners[1::2])
