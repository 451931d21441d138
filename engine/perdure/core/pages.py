"""A mapping that is cheap to copy: the open steps of a workflow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import TypeVar

T = TypeVar("T")

#: Up to so many entries a plain dict is copied as fast as pages are.
PLAIN_MAX = 256

_PAGE_BITS = 6


class Pages(MutableMapping[int, T]):
    """A mapping from small numbers whose copies share what neither has changed.

    A state with thousands of open steps is copied for each of them; with a dict that is quadratic.
    Here a copy costs one entry for each 64, and a change the copy of one page of 64.
    """

    __slots__ = ("_count", "_mine", "_pages")

    def __init__(self, entries: Mapping[int, T]) -> None:
        self._pages: dict[int, dict[int, T]] = {}
        self._mine: set[int] = set()
        self._count = 0
        for number, value in entries.items():
            self[number] = value

    def copy(self) -> Pages[T]:
        """A copy; from then on either may be changed without the other's seeing it."""
        twin: Pages[T] = object.__new__(type(self))
        twin._pages = dict(self._pages)
        twin._mine = set()
        twin._count = self._count
        self._mine = set()
        return twin

    def _page(self, number: int) -> dict[int, T]:
        """The page of a number, for changing it."""
        index = number >> _PAGE_BITS
        if index not in self._mine:
            self._pages[index] = dict(self._pages.get(index, {}))
            self._mine.add(index)
        return self._pages[index]

    def __getitem__(self, number: int) -> T:
        return self._pages[number >> _PAGE_BITS][number]

    def __setitem__(self, number: int, value: T) -> None:
        page = self._page(number)
        self._count += number not in page
        page[number] = value

    def __delitem__(self, number: int) -> None:
        page = self._page(number)
        del page[number]
        self._count -= 1
        if not page:
            del self._pages[number >> _PAGE_BITS]
            self._mine.discard(number >> _PAGE_BITS)

    def __iter__(self) -> Iterator[int]:
        for index in sorted(self._pages):
            yield from self._pages[index]

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"Pages({dict(self)!r})"


def copied(entries: Mapping[int, T]) -> dict[int, T] | Pages[T]:
    """A copy that may be changed, of a mapping that may not."""
    if isinstance(entries, dict):  # first: to ask an abstract class costs more than the copy
        return entries.copy() if len(entries) <= PLAIN_MAX else Pages(entries)
    return entries.copy() if isinstance(entries, Pages) else Pages(entries)
