"""Which of vLLM's endpoints are judged, passed, refused (the table of contract C7), and how a path is read.

How to think about it. Four classes: *judged* (parsed, asked about, gated), *plain* (passes, makes no tokens),
*unjudged* (makes tokens that nobody looks at: refused unless the settings allow it) and *control* (steers the
server: refused unless listed). A path that the table does not know passes with GET, HEAD and OPTIONS, and
counts as unjudged with any other method: a new token maker must not be a way round.

A path is matched as uvicorn and Starlette match it: the target up to ``?`` or ``#``, percent-decoded once,
dots, doubled slashes and case left alone. That alone would leave other names for the judged path: seen to
reach vLLM's chat handler are ``/v1/chat%2Fcompletions``, a trailing ``%0A`` (Starlette's patterns end in
``$``), ``#fragment`` and the absolute form ``http://host/v1/chat/completions``; and a web server between us
and vLLM may fold slashes, dots or case. So a path is also reduced to the most forgiving reading that anyone
might have of it, and if *that* names a judged or control endpoint while the bytes are not its plain spelling,
the request is refused, whatever the settings allow.

The table is read from vLLM 0.32.0 (``vllm/entrypoints/**/api_router.py``), with the routes that depend on the
model's task, on ``VLLM_SERVER_DEV_MODE`` and on flags.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum
from urllib.parse import unquote

import msgspec

from serving.settings import Settings


class EndpointClass(StrEnum):
    """What is done with a request. ``MISSPELT``: another spelling of a judged or control path."""

    JUDGED = "judged"
    PLAIN = "plain"
    UNJUDGED = "unjudged"
    CONTROL = "control"
    MISSPELT = "misspelt"


class Endpoint(msgspec.Struct, frozen=True):
    """``name`` is the table's pattern (``/v1/responses/{id}``), or ``unknown``. ``path`` is the forgiving
    reading of the path, which settings by path are compared with."""

    klass: EndpointClass
    name: str
    path: str


class Refusal(msgspec.Struct, frozen=True):
    """Why a request is not forwarded: HTTP status, stable code, and a sentence with the remedy."""

    status: int
    code: str
    message: str


UNKNOWN = "unknown"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
MAX_PATH = 64 * 1024
"""Characters; a longer path is refused, so that reading it cannot take long."""

_JUDGED = (
    "/v1/chat/completions",
    "/v1/chat/completions/batch",
    "/v1/completions",
    "/v1/messages",
    "/v1/responses",
    "/v1/responses/{id}/cancel",
    "/invocations",
)

_JUDGED_GET = ("/v1/responses/{id}",)

_UNJUDGED = (
    "/v1/systemone",
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
    "/cohere/v2/chat",
    "/generative_scoring",
    "/inference/v1/generate",
    "/pooling",
)

_UNJUDGED_GET = ("/v1/realtime",)

_PLAIN_POST = (
    "/classify",
    "/cohere/v2/chat/render",
    "/detokenize",
    "/is_scaling_elastic_ep",
    "/ping",
    "/rerank",
    "/score",
    "/tokenize",
    "/v1/chat/completions/derender",
    "/v1/chat/completions/render",
    "/v1/completions/derender",
    "/v1/completions/render",
    "/v1/embeddings",
    "/v1/messages/count_tokens",
    "/v1/messages/render",
    "/v1/rerank",
    "/v1/responses/render",
    "/v1/score",
    "/v2/embed",
    "/v2/rerank",
)

_PLAIN_GET = (
    "/docs",
    "/docs/oauth2-redirect",
    "/fault_tolerance/status",
    "/get_world_size",
    "/health",
    "/is_paused",
    "/is_sleeping",
    "/kv_event_sources",
    "/load",
    "/metrics",
    "/openapi.json",
    "/ping",
    "/redoc",
    "/tokenizer_info",
    "/v1/models",
    "/version",
    "/weight_info",
)

_CONTROL_POST = (
    "/abort_requests",
    "/adapters",
    "/collective_rpc",
    "/fault_tolerance/apply",
    "/finish_weight_update",
    "/inference/v1/abort_requests",
    "/init_weight_transfer_engine",
    "/pause",
    "/release_kv_cache_memory",
    "/reset_encoder_cache",
    "/reset_mm_cache",
    "/reset_prefix_cache",
    "/resume",
    "/scale_elastic_ep",
    "/shutdown_weight_transfer_engine",
    "/sleep",
    "/start_draft_weight_update",
    "/start_profile",
    "/start_weight_update",
    "/stop_profile",
    "/update_weight_version",
    "/update_weights",
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/wake_up",
    "/weight_checker",
)


def _table() -> dict[str, dict[str, EndpointClass]]:
    rows: list[tuple[str, Iterable[str], EndpointClass]] = [
        ("POST", _JUDGED, EndpointClass.JUDGED),
        ("GET", _JUDGED_GET, EndpointClass.JUDGED),
        ("POST", _UNJUDGED, EndpointClass.UNJUDGED),
        ("GET", _UNJUDGED_GET, EndpointClass.UNJUDGED),
        ("POST", _PLAIN_POST, EndpointClass.PLAIN),
        ("GET", _PLAIN_GET, EndpointClass.PLAIN),
        ("POST", _CONTROL_POST, EndpointClass.CONTROL),
        ("DELETE", ("/adapters/{id}",), EndpointClass.CONTROL),
        ("GET", ("/server_info",), EndpointClass.CONTROL),
    ]
    table: dict[str, dict[str, EndpointClass]] = {}
    for method, paths, klass in rows:
        for path in paths:
            table.setdefault(path, {})[method] = klass
    return table


TABLE = _table()
"""Path pattern → method → class. Patterns may hold ``{id}``: one segment of any text."""

_PATTERNS = [(re.compile(re.escape(name).replace(r"\{id\}", "[^/]+")), name) for name in TABLE if "{id}" in name]


def classify(method: str, target: str, upgrade: bool = False) -> Endpoint:
    """The endpoint that a request means. ``target`` is the request target as it stood on the wire, with its
    query; ``upgrade``: the client asks for a WebSocket (other upgrades are hop-by-hop and die here)."""
    path = target.partition("?")[0]
    if not upgrade and path in TABLE:
        return Endpoint(_class_of(path, method), path, path)
    return _classify_odd(method, path, upgrade)


def _classify_odd(method: str, path: str, upgrade: bool) -> Endpoint:
    if len(path) > MAX_PATH:
        return Endpoint(EndpointClass.MISSPELT, UNKNOWN, "/")
    reduced = forgiving(path)
    name = _name_of(reduced)
    klass = _class_of(name, method)
    if not path.startswith("/") and not (path == "*" and method == "OPTIONS"):
        return Endpoint(EndpointClass.MISSPELT, name, reduced)
    if klass in (EndpointClass.JUDGED, EndpointClass.CONTROL):
        plain = not upgrade and _name_of(path) == name and not _DECORATION.search(path)
        return Endpoint(klass if plain else EndpointClass.MISSPELT, name, reduced)
    if upgrade or (path != reduced and method not in SAFE_METHODS):
        return Endpoint(EndpointClass.UNJUDGED, name, reduced)
    return Endpoint(klass, name, reduced)


_DECORATION = re.compile(r"[%;#\\]|[^\x21-\x7e]")
_LEADING_AUTHORITY = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#]*", re.IGNORECASE)


def forgiving(path: str) -> str:
    """The reading of ``path`` by the most forgiving server: decoded until nothing is left to decode,
    backslashes and doubled slashes as one slash, dot segments resolved, path parameters, outer blanks, control
    characters, case and a trailing slash dropped."""
    text = _LEADING_AUTHORITY.sub("", path, count=1)
    for _ in range(8):
        decoded = unquote(text)
        if decoded == text:
            break
        text = decoded
    text = re.split("[?#]", text, maxsplit=1)[0].replace("\\", "/")
    segments: list[str] = []
    for part in text.split("/"):
        segment = "".join(c for c in part.partition(";")[0] if c.isprintable()).strip()
        if segment == "..":
            del segments[-1:]
        elif segment not in ("", "."):
            segments.append(segment.casefold())
    return "/" + "/".join(segments)


def _name_of(path: str) -> str:
    if path in TABLE:
        return path
    return next((name for pattern, name in _PATTERNS if pattern.fullmatch(path)), UNKNOWN)


def _class_of(name: str, method: str) -> EndpointClass:
    """A method that the path does not have is answered by vLLM (405) if it is safe; else the path's own
    strictness holds."""
    methods = TABLE.get(name, {})
    if method in methods:
        return methods[method]
    if method in SAFE_METHODS:
        return EndpointClass.PLAIN
    if EndpointClass.CONTROL in methods.values():
        return EndpointClass.CONTROL
    return EndpointClass.UNJUDGED


def decide(endpoint: Endpoint, settings: Settings) -> Refusal | None:
    """None to forward (or, for a judged endpoint, to judge); else the refusal."""
    if endpoint.klass is EndpointClass.JUDGED:
        return None
    match endpoint.klass:
        case EndpointClass.JUDGED | EndpointClass.PLAIN:
            return None
        case EndpointClass.MISSPELT:
            return _misspelt(endpoint)
        case EndpointClass.UNJUDGED:
            if _unjudged_setting(endpoint, settings) == "allow":
                return None
            return Refusal(
                403,
                "unjudged_endpoint",
                f"Interlock does not judge {_unjudged(endpoint)}, which may make tokens, and refuses what it does "
                "not judge. Use POST /v1/chat/completions, /v1/responses or /v1/messages; or set `unjudged: allow` "
                "(INTERLOCK_UNJUDGED=allow), or `unjudged_paths` for this path alone.",
            )
        case EndpointClass.CONTROL:
            listed = {forgiving(path) for path in settings.control_paths}
            if endpoint.path in listed or endpoint.name in settings.control_paths:
                return None
            return Refusal(
                403,
                "control_endpoint",
                f"{_shown(endpoint)} controls the model server and is refused on the data port. Ask the "
                "operator to call it directly, or to list it in `control_paths`.",
            )


def _misspelt(endpoint: Endpoint) -> Refusal:
    if endpoint.name == UNKNOWN:
        message = f"The request target must be a path that begins with `/`, of at most {MAX_PATH} characters."
    else:
        message = f"This is another spelling of {endpoint.name}. Send exactly that path, over plain HTTP."
    return Refusal(400, "endpoint_spelling", message)


def _unjudged_setting(endpoint: Endpoint, settings: Settings) -> str:
    by_path = {forgiving(path): choice for path, choice in settings.unjudged_paths.items()}
    by_name = settings.unjudged_paths.get(endpoint.name, settings.unjudged)
    return by_path.get(endpoint.path, by_name)


def _unjudged(endpoint: Endpoint) -> str:
    plain = endpoint.name != UNKNOWN and EndpointClass.UNJUDGED not in TABLE[endpoint.name].values()
    return f"this method on {endpoint.name}" if plain else _shown(endpoint)


def _shown(endpoint: Endpoint) -> str:
    """A name for the refusal: never the path as sent, which is the client's text."""
    return "this path" if endpoint.name == UNKNOWN else endpoint.name
