"""Make a bundle from a source tree: generate the entrypoint, have OPA compile it all, and write down what the
policies read. The same sources and data give the same bundle with the same OPA."""

from __future__ import annotations

import hashlib
import json
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from policies.authoring.opa_tool import OpaTool
from policies.authoring.references import Module, Reader, module_of
from policies.authoring.sources import PolicySources, SourceError, SourceTree
from policies.bundle import ENTRY_PACKAGE, POLICY_PACKAGE, Bundle, Manifest, PolicyEntry, alone, digest_of, together
from policies.model import TEXT_STAGES, Severity, Stage

ENTRY_FILE = "entry.rego"


def build(tree: SourceTree, opa: OpaTool) -> Bundle:
    """Compile ``tree``. Raises :class:`SourceError` or :class:`OpaFailedError` with OPA's own words."""
    if not tree.policies:
        raise SourceError("there is no policy to build")
    files = tree.modules()
    sources = {name: path.read_text("utf-8") for name, path in files.items()}
    modules = parse_modules(files, opa)
    require_packages(tree, modules)
    reader = Reader(modules.values())
    entries = [entry_of(policy, modules, reader, opa) for _, policy in sorted(tree.policies.items())]
    sources[ENTRY_FILE] = entry_source(entries)
    data = tree.data()
    wasm = compile_wasm(sources, data, entrypoints_of(entries), opa)
    manifest = Manifest(
        digest=digest_of(sources, data),
        opa=opa.version(),
        wasm_sha256=hashlib.sha256(wasm).hexdigest(),
        policies=entries,
    )
    return Bundle(manifest, sources, data, wasm)


def parse_modules(files: Mapping[str, Path], opa: OpaTool) -> dict[str, Module]:
    return {name: module_of(name, opa.parse(path)) for name, path in sorted(files.items())}


def require_packages(tree: SourceTree, modules: Mapping[str, Module]) -> None:
    """A policy's files are in its own package, and shared ones below ``interlock.lib``: what is written
    elsewhere could be evaluated without belonging to anybody."""
    for policy in tree.policies.values():
        for name in policy.modules:
            if modules[name].package != policy.package:
                raise SourceError(
                    f"{policy.modules[name]}: package {modules[name].package}; expected package {policy.package}"
                )
    for name, path in tree.library.items():
        if not modules[name].package.startswith("interlock.lib"):
            raise SourceError(f"{path}: package {modules[name].package}; expected one below interlock.lib")


def stages_of(policy: PolicySources, modules: Mapping[str, Module], reader: Reader) -> dict[Stage, list[str]]:
    """The stages that a policy has a set for, with what each reads."""
    names = {rule for file in policy.modules for rule in modules[file].rules}
    return {stage: reader.reads(policy.package, stage.value) for stage in Stage if stage.value in names}


def entry_of(policy: PolicySources, modules: Mapping[str, Module], reader: Reader, opa: OpaTool) -> PolicyEntry:
    """What the manifest says of a policy. Raises :class:`SourceError` for metadata that say what cannot be."""
    stages = stages_of(policy, modules, reader)
    if not stages:
        raise SourceError(
            f"{policy.folder}: no stage; write `tool_call contains finding if …` (stages: "
            f"{', '.join(stage.value for stage in Stage)})"
        )
    about = _annotation(policy, opa)
    custom = about.get("custom") or {}
    try:
        severity = Severity(custom["severity"]) if "severity" in custom else None
    except ValueError as error:
        raise SourceError(f"{policy.folder}: custom.severity: {error}") from error
    try:
        return PolicyEntry(
            name=policy.name,
            title=str(about.get("title", "")),
            description=str(about.get("description", "")),
            severity=severity,
            tags=[str(tag) for tag in custom.get("tags") or []],
            stages=stages,
            holds=_holds(custom.get("hold"), stages),
            patterns=[str(name) for name in custom.get("patterns") or []],
            needs=[str(name) for name in custom.get("needs") or []],
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(step) for step in first["loc"])
        raise SourceError(f"{policy.folder}: metadata: {place}: {first['msg']}") from error


def _holds(said: Any, stages: Iterable[Stage]) -> dict[Any, Any]:
    """``custom.hold``: one for every text stage of the policy, or one for each by its name."""
    if said is None or isinstance(said, Mapping):
        return dict(said or {})
    return {stage: said for stage in stages if stage in TEXT_STAGES}


def _annotation(policy: PolicySources, opa: OpaTool) -> dict[str, Any]:
    """The package's metadata: the first that is found, ``policy.rego`` before other files."""
    files = sorted(policy.modules.values(), key=lambda path: (path.name != "policy.rego", path.name))
    for entry in opa.annotations(files[:1]):
        found: dict[str, Any] = entry.get("annotations") or {}
        if found.get("scope") == "package":
            return found
    return {}


def entry_source(entries: list[PolicyEntry]) -> str:
    """The generated module: per stage one object, policy → its set, so that one question asks them all, and one
    rule per policy that asks it alone. They are undefined, and so a failure, if the engine took the input for
    something other than an object: without that an input that it cannot read would look like one without
    findings."""
    lines = [
        "# Generated by `interlock policy build`: one question per stage for all policies. Do not edit.",
        f"package {ENTRY_PACKAGE}",
    ]
    for stage in Stage:
        asked = [entry.name for entry in entries if stage in entry.stages]
        if asked:
            lines += ["", f"{stage.value} := {{"]
            lines += [f'\t"{name}": data.{POLICY_PACKAGE}.{name}.{stage.value},' for name in asked]
            lines += ["} if is_object(input)"]
            for name in asked:
                rule = alone(name, stage).removeprefix(f"{ENTRY_PACKAGE}.")
                lines += ["", f"{rule} := data.{POLICY_PACKAGE}.{name}.{stage.value} if is_object(input)"]
    return "\n".join(lines) + "\n"


def entrypoints_of(entries: list[PolicyEntry]) -> list[str]:
    """Every rule that an engine may ask: the generated ones, and each policy's own."""
    stages = sorted({stage for entry in entries for stage in entry.stages})
    rules = [together(stage) for stage in stages]
    rules += [alone(entry.name, stage) for entry in entries for stage in sorted(entry.stages)]
    return [rule.replace(".", "/") for rule in rules]


def compile_wasm(sources: Mapping[str, str], data: Mapping[str, Any], entrypoints: list[str], opa: OpaTool) -> bytes:
    """Compile to WebAssembly. The data is not compiled in: the engine is given it when it starts."""
    with tempfile.TemporaryDirectory(prefix="interlock-build-") as name:
        folder = Path(name)
        stage_files(folder / "src", sources, data)
        arguments = [part for entry in entrypoints for part in ("-e", entry)]
        # Relative to the folder, because the paths go into the module, and two builds must be the same.
        opa.run("build", "-t", "wasm", *arguments, "-o", "out.tar.gz", "-b", "src", cwd=folder)
        with tarfile.open(folder / "out.tar.gz", "r:gz") as archive:
            member = next(item for item in archive.getmembers() if item.name.endswith("policy.wasm"))
            content = archive.extractfile(member)
            assert content is not None
            return content.read()


def stage_files(folder: Path, sources: Mapping[str, str], data: Mapping[str, Any]) -> None:
    """Lay sources and data out as OPA loads them."""
    for file, text in sources.items():
        target = folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, "utf-8")
    (folder / "data.json").write_text(json.dumps(data, sort_keys=True), "utf-8")
