"""Which plans come to a run that was made before, and need not be made again.

A run is a function of the faults that fire in it. So a plan comes to an earlier run if it has all
faults that fired there, and none of its others would have: their passings lie beyond what that run
has passed. Of random plans that is a third within some hundred runs, and more than half later; of
the sweep it is each fault beyond the last passing that the run without faults knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import attrs

from ..faults.plan import Fault, FaultPlan

#: Runs with more faults than these hardly ever come again.
FIRED_MAX = 2

#: So many runs are kept, with about 3 KB each.
RUNS_MAX = 10_000


@attrs.frozen
class Made:
    """A run that was made, and in which nothing failed.

    Attributes:
        fired: the faults that happened in it.
        census: how often it passed each site while faults could happen.
        events: how many it took.
    """

    fired: frozenset[Fault]
    census: Mapping[tuple[str, str], int]
    events: int


class Repeats:
    """The runs of one scenario that were made in this process."""

    def __init__(self) -> None:
        self._made: dict[frozenset[Fault], Made] = {}

    def add(self, made: Made) -> None:
        """Keep a run. Not one that failed: it must fail again when it is shrunk."""
        if len(made.fired) <= FIRED_MAX and len(self._made) < RUNS_MAX:
            self._made.setdefault(made.fired, made)

    def find(self, plan: FaultPlan) -> Made | None:
        """The run that a plan comes to, if it was made; None if it has to be made."""
        for count in range(min(len(plan), FIRED_MAX) + 1):
            for fired in combinations(plan.faults, count):
                made = self._made.get(frozenset(fired))
                if made is not None and not _fires(plan, made):
                    return made
        return None


def _fires(plan: FaultPlan, made: Made) -> bool:
    """Whether one more of the plan's faults than those that fired would have fired in a run."""
    census = made.census
    return any(
        fault.occurrence <= census.get((fault.actor, fault.site), 0) and fault not in made.fired
        for fault in plan
    )
