"""All settings, as one pydantic model with a published JSON Schema.

Settings come from one YAML file and from ``INTERLOCK_*`` variables (nested names joined by two underscores:
``INTERLOCK_LIMITS__REQUEST_BYTES``); a variable wins over the file, a command-line flag over both. Every
default is what a first user on a laptop needs: nothing is injected into requests, and the starter policies
are in force.

Reading the file, and errors that name key, line and remedy, are in ``serving.config_file``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

PositiveSeconds = Annotated[float, Field(gt=0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AgentSettings(_Section):
    """One agent: who may speak for it, and what it may spend.

    ``keys`` are the API keys (``Authorization: Bearer``) that stand for it; they are Interlock's own, never
    sent to the model server. Budgets that are null do not bind.
    """

    keys: list[SecretStr] = []
    owner: str | None = None
    team: str | None = None
    tools: list[str] | None = Field(default=None, description="Tools it may call; null: any tool.")
    run_tokens: Annotated[int, Field(gt=0)] | None = None
    run_usd: Annotated[float, Field(gt=0)] | None = None
    tokens: Annotated[int, Field(gt=0)] | None = Field(default=None, description="Per `window_seconds`.")
    usd: Annotated[float, Field(gt=0)] | None = Field(default=None, description="Per `window_seconds`.")
    capture: Literal["full", "redacted", "hashes", "none"] | None = None


class UpstreamSettings(_Section):
    """The model server. ``api_key`` replaces the caller's credential on the way to it."""

    url: str = "http://127.0.0.1:8000"
    api_key: SecretStr | None = None
    connect_seconds: PositiveSeconds = 10.0
    total_seconds: PositiveSeconds | None = None
    keepalive_seconds: PositiveSeconds = 3.0


class ListenSettings(_Section):
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    admin_host: str = "127.0.0.1"
    admin_port: Annotated[int, Field(ge=0, le=65535)] = 8081
    admin_token: SecretStr | None = None
    insecure_open: bool = False
    drain_seconds: Annotated[float, Field(ge=0)] = 30.0


class LimitSettings(_Section):
    """Sizes in bytes. None is below what vLLM itself takes."""

    request_bytes: Annotated[int, Field(gt=0)] = 64 * 1024 * 1024
    answer_bytes: Annotated[int, Field(gt=0)] = 64 * 1024 * 1024
    held_bytes: Annotated[int, Field(gt=0)] = 1024 * 1024
    header_bytes: Annotated[int, Field(gt=0)] = 4 * 1024 * 1024
    header_count: Annotated[int, Field(gt=0)] = 256
    json_depth: Annotated[int, Field(gt=0)] = 64


class PolicySettings(_Section):
    """Which bundle, which engine, and each policy's mode (``owner.name`` → mode).

    ``data`` is merged over the bundle's own data for one policy: ``{"interlock.paths": {"workspace": …}}``.
    """

    engine: Literal["embedded", "opa"] = "embedded"
    bundle: Path | None = Field(default=None, description="A bundle folder; null: the shipped library.")
    opa_url: str | None = None
    opa_token: SecretStr | None = None
    timeout_seconds: PositiveSeconds = 0.5
    modes: dict[str, Literal["enforce", "warn", "shadow", "off"]] = {}
    data: dict[str, dict[str, Any]] = {}
    on_error: Literal["deny", "allow"] = "deny"
    refusal: Literal["text", "content_filter", "error"] = "text"


class NemoSettings(_Section):
    """A NeMo Guardrails server: given by URL, or launched and watched by Interlock."""

    url: str | None = None
    launch: bool = False
    python: Path | None = Field(default=None, description="Interpreter that has nemoguardrails[server].")
    config_id: str = "interlock"


class CheckSettings(_Section):
    nemo: NemoSettings = NemoSettings()
    timeout_seconds: PositiveSeconds = 5.0
    queue: Annotated[int, Field(gt=0)] = 256
    concurrency: Annotated[int, Field(gt=0)] = 4
    max_text_bytes: Annotated[int, Field(gt=0)] = 32 * 1024


class OtlpSettings(_Section):
    """OTLP/HTTP: ``endpoint`` is the whole traces URL (``…/v1/traces``)."""

    endpoint: str
    headers: dict[str, SecretStr] = {}


class MlflowSettings(_Section):
    url: str
    experiment: str = "interlock"
    token: SecretStr | None = None


class TracingSettings(_Section):
    capture: Literal["full", "redacted", "hashes", "none"] = "redacted"
    capture_bytes: Annotated[int, Field(gt=0)] = 64 * 1024
    otlp: list[OtlpSettings] = []
    mlflow: MlflowSettings | None = None
    prices: Path | None = Field(default=None, description="Price book (YAML); null: the shipped one.")
    fsync: bool = True
    segment_bytes: Annotated[int, Field(gt=0)] = 64 * 1024 * 1024


class WebhookSettings(_Section):
    """Alerts are POSTed as JSON, signed ``X-Interlock-Signature: sha256=HMAC(secret, body)``."""

    url: str
    secret: SecretStr


class AlertSettings(_Section):
    webhooks: list[WebhookSettings] = []


class BreakerSettings(_Section):
    """Loop grades are counts of *repeats* (same call, same result, nothing new in between)."""

    repeat_alert: Annotated[int, Field(gt=0)] = 2
    repeat_trip: Annotated[int, Field(gt=0)] = 3
    slow_seconds: Annotated[float, Field(ge=0)] = 1.0
    open_seconds: PositiveSeconds = 600.0
    window_seconds: PositiveSeconds = 3600.0
    run_tokens: Annotated[int, Field(gt=0)] | None = None
    run_usd: Annotated[float, Field(gt=0)] | None = None
    runs_kept: Annotated[int, Field(gt=0)] = 100_000


class ModelSettings(_Section):
    """vLLM as Interlock launches it (``interlock serve --model NAME``)."""

    name: str | None = None
    vllm: Path | None = Field(default=None, description="The `vllm` command; null: the one on PATH.")
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    tool_parser: str | None = None
    reasoning_parser: str | None = None
    args: list[str] = []
    ready_seconds: PositiveSeconds = 900.0


class Settings(BaseSettings):
    """The whole file. Unknown keys are errors: a misspelt guard must not be silently off."""

    model_config = SettingsConfigDict(
        env_prefix="INTERLOCK_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    upstream: UpstreamSettings = UpstreamSettings()
    listen: ListenSettings = ListenSettings()
    limits: LimitSettings = LimitSettings()
    state_dir: Path = Path("~/.local/state/interlock")
    unjudged: Literal["refuse", "allow"] = "refuse"
    unjudged_paths: dict[str, Literal["refuse", "allow"]] = {}
    control_paths: list[str] = Field(default=[], description="Control paths that the data port lets by.")
    agents: dict[str, AgentSettings] = {}
    policies: PolicySettings = PolicySettings()
    tool_trust: dict[str, Literal["trusted", "internal", "untrusted"]] = {}
    checks: CheckSettings = CheckSettings()
    tracing: TracingSettings = TracingSettings()
    alerts: AlertSettings = AlertSettings()
    breakers: BreakerSettings = BreakerSettings()
    model: ModelSettings = ModelSettings()
