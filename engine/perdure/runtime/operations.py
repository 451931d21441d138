"""What clients, mutations and workers do to workflows inside one transaction. (Events: see
event_operations.py.)

Whoever calls carries these out himself, whoever owns the workflow: a live worker, a dead one, or
none. What has to follow in this process after the commit is collected in `After`.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from perdure.core.effects import (
    CallOnComplete,
    CancelAttempt,
    CancelChild,
    PutStep,
    TellParent,
)
from perdure.core.ids import Epoch, WorkerId, WorkflowId
from perdure.core.limits import CHILD_DEPTH_MAX
from perdure.core.messages import CancelWorkflow
from perdure.core.outcomes import Canceled, Failed, Json, Outcome, Succeeded, is_same_json
from perdure.core.transition import transition
from perdure.core.workflow import WorkflowHeader, WorkflowState
from perdure.definitions import Mutation, Workflow
from perdure.errors import (
    DefinitionError,
    ErrorInfo,
    InternalError,
    LimitExceeded,
    WorkflowIdConflict,
    WorkflowNotFound,
    WorkflowNotRunning,
)
from perdure.sometimes import sometimes
from perdure.store.base import InboxRow, StateWrite, StepWrite

from .functions import run_on_complete
from .scope import Scope


class StartOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A checked wish to start a workflow: everything is encoded."""

    workflow_id: WorkflowId
    name: str
    arguments: Json
    start_at: int
    has_own_id: bool = False
    on_complete: str | None = None
    context: Json | None = None
    parent_id: WorkflowId | None = None
    parent_number: int | None = None
    depth: int = 0

    def execute(self, scope: Scope) -> WorkflowId:
        """Carry it out, as a request."""
        return start(scope, self)


def new_state(
    order: StartOrder, *, epoch: Epoch, now: int, owner: WorkerId | None
) -> WorkflowState:
    """The state of a workflow that does not exist yet."""
    header = WorkflowHeader(
        workflow_id=order.workflow_id,
        name=order.name,
        arguments=order.arguments,
        context=order.context,
        on_complete=order.on_complete,
        parent_id=order.parent_id,
        parent_number=order.parent_number,
        depth=order.depth,
        created_at=now,
        start_at=max(order.start_at, now),
    )
    wake_at = None if owner is not None else header.start_at
    return WorkflowState(header=header, epoch=epoch, owner=owner, wake_at=wake_at, stamp=now)


def check_same_start(order: StartOrder, found: WorkflowState) -> WorkflowId:
    """The id, if the workflow that has it was started by the same call.

    Raises:
        WorkflowIdConflict: by another call.
    """
    header = found.header
    if header.name == order.name and is_same_json(header.arguments, order.arguments):
        return header.workflow_id
    raise WorkflowIdConflict(
        f"start(id={order.workflow_id!r}): this id belongs to a workflow {header.name!r} that was"
        " started with another call: choose another id",
        workflow_id=order.workflow_id,
    )


def start(scope: Scope, order: StartOrder) -> WorkflowId:
    """Insert a workflow; the same id with the same call does nothing.

    Raises:
        WorkflowIdConflict: the id belongs to another call.
    """
    env, tx, now = scope.env, scope.tx, scope.now
    if order.has_own_id:
        found = tx.states([order.workflow_id])
        if found:
            return check_same_start(order, found[0])
    is_mine = (
        env.worker_id is not None
        and order.start_at <= now
        and isinstance(env.registry.get(order.name), Workflow)
    )
    owner = env.worker_id if is_mine else None
    state = new_state(order, epoch=scope.new_epoch(), now=now, owner=owner)
    tx.insert_workflows([state])
    if is_mine:
        scope.after.adopted.append(state)
    else:
        scope.after.look_claims = True
    return order.workflow_id


def start_child(
    scope: Scope, parent: WorkflowState, number: int, child_id: WorkflowId, command: Any
) -> ErrorInfo | None:
    """Insert a child workflow; the error if it cannot be."""
    depth = parent.header.depth + 1
    if depth > CHILD_DEPTH_MAX:
        return ErrorInfo(
            LimitExceeded.__name__, f"children {depth} deep, over the limit of {CHILD_DEPTH_MAX}"
        )
    if scope.tx.states([child_id]):
        text = f"a workflow with the id {child_id!r} exists already: choose another workflow_id"
        return ErrorInfo(WorkflowIdConflict.__name__, text)
    order = StartOrder(
        workflow_id=child_id,
        name=command.function,
        arguments=command.arguments,
        start_at=scope.now if command.due_at is None else command.due_at,
        parent_id=parent.workflow_id,
        parent_number=number,
        depth=depth,
    )
    start(scope, order)
    return None


