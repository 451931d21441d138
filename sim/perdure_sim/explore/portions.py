"""Some runs of one scenario as a piece of work: plain data goes in, and plain data comes out."""

from __future__ import annotations

import itertools
import logging
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeAlias

import attrs

from ..faults.plan import Fault, FaultPlan
from ..laws.violations import Violation
from ..world.disks import Disk, memory_disk, sqlite_disk
from .explorer import Explorer, Run
from .parallel import Board, Lost, RunTooLong, at_most
from .repeats import Made, Repeats
from .targets import Place

StoreKind: TypeAlias = Literal["memory", "sqlite"]

#: How much of the processor's time a run may take, in seconds; most take a few thousandths.
RUN_SECONDS = 20.0


class DigestsDiffer(Violation):
    """The same plan gave two different runs: something in them is left to chance."""


@contextmanager
def quiet() -> Iterator[None]:
    """Without the engine's own log: it would tell of each fault that was put in."""
    logger = logging.getLogger("perdure")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


@attrs.define(kw_only=True)
class BoundedExplorer(Explorer):
    """An explorer of which no run goes on for ever, and whose process shows what it is at.

    Attributes:
        why: what the runs are made for.
        repeats: the runs that were made here.

    Raises:
        RunTooLong: from `begin`, `try_plan` and `shrink`.
    """

    board: Board
    seconds: float = RUN_SECONDS
    why: str = ""
    repeats: Repeats = attrs.field(factory=Repeats)

    def begin(self) -> Run:
        self._show(FaultPlan())
        with at_most(self.seconds):
            return super().begin()

    def try_plan(self, plan: FaultPlan, *, detail: bool = False) -> Run:
        self._show(plan)
        with at_most(self.seconds):
            return super().try_plan(plan, detail=detail)

    def _show(self, plan: FaultPlan) -> None:
        self.board.begin("\n".join([self.why, self.scenario.name, str(plan)]))


def failure_of(lost: Lost) -> tuple[Failure, str]:
    """A process that is gone counts as a failure of its last run; also gives what that was for."""
    why, name, plan = (lost.text or "\n\n").split("\n", 2)
    law = "NoEnd" if lost.was_silent else "ProcessLost"
    failure = Failure(scenario=name, law=law, message=lost.why, plan=plan, first_plan=plan)
    return failure, why


@attrs.frozen
class Stores:
    """Where the databases of the runs lie.

    Attributes:
        folder: an empty one, for SQLite files; whoever made it removes it.
    """

    kind: StoreKind = "memory"
    folder: Path | None = None

    def maker(self, name: str) -> Callable[[], Disk]:
        """Makes a new disk for each run; `name` tells processes apart."""
        if self.kind == "memory":
            return memory_disk
        folder = self.folder
        assert folder is not None
        numbers = itertools.count()

        def make() -> Disk:
            mine = folder / f"{name}-{next(numbers)}"
            mine.mkdir()
            disk = sqlite_disk(mine / "run.db")

            def close() -> None:
                disk.close()
                shutil.rmtree(mine)

            return attrs.evolve(disk, close=close)

        return make


# --- what a process does --------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Failure:
    """A plan under which a scenario broke a law.

    Attributes:
        law: the exception's class.
        plan: with as few faults as it takes.
        first_plan: as it was before the others were left out.
    """

    scenario: str
    law: str
    message: str
    plan: str
    first_plan: str

    @staticmethod
    def of(scenario: str, error: BaseException, plan: FaultPlan, first_plan: FaultPlan) -> Failure:
        """What an exception tells of a run of this scenario."""
        return Failure(
            scenario=scenario,
            law=type(error).__name__,
            message=str(error),
            plan=str(plan),
            first_plan=str(first_plan),
        )

    @property
    def size(self) -> int:
        """How many faults it takes."""
        return len(FaultPlan.parse(self.plan))


@attrs.frozen(kw_only=True)
class Portion:
    """Some runs of one scenario, to be made in one go.

    Attributes:
        digest: of the run without faults, as another process had it.
        plans: these; or else `count` random ones with up to `most` faults, drawn from `seed`.
        expected_digests: of the same plans, as another process had them; or none.
        doubled: the digests of these runs, counted from 0, are to be told.
        known: laws of which the scenario is known to have broken them: they need no second plan.
        keeps_going: also after a failure; else all processes stop.
        not_by: the number of a process that shall not do it, if there is another.
    """

    place: Place
    digest: str
    plans: tuple[str, ...] = ()
    seed: str = ""
    count: int = 0
    most: int = 0
    expected_digests: tuple[str, ...] = ()
    doubled: frozenset[int] = frozenset()
    known: frozenset[str] = frozenset()
    keeps_going: bool = False
    not_by: int | None = None


