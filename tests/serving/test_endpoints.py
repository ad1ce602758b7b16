"""The endpoint table: what is judged, passed and refused, and that no spelling finds a way round."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.endpoints import TABLE, UNKNOWN, EndpointClass, classify, decide, forgiving
from serving.settings import Settings

CHAT = "/v1/chat/completions"

# Spellings that uvicorn 0.54 with Starlette 1.10 was seen to route to the handler of the judged path.
REACH_THE_HANDLER = (
    "/v1/chat%2Fcompletions",
    "/v1/chat%2fcompletions",
    "/v1/chat/c%6Fmpletions",
    "/%76%31/chat/completions",
    "/v1/chat/completions%0a",
    "/v1/chat/completions%0A?x=1",
    "/v1/chat/completions#x",
    "/v1/chat/completions#x?y",
    "http://h/v1/chat/completions",
    "http://h:1/v1/chat/completions?x",
    "ws://h/v1/chat/completions",
)
# Spellings that it refuses, but that a web server in front of it could fold into the judged path.
MAY_BE_FOLDED = (
    "//v1/chat/completions",
    "/v1//chat/completions",
    "/v1/./chat/completions",
    "/v1/%2e/chat/completions",
    "/x/../v1/chat/completions",
    "/x/%2e%2e/v1/chat/completions",
    "/x/..%2fv1/chat/completions",
    "/v1/chat/completions;x",
    "/v1;x/chat/completions",
    "/V1/Chat/Completions",
    "/v1/chat/completions/",
    "/v1/chat/completions//",
    "/v1/chat/completions%20",
    "/v1/chat/completions%09",
    "/v1/chat/completions%00",
    "/v1/chat/completions%3Fx",
    "/v1/chat/completions%23x",
    "/v1/chat/c%256Fmpletions",
    "/v1\\chat\\completions",
    "/v1%5Cchat/completions",
)


def test_messages_are_judged_and_counting_their_tokens_is_plain() -> None:
    assert classify("POST", "/v1/messages?beta=true").klass is EndpointClass.JUDGED
    assert classify("POST", "/v1/messages/count_tokens").klass is EndpointClass.PLAIN
    for other in ("/v1/messages%0a", "//v1/messages", "/v1/Messages", "/v1/mess%61ges", "/v1/messages/"):
        assert classify("POST", other).klass is EndpointClass.MISSPELT


def test_chat_completions_are_judged_with_or_without_a_query() -> None:
    assert classify("POST", CHAT).klass is EndpointClass.JUDGED
    assert classify("POST", CHAT + "?a=%2F#b").klass is EndpointClass.JUDGED


@pytest.mark.parametrize("target", REACH_THE_HANDLER + MAY_BE_FOLDED)
def test_another_spelling_of_the_judged_path_is_refused_even_where_unjudged_paths_are_allowed(
    target: str,
) -> None:
    endpoint = classify("POST", target)
    refusal = decide(endpoint, Settings(unjudged="allow"))
    assert endpoint.klass is EndpointClass.MISSPELT
    assert endpoint.name == CHAT
    assert refusal is not None
    assert (refusal.status, refusal.code) == (400, "endpoint_spelling")
    assert CHAT in refusal.message


@pytest.mark.parametrize("target", ["/sleep%0a", "//sleep", "/Sleep", "/v1/load_lora_adapter/", "/x/../pause"])
def test_another_spelling_of_a_control_path_is_refused_even_where_the_path_is_listed(target: str) -> None:
    settings = Settings(unjudged="allow", control_paths=["/sleep", "/pause", "/v1/load_lora_adapter"])
    assert classify("POST", target).klass is EndpointClass.MISSPELT
    assert decide(classify("POST", target), settings) is not None


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_safe_methods_of_the_judged_path_pass_so_that_the_server_says_405(method: str) -> None:
    assert classify(method, CHAT).klass is EndpointClass.PLAIN
    assert decide(classify(method, CHAT), Settings()) is None


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "QUERY", "post", "TRACE"])
def test_a_method_that_the_judged_path_does_not_have_is_not_let_by(method: str) -> None:
    assert decide(classify(method, CHAT), Settings()) is not None


@pytest.mark.parametrize(
    "target",
    [
        "/inference/v1/generate",
        "/generative_scoring",
        "/v1/systemone",
        "/v1/audio/transcriptions",
        "/cohere/v2/chat",
        "/v1/made-up",
        "/",
        "*",
    ],
)
def test_token_makers_and_unknown_paths_are_refused_until_allowed(target: str) -> None:
    endpoint = classify("POST", target)
    refusal = decide(endpoint, Settings())
    if target == "*":
        assert refusal is not None
        return
    assert endpoint.klass is EndpointClass.UNJUDGED
    assert refusal is not None
    assert (refusal.status, refusal.code) == (403, "unjudged_endpoint")
    assert "INTERLOCK_UNJUDGED=allow" in refusal.message
    assert decide(endpoint, Settings(unjudged="allow")) is None


def test_one_unjudged_path_can_be_allowed_or_refused_by_itself() -> None:
    only_pooling = Settings(unjudged_paths={"/pooling": "allow"})
    all_but_pooling = Settings(unjudged="allow", unjudged_paths={"/pooling": "refuse"})
    pooling, scoring = classify("POST", "/pooling"), classify("POST", "/generative_scoring")
    assert decide(pooling, only_pooling) is None
    assert decide(scoring, only_pooling) is not None
    assert decide(pooling, all_but_pooling) is not None
    assert decide(scoring, all_but_pooling) is None
    for other in ("/pooling%0a", "//pooling", "/Pooling", "/pool%69ng"):
        assert decide(classify("POST", other), all_but_pooling) is not None


def test_a_stored_response_is_judged_by_its_pattern() -> None:
    endpoint = classify("GET", "/v1/responses/resp_abc?stream=true")
    assert endpoint.name == classify("GET", "/v1/responses/resp_abc").name == "/v1/responses/{id}"
    cancelled = classify("POST", "/v1/responses/resp_abc/cancel")
    assert (endpoint.klass, cancelled.klass) == (EndpointClass.JUDGED, EndpointClass.JUDGED)
    for other in ("/v1/responses/resp_abc/", "/v1/responses/resp%5Fabc", "/v1/responses//resp_abc", "/V1/responses/a"):
        assert classify("GET", other).klass is EndpointClass.MISSPELT
    assert classify("DELETE", "/v1/responses/resp_abc").klass is EndpointClass.UNJUDGED


@pytest.mark.parametrize("target", ["/v1/realtime", "/v1/models", "/made-up"])
def test_a_websocket_is_unjudged_wherever_it_goes(target: str) -> None:
    endpoint = classify("GET", target, upgrade=True)
    assert endpoint.klass is EndpointClass.UNJUDGED
    assert decide(endpoint, Settings()) is not None


def test_a_websocket_on_the_judged_path_is_refused_even_where_unjudged_paths_are_allowed() -> None:
    assert decide(classify("POST", CHAT, upgrade=True), Settings(unjudged="allow")) is not None


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/sleep"),
        ("POST", "/collective_rpc"),
        ("POST", "/v1/load_lora_adapter"),
        ("POST", "/inference/v1/abort_requests"),
        ("POST", "/scale_elastic_ep"),
        ("POST", "/reset_prefix_cache"),
        ("POST", "/start_profile"),
        ("POST", "/update_weights"),
        ("DELETE", "/adapters/mine"),
        ("PUT", "/sleep"),
        ("GET", "/server_info"),
    ],
)
def test_control_paths_are_refused_unless_listed(method: str, target: str) -> None:
    endpoint = classify(method, target)
    refusal = decide(endpoint, Settings(unjudged="allow"))
    assert refusal is not None
    assert (refusal.status, refusal.code) == (403, "control_endpoint")
    assert decide(endpoint, Settings(control_paths=[target])) is None


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/v1/models"),
        ("GET", "/version"),
        ("GET", "/health"),
        ("GET", "/metrics"),
        ("GET", "/v1/nope"),
        ("GET", "/v1/models?x=1"),
        ("POST", "/tokenize"),
        ("POST", "/v1/messages/count_tokens"),
        ("POST", "/ping"),
        ("HEAD", "/sleep"),
        ("OPTIONS", "*"),
        ("OPTIONS", "/v1/responses"),
    ],
)
def test_plain_paths_and_unknown_reads_pass(method: str, target: str) -> None:
    assert decide(classify(method, target), Settings()) is None


def test_a_refusal_says_whether_path_or_method_is_meant() -> None:
    for method, target, part in (
        ("POST", "/v1/systemone", "judge /v1/systemone,"),
        ("POST", "/version", "judge this method on /version,"),
        ("PUT", CHAT, f"judge this method on {CHAT},"),
        ("GET", "/v1/realtime", "judge /v1/realtime,"),
        ("POST", "/made-up", "judge this path,"),
    ):
        refusal = decide(classify(method, target), Settings())
        assert refusal is not None
        assert part in refusal.message


def test_a_refusal_never_repeats_what_the_client_wrote() -> None:
    refusal = decide(classify("POST", "/<script>alert(1)</script>"), Settings())
    assert refusal is not None
    assert "script" not in refusal.message


@given(st.lists(st.sampled_from(["/", "//", "/./", "/x/../", "%2f", "\\", "/;p/"]), min_size=2, max_size=2))
def test_no_mix_of_separators_makes_the_judged_path_anything_but_judged_or_misspelt(parts: list[str]) -> None:
    target = f"/v1{parts[0]}chat{parts[1]}completions"
    klass = classify("POST", target).klass
    assert klass is (EndpointClass.JUDGED if target == CHAT else EndpointClass.MISSPELT)


@given(st.text(max_size=60), st.sampled_from(["GET", "POST", "OPTIONS", "PUT"]))
def test_any_text_is_classified_and_only_the_exact_path_is_judged(text: str, method: str) -> None:
    endpoint = classify(method, text)
    assert (endpoint.klass is EndpointClass.JUDGED) == (method == "POST" and text.partition("?")[0] == CHAT)


@given(st.text(max_size=60))
def test_the_forgiving_reading_is_stable_and_has_no_dots_or_blanks(text: str) -> None:
    reduced = forgiving(text)
    assert reduced.startswith("/")
    assert "//" not in reduced
    assert not {".", ".."} & set(reduced.split("/"))


def test_a_path_without_end_is_refused() -> None:
    for target in ("/./" * 50_000 + CHAT, "/%2e" * 50_000):
        refusal = decide(classify("GET", target), Settings(unjudged="allow"))
        assert refusal is not None
        assert refusal.status == 400


def test_the_page_about_the_contract_names_every_judged_path_and_every_token_maker() -> None:
    page = Path(__file__).parents[2] / "docs" / "contract.md"
    rows = [line.split("|")[1:3] for line in page.read_text("utf-8").splitlines() if line.count("|") == 4]
    for name, methods in TABLE.items():
        for klass in set(methods.values()) & {EndpointClass.JUDGED, EndpointClass.UNJUDGED}:
            assert any(re.search(rf"[` ]{re.escape(name)}`", paths) and klass in said for paths, said in rows), name


def test_every_row_of_the_table_names_itself() -> None:
    for name in TABLE:
        assert name.startswith("/")
        assert forgiving(name) == name
        assert classify("OPTIONS", name).name in (name, UNKNOWN)
