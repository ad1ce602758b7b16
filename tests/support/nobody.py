"""A judge for exchanges of which nothing is ever judged."""

from __future__ import annotations

from typing import cast

from proxy.judge import Judge

NOBODY = cast(Judge, None)
