"""Steps that this worker takes from others: the owner of a workflow need not be who runs its steps.

The owner alone advances a workflow, and it starts the steps that are ready itself as long as it has
permits: nothing is faster than that, and a worker that is alone never comes here. But what it has
no permit for lies in the store as `ready`, for everybody to see, and it is said to want permits.
So a worker looks here only if another one wants permits, and nothing of its own is ready; if it
finds steps, it wants permits as well, and `permits_to_hold` gives both their fair shares of them.
That spreads a fan-out that is wider than `max_parallelism` over all workers evenly; one that is not
stays where it is, which saves two commits for each step. Whoever has steps that use a processor
sets `max_parallelism` to the number of processors: then the second worker runs the second one.

Taking a step is one transaction of its own: its row says then that it is started, and where, and
the owner is told by the inbox. The owner's next write of that row is refused if it does not know of
it yet (`StepWrite.must_be_ready`), and so are two takers of one step. From there on the attempt is
as one whose worker has given the workflow up: its outcome goes to the inbox of whoever owns the
workflow then, it is lost if its worker dies, and "revoked" is sent if nobody waits for it.
"""

from __future__ import annotations

import attrs

from perdure.core.ids import WorkerId
from perdure.core.journal import record_started
from perdure.core.outcomes import Canceled
from perdure.definitions import Action
from perdure.sometimes import sometimes
from perdure.store.base import Fenced, InboxRow, Reader, ReadyStep, StepWrite, Store

from .actors import Actors
from .attempts import Attempt
from .commit import StepsTaken
from .operations import encode_inbox
from .scope import Env


@attrs.define
class Taker:
    """Takes steps for one worker.

    Attributes:
        has_taken: whether it ever has: only then may outcomes be of workflows that are not ours.
    """

    env: Env
    store: Store
    actors: Actors
    has_taken: bool = False

    def count(self, reader: Reader, most: int) -> int:
        """How many steps of others could be taken; no more than `most` are counted."""
        return len(reader.ready_steps(self._me, self._functions, most)) if most > 0 else 0

    def take(self, most: int) -> list[Attempt]:
        """Take up to `most` steps; their attempts are recorded as started, and are to be run now.

        Raises:
            Fenced: this worker was taken for dead.
            StoreError: they may be recorded all the same: see `found_in_doubt`.
        """
        try:
            with self.store.transaction() as tx:
                if tx.is_fenced(self._me):
                    sometimes("a worker finds itself fenced when it takes steps from others")
                    raise Fenced
                now = self.env.clock.now_ms()  # now: to begin may have taken long
                steps = tx.ready_steps(self._me, self._functions, most)
                attempts = [self._attempt(step, now) for step in steps]
                self.actors.taking = attempts
                if tx.put_steps([_write(attempt) for attempt in attempts]):
                    raise StepsTaken({step.workflow_id for step in steps})
                tx.put_inbox([_letter(attempt) for attempt in attempts])
        except StepsTaken:
            attempts = []  # a store that lets others in, in spite of the transaction
        self.actors.taking = []
        if attempts:
            sometimes("a worker takes steps from another one")
            self.has_taken = True
        return attempts

    def found_in_doubt(self) -> list[Attempt]:
        """Attempts of a `take` that seemed to fail and is stored: to be run now."""
        doubtful, me = {attempt.key for attempt in self.actors.taking}, self._me
        found = []
        for loaded in self.store.reader().load({key[0] for key in doubtful}):
            for record in loaded.steps:
                if record.state == "started" and record.runner == me:
                    attempt = Attempt.of(loaded.state.workflow_id, record)
                    if attempt.key in doubtful:
                        found.append(attempt)
        self.actors.taking = []
        if found:
            sometimes("steps were taken by a commit that seemed to fail")
            self.has_taken = True
        return found

    def _attempt(self, step: ReadyStep, now: int) -> Attempt:
        record = record_started(step.record, epoch=step.epoch, runner=self._me, now=now)
        return Attempt.of(step.workflow_id, record)

    @property
    def _me(self) -> WorkerId:
        assert self.env.worker_id is not None
        return self.env.worker_id

    @property
    def _functions(self) -> tuple[str, ...]:
        return tuple(each.name for each in self.env.registry if isinstance(each, Action))


def _write(attempt: Attempt) -> StepWrite:
    return StepWrite(
        workflow_id=attempt.workflow_id,
        record=attempt.record,
        is_new=False,
        must_be_ready=True,
        is_taken=True,
    )


def _letter(attempt: Attempt) -> InboxRow:
    """What tells the owner."""
    record = attempt.record
    assert record.started_at is not None and record.started_epoch is not None
    body = encode_inbox(
        Canceled(),
        epoch=record.started_epoch,
        attempt=record.attempt,
        runner=record.runner,
    )
    return InboxRow(
        workflow_id=attempt.workflow_id,
        kind="attempt",
        body=body,
        number=record.number,
        accepted_at=record.started_at,
    )
