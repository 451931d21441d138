"""Durations as tests give them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from perdure_sim.testing.durations import Duration, to_ms, to_range


@pytest.mark.parametrize(
    ("duration", "ms"),
    [
        (2, 2_000),
        (0.25, 250),
        (timedelta(minutes=2), 120_000),
        ("30s", 30_000),
        ("1h 30m", 5_400_000),
        ("1.5s", 1_500),
        ("250ms", 250),
        ("2d", 172_800_000),
    ],
)
def test_seconds_timedeltas_and_texts(duration: Duration, ms: int) -> None:
    """All mean ms; a length alone is a range of that length."""
    assert to_ms(duration) == ms
    assert to_range(duration) == (ms, ms)


def test_a_range_has_two_ends() -> None:
    """Low and high."""
    assert to_range("0s..2m") == (0, 120_000)
    assert to_range("250ms..1s") == (250, 1_000)


@pytest.mark.parametrize("wrong", ["", "5", "5 apples", "2m..1m", "..", -1, float("inf"), "s"])
def test_what_is_no_length_of_time(wrong: Duration) -> None:
    """The message has the value and where it was given."""
    with pytest.raises(ValueError, match="takes="):
        to_range(wrong, "takes")


@pytest.mark.parametrize("wrong", [None, True, [1]])
def test_what_is_no_duration_at_all(wrong: Any) -> None:
    """Another type."""
    with pytest.raises(TypeError, match="give seconds"):
        to_ms(wrong)
