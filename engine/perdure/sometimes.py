"""Points that runs must reach sometimes: marks at the branches that only trouble leads to.

A test that is green because nothing ever went wrong proves nothing. So the branches for late, lost,
doubled and refused things are marked, and whoever explores the engine counts which marks were
reached. In production a mark is an empty call, and stands only where the engine seldom comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_observer: Callable[[str], object] | None = None


def sometimes(point: str) -> None:
    """Mark a point; `point` says in words what has happened, and occurs once in the source."""
    if _observer is not None:
        _observer(point)


@contextmanager
def observed(observer: Callable[[str], object]) -> Iterator[None]:
    """Tell `observer` each point that is reached in a block, by any thread of this process."""
    global _observer
    outer, _observer = _observer, observer
    try:
        yield
    finally:
        _observer = outer
