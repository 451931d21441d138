"""What is on the disk, as commit after commit brought it there, and the laws of what is written.

The history is kept beside the store, from what was written: so a store that loses or changes
something is found out as well. It has the other laws checked too: see laws.py.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from perdure.core.commands import AwaitEvent, RunStep, Sleep
from perdure.core.ids import Epoch, EventId, WorkflowId
from perdure.core.journal import StepRecord
from perdure.core.messages import SentEvent
from perdure.core.outcomes import Canceled, Failed, Outcome, Succeeded
from perdure.core.workflow import WorkflowState
from perdure.runtime.attempts import Attempt
from perdure.store.base import Loaded, StateWrite, StepWrite, Store
from perdure.store.rows import is_open

from ..world.actions import CallMade
from ..world.faulty_store import Write
from .bodies import Bodies
from .ends import check_ends
from .known import Author, Change, Commit, Known, is_taking
from .owners import Owners
from .restarting import restarted
from .resting import check_processes, check_store
from .violations import (
    BackoffTooShort,
    ChildLeft,
    EndChanged,
    EpochReused,
    EventsOutOfOrder,
    EventTwice,
    IdTaken,
    JournalChanged,
    NumbersNotDense,
    OutcomeChanged,
    PositionsNotDense,
    StaleWrite,
    StateDiffers,
    StateUnsound,
    StepAfterEnd,
    StoreDiffers,
    TimerEarly,
    TimeWentBack,
    TooManyAttempts,
)
from .waits import Waits

if TYPE_CHECKING:
    from ..world.process import Process


class History:
    """All that was committed.

    Args:
        is_whole: it is told of all that happens in a world. Without, only the laws of rows are
            checked: nothing is known of functions that ran, and of states in memory.
        patience: see `Waits`.

    Attributes:
        workflows: by id, in the order in which they were started.
        commits: how many there were.
        is_exact: no clock has been wrong until now.
        events: all that ever were, as they were last.
        deleted: workflows that were cleaned up, the last of each id.
        everybody: all that there are and were.
    """

    def __init__(
        self, *, is_whole: bool = False, patience: Callable[[], int | None] = lambda: 0
    ) -> None:
        self.workflows: dict[WorkflowId, Known] = {}
        self.commits = 0
        self.is_exact = True
        self.owners = Owners()
        self.bodies = Bodies(self.owners)
        self._waits = Waits(self.bodies, patience)
        self._is_whole = is_whole
        self._patience = patience
        self._epochs: dict[Epoch, WorkflowId] = {}
        self.events: dict[EventId, SentEvent] = {}
        self.deleted: dict[WorkflowId, Known] = {}
        self.everybody: Mapping[WorkflowId, Known] = ChainMap(self.workflows, self.deleted)

    # --- commits ------------------------------------------------------------------------------

    def take(self, writes: list[Write], now: int, author: Author | None = None) -> None:
        """A commit: apply it, and check all laws about what it touches."""
        if author is not None and self._is_whole:
            self.owners.check(writes, self.workflows, author)
        self.commits += 1
        commit = Commit(self.commits, now, author)
        for index, (kind, what) in enumerate(writes):
            match kind:
                case "insert":
                    for state in what:
                        self._insert(state)
                        commit.before[state.workflow_id] = None
                case "update":
                    for write in what:
                        self._touch(commit, write.state.workflow_id)
                        if self.workflows[write.state.workflow_id].is_restarted_by(write):
                            self._restart(commit, write, writes[index + 1 :])
                        else:
                            self._update(write)
                case "steps":
                    for write in what:
                        self._touch(commit, write.workflow_id)
                        self._step(commit, write)
                case "ticks":
                    for workflow_id, position, at in what:
                        self._touch(commit, workflow_id)
                        self._tick(workflow_id, position, at)
                case "delete":
                    for workflow_id in what:
                        self._delete(commit, workflow_id)
                case "event":
                    self._event(now, *what)
                case "consume":
                    self._consume(commit, *what)
                case "function":
                    commit.functions.append(what)
                case _:
                    pass
        if any(kind == "delete" for kind, _ in writes):
            self._check_children()
        for workflow_id in commit.before:
            if workflow_id in self.workflows:
                self._check(commit, self.workflows[workflow_id])
        if self._is_whole:
            self.bodies.check(commit, is_exact=self.is_exact)
            check_ends(commit, self.everybody)
            self._waits.check(commit, self.everybody, is_exact=self.is_exact)

    def _touch(self, commit: Commit, workflow_id: WorkflowId) -> None:
        if workflow_id not in commit.before:
            commit.before[workflow_id] = self.workflows[workflow_id].state

    def _restart(self, commit: Commit, write: StateWrite, more: Sequence[Write]) -> None:
        """A workflow that has ended runs again: the one thing that may change what is closed."""
        workflow_id = write.state.workflow_id
        old = self.workflows[workflow_id]
        self._check_epochs(write, old.state)
        if not old.has_ended:  # in this very commit
            old.ended_in = commit.number
        number, position = len(old.steps), old.state.position
        rows: dict[int, StepRecord] = {}
        for kind, what in more:
            if kind == "cut" and what[0] == workflow_id:
                _, number, position = what
            elif kind == "steps" and not rows:
                rows = {
                    row.record.number: row.record for row in what if row.workflow_id == workflow_id
                }
            elif kind == "update" and any(row.state.workflow_id == workflow_id for row in what):
                break
        self.bodies.forget(workflow_id)
        self.workflows[workflow_id] = restarted(
            old, write.state, rows, number=number, position=position, now=commit.now
        )
        self.workflows[workflow_id].restarted_in = commit.number

    def _delete(self, commit: Commit, workflow_id: WorkflowId) -> None:
        known = self.workflows[workflow_id]
        if workflow_id in commit.before:
            self._check(commit, known)
        if not known.has_ended:
            raise StateUnsound(f"{workflow_id} is deleted, and had not ended: {known.state}")
        self.deleted[workflow_id] = commit.deleted[workflow_id] = self.workflows.pop(workflow_id)
        self.bodies.forget(workflow_id)

    def _check_children(self) -> None:
        for workflow_id, known in self.workflows.items():
            parent_id = known.header.parent_id
            if parent_id in self.deleted and parent_id not in self.workflows:
                raise ChildLeft(f"{workflow_id} is there, and its parent {parent_id} is deleted")

    def _insert(self, state: WorkflowState) -> None:
        workflow_id = state.workflow_id
        if workflow_id in self.workflows:
            raise IdTaken(f"{workflow_id} was started twice: {state}")
        known = self.workflows[workflow_id] = Known.of(state)
        gone = self.deleted.get(workflow_id)
        if gone is not None and gone.state.outcome is not None:
            known.past = [*gone.past, gone.state.outcome]  # somebody may be told of it late
        self._take_epoch(state)

    def _take_epoch(self, state: WorkflowState) -> None:
        owner = self._epochs.setdefault(state.epoch, state.workflow_id)
        if owner != state.workflow_id:
            raise EpochReused(f"epoch {state.epoch} was {owner}'s, now it is {state.workflow_id}'s")

    def _update(self, write: StateWrite) -> None:
        state = write.state
        known = self.workflows[state.workflow_id]
        old = known.state
        self._check_epochs(write, old)
        if known.has_ended:
            raise EndChanged(f"{state.workflow_id} ended as {old.outcome}, now {state.outcome}")
        if state.stamp < old.stamp or state.position < old.position:
            raise TimeWentBack(
                f"{state.workflow_id}: stamp {state.stamp} position {state.position} after"
                f" {old.stamp} {old.position}"
            )
        if state.started_at != old.started_at and old.started_at is not None:
            raise JournalChanged(f"{state.workflow_id}: started at {state.started_at}, {old}")
        known.state, known.owner = state, state.owner

    def _check_epochs(self, write: StateWrite, old: WorkflowState) -> None:
        state = write.state
        if write.expected_epoch != old.epoch:
            raise StaleWrite(f"expected epoch {write.expected_epoch}, stored {old.epoch}: {state}")
        if state.epoch < old.epoch:
            raise EpochReused(f"{state.workflow_id}: epoch {state.epoch} after {old.epoch}")
        if state.epoch != old.epoch:
            if state.epoch in self._epochs:
                raise EpochReused(f"{state.workflow_id}: epoch {state.epoch} was given before")
            self._take_epoch(state)

    def _step(self, commit: Commit, write: StepWrite) -> None:
        known, new = self.workflows[write.workflow_id], write.record
        where = f"{write.workflow_id} step {new.number}"
        if known.has_ended:
            raise StepAfterEnd(f"{where} written after the end, {known.state.outcome}: {new}")
        old = known.steps.get(new.number)
        if old == new and known.restarted_in == commit.number:
            return  # of a restart, which has been looked at as a whole
        if old is None:
            if new.number != len(known.steps):
                raise NumbersNotDense(f"{where} comes when there are {len(known.steps)} steps")
            if not write.is_new:
                raise StoreDiffers(f"{where}: updated, but it was never inserted: {new}")
        else:
            self._check_progress(where, old, new)
            self._check_backoff(known, where, old, new)
        self._check_record(where, old, new)
        if new.delivered_position is not None:
            assert new.delivered_at is not None
            self._deliver(known, new.delivered_position, new.delivered_at, where)
        known.taken.pop(new.number, None)
        author = None if commit.author is None else commit.author.worker_id
        if old is not None and known.owner not in (None, author) and is_taking(old, new, author):
            known.taken[new.number] = old
        known.steps[new.number] = new
        if is_open(new):
            known.open[new.number] = new
        else:
            known.open.pop(new.number, None)
        commit.changes.append(Change(known, old, new))

    def _check_progress(self, where: str, old: StepRecord, new: StepRecord) -> None:
        asked = ("number", "command", "asked_position", "asked_at", "asked_epoch", "child_id")
        for name in asked:
            if getattr(old, name) != getattr(new, name):
                raise JournalChanged(f"{where}: {name} was {getattr(old, name)!r}: {new}")
        if old.delivered_position is not None:
            raise JournalChanged(f"{where} was delivered: {old}, now {new}")
        if old.outcome is not None and new.outcome != old.outcome:
            if new.outcome != Canceled() or new.canceled_position is None:
                raise OutcomeChanged(f"{where}: {old.outcome} became {new.outcome}")
        if old.outcome is not None and new.attempt != old.attempt:
            raise TooManyAttempts(f"{where}: attempt {new.attempt} after its outcome: {old}")
        if not old.attempt <= new.attempt <= old.attempt + 1:
            raise TooManyAttempts(f"{where}: attempt {new.attempt} after {old.attempt}")

    def _check_backoff(self, known: Known, where: str, old: StepRecord, new: StepRecord) -> None:
        if new.state == "backoff" and new.due_at is not None:
            known.not_before[new.number] = new.due_at
        due = known.not_before.get(new.number, 0)
        # By another's clock, which is behind, the attempt begins before the wait was over here.
        if self.is_exact and new.attempt > old.attempt and (new.started_at or 0) < due:
            raise BackoffTooShort(f"{where}: due at {due}, started {new.started_at}")

    def _check_record(self, where: str, old: StepRecord | None, new: StepRecord) -> None:
        command = new.command
        if isinstance(command, RunStep):
            if new.attempt > command.retry.max_attempts:
                raise TooManyAttempts(f"{where}: {new.attempt} of {command.retry.max_attempts}")
            due, at = command.due_at, new.started_at
            if self.is_exact and due is not None and at is not None and at < due:
                raise TimerEarly(f"{where}: due at {due}, started at {at}")
        if new.settled_at is None or (old is not None and old.settled_at is not None):
            return
        if isinstance(command, Sleep) and isinstance(new.outcome, Succeeded):
            if new.settled_at < command.due_at:
                raise TimerEarly(f"{where}: due at {command.due_at}, woke at {new.settled_at}")
        if isinstance(command, AwaitEvent) and isinstance(new.outcome, Failed):
            is_late = new.outcome.error.type == "TimeoutError"
            if is_late and command.due_at is not None and new.settled_at < command.due_at:
                raise TimerEarly(f"{where}: timed out at {new.settled_at}, due {command.due_at}")

    def _tick(self, workflow_id: WorkflowId, position: int, at: int) -> None:
        known = self.workflows[workflow_id]
        self._deliver(known, position, at, f"{workflow_id} tick")
        known.ticks[position] = at

    def _deliver(self, known: Known, position: int, at: int, where: str) -> None:
        if position in known.delivered:
            raise PositionsNotDense(f"{where}: position {position} is taken")
        known.delivered[position] = at

    def _event(self, now: int, workflow_id: WorkflowId, event: SentEvent) -> None:
        known = self.workflows[workflow_id]
        before = known.sent.get(event.event_id)
        if before is not None and before.outcome is not None:
            raise EventTwice(f"{event.event_id} was sent twice: {before}, then {event}")
        known.sent[event.event_id] = event
        self.events[event.event_id] = event
        known.seen.sent[event.event_id] = now

    def _consume(
        self, commit: Commit, workflow_id: WorkflowId, event_id: EventId, number: int
    ) -> None:
        known = self.workflows[workflow_id]
        if event_id in known.consumed:
            raise EventTwice(f"{event_id}: by step {known.consumed[event_id]} and by {number}")
        event = known.sent.get(event_id)
        if event is None or event.outcome is None:
            raise EventTwice(f"{event_id}, consumed by step {number}, was never sent")
        step = known.steps.get(number)
        command = None if step is None else step.command
        is_by_id = isinstance(command, AwaitEvent) and command.event_id is not None
        for other_id, other in known.sent.items():
            if other.name != event.name or other_id in known.consumed or is_by_id:
                continue
            if other.sequence is not None and other.sequence < (event.sequence or 0):
                raise EventsOutOfOrder(f"{event_id} was consumed before {other_id}, sent earlier")
        known.consumed[event_id] = number
        commit.consumed.append((known, event_id))

    def _check(self, commit: Commit, known: Known) -> None:
        """Laws about the whole of a workflow, after a commit that touched it."""
        state = known.state
        facts = len(known.delivered) + (state.started_at is not None)
        last = max(known.delivered, default=state.position)
        if facts != state.position + 1 or last > state.position:
            raise PositionsNotDense(
                f"{state.workflow_id}: {facts} facts, up to position {last}, but the last position"
                f" is {state.position}"
            )
        self._check_time(known)
        if state.next_number != len(known.steps):
            raise NumbersNotDense(
                f"{state.workflow_id}: next_number {state.next_number}, {len(known.steps)} steps"
            )
        if state.outcome is not None:
            known.ended_in, known.seen.ended = commit.number, commit.now
            for record in known.steps.values():
                if record.outcome is None:
                    raise StateUnsound(f"{state.workflow_id} has ended, but not its step {record}")
        elif self._is_whole:
            _check_fold(known)

    def _check_time(self, known: Known) -> None:
        """The facts that came with this commit are no older than what came before them."""
        position, state = known.checked_to, known.state
        at = known.delivered.get(position, state.started_at or 0)
        while (later := known.delivered.get(position + 1)) is not None:
            if later < at:
                raise TimeWentBack(
                    f"{state.workflow_id}: position {position} at {at}, {position + 1} at {later}"
                )
            position, at = position + 1, later
        known.checked_to = position
        if state.started_at is not None and state.stamp < at:
            raise TimeWentBack(f"{state.workflow_id}: stamp {state.stamp}, last fact at {at}")

    def rewind(
        self, kept: list[tuple[int, int, list[Write] | CallMade]]
    ) -> list[tuple[int, int, list[Write] | CallMade]]:
        """The power was lost: begin anew with what is left, as (when, anything, what happened).

        Attempts whose recorded start was lost are forgotten, and left out of what is returned:
        they may run again, under another key. From here on only the laws of rows are checked: of
        functions, owners and code it is not known what was lost.
        """
        History.__init__(self)
        left = []
        for each in kept:
            at, _, what = each
            if isinstance(what, CallMade):
                known = self.workflows.get(what.workflow_id)
                record = None if known is None else known.steps.get(what.step_number)
                if record is None or record.attempt < what.attempt:
                    continue
                if record.started_epoch is not None and record.started_epoch < what.epoch:
                    continue  # after a restart that was lost: the numbers begin anew
                self.attempt_begins(what)
            else:
                self.take(what, at)
            left.append(each)
        return left

    # --- attempts -----------------------------------------------------------------------------

    def attempt_begins(self, call: CallMade, seen: int | None = None) -> None:
        """The code of an attempt begins to run; see `Bodies.begin`."""
        known = self.workflows.get(call.workflow_id)
        is_known = known is not None or call.workflow_id in self.deleted
        if is_known and (known is None or call.epoch < known.since):
            return  # a zombie begins what was restarted, or deleted, meanwhile
        self.bodies.begin(call, known, seen)

    def attempt_ends(
        self, attempt: Attempt, now: int, outcome: Outcome, *, is_retryable: bool
    ) -> None:
        """The code of an attempt has ended; see `Bodies.end`."""
        known = self.workflows.get(attempt.workflow_id) if self._is_whole else None
        self.bodies.end(attempt, now, outcome, known, self._patience, is_retryable=is_retryable)

    # --- at rest ------------------------------------------------------------------------------

    def longest(self) -> int:
        """How many steps and timers the workflow has that has the most of them."""
        known = self.workflows.values()
        return max((len(each.steps) + len(each.ticks) for each in known), default=0)

    def check_store(self, store: Store) -> list[Loaded]:
        """Compare all that was written with what the store gives; see resting.py."""
        return check_store(self.workflows, self.deleted, store, is_whole=self._is_whole)

    def check_processes(self, processes: Iterable[Process], stored: Iterable[Loaded]) -> None:
        """Look at what living processes keep in memory; see resting.py."""
        if self._is_whole:
            check_processes(processes, self.owners.workers, stored)


def _check_fold(known: Known) -> None:
    """What the writer takes for the workflow's state is what its journal says."""
    state = known.state
    if len(state.live) != len(known.open):
        raise StateDiffers(
            f"{known.workflow_id}: its writer has the open steps {sorted(state.live)}, written are"
            f" {sorted(known.open)}"
        )
    for number, record in known.open.items():
        other = state.live.get(number)
        if other is not record and other not in (record, known.taken.get(number)):
            raise StateDiffers(f"{known.workflow_id}: its writer has {other}, written is {record}")
    try:
        state.check()
    except AssertionError as error:
        raise StateDiffers(f"{known.workflow_id}: {error}") from error
    for event in state.events:
        if event.event_id in known.consumed:
            raise StateDiffers(f"{known.workflow_id}: its writer has {event}, which is consumed")
