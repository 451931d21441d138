"""Runs of a scenario under plans: one, each single fault, random ones; and what a run found.

A census (a run in which nothing goes wrong) says where faults are possible. The sweep tries each
of them alone, which finds most bugs; the soak draws plans with several. What fails is shrunk by
leaving faults out.
"""

from __future__ import annotations

import gc
import itertools
import math
import random
import sqlite3
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import attrs

from perdure.core.commands import AwaitEvent
from perdure.core.ids import WorkflowId
from perdure.core.limits import Limits
from perdure.core.outcomes import Canceled, Failed, Outcome
from perdure.core.workflow import WorkflowState
from perdure.definitions import Definer
from perdure.sometimes import observed
from perdure.store.base import Loaded

from ..faults.plan import Fault, FaultPlan
from ..faults.sites import CHANGING, KINDS, NO_MORE, MoreKinds
from ..laws.known import is_given_up
from ..laws.replaying import ReplayDiffers, Shape, check_replay
from ..laws.violations import Violation
from ..report.stuck import why_stuck
from ..report.wording import difference
from ..world.actions import Stub
from ..world.disks import Disk
from ..world.listening import listening
from ..world.world import EPOCH, World


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
        limits: of the engine.
        next_definer: what a deploy in the middle brings: other code for the same names.
        may_wait: ids of workflows that need not end.
        may_differ: ids of workflows whose outcome hangs on who is faster.
        may_change: kinds of fault (``jump``, or only at one site: ``turn=jump``) under which they
            may end otherwise, beside those under which any workflow may.
        check: looks at the world at the end, unless something happened that may change a result;
            raises if something is wrong.
        runner: makes the runs in place of all that; gets also whether they shall have detail.
        singles: what a sweep tries, in this order, in place of each single fault; called after the
            run without faults, as is
        draw: a random plan of up to so many faults.
    """

    name: str
    definer: Definer
    script: Callable[[World], object]
    stubs: dict[str, Stub] = attrs.field(factory=dict)
    workers: int = 2
    max_parallelism: int | None = None
    limits: Limits = attrs.field(factory=Limits)
    setup: Callable[[sqlite3.Connection], object] | None = None
    next_definer: Definer | None = None
    may_wait: frozenset[str] = frozenset()
    may_differ: frozenset[str] = frozenset()
    may_change: frozenset[str] = frozenset()
    check: Callable[[World], None] = lambda world: None
    runner: Callable[[Scenario, FaultPlan, Callable[[], Disk], bool], Run] | None = None
    singles: Callable[[], list[FaultPlan]] | None = None
    draw: Callable[[random.Random, int], FaultPlan] | None = None


@attrs.frozen(kw_only=True)
class Run:
    """What came of one run.

    Attributes:
        failure: the law that was broken, or what else was raised.
        outcomes: by workflow id; None for one that waits.
        reached: the points of `perdure.sometimes` that it came to.
    """

    scenario: Scenario
    plan: FaultPlan
    world: World
    failure: BaseException | None
    outcomes: dict[str, Outcome | None]
    reached: frozenset[str]


def run(
    scenario: Scenario,
    plan: FaultPlan,
    make_disk: Callable[[], Disk],
    expected: Mapping[str, Outcome | None] | None = None,
    seen: set[Shape] | None = None,
    *,
    detail: bool = False,
) -> Run:
    """One run, to its end, with all laws on.

    Args:
        expected: how the workflows end when nothing goes wrong.
        seen: see `check_replay`.
        detail: keep what people want to see of it: see `World`.
    """
    if scenario.runner is not None:
        return scenario.runner(scenario, plan, make_disk, detail)
    reached: set[str] = set()
    with _no_garbage_collection(), observed(reached.add):
        found = _run(scenario, plan, make_disk, expected, seen, detail=detail)
    return attrs.evolve(found, reached=frozenset(reached))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A run is short and has few cycles: to look for garbage in the middle of it is a fourth of
    its time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _run(
    scenario: Scenario,
    plan: FaultPlan,
    make_disk: Callable[[], Disk],
    expected: Mapping[str, Outcome | None] | None,
    seen: set[Shape] | None,
    *,
    detail: bool,
) -> Run:
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
        limits=scenario.limits,
        next_definer=scenario.next_definer,
        detail=detail,
    )
    failure: BaseException | None = None
    outcomes: dict[str, Outcome | None] = {}
    try:
        with listening(world):
            scenario.script(world)
            world.settle()
        for watch in world.watches:
            watch.check()
        outcomes = _finish(scenario, world, seen)
        if not _may_differ(scenario, world):
            scenario.check(world)
            _compare(scenario, outcomes, expected)
    except Exception as error:  # a law, or a fault of the engine's that nobody thought of
        failure = error
    finally:
        world.close()
    return Run(
        scenario=scenario,
        plan=plan,
        world=world,
        failure=failure,
        outcomes=outcomes,
        reached=frozenset(),
    )


def _compare(
    scenario: Scenario,
    outcomes: Mapping[str, Outcome | None],
    expected: Mapping[str, Outcome | None] | None,
) -> None:
    if expected is None or outcomes == expected:
        return
    for workflow_id in sorted({*outcomes, *expected}):
        now, before = outcomes.get(workflow_id), expected.get(workflow_id)
        if now != before and workflow_id not in scenario.may_differ:
            failure = ResultChanged(difference({workflow_id: now}, {workflow_id: before}))
            failure.workflow_id = workflow_id
            raise failure


def _may_change(scenario: Scenario, fault: Fault) -> bool:
    kinds = {fault.kind, f"{fault.site}={fault.kind}"}
    return fault.kind in CHANGING or not kinds.isdisjoint(scenario.may_change)


def _may_differ(scenario: Scenario, world: World) -> bool:
    """Whether something happened under which workflows may end otherwise."""
    if any(_may_change(scenario, fault) for fault in world.faults.fired):
        return True
    return any(is_given_up(known.state) for known in world.history.workflows.values())


def _finish(scenario: Scenario, world: World, seen: set[Shape] | None) -> dict[str, Outcome | None]:
    store = world.open_disk()
    store.open(max_parallelism=None)
    try:
        loaded = world.history.check_store(store)
    finally:
        store.close()
    for each in loaded:
        known = world.history.workflows[each.state.workflow_id]
        # One that was restarted and canceled before its code ran has asked for less than it would.
        if not (known.past and isinstance(each.state.outcome, Canceled)):
            _check_replay(world, each, seen)
    if any(is_given_up(each.state) for each in loaded):
        may_wait = frozenset(each.state.workflow_id for each in loaded)  # they wait for a person
    else:
        may_wait = scenario.may_wait
    if any(fault.kind in ("power_loss", "rerun", "cleanup") for fault in world.faults.fired):
        # What clients had sent was lost, or is consumed and gone; they do not send it again.
        may_wait |= _waiting_for_events(loaded)
    if not all(deed.is_done for deed in world.deeds) or any(
        each.state.outcome is None and each.state.workflow_id not in may_wait for each in loaded
    ):
        raise Stuck(why_stuck(world, may_wait))
    if world.is_at_rest:
        world.history.check_processes(world.processes, loaded)
    # A child's id has the epoch of its parent in it, which depends on who took that up, and when.
    return {
        EPOCH.sub("", each.state.workflow_id): _comparable(each.state.outcome) for each in loaded
    }


def _waiting_for_events(loaded: Iterable[Loaded]) -> set[WorkflowId]:
    """Workflows that wait for events alone, or for children that do."""
    waiting = {each.state.workflow_id: each.state for each in loaded if each.state.outcome is None}
    while True:
        others = [key for key, state in waiting.items() if not _waits_for(state, waiting)]
        if not others:
            return set(waiting)
        for key in others:
            del waiting[key]


def _waits_for_events(state: WorkflowState) -> bool:
    """Whether it waits for nothing but events."""
    return _waits_for(state, ())


def _waits_for(state: WorkflowState, children: Container[WorkflowId]) -> bool:
    """Whether it waits for nothing but events, and these children."""
    open_steps = [record for record in state.live.values() if record.outcome is None]
    return all(
        isinstance(record.command, AwaitEvent) or record.child_id in children
        for record in open_steps
    )


def _comparable(outcome: Outcome | None) -> Outcome | None:
    """Without the traceback, which says more about the path of a run than about its result."""
    if isinstance(outcome, Failed):
        return Failed(attrs.evolve(outcome.error, traceback=""))
    return outcome


def _check_replay(world: World, loaded: Loaded, seen: set[Shape] | None) -> None:
    fits = True
    try:
        check_replay(world.rules, loaded, seen)
    except ReplayDiffers:
        if world.next_rules is None:
            raise
        fits = False
    # Not inside the `except`, which would be told in the tracebacks of what the handler raises.
    if not fits and world.next_rules is not None:
        check_replay(world.next_rules, loaded, seen)  # it ended under the code of the deploy


# --- plans ----------------------------------------------------------------------------------------


def single_faults(
    census: Mapping[tuple[str, str], int], more: MoreKinds = NO_MORE
) -> Iterator[Fault]:
    """Every fault at every place that a run passed: by occurrence, so that each site comes early.

    Half as many occurrences again are tried: a run with a fault passes more.

    Args:
        more: kinds of some places beside those of their sites.
    """
    most = max(census.values(), default=0)
    for occurrence in range(1, most + most // 2 + 1):
        for (actor, site), count in sorted(census.items()):
            if occurrence <= count + count // 2 and (occurrence == 1 or count > 1):
                kinds = (*KINDS.get(site, ()), *more.get((actor, site), ()))
                for kind, burst, duration in kinds:
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
            group.sort(key=_occurrence)
            known = bisect_right(group, census[place], key=_occurrence)
            within, beyond = group[:known], group[known:]
            chosen = [*(within[index] for index in _halved(len(within))), *beyond]
            ranked += ((rank, number, fault) for rank, fault in enumerate(chosen))
    return [fault for *_, fault in sorted(ranked, key=lambda each: each[:2])]


def _occurrence(fault: Fault) -> int:
    return fault.occurrence


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


def random_plan(
    rng: random.Random,
    census: Mapping[tuple[str, str], int],
    most: int,
    *,
    without: Container[str] = (),
    more: MoreKinds = NO_MORE,
) -> FaultPlan:
    """A plan of up to `most` faults, few more often than many.

    Args:
        without: kinds that are left out, each as ``site=kind``.
        more: kinds of some places beside those of their sites.
    """
    kinds = {
        place: [
            each
            for each in (*KINDS.get(place[1], ()), *more.get(place, ()))
            if f"{place[1]}={each[0]}" not in without
        ]
        for place in sorted(census)
    }
    places = [place for place, known in kinds.items() if known]  # (`takes` has none)
    faults: dict[Any, Fault] = {}
    for _ in range(1 + min(int(rng.expovariate(0.5)), most - 1) if places else 0):
        actor, site = rng.choice(places)
        count = census[actor, site]
        occurrence = rng.randint(1, count + (count + 1) // 2)
        kind, burst, duration = rng.choice(kinds[actor, site])
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
    _seen: set[Shape] = attrs.field(factory=set, init=False)

    def begin(self) -> Run:
        """The run without faults; it says what is possible, and what is expected."""
        found = run(self.scenario, FaultPlan(), self.make_disk)
        self.census = dict(found.world.faults.census)
        self.expected = dict(found.outcomes)
        return found

    def try_plan(self, plan: FaultPlan, *, detail: bool = False) -> Run:
        """One run; with detail if it is to be looked at."""
        return run(self.scenario, plan, self.make_disk, self.expected, self._seen, detail=detail)

    def sweep(self) -> Iterator[Run]:
        """Each fault alone."""
        for plan in self.singles():
            yield self.try_plan(plan)

    def singles(self) -> Iterator[FaultPlan]:
        """Each fault alone, in an order in which any first part is spread over the run."""
        if self.scenario.singles is not None:
            yield from self.scenario.singles()
            return
        for fault in spread(single_faults(self.census), self.census):
            yield FaultPlan([fault])

    def draw(self, rng: random.Random, most: int) -> FaultPlan:
        """A random plan of up to so many faults."""
        if self.scenario.draw is not None:
            return self.scenario.draw(rng, most)
        return random_plan(rng, self.census, most)

    def soak(self, seed: int, most: int = 8) -> Iterator[Run]:
        """Random plans, for ever."""
        rng = random.Random(seed)
        while True:
            yield self.try_plan(self.draw(rng, most))

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
