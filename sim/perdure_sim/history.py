"""What is on the disk, as commit after commit brought it there, and the laws that it obeys.

The history is kept beside the store, from what was written: so a store that loses or changes
something is found out as well. Each law is an exception class of its own, raised in one place, so
that a search keeps different bugs apart.
"""

from __future__ import annotations

from typing import Any

import attrs

from perdure.core.commands import AwaitEvent, RunStep, Sleep
from perdure.core.ids import Epoch, EventId, WorkflowId
from perdure.core.journal import StepRecord
from perdure.core.messages import SentEvent
from perdure.core.outcomes import Canceled, Failed, Succeeded
from perdure.core.workflow import WorkflowState
from perdure.store.base import Loaded, StateWrite, StepWrite, Store

from .actions import CallMade
from .faulty_store import Write


class Violation(AssertionError):
    """A law is broken; the message has the two facts that contradict each other."""


class IdTaken(Violation):
    """Two workflows have one id."""


class StaleWrite(Violation):
    """A write was decided under an epoch that the workflow no longer has."""


class EpochReused(Violation):
    """An epoch was given twice, or fell."""


class EndChanged(Violation):
    """A workflow that has ended was written again."""


class StepAfterEnd(Violation):
    """A step of a workflow that has ended was written."""


class NumbersNotDense(Violation):
    """Steps are not numbered in the order in which they were asked for."""


class JournalChanged(Violation):
    """A part of the journal that was closed is not what it was."""


class OutcomeChanged(Violation):
    """A step has another outcome than before."""


class PositionsNotDense(Violation):
    """Facts were delivered at positions that leave a gap, or two at one."""


class TimeWentBack(Violation):
    """A workflow's time, or an instant of a step, is earlier than what came before it."""


class TooManyAttempts(Violation):
    """More attempts were recorded than the policy allows, or their numbers jump."""


class BackoffTooShort(Violation):
    """An attempt began before the wait after the last one was over."""


class TimerEarly(Violation):
    """Something that waits for a time did not wait for it."""


class EventTwice(Violation):
    """An event was consumed twice, or one was consumed that was never sent."""


class EventsOutOfOrder(Violation):
    """Of two events of one name the later one was consumed first."""


class AttemptNotRecorded(Violation):
    """An action's code ran without a recorded start."""


class AttemptTwice(Violation):
    """The code of one recorded attempt ran twice."""


class KeyChanged(Violation):
    """Two attempts of one step have different idempotency keys."""


class StoreDiffers(Violation):
    """The store gives something else than what was written."""


class StateUnsound(Violation):
    """A stored state breaks an invariant of its own."""


@attrs.define
class Known:
    """What was written of one workflow."""

    state: WorkflowState
    steps: dict[int, StepRecord] = attrs.field(factory=dict)
    ticks: dict[int, int] = attrs.field(factory=dict)
    delivered: dict[int, int] = attrs.field(factory=dict)
    not_before: dict[int, int] = attrs.field(factory=dict)
    consumed: dict[EventId, int] = attrs.field(factory=dict)
    sent: dict[EventId, SentEvent] = attrs.field(factory=dict)
    checked_to: int = 0
    has_ended: bool = False


