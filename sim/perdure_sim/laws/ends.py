"""The laws of what happens in the transaction itself: effects of functions, ends, and children."""

from __future__ import annotations

from collections.abc import Mapping

from perdure.core.commands import AwaitEvent, RunChild, RunStep
from perdure.core.ids import WorkflowId
from perdure.core.outcomes import Canceled, Failed, Succeeded
from perdure.runtime.scope import ON_COMPLETE

from .known import Change, Commit, Known
from .violations import (
    ChildDiffers,
    ChildLost,
    EffectKept,
    EffectMissing,
    EffectTwice,
    EventNotConsumed,
    FailedByEngine,
    OnCompleteElsewhere,
    OnCompleteMissing,
    OnCompleteTwice,
    Orphan,
)

#: Why a child may not have been started at all.
_REFUSALS = ("WorkflowIdConflict", "LimitExceeded")


def check_ends(commit: Commit, workflows: Mapping[WorkflowId, Known]) -> None:
    """After a commit: what it should have done with its rows, it did, and nothing else."""
    for workflow_id, number in commit.functions:
        # One that is deleted in this commit has run its functions, not another of its id.
        known = commit.deleted.get(workflow_id) or workflows[workflow_id]
        _check_function(commit, known, number)
    for change in commit.changes:
        command = change.new.command
        if isinstance(command, RunStep):
            if command.kind != "action" and _is_settled_now(change):
                number = change.new.number
                is_there = number in change.known.functions
                if isinstance(change.new.outcome, Succeeded) and not is_there:
                    raise EffectMissing(f"{change.where}: {change.new}")
        elif isinstance(command, AwaitEvent):
            event_id = change.new.event_id
            if event_id is not None and change.known.consumed.get(event_id) != change.new.number:
                raise EventNotConsumed(f"{change.where}: {change.new}")
        elif isinstance(command, RunChild):
            if change.known.steps[change.new.number] is change.new:
                _check_child(change, workflows)
    for workflow_id in commit.before:
        known = workflows[workflow_id]
        if known.ended_in != commit.number:
            continue
        outcome = known.state.outcome
        if isinstance(outcome, Failed) and outcome.error.type == "InternalError":
            raise FailedByEngine(f"{workflow_id}: {outcome.error.message}")
        if known.header.on_complete is not None:
            is_there = ON_COMPLETE in known.functions
            if not is_there and known.state.on_complete_error is None:
                raise OnCompleteMissing(f"{workflow_id} ended as {outcome}")


def _is_settled_now(change: Change) -> bool:
    old, new = change.old, change.new
    return new.outcome is not None and (old is None or old.outcome is None)


def _check_function(commit: Commit, known: Known, number: int) -> None:
    """The effects of a function are in this commit."""
    workflow_id, state = known.workflow_id, known.state
    if number == ON_COMPLETE:
        if number in known.functions:
            raise OnCompleteTwice(f"{workflow_id}, which ended as {state.outcome}")
        if commit.number not in (known.ended_in, known.ended_last):
            raise OnCompleteElsewhere(f"{workflow_id}, outcome {state.outcome}")
        if known.ended_in != commit.number:
            return  # it restarts its workflow, or somebody else does in the same commit
    else:
        if number in known.functions:
            raise EffectTwice(f"{workflow_id} step {number}: {known.steps.get(number)}")
        record = known.steps.get(number)
        # One may cancel its own workflow: what it did stays.
        is_canceled = known.ended_in == commit.number and state.outcome == Canceled()
        if not is_canceled and (record is None or not isinstance(record.outcome, Succeeded)):
            raise EffectKept(f"{workflow_id} step {number}: {record}")
    known.functions.add(number)


def _check_child(change: Change, workflows: Mapping[WorkflowId, Known]) -> None:
    """A parent's step for a child says what the child's own record says."""
    new, workflow_id = change.new, change.known.workflow_id
    child = workflows.get(new.child_id or "")
    is_ours = child is not None and (
        (child.header.parent_id, child.header.parent_number) == (workflow_id, new.number)
    )
    if child is None or not is_ours:
        is_refused = isinstance(new.outcome, Failed) and new.outcome.error.type in _REFUSALS
        if not (is_refused or isinstance(new.outcome, Canceled)):
            raise ChildLost(f"{change.where}: {new}, and its child is {child}")
        return
    if not _is_settled_now(change):
        return
    outcome = child.state.outcome
    if new.outcome in child.past:
        return  # it was restarted since
    if outcome is None and isinstance(new.outcome, Canceled):
        raise Orphan(f"{change.where} is canceled, and its child goes on: {child.state}")
    # It may have ended, and its parent not have learned it.
    is_given_up = new.canceled_position is not None or new.delivered_position is None
    if outcome != new.outcome and not (is_given_up and new.outcome == Canceled()):
        raise ChildDiffers(f"{change.where}: {new.outcome}, and its child: {outcome}")