def cancel(scope: Scope, workflow_id: WorkflowId) -> None:
    """Cancel a workflow and all below it, in this transaction.

    Raises:
        WorkflowNotFound, WorkflowNotRunning: there is nothing to cancel.
        DefinitionError: its `on_complete` is not known in this process.
    """
    loaded = scope.tx.load([workflow_id])
    if not loaded:
        raise not_found(workflow_id)
    state = loaded[0].state
    if state.status != "in_progress":
        raise WorkflowNotRunning(
            f"workflow {workflow_id!r} is not running: it ended ({state.status})",
            workflow_id=workflow_id,
        )
    check_on_complete(scope, state)  # raises now, before anything is written
    cancel_tree(scope, state)


def check_on_complete(scope: Scope, state: WorkflowState) -> None:
    """Refuse to end a workflow whose `on_complete` cannot be run here.

    Raises:
        DefinitionError: this process does not know the mutation.
    """
    if state.header.on_complete is not None:
        _on_complete_of(scope, state)


def cancel_tree(scope: Scope, state: WorkflowState) -> None:
    """Cancel `state` (in progress, with its open steps) and its children."""
    epoch = scope.tx.take_epochs(1)
    decision = transition(state, CancelWorkflow(epoch=epoch), scope.now, scope.env.limits)
    end_elsewhere(scope, state, decision.state, decision.writes, decision.effects)


def end_elsewhere(
    scope: Scope, before: WorkflowState, state: WorkflowState, writes: Any, effects: Any
) -> None:
    """Write the end of a workflow, whoever owned it, and tell its owner and runners."""
    tx, workflow_id = scope.tx, before.workflow_id
    stale = tx.update_workflows([StateWrite(state=state, expected_epoch=before.epoch)])
    if stale:
        raise InternalError(f"workflow {workflow_id!r} changed inside one transaction")
    tx.put_steps(
        StepWrite(workflow_id=workflow_id, record=write.record, is_new=write.is_new)
        for write in writes
        if isinstance(write, PutStep)
    )
    for write in writes:
        match write:
            case CancelChild():
                cancel_child(scope, workflow_id, write)
            case CallOnComplete():
                error = call_on_complete(scope, state, write.outcome)
                if error is not None:
                    state = replace(state, on_complete_error=error)
                    tx.update_workflows([StateWrite(state=state, expected_epoch=state.epoch)])
            case TellParent():
                tell_parent(scope, write, workflow_id)
    _revoke(scope, before, effects)
    scope.after.canceled.append(workflow_id)
    assert state.outcome is not None
    scope.after.ended.append((workflow_id, state.outcome))


def _revoke(scope: Scope, before: WorkflowState, effects: Any) -> None:
    """Tell the workers that own or run parts of a workflow that it is out of their hands."""
    workflow_id, me = before.workflow_id, scope.env.worker_id
    concerned = {before.owner, *(record.runner for record in before.live.values())}
    if concerned <= {None}:
        return
    living = {row.worker_id for row in scope.tx.workers()}
    for worker in sorted(living & concerned):
        if worker == me:
            scope.after.revoked.append(workflow_id)
            scope.after.effects.extend(
                (workflow_id, effect) for effect in effects if isinstance(effect, CancelAttempt)
            )
        else:
            _put_revoked(scope, workflow_id, worker)


def revoke_attempt(scope: Scope, workflow_id: WorkflowId, runner: WorkerId) -> None:
    """Tell a worker that runs attempts of the workflow, and does not own it, to look which of them
    are still waited for. Once in a transaction, however many are not."""
    if (workflow_id, runner) in scope.revoked:
        return
    scope.revoked.add((workflow_id, runner))
    if any(row.worker_id == runner for row in scope.tx.workers()):
        sometimes("a worker is told that nobody waits for a step that it has taken")
        _put_revoked(scope, workflow_id, runner)


def _put_revoked(scope: Scope, workflow_id: WorkflowId, worker: WorkerId) -> None:
    row = InboxRow(
        workflow_id=workflow_id,
        kind="revoked",
        body="null",
        accepted_at=scope.now,
        worker=worker,
    )
    scope.tx.put_inbox([row])


