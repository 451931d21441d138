"""Random programs run in a world, and looked at as `expected.py` says."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import attrs
from hypothesis import strategies as st
from property_tests.expected import Ending, expected
from property_tests.programs import Program, d, ended, events, interpret, make_ledger
from tests.sim.portable import execute

from perdure.core.outcomes import Canceled, Failed, Outcome, Succeeded
from perdure_sim.explore.explorer import Scenario, run
from perdure_sim.faults.plan import FaultPlan
from perdure_sim.world.disks import Disk, memory_disk
from perdure_sim.world.world import World


@attrs.frozen
class Case:
    """Programs that are started together, and the workers for them.

    Attributes:
        cancel_after: in ms, for the last of them, by the client.
    """

    programs: list[Program]
    workers: int
    max_parallelism: int | None
    cancel_after: int | None = None


@attrs.frozen
class Played:
    """What came of a case.

    Attributes:
        rows: the application's ledger; None if so many workers died with a workflow that nobody
            takes it up again.
    """

    world: World
    outcomes: dict[str, Outcome | None]
    rows: Counter[str] | None


def cases(
    programs: st.SearchStrategy[Program], cancel_after: st.SearchStrategy[int | None] = st.none()
) -> st.SearchStrategy[Case]:
    """A few programs and workers."""
    return st.builds(
        Case,
        programs=st.lists(programs, min_size=1, max_size=3),
        workers=st.integers(1, 3),
        max_parallelism=st.sampled_from([None, 1, 2]),
        cancel_after=cancel_after,
    )


def play(
    case: Case, plan: FaultPlan = FaultPlan(), make_disk: Callable[[], Disk] = memory_disk
) -> Played:
    """Run a case, under all laws, and look whether it did what it may do.

    Raises:
        AssertionError: it did not, or a law is broken.
    """
    seen: list[Counter[str]] = []

    def check(world: World) -> None:
        seen.append(Counter(path for (path,) in execute(world.db, "SELECT path FROM ledger")))
        check_effects(case, world, seen[0])

    scenario = Scenario(
        name="programs",
        definer=d,
        script=partial(_script, case),
        setup=make_ledger,
        workers=case.workers,
        max_parallelism=case.max_parallelism,
        check=check,
    )
    with silence():
        found = run(scenario, plan, make_disk)
    if found.failure is not None:
        raise found.failure
    return Played(found.world, found.outcomes, seen[0] if seen else None)


@contextmanager
def silence() -> Iterator[None]:
    """The engine logs what was planned; pytest would keep it all."""
    logger = logging.getLogger("perdure")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


def _script(case: Case, world: World) -> None:
    for n, program in enumerate(case.programs):
        deed = world.start(interpret(f"p{n}", program), id=f"p{n}", on_complete=ended)
        for name, ms in events(program, f"p{n}"):
            world.after(ms, partial(_send, world, f"p{n}", name), deed)
    if case.cancel_after is not None:
        world.after(case.cancel_after, lambda: world.cancel(f"p{len(case.programs) - 1}"))


def _send(world: World, workflow_id: str, name: str) -> None:
    world.send_event(name, workflow_id=workflow_id, value="sent")


def check_effects(case: Case, world: World, rows: Counter[str]) -> None:
    """The outcome of each program is one that it may have, and so are its effects."""
    calls = Counter(path for path, _ in {(c.arguments[0], c.idempotency_key) for c in world.calls})
    if any(fault.kind == "power_loss" for fault in world.faults.fired):
        calls = Counter(set(calls))  # what was lost is done again, under another key
    twice = [path for path, count in [*rows.items(), *calls.items()] if count > 1]
    assert twice == [], f"done more than once: {twice}"
    done = {*(f"row {path}" for path in rows), *(f"call {path}" for path in calls)}
    for n, program in enumerate(case.programs):
        root = f"p{n}"
        outcome = world.history.workflows[root].state.outcome
        wanted = expected(program, root)
        endings = [each for each in wanted.endings if _fits(each, outcome)]
        if isinstance(outcome, Canceled) and case.cancel_after is not None:
            endings = [Ending(most=wanted.touched)]
        assert endings != [], f"{root}: {outcome} instead of one of {wanted.endings}"
        effects = {each for each in done if each.split(" ")[1].split(".")[0] == root}
        effects.discard(f"row {root} ended")
        assert any(each.least <= effects <= each.most for each in endings), (
            f"{root}: effects {sorted(effects)}, expected those of {endings}"
        )
        assert rows[f"{root} ended"] == 1, f"{root} has ended, and on_complete did not run"


def _fits(ending: Ending, outcome: Outcome | None) -> bool:
    if isinstance(outcome, Succeeded):
        return ending.error is None and bool(json.loads(outcome.value) == ending.value)
    return isinstance(outcome, Failed) and outcome.error.message == ending.error


def journals(played: Played) -> dict[str, Any]:
    """All that is recorded of each workflow, but for the tracebacks of errors."""
    return {
        workflow_id: (
            [
                (
                    record.command,
                    _plain(record.outcome),
                    record.attempt,
                    record.asked_position,
                    record.asked_at,
                    record.settled_at,
                    record.delivered_position,
                    record.delivered_at,
                    record.canceled_position,
                )
                for record in known.steps.values()
            ],
            known.ticks,
            known.state.started_at,
            known.state.ended_at,
            _plain(known.state.outcome),
        )
        for workflow_id, known in played.world.history.workflows.items()
    }


def results(played: Played) -> tuple[dict[str, Any], Counter[str] | None]:
    """How each program ended, and the rows that are left."""
    outcomes = {n: _plain(each) for n, each in played.outcomes.items() if "/" not in n}
    return outcomes, played.rows


def _plain(outcome: Outcome | None) -> Any:
    if isinstance(outcome, Failed):
        return outcome.error.type, outcome.error.message
    return outcome
