"""Copies: of frozen values with some fields changed, and of mappings that share their pages."""

from __future__ import annotations

import attrs
import pytest
from tests.core.playbook import waiting

from perdure.core.values import PLAIN_MAX, Pages, changed, copied


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


def test_pages_are_a_mapping() -> None:
    """In order of the numbers, whatever the order in which they came."""
    pages = Pages({n: str(n) for n in (700, 3, 64, 63)})
    assert list(pages) == [3, 63, 64, 700]
    assert (len(pages), pages[64], pages.get(5), 63 in pages) == (4, "64", None, True)
    del pages[64]
    assert dict(pages) == {3: "3", 63: "63", 700: "700"}
    with pytest.raises(KeyError):
        del pages[64]


def test_copies_of_pages_do_not_see_each_other() -> None:
    """Neither the copy's changes nor those of the original reach the other, on any page."""
    one = Pages(dict.fromkeys(range(200), 0))
    two = one.copy()
    one[5] = 1
    two[5] = 2
    del two[100]
    one[300] = 3
    three = two.copy()
    three[5] = 4
    assert (one[5], two[5], three[5]) == (1, 2, 4)
    assert (len(one), len(two), len(three)) == (201, 199, 199)
    assert 300 not in two


def test_a_small_mapping_stays_a_dict() -> None:
    """Only a large one is worth the pages; a copy is always another object."""
    small = {1: "a"}
    assert copied(small) == small
    assert copied(small) is not small
    large = copied({n: n for n in range(PLAIN_MAX + 1)})
    assert isinstance(large, Pages)
    assert isinstance(copied(large), Pages)
