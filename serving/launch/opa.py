"""An OPA server for the ``opa`` engine, as Interlock launches it: it answers questions and takes no orders.

It loads two bundles: the policies, and one that this file writes with ``system.authz``, the policy that OPA asks
about every request to itself. That allows decisions and health to whoever has the token, and nothing to anybody
else; nobody, the token's holder included, may change a policy or data. The token is random per launch; only its
SHA-256 is on disk. OPA reports no usage and does not watch for files: another bundle means another launch. It logs no
decisions unless the settings want it; then the bundle with ``system.authz`` has the mask for the log as well, so that
there is no question that the one lets by before the other is there.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from pathlib import Path

from serving.launch import decision_log
from serving.launch.commands import LaunchError, find_command
from serving.launch.process import Child, ChildSpec, Watch, free_loopback_port, http_probe
from serving.settings import PolicySettings

_AUTHZ = """\
package system.authz

default allow := false

known if crypto.sha256(input.identity) == "{digest}"

allow if {{
	known
	input.method == "POST"
	array.slice(input.path, 0, 2) == ["v1", "data"]
}}

allow if {{
	known
	input.method == "GET"
	input.path == ["health"]
}}
"""


def write_authz(folder: Path, token: str) -> Path:
    """The authorization bundle for ``token``, below ``folder``. Returns the bundle's own folder."""
    bundle = folder / "authz"
    bundle.mkdir(mode=0o700, parents=True, exist_ok=True)
    digest = hashlib.sha256(token.encode()).hexdigest()
    _write(bundle / ".manifest", json.dumps({"roots": ["system/authz", decision_log.ROOT]}))
    _write(bundle / "authz.rego", _AUTHZ.format(digest=digest))
    _write(bundle / decision_log.MASK.name, decision_log.MASK.read_text(encoding="utf-8"))
    return bundle


def opa_spec(
    command: str, bundles: tuple[Path, ...], port: int, log: Path, *, log_decisions: bool = False
) -> ChildSpec:
    """The process. ``bundles`` are folders; the authorization bundle must be among them."""
    argv = [command, "run", "--server", "--addr", f"127.0.0.1:{port}"]
    argv += ["--authentication", "token", "--authorization", "basic"]
    argv += ["--log-level", "error", "--log-format", "json", "--skip-version-check"]
    for setting in decision_log.LOG_DECISIONS if log_decisions else ("decision_logs.console=false",):
        argv += ["--set", setting]
    argv += ["--set", "status.console=false"]
    for bundle in bundles:
        argv += ["--bundle", str(bundle)]
    return ChildSpec("OPA", tuple(argv), log=log)


class OpaServer:
    """A launched OPA that serves the bundle folder ``bundle``. ``url`` and ``token`` are what a client needs;
    both outlive restarts. ``folder`` is where its authorization lies, its own while another one runs.
    Its log is ``<state_dir>/logs/opa.log``. Raises ``LaunchError`` without a command."""

    def __init__(self, policies: PolicySettings, bundle: Path, state_dir: Path, folder: Path | None = None) -> None:
        command = find_command(policies.opa, "opa")
        if command is None:
            raise LaunchError(
                "the `opa` command is not there; install OPA 1.x, or set `policies.opa` to its path, or use "
                "`policies.engine: embedded`"
            )
        port = free_loopback_port()
        self.url = f"http://127.0.0.1:{port}"
        self.token = secrets.token_urlsafe(32)
        authz = write_authz(folder or state_dir / "opa", self.token)
        log = state_dir / "logs" / "opa.log"
        spec = opa_spec(command, (bundle, authz), port, log, log_decisions=policies.decision_log)
        probe = http_probe(self.url + "/health?bundles", headers={"Authorization": f"Bearer {self.token}"})
        self.child = Child(spec, probe=probe, watch=Watch(ready=30.0))

    async def start(self) -> None:
        """Run it and wait until its bundles are active. Raises ``ChildFailed``."""
        self.child.start()
        await self.child.wait_ready()

    async def stop(self) -> None:
        await self.child.stop()


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