def cancel_child(scope: Scope, parent_id: WorkflowId, write: CancelChild) -> None:
    """Cancel a step's child, if it still runs, and if it is its child: an id given by the user may
    have been refused because it is another workflow's, or that of another step's child."""
    for loaded in scope.tx.load([write.child_id]):
        header = loaded.state.header
        is_its = (header.parent_id, header.parent_number) == (parent_id, write.number)
        if loaded.state.status == "in_progress" and is_its:
            # Its parent has done with it: it is not told.
            orphan = replace(header, parent_id=None, parent_number=None)
            cancel_tree(scope, replace(loaded.state, header=orphan))


def waits_for(scope: Scope, workflow_id: WorkflowId, child_id: WorkflowId) -> bool:
    """Whether, as it is stored now, a step of the workflow waits for this child."""
    return any(
        record.child_id == child_id and record.outcome is None
        for loaded in scope.tx.load([workflow_id])
        for record in loaded.steps
    )


def tell_parent(scope: Scope, write: TellParent, child_id: WorkflowId) -> None:
    """Put a child's outcome into its parent's inbox, if the parent can still learn it."""
    parents = scope.tx.states([write.parent_id])
    if not parents or parents[0].status != "in_progress":
        return  # a child that was restarted by itself
    body = encode_inbox(write.outcome, child_id=child_id)
    row = InboxRow(
        workflow_id=write.parent_id,
        kind="child",
        body=body,
        number=write.number,
        accepted_at=scope.now,
    )
    scope.tx.put_inbox([row])
    scope.tx.wake(write.parent_id, scope.now)
    scope.after.look_inbox = True
    scope.after.look_claims = True


def call_on_complete(scope: Scope, state: WorkflowState, outcome: Outcome) -> ErrorInfo | None:
    """Run a workflow's `on_complete` in this transaction; the error if it raised.

    Raises:
        DefinitionError: this process does not know the mutation.
    """
    return run_on_complete(scope, _on_complete_of(scope, state), state, outcome)


def _on_complete_of(scope: Scope, state: WorkflowState) -> Mutation[..., Any]:
    name = state.header.on_complete
    assert name is not None
    definition = scope.env.registry.get(name)
    if not isinstance(definition, Mutation):
        raise DefinitionError(
            f"workflow {state.workflow_id!r} ends with on_complete={name!r}, which is no mutation"
            " of this manager: do this where it is defined"
        )
    return definition


# --- the inbox's bodies ---------------------------------------------------------------------------


class _Body(msgspec.Struct, omit_defaults=True):
    kind: str
    value: str | None = None
    error: ErrorInfo | None = None
    child_id: str | None = None
    epoch: int = 0
    attempt: int = 0
    is_retryable: bool = True
    is_lost: bool = False
    runner: WorkerId | None = None


_decode_body = msgspec.json.Decoder(_Body).decode


def encode_inbox(
    outcome: Outcome,
    *,
    child_id: WorkflowId | None = None,
    epoch: Epoch = 0,
    attempt: int = 0,
    is_retryable: bool = True,
    is_lost: bool = False,
    runner: WorkerId | None = None,
) -> Json:
    """The body of an inbox row. With `runner` it tells that the attempt has started there."""
    body = _Body(
        kind=outcome.kind,
        value=outcome.value if isinstance(outcome, Succeeded) else None,
        error=outcome.error if isinstance(outcome, Failed) else None,
        child_id=child_id,
        epoch=epoch,
        attempt=attempt,
        is_retryable=is_retryable,
        is_lost=is_lost,
        runner=runner,
    )
    return msgspec.json.encode(body).decode()


def decode_inbox(text: Json) -> tuple[_Body, Outcome]:
    """The body of an inbox row, and the outcome in it."""
    body = _decode_body(text)
    outcome: Outcome
    if body.kind == "success":
        outcome = Succeeded(body.value or "null")
    elif body.kind == "failed":
        assert body.error is not None
        outcome = Failed(body.error)
    else:
        outcome = Canceled()
    return body, outcome


def not_found(workflow_id: WorkflowId) -> WorkflowNotFound:
    """The error for an id that no workflow has."""
    return WorkflowNotFound(f"no workflow has the id {workflow_id!r}", workflow_id=workflow_id)
