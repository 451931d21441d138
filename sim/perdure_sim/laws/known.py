"""What is known of the disk: each workflow as it was written, and one commit while it is looked at.

Nothing is checked here.
"""

from __future__ import annotations

from typing import TypeAlias

import attrs

from perdure.core.ids import Epoch, EventId, WorkerId, WorkflowId
from perdure.core.journal import StepRecord
from perdure.core.limits import TAKEOVERS_MAX
from perdure.core.messages import SentEvent
from perdure.core.outcomes import Outcome
from perdure.core.workflow import WorkflowHeader, WorkflowState
from perdure.store.base import StateWrite

#: A function that runs in a transaction: that of a step, or a workflow's `on_complete`, whose
#: number is `perdure.runtime.scope.ON_COMPLETE`.
Place: TypeAlias = tuple[WorkflowId, int]


@attrs.frozen
class Author:
    """Whose commit it is.

    Attributes:
        worker_id: None for a client.
        is_stopping: it may record attempts as lost that still run.
    """

    worker_id: WorkerId | None
    is_stopping: bool = False


@attrs.define
class Seen:
    """When things were first on the disk, in the world's time."""

    asked: dict[int, int] = attrs.field(factory=dict)
    settled: dict[int, int] = attrs.field(factory=dict)
    sent: dict[EventId, int] = attrs.field(factory=dict)
    ended: int = 0
    restarted: int = 0


@attrs.define
class Known:
    """What was written of one workflow.

    Attributes:
        state: as it was written last.
        header: as it was written first: a child that is canceled by its parent is written as if
            it had none.
        open: steps of which the handler may still learn something.
        taken: steps that another worker has taken from its owner, as they were before: the owner
            may hold them for ready until it writes them.
        functions: steps whose functions' effects are on the disk.
        ended_in: the number of the commit that ended it; 0 while it is in progress.
        was_blocked: since then it goes on at times that nobody promises.
        since: the epoch in which it was started, or restarted: what is older is of another life.
        past: how it ended before it was restarted.
        restarted_in: the number of the commit that restarted it last.
        ended_last: the number of the commit that ended it before its last restart.
    """

    state: WorkflowState
    header: WorkflowHeader
    owner: WorkerId | None = None
    steps: dict[int, StepRecord] = attrs.field(factory=dict)
    open: dict[int, StepRecord] = attrs.field(factory=dict)
    ticks: dict[int, int] = attrs.field(factory=dict)
    delivered: dict[int, int] = attrs.field(factory=dict)
    not_before: dict[int, int] = attrs.field(factory=dict)
    taken: dict[int, StepRecord] = attrs.field(factory=dict)
    consumed: dict[EventId, int] = attrs.field(factory=dict)
    sent: dict[EventId, SentEvent] = attrs.field(factory=dict)
    functions: set[int] = attrs.field(factory=set)
    seen: Seen = attrs.field(factory=Seen)
    checked_to: int = 0
    ended_in: int = 0
    was_blocked: bool = False
    since: Epoch = 0
    restarted_in: int = 0
    ended_last: int = 0
    past: list[Outcome] = attrs.field(factory=list)

    @staticmethod
    def of(state: WorkflowState) -> Known:
        """A workflow that was just inserted."""
        return Known(state, state.header, state.owner, since=state.epoch)

    def is_restarted_by(self, write: StateWrite) -> bool:
        """Whether it had ended, and this has it run again."""
        return self.state.outcome is not None and write.state.outcome is None

    @property
    def workflow_id(self) -> WorkflowId:
        return self.header.workflow_id

    @property
    def has_ended(self) -> bool:
        return self.ended_in > 0


def is_taking(old: StepRecord | None, new: StepRecord, worker_id: WorkerId | None) -> bool:
    """Whether a worker that does not own a step's workflow may write this: it starts a ready
    action."""
    return (
        old is not None
        and (old.state, new.state) == ("ready", "started")
        and old.command.kind == "action"
        and new.attempt == old.attempt + 1
        and new.runner == worker_id
    )


@attrs.frozen
class Change:
    """A step's row, and what it was before."""

    known: Known
    old: StepRecord | None
    new: StepRecord

    @property
    def where(self) -> str:
        return f"{self.known.workflow_id} step {self.new.number}"


@attrs.define
class Commit:
    """What one commit changed.

    Attributes:
        number: from 1.
        now: the world's time.
        author: None where it is not known.
        before: the states of the workflows that it touched; None for new ones.
        changes: of steps, in the order in which they were written.
        functions: those whose effects are in it.
        deleted: workflows that it has deleted; others may have their ids.
    """

    number: int
    now: int
    author: Author | None
    before: dict[WorkflowId, WorkflowState | None] = attrs.field(factory=dict)
    changes: list[Change] = attrs.field(factory=list)
    consumed: list[tuple[Known, EventId]] = attrs.field(factory=list)
    functions: list[Place] = attrs.field(factory=list)
    deleted: dict[WorkflowId, Known] = attrs.field(factory=dict)


def is_given_up(state: WorkflowState) -> bool:
    """Whether so many workers died with it, one after the other, that nobody takes it up again."""
    blocked = state.blocked
    is_lost = blocked is not None and blocked.error.type == "WorkerLost"
    return is_lost and state.takeovers >= TAKEOVERS_MAX
