"""The workflows that a worker holds in memory, and what hangs on them: timers, queue places.

All of it is a cache of stored rows: it can be dropped and loaded again at any time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import attrs

from perdure.core.ids import WorkflowId
from perdure.core.journal import StepRecord
from perdure.core.pool import Queue
from perdure.core.workflow import WorkflowState, due_timers

from .actor import Actor
from .attempts import Attempt, AttemptKey, Runner
from .scheduler import Scheduler

#: Timers, stale ones counted, before the stale ones are looked for: some hundred bytes each.
TIMERS_MAX = 10_000


@attrs.define
class Actors:
    """The actors of one worker.

    Attributes:
        runner: runs attempts of actions; None for a client, which has no actors.
        by_id: the actors.
        timers: when something is due for one of them.
        queue: their ready actions.
        held: their ready queries and mutations that wait for the end of a pause.
        runnable: those to look at in the next turn even without a message.
        doubtful: attempts of commits that seemed to fail: to be run should they be stored.
        unsure: attempts that ran when a commit seemed to fail: to be told should it be stored, and
            nobody wait for them any more.
        taking: attempts at steps of others, of a transaction that seemed to fail.
        timers_max: so many timers, and the stale ones are dropped.
    """

    runner: Runner | None
    by_id: dict[WorkflowId, Actor] = attrs.field(factory=dict)
    timers: Scheduler = attrs.field(factory=Scheduler)
    queue: Queue = attrs.field(factory=Queue)
    held: dict[WorkflowId, set[int]] = attrs.field(factory=dict)
    runnable: dict[WorkflowId, None] = attrs.field(factory=dict)
    doubtful: dict[WorkflowId, set[AttemptKey]] = attrs.field(factory=dict)
    unsure: dict[WorkflowId, set[AttemptKey]] = attrs.field(factory=dict)
    taking: list[Attempt] = attrs.field(factory=list)
    timers_max: int = TIMERS_MAX

    def __iter__(self) -> Iterator[WorkflowId]:
        return iter(self.by_id)

    def __contains__(self, workflow_id: WorkflowId) -> bool:
        return workflow_id in self.by_id

    @property
    def running(self) -> int:
        """How many permits are in use: those of attempts that may turn out to be stored, too."""
        running = 0 if self.runner is None else self.runner.running
        if self.doubtful:
            running += sum(map(len, self.doubtful.values()))
        return running

    def get(self, workflow_id: WorkflowId) -> Actor | None:
        """The actor of a workflow, if it is in memory."""
        return self.by_id.get(workflow_id)

    def adopt(self, actor: Actor) -> None:
        """Take an actor in, with the timers and queue places that follow from its state."""
        state = actor.state
        workflow_id = state.workflow_id
        self.drop(workflow_id)
        self.by_id[workflow_id] = actor
        self.runnable[workflow_id] = None
        for timer in due_timers(state):
            self.set_timer(timer.due_at, workflow_id, timer.number)
        for record in state.live.values():
            if record.state == "ready":
                self.enqueue(workflow_id, record)

    def enqueue(self, workflow_id: WorkflowId, record: StepRecord) -> None:
        """A step is ready: an action waits for a permit, another function for no pause."""
        if record.command.kind == "action":
            self.queue.add(record.due_at or 0, workflow_id, record.number)
        else:
            self.held.setdefault(workflow_id, set()).add(record.number)

    def set_timer(self, due_at: int, workflow_id: WorkflowId, number: int | None) -> None:
        """Have a step, or the handler's own timers, looked at at `due_at`."""
        self.timers.set(due_at, workflow_id, number)
        if len(self.timers) > self.timers_max:
            self._drop_stale_timers()

    def _drop_stale_timers(self) -> None:
        """A time-out stays set when its step has ended: a day's worth of them is too many."""
        self.timers.clear()
        for actor in self.by_id.values():
            for timer in due_timers(actor.state):
                self.timers.set(timer.due_at, actor.state.workflow_id, timer.number)
        self.timers_max = max(TIMERS_MAX, 2 * len(self.timers))

    def drop(self, workflow_id: WorkflowId, *, cancel: bool = False) -> None:
        """Forget an actor. `cancel`: it is out of our hands, so tell its running attempts."""
        if cancel and self.runner is not None:
            # Also where the actor was dropped before: its attempts run on without it.
            for attempt in self.runner.attempts():
                if attempt.workflow_id == workflow_id:
                    self.runner.cancel(attempt.key)
        actor = self.by_id.pop(workflow_id, None)
        if actor is not None:
            self.held.pop(workflow_id, None)
            actor.close()

    def drop_stale(self) -> None:
        """Take from the head of the queue what is not to be started any more: it is queued again
        when its workflow is loaded, or it was started or canceled."""
        queue = self.queue
        while queue:
            step = queue.peek()
            actor = self.by_id.get(step.workflow_id)
            record = None if actor is None else actor.state.live.get(step.number)
            if record is not None and record.state == "ready":
                return
            queue.take(1)

    def cancel_others(self, workflow_id: WorkflowId, records: Iterable[StepRecord]) -> None:
        """Tell the attempts of a workflow that these records do not know: nobody waits for them, or
        they are of a former life of it."""
        assert self.runner is not None
        known = _started(workflow_id, records)
        for attempt in self.runner.attempts():
            if attempt.workflow_id == workflow_id and attempt.key not in known:
                self.runner.cancel(attempt.key)

    def doubt(self, workflow_id: WorkflowId) -> None:
        """A commit seemed to fail, and may be stored: see `unsure`."""
        actor = self.by_id.get(workflow_id)
        keys = () if actor is None else _started(workflow_id, actor.state.live.values())
        if keys:
            self.unsure.setdefault(workflow_id, set()).update(keys)

    def doubt_attempts(self, workflow_id: WorkflowId) -> None:
        """A workflow was taken out of our hands: which of the attempts that run here are still
        waited for is known when it is loaded."""
        if self.runner is not None:
            keys = {a.key for a in self.runner.attempts() if a.workflow_id == workflow_id}
            if keys:
                self.unsure.setdefault(workflow_id, set()).update(keys)

    def cancel_unsure(self, workflow_id: WorkflowId, state: WorkflowState | None) -> None:
        """Now it is known what is stored of a workflow, if anything is."""
        keys = self.unsure.pop(workflow_id, None)
        if keys:
            assert self.runner is not None
            recorded = () if state is None else _started(workflow_id, state.live.values())
            for key in sorted(keys.difference(recorded)):
                self.runner.cancel(key)

    def drop_all(self) -> None:
        """Forget everything."""
        for workflow_id in list(self.by_id):
            self.drop(workflow_id)
        self.timers.clear()
        self.queue.clear()
        self.runnable.clear()


def _started(workflow_id: WorkflowId, records: Iterable[StepRecord]) -> list[AttemptKey]:
    """The attempts that run, as far as these records know."""
    return [Attempt.of(workflow_id, record).key for record in records if record.state == "started"]
