"""What the shipped pattern sets find, what they leave alone, and how hits become redactions."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.patterns import (
    MOST_WEIGHED,
    Hit,
    Pattern,
    PatternError,
    PatternSet,
    entropy,
    iban,
    luhn,
    redact,
    shipped_patterns,
    shipped_redactor,
    ssn,
)

SECRETS, PII = shipped_patterns()

# Made up for this test, in the providers' forms; split so that scanners of this repository stay quiet.
FOUND_SECRETS = {
    "aws_access_key_id": "AKIA" + "Q3EGRIVN2LMX7ABC",
    "aws_secret_access_key": "aws_secret_access_key = " + "wJalrXUtnFEMI/K7MDENG/bPxRfiCYzzz1Q2w3E4",
    "github_token": "ghp_" + "16C7e42F292c6912E7710c838347Ae178B4a",
    "gitlab_token": "glpat-" + "aB3dE5gH7jK9mN1pQ3sT",
    "slack_token": "xoxb-" + "2444333222111-2444333222111-abcdefABCDEF123456",
    "slack_webhook": "https://hooks.slack.com/services/" + "T00000000/B00000000/XXXXyyyyZZZZ0000aaaabbbb",
    "stripe_key": "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc",
    "openai_key": "sk-proj-" + "aB3dE5gH7jK9mN1pQ3sT5vW7xY9zA1bC3dE5",
    "anthropic_key": "sk-ant-api03-" + "aB3dE5gH7jK9mN1pQ3sT5vW7xY9zA1bC3dE5fG7h",
    "google_api_key": "AIza" + "SyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q",
    "private_key": "-----BEGIN RSA PRIVATE KEY-----\nMIIEow==\n-----END RSA PRIVATE KEY-----",
    "jwt": "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P",
    "npm_token": "npm_" + "aB3dE5gH7jK9mN1pQ3sT5vW7xY9zA1bC3dE5",
    "huggingface_token": "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZaBcDeFgH",
    "twilio_key": "SK" + "0123456789abcdef0123456789abcdef",
    "sendgrid_key": "SG." + "aB3dE5gH7jK9mN1pQ3sT5v.aB3dE5gH7jK9mN1pQ3sT5vW7xY9zA1bC3dE5fG7hI9j",
    "model_provider_key": "gsk_" + "aB3dE5gH7jK9mN1pQ3sT5vW7xY9zA1bC3dE5fG7hI9jK1mN3pQ5s",
    "docker_token": "dckr_pat_" + "aB3dE5gH7jK9mN1pQ3sT5vW7xY9",
    "notion_token": "ntn_" + "aB3dE5gH7jK9mN1pQ3sT5vW7xY9zA1bC3dE5fG7hI9jK",
    "figma_token": "figd_" + "aB3dE5gH7jK9mN1pQ3sT5vW7xY9zA1bC3dE5fG7h",
    "postman_key": "PMAK-" + "0123456789abcdef01234567-0123456789abcdef0123456789abcdef01",
    "new_relic_key": "NRAK-" + "ABCDEFGHIJ0123456789ABCDEFG",
    "sentry_token": "sntrys_" + "eyJpYXQiOjE3MDAwMDAwMDB9_aB3dE5gH7jK9mN1pQ3sT5vW7xY9zA1bC3dE5",
    "terraform_token": "aB3dE5gH7jK9mN" + ".atlasv1." + "aB3dE5gH7j" * 6 + "K1mN3",
    "pulumi_token": "pul-" + "0123456789abcdef0123456789abcdef01234567",
    "azure_storage_key": "AccountName=x;AccountKey=" + "aB3d" * 21 + "aB==;EndpointSuffix=core.windows.net",
    "password_in_url": "postgres://app:" + "s3cr3t-9fQ@db.internal:5432/app",
    "authorization_header": "Authorization: Bearer " + "aB3dE5gH7jK9mN1pQ3sT5vW7",
    "assigned_secret": 'api_key: "' + "aB3dE5gH7jK9mN1pQ3sT" + '"',
    "assigned_password": "DB_PASSWORD=" + "tr0ub4dor&3x",
}

NO_SECRETS = [
    "password: str = Field(...)",
    "password = os.environ['DB_PASSWORD']",
    "api_key = settings.openai_api_key_from_the_vault",
    'API_KEY="your-api-key-goes-here"',
    "export TOKEN=$(gh auth token)",
    "the password is required and must have 8 characters",
    "https://user@example.com/path",
    "git@github.com:acme/app.git",
    "commit 16c7e42f292c6912e7710c838347ae178b4a0000",
    "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "8c6976e5-b541-0415-bde9-08bd4dee15df",
    "def get_password(user): ...",
    "rm -rf node_modules && npm ci",
]


def ids(patterns: PatternSet, text: str) -> set[str]:
    return {hit.id for hit in patterns.scan(text)}


@pytest.mark.parametrize("name", sorted(FOUND_SECRETS))
def test_a_secret_of_each_form_is_found(name: str) -> None:
    assert name in ids(SECRETS, FOUND_SECRETS[name])


@pytest.mark.parametrize("name", sorted(FOUND_SECRETS))
def test_a_secret_is_found_in_the_middle_of_other_text(name: str) -> None:
    assert name in ids(SECRETS, f'{{"note": "see: {FOUND_SECRETS[name]}"}}')


@pytest.mark.parametrize("text", NO_SECRETS)
def test_what_only_looks_like_a_secret_is_left_alone(text: str) -> None:
    assert SECRETS.scan(text) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("email", "write to jo.doe+x@acme.co.uk today"),
        ("iban", "pay DE89 3704 0044 0532 0130 00 now"),
        ("iban", "GB82WEST12345698765432"),
        ("payment_card", "card 4111 1111 1111 1111"),
        ("payment_card", "378282246310005"),
        ("us_ssn", "ssn 219-09-9999"),
        ("phone", "call +49 30 1234567"),
        ("phone", "call (555) 123-4567"),
    ],
)
def test_personal_data_is_found(name: str, text: str) -> None:
    assert name in ids(PII, text)


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112",
        "DE89 3704 0044 0532 0130 01",
        "000-12-3456",
        "order 1234567890123456",
        "2026-11-21",
        "version 1.2.3.4",
        "git@github.com",
        "10.0.0.1:8080",
    ],
)
def test_numbers_that_fail_their_checksum_or_form_are_left_alone(text: str) -> None:
    assert PII.scan(text) == []


def test_a_redaction_names_the_pattern_and_keeps_the_rest() -> None:
    token = FOUND_SECRETS["github_token"]
    assert SECRETS.redact(f"use {token} now") == "use [redacted:github_token] now"


def test_only_the_value_of_an_assignment_is_redacted() -> None:
    assert SECRETS.redact(FOUND_SECRETS["assigned_password"]) == "DB_PASSWORD=[redacted:assigned_password]"


def test_places_are_code_points_also_behind_text_that_is_not_ascii() -> None:
    token = FOUND_SECRETS["github_token"]
    text = f"ключ 🔑 {token} ключ"
    (hit,) = SECRETS.scan(text)
    assert text[hit.start : hit.end] == token


def test_hits_that_overlap_become_one() -> None:
    hits = [Hit("a", 2, 6, "high"), Hit("b", 4, 12, "high"), Hit("c", 12, 13, "high")]
    assert redact("0123456789abcdef", hits) == "01[redacted:b][redacted:c]def"


def test_the_shipped_redactor_masks_secrets_and_personal_data() -> None:
    mask = shipped_redactor()
    text = f"{FOUND_SECRETS['stripe_key']} jo@acme.io"
    assert mask(text) == "[redacted:stripe_key] [redacted:email]"
    assert mask("nothing here") == "nothing here"


@given(st.text(max_size=300))
def test_any_text_can_be_scanned_and_redacted_twice_with_the_same_result(text: str) -> None:
    mask = shipped_redactor()
    for hit in [*SECRETS.scan(text), *PII.scan(text)]:
        assert 0 <= hit.start < hit.end <= len(text)
    assert mask(text) == mask(text)


@given(st.text(alphabet="ab -\n🔑é", max_size=80), st.text(alphabet="ab -\n🔑é", max_size=80))
def test_a_token_is_masked_wherever_it_stands(before: str, after: str) -> None:
    token = FOUND_SECRETS["npm_token"]
    assert token not in shipped_redactor()(f"{before} {token} {after}")


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(PatternError, match="empty"):
        PatternSet("own", [Pattern(id="x", regex="a*")])


def test_an_expression_that_is_no_re2_is_refused_by_name() -> None:
    with pytest.raises(PatternError, match="own: pattern lookahead"):
        PatternSet("own", [Pattern(id="lookahead", regex="a(?=b)")])


def test_a_file_of_the_wrong_shape_is_refused_by_name(tmp_path: Path) -> None:
    for text in ("", "patterns: 7", "patterns: [{id: x}]", "patterns: [{id: x, regex: a, regexp: b}]", "{"):
        path = tmp_path / "own.yaml"
        path.write_text(text)
        with pytest.raises(PatternError, match=r"own\.yaml"):
            PatternSet.from_file(path)


def test_a_set_without_patterns_finds_nothing() -> None:
    assert PatternSet("own", []).scan("anything") == []


def test_keywords_and_entropy_narrow_a_pattern() -> None:
    narrowed = PatternSet("own", [Pattern(id="x", regex="[a-z0-9]{8}", keywords=["token"], entropy=2.5)])
    assert [hit.id for hit in narrowed.scan("TOKEN a1b2c3d4")] == ["x"]
    assert narrowed.scan("TOKEN aaaaaaaa") == []
    assert narrowed.scan("a1b2c3d4") == []


def test_an_entry_of_the_shipped_files_has_an_id_of_its_own() -> None:
    for patterns in (SECRETS, PII):
        names = [pattern.id for pattern in patterns.patterns]
        assert len(names) == len(set(names))


def test_the_checksums_are_those_of_their_standards() -> None:
    assert luhn("4539 1488 0343 6467") and not luhn("4539 1488 0343 6468") and not luhn("0000 0000 0000 0000")
    assert iban("GB82 WEST 1234 5698 7654 32") and not iban("GB82 WEST 1234 5698 7654 33")
    assert ssn("219-09-9999") and not ssn("666-12-3456") and not ssn("900-12-3456") and not ssn("219-00-9999")
    assert entropy("aaaa") == 0 and entropy("abab") == 1


def test_only_so_many_hits_of_a_pattern_are_looked_for_if_a_number_is_named() -> None:
    own = PatternSet("own", [Pattern(id="a", regex="a[0-9]"), Pattern(id="b", regex="b[0-9]")])
    assert [hit.id for hit in own.scan("a1 a2 a3 b1", most=2)] == ["a", "a", "b"]
    assert [hit.id for hit in own.scan("a1 a2 a3 b1", without={"a"})] == ["b"]
    assert len(own.scan("a1 " * 500)) == 500


def test_a_text_of_look_alikes_is_not_let_by_for_their_number() -> None:
    own = PatternSet("own", [Pattern(id="card", regex="[0-9]{16}", check="luhn")])
    few, many = "4111111111111112 " * (MOST_WEIGHED - 1), "4111111111111112 " * MOST_WEIGHED
    assert own.scan(few, most=1) == []
    assert [hit.id for hit in own.scan(many, most=1)] == ["card"]
    assert own.scan(many) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("curl_user", "curl -u admin:" + "s3cr3t-9fQ https://x.io"),
        ("client_password", "mysql -u root -p" + "s3cr3t9fQ app"),
        ("client_password", "sshpass -p '" + "s3cr3t9fQ' ssh host"),
        ("aws_access_key_id", "x_" + FOUND_SECRETS["aws_access_key_id"]),
        ("github_token", FOUND_SECRETS["github_token"].replace("g", "%67", 1)),
        ("github_token", FOUND_SECRETS["github_token"].replace("C", "C\u200b", 1)),
    ],
)
def test_a_secret_on_a_command_line_or_in_disguise_is_found(name: str, text: str) -> None:
    assert name in ids(SECRETS, text)


@pytest.mark.parametrize(
    "text", ["curl -u $USER:$TOKEN https://x.io", "mysql -u root -p app", "mysql -P3306 -h db", "sshpass -p $PW ssh h"]
)
def test_a_command_line_without_a_password_is_left_alone(text: str) -> None:
    assert SECRETS.scan(text) == []


def test_a_disguised_secret_is_redacted_where_it_stands() -> None:
    token = FOUND_SECRETS["github_token"].replace("g", "%67", 1).replace("C", "C\u200b", 1)
    assert SECRETS.redact(f"a%20b {token} c") == "a%20b [redacted:github_token] c"


NUMBERS = ["555-123-4567", "(212) 555-1234", "+49 170 1234567", "555-234-4568", "+1 415 555 0132"]


@pytest.mark.parametrize("between", [" ", "\n", ",", ", ", "; ", '"\n"'])
@given(numbers=st.lists(st.sampled_from(NUMBERS), min_size=1, max_size=12))
def test_every_number_of_a_list_is_found(between: str, numbers: list[str]) -> None:
    """What stands behind one is what must stand before the next."""
    text = between.join(numbers)
    assert [text[hit.start : hit.end] for hit in PII.scan(text) if hit.id == "phone"] == numbers


def test_what_follows_a_match_is_looked_at_once_more_and_only_there() -> None:
    own = PatternSet("own", [Pattern(id="it", regex="(?:^|[ ,])(?P<secret>[0-9]{2})(?:[ ,]|$)")])
    text = "11 22,33  44 555 66"
    assert [text[hit.start : hit.end] for hit in own.scan(text)] == ["11", "22", "33", "44", "66"]
    assert len(own.scan("77 " * 5000)) == 5000
