"""Checks of `check_store` on steps that workers take from each other."""

from __future__ import annotations

from typing import Literal

from msgspec.structs import replace

from perdure.core.commands import RunStep
from perdure.core.journal import StepRecord
from perdure.core.outcomes import Succeeded
from perdure.store.base import ReadyStep, StepWrite

from .bench import Bench, Suite, expect, run_step, step

suite = Suite()


def _ready(
    bench: Bench, number: int, due_at: int, kind: Literal["action", "mutation"] = "action"
) -> StepRecord:
    """A ready step of a function that only this check has."""
    function = bench.id("pay")
    command = RunStep(kind=kind, name="pay", function=function, arguments="{}")
    return step(number, command, state="ready", due_at=due_at)


def _running(bench: Bench, label: str, owner: str | None, *steps: StepRecord) -> None:
    state = bench.state(label, owner=owner, position=0, started_at=5, next_number=9)
    bench.put(state)
    bench.put_steps(label, *steps)


def _found(bench: Bench, label: str, record: StepRecord) -> ReadyStep:
    return ReadyStep(workflow_id=bench.id(label), epoch=bench.epoch, record=record)


@suite.check
def ready_steps_of_others_are_found(bench: Bench) -> None:
    """`ready_steps` gives whole rows of ready actions, of these functions, that others own: the
    longest due first, and of one time the highest number."""
    me, they = bench.add_worker("me"), bench.add_worker("they")
    late, early, last = _ready(bench, 0, 9), _ready(bench, 1, 3), _ready(bench, 2, 9)
    tried = replace(_ready(bench, 6, 4), attempt=2, started_at=1, started_epoch=1)
    others = (
        _ready(bench, 3, 1, "mutation"),
        run_step(4, state="ready", due_at=1),
        replace(early, number=5, state="started", runner=they, attempt=1, due_at=None),
        replace(early, number=7, state="backoff", attempt=1),
    )
    _running(bench, "theirs", they, late, early, last, tried, *others)
    _running(bench, "mine", me, _ready(bench, 0, 2))
    _running(bench, "nobody's", None, _ready(bench, 0, 2))
    names = [bench.id("pay"), bench.id("unknown")]
    wanted = [_found(bench, "theirs", record) for record in (early, tried, last, late)]
    reader = bench.reader()
    expect(reader.ready_steps(me, names, 9), wanted, "ready_steps() by age, then from the end")
    expect(reader.ready_steps(me, names, 2), wanted[:2], "ready_steps() up to a limit")
    expect(reader.ready_steps(me, names[1:], 9), [], "ready_steps() of an unknown function")
    expect(reader.ready_steps(me, [], 9), [], "ready_steps() of no function")
    mine = [_found(bench, "mine", _ready(bench, 0, 2))]
    expect(reader.ready_steps(they, names, 9), mine, "ready_steps() for the other worker")


@suite.check
def a_step_is_taken_once(bench: Bench) -> None:
    """An update that wants a `ready` row changes one that is, and tells of one that is not."""
    me, they = bench.add_worker("me"), bench.add_worker("they")
    _running(bench, "a", they, _ready(bench, 0, 1), _ready(bench, 1, 1))
    _running(bench, "b", they, _ready(bench, 0, 1))
    begun = {"state": "started", "due_at": None, "attempt": 1, "started_at": 5}
    taken = replace(_ready(bench, 0, 1), **begun, runner=me, started_epoch=bench.epoch)
    own = replace(taken, runner=they)

    def write(label: str, record: StepRecord, *, must_be_ready: bool = True) -> StepWrite:
        return StepWrite(
            workflow_id=bench.id(label),
            record=record,
            is_new=False,
            must_be_ready=must_be_ready,
            is_taken=must_be_ready and record.runner == me,
        )

    with bench.store.transaction() as tx:
        steps = tx.ready_steps(me, [bench.id("pay")], 9)
        expect(len(steps), 3, "a transaction finds ready steps, too")
        expect(tx.put_steps([write("a", taken)]), set(), "a ready step is taken")
        expect(len(tx.ready_steps(me, [bench.id("pay")], 9)), 2, "what is taken is not ready")
    expect(bench.load("a").steps[0], taken, "a taken step is written whole")
    with bench.store.transaction() as tx:
        expect(tx.run_by(me), [(bench.id("a"), taken)], "run_by() finds a step that was taken")
    other = replace(own, number=1)
    refused = (write("a", own), write("a", other), write("b", own))
    try:
        with bench.store.transaction() as tx:
            stale = tx.put_steps(refused)
            expect(stale, {bench.id("a")}, "put_steps() names the workflow of a step that is gone")
            raise _Undo
    except _Undo:
        pass
    expect(bench.load("a").steps[0], taken, "whoever has taken a step keeps it")
    done = replace(taken, state="settled", runner=None, outcome=Succeeded("1"), settled_at=9)
    with bench.store.transaction() as tx:
        stale = tx.put_steps([write("a", done, must_be_ready=False), write("b", own)])
        expect(stale, set(), "without the condition an update is one, as ever")
    expect(bench.load("a").steps[0].outcome, Succeeded("1"), "the step is updated")
    with bench.store.transaction() as tx:
        ended = replace(done, number=0)
        expect(tx.put_steps([write("a", ended)]), {bench.id("a")}, "an ended step is not ready")
        missing = replace(taken, number=8)
        expect(tx.put_steps([write("b", missing)]), {bench.id("b")}, "nor is one that is missing")


class _Undo(Exception):
    pass
