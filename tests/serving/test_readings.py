"""A number with a checksum is found whatever stands beside it: digits, words in capitals, others of its kind."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest
import re2
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from policies.text_rules import _matches
from serving import regex_shape
from serving.patterns import Pattern, PatternSet, shipped_redactor, shipped_set, stands
from serving.readings import MOST_ENDS, inside_of, readings
from serving.stream_patterns import StreamHit, StreamPatterns
from tests.serving.test_stream_patterns import REGEXES

PII = shipped_set("pii")
NATIONAL = shipped_set("national_ids")
SETS = (PII, NATIONAL)
STREAM = StreamPatterns(SETS)

NUMBERS = {
    "payment_card": [
        "4111 1111 1111 1111",
        "4111-1111-1111-1111",
        "4111111111111111",
        "4222222222222",
        "4111111111111111110",
        "5555 5555 5555 4444",
        "2223 0031 2200 3222",
        "2720 9999 9999 9996",
        "3782 822463 10005",
        "378282246310005",
        "3056 930902 5904",
        "30569309025904",
        "6011 1111 1111 1117",
        "6011111111111117",
        "3530 1113 3330 0000",
        "6205 5000 0000 0000 004",
        "6205500000000000004",
        "6759 6498 2643 8453",
        "2200 0000 0000 0053",
    ],
    "iban": [
        "NO93 8601 1117 947",
        "NO9386011117947",
        "BE68 5390 0754 7034",
        "DK50 0040 0440 1162 43",
        "SI56 2633 0001 2039 086",
        "AT61 1904 3002 3457 3201",
        "CH93 0076 2011 6238 5295 7",
        "DE89 3704 0044 0532 0130 00",
        "DE89370400440532013000",
        "GB29 NWBK 6016 1331 9268 19",
        "AE07 0331 2345 6789 0123 456",
        "ES91 2100 0418 4502 0005 1332",
        "PT50 0002 0123 1234 5678 9015 4",
        "TR33 0006 1005 1978 6457 8413 26",
        "FR14 2004 1010 0505 0001 3M02 606",
        "PL61 1090 1014 0000 0712 1981 2874",
        "BR18 0036 0305 0000 1000 9795 493C 1",
        "KW81 CBKU 0000 0000 0000 1234 5601 01",
        "MT84 MALT 0110 0001 2345 MTLC AST0 01S",
        "LC55 HEMM 0001 0001 0012 0012 0002 3015",
        "LC55HEMM000100010012001200023015",
    ],
    "us_ssn": ["219-09-9999", "219 09 9999"],
    "br_cpf": ["529.982.247-25"],
    "es_dni": ["12345678Z", "X1234567L"],
    "fr_nir": ["2 55 08 14 168 025 38", "255081416802538"],
    "it_codice_fiscale": ["RSSMRA85T10A562S"],
    "ch_ahv": ["756.9217.0769.85"],
    "in_aadhaar": ["2345 6789 0124"],
    "se_personnummer": ["811228-9874", "19811228-9874"],
}
ALL = [(name, number) for name, numbers in NUMBERS.items() for number in numbers]
BESIDE = ["{} 2026", "2026 {}", "In 2026 {} and", "12 {} 34", "{} BIC CAIXESBB", "NR {} IS IT", "{} 12/27 123", "{} {}"]


def streamed(patterns: StreamPatterns, text: str, sizes: Sequence[int]) -> list[StreamHit]:
    scanner = patterns.scanner()
    hits: list[StreamHit] = []
    at = 0
    for size in itertools.cycle(sizes):
        if at >= len(text):
            break
        hits += scanner.feed(text[at : at + size])
        at += size
    return hits + scanner.end()


PIECES = [number for _, number in ALL if len(number) < 24]
GROUPS = (
    "4111 1111 2026 5555 4444 3782 822463 10005 DE89 3704 0044 0532 0130 00 BE68 5390 0754 7034 123 BIC 219 09 9999"
)
GLUE = [" ", " ", " ", "-", "", "  ", ", ", " é ", "\n", ".", " % "]
TEXTS = st.lists(
    st.tuples(st.one_of(st.sampled_from(PIECES), st.sampled_from(GROUPS.split())), st.sampled_from(GLUE)), max_size=12
).map(lambda parts: "".join(itertools.chain.from_iterable(parts)))
SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=6)


def covered(patterns: PatternSet, index: int, text: str) -> set[int]:
    """The bytes that belong to a number: every beginning with every end is tried."""
    data = text.encode()
    expression, group = patterns.expression(index)
    assert group == 0
    found: set[int] = set()
    for start in range(len(data)):
        for end in range(start + 8, min(len(data), start + 60) + 1):
            match = expression.match(data, start, end)
            if match and match.end() == end and stands(patterns.patterns[index], data[start:end].decode()):
                found |= set(range(start, end))
    return found


@pytest.mark.parametrize(("name", "number"), ALL)
@pytest.mark.parametrize("form", BESIDE)
def test_a_number_is_found_beside_others_and_words(name: str, number: str, form: str) -> None:
    """Two that are alike may be read as a third between them: then all of it is found."""
    text = form.format(number, number)
    hits = [hit for one in SETS for hit in one.scan(text) if hit.id == name]
    places = {at for hit in hits for at in range(hit.start, hit.end)}
    wanted = [text.index(number), text.rindex(number)]
    assert {at for place in wanted for at in range(place, place + len(number))} <= places
    assert min(places) == wanted[0] and max(places) == wanted[-1] + len(number) - 1
    for size in (1, 4, 100):
        assert name in {hit.id for hit in streamed(STREAM, text, [size])}


@settings(max_examples=150, deadline=None)
@given(TEXTS, SIZES)
def test_what_is_found_is_all_that_has_its_checksum_at_any_chunks(text: str, sizes: list[int]) -> None:
    told = _matches((PII,), frozenset({"pii/iban", "pii/payment_card", "pii/us_ssn"}), 45)
    told.settle(0)
    masks, at = [], 0
    for size in itertools.cycle(sizes):
        if at >= len(text):
            break
        told.feed(text[at : at + size])
        masks += told.settled(False)
        at += size
    told.end()
    masks += told.settled(True)
    seen = {hit.id for hit in streamed(STREAM, text, sizes)}
    for index in (1, 2, 3):
        name = PII.patterns[index].id
        wanted = covered(PII, index, text)
        hits = [hit for hit in PII.scan(text) if hit.id == name]
        places = [(len(text[: hit.start].encode()), len(text[: hit.end].encode())) for hit in hits]
        assert {at for start, end in places for at in range(start, end)} == wanted
        assert {at for hit in masks if hit.id == name for at in range(hit.start, hit.end)} == wanted
        assert (name in seen) == bool(wanted)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("In 2026 4111 1111 1111 1111 was", "In 2026 [redacted:payment_card] was"),
        ("4111 1111 1111 1111 2026", "[redacted:payment_card] 2026"),
        ("4000 4111 1111 1111 1111", "4000 [redacted:payment_card]"),
        ("4111 1111 1111 1111 12/27 123", "[redacted:payment_card] 12/27 123"),
        ("6759 6498 2643 8453 123", "[redacted:payment_card] 123"),
        ("4111 1111 1111 1111 5500 0000 0000 0004", "[redacted:payment_card] [redacted:payment_card]"),
        ("ES91 2100 0418 4502 0005 1332 BIC CAIXESBB", "[redacted:iban] BIC CAIXESBB"),
        ("BE68 5390 0754 7034 NO93 8601 1117 947", "[redacted:iban] [redacted:iban]"),
        ("DE89 3704 0044 0532 0130 00 4111 1111 1111 1111", "[redacted:iban] [redacted:payment_card]"),
    ],
)
def test_a_record_has_no_digit_of_it(text: str, masked: str) -> None:
    assert shipped_redactor()(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "41111111111111111111",
        "9994111111111111111",
        "4111111111111111x",
        "order 1234567890123456",
        "4111 1111 1111 1112 4111 1111 1111 1113",
        "1732233445566778899",
        "4111-1111-1111-11111",
        "DE89 3704 0044 0532 0130 0012",
        "DE89 3704 0044 0532 0130",
        "GB82 WEST 1234 5698 7654 33 BIC",
        "4466-5544-0000",
    ],
)
def test_a_part_of_a_longer_run_is_none(text: str) -> None:
    assert [hit for hit in PII.scan(text) if hit.id in ("iban", "payment_card")] == []
    assert [hit.id for hit in streamed(STREAM, text, [3]) if hit.id in ("iban", "payment_card")] == []


def test_an_account_has_the_length_of_its_country() -> None:
    """A made-up account can have any length; it is found only with the one that its country has."""
    lengths: dict[str, set[int]] = {}
    choose = random.Random(7)
    for letters in itertools.product("ABCDEFGHIJKLMNOPQRSTUVWXYZ", repeat=2):
        country = "".join(letters)
        for length in range(15, 35):
            bban = "".join(choose.choices("0123456789", k=length - 4))
            rest = int("".join(str(int(one, 36)) for one in f"{bban}{country}00")) % 97
            if [hit.id for hit in PII.scan(f"{country}{98 - rest:02}{bban}")] == ["iban"]:
                lengths.setdefault(country, set()).add(length)
    assert all(len(one) == 1 for one in lengths.values())
    assert len(lengths) == 111
    known = {
        "NO": 15,
        "BE": 16,
        "DK": 18,
        "SI": 19,
        "AT": 20,
        "CH": 21,
        "DE": 22,
        "AE": 23,
        "ES": 24,
        "PT": 25,
        "TR": 26,
    }
    known |= {"FR": 27, "PL": 28, "BR": 29, "JO": 30, "MT": 31, "LC": 32, "RU": 33}
    assert {country: lengths[country] for country in known} == {country: {one} for country, one in known.items()}


OWN = PatternSet("own", [Pattern(id="number", regex=r"\b[0-9]{4}(?:[ -]?[0-9]{1,4}){2,8}\b", check="luhn")])


@pytest.mark.parametrize(
    "text", ["2026 4111 1111 1111 1111", "4111 1111 1111 1111 2026", "7 4111 1111 1111 1111 12 34"]
)
def test_a_greedy_expression_of_ones_own_is_looked_into_too(text: str) -> None:
    hits = OWN.scan(text)
    assert any(text[hit.start : hit.end] == "4111 1111 1111 1111" for hit in hits)
    assert [hit.id for hit in streamed(StreamPatterns([OWN]), text, [1])] == ["number"]


@pytest.mark.parametrize(
    ("regex", "inside"),
    [
        (r"\b[0-9]{16}\b", True),
        (r"(?i)\bno[:.]? ?[0-9]{9}\b", True),
        (r"[0-9]{16}", False),
        (r"(?:^|\W)[0-9]{16}", False),
        (r"\b[0-9 ]+\b", False),
        (r"\b[0-9 ]{13,130}\b", False),
        (r"\b\p{Nd}{16}\b", False),
    ],
)
def test_only_what_is_narrow_and_begins_with_a_group_is_looked_into(regex: str, inside: bool) -> None:
    assert (inside_of(regex) is not None) is inside


def test_the_cost_does_not_grow_with_the_groups_beside() -> None:
    """Of ``n`` groups each is a beginning once, with so many ends at most."""
    expression, _ = OWN.expression(0)
    inside = OWN.inside(0)
    assert inside is not None
    for groups in (50, 500):
        data = b"1234 " * groups
        assert len([*readings(expression, inside, data, 0, len(data))]) <= groups * MOST_ENDS


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(st.lists(REGEXES, min_size=2, max_size=4), st.text(alphabet="abkKs0éſK_. \n", max_size=24))
def test_many_alternatives_as_one_end_and_begin_wherever_one_of_them_does(branches: list[str], text: str) -> None:
    regex = rf"\b(?:{'|'.join(branches)})"
    options = re2.Options()
    options.log_errors = False
    data = text.encode()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(regex_shape, "LOOSE", 1)
        try:
            expression = re2.compile(regex, options)
            trigger = regex_shape.shape_of(regex, shortest=False, together=True).trigger
            head = regex_shape.head_of(regex)
        except (re2.error, regex_shape.ShapeError):
            reject()
    options.encoding = re2.Options.Encoding.LATIN1
    looser = re2.compile(trigger.encode("ascii"), options)
    assert head is not None
    begins = re2.compile((head.first + head.then).encode("ascii"), options)
    for start in range(len(data)):
        for end in range(start + 1, len(data) + 1):
            match = expression.match(data, start, end)
            if match and match.end() == end > start:
                assert any(looser.fullmatch(data, first, end) for first in range(end + 1))
                assert begins.match(data, start)
                assert sum(chr(byte).isalnum() or byte == 0x5F for byte in data[start:end] if byte < 128) >= head.least
