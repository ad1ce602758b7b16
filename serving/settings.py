"""All settings, as one pydantic model with a published JSON Schema.

How to think about it. Three places say what holds: a YAML file, ``INTERLOCK_*`` variables (nested names joined
by two underscores: ``INTERLOCK_LIMITS__REQUEST_BYTES``), and command-line flags; a variable wins over the file,
a flag over both. ``Settings()`` itself reads none of them: it is plain data, and every default is what a first
user on a laptop needs (nothing is injected into requests, and the starter policies are in force). Reading the
three places, with errors that name key, line and remedy, is ``serving.config_file.load``; rules that tie
several keys together are there too.

Unknown keys are errors: a misspelt guard must not be silently off.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, StringConstraints
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict


def _http_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an http:// or https:// URL")
    if parts.username or parts.password:
        raise ValueError("must not hold a user name or password; there is a setting for the credential")
    if parts.query or parts.fragment:
        raise ValueError("must not have a query or fragment")
    return url


PositiveSeconds = Annotated[float, Field(gt=0)]
PositiveInt = Annotated[int, Field(gt=0)]
PositiveUsd = Annotated[float, Field(gt=0)]
Port = Annotated[int, Field(ge=0, le=65535)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
UserPath = Annotated[Path, AfterValidator(lambda path: path.expanduser())]
Secret = Annotated[SecretStr, Field(min_length=1)]
AgentName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
RequestPath = Annotated[str, StringConstraints(pattern=r"^/")]
Capture = Literal["full", "redacted", "hashes", "none"]
Mode = Literal["enforce", "warn", "shadow", "off"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class AgentSettings(_Section):
    """One agent: who may speak for it, and what it may spend. Budgets that are null do not bind."""

    keys: list[Secret] = []
    """API keys (`Authorization: Bearer`, or `x-api-key`) that stand for it. They are Interlock's own and are never
    sent to the model server. As soon as any agent has a key, every request needs one."""
    owner: str | None = None
    """Who answers for it; given to policies and alerts."""
    team: str | None = None
    """Given to policies."""
    tools: list[str] | None = None
    """Tools it may call, for the tool-list policy; null: any tool."""
    run_tokens: PositiveInt | None = None
    """Tokens of one run; null: `breakers.run_tokens`."""
    run_usd: PositiveUsd | None = None
    """Cost of one run in USD; null: `breakers.run_usd`."""
    tokens: PositiveInt | None = None
    """Tokens of all its runs per `breakers.window_seconds`."""
    usd: PositiveUsd | None = None
    """Cost of all its runs in USD per `breakers.window_seconds`."""
    capture: Capture | None = None
    """What is recorded of its content; null: `tracing.capture`."""


class UpstreamSettings(_Section):
    """The model server. Where Interlock launches it (`model.name`), URL and key are Interlock's own choice."""

    url: HttpUrl = "http://127.0.0.1:8000"
    """Base URL without `/v1`."""
    api_key: Secret | None = None
    """Replaces the caller's credential on the way to the model server."""
    connect_seconds: PositiveSeconds = 10.0
    """How long connecting may take."""
    total_seconds: PositiveSeconds | None = None
    """How long a whole exchange may take; null: as long as the model server takes."""
    keepalive_seconds: PositiveSeconds = 3.0
    """How long an idle connection is kept. Stay below the server's own limit (vLLM: 5 s): a request sent into
    a closing connection is lost."""


class ListenSettings(_Section):
    """The two listeners: agents speak to the first, operators to the second."""

    host: str = "127.0.0.1"
    """Address of the data port. Beyond loopback needs agents with keys, or `insecure_open`."""
    port: Port = 8080
    """The data port; 0: any free one."""
    admin_host: str = "127.0.0.1"
    """Address of the admin port. Beyond loopback needs `admin_token`, or `insecure_open`."""
    admin_port: Port = 8081
    """The admin port: `/healthz`, `/readyz`, `/metrics`, and with a token the operators' API."""
    admin_token: Secret | None = None
    """Operators' bearer token; null: the admin port serves health and metrics only."""
    insecure_open: bool = False
    """Bind beyond loopback without authentication. Whoever reaches the port may use the model."""
    drain_seconds: Annotated[float, Field(ge=0)] = 30.0
    """How long open exchanges may go on after SIGTERM."""


