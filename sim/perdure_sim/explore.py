"""Runs of a scenario under plans: one, each single fault, random ones; and what a run found.

A census (a run in which nothing goes wrong) says where faults are possible. The sweep tries each
of them alone, which finds most bugs; the soak draws plans with several. What fails is shrunk by
leaving faults out.
"""

from __future__ import annotations

import itertools
import math
import random
import re
import sqlite3
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import attrs

from perdure.core.outcomes import Outcome
from perdure.definitions import Definer

from .actions import Stub
from .disks import Disk
from .history import Violation
from .plan import Fault, FaultPlan
from .replaying import check_replay
from .world import World


class Stuck(Violation):
    """Nothing can move any more, and workflows are in progress that should have ended."""


class ResultChanged(Violation):
    """A fault that must cost no more than time has changed how a workflow ended."""


@attrs.frozen(kw_only=True)
class Scenario:
    """What clients do, and what is expected of it.

    Attributes:
        script: tells the clients of a new world what to do.
        setup: makes the application's own tables.
        may_wait: ids of workflows that need not end.
        check: looks at the world at the end, unless something happened that may change a result;
            raises if something is wrong.
    """

    name: str
    definer: Definer
    script: Callable[[World], object]
    stubs: dict[str, Stub] = attrs.field(factory=dict)
    workers: int = 2
    max_parallelism: int | None = None
    setup: Callable[[sqlite3.Connection], object] | None = None
    may_wait: frozenset[str] = frozenset()
    check: Callable[[World], None] = lambda world: None


@attrs.frozen(kw_only=True)
class Run:
    """What came of one run.

    Attributes:
        failure: the law that was broken, or what else was raised.
        outcomes: by workflow id; None for one that waits.
    """

    scenario: Scenario
    plan: FaultPlan
    world: World
    failure: BaseException | None
    outcomes: dict[str, Outcome | None]


#: What can go wrong where: site to (kind, burst, duration in ms). Longest last.
KINDS: dict[str, tuple[tuple[str, int, int], ...]] = {
    "begin": (("busy", 1, 0), ("busy", 3, 0), ("full", 2, 0), ("crash", 1, 0)),
    "commit": (
        ("fails", 1, 0),
        ("lost_ack", 1, 0),
        ("crash_before", 1, 0),
        ("crash_after", 1, 0),
        ("fails", 3, 0),
        ("lost_ack", 3, 0),
        ("full", 2, 0),
    ),
    "read": (("fails", 1, 0), ("fails", 3, 0), ("crash", 1, 0)),
    "turn": (("crash", 1, 0), ("evict", 1, 0), ("fenced", 1, 0), ("jump", 1, 60_000)),
    "collected": (("crash", 1, 0), ("pause", 1, 2_000), ("zombie", 1, 40_000)),
    "decided": (("crash", 1, 0), ("pause", 1, 2_000), ("zombie", 1, 40_000)),
    "committed": (("crash", 1, 0), ("pause", 1, 2_000), ("zombie", 1, 40_000)),
    "told": (("crash", 1, 0), ("pause", 1, 2_000), ("zombie", 1, 40_000)),
    "carried_out": (("crash", 1, 0), ("pause", 1, 2_000), ("zombie", 1, 40_000)),
    "wake": (("lost", 1, 0), ("late", 1, 5_000)),
    "attempt": (("raises", 1, 0), ("raises", 3, 0), ("slow", 1, 90_000), ("raises_for_good", 1, 0)),
}

#: Faults that may change how a workflow ends.
CHANGING = frozenset({"raises_for_good"})


def run(
    scenario: Scenario,
    plan: FaultPlan,
    make_disk: Callable[[], Disk],
    expected: Mapping[str, Outcome | None] | None = None,
) -> Run:
    """One run, to its end, with all laws on.

    Args:
        expected: how the workflows end when nothing goes wrong.
    """
    disk = make_disk()
    if scenario.setup is not None:
        disk.prepare(scenario.setup)
    world = World(
        scenario.definer,
        disk,
        plan,
        workers=scenario.workers,
        stubs=scenario.stubs,
        max_parallelism=scenario.max_parallelism,
    )
    failure: BaseException | None = None
    outcomes: dict[str, Outcome | None] = {}
    try:
        scenario.script(world)
        world.settle()
        outcomes = _finish(scenario, world)
        if not any(fault.kind in CHANGING for fault in world.faults.fired):
            scenario.check(world)
            if expected is not None and outcomes != expected:
                raise ResultChanged(f"{outcomes}, without faults {expected}")
    except Exception as error:  # a law, or a fault of the engine's that nobody thought of
        failure = error
    finally:
        world.close()
    return Run(scenario=scenario, plan=plan, world=world, failure=failure, outcomes=outcomes)


def _finish(scenario: Scenario, world: World) -> dict[str, Outcome | None]:
    store = world.open_disk()
    store.open(max_parallelism=None)
    try:
        loaded = world.history.check_store(store)
    finally:
        store.close()
    for each in loaded:
        check_replay(world.rules, each)
    for deed in world.deeds:
        if not deed.is_done:
            raise Stuck(f"a client was never answered: {deed.name}")
    for each in loaded:
        state = each.state
        if state.outcome is None and state.workflow_id not in scenario.may_wait:
            steps = [f"{r.number} {r.command.name} {r.state}" for r in state.live.values()]
            raise Stuck(
                f"{state.workflow_id} is in progress, and nothing moves: owner {state.owner}, wakes"
                f" at {state.wake_at}, blocked {state.blocked}, open steps {steps}"
            )
    # A child's id has the epoch of its parent in it, which depends on who took that up, and when.
    return {_EPOCH.sub("", each.state.workflow_id): each.state.outcome for each in loaded}


