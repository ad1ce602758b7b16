"""Our refusals as openai's SDK meets them."""

from __future__ import annotations

import json

import anthropic
import httpx2
import openai
import pytest

from serving.wire.errors import CODES, error_body, error_headers, refuse, shape_of

EXCEPTIONS: dict[int, type[openai.APIStatusError]] = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    413: openai.APIStatusError,
    429: openai.RateLimitError,
    500: openai.InternalServerError,
    502: openai.InternalServerError,
    503: openai.InternalServerError,
    504: openai.InternalServerError,
}


def ask(code: str, *, retries: int) -> tuple[openai.APIStatusError, int]:
    """What the SDK raises for ``code``, and how often it asked."""
    asked = 0

    def handle(_: httpx2.Request) -> httpx2.Response:
        nonlocal asked
        asked += 1
        answer = refuse(code, "because")
        return httpx2.Response(answer.status, headers=list(answer.headers), content=answer.body)

    client = openai.OpenAI(
        api_key="k",
        base_url="http://interlock.test/v1",
        max_retries=retries,
        http_client=httpx2.Client(transport=httpx2.MockTransport(handle)),
    )
    with client, pytest.raises(openai.APIStatusError) as raised:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
    return raised.value, asked


@pytest.mark.parametrize("code", CODES)
def test_the_sdk_raises_the_exception_of_the_status_and_shows_the_code(code: str) -> None:
    error, _ = ask(code, retries=0)
    assert isinstance(error, EXCEPTIONS[CODES[code].status])
    assert (error.code, error.status_code) == (code, CODES[code].status)
    assert "because" in error.message


@pytest.mark.parametrize(
    "code",
    [code for code, meaning in CODES.items() if meaning.status < 500] + ["unjudged_answer", "upstream_timeout"],
)
def test_the_sdk_does_not_retry_into_a_refusal_that_stands(code: str) -> None:
    _, asked = ask(code, retries=2)
    assert asked == 1


def test_a_spent_budget_says_when_to_come_again_and_not_to_try_before() -> None:
    assert error_headers(429, "budget_exhausted", 12.2) == (
        ("content-type", "application/json"),
        ("retry-after", "13"),
        ("x-should-retry", "false"),
    )


def test_an_unavailable_judge_may_be_asked_again() -> None:
    assert error_headers(503, "judge_unavailable", 0) == (("content-type", "application/json"), ("retry-after", "1"))
    assert error_headers(503, "judge_unavailable") == (("content-type", "application/json"), ("retry-after", "1"))


def test_a_denial_has_no_word_on_retrying() -> None:
    assert error_headers(403, "policy_denied", 5) == (("content-type", "application/json"),)


@pytest.mark.parametrize(
    ("status", "type_"),
    [
        (400, "invalid_request_error"),
        (413, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (429, "rate_limit_error"),
        (502, "server_error"),
        (503, "server_error"),
    ],
)
def test_the_type_is_openai_s_for_the_status_unless_given(status: int, type_: str) -> None:
    assert json.loads(error_body(status, "x", "m"))["error"]["type"] == type_
    assert json.loads(error_body(status, "x", "m", type_="other"))["error"]["type"] == "other"


def test_the_body_is_the_api_s_error_object_in_compact_utf_8() -> None:
    body = error_body(400, "ambiguous_field", 'must be true or false – not "yes"', param="stream")
    assert body.startswith('{"error":{"message":"must be true or false – not \\"yes\\"",'.encode())
    assert json.loads(body)["error"] == {
        "message": 'must be true or false – not "yes"',
        "type": "invalid_request_error",
        "param": "stream",
        "code": "ambiguous_field",
    }


def test_text_that_utf_8_cannot_hold_makes_no_error_of_the_error() -> None:
    assert json.loads(error_body(403, "policy_denied", "half \ud800"))["error"]["message"] == "half ?"


def test_every_code_says_what_it_means() -> None:
    for code, meaning in CODES.items():
        assert meaning.meaning.rstrip(")").endswith("."), code


def test_a_code_that_is_not_in_the_table_is_a_mistake_of_ours() -> None:
    with pytest.raises(KeyError):
        refuse("no_such_code", "x")


ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    502: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}


@pytest.mark.parametrize("code", CODES)
def test_anthropic_s_sdk_reads_the_other_shape_and_repeats_only_what_may_be_repeated(code: str) -> None:
    asked = 0

    def handle(_: httpx2.Request) -> httpx2.Response:
        nonlocal asked
        asked += 1
        answer = refuse(code, "because", param="stream", shape="anthropic", retry_after=0.01)
        headers = [(k, "0.01" if k == "retry-after" else v) for k, v in answer.headers]
        return httpx2.Response(answer.status, headers=headers, content=answer.body)

    client = anthropic.Anthropic(
        api_key="k",
        base_url="http://interlock.test",
        max_retries=1,
        http_client=httpx2.Client(transport=httpx2.MockTransport(handle)),
    )
    with client, pytest.raises(anthropic.APIStatusError) as raised:
        client.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": "x"}])
    status = CODES[code].status
    assert raised.value.status_code == status
    assert raised.value.body == {
        "type": "error",
        "error": {"type": ANTHROPIC_TYPES[status], "message": "because", "code": code, "param": "stream"},
    }
    again = status >= 500 and code not in ("unjudged_answer", "upstream_failed", "upstream_timeout")
    assert asked == (2 if again else 1)


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/v1/messages", "anthropic"),
        ("/v1/messages/count_tokens?beta=true", "anthropic"),
        ("/v1%2Fmessages", "anthropic"),
        ("http://h/V1/Messages", "anthropic"),
        ("/v1/chat/completions", "openai"),
        ("/v1/chat/completions?next=/v1/messages", "openai"),
        ("*", "openai"),
    ],
)
def test_the_path_says_which_shape_an_error_has(path: str, shape: str) -> None:
    assert shape_of(path) == shape
