"""A key stands for an agent, and never reaches the model server."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict
from pydantic import SecretStr

from proxy.identity import Agent, Identifier
from proxy.refusals import Refuse
from serving.settings import AgentSettings, Settings, UpstreamSettings

KEYED = Settings(
    agents={
        "alice": AgentSettings(keys=[SecretStr("key-a"), SecretStr("key-a2")], owner="ann", team="red"),
        "bob": AgentSettings(keys=[SecretStr("key-b")]),
        "carol": AgentSettings(run_tokens=5),
    }
)


def sent(*authorizations: str) -> CIMultiDict[str]:
    headers = CIMultiDict({"Host": "h", "X-Other": "1"})
    for value in authorizations:
        headers.add("Authorization", value)
    return headers


def test_without_keys_everyone_is_anonymous_and_the_credential_passes_untouched() -> None:
    headers = sent("Bearer for-vllm", "Basic twice")
    assert Identifier(Settings()).identify(headers) == Agent("anonymous")
    assert headers == sent("Bearer for-vllm", "Basic twice")


def test_without_keys_the_anonymous_agent_may_have_settings() -> None:
    settings = Settings(agents={"anonymous": AgentSettings(owner="ann", team="red")})
    assert Identifier(settings).identify(sent()) == Agent("anonymous", "ann", "red")


@pytest.mark.parametrize("value", ["Bearer key-a", "bearer key-a2", "BEARER key-a"])
def test_each_key_of_an_agent_stands_for_it_and_is_taken_off(value: str) -> None:
    headers = sent(value)
    assert Identifier(KEYED).identify(headers) == Agent("alice", "ann", "red")
    assert headers == sent()


@pytest.mark.parametrize(
    "values",
    [
        (),
        ("",),
        ("Bearer",),
        ("Bearer ",),
        ("Bearer key-c",),
        ("Bearer  key-a",),
        ("Bearer key-a ",),
        ("Basic key-a",),
        ("key-a",),
        ("Bearer key-\udcff",),
        ("Bearer key-a", "Bearer key-b"),
    ],
)
def test_no_key_an_unknown_one_or_two_are_refused(values: tuple[str, ...]) -> None:
    with pytest.raises(Refuse) as caught:
        Identifier(KEYED).identify(sent(*values))
    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")
    assert "key-a" not in str(caught.value)


def with_keys(authorization: str | None, *keys: str) -> CIMultiDict[str]:
    headers = sent(*([] if authorization is None else [authorization]))
    for key in keys:
        headers.add("X-Api-Key", key)
    return headers


@pytest.mark.parametrize(
    ("authorization", "key"), [(None, "key-a"), ("Bearer key-a", "key-a"), ("Bearer key-a", "key-a2")]
)
def test_a_key_in_anthropic_s_header_stands_for_its_agent_and_is_taken_off(authorization: str, key: str) -> None:
    headers = with_keys(authorization, key)
    assert Identifier(KEYED).identify(headers) == Agent("alice", "ann", "red")
    assert headers == sent()


def test_another_server_s_key_beside_ours_passes() -> None:
    headers = with_keys("Bearer key-a", "for-vllm")
    assert Identifier(KEYED).identify(headers).name == "alice"
    assert headers == with_keys(None, "for-vllm")
    headers = with_keys(None, "for-vllm", "twice")
    assert Identifier(Settings()).identify(headers).name == "anonymous"
    assert headers == with_keys(None, "for-vllm", "twice")


@pytest.mark.parametrize(
    ("authorization", "keys"),
    [
        (None, ["key-c"]),
        (None, ["key-a", "key-a"]),
        ("Bearer key-a", ["key-b"]),
        ("Basic x", ["key-a"]),
        ("", ["key-a"]),
    ],
)
def test_an_unknown_key_or_keys_of_two_agents_are_refused(authorization: str | None, keys: list[str]) -> None:
    with pytest.raises(Refuse) as caught:
        Identifier(KEYED).identify(with_keys(authorization, *keys))
    assert caught.value.status == 401


def test_a_preflight_needs_no_key() -> None:
    assert Identifier(KEYED).identify(sent(), "OPTIONS").name == "anonymous"
    with pytest.raises(Refuse):
        Identifier(KEYED).identify(sent("Bearer wrong"), "OPTIONS")


@pytest.mark.parametrize("agents", [{}, KEYED.agents])
def test_the_upstreams_own_credential_replaces_the_callers(agents: dict[str, AgentSettings]) -> None:
    settings = Settings(agents=agents, upstream=UpstreamSettings(api_key=SecretStr("up")))
    headers = sent("Bearer key-b")
    Identifier(settings).identify(headers)
    assert headers == sent("Bearer up")


def test_an_identifier_holds_no_key_in_clear() -> None:
    identifier = Identifier(KEYED)
    assert "key-a" not in repr(vars(identifier))
