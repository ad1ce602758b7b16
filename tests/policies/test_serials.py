"""What was signed once and is older than what has been in force cannot be put back."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from policies import bundle_files
from policies.bundle import Bundle, BundleError
from policies.in_force import Policies
from policies.rollout import Rollout, RolloutError
from policies.serials import NotYet, Serials
from policies.signing import SignatureError, make_keys, read_private, sign, signature_path, verify
from serving.settings import PolicySettings
from tests.policies.support import written


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, str]:
    return tmp_path / "key.pem", make_keys(tmp_path / "key.pem")


def seal(folder: Path, key: Path, serial: int, layer: str = "platform", not_before: datetime | None = None) -> None:
    path = folder / ("platform.yaml" if layer == "platform" else f"teams/{layer}.yaml")
    line = sign(read_private(key), f"rollout {layer}", path.read_bytes(), serial=serial, not_before=not_before)
    signature_path(path).write_text(line + "\n", encoding="utf-8")


def test_a_signature_says_its_serial_and_nobody_changes_that(keys: tuple[Path, str]) -> None:
    path, line = keys
    when = datetime(2027, 1, 31, 8, tzinfo=UTC)
    said = sign(read_private(path), "a", b"b", serial=7, not_before=when)
    signed = verify([line], "a", b"b", said, "x")
    assert (signed.serial, signed.not_before) == (7, when)
    first, second = (verify([line], "a", b"b", sign(read_private(path), "a", b"b"), "x") for _ in range(2))
    assert 1_700_000_000_000 < first.serial <= second.serial and first.not_before is None
    raw = said.split()[0]
    for other in (said.replace("serial=7", "serial=8"), said.replace("2027", "2026"), f"{raw} serial=7", raw, ""):
        with pytest.raises(SignatureError):
            verify([line], "a", b"b", other, "x")


def test_what_is_older_than_what_was_in_force_is_refused(tmp_path: Path, keys: tuple[Path, str]) -> None:
    key, line = keys
    signers = {"platform": [line], "payments": [line]}
    serials = Serials(tmp_path / "state" / "serials.json")
    folder = written(tmp_path / "r", "modes: {interlock.shell: warn}", payments="modes: {payments.refunds: enforce}")

    def load(older: str = "refuse") -> None:
        book = serials if older == "refuse" else Serials(tmp_path / "state" / "serials.json", "allow")
        intake = book.intake()
        Rollout.load(folder, signers, intake)
        intake.in_force()

    seal(folder, key, 5)
    seal(folder, key, 3, "payments")  # each layer has serials of its own
    load()
    load()
    old = (folder / "platform.yaml").read_bytes(), signature_path(folder / "platform.yaml").read_bytes()
    (folder / "platform.yaml").write_text("modes: {interlock.shell: enforce}")
    seal(folder, key, 5)
    with pytest.raises(RolloutError, match="serial 5 of another one"):
        load()
    seal(folder, key, 6)
    load()
    (folder / "platform.yaml").write_bytes(old[0])
    signature_path(folder / "platform.yaml").write_bytes(old[1])
    with pytest.raises(RolloutError, match=r"platform\.yaml: is older \(serial 5\).*serial 6.*older_signed: allow"):
        load()
    load("allow")
    load()  # what was let by is what holds


def test_an_older_one_of_another_key_is_older_all_the_same(tmp_path: Path, keys: tuple[Path, str]) -> None:
    """Or the last file of a key that was replaced could be put back."""
    key, line = keys
    other = make_keys(tmp_path / "other.pem")
    serials = Serials(tmp_path / "serials.json")
    for path, serial in ((key, 1), (tmp_path / "other.pem", 2)):
        folder = written(tmp_path / f"r{serial}", f"modes: {{interlock.shell: {['warn', 'shadow'][serial - 1]}}}")
        seal(folder, path, serial)
        intake = serials.intake()
        Rollout.load(folder, {"platform": [line, other]}, intake)
        intake.in_force()
    with pytest.raises(RolloutError, match="is older"):
        Rollout.load(tmp_path / "r1", {"platform": [line, other]}, serials.intake())


def test_what_was_read_and_not_in_force_bars_nothing(tmp_path: Path, keys: tuple[Path, str]) -> None:
    key, line = keys
    serials = Serials(tmp_path / "serials.json")
    folder = written(tmp_path / "r", "modes: {interlock.shell: warn}")
    for serial in (9, 2):
        seal(folder, key, serial)
        Rollout.load(folder, {"platform": [line]}, serials.intake())


def test_it_holds_from_its_day_on(tmp_path: Path, keys: tuple[Path, str]) -> None:
    key, line = keys
    day = datetime(2027, 1, 31, tzinfo=UTC)
    folder = written(tmp_path / "r", "modes: {interlock.shell: warn}")
    seal(folder, key, 1, not_before=day)
    for now, holds in ((day - timedelta(seconds=1), False), (day, True)):
        serials = Serials(tmp_path / "serials.json", now=lambda now=now: now)
        if holds:
            Rollout.load(folder, {"platform": [line]}, serials.intake())
        else:
            with pytest.raises(NotYet, match="does not hold before 2027-01-31 00:00:00 UTC"):
                Rollout.load(folder, {"platform": [line]}, serials.intake())


def test_a_book_that_cannot_be_read_lets_nothing_by(tmp_path: Path) -> None:
    (tmp_path / "serials.json").write_text("{")
    with pytest.raises(SignatureError, match="cannot be read"):
        Serials(tmp_path / "serials.json").intake()


def test_a_bundle_has_a_serial_too(tmp_path: Path, keys: tuple[Path, str]) -> None:
    key, line = keys
    serials = Serials(tmp_path / "serials.json")
    folder = tmp_path / "bundle"
    settings = PolicySettings(bundle=folder, bundle_keys=[line])
    plain = Bundle.load()
    for serial in (2, 3):
        plain.with_data({"interlock.paths": {"workspace": [f"/{serial}"]}}).signed(read_private(key), serial).write(
            folder
        )
        policies = Policies.load(settings, {}, serials)
        policies.taken()
    plain.signed(read_private(key), 2).write(folder)
    with pytest.raises(BundleError, match=r"is older \(serial 2\)"):
        Policies.load(settings, {}, serials)
    Policies.load(settings.model_copy(update={"older_signed": "allow"}), {}, Serials(tmp_path / "s", "allow"))


def archived(files: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            made.addfile(info, io.BytesIO(content))
    return gzip.compress(buffer.getvalue())


@pytest.mark.parametrize("form", ["folder", "archive", "archive, manifest last"])
def test_nothing_of_a_bundle_is_looked_at_before_its_signature(
    tmp_path: Path, keys: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """What is torn, or far too large, behind a manifest that nobody signed is not found out."""
    _, line = keys
    monkeypatch.setattr(bundle_files, "MOST_BYTES", 64 * 1024 * 1024)
    files = {**Bundle.load().files(), "data.json": b"{", "huge": bytes(65 * 1024 * 1024)}
    path = tmp_path / "bundle"
    if form == "folder":
        path.mkdir()
        for name, content in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    else:
        order = sorted(files, key=lambda name: (name == "huge", (name == "manifest.json") != (form == "archive"), name))
        path.write_bytes(archived([(name, files[name]) for name in order]))
    with pytest.raises(BundleError, match="is not signed"):
        Bundle.load(path, [line])
    with pytest.raises(BundleError, match=r"too large|larger than"):
        Bundle.load(path)


def test_a_second_manifest_does_not_take_the_place_of_the_one_that_was_verified(
    tmp_path: Path, keys: tuple[Path, str]
) -> None:
    key, line = keys
    files = Bundle.load().signed(read_private(key)).files()
    other = json.loads(files["manifest.json"]) | {"opa": "other"}
    path = tmp_path / "bundle.tar.gz"
    for second in (files["manifest.json"], json.dumps(other).encode()):
        path.write_bytes(archived([*files.items(), ("./manifest.json", second)]))
        with pytest.raises(BundleError, match=r"has manifest\.json twice"):
            Bundle.load(path, [line])
    path.write_bytes(archived(list(files.items())))
    assert Bundle.load(path, [line]).digest == Bundle.load().digest


def hostile(records: dict[str, str], content: bytes = b"0\n" + bytes(510)) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as made:
        info = tarfile.TarInfo("manifest.json")
        info.size, info.pax_headers = len(content), records
        made.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def old_sparse(size: int) -> bytes:
    """A header of GNU's older sparse files: nothing of ``size`` bytes is there."""
    info = tarfile.TarInfo("manifest.json")
    info.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (0, 0)
    header[482:495] = b"\0%011o\0" % size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(1024)


