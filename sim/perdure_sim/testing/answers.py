"""What comes of what a test's clients ask for."""

from __future__ import annotations

from typing import Generic, TypeVar

from perdure.errors import EventNotFound, WorkflowNotFound, WorkflowNotRunning, WorkflowRunning

from ..world.deeds import Deed

T = TypeVar("T")

#: How one knows that something was too late or too early, not wrong: nobody needs to look at it.
_RACES = (WorkflowNotRunning, WorkflowRunning)

#: The same, of a workflow that was there once: it was deleted, or lost with the power.
_GONE = (WorkflowNotFound, EventNotFound)


class Answer(Generic[T]):
    """What comes of a client's call, which a test does not wait for.

    An error that nobody looks at fails the test when it settles, as it would be raised by the
    call where that is awaited; but for those that say that the workflow has, or has not, ended
    already.
    """

    def __init__(self, deed: Deed, *, was_there: bool = False) -> None:
        self._deed = deed
        self._was_there = was_there
        self._was_seen = False

    @property
    def is_done(self) -> bool:
        """Whether there is an answer."""
        return self._deed.is_done

    @property
    def value(self) -> T | None:
        """What the call gives; None while there is no answer."""
        value: T | None = self._deed.value
        return value

    @property
    def error(self) -> BaseException | None:
        """What the call raises, if it does."""
        self._was_seen = True
        return self._deed.error

    def _check(self) -> None:
        error = self._deed.error
        races = (*_RACES, *_GONE) if self._was_there else _RACES
        if error is not None and not self._was_seen and not isinstance(error, races):
            raise error