class LimitSettings(_Section):
    """Sizes in bytes. No default is below what vLLM itself takes."""

    request_bytes: PositiveInt = 64 * 1024 * 1024
    """A request body; larger: 413."""
    answer_bytes: PositiveInt = 64 * 1024 * 1024
    """An answer that is not streamed and must be judged as a whole."""
    held_bytes: PositiveInt = 1024 * 1024
    """What one choice of a stream may hold back for its judge; beyond: denied."""
    kept_answers_bytes: PositiveInt = 32 * 1024 * 1024
    """Answers that the model server may keep, remembered so that a `previous_response_id` can be judged."""
    header_bytes: PositiveInt = 4 * 1024 * 1024
    """One header line, and the request line."""
    header_count: PositiveInt = 256
    """Header lines of one request."""
    json_depth: PositiveInt = 64
    """Nesting of a request body or of tool-call arguments."""


class FailOpenSettings(_Section):
    """How much may pass unjudged while the engine is away, with `on_error: allow`. Counted per agent and policy.
    Nothing passes of a policy whose severity is high, critical or not said, nor what an input made fail."""

    share: Annotated[float, Field(gt=0, le=1)] = 0.02
    """Of the decisions in the window, this part at most."""
    window_seconds: PositiveSeconds = 300.0
    """The rolling window."""
    least: PositiveInt = 200
    """As long as there are fewer decisions in the window, nothing passes."""


class ApprovalSettings(_Section):
    """Tool calls and requests that a policy wants a person to approve. They wait until an operator answers on the admin
    port."""

    seconds: Annotated[float, Field(ge=0, le=3600)] = 0.0
    """How long each waits; 0: it is refused at once."""
    otherwise: Literal["deny", "allow"] = "deny"
    """What holds when nobody has answered by then."""
    most: PositiveInt = 100
    """What may wait at once, in each worker; beyond, it is refused."""
    alive_seconds: PositiveSeconds = 10.0
    """How often a stream that waits is kept alive with what its API allows (a comment, a ping)."""


class PolicySettings(_Section):
    """Which bundle, which engine, and each policy's mode."""

    engine: Literal["embedded", "opa"] = "embedded"
    """`embedded` evaluates OPA's WebAssembly in process; `opa` asks an OPA server."""
    bundle: UserPath | None = None
    """A bundle made by `interlock policy build`, a folder or `.tar.gz`; null: the shipped library."""
    bundle_url: HttpUrl | None = None
    """Where to fetch the bundle (`.tar.gz`); the last good one stays in the state folder. Needs `bundle_keys`."""
    bundle_token: Secret | None = None
    """Bearer token for `bundle_url`."""
    bundle_keys: list[str] = []
    """Public keys, one of which must have signed the bundle; empty: it need not be signed."""
    older_signed: Literal["refuse", "allow"] = "refuse"
    """What becomes of a signed bundle or roll-out that is older, by its serial, than one that has been in force."""
    reload_seconds: Annotated[float, Field(ge=0)] = 5.0
    """How often to look whether bundle or roll-out have changed; 0: never."""
    old_seconds: PositiveSeconds = 3600.0
    """How long an exchange that runs on is judged by what was in force when it began. After that, or after four further
    changes, what it would have to be judged for is denied."""
    opa: UserPath | None = None
    """The `opa` command; null: the one on PATH."""
    opa_url: HttpUrl | None = None
    """A running OPA server; null with engine `opa`: Interlock launches one."""
    opa_token: Secret | None = None
    """Bearer token for `opa_url`."""
    decision_log: bool = False
    """With engine `opa`: every decision is asked of the server, none answered from memory, so that its log has each.
    One that Interlock launches writes that log, without content, to `logs/opa.log` in the state folder."""
    timeout_seconds: PositiveSeconds = 0.5
    """How long one decision may take, all its policies together."""
    modes: dict[str, Mode] = {}
    """Policy (`owner.name`) → mode. Not listed: destructive shell commands and secrets in arguments
    are enforced, everything else is shadow."""
    data: dict[str, dict[str, Any]] = {}
    """Policy → data, laid over the bundle's own data for it."""
    rollout: UserPath | None = None
    """A folder with the roll-out: `platform.yaml` and `teams/*.yaml`; null: `modes` says it."""
    rollout_keys: dict[str, list[str]] = {}
    """Layer (`platform`, or a team) → public keys, one of which must have signed that layer's document; empty: nothing
    needs a signature."""
    on_error: Literal["deny", "allow"] = "deny"
    """What holds when the engine does not answer: `allow` lets by what `fail_open` has room for."""
    fail_open: FailOpenSettings = FailOpenSettings()
    approval: ApprovalSettings = ApprovalSettings()
    refusal: Literal["text", "content_filter", "error"] = "text"
    """What takes the place of a denied tool call."""


