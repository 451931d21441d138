"""The commit phase: one transaction for the units and requests of a turn.

A unit is what was decided for one workflow; a request is what a client asked for. Rows first, then
the user's functions that run inside the transaction, then the requests. What the functions
returned is settled in this same transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, assert_never

import attrs
import msgspec
from msgspec.structs import replace

from perdure.core.commands import RunStep
from perdure.core.draft import Draft
from perdure.core.effects import (
    CallFunction,
    CallOnComplete,
    CancelChild,
    CheckEvent,
    ConsumeEvent,
    Effect,
    PutStep,
    PutTick,
    RevokeAttempt,
    StartChild,
    TellParent,
    Write,
)
from perdure.core.ids import Epoch, WorkflowId
from perdure.core.journal import StepRecord
from perdure.core.limits import Limits
from perdure.core.messages import ChildEnded, EventMissing, FunctionEnded, Message
from perdure.core.outcomes import Failed, Outcome
from perdure.core.transition import advance
from perdure.core.workflow import WorkflowState
from perdure.errors import DefinitionError, ErrorInfo, PerdureError, StoreError
from perdure.sometimes import sometimes
from perdure.store.base import Fenced, StateWrite, StepWrite, Store, Transaction, TransactionLost

from . import event_operations, operations
from .actor import Unit
from .functions import FunctionRaised, run_step_function
from .scope import After, Env, Scope


class Request(Protocol):
    """What a client asks for; carried out inside a transaction."""

    def execute(self, scope: Scope) -> Any:
        """Do it; the result is for the client, and so is a `PerdureError`, or what is in a
        `FunctionRaised`: they are raised before anything is written, or after it was undone.
        """
        ...


class StaleUnits(Exception):
    """Somebody else changed these workflows meanwhile; nothing was committed."""

    def __init__(self, workflow_ids: set[WorkflowId]) -> None:
        super().__init__(workflow_ids)
        self.workflow_ids = workflow_ids


class StepsTaken(Exception):
    """Other workers have taken ready steps of these workflows meanwhile; nothing was committed."""

    def __init__(self, workflow_ids: set[WorkflowId]) -> None:
        super().__init__(workflow_ids)
        self.workflow_ids = workflow_ids


class UnitFailed(Exception):
    """The unit of one workflow cannot be committed, and its cause is neither store nor user."""

    def __init__(self, workflow_id: WorkflowId) -> None:
        super().__init__(workflow_id)
        self.workflow_id = workflow_id


class Committed(msgspec.Struct):
    """What a commit made of one unit beyond what was decided."""

    unit: Unit
    state: WorkflowState
    effects: list[Effect]
    ready: list[StepRecord]
    writes: list[Write] = msgspec.field(default_factory=list)
    draft: Draft | None = None

    def take(self, message: Message, now: int, limits: Limits) -> None:
        """Take in what became of a write. All of them go into one draft: to freeze the state after
        each would be quadratic in their number."""
        if self.draft is None:
            self.draft = Draft.of(self.state, now, limits)
        advance(self.draft, message)

    def freeze(self) -> None:
        """What was taken in becomes the state."""
        if self.draft is None:
            return
        decision = self.draft.decision(self.state)
        self.state, self.draft = decision.state, None
        self.effects.extend(decision.effects)
        self.ready.extend(decision.ready)
        self.writes.extend(decision.writes)


class Result(msgspec.Struct):
    """What became of a batch.

    Attributes:
        committed: the units, with their final states.
        refused: fresh units whose id was taken, with the answer for their client.
        replies: for each request its result or its exception.
        after: what is to be done in this process.
    """

    committed: list[Committed] = msgspec.field(default_factory=list)
    refused: list[tuple[Unit, Any, BaseException | None]] = msgspec.field(default_factory=list)
    replies: list[tuple[Request, Any, BaseException | None]] = msgspec.field(default_factory=list)
    after: After = msgspec.field(default_factory=After)

    def add(self, part: Result) -> None:
        """Take in what became of another part of the batch."""
        self.committed += part.committed
        self.refused += part.refused
        self.replies += part.replies
        self.after.add(part.after)


#: Writes that are rows and nothing else. (In loops over all writes their type is compared:
#: `isinstance` takes several times as long to say no, since their classes have a metaclass.)
_ROWS = (PutStep, PutTick, ConsumeEvent)

#: Of a workflow that ended, and was restarted or deleted in the same transaction: that it ended.
_END = (CallOnComplete, TellParent)


@attrs.define
class Committer:
    """Commits batches to one store.

    Attributes:
        after: what is to follow the last commit; should it fail and be stored all the same, this
            is what nobody follows.
    """

    store: Store
    env: Env
    after: After = attrs.field(factory=After)

    def commit(
        self,
        units: Sequence[Unit],
        requests: Sequence[Request],
        now: int,
        reserved: list[Epoch],
        lost: frozenset[tuple[WorkflowId, int]] = frozenset(),
        extra: Callable[[Transaction], None] | None = None,
    ) -> Result:
        """Everything in one transaction.

        Args:
            reserved: epochs for workflows that are made on the way; used up from the end.
            lost: steps whose function ended the transaction before: they fail without running.
            extra: something of the worker's own that belongs into the same transaction.

        Raises:
            Fenced: this worker may not write any more.
            StaleUnits, StepsTaken: see there; try again without them.
            UnitFailed: see there.
            TransactionLost: some function ended the transaction; try unit by unit.
            StoreError: the database is in trouble; nothing is known to be stored.
        """
        result = Result()
        self.after = result.after
        if len(units) == 1 and not requests and extra is None and self._write_alone(units[0]):
            return Result([Committed(units[0], units[0].state, list(units[0].effects), [])])
        known = [unit for unit in units if unit.expected_epoch is not None]
        with self.store.transaction() as tx:
            me = self.env.worker_id
            if me is None:
                tx.check_schema()  # a worker would be fenced by an upgrade; a client has no row
            elif not known and tx.is_fenced(me):
                sometimes("a worker that was taken for dead tries to start something")
                raise Fenced  # else the fence is in the first update
            scope = Scope(
                env=self.env,
                tx=tx,
                now=now,
                after=result.after,
                reserved=reserved,
                lost=lost,
            )
            if extra is not None:
                extra(tx)
            units = self._without_conflicts(scope, units, result)
            self._put_rows(tx, units, known)
            for unit in units:
                try:
                    result.committed.append(self._finish(scope, unit))
                except AssertionError as error:
                    raise UnitFailed(unit.workflow_id) from error
            for request in requests:
                result.replies.append(self._execute(scope, request))
            _clear_inbox(tx, result.after)
            given_up = [
                done.unit.workflow_id
                for done in result.committed
                if done.state.owner is None and done.state.status == "in_progress"
            ]
            if given_up and tx.wake_waiting(given_up, now):
                result.after.look_claims = True
        return result

    def _write_alone(self, unit: Unit) -> bool:
        """Commit a unit that is rows of one workflow, and nothing else; whether that was done. If
        not, a transaction is needed, or has to find out what is in the way."""
        me, state = self.env.worker_id, unit.state
        if me is None or unit.expected_epoch is None or state.owner is None or unit.inbox:
            return False
        if not all(type(write) is PutStep for write in unit.writes):
            return False
        steps = _step_writes(unit.workflow_id, unit.writes)
        return self.store.write_alone(_state_write(unit), steps, fence=me)

    def _without_conflicts(
        self, scope: Scope, units: Sequence[Unit], result: Result
    ) -> Sequence[Unit]:
        """Leave out fresh workflows whose own id exists already."""
        asked = [unit for unit in units if unit.order is not None and unit.order.has_own_id]
        if not asked:
            return units
        found = {
            state.workflow_id: state
            for state in scope.tx.states([unit.workflow_id for unit in asked])
        }
        kept = []
        for unit in units:
            other = found.get(unit.workflow_id) if unit.expected_epoch is None else None
            if other is None:
                kept.append(unit)
                continue
            try:
                answer = operations.check_same_start(unit.order, other)
            except Exception as error:
                result.refused.append((unit, None, error))
            else:
                sometimes("a start that was carried out is asked for again")
                result.refused.append((unit, answer, None))
        return kept

    def _put_rows(self, tx: Transaction, units: Sequence[Unit], known: Sequence[Unit]) -> None:
        if len(units) > len(known):
            tx.insert_workflows([unit.state for unit in units if unit.expected_epoch is None])
        if known:
            writes = [_state_write(unit) for unit in known]
            stale = tx.update_workflows(writes, fence=self.env.worker_id)
            if stale:
                if self.env.worker_id is not None and tx.is_fenced(self.env.worker_id):
                    sometimes("a worker that was taken for dead tries to write")
                    raise Fenced
                sometimes("a write is refused because its epoch is stale")
                raise StaleUnits(stale)
        steps: list[StepWrite] = []
        ticks: list[tuple[WorkflowId, int, int]] = []
        inbox: list[int] = []
        for unit in units:
            if unit.writes:
                steps += _step_writes(unit.workflow_id, unit.writes)
                ticks += [
                    (unit.workflow_id, write.position, write.now)
                    for write in unit.writes
                    if type(write) is PutTick
                ]
            if unit.inbox:
                inbox.extend(unit.inbox)
        if steps:
            taken = tx.put_steps(steps)
            if taken:
                sometimes("a decision is dropped because another worker has taken a step")
                raise StepsTaken(taken)
        if ticks:
            tx.put_ticks(ticks)
        for unit in units:
            for write in unit.writes:
                if type(write) is ConsumeEvent:
                    tx.consume_event(unit.workflow_id, write.event_id, write.number)
        if inbox:
            tx.delete_inbox(inbox)

    def _finish(self, scope: Scope, unit: Unit) -> Committed:
        """What of a unit is more than rows: functions, children, events, the parent."""
        done = Committed(unit, unit.state, list(unit.effects), [])
        workflow_id = unit.workflow_id
        canceled, replaced = scope.after.canceled, scope.after.replaced
        for write in unit.writes:
            if type(write) in _ROWS:
                continue
            is_canceled, is_replaced = workflow_id in canceled, workflow_id in replaced
            if not (is_canceled or is_replaced):
                self._carry_out(scope, done, write)
            elif isinstance(write, RevokeAttempt):
                self._carry_out(scope, done, write)  # on record it is over, so nobody else tells
            elif isinstance(write, CancelChild):
                # That a child was cancelled stands, though the workflow is canceled in this
                # transaction; but not if it was restarted, and waits for the child again.
                if not (is_replaced and operations.waits_for(scope, workflow_id, write.child_id)):
                    self._carry_out(scope, done, write)
            elif is_replaced and not is_canceled and isinstance(write, _END):
                self._carry_out(scope, done, write)
            else:  # what it had asked for is void
                sometimes("a workflow is canceled by a mutation of its own transaction")
        done.freeze()
        if workflow_id in canceled:
            return done
        if done.state.owner is None and done.state.settled and done.state is not unit.state:
            # It was given up because it only waited: now it has something to learn.
            sometimes("a workflow that was given up learns something in the same transaction")
            done.state = replace(done.state, wake_at=scope.now)
        if done.state is not unit.state and workflow_id not in replaced:
            scope.tx.put_steps(_step_writes(workflow_id, done.writes))
            epoch = done.state.epoch
            row = StateWrite(state=done.state, expected_epoch=epoch, before=unit.state)
            scope.tx.update_workflows([row])
        if done.state.outcome is not None:
            scope.after.ended.append((workflow_id, done.state.outcome))
        return done

    def _carry_out(self, scope: Scope, done: Committed, write: Write) -> None:
        workflow_id = done.unit.workflow_id
        match write:
            case CallFunction():
                self._call_function(scope, done, write.number)
            case CallOnComplete():
                self._call_on_complete(scope, done, write.outcome)
            case StartChild():
                refusal = operations.start_child(
                    scope, done.state, write.number, write.child_id, write.command
                )
                if refusal is not None:
                    message = ChildEnded(
                        number=write.number,
                        child_id=write.child_id,
                        outcome=Failed(refusal),
                        accepted_at=scope.now,
                    )
                    done.take(message, scope.now, self.env.limits)
            case CancelChild():
                operations.cancel_child(scope, workflow_id, write)
            case RevokeAttempt():
                operations.revoke_attempt(scope, workflow_id, write.runner)
            case TellParent():
                operations.tell_parent(scope, write, workflow_id)
            case CheckEvent():
                error = event_operations.missing(scope, workflow_id, write.event_id)
                if error is not None:
                    missing = EventMissing(number=write.number, error=error)
                    done.take(missing, scope.now, self.env.limits)
            case PutStep() | PutTick() | ConsumeEvent():
                pass  # written with the rows
            case _:
                assert_never(write)

    def _call_on_complete(self, scope: Scope, done: Committed, outcome: Outcome) -> None:
        error: ErrorInfo | None
        done.freeze()
        try:
            error = operations.call_on_complete(scope, done.state, outcome)
        except DefinitionError as unknown:
            # The workflow has ended; that nobody here knows its callback must not undo that.
            error = ErrorInfo("DefinitionError", str(unknown))
        if error is not None:
            done.state = replace(done.state, on_complete_error=error)

    def _call_function(self, scope: Scope, done: Committed, number: int) -> None:
        record = (done.draft or done.state).live.get(number)
        if record is None or record.state != "ready":
            sometimes("a function was admitted in the turn in which its step ended")
            return
        assert isinstance(record.command, RunStep)
        outcome = run_step_function(scope, done.unit.workflow_id, number, record.command)
        done.take(FunctionEnded(number=number, outcome=outcome), scope.now, self.env.limits)

    def _execute(self, scope: Scope, request: Request) -> tuple[Request, Any, BaseException | None]:
        try:
            return request, request.execute(scope), None
        except (StoreError, TransactionLost):
            raise
        except FunctionRaised as raised:
            return request, None, raised.error
        except PerdureError as refusal:
            return request, None, refusal
        # Anything else may come after a write: the whole transaction is undone.


def _clear_inbox(tx: Transaction, after: After) -> None:
    """Delete what was sent to workflows that have ended, unless they run again."""
    ended = [workflow_id for workflow_id, _ in after.ended]
    if after.replaced:
        found = {state.workflow_id for state in tx.states(ended) if state.status == "in_progress"}
        ended = [workflow_id for workflow_id in ended if workflow_id not in found]
    if ended:
        tx.clear_inbox(ended)


def _state_write(unit: Unit) -> StateWrite:
    assert unit.expected_epoch is not None
    return StateWrite(state=unit.state, expected_epoch=unit.expected_epoch, before=unit.actor.state)


def _step_writes(workflow_id: WorkflowId, writes: Sequence[Write]) -> list[StepWrite]:
    """The last row of each step that was written, inserted if any of its writes was new."""
    rows: dict[int, StepWrite] = {}
    for write in writes:
        if type(write) is PutStep:
            number = write.record.number
            before = rows.get(number)
            is_new, was_ready = write.is_new, write.was_ready
            if before is not None:  # what is stored is what was there before the first of them
                is_new, was_ready = is_new or before.is_new, before.must_be_ready
            rows[number] = StepWrite(
                workflow_id=workflow_id,
                record=write.record,
                is_new=is_new,
                must_be_ready=was_ready,
            )
    return list(rows.values())
