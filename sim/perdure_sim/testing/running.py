"""One run of a test's function in a world of its own, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs

from perdure.definitions import Definer

from ..explore.explorer import _no_garbage_collection
from ..explore.portions import quiet
from ..faults.plan import FaultPlan
from ..laws.replaying import ReplayDiffers, Shape
from ..laws.violations import BlockedWithoutCause, Violation
from ..world.listening import listening
from ..world.world import World
from .disks import Disks, Setup, StoreName, make_disks
from .ending import check_end
from .endless import EVENTS_MAX, Endless
from .fault_sets import FaultSet
from .garbage import collect
from .lateness import NEVER_LATE, Lateness, watch
from .manager_settings import drain_seconds_of, loses_with_power, parallelism_of, rules_of
from .remedies import spare_remedies
from .repeating import check_repeatable, why_differs
from .simulation import Simulation

#: What a test does with its simulation.
Script = Callable[[Simulation], object]

#: As many times the events of the run without faults may a run with faults have.
EVENTS_FACTOR = 20


class CodeDoesNotFit(Violation):
    """New code does not fit the journal of a workflow that was on its way when it was deployed."""


@attrs.frozen(kw_only=True)
class Finished:
    """What came of one run.

    Attributes:
        failure: what the test, or a law, has raised.
        passed: what was raised that is no failure: the example is not wanted, the test skipped.
        ranges: the choices that it met, by (actor, site), each with its least and most ms.
        lateness: of a run without faults, how late attempts must be for what waits for them.
        asked: of which it is not known yet how they are replayed elsewhere.
    """

    plan: FaultPlan
    world: World
    failure: Exception | None
    passed: BaseException | None
    ranges: Mapping[tuple[str, str], list[tuple[int, int]]]
    declared: frozenset[str]
    reached: frozenset[str]
    lateness: Lateness = NEVER_LATE
    asked: tuple[Shape, ...] = ()


@attrs.define(kw_only=True)
class Stage:
    """Where the runs of one test take place: its manager's code, settings and store.

    Attributes:
        events_max: a run with more of them does not end.
        endless: whether that has happened.
        seen: see `check_replay`.
        waits: whether a run waits until the process that replays journals has started.
        disks: made of `store` and `setup` when they are first needed, if none are given.
    """

    manager: Definer
    setup: Setup | None = None
    workers: int = 2
    faults: FaultSet
    store: StoreName
    events_max: int = EVENTS_MAX
    endless: Endless = attrs.field(factory=Endless)
    seen: set[Shape] = attrs.field(factory=set)
    runs: int = 0
    events: int = 0
    waits: bool = True
    disks: Disks | None = None

    def make(self, plan: FaultPlan, *, detail: bool = False) -> Simulation:
        """A world in which nothing has happened yet. Close it before the next one is made."""
        if self.disks is None:
            self.disks = make_disks(self.store, self.setup, self.manager)
        disk = self.disks()
        if not loses_with_power(self.manager):
            disk = attrs.evolve(disk, undo_commits=None)  # what is committed is never lost
        world = World(
            self.manager,
            disk,
            self.faults.cut(plan),
            workers=self.workers,
            max_parallelism=parallelism_of(self.manager),
            detail=detail,
            rules=rules_of(self.manager),
            drain_seconds=drain_seconds_of(self.manager),
        )
        world.events_max = self.events_max
        spare_remedies(world)
        return Simulation(self.manager, world)

    def run(self, script: Script, plan: FaultPlan, *, detail: bool = False) -> Finished:
        """One run, to its end, with all laws on."""
        collect(self.runs)
        simulation = self.make(plan, detail=detail)
        world = simulation._world
        lateness = None if plan else watch(world)
        failure: Exception | None = None
        passed: BaseException | None = None
        asked: list[Shape] = []
        try:
            bounded = self.endless.bounded(world)
            with _no_garbage_collection(), quiet(), listening(world), bounded:
                if script(simulation) is not None:
                    raise TypeError("a test returns nothing; is it an `async def`, or a generator?")
                simulation._finish()
                asked = self._check_end(simulation)
        except Exception as error:
            if type(error).__module__.split(".")[0] == "hypothesis":
                passed = error  # no failure: it does not want this example
            else:
                failure = _as_of_a_deploy(error) if simulation._deployed else error
        except BaseException as error:
            passed = error
        finally:
            world.close()
        self.runs += 1
        self.events += world.events
        if isinstance(passed, KeyboardInterrupt | SystemExit):
            raise passed
        conditions = simulation._conditions
        return Finished(
            plan=plan,
            world=world,
            failure=failure,
            passed=passed,
            ranges=simulation.ranges,
            declared=frozenset(conditions.declared),
            reached=frozenset(conditions.reached),
            lateness=NEVER_LATE if lateness is None else lateness(),
            asked=tuple(asked),
        )

    def _check_end(self, simulation: Simulation) -> list[Shape]:
        """All that must hold in the end; gives what another process was asked."""
        world, deployed = simulation._world, simulation._deployed
        try:
            check_end(world, deployed, self.seen)
        except ReplayDiffers as differs:
            raise differs if deployed else why_differs(self.manager, world, differs) from None
        if deployed:
            return []
        return check_repeatable(self.manager, world, self.seen, waits=self.waits)

    def close(self) -> None:
        """There are no more runs for now."""
        if self.disks is not None:
            self.disks.close()
            self.disks = None


def _as_of_a_deploy(error: Exception) -> Exception:
    """The same failure by the name of its cause, if the test's own deploy is that."""
    if not isinstance(error, BlockedWithoutCause):
        return error
    return CodeDoesNotFit(*error.args).with_traceback(error.__traceback__)