class ToolSettings(_Section):
    """What a tool is, to policies that ask where a call's values came from. `sinks` names the arguments that decide who
    gets something, where it goes, or what is run."""

    trust: Literal["trusted", "internal", "untrusted"] = "untrusted"
    """`untrusted`: strangers can write into its results (web pages, mail, files of others). `internal`: only people of
    the house can. `trusted`: its results are as good as the user's own words."""
    sinks: dict[str, Literal["recipient", "url", "path", "command", "none"]] = {}
    """Argument name → what it decides. `none` takes away what its name alone would say."""


class NemoSettings(_Section):
    """A NeMo Guardrails server: given by `url`, or launched and watched by Interlock."""

    url: HttpUrl | None = None
    """A running server."""
    token: Secret | None = None
    """Bearer token for `url`."""
    launch: bool = False
    """Launch one with the shipped configuration."""
    python: UserPath | None = None
    """Interpreter that has `nemoguardrails[server]`; null: the one that runs Interlock."""
    config_id: str = "interlock"
    """Which of the server's configurations to ask."""


class LlmSettings(_Section):
    """A model that judges tool results and calls: is an order in them followed that the user never gave?"""

    model: str | None = None
    """The model's name there; null: no model is asked."""
    url: HttpUrl | None = None
    """Base URL, without `/v1`, of a server with vLLM's chat API; null: the traffic's own model server, with its key."""
    key: Secret | None = None
    """Bearer token for `url`."""
    surfaces: list[Literal["tool_result", "tool_call"]] = ["tool_result", "tool_call"]
    """What it is asked about: each new result of a tool, each call that results are in sight of."""
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.5
    """`yes` at least this likely against `no`: the verdict is `blocked`."""
    timeout_seconds: PositiveSeconds = 30.0
    """Deadline of one verdict."""
    concurrency: PositiveInt = 2
    """Questions that are out at once. On the model server of the traffic they take from it."""
    max_text_bytes: PositiveInt = 16 * 1024
    """Tool results in one question; longer ones are asked about in up to eight."""
    prove: bool = True
    """Believe the model only after it has told two poisoned samples from two clean ones."""
    extra: dict[str, Any] = {}
    """Fields laid over each question (`priority`, `reasoning_effort` …); null takes one out."""


class CheckSettings(_Section):
    """Guardrail checks beside the traffic. They never delay it."""

    nemo: NemoSettings = NemoSettings()
    llm: LlmSettings = LlmSettings()
    timeout_seconds: PositiveSeconds = 5.0
    """Deadline of one check; later its verdict is `timeout`."""
    queue: PositiveInt = 256
    """Checks that may wait; beyond, the verdict is `dropped`."""
    concurrency: PositiveInt = 4
    """Checks that run at once."""
    max_text_bytes: PositiveInt = 32 * 1024
    """What one check is given at most."""


class OtlpSettings(_Section):
    """One OTLP/HTTP trace collector."""

    endpoint: HttpUrl
    """The whole traces URL, `…/v1/traces`."""
    headers: dict[str, Secret] = {}
    """Sent with every export."""


class MlflowSettings(_Section):
    """An MLflow tracking server, which takes the same spans over OTLP."""

    url: HttpUrl
    """Its base URL."""
    experiment: str = "interlock"
    """Made if missing."""
    token: Secret | None = None
    """Bearer token."""


class TracingSettings(_Section):
    """What is recorded and where it goes."""

    capture: Capture = "redacted"
    """Content in records: as it is, with secrets and personal data masked, as keyed digests, or not at all."""
    capture_bytes: PositiveInt = 64 * 1024
    """Longest text kept of one field."""
    otlp: list[OtlpSettings] = []
    """Collectors that get the spans."""
    mlflow: MlflowSettings | None = None
    """An MLflow server that gets the spans."""
    prices: UserPath | None = None
    """Price book (YAML); null: the shipped one."""
    fsync: bool = True
    """Records are on disk before a held call or a refusal leaves."""
    segment_bytes: PositiveInt = 64 * 1024 * 1024
    """Size at which a journal segment is closed."""
    wait_seconds: PositiveSeconds = 3.0
    """How long a request waits where the disk is slower than the traffic, before it is refused."""