_GNU = "GNU.sparse."


@pytest.mark.parametrize(
    "unpacked",
    [
        old_sparse(8 << 30),
        hostile({_GNU + "major": "1", _GNU + "minor": "0", _GNU + "realsize": str(8 << 30)}),
        hostile({_GNU + "map": "0,0", _GNU + "size": str(8 << 30)}),
        hostile({_GNU + "map": "a,b", _GNU + "size": "1"}),
        hostile({_GNU + "major": "1", _GNU + "minor": "0"}, b"zz\n" + bytes(509)),
        hostile({"size": str(1 << 70)}),
        bytes(512),
    ],
    ids=["old sparse", "sparse", "sparse map", "bad map", "bad count", "no end", "empty"],
)
def test_an_archive_that_is_made_to_harm_is_refused_as_such(
    tmp_path: Path, keys: tuple[Path, str], unpacked: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever answers for a bundle's URL cannot sign; what he sends takes no memory and breaks nothing."""
    asked: list[int] = []

    def read(file: Any, size: int = -1) -> bytes:
        asked.append(file.raw.size)
        return b"{}"

    monkeypatch.setattr(tarfile.ExFileObject, "read", read)
    path = tmp_path / "bundle.tar.gz"
    path.write_bytes(gzip.compress(unpacked))
    with pytest.raises(BundleError):
        Bundle.load(path, [keys[1]])
    assert all(size <= bundle_files.MOST_BYTES for size in asked)