_EPOCH = re.compile(r"@\d+")


# --- plans ----------------------------------------------------------------------------------------


def single_faults(census: dict[tuple[str, str], int]) -> Iterator[Fault]:
    """Every fault at every place that a run passed: by occurrence, so that each site comes early.

    Half as many occurrences again are tried: a run with a fault passes more.
    """
    most = max(census.values(), default=0)
    for occurrence in range(1, most + most // 2 + 1):
        for (actor, site), count in sorted(census.items()):
            if occurrence <= count + count // 2 and (occurrence == 1 or count > 1):
                for kind, burst, duration in KINDS.get(site, ()):
                    yield Fault(actor, site, occurrence, kind, burst, duration)


def spread(faults: Iterable[Fault], census: Mapping[tuple[str, str], int]) -> list[Fault]:
    """The same faults in an order in which any first part is spread over the run.

    Each kind at each site comes at its first passing, at the last that the census knows, in the
    middle, and then in the middle of what is left between; passings beyond the census come last.
    """
    groups: dict[tuple[str, str], dict[tuple[str, int, int], list[Fault]]] = {}
    for fault in faults:
        kinds = groups.setdefault((fault.actor, fault.site), {})
        kinds.setdefault((fault.kind, fault.burst, fault.duration), []).append(fault)
    ranked: list[tuple[int, int, Fault]] = []
    for place, kinds in groups.items():
        for number, group in enumerate(kinds.values()):
            within = sorted(fault for fault in group if fault.occurrence <= census[place])
            beyond = sorted(fault for fault in group if fault.occurrence > census[place])
            chosen = [*(within[index] for index in _halved(len(within))), *beyond]
            ranked += ((rank, number, fault) for rank, fault in enumerate(chosen))
    return [fault for *_, fault in sorted(ranked, key=lambda each: each[:2])]


def _halved(length: int) -> Iterator[int]:
    """All numbers below `length`: both ends, then the middle of each gap, the wide ones first."""
    yield from (0, length - 1)[:length]
    gaps = deque([(0, length - 1)])
    while gaps:
        low, high = gaps.popleft()
        if high - low > 1:
            middle = (low + high) // 2
            yield middle
            gaps += [(low, middle), (middle, high)]


def pairs(census: dict[tuple[str, str], int]) -> Iterator[FaultPlan]:
    """Every two single faults together, but not two at one place: so many, for a small scope."""
    for one, other in itertools.combinations(single_faults(census), 2):
        if (one.actor, one.site, one.occurrence) != (other.actor, other.site, other.occurrence):
            yield FaultPlan([one, other])


def count_pairs(census: dict[tuple[str, str], int]) -> int:
    """How many `pairs` gives."""
    places = Counter((each.actor, each.site, each.occurrence) for each in single_faults(census))
    return math.comb(places.total(), 2) - sum(math.comb(count, 2) for count in places.values())


def random_plan(rng: random.Random, census: dict[tuple[str, str], int], most: int) -> FaultPlan:
    """A plan of up to `most` faults, few more often than many."""
    places = sorted(place for place in census if place[1] in KINDS)
    faults: dict[Any, Fault] = {}
    for _ in range(1 + min(int(rng.expovariate(0.5)), most - 1)):
        actor, site = rng.choice(places)
        count = census[actor, site]
        occurrence = rng.randint(1, max(1, count + count // 2))
        kind, burst, duration = rng.choice(KINDS[site])
        fault = Fault(actor, site, occurrence, kind, burst, duration)
        faults[actor, site, occurrence] = fault
    return FaultPlan(faults.values())


# --- strategies -----------------------------------------------------------------------------------


@attrs.define
class Explorer:
    """Explores one scenario on one kind of disk."""

    scenario: Scenario
    make_disk: Callable[[], Disk]
    census: dict[tuple[str, str], int] = attrs.field(factory=dict)
    expected: dict[str, Outcome | None] = attrs.field(factory=dict)

    def begin(self) -> Run:
        """The run without faults; it says what is possible, and what is expected."""
        found = run(self.scenario, FaultPlan(), self.make_disk)
        self.census = dict(found.world.faults.census)
        self.expected = dict(found.outcomes)
        return found

    def try_plan(self, plan: FaultPlan) -> Run:
        """One run."""
        return run(self.scenario, plan, self.make_disk, self.expected)

    def sweep(self) -> Iterator[Run]:
        """Each fault alone."""
        for fault in single_faults(self.census):
            yield self.try_plan(FaultPlan([fault]))

    def soak(self, seed: int, most: int = 8) -> Iterator[Run]:
        """Random plans, for ever."""
        rng = random.Random(seed)
        while True:
            yield self.try_plan(random_plan(rng, self.census, most))

    def shrink(self, failed: Run) -> Run:
        """The same failure with as few faults as possible."""
        kind = type(failed.failure)
        best = failed
        is_smaller = True
        while is_smaller:
            is_smaller = False
            for plan in _smaller(best.plan):
                tried = self.try_plan(plan)
                if type(tried.failure) is kind:
                    best, is_smaller = tried, True
                    break
        return best


def _smaller(plan: FaultPlan) -> Iterable[FaultPlan]:
    for fault in plan:
        yield plan.without(fault)
    for fault in plan:
        rest = plan.without(fault)
        if fault.burst > 1:
            yield FaultPlan([*rest, attrs.evolve(fault, burst=1)])
