"""Marks of points: who is told that one was reached."""

from __future__ import annotations

from perdure.sometimes import observed, sometimes


def test_points_are_told_to_the_innermost_observer_alone() -> None:
    """And to nobody, outside of a block."""
    outer: list[str] = []
    inner: list[str] = []
    sometimes("before")
    with observed(outer.append):
        sometimes("first")
        with observed(inner.append):
            sometimes("second")
        sometimes("third")
    sometimes("after")
    assert (outer, inner) == (["first", "third"], ["second"])
