"""What many tests of this room share: the shipped library, compiled once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from policies.bundle import Bundle
from policies.engines.embedded import EmbeddedEngine


@pytest.fixture(scope="session")
def library_bundle() -> Bundle:
    return Bundle.load()


@pytest.fixture(scope="session")
def library_engine(library_bundle: Bundle) -> Iterator[EmbeddedEngine]:
    """The embedded engine with the shipped library. Not for tests that close or break it."""
    yield EmbeddedEngine(library_bundle, 60)
