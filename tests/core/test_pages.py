"""Mappings whose copies share their pages."""

from __future__ import annotations

import pytest

from perdure.core.pages import PLAIN_MAX, Pages, copied


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