@attrs.define(kw_only=True)
class Tally:
    """What came of some runs.

    Attributes:
        same: of the runs those that were not made, because they come to one that was.
        planned: faults of the plans, by ``site=kind``.
        fired: those of them that happened.
        broken: how many runs broke a law, by scenario and law.
        failures: one for each scenario and law.
        digests: by plan, of the runs that are to be made again.
        repeated: runs that were made a second time.
    """

    runs: int = 0
    same: int = 0
    events: int = 0
    repeated: int = 0
    planned: Counter[str] = attrs.field(factory=Counter)
    fired: Counter[str] = attrs.field(factory=Counter)
    broken: Counter[tuple[str, str]] = attrs.field(factory=Counter)
    failures: list[Failure] = attrs.field(factory=list)
    digests: dict[str, str] = attrs.field(factory=dict)

    def add(self, other: Tally) -> list[Failure]:
        """Take in another's; gives those of its failures that are new."""
        self.runs += other.runs
        self.same += other.same
        self.events += other.events
        self.repeated += other.repeated
        self.planned += other.planned
        self.fired += other.fired
        self.broken += other.broken
        known = {(failure.scenario, failure.law) for failure in self.failures}
        new = [each for each in other.failures if (each.scenario, each.law) not in known]
        self.failures += new
        return new


def kind_of(fault: Fault) -> str:
    """What a fault is called where faults are counted: ``site=kind``."""
    return f"{fault.site}={fault.kind}"


@attrs.define
class Laborer:
    """Does portions; a copy of it is in each process, and finds the scenarios there."""

    stores: Stores
    _explorers: dict[Place, tuple[BoundedExplorer, str]] = attrs.field(factory=dict, init=False)

    def __call__(self, portion: Portion, board: Board) -> Tally:
        tally = Tally()
        with quiet():
            explorer, digest = self._explorer(portion.place, board)
            if digest != portion.digest:
                self._fail(tally, explorer, portion, FaultPlan(), _differ(portion.digest, digest))
                return tally
            for number, plan in enumerate(_plans(explorer, portion)):
                if board.is_stopped or board.is_spent:
                    break
                tally.runs += 1
                if number not in portion.doubled and not portion.expected_digests:
                    made = explorer.repeats.find(plan)
                    if made is not None:
                        tally.same += 1
                        _count(tally, plan, made)
                        continue
                found, error = _tried(explorer, plan)
                if found is not None:
                    error = _take(tally, portion, number, found)
                    if error is None:
                        explorer.repeats.add(_made(found))
                if error is not None:
                    self._fail(tally, explorer, portion, plan, error, found)
        return tally

    def _explorer(self, place: Place, board: Board) -> tuple[BoundedExplorer, str]:
        known = self._explorers.get(place)
        if known is None:
            make_disk = self.stores.maker(f"{os.getpid()}-{len(self._explorers)}")
            explorer = BoundedExplorer(place.find(), make_disk, board=board)
            begun = explorer.begin()
            if begun.failure is None:
                explorer.repeats.add(_made(begun))
            known = explorer, begun.world.trace.digest()
            self._explorers[place] = known
        return known

    def _fail(
        self,
        tally: Tally,
        explorer: BoundedExplorer,
        portion: Portion,
        plan: FaultPlan,
        error: BaseException,
        found: Run | None = None,
    ) -> None:
        """Note a failure; of each law the first is shrunk, where there is a run to shrink."""
        name, law = explorer.scenario.name, type(error).__name__
        tally.broken[name, law] += 1
        if law in portion.known or any(known.law == law for known in tally.failures):
            return
        least = plan
        if found is not None and found.failure is error:
            least = shrunk(explorer, found)
        if isinstance(error, RunTooLong):
            explorer.board.is_spent = True
        tally.failures.append(Failure.of(explorer.scenario.name, error, least, plan))
        if not portion.keeps_going:
            explorer.board.stop()


def _tried(explorer: BoundedExplorer, plan: FaultPlan) -> tuple[Run | None, BaseException | None]:
    """A run; or what was raised where there should have been one."""
    try:
        return explorer.try_plan(plan), None
    except (Exception, RunTooLong) as error:
        return None, error


def shrunk(explorer: BoundedExplorer, failed: Run) -> FaultPlan:
    """The plan with as few faults as possible; as it is, where no shorter one can be found."""
    try:
        return explorer.shrink(failed).plan
    except Exception:
        return failed.plan  # a shorter one does not even make a run
    except RunTooLong:
        explorer.board.is_spent = True
        return failed.plan


def _plans(explorer: BoundedExplorer, portion: Portion) -> Iterator[FaultPlan]:
    yield from map(FaultPlan.parse, portion.plans)
    rng = random.Random(portion.seed)
    for _ in range(portion.count):
        yield explorer.draw(rng, portion.most)


def _take(tally: Tally, portion: Portion, number: int, found: Run) -> BaseException | None:
    """Count what is in a run; gives what is wrong with it."""
    if portion.expected_digests:
        tally.events += found.world.events
        tally.repeated += 1
        expected, digest = portion.expected_digests[number], found.world.trace.digest()
        return None if digest == expected else _differ(expected, digest)
    _count(tally, found.plan, _made(found))
    if number in portion.doubled:
        tally.digests[str(found.plan)] = found.world.trace.digest()
    return found.failure


def _made(found: Run) -> Made:
    faults = found.world.faults
    return Made(frozenset(faults.fired), faults.census, found.world.events)


def _count(tally: Tally, plan: FaultPlan, made: Made) -> None:
    tally.events += made.events
    tally.planned.update(kind_of(fault) for fault in plan)
    tally.fired.update(kind_of(fault) for fault in made.fired)


def _differ(one: str, other: str) -> DigestsDiffer:
    return DigestsDiffer(
        f"one run has the digest {one}, the next {other}: its order hangs on chance, a clock, a"
        " set, or on what an earlier run has left behind"
    )
