"""The workpool: which ready actions may start, a pure function of permits and ready steps.

`max_parallelism` bounds the recorded attempts that run at a time, over all workers. Each worker
holds permits, whose sum never exceeds the stored limit; using one is a local matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from sortedcontainers import SortedKeyList

from .frozen import Frozen
from .ids import WorkerId, WorkflowId


class ReadyStep(Frozen, frozen=True):
    """An action that may start: a place in the queue. Oldest first."""

    ready_at: int
    order: int
    workflow_id: WorkflowId
    number: int


class Share(Frozen, frozen=True):
    """The permits of one worker, and how many it lacks."""

    worker_id: WorkerId
    permits: int
    wanting: int


class Queue:
    """Ready actions of the workflows that one worker owns, oldest first."""

    def __init__(self) -> None:
        self._steps: SortedKeyList[ReadyStep, tuple[int, int]] = SortedKeyList(
            key=lambda step: (step.ready_at, step.order)
        )
        self._order = 0
        self._count = 0  # asked for several times in each turn, and dear in the list

    def __len__(self) -> int:
        return self._count

    def add(self, ready_at: int, workflow_id: WorkflowId, number: int) -> None:
        """Put a step at its place. O(log n)."""
        self._order += 1
        self._count += 1
        self._steps.add(ReadyStep(ready_at, self._order, workflow_id, number))

    def peek(self) -> ReadyStep:
        """The oldest; there must be one."""
        return self._steps[0]

    def take(self, count: int) -> list[ReadyStep]:
        """Take out the `count` oldest."""
        if count <= 0 or not self._count:
            return []
        taken = list(islice(self._steps, count))
        del self._steps[: len(taken)]
        self._count -= len(taken)
        return taken

    def clear(self) -> None:
        """Forget all."""
        self._steps.clear()
        self._count = 0


#: What a worker holds beyond its needs: a share of all permits, and so many at least. Half, so that
#: one that is alone starts most fan-outs in the commit that asks for them, and that one that stands
#: still leaves the other half to others.
SPARE_SHARE = 0.5
SPARE_MIN = 2


def permits_to_hold(
    mine: Share, others: Sequence[Share], *, limit: int, running: int, needed: int
) -> Share:
    """How many permits a worker should hold from now on.

    A worker takes what it needs of what is free, and some more, so that it need not ask each time;
    not all, for while it stands still others could start nothing. When others want some it gives
    back what it does not need, and of what it needs keeps its fair share, but always what its
    running attempts hold. The sum over all workers never grows beyond `limit`; after the limit was
    lowered it shrinks as attempts end.

    Args:
        mine: the permits now held.
        others: those of all other workers that are not fenced.
        limit: `max_parallelism` as stored.
        running: attempts that run here: their permits cannot be given back.
        needed: those, and the ready actions that wait here.
    """
    taken = sum(other.permits for other in others)
    free = max(0, limit - taken - mine.permits)
    fair = -(-limit // (len(others) + 1))
    if any(other.wanting for other in others):
        # What is not used goes back at once; of what is needed, no more than the fair share stays.
        hold = min(mine.permits, max(running, min(needed, fair)))
        if needed > hold:
            hold = max(hold, min(needed, mine.permits + free, fair))
    else:
        spare = max(int(limit * SPARE_SHARE), SPARE_MIN)
        hold = max(mine.permits, min(mine.permits + free, needed + spare))
    hold = max(min(hold, limit - taken), min(running, mine.permits), 0)
    wanting = max(0, needed - hold) if limit else 0
    return Share(mine.worker_id, hold, wanting)
