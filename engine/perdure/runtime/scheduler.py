"""Timers: what is due when, in order. Kept in memory; they can always be derived from the state."""

from __future__ import annotations

from typing import TypeAlias

from sortedcontainers import SortedList

from perdure.core.ids import WorkflowId

#: (due at, workflow, step number; -1 for the handler's own timers)
Timer: TypeAlias = tuple[int, WorkflowId, int]


class Scheduler:
    """A sorted list of timers. Stale ones are not removed: who gets one looks again."""

    def __init__(self) -> None:
        self._timers: SortedList[Timer] = SortedList()

    def __len__(self) -> int:
        return len(self._timers)

    def set(self, due_at: int, workflow_id: WorkflowId, number: int | None) -> None:
        """Add a timer. O(log n)."""
        self._timers.add((due_at, workflow_id, -1 if number is None else number))

    def next_at(self) -> int | None:
        """When the earliest is due. O(1)."""
        return self._timers[0][0] if self._timers else None

    def pop_due(self, now: int) -> list[Timer]:
        """Take out all that are due by `now`, in order of time."""
        timers = self._timers
        if not timers or timers[0][0] > now:
            return []
        end = timers.bisect_right((now, "\U0010ffff", 1 << 62))
        due: list[Timer] = list(timers[:end])
        del timers[:end]
        return due

    def clear(self) -> None:
        """Forget all."""
        self._timers.clear()
