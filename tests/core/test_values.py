"""`changed`: copies of frozen values, with some fields changed."""

from __future__ import annotations

import attrs
import pytest
from tests.core.playbook import waiting

from perdure.core.values import changed


@attrs.frozen(slots=False)
class Point:
    """A frozen value for these tests."""

    x: int
    y: int = 0


def test_a_copy_differs_in_what_was_changed() -> None:
    """The other fields are the same, and so is the original."""
    point = Point(1, 2)
    moved = changed(point, x=5)
    assert (moved, point) == (Point(5, 2), Point(1, 2))
    assert type(moved) is Point


def test_a_copy_without_changes_is_equal() -> None:
    """Equal, and hashed alike, but another object."""
    point = Point(1, 2)
    same = changed(point)
    assert same == point
    assert hash(same) == hash(point)
    assert same is not point


def test_a_misspelled_field_is_noticed() -> None:
    """A name that the class does not have is an assertion error that says so."""
    with pytest.raises(AssertionError, match=r"Point.*'z'"):
        changed(Point(1), z=3)


def test_it_does_what_evolve_does() -> None:
    """On the widest value of the engine it agrees with attrs.evolve."""
    state = waiting()
    assert changed(state, stamp=9, busy=0) == attrs.evolve(state, stamp=9, busy=0)
