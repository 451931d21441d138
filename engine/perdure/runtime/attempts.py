"""Attempts of actions, as the worker hands them to whatever runs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

import msgspec

from perdure.core.ids import Epoch, WorkflowId
from perdure.core.journal import StepRecord

#: (workflow, step number, epoch of the start, attempt)
AttemptKey: TypeAlias = tuple[WorkflowId, int, Epoch, int]


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt of an action: recorded, and to be run now."""

    workflow_id: WorkflowId
    record: StepRecord

    @property
    def key(self) -> AttemptKey:
        """What tells it from every other attempt that ever was."""
        record = self.record
        assert record.started_epoch is not None
        return (self.workflow_id, record.number, record.started_epoch, record.attempt)


class Runner(Protocol):
    """What runs attempts. It posts one `AttemptEnded` for each to the mailbox, exactly once."""

    def start(self, attempts: Sequence[Attempt]) -> None:
        """Run them now: nothing that is recorded as started waits."""
        ...

    def cancel(self, key: AttemptKey) -> None:
        """Nobody waits for it any more: tell its code, if it still runs."""
        ...

    @property
    def running(self) -> int:
        """How many have not ended: each holds a permit."""
        ...
