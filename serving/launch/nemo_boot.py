"""Runs inside NeMo Guardrails' own interpreter: its server, narrowed to what Interlock asks of it.

This file imports nothing of Interlock. ``nemoguardrails server`` itself is not used, because it listens on
every interface without a credential, offers model calls too, and prints every text it is given. Here:

* it listens on loopback (or the address given), and only ``/healthz`` and, with the token of ``NEMO_BOOT_TOKEN``,
  ``/v1/checks`` answer; everything else is 404;
* the configuration is loaded before the port opens, on the IORails engine or not at all, and its YARA rules
  are compiled once instead of at every check (7 ms each), where a mistake in them ends the process with the
  compiler's words instead of being skipped;
* what it has to say until then goes to its output; after that it is silent, because it would log texts.

Arguments: the folder of configurations, the configuration's id, the port and, for a container, the address.
"""

from __future__ import annotations

import functools
import hmac
import logging
import os
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]


def narrowed(app: App, token: str) -> App:
    """``app`` with two doors, which falls silent when it has started."""
    expected = f"Bearer {token}".encode()

    async def gate(
        scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        if scope["type"] == "lifespan":

            async def send_then_hush(message: Message) -> None:
                await send(message)
                if message["type"] == "lifespan.startup.complete":
                    hush()

            await app(scope, receive, send_then_hush)
            return
        if scope["type"] == "http" and scope["path"] == "/healthz":
            await app(scope, receive, send)
            return
        given = dict(scope.get("headers") or ()).get(b"authorization", b"")
        if scope["type"] == "http" and scope["path"] == "/v1/checks" and hmac.compare_digest(given, expected):
            await app(scope, receive, send)
            return
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})

    return gate


def hush() -> None:
    """No more output, from any thread or library."""
    logging.disable(logging.CRITICAL)
    sys.stdout.flush()
    sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def compile_rules_once(rules: dict[str, str]) -> None:
    """Compile ``rules`` now, and hand out the result whenever the rail asks for the same again."""
    import yara  # type: ignore[import-not-found]

    compile_ = yara.compile

    @functools.lru_cache(maxsize=8)
    def compiled(sources: tuple[tuple[str, str], ...]) -> Any:
        return compile_(sources=dict(sources))

    def cached(**given: Any) -> Any:
        return compiled(tuple(given["sources"].items())) if given.keys() == {"sources"} else compile_(**given)

    yara.compile = cached
    yara.compile(sources=rules)


def main() -> None:
    root, config_id, port = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    host = sys.argv[4] if len(sys.argv) > 4 else "127.0.0.1"
    token = os.environ.pop("NEMO_BOOT_TOKEN")

    import uvicorn  # type: ignore[import-not-found]
    from nemoguardrails import RailsConfig  # type: ignore[import-not-found]
    from nemoguardrails.guardrails.iorails import IORails  # type: ignore[import-not-found]
    from nemoguardrails.server import api  # type: ignore[import-not-found]

    config = RailsConfig.from_path(str(root / config_id))
    if (reason := IORails.unsupported_reason(config)) is not None:
        sys.exit(f"the configuration {config_id} does not fit the IORails engine: {reason}")
    injection = config.rails.config.injection_detection
    if injection is not None and injection.yara_rules:
        compile_rules_once({name: injection.yara_rules[name] for name in injection.injections})

    api.app.rails_config_path = str(root)
    uvicorn.run(narrowed(api.app, token), host=host, port=port, access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
