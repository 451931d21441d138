"""Attempts of actions, as the worker hands them to whatever runs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

from perdure.core.frozen import Frozen
from perdure.core.ids import Epoch, WorkflowId
from perdure.core.journal import StepRecord

#: (workflow, step number, epoch of the start, attempt)
AttemptKey: TypeAlias = tuple[WorkflowId, int, Epoch, int]


class Attempt(Frozen, frozen=True):
    """An attempt of an action: recorded, and to be run now. `Attempt.of` makes one.

    Attributes:
        key: what tells it from every other attempt that ever was.
    """

    key: AttemptKey
    record: StepRecord

    @staticmethod
    def of(workflow_id: WorkflowId, record: StepRecord) -> Attempt:
        """The attempt that a step's record says is running."""
        assert record.started_epoch is not None
        key = (workflow_id, record.number, record.started_epoch, record.attempt)
        return Attempt(key, record)

    @property
    def workflow_id(self) -> WorkflowId:
        """Whose attempt it is."""
        return self.key[0]


class Runner(Protocol):
    """What runs attempts. It posts one `AttemptEnded` for each to the mailbox, exactly once."""

    def start(self, attempts: Sequence[Attempt]) -> None:
        """Run them now: nothing that is recorded as started waits."""
        ...

    def cancel(self, key: AttemptKey) -> None:
        """Nobody waits for it any more: tell its code, if it still runs."""
        ...

    def attempts(self) -> list[Attempt]:
        """Those that have not ended."""
        ...

    @property
    def running(self) -> int:
        """How many have not ended: each holds a permit."""
        ...
