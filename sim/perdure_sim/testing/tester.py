"""What a test of `simulate` does when it is called: without faults, the sweep, then Hypothesis."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import attrs
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample
from hypothesis.reporting import report as hypothesis_reports
from hypothesis.strategies import DataObject, DrawFn, SearchStrategy

from perdure.definitions import Definer

from ..explore.portions import DigestsDiffer
from ..faults.plan import FaultPlan
from ..faults.sites import check
from .conditions import NeverReached, class_for
from .disks import Setup, StoreName
from .drawing import Space, plan_texts, swept
from .failures import Failure, tell
from .options import options
from .presets import FaultSet
from .running import EVENTS_FACTOR, EVENTS_MIN, Finished, Script, Stage
from .simulation import Simulation

Arguments: TypeAlias = dict[str, Any]

#: Examples that are run without faults first, and swept.
SWEPT_EXAMPLES = 3

#: Simulated events of a sweep, over all examples, where the test does not say it.
SWEEP_EVENTS = 3_000

#: Runs to find simpler arguments under which a swept fault does the same.
SIMPLER_MAX = 60

#: No wall clock, no database, the same examples in each process.
_QUIET = settings(
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@attrs.define(eq=False, kw_only=True)
class Tester:
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
    strategies: dict[str, SearchStrategy[Any]]
    space: Space | None = None
    failures: dict[type[BaseException], Failure] = attrs.field(factory=dict)
    _stage: Stage | None = None
    _texts: SearchStrategy[str] | None = None
    _declared: set[str] = attrs.field(factory=set)
    _reached: set[str] = attrs.field(factory=set)

    # --- the whole test -----------------------------------------------------------------------

    def __call__(
        self, inner: Callable[..., None], args: tuple[Any, ...], kwargs: Arguments
    ) -> None:
        """Run the test: all that belongs to it."""
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
                raise DigestsDiffer(f"it failed once, and not again: {failure.error!r}")
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

    def close(self) -> None:
        """No more runs for now."""
        if self._stage is not None:
            self._stage.close()
        self._stage = self.space = self._texts = None

    @property
    def stage(self) -> Stage:
        """Where the runs take place."""
        if self._stage is None:
            self._stage = Stage(
                manager=self.manager,
                setup=self.setup,
                workers=self.workers,
                faults=self.faults,
                store=self.store,
            )
        return self._stage

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
        finished = self._run(kwargs, plan)
        if finished.passed is not None:
            raise finished.passed
        if finished.failure is not None:
            self._keep(kwargs, plan, finished.failure)
            raise finished.failure

    def _run(self, kwargs: Arguments, plan: FaultPlan) -> Finished:
        finished = self.stage.run(self.script(kwargs), plan)
        self._declared |= finished.declared
        self._reached |= finished.reached
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
            drawn={name: kwargs[name] for name in self.strategies if name in kwargs},
        )
        self.failures[type(error)] = failure
        return failure

    # --- before Hypothesis --------------------------------------------------------------------

    def _explore(self, kwargs: Arguments) -> Failure | None:
        """Run without faults, twice, and then with single ones; gives what fails."""
        space = self.space = Space()
        examples: list[tuple[Arguments, Finished]] = []
        for drawn, finished in self._first_examples(kwargs):
            if finished.failure is not None:
                return self._keep({**kwargs, **drawn}, finished.plan, finished.failure)
            space.add(finished.world.faults.census, finished.ranges)
            if any(isinstance(value, DataObject) for value in drawn.values()):
                continue  # what is drawn later cannot be drawn again here
            examples.append((drawn, finished))
        for drawn, finished in examples:
            again = self._run({**kwargs, **_copied(drawn)}, FaultPlan())
            if again.failure is None:
                again = attrs.evolve(again, failure=_difference(finished, again))
            if again.failure is not None:
                return self._keep({**kwargs, **drawn}, FaultPlan(), again.failure)
        most = max((each.world.events for _, each in examples), default=0)
        self.stage.events_max = EVENTS_MIN + EVENTS_FACTOR * most
        return self._sweep(kwargs, examples) if self.sweep else None

    def _first_examples(self, kwargs: Arguments) -> list[tuple[Arguments, Finished]]:
        found: list[tuple[Arguments, Finished]] = []

        def run(drawn: Arguments) -> None:
            kept = _copied(drawn)
            finished = self._run({**kwargs, **drawn}, FaultPlan())
            if finished.passed is not None:
                raise finished.passed
            if not any(kept == earlier for earlier, _ in found):
                found.append((kept, finished))

        if not self.strategies:
            run({})
            return found
        quiet = settings(_QUIET, max_examples=SWEPT_EXAMPLES, phases=[Phase.generate])
        quiet(given(st.fixed_dictionaries(self.strategies))(run))()
        return found

    def _sweep(
        self, kwargs: Arguments, examples: list[tuple[Arguments, Finished]]
    ) -> Failure | None:
        budget = SWEEP_EVENTS if self.sweep is True else int(self.sweep)
        done = possible = 0
        for number, (drawn, first) in enumerate(examples):
            plans = swept(first.world.faults.census, first.ranges, self.faults)
            possible += len(plans)
            limit = self.stage.events + budget // len(examples)
            # Each example begins elsewhere, so that together they are spread more.
            for plan in plans[number :: len(examples)] + _others(plans, number, len(examples)):
                if self.stage.events >= limit:
                    break
                finished = self._run({**kwargs, **_copied(drawn)}, plan)
                done += 1
                if finished.failure is not None:
                    failure = self._keep({**kwargs, **drawn}, plan, finished.failure)
                    return self._simpler(failure, kwargs)
        hypothesis_reports(f"swept {done:,} of {possible:,}")
        return None

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
        self.space = Space()
        for _, finished in self._first_examples({}):
            self.space.add(finished.world.faults.census, finished.ranges)


def _copied(drawn: Arguments) -> Arguments:
    """The arguments of another run, which may change what it is given."""
    try:
        return copy.deepcopy(drawn)
    except Exception:
        return dict(drawn)


def _others(plans: list[FaultPlan], number: int, of: int) -> list[FaultPlan]:
    return [plan for index, plan in enumerate(plans) if index % of != number]


def _difference(one: Finished, other: Finished) -> DigestsDiffer | None:
    digests = [each.world.trace.digest() for each in (one, other)]
    if digests[0] == digests[1]:
        return None
    return DigestsDiffer(
        "the same run without faults went otherwise the second time; is there something in the"
        " test, in a stub or in an action that keeps values from run to run, or that is left to"
        f" chance? The digests of the two are {digests}"
    )
