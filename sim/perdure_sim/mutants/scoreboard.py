"""The planted bugs, one after the other: how soon each is found, and by what.

They are planted in other processes only, so that nothing of a bug is left in this one, and one
without end ends with its process. The worlds are made while the bug is planted, and how a scenario
ends without faults is learnt with it: as it would be with a bug that is really there.
"""

from __future__ import annotations

import itertools
import os
import random
from collections import deque
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Literal, TypeAlias

import attrs

from perdure.runtime.clock import Clock, RealClock

from ..explore.explorer import Run
from ..explore.parallel import Board, Done, Lost, RunTooLong, carry_out
from ..explore.portions import (
    BoundedExplorer,
    DigestsDiffer,
    Failure,
    Stores,
    failure_of,
    quiet,
    shrunk,
)
from ..explore.targets import Place
from ..faults.plan import FaultPlan
from .patching import Mutant, MutantError, changed, planted

#: How it was found: by runs without faults, by single faults, by random plans, or because the same
#: runs went otherwise in another process.
FoundBy: TypeAlias = Literal["first runs", "sweep", "soak", "repeat"]

#: How long a process may begin no run, in seconds of real time.
SILENCE_SECONDS = 30.0

#: So many random plans are run again in another process, if nothing else finds a bug.
REPEATED_CASES = 50

#: The goal is that a bug is found by the sweep and so many random plans.
SOON_CASES = 100


@attrs.frozen(kw_only=True)
class Portfolio:
    """What is tried to find a bug.

    Attributes:
        budget: of simulated events, for the sweep of each scenario.
        runs: random plans after that, over all scenarios in turn.
        seeds: so many times, each with other random plans.
        most: faults a plan, at most.
        run_seconds: how much of the processor's time a run may take; an honest one takes a
            thousandth of it.
    """

    budget: int = 300_000
    runs: int = 1_000
    seeds: int = 1
    most: int = 8
    run_seconds: float = 5.0


@attrs.frozen(kw_only=True)
class Finding:
    """The first failure.

    Attributes:
        cases: runs until then, itself included; those that shrink it are not counted.
        soak_cases: those of them that had random plans.
        seconds: until then, of real time.
    """

    by: FoundBy
    failure: Failure
    cases: int
    soak_cases: int
    seconds: float


@attrs.frozen(kw_only=True)
class Score:
    """What came of one mutant.

    Attributes:
        findings: for each seed; None where nothing was found.
        misfit: why it could not be planted.
        digests: of some runs, if nothing was found.
        was_stopped: it was not tried to the end.
    """

    mutant: Mutant
    findings: tuple[Finding | None, ...] = ()
    misfit: str | None = None
    digests: tuple[str, ...] = ()
    was_stopped: bool = False

    @property
    def first(self) -> Finding | None:
        """What was found, with the first seed that found something."""
        return next((each for each in self.findings if each is not None), None)

    @property
    def has_survived(self) -> bool:
        """Whether it was tried, and with one seed at least not found."""
        return not self.was_stopped and (self.misfit is not None or None in self.findings)


@attrs.frozen(kw_only=True)
class Summary:
    """What came of all trials; a trial is a mutant with a seed."""

    trials: int
    found: int
    found_soon: int
    median_size: float | None
    median_cases: float | None
    median_seconds: float | None


def summary(scores: Sequence[Score]) -> Summary:
    """Count what came of the trials."""
    trials = [each for score in scores if not score.was_stopped for each in score.findings]
    found = [each for each in trials if each is not None]
    misfits = sum(score.misfit is not None for score in scores)
    return Summary(
        trials=len(trials) + misfits,
        found=len(found),
        found_soon=sum(each.soak_cases <= SOON_CASES for each in found),
        median_size=median([each.failure.size for each in found]) if found else None,
        median_cases=median([each.cases for each in found]) if found else None,
        median_seconds=median([each.seconds for each in found]) if found else None,
    )


