"""Bundles and roll-outs made in a test, and a real OPA server that serves one of them to whoever has the token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from policies.authoring.build import build
from policies.authoring.opa_tool import OpaTool
from policies.authoring.sources import tree_to_build
from policies.bundle import Bundle
from policies.engines.opa import OpaEngine
from policies.model import Mode
from policies.rollout import Rollout, Wanted
from tests.support import servers

TOKEN = "opa-token-of-this-test"

_AUTHZ = f"""\
package system.authz

default allow := false

allow if {{
	input.identity == "{TOKEN}"
	input.method == "POST"
	array.slice(input.path, 0, 2) == ["v1", "data"]
}}

allow if input.path == ["health"]
"""

ALWAYS = """\
package interlock.policies.acme.{name}

tool_call contains {{
	"id": "{name}",
	"severity": "low",
	"action": "{action}",
	"message": "The rule {name} says so.",
	"tags": [],
}} if input.call.name
"""

CONTRADICTS = """\
package interlock.policies.acme.contradicts

answer := 1 if input.call.name

answer := 2 if input.call.arguments

tool_call contains {"id": "x", "severity": "low", "action": "flag", "message": "x", "tags": []} if answer == 1
"""

UNORDERED = """\
package interlock.policies.acme.unordered

path(n) := concat("", ["/list/", format_int(n, 10), "/text"])

spans contains {"path": path(n), "start": n % 3, "end": 9} if some n in numbers.range(0, 40)

whole contains {"path": path(n)} if some n in numbers.range(0, 12)

tool_call contains {
	"id": "masks",
	"severity": "low",
	"action": "redact",
	"message": message,
	"tags": {"OWASP-LLM02:2025", "OWASP-ASI03", "MITRE-ATLAS-AML.T0057", "ours", "theirs"},
	"redactions": spans | whole,
} if {
	input.call.name
	some message in {"This.", "That.", "The other.", "One more.", "And another."}
}
"""
"""Whatever is a set in Rego, and without our order would be in the engine's."""


PLATFORM = """\
modes:
  interlock.shell: enforce
  interlock.paths:
    default: shadow
    teams: {payments: warn}
    agents: {coder: enforce}
exceptions:
  - id: build-cleaning
    policy: interlock.shell
    findings: [destructive_command]
    agents: [release-bot]
    when: {tools: [bash], arguments: {/command: [rm -rf ./build]}}
    reason: The release job empties its own build folder.
    owner: lena@example.com
    approver: omar@example.com
    expires: 2027-01-31
"""


def modes_of(bundle: Bundle, modes: Mapping[str, Wanted] | None = None) -> dict[str, Mode]:
    """The modes in force for everybody where the settings say ``modes``."""
    return Rollout.of_modes(modes or {}).modes([entry.name for entry in bundle.policies], "anybody", None)


def write_policies(root: Path, files: Mapping[str, str]) -> Path:
    """Lay files out below ``root``: path → text."""
    for name, text in files.items():
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, "utf-8")
    return root


def written(folder: Path, platform: str = PLATFORM, **teams: str) -> Path:
    """A roll-out's documents below ``folder``: the platform's, and one for each team that is named."""
    (folder / "teams").mkdir(parents=True, exist_ok=True)
    (folder / "platform.yaml").write_text(platform)
    for team, text in teams.items():
        (folder / "teams" / f"{team}.yaml").write_text(text)
    return folder


def built(opa_binary: Path, root: Path, files: Mapping[str, str], with_library: bool = False) -> Bundle:
    """A bundle of these policies (path → text)."""
    tree = tree_to_build(write_policies(root, files), with_library=with_library)
    return build(tree, OpaTool(opa_binary))


@contextmanager
def opa_server(opa_binary: Path, folder: Path, bundle: Bundle, port: int | None = None) -> Iterator[str]:
    """An OPA server with this bundle; gives its URL. It answers to ``TOKEN`` only."""
    bundle.write(folder / "bundle")
    write_policies(folder / "authz", {"authz.rego": _AUTHZ, ".manifest": '{"roots": ["system/authz"]}'})
    arguments: list[str | Path] = ["--authentication", "token", "--authorization", "basic"]
    arguments += ["--bundle", folder / "bundle", "--bundle", folder / "authz"]
    with servers.opa(opa_binary, folder, *arguments, port=port) as server:
        yield server.url


def opa_engine(bundle: Bundle, url: str, token: str | None = TOKEN, seconds: float = 20.0) -> OpaEngine:
    return OpaEngine(bundle, url, token, seconds)
