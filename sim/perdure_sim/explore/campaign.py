"""Many runs of several scenarios: the sweep and the soak, over one process or more.

Which faults are tried follows from the scenarios, the options and the seed, and not from how many
processes there are.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence

import attrs

from perdure.runtime.clock import Clock

from ..faults.plan import FaultPlan
from .explorer import Scenario, count_pairs, pairs
from .parallel import Board, Done, Lost, RunTooLong, carry_out
from .portions import (
    BoundedExplorer,
    DigestsDiffer,
    Failure,
    Laborer,
    Portion,
    Stores,
    Tally,
    failure_of,
    kind_of,
    quiet,
)
from .targets import Place

#: So many runs are a portion: few enough that a process soon has time for something else.
PORTION_RUNS = 20


@attrs.frozen(kw_only=True)
class Begun:
    """A scenario of which it is known how it goes when nothing goes wrong.

    Attributes:
        events: of that run.
        digest: of that run.
        census: how often each site was passed in it.
        singles: what a sweep tries.
    """

    place: Place
    name: str
    events: int
    digest: str
    census: dict[tuple[str, str], int]
    singles: tuple[FaultPlan, ...]


@attrs.define
class Swept:
    """How far a sweep has come with a scenario.

    Attributes:
        planned: runs that it shall have.
        possible: runs that there are.
    """

    planned: int
    possible: int
    done: int = 0


def begin(
    place: Place, scenario: Scenario, stores: Stores, board: Board
) -> tuple[Begun | None, Failure | None]:
    """Run a scenario without faults, twice; gives what is known of it, or what is wrong."""
    explorer = BoundedExplorer(scenario, stores.maker("begin"), board=board)
    digests = []
    try:
        with quiet():
            for _ in range(2):
                found = explorer.begin()
                digests.append(found.world.trace.digest())
                if found.failure is not None:
                    raise found.failure
        if digests[0] != digests[1]:
            raise DigestsDiffer(f"twice the same run: its digests are {digests}")
    except (Exception, RunTooLong) as error:
        return None, Failure.of(scenario.name, error, FaultPlan(), FaultPlan())
    begun = Begun(
        place=place,
        name=scenario.name,
        events=found.world.events,
        digest=digests[0],
        census=explorer.census,
        singles=tuple(explorer.singles()),
    )
    return begun, None


@attrs.define(kw_only=True)
class Campaign:
    """Runs scenarios in portions, and counts what comes of it.

    Attributes:
        jobs: so many processes; 0 for none but this one.
        keeps_going: after a failure too; else it is the end.
        board: stopping it ends the campaign.
        total: what has come of it up to now.
        swept: by the names of scenarios.
    """

    scenes: dict[Place, Scenario]
    stores: Stores
    jobs: int
    keeps_going: bool
    clock: Clock
    board: Board = attrs.field(factory=Board)
    total: Tally = attrs.field(factory=Tally)
    begun: dict[Place, Begun] = attrs.field(factory=dict)
    swept: dict[str, Swept] = attrs.field(factory=dict)
    _repeats: deque[Portion] = attrs.field(factory=deque, init=False)

    def begin(self) -> Iterator[Failure]:
        """Run each scenario without faults, twice; gives what fails even so."""
        for place, scenario in self.scenes.items():
            if self.board.is_stopped:
                return
            begun, failure = begin(place, scenario, self.stores, self.board)
            self.total.runs += 2
            if begun is not None:
                self.begun[place] = begun
                self.total.events += 2 * begun.events
            if failure is not None:
                self.total.broken[failure.scenario, failure.law] += 1
                self.total.failures.append(failure)
                if not self.keeps_going:
                    self.board.stop()
                yield failure

    @property
    def never_fired(self) -> list[str]:
        """Kinds of faults that could have happened, and did not."""
        plans = itertools.chain.from_iterable(each.singles for each in self.begun.values())
        kinds = {kind_of(fault) for plan in plans for fault in plan}
        return sorted(kind for kind in kinds if not self.total.fired[kind])

    # --- the sweep ------------------------------------------------------------------------------

    def sweep(
        self, *, with_pairs: bool = False, budget: int | None = None, max_runs: int | None = None
    ) -> Iterator[list[Failure]]:
        """Each fault alone; yields what is new, now and then.

        Args:
            with_pairs: then every two of them.
            budget: of simulated events for each scenario: so many runs as have room in it when
                each takes as many as that without faults.
            max_runs: for each scenario.
        """
        most: dict[Place, int | None] = {}
        for place, each in self.begun.items():
            possible = len(each.singles) + (count_pairs(each.census) if with_pairs else 0)
            limits = [possible] if max_runs is None else [possible, max_runs]
            if budget is not None:
                limits.append(budget // max(1, each.events))
            most[place] = min(limits)
            self.swept[each.name] = Swept(min(limits), possible)

        def portions() -> Iterator[Portion]:
            for place, each in self.begun.items():
                plans = map(str, sweep_plans(each.singles, each.census, with_pairs, most[place]))
                while batch := tuple(itertools.islice(plans, PORTION_RUNS)):
                    yield self._portion(each, plans=batch)

        yield from self._carry_out(portions())

    # --- the soak -------------------------------------------------------------------------------

    def soak(
        self,
        *,
        seed: int,
        most: int,
        seconds: float | None = None,
        runs: int | None = None,
        double: float = 0.0,
        double_runs: int | None = None,
    ) -> Iterator[list[Failure]]:
        """Random plans, for each scenario in turn; yields what is new, now and then.

        Args:
            most: faults a plan, at most.
            seconds: of real time.
            runs: so many.
            double: the share of the runs that is made again, in another process if there is one.
            double_runs: the end comes when so many were made again.
        """
        begun = list(self.begun.values())
        end = None if seconds is None else self.clock.monotonic() + seconds

        def portions() -> Iterator[Portion]:
            made = doubled = 0
            for number in itertools.count():
                if end is not None and self.clock.monotonic() >= end:
                    return
                if double_runs is not None and doubled >= double_runs:
                    return
                count = PORTION_RUNS if runs is None else min(PORTION_RUNS, runs - made)
                if count <= 0:
                    return
                # Evenly, and without chance: the share of each first part is that of the whole.
                chosen = [n for n in range(count) if _is_chosen(made + n, double)]
                if double_runs is not None:
                    chosen = chosen[: double_runs - doubled]
                made, doubled = made + count, doubled + len(chosen)
                yield self._portion(
                    begun[number % len(begun)],
                    seed=f"{seed}:{number}",
                    count=count,
                    most=most,
                    doubled=frozenset(chosen),
                )

        if begun:
            yield from self._carry_out(portions())

    # --- portions out, tallies in ---------------------------------------------------------------

    def _portion(
        self,
        begun: Begun,
        *,
        plans: tuple[str, ...] = (),
        seed: str = "",
        count: int = 0,
        most: int = 0,
        doubled: frozenset[int] = frozenset(),
    ) -> Portion:
        return Portion(
            place=begun.place,
            digest=begun.digest,
            plans=plans,
            seed=seed,
            count=count,
            most=most,
            doubled=doubled,
            known=self._known(begun.name),
            keeps_going=self.keeps_going,
        )

    def _known(self, name: str) -> frozenset[str]:
        return frozenset(each.law for each in self.total.failures if each.scenario == name)

    def _carry_out(self, portions: Iterator[Portion]) -> Iterator[list[Failure]]:
        def ask(number: int) -> Portion | None:
            if self.board.is_stopped:
                return None
            for portion in self._repeats:
                if portion.not_by != number or self.jobs < 2:
                    self._repeats.remove(portion)
                    return portion
            return next(portions, None)

        laborer = Laborer(self.stores)
        work = carry_out(laborer, ask, jobs=self.jobs, board=self.board, clock=self.clock)
        for done in work:
            yield [] if done is None else self._take(done)

    def _take(self, done: Done[Portion, Tally]) -> list[Failure]:
        portion, tally = done.task, done.answer
        begun = self.begun[portion.place]
        if isinstance(tally, Lost):
            failure, _ = failure_of(tally)
            # One that died before its first run has not said of which scenario.
            failure = attrs.evolve(failure, scenario=begun.name)
            broken = Counter({(failure.scenario, failure.law): 1})
            tally = Tally(runs=tally.runs, broken=broken, failures=[failure])
            if not self.keeps_going:
                self.board.stop()
        if tally.digests:
            repeat = self._portion(begun, plans=tuple(tally.digests))
            expected = tuple(tally.digests.values())
            self._repeats.append(
                attrs.evolve(repeat, expected_digests=expected, not_by=done.number)
            )
        if begun.name in self.swept:
            self.swept[begun.name].done += tally.runs
        return self.total.add(tally)


def sweep_plans(
    singles: Sequence[FaultPlan],
    census: dict[tuple[str, str], int],
    with_pairs: bool,
    most: int | None,
) -> Iterator[FaultPlan]:
    """Each fault alone, then every two if asked for, up to so many plans, spread over all."""
    yield from singles[:most]
    if with_pairs and (most is None or most > len(singles)):
        rest = None if most is None else most - len(singles)
        yield from _evenly(pairs(census), count_pairs(census), rest)


def _evenly(plans: Iterable[FaultPlan], total: int, most: int | None) -> Iterator[FaultPlan]:
    share = 1.0 if most is None else most / total
    return (plan for number, plan in enumerate(plans) if _is_chosen(number, share))


def _is_chosen(number: int, share: float) -> bool:
    """Whether a number, from 0, is among this share of all numbers, which lie evenly."""
    return int((number + 1) * share + 1e-9) > int(number * share + 1e-9)
