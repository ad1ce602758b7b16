"""Stands a whole Interlock with the settings in force before the canary model server, and asks through it.

What the settings say of policies, endpoints, limits and tools holds. Everything else is kept out of it: ports are free
ones of loopback, the record lies in a folder that goes away, nothing is launched but an OPA of our own where the
settings want one, nothing is exported or alerted, and no budget binds.
"""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from pydantic import SecretStr

from policies.model import Mode
from proxy.app import Interlock
from proxy.selftest.canaries import ORDER, Canary, Surface
from proxy.selftest.forms import FORMS, Form
from proxy.selftest.hearing import heard
from proxy.selftest.says import Vocabulary
from proxy.selftest.upstream import CanaryUpstream, canary_upstream
from serving.settings import (
    AgentSettings,
    AlertSettings,
    BreakerSettings,
    CheckSettings,
    ListenSettings,
    ModelSettings,
    PolicySettings,
    Settings,
    TracingSettings,
    UpstreamSettings,
)
from tracing.records import Decided, Opened, Refused
from tracing.segments import read

_SECONDS = 30.0
_APPROVAL_SECONDS = 0.2
_REFUSING = frozenset({"redact", "quarantine", "approve", "deny", "terminate"})


@dataclass(frozen=True)
class Cell:
    """One question of the test."""

    form: Form
    stream: bool
    surface: Surface


@dataclass
class Seen:
    """What came of a cell. ``reached``: so many characters in a row of a canary came through; ``missing``: choices
    whose lawful words did not. ``finders``: policy → its mode, of those that found something to act on;
    ``stopped_by``: the rule that decided, if one did; ``refused``: the code of a refusal before the model was asked."""

    cell: Cell
    trace_id: str
    status: int = 0
    reached: int = 0
    missing: int = 0
    finders: dict[str, str] = field(default_factory=dict)
    stopped_by: str | None = None
    refused: str | None = None


def all_cells() -> list[Cell]:
    """Every API × stream × surface."""
    return [Cell(form, stream, surface) for form in FORMS for stream in form.streams for surface in form.surfaces]


def for_test(settings: Settings, upstream: str, state_dir: Path, agent: str | None) -> tuple[Settings, str | None]:
    """The settings that the test runs with, and the key with which to speak for ``agent``."""
    key = secrets.token_urlsafe(24) if settings.authenticated else None
    unbound = {"tokens": None, "usd": None, "run_tokens": None, "run_usd": None, "capture": None}
    agents: dict[str, AgentSettings] = {}
    for name, one in settings.agents.items():
        keys = [SecretStr(key)] if key is not None and name == agent else []
        agents[name] = one.model_copy(update={**unbound, "keys": keys})
    breakers = settings.breakers
    changed = {
        "upstream": UpstreamSettings(url=upstream),
        "listen": ListenSettings(port=0, admin_port=0, drain_seconds=1.0),
        "state_dir": state_dir,
        "workers": 1,
        "agents": agents,
        "policies": _impatient(settings.policies),
        "checks": CheckSettings(),
        "tracing": TracingSettings(capture="none", fsync=False, prices=settings.tracing.prices),
        "alerts": AlertSettings(),
        "breakers": BreakerSettings(runs_kept=breakers.runs_kept, runs_bytes=breakers.runs_bytes),
        "model": ModelSettings(),
    }
    return settings.model_copy(update=changed), key


def _impatient(policies: PolicySettings) -> PolicySettings:
    """Nobody changes the policies meanwhile, and nobody is there to approve a call."""
    approval = policies.approval
    brief = approval.model_copy(update={"seconds": min(approval.seconds, _APPROVAL_SECONDS)})
    return policies.model_copy(update={"reload_seconds": 0.0, "approval": brief})


def recording_all(settings: Settings, names: Iterable[str]) -> Settings:
    """The same with every policy of the bundle in shadow: what each of them finds is on record."""
    shadow = dict.fromkeys(names, Mode.SHADOW.value)
    changed = {"modes": shadow, "rollout": None, "rollout_keys": {}}
    return settings.model_copy(update={"policies": settings.policies.model_copy(update=changed)})


async def asked(settings: Settings, agent: str | None, model: str, cells: list[Cell], folder: Path) -> list[Seen]:
    """What comes of every cell. Raises what keeps Interlock from starting."""
    async with canary_upstream() as upstream:
        settings, key = for_test(settings, upstream.url, folder, agent)
        interlock = Interlock(settings)
        await interlock.start()
        try:
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            timeout = aiohttp.ClientTimeout(total=_SECONDS)
            async with aiohttp.ClientSession(timeout=timeout, trust_env=False, headers=headers) as session:
                seen = [await _asked(session, interlock.url, upstream, model, cell) for cell in cells]
        finally:
            await interlock.stop()
    _add_record(folder, seen)
    return seen


async def _asked(session: aiohttp.ClientSession, url: str, upstream: CanaryUpstream, model: str, cell: Cell) -> Seen:
    form, surface = cell.form, cell.surface
    canaries = [Canary.new() for _ in range(form.choices)]
    vocabulary = Vocabulary()
    says = [canary.says(surface, calls=form.calls, reasoning=form.reasoning) for canary in canaries]
    upstream.says(form.answer(model, says, vocabulary, stream=cell.stream))
    seen = Seen(cell, secrets.token_hex(16))
    headers = {"traceparent": f"00-{seen.trace_id}-{secrets.token_hex(8)}-00", "content-type": "application/json"}
    body = json.dumps(form.ask(model, surface, canaries, stream=cell.stream)).encode()
    answer = b""
    with contextlib.suppress(aiohttp.ClientPayloadError, TimeoutError):
        async with session.post(url + form.path, data=body, headers=headers) as response:
            seen.status = response.status
            async for piece in response.content.iter_any():  # what came before the answer broke off counts too
                answer += piece
    asked_for = "\n".join(part.decode("utf-8", "replace") for part in upstream.received)
    found = [canary.found_in(asked_for if surface.to_model else heard(answer, vocabulary)) for canary in canaries]
    if surface.canary == ORDER and not any(canary.found_in(asked_for) for canary in canaries):
        found = [0]  # a model that is not shown the order does not follow it
    seen.reached, seen.missing = max(found), found.count(0)
    return seen


def _add_record(folder: Path, seen: list[Seen]) -> None:
    """What the record says of each cell's exchange."""
    by_trace = {one.trace_id: one for one in seen}
    by_exchange: dict[str, Seen] = {}
    for entry in read(folder):
        record = entry.record
        if isinstance(record, Opened) and record.trace_id in by_trace:
            by_exchange[record.exchange] = by_trace[record.trace_id]
        one = by_exchange.get(record.exchange)
        if one is None:
            continue
        if isinstance(record, Decided):
            for finding in record.decision.get("findings", []):
                if finding["finding"]["action"] in _REFUSING:
                    one.finders[finding["policy"]] = finding.get("mode", Mode.ENFORCE.value)
            if record.action in _REFUSING:
                one.stopped_by = one.stopped_by or record.rule
        elif isinstance(record, Refused):
            one.refused = record.code


@contextlib.contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """What the parts log goes to a file."""
    handler = logging.FileHandler(path, encoding="utf-8")
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()
