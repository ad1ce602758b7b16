"""The shipped matrix: it is large, whole and well-formed, and a case becomes the request that it says."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from pydantic import ValidationError

from proxy.contract.cases import REQUEST_ID, Group, chosen, groups, matrix
from proxy.contract.client import Target, raw

GROUPS = groups()
ASKS = matrix(GROUPS)
ONE = {"api": "x", "path": "/x", "defaults": {"model": "{model}"}, "parts": {"p": {"a": 1}}}


def asks(*cases: dict[str, object], **group: object) -> list[bytes]:
    made = matrix([Group.model_validate(ONE | group | {"cases": cases})])
    requests = [one.request('my "model"', 100) for one in made]
    return [raw(request, Target("h", 80)) for request in requests if request is not None]


def test_every_api_has_cases_of_every_kind() -> None:
    assert len(ASKS) >= 150
    assert len({ask.name for ask in ASKS}) == len(ASKS)
    apis = {group.api for group in GROUPS}
    assert apis == {"chat", "completions", "responses", "messages", "batch", "hiding", "http", "server"}
    streamed = Counter(ask.api for ask in ASKS if ask.form == "stream")
    errors = Counter(ask.api for ask in ASKS if ask.case.error)
    assert all(streamed[api] >= 20 for api in ("chat", "completions", "responses", "messages"))
    assert all(errors[api] >= 2 for api in apis)


def test_every_case_can_be_asked_and_uses_what_there_is() -> None:
    for ask in ASKS:
        assert ask.request("m", 64) is not None, ask.name
    for group in GROUPS:
        used = {part for case in group.cases for part in case.use}
        assert used == set(group.parts), group.api


def test_no_two_cases_of_an_api_send_the_same() -> None:
    seen: dict[bytes, str] = {}
    for ask in ASKS:
        request = ask.request("m", 64)
        assert request is not None
        sent = raw(request, Target("h", 80)).replace(f"{REQUEST_ID}-{ask.number:04d}".encode(), b"")
        assert sent not in seen, (ask.name, seen[sent])
        seen[sent] = ask.name


def test_a_body_is_made_of_defaults_parts_and_its_own_fields() -> None:
    whole, streamed = asks({"name": "n", "use": ["p"], "body": {"b": ["{model}"]}}, forms=["whole", "stream"])
    body = {"model": 'my "model"', "a": 1, "b": ['my "model"']}
    assert json.loads(whole.partition(b"\r\n\r\n")[2]) == body
    assert json.loads(streamed.partition(b"\r\n\r\n")[2]) == body | {"stream": True}


def test_a_raw_body_goes_as_it_is_written() -> None:
    assert asks({"name": "n", "raw": '{"model": "{model}", ÿ'})[0].endswith(
        '\r\n\r\n{"model": "my \\"model\\"", ÿ'.encode()
    )
    assert asks({"name": "n", "raw": "ÿ", "charset": "latin-1"})[0].endswith(b"\r\n\r\n\xff")
    assert b"Content-Length: 0\r\n" in asks({"name": "n", "raw": ""})[0]
    assert asks({"name": "n", "raw": "ab", "chunked": True})[0].endswith(b"\r\n\r\n2\r\nab\r\n0\r\n\r\n")


def test_too_long_means_longer_than_the_model_takes() -> None:
    case = {"name": "n", "body": {"prompt": "{too long}"}}
    assert json.loads(asks(case)[0].partition(b"\r\n\r\n")[2])["prompt"] == "7 " * 100
    one = matrix([Group.model_validate(ONE | {"cases": [case]})])[0]
    assert one.request("m", None) is None


def test_a_misspelt_key_in_a_file_is_refused() -> None:
    with pytest.raises(ValidationError):
        Group.model_validate(ONE | {"cases": [{"name": "n", "boddy": {}}]})


def test_cases_are_chosen_by_name() -> None:
    assert [ask.name for ask in chosen(ASKS, ["chat/a greeting*"])] == ["chat/a greeting", "chat/a greeting, streamed"]
    assert {ask.api for ask in chosen(ASKS, ["messages/", "batch/"])} == {"messages", "batch"}
    assert chosen(ASKS, []) == ASKS
    assert chosen(ASKS, ["no such case"]) == []
    assert {ask.api for ask in chosen(ASKS, [], ["chat/", "server/*"])} == {group.api for group in GROUPS} - {
        "chat",
        "server",
    }


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://a:8000", Target("a", 8000)),
        ("http://a:8000/v1", Target("a", 8000)),
        ("a:8000/", Target("a", 8000)),
        ("https://a", Target("a", 443, tls=True)),
        ("http://[::1]:80/gate/v1/", Target("::1", 80, prefix="/gate")),
    ],
)
def test_a_url_is_read_as_clients_write_it(url: str, target: Target) -> None:
    assert Target.of(url) == target


def test_what_is_no_url_is_refused() -> None:
    for url in ("ftp://a", "http://", "file:///a"):
        with pytest.raises(ValueError, match="URL is needed"):
            Target.of(url)
