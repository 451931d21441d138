"""What one transaction works with: its time, the settings around it, and what is to follow it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import attrs
import msgspec

from perdure.core.effects import Effect
from perdure.core.ids import Epoch, WorkerId, WorkflowId
from perdure.core.limits import Limits, Portions
from perdure.core.messages import Message
from perdure.core.outcomes import Outcome
from perdure.core.workflow import WorkflowState
from perdure.definitions import Registry
from perdure.step import StepRules
from perdure.store.base import Transaction

from .clock import Clock
from .watch import Watch

#: Stands for a workflow's `on_complete` where a step's number is expected.
ON_COMPLETE = -1


class After(msgspec.Struct):
    """What this process does after the commit.

    Attributes:
        adopted: workflows that were made in this transaction and belong to this worker.
        revoked: workflows that this worker may have in memory and must drop.
        canceled: workflows that were canceled: a unit of theirs in this transaction ends there.
        replaced: workflows that had ended and were restarted or deleted: of a unit of theirs in
            this transaction only the end is told.
        effects: attempts to tell that nobody waits for them, by workflow.
        messages: for workflows that this worker owns.
        ended: outcomes, for those who wait for them in this process.
        look_inbox: the inbox got rows for this worker.
        look_claims: there is something that nobody owns and that wants to be taken.
        look_config: the shared settings have changed.
    """

    adopted: list[WorkflowState] = msgspec.field(default_factory=list)
    revoked: list[WorkflowId] = msgspec.field(default_factory=list)
    canceled: list[WorkflowId] = msgspec.field(default_factory=list)
    replaced: list[WorkflowId] = msgspec.field(default_factory=list)
    effects: list[tuple[WorkflowId, Effect]] = msgspec.field(default_factory=list)
    messages: list[tuple[WorkflowId, Message]] = msgspec.field(default_factory=list)
    ended: list[tuple[WorkflowId, Outcome]] = msgspec.field(default_factory=list)
    look_inbox: bool = False
    look_claims: bool = False
    look_config: bool = False

    def add(self, other: After) -> None:
        """Take in what follows from another transaction."""
        self.adopted += other.adopted
        self.revoked += other.revoked
        self.canceled += other.canceled
        self.replaced += other.replaced
        self.effects += other.effects
        self.messages += other.messages
        self.ended += other.ended
        self.look_inbox |= other.look_inbox
        self.look_claims |= other.look_claims
        self.look_config |= other.look_config


class TransactionContext(Protocol):
    """What a function in the transaction gets as its first argument."""

    def close(self) -> None:
        """The function has ended: the context is of no use any more."""
        ...


@attrs.frozen(kw_only=True)
class Env:
    """What stays the same for all transactions of one manager in this process.

    Attributes:
        rules: definitions, limits and defaults.
        clock: where time and new ids come from.
        make_context: the context for a query (True) or mutation in a transaction. It is given,
            because contexts offer the operations that call functions that need contexts.
        watch: what the engine's thread is doing.
        worker_id: None where no worker runs.
        portions: how much is done at once.
    """

    rules: StepRules
    clock: Clock
    make_context: Callable[[Scope, bool], TransactionContext]
    watch: Watch = attrs.field(
        default=attrs.Factory(lambda self: Watch(self.clock), takes_self=True)
    )
    worker_id: WorkerId | None = None
    portions: Portions = attrs.field(factory=Portions)

    @property
    def registry(self) -> Registry:
        return self.rules.registry

    @property
    def limits(self) -> Limits:
        return self.rules.limits


class Scope(msgspec.Struct, kw_only=True):
    """One transaction, its time, and what is to follow it.

    Attributes:
        reserved: epochs that the worker holds in reserve, for workflows made here.
        lost: functions, as (workflow id, step number), that ended the transaction when it was tried
            before: they fail without being run.
        revoked: workers, as (workflow id, worker), that are told to look after their attempts.
    """

    env: Env
    tx: Transaction
    now: int
    after: After = msgspec.field(default_factory=After)
    reserved: list[Epoch] = msgspec.field(default_factory=list)
    lost: frozenset[tuple[WorkflowId, int]] = frozenset()
    revoked: set[tuple[WorkflowId, WorkerId]] = msgspec.field(default_factory=set)

    def new_epoch(self) -> Epoch:
        """An epoch for a workflow that is made in this transaction."""
        return self.reserved.pop() if self.reserved else self.tx.take_epochs(1)
