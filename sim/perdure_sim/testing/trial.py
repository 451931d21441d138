"""What a test of `simulate` does when it is called: without faults, the sweep, then Hypothesis."""

from __future__ import annotations

import copy
import inspect
import math
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

import attrs
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample
from hypothesis.reporting import report as hypothesis_reports
from hypothesis.strategies import DataObject, DrawFn, SearchStrategy

from perdure.definitions import Definer

from ..explore import explorer
from ..explore.portions import DigestsDiffer
from ..explore.targets import TargetError
from ..faults.plan import Fault, FaultPlan
from ..faults.sites import check
from ..laws.replaying import ReplayDiffers, Shape
from ..world.disks import Disk
from .conditions import NeverReached, class_for
from .disks import OneDisk, Setup, StoreName
from .endless import NoEnd
from .failure_report import Failure, tell
from .fault_sets import FaultSet
from .garbage import collecting_between_runs
from .known_runs import KnownRuns
from .options import options
from .plans import (
    Space,
    alone,
    befalling_remedies,
    plan_texts,
    random_plan,
    swept_in_order,
    swept_plans,
)
from .repeating import differ_elsewhere, forget_asked, why_not_elsewhere
from .run_differences import difference
from .running import EVENTS_FACTOR, Finished, Script, Stage
from .simulation import Simulation

Arguments: TypeAlias = dict[str, Any]
MakeDisk: TypeAlias = Callable[[], Disk]

#: Examples that are run without faults first, and swept.
SWEPT_EXAMPLES = 3

#: Simulated events of a sweep, over all examples, where the test does not say it.
SWEEP_EVENTS = 3_000

#: Runs to find simpler arguments under which a swept fault does the same.
SIMPLER_MAX = 60

#: So many different runs that do not end are looked at, to find a simple one.
ENDLESS_MAX = 5

