"""The files of a bundle on disk, a folder or a ``.tar.gz``: the manifest first, and never more than so much.

Who reads may stop after the manifest: nothing else has been read then of a folder, and of an archive no more than what
stands before it, of which nothing is kept.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, cast

MANIFEST = "manifest.json"
MOST_BYTES = 256 * 1024 * 1024
"""Of a bundle, as it is unpacked, with what an archive has between its files."""
MOST_FILES = 20_000
MOST_MANIFEST = 4 * 1024 * 1024


class TooLarge(ValueError):
    """It is larger than a bundle may be."""


def read_folder(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Path and content of each file. ``OSError``, :class:`TooLarge`."""
    left = MOST_BYTES
    manifest = folder / MANIFEST
    paths = [path for path in files_below(folder) if path != manifest]
    for path in [manifest, *paths] if manifest.is_file() else paths:
        with path.open("rb") as file:
            content = file.read(min(left, MOST_MANIFEST if path == manifest else left) + 1)
        left -= len(content)
        if left < 0 or (path == manifest and len(content) > MOST_MANIFEST):
            raise TooLarge(f"{path.name} is too large, or all of it is")
        yield path.relative_to(folder).as_posix(), content


def files_below(folder: Path) -> list[Path]:
    """Raises :class:`TooLarge`."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            found.append(path)
            if len(found) > MOST_FILES:
                raise TooLarge(f"has more than {MOST_FILES} files")
    return sorted(found)


def read_archive(path: Path) -> Iterator[tuple[str, bytes]]:
    """The same of an archive. ``OSError``, ``tarfile.TarError``, ``EOFError``, ``zlib.error``, :class:`TooLarge`."""
    first = _only_manifest(path)
    if first is not None:
        yield MANIFEST, first
    for name, content in _members(path):
        if name != MANIFEST or content != first:
            yield name, content  # a second manifest too: whoever reads refuses what comes twice
        else:
            first = None


def _only_manifest(path: Path) -> bytes | None:
    return next((content for _, content in _members(path, only=MANIFEST)), None)


def _members(path: Path, only: str | None = None) -> Iterator[tuple[str, bytes]]:
    try:
        with gzip.open(path) as plain, tarfile.open(fileobj=cast(IO[bytes], _Bounded(plain)), mode="r|") as members:
            for number, member in enumerate(members):
                if number >= MOST_FILES:
                    raise TooLarge(f"has more than {MOST_FILES} files")
                name = member.name.removeprefix("./").removeprefix("/")
                if not member.isfile() or only not in (None, name):
                    continue
                if member.issparse():  # nothing of its size need be there
                    raise tarfile.ReadError(f"{name} is sparse")
                if member.size > (MOST_MANIFEST if name == MANIFEST else MOST_BYTES):
                    raise TooLarge(f"{name} is too large")
                content = members.extractfile(member)
                if content is not None:
                    yield name, content.read()
    except TooLarge:
        raise
    except (ValueError, LookupError, ArithmeticError, RecursionError) as problem:  # tarfile's own, for bad headers
        raise tarfile.ReadError(str(problem)) from problem


def archive(files: Mapping[str, bytes]) -> bytes:
    """A ``.tar.gz`` of them, the manifest first; the same files give the same bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as made:
        for name in sorted(files, key=lambda name: (name != MANIFEST, name)):
            info = tarfile.TarInfo(name)
            info.size = len(files[name])
            made.addfile(info, io.BytesIO(files[name]))
    return gzip.compress(buffer.getvalue(), mtime=0)


class _Bounded:
    """What is read of ``file``, as long as that is not too much."""

    def __init__(self, file: gzip.GzipFile) -> None:
        self._file = file
        self._left = MOST_BYTES

    def read(self, size: int) -> bytes:
        data = self._file.read(min(size, self._left + 1))
        self._left -= len(data)
        if self._left < 0:
            raise TooLarge(f"is larger than {MOST_BYTES} bytes when it is unpacked")
        return data
