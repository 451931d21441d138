"""Restarting and deleting workflows that have ended, inside one transaction.

As in operations.py, whoever calls carries this out himself, whoever owned the workflows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import msgspec
from msgspec.structs import replace

from perdure.core.commands import AwaitEvent, RunChild
from perdure.core.draft import Draft
from perdure.core.effects import PutStep
from perdure.core.ids import Epoch, WorkflowId
from perdure.core.journal import StepRecord
from perdure.core.messages import ChildEnded, EventMissing
from perdure.core.outcomes import Canceled, Failed, Outcome
from perdure.core.restart import restarted
from perdure.core.transition import advance
from perdure.core.workflow import WorkflowState
from perdure.errors import InternalError, StepNotFound, WorkflowRunning
from perdure.sometimes import sometimes
from perdure.store.base import Loaded, StateWrite, StepWrite

from .event_operations import missing
from .operations import cancel_tree, check_on_complete, not_found, start_child
from .scope import Scope

#: A step to restart from: its number, or a name.
FromStep: TypeAlias = int | str


class _Tried(msgspec.Struct, frozen=True):
    """A workflow as it was before a restart of it.

    Attributes:
        epoch: of its life, which had ended, or was blocked.
        number: of the step from which it was restarted.
        asked_epoch: the life in which that step was asked for.
    """

    epoch: Epoch
    was_blocked: bool
    number: int | None
    asked_epoch: Epoch | None

    def is_restarted(self, found: Loaded) -> bool:
        """Whether it has been restarted since: as wished, or from an earlier step.

        Its epoch alone does not tell: it changes also where a worker tries a blocked workflow. But
        no step of a new life was asked for in an old one. Where all steps are kept, a workflow that
        is no longer blocked is as good as restarted.
        """
        if found.state.epoch == self.epoch:
            return False
        if self.number is None:
            return not (self.was_blocked and found.state.is_blocked)
        return _asked_epoch(found, self.number) != self.asked_epoch


def _asked_epoch(loaded: Loaded, number: int | None) -> Epoch | None:
    return next((each.asked_epoch for each in loaded.steps if each.number == number), None)


class RestartOrder(msgspec.Struct, kw_only=True):
    """A checked wish to restart a workflow; `from_step` None keeps every outcome.

    Attributes:
        tried: what was found when it was carried out, should the commit of that only seem to fail.
    """

    workflow_id: WorkflowId
    from_step: FromStep | None = None
    tried: _Tried | None = None

    def execute(self, scope: Scope) -> None:
        """Carry it out, as a request."""
        restart(scope, self)


class CleanupOrder(msgspec.Struct, kw_only=True):
    """A checked wish to delete a workflow; `force`: though it runs.

    `seen` is when the workflow that was found was created: if it is gone, or another one has its
    id, when a commit that seemed to fail is tried again, it was stored after all.
    """

    workflow_id: WorkflowId
    force: bool = False
    seen: int | None = None

    def execute(self, scope: Scope) -> bool:
        """Carry it out, as a request."""
        return cleanup(scope, self)


# --- restart --------------------------------------------------------------------------------------


def restart(scope: Scope, order: RestartOrder) -> None:
    """Have a workflow that has ended, or is blocked, run again.

    Raises:
        WorkflowNotFound, WorkflowRunning, StepNotFound: nothing was written.
        InternalError: some of its rows cannot be read; nothing was written.
    """
    workflow_id = order.workflow_id
    found = scope.tx.load([workflow_id])
    if not found:
        raise not_found(workflow_id)
    state = found[0].state
    is_running = state.status == "in_progress"
    if order.tried is not None and order.tried.is_restarted(found[0]):
        sometimes("a restart that was carried out is asked for again")
        return
    if is_running and not state.is_blocked:
        raise WorkflowRunning(
            f"workflow {workflow_id!r} has not ended: cancel it first, or wait for its end",
            workflow_id=workflow_id,
        )
    damage = found[0].damage
    if damage is not None:
        raise InternalError(f"workflow {workflow_id!r} cannot be restarted: {damage.message}")
    number = _number_of(found[0], order)
    asked_epoch = _asked_epoch(found[0], number)
    order.tried = _Tried(state.epoch, state.is_blocked, number, asked_epoch)
    if is_running:
        sometimes("a blocked workflow is restarted")
        _stop(scope, state)
        found = scope.tx.load([workflow_id])
    again = [(found[0], number)]
    while again:
        loaded, number = again.pop()
        again += [(child, None) for child in _restart_one(scope, loaded, number)]


def _stop(scope: Scope, state: WorkflowState) -> None:
    """End what a blocked workflow still runs, as a cancel does: but it has no end that anybody is
    told of, neither its `on_complete`, nor its parent, nor who waits for its result."""
    ended = len(scope.after.ended)
    header = replace(state.header, on_complete=None, parent_id=None, parent_number=None)
    cancel_tree(scope, replace(state, header=header))
    scope.after.ended[ended:] = [
        each for each in scope.after.ended[ended:] if each[0] != state.workflow_id
    ]


def _number_of(loaded: Loaded, order: RestartOrder) -> int | None:
    """The number of the step to restart from."""
    wish = order.from_step
    if wish is None:
        return None
    if isinstance(wish, int):
        if any(record.number == wish for record in loaded.steps):
            return wish
    else:
        for record in reversed(loaded.steps):
            if record.command.name == wish:
                return record.number
    names = ", ".join(f"{each.number} {each.command.name}" for each in loaded.steps[-20:])
    raise StepNotFound(
        f"restart(from_step={wish!r}): workflow {order.workflow_id!r} has no such step; its last"
        f" steps are: {names or '(none)'}"
    )


def _restart_one(scope: Scope, loaded: Loaded, number: int | None) -> list[Loaded]:
    """Restart one workflow; its children that have to be restarted with it."""
    tx, before = scope.tx, loaded.state
    workflow_id = before.workflow_id
    plan = restarted(
        before,
        loaded.steps,
        loaded.ticks,
        from_number=number,
        epoch=tx.take_epochs(1),
        now=max(scope.now, before.stamp),
    )
    # What its old life was sent: by number and id it might fit a step of the new one.
    tx.clear_inbox([workflow_id])
    own = [child for each, child in plan.children if _is_child(scope, child, workflow_id, each)]
    _delete(scope, own)  # while it has ended: it is not told how they end
    _write(scope, plan.state, before)
    if plan.cut_number is not None:
        tx.cut_journal(workflow_id, plan.cut_number, plan.cut_position)
    _put_steps(scope, workflow_id, plan.changed)
    scope.after.replaced.append(workflow_id)
    scope.after.look_claims = True
    draft = Draft.of(plan.state, scope.now, scope.env.limits)
    for message in _lost_events(scope, plan.state):
        advance(draft, message)
    children: list[Loaded] = []
    for record in plan.asked_again:
        child_id, outcome = _child_again(scope, plan.state, record, children)
        if outcome is not None:
            ended = ChildEnded(
                number=record.number, child_id=child_id, outcome=outcome, accepted_at=scope.now
            )
            advance(draft, ended)
    if draft.writes:
        _put_steps(scope, workflow_id, [w.record for w in draft.writes if isinstance(w, PutStep)])
        _write(scope, draft.state(), plan.state)
    return children


def _lost_events(scope: Scope, state: WorkflowState) -> Iterator[EventMissing]:
    """Awaits by id that are asked for again, and whose events have gone with their consumers."""
    for number in state.awaiting:
        command = state.live[number].command
        assert isinstance(command, AwaitEvent)
        if command.event_id is not None:
            error = missing(scope, state.workflow_id, command.event_id)
            if error is not None:
                sometimes("an event that is awaited again went with the step that consumed it")
                yield EventMissing(number=number, error=error)


def _child_again(
    scope: Scope, parent: WorkflowState, record: StepRecord, children: list[Loaded]
) -> tuple[WorkflowId, Outcome | None]:
    """Have a step's child again: one that was canceled is added to `children`, to be restarted.

    Returns:
        The child's id, and its outcome if it is known already.
    """
    child_id = record.child_id
    assert child_id is not None and isinstance(record.command, RunChild)
    if not _is_child(scope, child_id, parent.workflow_id, record.number):
        sometimes("a child that is gone is started again")
        refusal = start_child(scope, parent, record.number, child_id, record.command)
        return child_id, None if refusal is None else Failed(refusal)
    (child,) = scope.tx.load([child_id])
    if not isinstance(child.state.outcome, Canceled):
        return child_id, child.state.outcome  # nobody was told, or it still runs
    if child.damage is not None:
        return child_id, Failed(child.damage)
    children.append(child)  # it was canceled with this one: it goes on as well
    return child_id, None


def _is_child(scope: Scope, child_id: WorkflowId, parent_id: WorkflowId, number: int) -> bool:
    """Whether there is a workflow of this id that this very step has started."""
    for state in scope.tx.states([child_id]):
        return (state.header.parent_id, state.header.parent_number) == (parent_id, number)
    return False


def _write(scope: Scope, state: WorkflowState, before: WorkflowState) -> None:
    row = StateWrite(state=state, expected_epoch=before.epoch)
    if scope.tx.update_workflows([row]):
        raise InternalError(f"workflow {state.workflow_id!r} changed inside one transaction")


def _put_steps(scope: Scope, workflow_id: WorkflowId, records: Iterable[StepRecord]) -> None:
    scope.tx.put_steps(
        StepWrite(workflow_id=workflow_id, record=record, is_new=False) for record in records
    )


# --- cleanup --------------------------------------------------------------------------------------


def cleanup(scope: Scope, order: CleanupOrder) -> bool:
    """Delete a workflow with all below it; whether it was deleted.

    Raises:
        DefinitionError: it runs, and its `on_complete` is not known in this process.
    """
    found = scope.tx.load([order.workflow_id])
    if order.seen is not None and (not found or found[0].state.header.created_at != order.seen):
        sometimes("a cleanup that was carried out is asked for again")
        return True
    if not found:
        return False
    state = found[0].state
    if state.status == "in_progress":
        if not order.force:
            return False
        check_on_complete(scope, state)  # raises now, before anything is written
    order.seen = state.header.created_at
    _delete(scope, [order.workflow_id])
    return True


def _end(scope: Scope, state: WorkflowState) -> None:
    """Cancel a workflow that is to be deleted, if it runs."""
    workflow_id = state.workflow_id
    for has_on_complete in (True, False):
        found = scope.tx.load([workflow_id])
        if not found or found[0].state.status != "in_progress":
            return
        state = found[0].state
        if not has_on_complete:
            # It has restarted the workflow, which would have no end.
            sometimes("an on_complete restarts what is to be deleted")
            state = replace(state, header=replace(state.header, on_complete=None))
        cancel_tree(scope, state)


def _delete(scope: Scope, ids: Sequence[WorkflowId]) -> None:
    """Delete workflows, none of which runs, and all below them, whether it runs or not."""
    tx = scope.tx
    gone: list[WorkflowId] = []
    level = list(ids)
    while level:
        for state in tx.states(level):
            # One that was restarted by itself, or whose parent is restarted from before it.
            _end(scope, state)
        gone += [state.workflow_id for state in tx.states(level)]
        level = tx.children(level)
    if gone:
        tx.delete_workflows(gone)
        scope.after.replaced += gone