#: No wall clock, no database, the same examples in each process.
_QUIET = settings(
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@attrs.define
class Swept:
    """How far a sweep has come.

    Attributes:
        budget: simulated events, over all examples.
        examples: those that are swept.
        tried: plans, with any of them.
        done: runs.
        possible: runs that there are.
        events: of the runs that were made.
    """

    budget: int
    examples: list[Arguments] = attrs.field(factory=list)
    tried: set[tuple[Fault, ...]] = attrs.field(factory=set)
    done: int = 0
    possible: int = 0
    events: int = 0

    def __str__(self) -> str:
        text = f"swept {self.done:,} of {self.possible:,}"
        if not 0 < self.done < self.possible:
            return text
        thousands = math.ceil(self.events * self.possible / self.done / 1_000)
        return f"{text} (for all: sweep={thousands * 1_000:_})"


@attrs.define(eq=False, kw_only=True)
class Trial:
    """One test function, and how it is explored.

    Attributes:
        space: what plans are drawn from; it stands while Hypothesis runs.
        failures: the last failure of each class, which is the smallest.
    """

    test: Callable[..., None]
    manager: Definer
    setup: Setup | None
    workers: int
    faults: FaultSet
    max_examples: int | None
    sweep: bool | int
    store: StoreName
    events_max: int
    strategies: dict[str, SearchStrategy[Any]]
    space: Space | None = None
    failures: dict[type[BaseException], Failure] = attrs.field(factory=dict)
    _stage: Stage | None = None
    _texts: SearchStrategy[str] | None = None
    _declared: set[str] = attrs.field(factory=set)
    _reached: set[str] = attrs.field(factory=set)
    _known_runs: KnownRuns = attrs.field(factory=KnownRuns)
    _endless: set[tuple[str, FaultPlan]] = attrs.field(factory=set)
    _late: list[tuple[Arguments, FaultPlan, tuple[Shape, ...]]] = attrs.field(factory=list)

    # --- the whole test -----------------------------------------------------------------------

    def __call__(
        self, inner: Callable[..., None], args: tuple[Any, ...], kwargs: Arguments
    ) -> None:
        """Run the test: all that belongs to it."""
        __tracebackhide__ = True
        with collecting_between_runs():
            self._call_inner(inner, args, kwargs)

    def _call_inner(
        self, inner: Callable[..., None], args: tuple[Any, ...], kwargs: Arguments
    ) -> None:
        __tracebackhide__ = True
        self._begin()
        found: Any = inner
        before = dict(vars(found))
        named = dict(inspect.signature(inner).bind(*args, **kwargs).arguments)
        try:
            self._set_up(found)
            failure = None if options.plan is not None else self._explore(named)
            if failure is not None:
                self._only(found, failure)
            found(*args, **kwargs)
            if failure is not None:
                raise _not_again(failure)
            if options.plan is None:
                self._check_reached()
        except BaseException as error:
            tell(self, error)
            raise
        finally:
            vars(found).clear()
            vars(found).update(before)
            self.close()

    def _begin(self) -> None:
        self.close()
        self.failures.clear()
        self._declared.clear()
        self._reached.clear()
        self._known_runs = KnownRuns()
        self._endless.clear()
        self._late.clear()

    def close(self) -> None:
        """No more runs for now."""
        if self._stage is not None:
            self._stage.close()
        self._stage = self.space = self._texts = None

    @property
    def stage(self) -> Stage:
        """Where the runs take place."""
        if self._stage is None:
            self._stage = self._make_stage()
        return self._stage

    def _make_stage(self) -> Stage:
        return Stage(
            manager=self.manager,
            setup=self.setup,
            workers=self.workers,
            faults=self.faults,
            store=self.store,
            events_max=self.events_max,
        )

    def _set_up(self, inner: Any) -> None:
        """What Hypothesis shall do, if the test's own settings do not say it."""
        own: settings = inner._hypothesis_internal_use_settings
        usual = settings.get_profile(settings.get_current_profile_name())
        changes: dict[str, Any] = {}
        if own.deadline == usual.deadline:
            changes["deadline"] = None  # the first run is slow, and time is virtual
        wanted = options.examples or self.max_examples
        if wanted is not None:
            changes["max_examples"] = wanted
        phases = set(own.phases)
        if own.phases == usual.phases:
            phases.discard(Phase.explain)  # many runs, to say what the plan says already
        if options.plan is not None:
            phases -= {Phase.explicit, Phase.reuse}
        changes["phases"] = tuple(phase for phase in Phase if phase in phases)
        inner._hypothesis_internal_use_settings = settings(own, **changes)
        for each in getattr(inner, "hypothesis_explicit_examples", ()):
            if not each.args:
                each.kwargs.setdefault("plan", "")

    def _only(self, inner: Any, failure: Failure) -> None:
        """Have Hypothesis run, and tell of, what has failed already."""
        from hypothesis import example

        inner.hypothesis_explicit_examples = []
        example(**failure.drawn, plan=str(failure.plan))(inner)
        own = inner._hypothesis_internal_use_settings
        inner._hypothesis_internal_use_settings = settings(own, phases=[Phase.explicit])

    def _check_reached(self) -> None:
        missing = sorted(self._declared - self._reached)
        if missing:
            raise class_for(NeverReached, missing[0])(
                f"sometimes {', '.join(map(repr, missing))}: in none of {self.stage.runs:,} runs"
            )

    # --- one run ------------------------------------------------------------------------------

    def example(self, kwargs: Arguments, plan: str | FaultPlan) -> None:
        """One run, under a plan; raises what fails.

        Args:
            kwargs: what the test is called with beside the simulation.
        """
        __tracebackhide__ = True
        if isinstance(plan, str):
            plan = FaultPlan.parse(plan)
        check(plan)
        if self._known_runs.has(self._drawn(kwargs), self.faults.cut(plan)):
            return
        place = (repr(self._drawn(kwargs)), plan)
        if len(self._endless) >= ENDLESS_MAX and place not in self._endless:
            return  # each takes seconds: what has been found is small enough
        finished = self._run(kwargs, plan)
        if finished.passed is not None:
            raise finished.passed
        if finished.failure is not None:
            if isinstance(finished.failure, NoEnd):
                self._endless.add(place)
            self._keep(kwargs, plan, finished.failure)
            raise finished.failure

    def _run(self, kwargs: Arguments, plan: FaultPlan) -> Finished:
        kept = _copied(self._drawn(kwargs))  # the test may change what it is given
        finished = self.stage.run(self.script(kwargs), plan)
        self._declared |= finished.declared
        self._reached |= finished.reached
        if finished.passed is None and finished.failure is None:
            self._known_runs.add(kept, self.faults.cut(plan), finished.world.faults.census)
        if finished.asked:
            self._late.append(({**kwargs, **kept}, plan, finished.asked))
        return finished

    def script(self, kwargs: Arguments) -> Script:
        """The test's function, without its simulation."""

        def script(sim: Simulation) -> object:
            __tracebackhide__ = True
            return self.test(sim=sim, **kwargs)  # type: ignore[func-returns-value]

        return script

    def _keep(self, kwargs: Arguments, plan: FaultPlan, error: Exception) -> Failure:
        failure = Failure(
            error=error,
            plan=plan,
            kwargs=kwargs,
            drawn=self._drawn(kwargs),
        )
        self.failures[type(error)] = failure
        return failure

    # --- before Hypothesis --------------------------------------------------------------------

    def _explore(self, kwargs: Arguments) -> Failure | None:
        """Run the first examples without faults, twice, and with single ones; gives what fails.

        It is Hypothesis that calls, so that `assume`, `note` and `event` are at home in the test.
        """
        self.space = Space()
        swept = Swept(budget=SWEEP_EVENTS if self.sweep is True else int(self.sweep))
        failures: list[Failure] = []

        def explore(drawn: Arguments) -> None:
            if not failures:
                failure = self._explore_one(kwargs, drawn, swept)
                failures.extend([] if failure is None else [failure])

        self.stage.waits = False
        try:
            self._call(explore, SWEPT_EXAMPLES)
        except BaseException:
            forget_asked()
            raise
        finally:
            self.stage.waits = True
        late = self._differ_elsewhere()
        if late is not None and not failures:
            failures.append(late)
        if self.sweep:
            hypothesis_reports(str(swept))
        why_not = why_not_elsewhere(self.manager)
        if why_not is not None:
            hypothesis_reports(f"not replayed in another process: {why_not}")
        if not failures:
            return None
        failure = failures[0]
        # (That two runs differ is seen of two runs only: no search for simpler ones would find it.
        # And a run that does not end takes too long for many of them.)
        is_told_as_it_is = isinstance(failure.error, DigestsDiffer | NoEnd)
        return failure if is_told_as_it_is else self._simpler(failure, kwargs)

    def _differ_elsewhere(self) -> Failure | None:
        """The first of the runs whose journals another process replays otherwise.

        It was asked while it started; that run is made again, to fail as any other does.
        """
        late, self._late = self._late, []
        differ = differ_elsewhere(self.manager, [shape for *_, asked in late for shape in asked])
        self.stage.seen -= differ
        if differ:
            self._known_runs = KnownRuns()  # they were taken for runs that pass
        for kwargs, plan, asked in late:
            if not differ.isdisjoint(asked):
                error = self._run({**kwargs, **_copied(self._drawn(kwargs))}, plan).failure
                if error is not None:
                    return self._keep(kwargs, plan, error)
        return None

    def _drawn(self, kwargs: Arguments) -> Arguments:
        return {name: kwargs[name] for name in self.strategies if name in kwargs}

    def _call(self, fn: Callable[[Arguments], None], examples: int) -> None:
        """Have Hypothesis call a function with the first examples, always the same ones."""
        quiet = settings(_QUIET, max_examples=examples, phases=[Phase.generate])
        quiet(given(st.fixed_dictionaries(self.strategies))(fn))()

    def _explore_one(self, kwargs: Arguments, drawn: Arguments, swept: Swept) -> Failure | None:
        kept = _copied(drawn)
        finished = self._run({**kwargs, **drawn}, FaultPlan())
        self._take(finished)
        if finished.failure is not None:
            return self._keep({**kwargs, **kept}, FaultPlan(), finished.failure)
        if kept in swept.examples or any(isinstance(each, DataObject) for each in kept.values()):
            return None  # (what is drawn inside the test cannot be drawn again here)
        swept.examples.append(kept)
        again = self._run({**kwargs, **_copied(kept)}, FaultPlan())
        error = again.failure or difference(finished.world, again.world)
        if error is not None:
            return self._keep({**kwargs, **kept}, FaultPlan(), error)
        events = finished.world.events
        self.stage.events_max = max(self.stage.events_max, EVENTS_FACTOR * events)
        self.stage.endless.usual = max(self.stage.endless.usual, events)
        return self._sweep(kwargs, kept, finished, swept) if self.sweep else None

    def _take(self, finished: Finished) -> None:
        """What a run without faults says of the others."""
        if finished.passed is not None:
            raise finished.passed
        if self.space is not None:
            self.space.add(finished.world.faults.census, finished.ranges, finished.lateness)

    def _sweep(
        self, kwargs: Arguments, kept: Arguments, first: Finished, swept: Swept
    ) -> Failure | None:
        plans = swept_plans(first.world.faults.census, first.ranges, self.faults, first.lateness)
        swept.possible += len(plans)
        number, most = len(swept.examples) - 1, SWEPT_EXAMPLES if self.strategies else 1
        limit = self.stage.events + swept.budget // most
        ahead = deque(swept_in_order(plans, number, most, swept.tried))
        usual = first.world.faults.census
        while ahead and self.stage.events < limit:
            faults = ahead.popleft()
            plan = FaultPlan(faults)
            finished = self._run({**kwargs, **_copied(kept)}, plan)
            swept.done += 1
            swept.events += finished.world.events
            swept.tried.add(faults)
            if finished.failure is not None:
                failure = self._keep({**kwargs, **kept}, plan, finished.failure)
                return self._fewer(failure, kept)
            if len(faults) == 1:
                census = finished.world.faults.census
                more = list(befalling_remedies(faults[0], census, usual, self.faults))
                swept.possible += len(more)
                ahead.extendleft(reversed(more))
        return None

    def _fewer(self, failure: Failure, kept: Arguments) -> Failure:
        """The same failure under one fault alone, if one of several is enough."""
        for plan in () if isinstance(failure.error, NoEnd) else alone(failure.plan):
            finished = self._run({**failure.kwargs, **_copied(kept)}, plan)
            error = finished.failure
            if error is not None and type(error) is type(failure.error):
                return self._keep({**failure.kwargs, **kept}, plan, error)
        return failure

    def _simpler(self, failure: Failure, kwargs: Arguments) -> Failure:
        """The same failure with simpler arguments, if a few runs find one."""
        if not self.strategies:
            return failure
        runs = 0

        def fails(drawn: Arguments) -> bool:
            nonlocal runs
            runs += 1
            if runs > SIMPLER_MAX:
                return False
            kept = {**kwargs, **_copied(drawn)}
            finished = self._run({**kwargs, **drawn}, failure.plan)
            if finished.passed is not None:
                raise finished.passed
            if type(finished.failure) is not type(failure.error):
                return False
            assert finished.failure is not None
            self._keep(kept, failure.plan, finished.failure)
            return True

        quiet = settings(
            _QUIET, max_examples=SIMPLER_MAX // 2, phases=[Phase.generate, Phase.shrink]
        )
        try:
            find(st.fixed_dictionaries(self.strategies), fails, settings=quiet)
        except NoSuchExample:
            self.failures[type(failure.error)] = failure
        return self.failures[type(failure.error)]

    # --- for the command line -----------------------------------------------------------------

    def scenario(self) -> explorer.Scenario:
        """The test as a scenario, with the first arguments that its strategies give.

        Raises:
            TargetError: it needs arguments that only pytest has.
        """
        parameters = inspect.signature(self.test).parameters
        missing = [name for name in parameters if name != "sim" and name not in self.strategies]
        if missing:
            raise TargetError(
                f"{self.test.__name__}: {missing[0]} comes from pytest (a fixture, parametrize or a"
                " class): only pytest can run this test"
            )
        drawn, space = self._simplest(), Space()

        def run(
            scenario: explorer.Scenario, plan: FaultPlan, make_disk: MakeDisk, detail: bool
        ) -> explorer.Run:
            def disk() -> Disk:
                made = make_disk()
                if self.setup is not None:
                    made.prepare(self.setup)
                return made

            stage = self.stage
            if self.store != "postgresql":  # whose tables are made by another SQL
                stage = attrs.evolve(stage, disks=OneDisk(disk))
            finished = stage.run(self.script(_copied(drawn)), plan, detail=detail)
            if not plan:
                space.add(finished.world.faults.census, finished.ranges, finished.lateness)
            return explorer.Run(
                scenario=scenario,
                plan=plan,
                world=finished.world,
                failure=finished.failure,
                outcomes={},
                reached=frozenset(),
            )

        return explorer.Scenario(
            name=self.test.__name__,
            definer=self.manager,
            script=lambda world: None,
            workers=self.workers,
            setup=self.setup,
            runner=run,
            singles=lambda: [
                FaultPlan(faults)
                for faults in swept_plans(space.census, space.ranges, self.faults, space.lateness)
            ],
            draw=lambda rng, most: random_plan(rng, space, self.faults, most),
        )

    def _simplest(self) -> Arguments:
        found: list[Arguments] = []
        self._call(lambda drawn: found.append(drawn), 1)  # noqa: PLW0108  Hypothesis wants a function.
        return found[0]

    # --- what Hypothesis draws ----------------------------------------------------------------

    def plan_strategy(self) -> SearchStrategy[str]:
        """Plans as texts; of which, is known when the first runs were made."""

        @st.composite
        def plan(draw: DrawFn) -> str:
            if options.plan is not None:
                return options.plan
            if self._texts is None:
                if self.space is None:  # called by somebody else than `__call__`: a fuzzer
                    self._explore_alone()
                assert self.space is not None
                self._texts = plan_texts(self.space, self.faults)
            return draw(self._texts)

        return plan()

    def _explore_alone(self) -> None:
        """Find out what plans are drawn from, in the middle of an example of Hypothesis.

        In a thread: no test of Hypothesis may run inside another.
        """
        space, stage = Space(), self._make_stage()
        errors: list[BaseException] = []

        def run(drawn: Arguments) -> None:
            finished = stage.run(self.script(drawn), FaultPlan())
            if finished.passed is not None:
                raise finished.passed
            space.add(finished.world.faults.census, finished.ranges, finished.lateness)

        def explore() -> None:
            try:
                self._call(run, SWEPT_EXAMPLES)
            except BaseException as error:
                errors.append(error)
            finally:
                stage.close()

        thread = threading.Thread(target=explore, name="perdure-census")
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        self.space = space


def _not_again(failure: Failure) -> Exception:
    """What is told of a failure that did not come again."""
    error = failure.error
    if isinstance(error, DigestsDiffer | ReplayDiffers):
        return error  # that it is not the same each time is what it says
    found = DigestsDiffer(
        f"it failed once, and the same run not again, so it is left to chance: {error!r}"
    )
    found.__cause__ = error
    return found


def _copied(drawn: Arguments) -> Arguments:
    """The arguments of another run, which may change what it is given."""
    try:
        return copy.deepcopy(drawn)
    except Exception:
        return dict(drawn)
