"""Conditions that a test names: what holds always, in the end, or at least once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TypeAlias

from ..report.wording import moment, span

#: True where it holds. It may also raise an AssertionError, which says why it does not.
Condition: TypeAlias = Callable[[], object]


class AlwaysBroken(AssertionError):
    """What the test says is always true was not."""


class EventuallyBroken(AssertionError):
    """What the test says comes true did not in its time."""


class NeverReached(AssertionError):
    """What the test says happens sometimes happened in none of its runs."""


@cache
def class_for(base: type[AssertionError], name: str) -> type[AssertionError]:
    """The exception of one condition: a search keeps failures apart by their classes."""
    found = type(f"{base.__name__}[{name}]", (base,), {"__doc__": base.__doc__})
    found.__module__ = base.__module__
    return found


class Conditions:
    """The conditions of one run.

    Attributes:
        declared: the names of those that must be reached in some run.
        reached: of those, which were in this run.
    """

    def __init__(self) -> None:
        self.declared: set[str] = set()
        self.reached: set[str] = set()
        self._always: list[tuple[str, Condition]] = []
        self._eventually: list[tuple[str, Condition, int | None, int]] = []
        self._sometimes: list[tuple[str, Condition]] = []

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to look at."""
        return not (self._always or self._eventually or self._sometimes)

    def always(self, name: str, condition: Condition) -> None:
        """From now on, after every event."""
        self._always.append((name, condition))

    def eventually(self, name: str, condition: Condition, until: int | None, within: int) -> None:
        """By a time in ms, or by the end of the run."""
        self._eventually.append((name, condition, until, within))

    def sometimes(self, name: str, condition: Condition) -> None:
        """In one run at least."""
        self.declared.add(name)
        if name not in self.reached:
            self._sometimes.append((name, condition))

    def look(self, now: int) -> None:
        """After an event; raises what is broken."""
        for name, condition in self._always:
            why = _why_not(condition)
            if why is not None:
                raise class_for(AlwaysBroken, name)(
                    f"always {name!r}: not so at {moment(now)}{why}"
                )
        if self._eventually:
            left = []
            for each in self._eventually:
                name, condition, until, within = each
                why = _why_not(condition)
                if why is None:
                    continue
                if until is not None and now > until:
                    self._give_up(name, until, within, why)
                left.append(each)
            self._eventually = left
        if self._sometimes:
            found = [each for each in self._sometimes if _why_not(each[1]) is None]
            if found:
                self.reached.update(name for name, _ in found)
                self._sometimes = [each for each in self._sometimes if each not in found]

    def finish(self, now: int) -> None:
        """At the end of the run; raises what did not come true."""
        self.look(now)
        for name, _, until, within in self._eventually:
            self._give_up(name, until, within, "")

    def _give_up(self, name: str, until: int | None, within: int, why: str) -> None:
        by = "by the end of the run" if until is None else f"within {span(within)}"
        raise class_for(EventuallyBroken, name)(f"eventually {name!r}: not {by}{why}")


def _why_not(condition: Condition) -> str | None:
    """None if it holds; else what it says."""
    try:
        return None if condition() else ""
    except AssertionError as error:
        return f": {error}"