class History:
    """All that was committed.

    Attributes:
        workflows: by id, in the order in which they were started.
    """

    def __init__(self) -> None:
        self.workflows: dict[WorkflowId, Known] = {}
        self._epochs: dict[Epoch, WorkflowId] = {}
        self._attempts: dict[tuple[WorkflowId, int, str, int], CallMade] = {}
        self._keys: dict[tuple[WorkflowId, int], str] = {}

    # --- commits ------------------------------------------------------------------------------

    def take(self, writes: list[Write], now: int) -> None:
        """A commit: apply it, and check all laws about what it touches."""
        touched: dict[WorkflowId, None] = {}
        for kind, what in writes:
            match kind:
                case "insert":
                    for state in what:
                        self._insert(state)
                        touched[state.workflow_id] = None
                case "update":
                    for write in what:
                        self._update(write)
                        touched[write.state.workflow_id] = None
                case "steps":
                    for write in what:
                        self._step(write)
                        touched[write.workflow_id] = None
                case "ticks":
                    for workflow_id, position, at in what:
                        self._tick(workflow_id, position, at)
                        touched[workflow_id] = None
                case "event":
                    self._event(*what)
                case "consume":
                    self._consume(*what)
                case _:
                    pass
        for workflow_id in touched:
            self._check(self.workflows[workflow_id])

    def _insert(self, state: WorkflowState) -> None:
        workflow_id = state.workflow_id
        if workflow_id in self.workflows:
            raise IdTaken(f"{workflow_id} was started twice: {state}")
        self.workflows[workflow_id] = Known(state)
        self._take_epoch(state)

    def _take_epoch(self, state: WorkflowState) -> None:
        owner = self._epochs.setdefault(state.epoch, state.workflow_id)
        if owner != state.workflow_id:
            raise EpochReused(f"epoch {state.epoch} was {owner}'s, now it is {state.workflow_id}'s")

    def _update(self, write: StateWrite) -> None:
        state = write.state
        known = self.workflows[state.workflow_id]
        old = known.state
        if write.expected_epoch != old.epoch:
            raise StaleWrite(f"expected epoch {write.expected_epoch}, stored {old.epoch}: {state}")
        if state.epoch < old.epoch:
            raise EpochReused(f"{state.workflow_id}: epoch {state.epoch} after {old.epoch}")
        if state.epoch != old.epoch:
            if state.epoch in self._epochs:
                raise EpochReused(f"{state.workflow_id}: epoch {state.epoch} was given before")
            self._take_epoch(state)
        if known.has_ended:
            raise EndChanged(f"{state.workflow_id} ended as {old.outcome}, now {state.outcome}")
        if state.stamp < old.stamp or state.position < old.position:
            raise TimeWentBack(
                f"{state.workflow_id}: stamp {state.stamp} position {state.position} after"
                f" {old.stamp} {old.position}"
            )
        if state.started_at != old.started_at and old.started_at is not None:
            raise JournalChanged(f"{state.workflow_id}: started at {state.started_at}, {old}")
        known.state = state

    def _step(self, write: StepWrite) -> None:
        known, new = self.workflows[write.workflow_id], write.record
        where = f"{write.workflow_id} step {new.number}"
        if known.has_ended:
            raise StepAfterEnd(f"{where} written after the end, {known.state.outcome}: {new}")
        old = known.steps.get(new.number)
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
        known.steps[new.number] = new

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
        if new.attempt > old.attempt and (new.started_at or 0) < due:
            raise BackoffTooShort(f"{where}: due at {due}, started {new.started_at}")

    def _check_record(self, where: str, old: StepRecord | None, new: StepRecord) -> None:
        command = new.command
        if isinstance(command, RunStep):
            if new.attempt > command.retry.max_attempts:
                raise TooManyAttempts(f"{where}: {new.attempt} of {command.retry.max_attempts}")
            due = command.due_at
            if due is not None and new.started_at is not None and new.started_at < due:
                raise TimerEarly(f"{where}: due at {due}, started at {new.started_at}")
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

    def _event(self, workflow_id: WorkflowId, event: SentEvent) -> None:
        self.workflows[workflow_id].sent[event.event_id] = event

    def _consume(self, workflow_id: WorkflowId, event_id: EventId, number: int) -> None:
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

    def _check(self, known: Known) -> None:
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
            known.has_ended = True
            for record in known.steps.values():
                if record.outcome is None:
                    raise StateUnsound(f"{state.workflow_id} has ended, but not its step {record}")

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
        they may run again, under another key.
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
                self.attempt_begins(what)
            else:
                self.take(what, at)
            left.append(each)
        return left

    # --- attempts -----------------------------------------------------------------------------

    def attempt_begins(self, call: CallMade) -> None:
        """The code of an attempt begins to run."""
        place = (call.workflow_id, call.step_number)
        where = f"{call.workflow_id} step {call.step_number} attempt {call.attempt}"
        known = self.workflows.get(call.workflow_id)
        record = None if known is None else known.steps.get(call.step_number)
        if record is None or record.attempt < call.attempt:
            raise AttemptNotRecorded(f"{where} of {call.action} runs; recorded is {record}")
        key = (*place, call.idempotency_key, call.attempt)
        other = self._attempts.setdefault(key, call)
        if other is not call:
            raise AttemptTwice(f"{where} ran at {other.at} in {other.process}, now {call}")
        if self._keys.setdefault(place, call.idempotency_key) != call.idempotency_key:
            raise KeyChanged(f"{where}: {self._keys[place]}, now {call.idempotency_key}")

    # --- at rest ------------------------------------------------------------------------------

    def check_store(self, store: Store) -> list[Loaded]:
        """Compare all that was written with what the store gives."""
        ids = list(self.workflows)
        found = {each.state.workflow_id: each for each in store.reader().load(ids)}
        for workflow_id, known in self.workflows.items():
            loaded = found.get(workflow_id)
            if loaded is None:
                raise StoreDiffers(f"{workflow_id} is gone")
            self._compare(known, loaded)
        return [found[workflow_id] for workflow_id in ids]

    def _compare(self, known: Known, loaded: Loaded) -> None:
        workflow_id = known.state.workflow_id
        steps: Any = {record.number: record for record in loaded.steps}
        if steps != known.steps:
            wrong = [n for n in {*steps, *known.steps} if steps.get(n) != known.steps.get(n)]
            raise StoreDiffers(
                f"{workflow_id} step {wrong[0]}: stored {steps.get(wrong[0])}, written"
                f" {known.steps.get(wrong[0])}"
            )
        ticks = {tick.position: tick.now for tick in loaded.ticks}
        if ticks != known.ticks:
            raise StoreDiffers(f"{workflow_id}: ticks {ticks}, written {known.ticks}")
        for name in ("status", "outcome", "position", "stamp", "started_at", "next_number"):
            stored, written = getattr(loaded.state, name), getattr(known.state, name)
            if stored != written:
                raise StoreDiffers(f"{workflow_id}: {name} is {stored!r}, written {written!r}")
        try:
            loaded.state.check()
        except AssertionError as error:
            raise StateUnsound(f"{workflow_id}: {error}") from error
