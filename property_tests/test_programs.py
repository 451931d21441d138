"""Random workflow programs in random trouble end as they should: see programs.py, expected.py."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from typing import Any

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.core.outcomes import Canceled, Failed, Outcome, Succeeded
from perdure_sim.disks import memory_disk
from perdure_sim.explore import CHANGING, Run, Scenario, run
from perdure_sim.plan import FaultPlan
from perdure_sim.strategies import plans
from perdure_sim.world import World
from property_tests.expected import Ending, expected
from property_tests.programs import (
    CALM,
    PROGRAMS,
    Program,
    d,
    ended,
    events,
    interpret,
    make_ledger,
)


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


def cases(programs: Any, cancels: Any = st.none()) -> st.SearchStrategy[Case]:
    return st.builds(
        Case,
        st.lists(programs, min_size=1, max_size=3),
        st.integers(1, 3),
        st.sampled_from([None, 1, 2]),
        cancels,
    )


def scenario(case: Case) -> Scenario:
    """A case as a scenario; its own check is that of `expected.py`."""

    def script(world: World) -> None:
        for n, program in enumerate(case.programs):
            world.start(interpret(f"p{n}", program), id=f"p{n}", on_complete=ended)
            for name, ms in events(program, f"p{n}"):
                world.after(ms, partial(_send, world, f"p{n}", name))
        if case.cancel_after is not None:
            world.after(case.cancel_after, lambda: world.cancel(f"p{len(case.programs) - 1}"))

    return Scenario(
        name="programs",
        definer=d,
        script=script,
        setup=make_ledger,
        workers=case.workers,
        max_parallelism=case.max_parallelism,
        check=partial(check, case),
    )


def _send(world: World, workflow_id: str, name: str) -> None:
    """Send an event, as soon as the workflow is stored."""
    if workflow_id in world.history.workflows:
        world.send_event(name, workflow_id=workflow_id, value="sent")
    else:
        world.after(1_000, partial(_send, world, workflow_id, name))


def check(case: Case, world: World) -> None:
    """The outcome of each program is one that it may have, and so are its effects."""
    rows = [path for (path,) in world.db.execute("SELECT path FROM ledger")]
    keys = {(call.arguments[0], call.idempotency_key) for call in world.calls}
    done = Counter([*(f"row {path}" for path in rows), *(f"call {path}" for path, _ in keys)])
    assert max(done.values()) == 1, f"done more than once: {done}"
    for n, program in enumerate(case.programs):
        root = f"p{n}"
        outcome = world.history.workflows[root].state.outcome
        effects = frozenset(each for each in done if _is_of(root, each))
        wanted = expected(program, root)
        endings = [each for each in wanted.endings if _fits(each, outcome)]
        if isinstance(outcome, Canceled) and case.cancel_after is not None:
            endings = [Ending(most=wanted.touched)]
        assert endings != [], f"{root}: {outcome} instead of one of {wanted.endings}"
        assert any(each.least <= effects <= each.most for each in endings), (
            f"{root} has the effects {sorted(effects)} and not those of one of {endings}"
        )
        assert done[f"row {root} ended"] == 1, f"{root}: on_complete did not run"


def _is_of(root: str, effect: str) -> bool:
    path = effect.split(" ", 1)[1]
    return path == root or path.startswith(f"{root}.")


def _fits(ending: Ending, outcome: Outcome | None) -> bool:
    if isinstance(outcome, Succeeded):
        return ending.error is None and json.loads(outcome.value) == ending.value
    return isinstance(outcome, Failed) and outcome.error.message == ending.error


def unharmed(run: Run) -> Run:
    """A run that broke no law."""
    if run.failure is not None:
        raise run.failure
    return run


@given(case=cases(PROGRAMS, st.none() | st.integers(0, 3_000)), data=st.data())
@settings(max_examples=100)
def test_programs_end_as_they_should(case: Case, data: st.DataObject) -> None:
    """Outcomes and effects are what the model says, without faults and with any."""
    calm = unharmed(run(scenario(case), FaultPlan(), memory_disk))
    plan = data.draw(plans(calm.world.faults.census, without=CHANGING), label="plan")
    unharmed(run(scenario(case), plan, memory_disk))
