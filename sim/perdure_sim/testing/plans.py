"""The plans of a test: which are swept, and the strategy that Hypothesis draws them by."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping

import attrs
from hypothesis import strategies as st

from ..explore import explorer
from ..explore.explorer import single_faults, spread
from ..faults.plan import CLIENT, DELAY, Fault, FaultPlan
from ..faults.sites import MoreKinds
from ..faults.strategies import plans
from .fault_sets import FaultSet
from .lateness import LATE_KINDS, NEVER_LATE, Lateness

#: Where a plan's own choices are tried within their range, in thousandths of it.
SWEPT_CHOICES = (1_000, 500, 250, 750, 100, 900)

#: Choices of one drawn plan.
CHOICES_MAX = 3

#: What befalls actions is swept first: it is what most bugs of workflows are about.
FIRST_SITES = ("attempt", "report")

#: (actor, site) to the least and the most ms of each of its passings.
Ranges = Mapping[tuple[str, str], list[tuple[int, int]]]


@attrs.define
class Space:
    """What plans are drawn from: what the runs without faults have passed.

    Attributes:
        census: how often each site was passed, the most of all runs.
        ranges: the choices that were met.
        lateness: how late attempts must be for what waits for them.
    """

    census: dict[tuple[str, str], int] = attrs.field(factory=dict)
    ranges: dict[tuple[str, str], list[tuple[int, int]]] = attrs.field(factory=dict)
    lateness: dict[str, tuple[int, ...]] = attrs.field(factory=dict)

    def add(
        self, census: Mapping[tuple[str, str], int], ranges: Ranges, lateness: Lateness
    ) -> None:
        """Another run without faults."""
        for action, lengths in lateness.items():
            if len(lengths) > len(self.lateness.get(action, ())):
                self.lateness[action] = lengths
        for place, count in census.items():
            self.census[place] = max(self.census.get(place, 0), count)
        for place, found in ranges.items():
            if len(found) > len(self.ranges.get(place, ())):
                self.ranges[place] = list(found)


def swept_plans(
    census: Mapping[tuple[str, str], int],
    ranges: Ranges,
    faults: FaultSet,
    lateness: Lateness = NEVER_LATE,
) -> list[tuple[Fault, ...]]:
    """Each choice and each fault alone, in the order in which they are tried. The faults of plans:
    there are thousands, and only the first of them are wanted.

    Before them each transaction is run twice, all in one plan. And for each action there is a pair
    of faults: it has done its work, and fails for good all the same. Plans drawn at random would
    hardly ever be these.
    """
    chosen = [delay_at(*place, permille) for permille in SWEPT_CHOICES for place in _places(ranges)]
    possible = spread(_single(census, faults, lateness), census)
    first = [fault for fault in possible if fault.site in FIRST_SITES]
    rest = [fault for fault in possible if fault.site not in FIRST_SITES]
    early = [fault for fault in first if fault.occurrence == 1]
    single = dict.fromkeys([*_mixed(early, chosen), *first, *rest])
    found: list[tuple[Fault, ...]] = [(fault,) for fault in single]
    after = sum(fault.occurrence == 1 and fault.site in FIRST_SITES for fault in single)
    found[after:after] = _done_and_failed(census, faults)
    return [*_all_twice(census, faults), *found]


def swept_in_order(
    plans: list[tuple[Fault, ...]], number: int, count: int, tried: Collection[tuple[Fault, ...]]
) -> list[tuple[Fault, ...]]:
    """The plans of one example, in the order in which they are tried until the budget is spent.

    Each example begins elsewhere, so that together they are spread more. But what befalls actions
    for the first time is not left to the others: they may never come to that action.

    Args:
        number: of the example.
        count: of all examples.
        tried: what was, with others.
    """
    mine = plans[number::count]
    urgent = [faults for faults in plans if _is_urgent(faults)]
    ordered = [
        *filter(_is_urgent, mine),
        *(faults for faults in urgent if faults not in tried),
        *mine,
        *plans,
    ]
    return list(dict.fromkeys(ordered))


def _is_urgent(faults: tuple[Fault, ...]) -> bool:
    return len(faults) > 1 or (faults[0].site in FIRST_SITES and faults[0].occurrence == 1)


def _all_twice(
    census: Mapping[tuple[str, str], int], faults: FaultSet
) -> Iterator[tuple[Fault, ...]]:
    """Each commit of the workers fails once: what a transaction does outside of it is done twice.

    One run for what would take as many as there are commits.
    """
    if "commit=fails" in faults.kinds:
        commits = {place: count for place, count in census.items() if place[1] == "commit"}
        workers = sorted(place for place in commits if place[0] != CLIENT)
        # Whoever is faster now may do what another one did in the census.
        most = 2 * sum(commits[place] for place in workers)
        yield tuple(
            Fault(actor, site, occurrence, "fails")
            for actor, site in workers
            for occurrence in range(1, most + 1, 2)
        )


def _done_and_failed(
    census: Mapping[tuple[str, str], int], faults: FaultSet
) -> Iterator[tuple[Fault, ...]]:
    """The last attempt of each action is lost when its work is done, and the next one fails."""
    if not {"report=crash", "attempt=raises_for_good"} <= faults.kinds:
        return
    for actor, site in sorted(census):
        if site == "report" and census[actor, site] == census.get((actor, "attempt")):
            count = census[actor, site]
            lost = Fault(actor, site, count, "crash")
            yield lost, Fault(actor, "attempt", count + 1, "raises_for_good")


def befalling_remedies(
    fault: Fault,
    census: Mapping[tuple[str, str], int],
    usual: Mapping[tuple[str, str], int],
    faults: FaultSet,
) -> Iterator[tuple[Fault, ...]]:
    """With this fault, what befalls the actions that ran only because of it: each is lost with its
    worker, with its work done and before, and fails once. What gives the money back is of no use if
    it is not tried again, and no single fault gets there.

    Args:
        census: of the run under this fault alone.
        usual: of the run without faults.
    """
    if (fault.site, fault.kind) != ("attempt", "raises_for_good"):
        return
    for actor, site in sorted(census):
        if site == "attempt" and (actor, site) not in usual:
            for place, kind in (("report", "crash"), ("attempt", "crash"), ("attempt", "raises")):
                if f"{place}={kind}" in faults.kinds:
                    yield fault, Fault(actor, place, 1, kind)


def alone(plan: FaultPlan) -> Iterator[FaultPlan]:
    """Each fault of a plan of several without the others.

    At each passing up to its own: faults before it make more passings, so alone it comes earlier.
    """
    last: dict[Fault, int] = {}
    for fault in plan if len(plan) > 1 else ():
        first = attrs.evolve(fault, occurrence=1)
        last[first] = max(last.get(first, 1), fault.occurrence)
    for fault, most in last.items():
        for occurrence in range(1, most + 1):
            yield FaultPlan([attrs.evolve(fault, occurrence=occurrence)])


def _single(
    census: Mapping[tuple[str, str], int], faults: FaultSet, lateness: Lateness
) -> Iterator[Fault]:
    for fault in single_faults(census, _late_kinds(lateness)):
        if f"{fault.site}={fault.kind}" in faults.kinds:
            yield fault


def _late_kinds(lateness: Lateness) -> MoreKinds:
    return {
        (action, "attempt"): [(kind, 1, ms) for kind in LATE_KINDS for ms in lengths]
        for action, lengths in lateness.items()
    }


def _mixed(one: list[Fault], other: list[Fault]) -> Iterator[Fault]:
    """Both in turn, then what is left of the longer."""
    for number in range(max(len(one), len(other))):
        yield from one[number : number + 1]
        yield from other[number : number + 1]


def _places(ranges: Ranges) -> list[tuple[str, str, int, int, int]]:
    return [
        (actor, site, number, low, high)
        for (actor, site), found in sorted(ranges.items())
        for number, (low, high) in enumerate(found, 1)
    ]


def delay_at(actor: str, site: str, number: int, low: int, high: int, permille: int) -> Fault:
    """A choice within its range; in whole seconds where that is fine enough."""
    ms = low + (high - low) * permille // 1_000
    if high - low >= 10_000:
        ms = max(low, ms // 1_000 * 1_000)
    return Fault(actor, site, number, DELAY, 1, ms)


def random_plan(rng: random.Random, space: Space, faults: FaultSet, most: int) -> FaultPlan:
    """Up to so many faults, few more often than many, and some choices; for the command line."""
    drawn = explorer.random_plan(
        rng, space.census, most, without=faults.without, more=_late_kinds(space.lateness)
    )
    places = _places(space.ranges)
    chosen = rng.sample(places, rng.randint(0, min(CHOICES_MAX, len(places))))
    delays = [delay_at(*place, rng.randint(1, 1_000)) for place in chosen]
    return FaultPlan([*drawn, *delays])


def plan_texts(space: Space, faults: FaultSet, most: int = 8) -> st.SearchStrategy[str]:
    """Plans as texts: few faults more often than many, and some choices."""
    drawn = plans(space.census, most=most, without=faults.without, more=_late_kinds(space.lateness))
    places = _places(space.ranges)
    if not places:
        return drawn.map(str)
    choice = st.tuples(st.integers(0, len(places) - 1), st.integers(0, 1_000))
    choices = st.lists(choice, max_size=min(CHOICES_MAX, 2 * len(places)))

    def join(both: tuple[FaultPlan, list[tuple[int, int]]]) -> str:
        plan, chosen = both
        delays: dict[int, Fault] = {}
        for index, permille in chosen:
            delays.setdefault(index, delay_at(*places[index], permille))
        # (At the low end it is what it is without.)
        late = [each for index, each in delays.items() if each.duration > places[index][3]]
        return str(FaultPlan([*plan, *late]))

    return st.tuples(drawn, choices).map(join)
