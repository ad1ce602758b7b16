"""What a soak's points say."""

from __future__ import annotations

import pytest

from bench.soak import Point, render_soak, summary


def point(rss_mb: float) -> Point:
    return Point(1000, 20_000, 1.0, rss_mb, [rss_mb - 50.0, 50.0])


def test_memory_that_grows_shows_in_the_trend() -> None:
    seen = summary(90.0, [point(100.0), point(110.0), point(120.0)])
    assert seen.trend == pytest.approx(0.2)
    assert seen.deviation == pytest.approx(10 / 110)


def test_a_peak_in_between_shows_as_a_deviation() -> None:
    seen = summary(90.0, [point(100.0), point(190.0), point(100.0)])
    assert seen.trend == 0.0
    assert seen.deviation == pytest.approx(60 / 130)


def test_the_table_has_a_row_for_each_point_and_says_both() -> None:
    table = render_soak(summary(90.0, [point(100.0), point(104.0)], wrong=3))
    assert "| 1000 | 20000 | 1 | 104.0 | 54.0, 50.0 |" in table
    assert "+4.0%" in table and "2.0%" in table and "Wrong answers: 3." in table
