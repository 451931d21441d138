"""`run_simulation`: one run of a world, for scripts and notebooks."""

from __future__ import annotations

import random
from collections.abc import Iterable
from datetime import timedelta

import attrs

from perdure.definitions import Definer

from ..explore.explorer import Run as ExplorerRun
from ..explore.explorer import Scenario, random_plan
from ..faults.plan import FaultPlan
from ..faults.sites import KINDS, check
from ..report.report import explain
from ..report.telling import tell
from ..report.timeline import Timeline
from ..world.clock import START_MS
from ..world.world import World
from .disks import Setup, store_of
from .fault_sets import ALL, FaultSet
from .running import Script, Stage

#: Faults of a plan that a seed draws.
FAULTS_MAX = 8


@attrs.frozen(kw_only=True, eq=False)
class Trace:
    """What happened in one run.

    Attributes:
        plan: under which it was, as a text; a seed's faults are in it.
        fired: those of its faults that happened.
        failure: what the scenario, or a law of the simulator, has raised; None if nothing.
        digest: a fingerprint: two runs of one plan have the same, in any process.
        events: how many there were.
        duration: how much virtual time has passed.
    """

    plan: str
    fired: tuple[str, ...]
    failure: Exception | None
    digest: str
    events: int
    duration: timedelta
    _world: World = attrs.field(repr=False)

    @property
    def timeline(self) -> str:
        """All that happened, in lanes, as text."""
        return Timeline(tell(self._world.trace.events)).plain()

    @property
    def report(self) -> str:
        """What went wrong and what led there, as text; empty if nothing did."""
        if self.failure is None:
            return ""
        scenario = Scenario(name="", definer=Definer(), script=lambda world: None)
        run = ExplorerRun(
            scenario=scenario,
            plan=FaultPlan.parse(self.plan),
            world=self._world,
            failure=self.failure,
            outcomes={},
            reached=frozenset(),
        )
        return explain(run)


def run_simulation(
    manager: Definer,
    scenario: Script,
    plan: str = "",
    seed: int = 0,
    *,
    setup: Setup | None = None,
    workers: int = 2,
    faults: FaultSet | Iterable[str] = ALL,
    store: str | None = None,
) -> Trace:
    """Run a scenario once, in a simulated world.

    Args:
        scenario: a function that gets the `Simulation`; what it raises is the trace's `failure`.
        plan: what goes wrong, as reports write it; nothing without.
        seed: another number than 0 draws faults in addition, the same for the same number.
        setup, workers, store: as for `simulate`.
        faults: what a seed may draw.

    Raises:
        PlanError: the plan cannot be read, or names what cannot happen.
    """
    wanted = FaultPlan.parse(plan)
    check(wanted)
    kinds = FaultSet.of(faults)
    # What a plan says by itself happens, whatever a seed may draw.
    stage = Stage(
        manager=manager,
        setup=setup,
        workers=workers,
        faults=FaultSet.of(f"{site}={kind}" for site in KINDS for kind, *_ in KINDS[site]),
        store=store_of(manager, store),
    )
    try:
        if seed:
            first = stage.run(scenario, FaultPlan())
            if first.failure is None:
                wanted = _with_seed(wanted, seed, first.world.faults.census, kinds)
        found = stage.run(scenario, wanted, detail=True)
    finally:
        stage.close()
    if found.passed is not None:
        raise found.passed
    world = found.world
    return Trace(
        plan=str(wanted),
        fired=tuple(map(str, world.faults.fired)),
        failure=found.failure,
        digest=world.trace.digest(),
        events=world.events,
        duration=timedelta(milliseconds=world.now - START_MS),
        world=world,
    )


def _with_seed(
    plan: FaultPlan, seed: int, census: dict[tuple[str, str], int], kinds: FaultSet
) -> FaultPlan:
    taken = {(fault.actor, fault.site, fault.occurrence) for fault in plan}
    drawn = random_plan(random.Random(seed), census, FAULTS_MAX, without=kinds.without)
    more = [each for each in drawn if (each.actor, each.site, each.occurrence) not in taken]
    return FaultPlan([*plan, *more])