def try_mutants(
    mutants: Sequence[Mutant],
    places: Sequence[Place],
    stores: Stores,
    portfolio: Portfolio,
    *,
    jobs: int,
    board: Board,
    clock: Clock,
    silence_seconds: float = SILENCE_SECONDS,
) -> Iterator[Score | None]:
    """Try each mutant, on so many processes; yields what is done, and None now and then."""
    waiting = deque(Errand(mutant) for mutant in mutants)

    def ask(number: int) -> Errand | None:
        return waiting.popleft() if waiting and not board.is_stopped else None

    trial = Trial(places=tuple(places), stores=stores, portfolio=portfolio)
    work = carry_out(
        trial, ask, jobs=jobs, board=board, clock=clock, silence_seconds=silence_seconds
    )
    for done in work:
        score = None if done is None else _score(done, portfolio)
        if score is not None and done is not None and score.digests and done.task.before is None:
            waiting.append(Errand(score.mutant, score))  # it looks as if it had survived
        else:
            yield score


@attrs.frozen
class Errand:
    """A mutant to be tried.

    Attributes:
        before: what came of it in another process: nothing was found.
    """

    mutant: Mutant
    before: Score | None = None


def _score(done: Done[Errand, Score], portfolio: Portfolio) -> Score:
    answer = done.answer
    if not isinstance(answer, Lost):
        return answer
    failure, why = failure_of(answer)
    by: FoundBy = "soak" if why == "soak" else "sweep" if why == "sweep" else "first runs"
    finding = Finding(
        by=by,
        failure=failure,
        cases=answer.runs,
        soak_cases=answer.runs if by == "soak" else 0,  # which ones died with the process
        seconds=answer.seconds,
    )
    return Score(mutant=done.task.mutant, findings=(finding,) * portfolio.seeds)


