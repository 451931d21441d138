"""Hypothesis strategies over fault plans.

A plan is drawn once, before its run, with two choices for each fault; so drawing is fast, and what
fails is shrunk: towards the plan without faults, fewer faults, bursts of one, and earlier
occurrences.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from hypothesis import strategies as st

from .plan import Fault, FaultPlan
from .sites import KINDS, NO_MORE, MoreKinds

#: So many faults are few: every second plan has no more.
FEW = 2


def plans(
    census: Mapping[tuple[str, str], int],
    *,
    most: int = 8,
    without: Collection[str] = (),
    more: MoreKinds = NO_MORE,
) -> st.SearchStrategy[FaultPlan]:
    """Plans for a scenario: few faults more often than many.

    Args:
        census: how often a run without faults passed each site, by (actor, site). Half as many
            occurrences again are drawn: a run with a fault passes more.
        most: so many faults at most.
        without: kinds that are left out, everywhere or (``site=kind``) at one site.
        more: kinds of some places beside those of their sites.
    """
    earliest = _earliest(census, without, more)
    if not earliest or most == 0:
        return st.just(FaultPlan())
    latest = [_latest(census[fault.actor, fault.site]) for fault in earliest]
    choices = st.tuples(st.integers(0, len(earliest) - 1), st.integers(0, max(latest) - 1))

    def plan(drawn: list[tuple[int, int]]) -> FaultPlan:
        faults: dict[tuple[str, str, int], Fault] = {}
        for index, delay in drawn:
            first = earliest[index]
            # What is beyond the last occurrence of this site begins again at the first.
            occurrence = 1 + delay % latest[index]
            place = (first.actor, first.site, occurrence)
            fault = Fault(*place, first.kind, first.burst, first.duration)
            faults.setdefault(place, fault)
        return FaultPlan(faults.values())

    few = st.lists(choices, max_size=min(FEW, most))
    return st.one_of(few, st.lists(choices, max_size=most)).map(plan)


def _latest(count: int) -> int:
    return count + count // 2


def _earliest(
    census: Mapping[tuple[str, str], int], without: Collection[str], more: MoreKinds
) -> list[Fault]:
    """What can go wrong, each at its first occurrence.

    A burst comes right after the same without one: to shrink is to lower an index.
    """
    found = []
    for actor, site in sorted(census):
        kinds = [
            each
            for each in (*KINDS.get(site, ()), *more.get((actor, site), ()))
            if each[0] not in without and f"{site}={each[0]}" not in without
        ]
        names = [kind for kind, _, _ in kinds]
        for kind, burst, duration in sorted(kinds, key=lambda each: (names.index(each[0]), each)):
            found.append(Fault(actor, site, 1, kind, burst, duration))
    return found