class WebhookSettings(_Section):
    """Alerts are POSTed as JSON, signed `X-Interlock-Signature: sha256=HMAC(secret, body)`."""

    url: HttpUrl
    """Where to."""
    secret: Secret
    """The signing key."""


class AlertSettings(_Section):
    """Where alerts go besides the log."""

    webhooks: list[WebhookSettings] = []
    """Receivers."""
    coverage_share: Annotated[float, Field(gt=0, le=1)] = 0.05
    """Of the exchanges in the window, more than this part with something unjudged: `coverage_falls`; 1: never."""
    coverage_seconds: PositiveSeconds = 300.0
    """The rolling window; with fewer than 20 exchanges in it nothing is said."""


class BreakerSettings(_Section):
    """Loops and budgets. Grades count *repeats*: same call, same result, nothing new in between."""

    repeat_alert: PositiveInt = 2
    """At this repeat: alert, and slow the run down."""
    repeat_trip: PositiveInt = 3
    """At this repeat: refuse the run's further requests."""
    slow_seconds: Annotated[float, Field(ge=0)] = 1.0
    """Delay of a run that is slowed down."""
    open_seconds: PositiveSeconds = 600.0
    """How long a tripped breaker stays open before one probe is let by."""
    window_seconds: PositiveSeconds = 3600.0
    """Rolling window of the agents' budgets."""
    run_tokens: PositiveInt | None = None
    """Tokens of one run of any agent."""
    run_usd: PositiveUsd | None = None
    """Cost in USD of one run of any agent."""
    runs_kept: PositiveInt = 20_000
    """Runs remembered at once. What is too much is taken from the agent that has most."""
    runs_bytes: PositiveInt = 64 * 1024 * 1024
    """Memory for them, about: a long run takes more."""


class ModelSettings(_Section):
    """vLLM as Interlock launches it (`interlock serve --model NAME`)."""

    name: str | None = None
    """Model name or folder; null: nothing is launched, `upstream.url` is used."""
    vllm: UserPath | None = None
    """The `vllm` command; null: the one on PATH."""
    port: Port = 0
    """Its loopback port; 0: any free one."""
    tool_parser: str | None = None
    """vLLM's `--tool-call-parser`; null: by the model's family."""
    reasoning_parser: str | None = None
    """vLLM's `--reasoning-parser`; null: by the model's family; `none`: no parser."""
    args: list[str] = []
    """Further arguments for `vllm serve`. They come last, so they win."""
    ready_seconds: PositiveSeconds = 900.0
    """How long it may take to load."""


class Settings(BaseSettings):
    """The whole file."""

    model_config = SettingsConfigDict(
        env_prefix="INTERLOCK_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    upstream: UpstreamSettings = UpstreamSettings()
    listen: ListenSettings = ListenSettings()
    limits: LimitSettings = LimitSettings()
    state_dir: UserPath = Field(default=Path("~/.local/state/interlock"), validate_default=True)
    """Everything that Interlock writes is below this folder, which nobody else may read (mode 0700)."""
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """Processes that share the data port. With more than one, a parent process keeps runs, budgets and breakers."""
    unjudged: Literal["refuse", "allow"] = "refuse"
    """Endpoints that make tokens which Interlock does not judge."""
    unjudged_paths: dict[RequestPath, Literal["refuse", "allow"]] = {}
    """The same, path by path."""
    control_paths: list[RequestPath] = []
    """Paths that control the model server (LoRA loading, sleep, weights, …) which the data port lets by."""
    agents: dict[AgentName, AgentSettings] = {}
    """By name. With no keys anywhere every caller is `anonymous`, whose budgets may be set here too."""
    policies: PolicySettings = PolicySettings()
    tools: dict[str, ToolSettings] = {}
    """Tool name, or a pattern such as `github_*` → what it is. An exact name wins, then the longest pattern; a tool
    that none names is untrusted."""
    checks: CheckSettings = CheckSettings()
    tracing: TracingSettings = TracingSettings()
    alerts: AlertSettings = AlertSettings()
    breakers: BreakerSettings = BreakerSettings()
    model: ModelSettings = ModelSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments alone: the other places are read by ``serving.config_file``, which knows their lines."""
        return (init_settings,)

    @property
    def authenticated(self) -> bool:
        """Every request on the data port needs an API key."""
        return any(agent.keys for agent in self.agents.values())
