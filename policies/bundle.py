"""The bundle: what one `interlock policy build` makes and what both engines load.

A bundle is a folder (or the same as ``.tar.gz``) that an OPA server takes as it is:

    .manifest            OPA's own: the revision (our digest) and the roots that the bundle owns
    manifest.json        ours: format, digest, the policies with their stages and what each reads
    data.json            what the policies read under `data`, without the packages
    policy.wasm          all entrypoints, compiled by OPA; OPA's server ignores it
    entry.rego           generated: one rule per stage that asks every policy at once
    lib/…, <owner>/<name>/policy.rego     the sources

The digest covers the sources and the data, so two bundles with one digest decide alike. Settings may lay their
own data over a policy's (:meth:`Bundle.with_data`); that gives another digest, and an OPA server must then be
given that bundle (:meth:`Bundle.write`), because its answers carry the digest as their revision.

A signature in the manifest is over all of the manifest, and so over sources, data and module by their digests; whoever
loads the bundle verifies it, whichever engine evaluates it. Where keys are named, the manifest is read and verified
before anything else of a bundle is; an archive has it as its first file. What is read is bounded, signed or not.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from policies.bundle_files import MANIFEST, TooLarge, archive, files_below, read_archive, read_folder
from policies.model import INPUT_VERSION, TEXT_STAGES, Severity, Stage
from policies.serials import Intake, NotYet
from policies.signing import SignatureError, sign, verify

FORMAT = 1
LABEL = "bundle"
ENTRY_PACKAGE = "interlock.entry"
POLICY_PACKAGE = "interlock.policies"
LIBRARY_BUNDLE = Path(__file__).parent / "library.bundle"

HOLD = r"^(none|all|tail\([1-9][0-9]{0,6}\))$"

_OWN_FILES = frozenset({".manifest", MANIFEST, "data.json", "policy.wasm"})


def together(stage: Stage) -> str:
    """The rule that asks every policy of the bundle, dotted, without ``data``."""
    return f"{ENTRY_PACKAGE}.{stage.value}"


def alone(policy: str, stage: Stage) -> str:
    """The rule that asks one policy."""
    return f"{ENTRY_PACKAGE}.{policy.replace('.', '__')}__{stage.value}"


class BundleError(ValueError):
    """A bundle that cannot be used: says which file, what is wrong with it, and what to do."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PolicyEntry(_Part):
    """One policy of the bundle. ``stages`` gives, per stage, the dotted input fields that it reads
    (``call.arguments``), or ``["*"]`` where that cannot be told from its text. ``holds`` gives, per text stage, how
    long the text waits for it; ``patterns`` the pattern sets (``secrets``) and patterns (``pii/email``) that it is
    asked for, all if it names none. ``needs`` are keys of the policy's own data: while all of them are empty it has
    nothing to say and is not asked (:func:`configured`)."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9_]+\.[a-z0-9_]+$")]
    title: str = ""
    description: str = ""
    severity: Severity | None = None
    tags: list[str] = []
    stages: dict[Stage, list[str]]
    holds: dict[Stage, Annotated[str, Field(pattern=HOLD)]] = {}
    patterns: list[Annotated[str, Field(pattern=r"^[a-z0-9_]+(/[a-z0-9_]+)?$")]] = []
    needs: list[Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]] = []

    @model_validator(mode="after")
    def _hold_what_they_read(self) -> Self:
        for stage in self.holds:
            if stage not in TEXT_STAGES or stage not in self.stages:
                raise ValueError(f"hold for {stage.value}: there is no text to hold at that stage of this policy")
        return self


class Manifest(_Part):
    format: int = FORMAT
    digest: str
    input_version: str = INPUT_VERSION
    opa: str = Field(description="Version of the OPA that compiled it.")
    wasm_sha256: str
    policies: list[PolicyEntry]
    signature: str | None = Field(default=None, description="By one of the keys that the settings name.")

    def signed_bytes(self) -> bytes:
        """What a signature is over: all of it, and so sources, data and module by their digests."""
        return self.model_copy(update={"signature": None}).model_dump_json(exclude_none=True).encode()

    def require_signature(self, keys: Sequence[str], where: str, intake: Intake | None = None) -> None:
        """Raises :class:`BundleError` unless one of ``keys`` (public keys) has signed it, and :class:`NotYet`."""
        if self.signature is None:
            raise BundleError(f"{where}: is not signed; build it with `interlock policy build --sign KEY`")
        try:
            signed = verify(keys, LABEL, self.signed_bytes(), self.signature, where)
            if intake is not None:
                intake.take(LABEL, signed, self.signed_bytes(), where)
        except NotYet:
            raise
        except SignatureError as problem:
            raise BundleError(str(problem)) from None


@dataclass(frozen=True)
class Bundle:
    """A bundle in memory. ``sources`` maps each path in the bundle to its text, the generated one too."""

    manifest: Manifest
    sources: Mapping[str, str]
    data: Mapping[str, Any]
    wasm: bytes

    @property
    def digest(self) -> str:
        return self.manifest.digest

    @property
    def policies(self) -> list[PolicyEntry]:
        return self.manifest.policies

    def policy(self, name: str) -> PolicyEntry:
        for entry in self.policies:
            if entry.name == name:
                return entry
        raise BundleError(f"the bundle has no policy {name}; it has: {', '.join(e.name for e in self.policies)}")

    @classmethod
    def load(
        cls, path: Path | None = None, keys: Sequence[str] = (), intake: Intake | None = None, name: str | None = None
    ) -> Bundle:
        """Read a bundle folder or ``.tar.gz``; without a path, the shipped library. With ``keys`` (public keys) one of
        them must have signed it; ``intake`` says whether what is signed may hold now. ``name`` is what errors call it.

        Raises :class:`BundleError` if a part is missing, does not fit the digest, or is not signed, or
        :class:`policies.serials.NotYet`.
        """
        where = path or LIBRARY_BUNDLE
        called = name or str(where)
        if not where.exists():
            beside = "" if where.is_absolute() else f", seen from {Path.cwd()}"
            raise BundleError(f"{called}: there is none{beside}; make a bundle with `interlock policy build`")
        files: dict[str, bytes] = {}
        try:
            for file, content in read_archive(where) if where.is_file() else read_folder(where):
                if keys and not files:  # before more of it is looked at
                    _manifest_of({file: content}, called).require_signature(keys, called, intake)
                if file in files:
                    raise BundleError(f"{called}: has {file} twice")
                files[file] = content
        except (OSError, tarfile.TarError, EOFError, zlib.error, TooLarge) as error:
            raise BundleError(f"{called}: cannot be read as a bundle: {error}") from error
        return cls.from_files(files, called)

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], where: str) -> Bundle:
        manifest = _manifest_of(files, where)
        for needed in ("data.json", "policy.wasm"):
            if needed not in files:
                raise BundleError(f"{where}: no {needed}; make a bundle with `interlock policy build`")
        try:
            data = json.loads(files["data.json"])
            sources = {name: text.decode() for name, text in files.items() if name not in _OWN_FILES}
        except (ValidationError, ValueError) as error:
            raise BundleError(f"{where}: {error}") from error
        if manifest.format != FORMAT:
            raise BundleError(f"{where}: bundle format {manifest.format}; this Interlock reads {FORMAT}")
        if manifest.input_version.split(".")[0] != INPUT_VERSION.split(".")[0]:
            raise BundleError(f"{where}: made for input {manifest.input_version}; this is {INPUT_VERSION}")
        if digest_of(sources, data) != manifest.digest:
            raise BundleError(f"{where}: sources or data do not fit the digest {manifest.digest}; build it again")
        if hashlib.sha256(files["policy.wasm"]).hexdigest() != manifest.wasm_sha256:
            raise BundleError(f"{where}: policy.wasm is not the one that was built; build it again")
        return cls(manifest, sources, data, files["policy.wasm"])

    def signed(self, key: Ed25519PrivateKey, serial: int | None = None, not_before: datetime | None = None) -> Bundle:
        """The bundle with a signature (see :func:`policies.signing.sign`)."""
        line = sign(key, LABEL, self.manifest.signed_bytes(), serial=serial, not_before=not_before)
        return replace(self, manifest=self.manifest.model_copy(update={"signature": line}))

    def with_data(self, settings: Mapping[str, Mapping[str, Any]]) -> Bundle:
        """The bundle with ``settings`` (policy → data) laid over its data: objects are merged, all else is
        replaced. Without settings it is the same bundle, digest and all."""
        data: dict[str, Any] = dict(self.data)
        for name, own in settings.items():
            self.policy(name)
            owner, _, short = name.partition(".")
            branch = dict(data.get(owner, {}))
            branch[short] = merged(branch.get(short, {}), own)
            data[owner] = branch
        digest = digest_of(self.sources, data)
        return replace(self, manifest=self.manifest.model_copy(update={"digest": digest}), data=data)

    def files(self) -> dict[str, bytes]:
        """Every file of the bundle, path → bytes; the same bundle gives the same bytes."""
        owners = {entry.name.partition(".")[0] for entry in self.policies}
        opa = {"revision": self.digest, "roots": sorted(owners | {"interlock"}), "rego_version": 1}
        own = {
            ".manifest": _json(opa),
            "manifest.json": self.manifest.model_dump_json(indent=1, exclude_none=True).encode() + b"\n",
            "data.json": _json(self.data),
            "policy.wasm": self.wasm,
        }
        return own | {name: text.encode() for name, text in self.sources.items()}

    def write(self, out: Path) -> None:
        """Write the bundle as a folder, or as an archive if ``out`` ends in ``.tar.gz``."""
        files = self.files()
        if out.name.endswith(".tar.gz"):
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_bytes(archive(files))
            return
        if out.exists() and any(out.iterdir()) and not (out / "manifest.json").is_file():
            raise BundleError(f"{out}: is not empty and no bundle; name another folder")
        for stale in files_below(out) if out.exists() else ():
            if stale.relative_to(out).as_posix() not in files:
                stale.unlink()
        for name, content in files.items():
            target = out / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


def digest_of(sources: Mapping[str, str], data: Mapping[str, Any]) -> str:
    """``sha256:…`` over every source (path and text) and the data in canonical JSON."""
    total = hashlib.sha256()
    for name in sorted(sources):
        part = hashlib.sha256(sources[name].encode()).hexdigest()
        total.update(f"{name}\0{part}\n".encode())
    total.update(json.dumps(data, sort_keys=True, separators=(",", ":")).encode())
    return "sha256:" + total.hexdigest()


def configured(entry: PolicyEntry, data: Mapping[str, Any]) -> bool:
    """Whether a policy can have something to say: it needs no data, or one of those that it needs is there and not
    empty (``null``, ``false``, 0, an empty text, list or object)."""
    owner, _, short = entry.name.partition(".")
    own = (data.get(owner) or {}).get(short) or {}
    return not entry.needs or any(own.get(key) for key in entry.needs)


def merged(below: Any, above: Any) -> Any:
    """``above`` laid over ``below``: objects key by key, anything else replaces."""
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    return {key: merged(below.get(key), above[key]) if key in above else below[key] for key in {**below, **above}}


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False).encode() + b"\n"


def _manifest_of(files: Mapping[str, bytes], where: str) -> Manifest:
    if MANIFEST not in files:
        raise BundleError(f"{where}: no {MANIFEST}; make a bundle with `interlock policy build`")
    try:
        return Manifest.model_validate_json(files[MANIFEST])
    except ValueError as error:
        raise BundleError(f"{where}: {error}") from error
