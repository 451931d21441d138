"""Checks of `check_store` on `write_alone`, a whole transaction of one workflow."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from perdure.core.journal import StepRecord
from perdure.core.outcomes import Failed, Succeeded
from perdure.core.workflow import WorkflowState
from perdure.store.base import StateWrite, StepWrite

from .bench import (
    HUGE,
    LARGE,
    ODD,
    Bench,
    Suite,
    ended,
    expect,
    run_step,
    sample_error,
    sample_steps,
)

suite = Suite()

_STARTED = {"state": "started", "runner": ODD, "attempt": 2, "started_at": -1, "started_epoch": 1}
_DELIVERED = {"delivered_position": LARGE, "delivered_at": -LARGE}


def _write(label_id: str, record: StepRecord, *, is_new: bool, **more: Any) -> StepWrite:
    return StepWrite(workflow_id=label_id, record=record, is_new=is_new, **more)


class _Alone:
    """A workflow of a worker's that is written to by `write_alone` only."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.worker = bench.add_worker("w")
        self.state = bench.state("a", owner=self.worker, position=0, started_at=5)
        bench.put(self.state)
        self.steps: dict[int, StepRecord] = {}

    def put(self, *records: StepRecord, knows: bool = True, **fields: Any) -> None:
        """Write these steps, and a state that has moved on; look at what is stored then."""
        bench, before = self._bench, self.state
        fields = {"position": before.position + 1, "stamp": before.stamp - 1, **fields}
        self.state = replace(before, **fields)
        write = StateWrite(
            state=self.state, expected_epoch=bench.epoch, before=before if knows else None
        )
        steps = [
            _write(bench.id("a"), record, is_new=record.number not in self.steps)
            for record in records
        ]
        is_stored = bench.store.write_alone(write, steps, fence=self.worker)
        expect(is_stored, True, "what nothing is in the way of is stored")
        self.steps |= {record.number: record for record in records}
        expect(bench.one("a"), self.state, "the workflow is as it was written")
        found = bench.load("a").steps
        wanted = tuple(self.steps[number] for number in sorted(self.steps))
        expect(found, wanted, "its steps are as they were written")


@suite.check
def what_is_written_alone_is_stored(bench: Bench) -> None:
    """`write_alone` stores a workflow's new row and its steps, new ones and old ones, whole."""
    alone = _Alone(bench)
    for record in sample_steps():
        alone.put(record)
    begun = [run_step(number, **_STARTED) for number in range(20, 24)]
    alone.put(begun[0], next_number=21, timer_at=LARGE, journal_bytes=LARGE)
    success = ended(outcome=Succeeded(HUGE), attempt=2, started_at=-1, started_epoch=LARGE)
    alone.put(run_step(20, **success, **_DELIVERED), begun[1], takeovers=3, timer_at=None)
    failed = ended(outcome=Failed(sample_error()), attempt=1, **_DELIVERED)
    alone.put(begun[2], run_step(21, **failed))  # whatever comes first
    waiting = run_step(22, state="backoff", due_at=LARGE, attempt=2, started_at=1, started_epoch=2)
    alone.put(waiting, begun[3])
    alone.put(begun[2])
    alone.put(run_step(22, **ended()), run_step(23, **ended(runner=ODD, due_at=4)))
    alone.put(run_step(24), run_step(25, state="ready", due_at=3), knows=False)
    alone.put()
    outcome = Succeeded("1")
    alone.put(run_step(24, **ended()), status="success", outcome=outcome, ended_at=9, owner=None)


@suite.check
def what_is_refused_alone_leaves_nothing(bench: Bench) -> None:
    """`write_alone` is false, and nothing is written, if the worker is unknown, the workflow has
    another epoch or is not there, or a step that must be ready is not."""
    worker, other = bench.add_worker("w"), bench.add_worker("other")
    before = bench.state("a", owner=worker, position=0, started_at=5)
    bench.put(before)
    ready = run_step(0, state="ready", due_at=1)
    bench.put_steps("a", run_step(1, **_STARTED), ready)
    after = replace(before, position=1, stamp=7)
    id_ = bench.id("a")
    old = _write(id_, run_step(1, **ended(**_DELIVERED)), is_new=False)
    new = _write(id_, run_step(2, **_STARTED), is_new=True)
    taken = _write(id_, run_step(0, **_STARTED), is_new=False, must_be_ready=True)
    was = bench.load("a")

    def is_stored(
        *steps: StepWrite,
        state: WorkflowState = after,
        epoch: int = bench.epoch,
        fence: str = worker,
        knows: bool = True,
    ) -> bool:
        known = replace(before, epoch=epoch) if knows else None
        write = StateWrite(state=replace(state, epoch=epoch), expected_epoch=epoch, before=known)
        return bench.store.write_alone(write, steps, fence=fence)

    for steps in ((old, new), (old,), (new,), ()):
        for knows in (True, False):
            stored = is_stored(*steps, epoch=bench.epoch + 1, knows=knows)
            expect(stored, False, "another epoch is told")
            stored = is_stored(*steps, fence=worker + "x", knows=knows)
            expect(stored, False, "a worker that is unknown is told")
    gone = replace(after, header=replace(after.header, workflow_id=bench.id("b")))
    elsewhere = _write(bench.id("b"), run_step(2, **_STARTED), is_new=True)
    expect(is_stored(elsewhere, state=gone), False, "a workflow that is gone is told")
    bench.put_steps("a", replace(ready, state="started", runner=other, attempt=1), is_new=False)
    stored = is_stored(old, taken, new)
    expect(stored, False, "a step that another has taken is told")
    bench.put_steps("a", ready, is_new=False)
    expect(bench.load("a"), was, "what was refused has left nothing")
    expect(is_stored(old, taken, new), True, "what nothing is in the way of any more is stored")
    with bench.store.transaction() as tx:
        tx.release_workflows(worker, 9, is_dead=True)
        tx.remove_worker(worker)
    expect(is_stored(old), False, "a worker that was removed is told")
