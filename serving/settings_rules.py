"""Rules that tie several settings together, each with its remedy.

A rule is a function of valid settings that yields what is wrong. They are apart from the model because an error
must point at one key's line, and because the last two places to look (a flag, a variable) are merged by then.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator

import msgspec

from serving.settings import Settings


class Violation(msgspec.Struct, frozen=True):
    """``key`` is the dotted name of the setting to look at first."""

    key: tuple[str, ...]
    message: str
    remedy: str


def violations(settings: Settings) -> list[Violation]:
    """Everything that is wrong; empty if the settings can be served."""
    return [violation for rule in RULES for violation in rule(settings)]


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``. A name other than localhost is not looked up: no."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _open_data_port(settings: Settings) -> Iterator[Violation]:
    listen = settings.listen
    if not (is_loopback(listen.host) or settings.authenticated or listen.insecure_open):
        yield Violation(
            ("listen", "host"),
            f"the data port would be open to everyone who reaches {listen.host}",
            "give an agent a key (`agents: {NAME: {keys: [...]}}`), bind 127.0.0.1, or say --insecure-open",
        )


def _open_admin_port(settings: Settings) -> Iterator[Violation]:
    listen = settings.listen
    if not (is_loopback(listen.admin_host) or listen.admin_token or listen.insecure_open):
        yield Violation(
            ("listen", "admin_host"),
            f"the admin port would be open to everyone who reaches {listen.admin_host}",
            "set `listen.admin_token`, bind 127.0.0.1, or say --insecure-open",
        )


def _somebody_to_approve(settings: Settings) -> Iterator[Violation]:
    if not settings.policies.approval.seconds:
        return
    where = ("policies", "approval", "seconds")
    if settings.listen.admin_token is None:
        yield Violation(where, "nobody could approve: the operators' API is closed", "set `listen.admin_token`")


def _one_port_each(settings: Settings) -> Iterator[Violation]:
    listen = settings.listen
    if listen.port == listen.admin_port != 0:
        yield Violation(
            ("listen", "admin_port"),
            f"both listeners would use port {listen.port}",
            "give the admin port another number; the two never share one",
        )


def _one_agent_per_key(settings: Settings) -> Iterator[Violation]:
    owners: dict[str, str] = {}
    for name, agent in settings.agents.items():
        for key in agent.keys:
            other = owners.setdefault(key.get_secret_value(), name)
            if other != name:
                message = f"a key of `{name}` is also a key of `{other}`"
                yield Violation(("agents", name, "keys"), message, "give each agent keys of its own")


def _one_model_server(settings: Settings) -> Iterator[Violation]:
    if settings.model.name is not None and "url" in settings.upstream.model_fields_set:
        yield Violation(
            ("model", "name"),
            "a model to launch and `upstream.url` are both set",
            "keep one: `model.name` launches vLLM, `upstream.url` uses one that runs",
        )


def _one_nemo(settings: Settings) -> Iterator[Violation]:
    if settings.checks.nemo.launch and settings.checks.nemo.url is not None:
        yield Violation(
            ("checks", "nemo", "launch"),
            "a NeMo server to launch and `checks.nemo.url` are both set",
            "keep one of the two",
        )


def _llm_is_asked(settings: Settings) -> Iterator[Violation]:
    llm = settings.checks.llm
    if llm.model is None and llm.model_fields_set - {"model"}:
        yield Violation(
            ("checks", "llm", "model"),
            "`checks.llm` names no model, so none would be asked",
            "set `checks.llm.model`, or leave `checks.llm` out",
        )
    if llm.key is not None and llm.url is None:
        yield Violation(
            ("checks", "llm", "key"),
            "a key without a server: the model server of the traffic is asked with `upstream.api_key`",
            "set `checks.llm.url`, or leave the key out",
        )


def _opa_is_asked(settings: Settings) -> Iterator[Violation]:
    if settings.policies.opa_url is not None and settings.policies.engine != "opa":
        yield Violation(
            ("policies", "opa_url"),
            "an OPA server is given but `policies.engine` is `embedded`, so it would never be asked",
            "set `policies.engine: opa`, or leave `opa_url` out",
        )


def _grades_rise(settings: Settings) -> Iterator[Violation]:
    breakers = settings.breakers
    if breakers.repeat_trip < breakers.repeat_alert:
        yield Violation(
            ("breakers", "repeat_trip"),
            f"a run would be tripped at repeat {breakers.repeat_trip}, before its alert at {breakers.repeat_alert}",
            "make `repeat_trip` at least `repeat_alert`",
        )


RULES: tuple[Callable[[Settings], Iterator[Violation]], ...] = (
    _somebody_to_approve,
    _open_data_port,
    _open_admin_port,
    _one_port_each,
    _one_agent_per_key,
    _one_model_server,
    _one_nemo,
    _llm_is_asked,
    _opa_is_asked,
    _grades_rise,
)