class _Found(Exception):
    """The search is over."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.by)
        self.finding = finding


@attrs.frozen(kw_only=True)
class Trial:
    """Tries a mutant, in the process that it was sent to."""

    places: tuple[Place, ...]
    stores: Stores
    portfolio: Portfolio

    def __call__(self, errand: Errand, board: Board) -> Score:
        mutant = errand.mutant
        try:
            changed(mutant)
        except (MutantError, ImportError, AttributeError, SyntaxError) as error:
            return Score(mutant=mutant, misfit=f"{type(error).__name__}: {error}")
        with quiet(), planted(mutant):
            search = _Search(self, board)
            if errand.before is None:
                score = self._try(mutant, search)
                # The next one has another hash seed: see `Errand.before`.
                board.is_spent = board.is_spent or bool(score.digests)
                return score
            return self._try_again(mutant, search, errand.before)

    def _try(self, mutant: Mutant, search: _Search) -> Score:
        findings: list[Finding | None] = []
        try:
            search.begin()
            search.sweep(self.portfolio.budget)
        except _Found as found:
            return Score(mutant=mutant, findings=(found.finding,) * self.portfolio.seeds)
        for seed in range(self.portfolio.seeds):
            try:
                search.soak(seed, self.portfolio.runs)
            except _Found as found:
                findings.append(found.finding)
            else:
                findings.append(None)
        digests = search.digests() if not any(findings) else ()
        was_stopped = search.is_stopped
        return Score(
            mutant=mutant,
            findings=tuple(findings),
            digests=() if was_stopped else digests,
            was_stopped=was_stopped,
        )

    def _try_again(self, mutant: Mutant, search: _Search, before: Score) -> Score:
        try:
            search.begin()
            search.compare(before.digests)
        except _Found as found:
            return Score(mutant=mutant, findings=(found.finding,) * self.portfolio.seeds)
        return attrs.evolve(before, digests=())


class _Search:
    """The runs of one trial, until one fails.

    Raises:
        _Found: from all that runs something.
    """

    def __init__(self, trial: Trial, board: Board) -> None:
        self.explorers = [
            BoundedExplorer(
                place.find(),
                trial.stores.maker(f"{os.getpid()}-{number}"),
                board=board,
                seconds=trial.portfolio.run_seconds,
            )
            for number, place in enumerate(trial.places)
        ]
        self._most = trial.portfolio.most
        self._board = board
        self._clock = RealClock()
        self._since = self._clock.monotonic()
        self._cases = self._soak_cases = 0
        self._swept = (0, 0.0)  # the cases and the seconds before the first random plan
        self._events: list[int] = []

    @property
    def is_stopped(self) -> bool:
        """Somebody wants it to end."""
        return self._board.is_stopped

    def begin(self) -> None:
        """Run each scenario without faults, twice."""
        self._begin_phase("first runs")
        for explorer in self.explorers:
            digests = []
            for _ in range(2):
                found = self._run("first runs", explorer, None)
                digests.append(found.world.trace.digest())
            if digests[0] != digests[1]:
                error = DigestsDiffer(f"twice the same run: its digests are {digests}")
                raise self._found("first runs", explorer, FaultPlan(), error)
            self._events.append(found.world.events)

    def sweep(self, budget: int) -> None:
        """Single faults, of each scenario in turn."""
        self._begin_phase("sweep")
        plans = [
            [(explorer, plan) for plan in itertools.islice(explorer.singles(), budget // events)]
            for explorer, events in zip(self.explorers, self._events, strict=True)
        ]
        for explorer, plan in filter(None, itertools.chain(*itertools.zip_longest(*plans))):
            if self.is_stopped:
                return
            self._run("sweep", explorer, plan)
        self._swept = (self._cases, self._clock.monotonic() - self._since)

    def soak(self, seed: int, runs: int) -> None:
        """Random plans, of each scenario in turn."""
        self._begin_phase("soak")
        self._cases, seconds = self._swept
        self._since = self._clock.monotonic() - seconds
        self._soak_cases = 0
        for explorer, plan in itertools.islice(self._random_plans(seed), runs):
            if self.is_stopped:
                return
            self._soak_cases += 1
            self._run("soak", explorer, plan)

    def digests(self) -> tuple[str, ...]:
        """What `compare` of another process is to be given."""
        self._begin_phase("repeat")
        plans = itertools.islice(self._random_plans(0), REPEATED_CASES)
        return tuple(self._digest(explorer, plan) for explorer, plan in plans)

    def compare(self, digests: Sequence[str]) -> None:
        """Make the runs that had these digests again."""
        self._begin_phase("repeat")
        for (explorer, plan), digest in zip(self._random_plans(0), digests, strict=False):
            found = self._digest(explorer, plan)
            if found != digest:
                error = DigestsDiffer(f"{digest} in one process, {found} in the next")
                raise self._found("repeat", explorer, plan, error)

    def _digest(self, explorer: BoundedExplorer, plan: FaultPlan) -> str:
        return self._run("repeat", explorer, plan).world.trace.digest()

    def _random_plans(self, seed: int) -> Iterator[tuple[BoundedExplorer, FaultPlan]]:
        rng = random.Random(f"mutant {seed}")
        for explorer in itertools.cycle(self.explorers):
            yield explorer, explorer.draw(rng, self._most)

    def _begin_phase(self, by: FoundBy) -> None:
        for explorer in self.explorers:
            explorer.why = by

    def _run(self, by: FoundBy, explorer: BoundedExplorer, plan: FaultPlan | None) -> Run:
        """One run; the first ones, without a plan, are those that an explorer begins with."""
        self._cases += 1
        try:
            found = explorer.begin() if plan is None else explorer.try_plan(plan)
        except (Exception, RunTooLong) as error:
            if isinstance(error, RunTooLong):
                self._board.is_spent = True
            raise self._found(by, explorer, plan or FaultPlan(), error) from None
        if found.failure is not None:
            raise self._found(by, explorer, found.plan, found.failure, found)
        return found

    def _found(
        self,
        by: FoundBy,
        explorer: BoundedExplorer,
        plan: FaultPlan,
        error: BaseException,
        found: Run | None = None,
    ) -> _Found:
        seconds = self._clock.monotonic() - self._since
        least = plan if found is None else shrunk(explorer, found)
        return _Found(
            Finding(
                by=by,
                failure=Failure.of(explorer.scenario.name, error, least, plan),
                cases=self._cases,
                soak_cases=self._soak_cases,
                seconds=seconds,
            )
        )
