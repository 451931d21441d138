"""The contract of a store, in prose: what a transaction, a reader and liveness must do.

A store keeps rows, not semantics: it never looks at a status to decide what to do next. Anything
that implements these protocols and passes `perdure_sim.check_store` will do. All instants are
milliseconds since the epoch and come in as parameters. Every method raises only `StoreError`s
(the database is in trouble) beside what is documented.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

import msgspec

from perdure.core.frozen import Frozen
from perdure.core.ids import Epoch, EventId, WorkerId, WorkflowId
from perdure.core.journal import StepRecord, TickRecord
from perdure.core.messages import SentEvent
from perdure.core.outcomes import Json
from perdure.core.workflow import WorkflowState
from perdure.errors import ErrorInfo, PerdureError

T = TypeVar("T")

#: What a store may do where it opens: make a database that is missing; only write to one that is
#: there; only read it.
Access: TypeAlias = Literal["create", "write", "read"]

InboxKind: TypeAlias = Literal["attempt", "child", "event", "revoked"]


class Loaded(Frozen, frozen=True, kw_only=True):
    """A workflow with its whole journal. `state.live` holds the open steps of `steps`.

    If a row of it cannot be read, `damage` says which, and that row is missing: the workflow must
    not go on, and all others must.
    """

    state: WorkflowState
    steps: tuple[StepRecord, ...]
    ticks: tuple[TickRecord, ...]
    damage: ErrorInfo | None = None


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The settings that all workers share."""

    schema_version: int
    max_parallelism: int


class WorkerRow(msgspec.Struct, frozen=True, kw_only=True):
    """One worker's life. `wanting` is how many permits it lacks."""

    worker_id: WorkerId
    is_fenced: bool
    permits: int
    wanting: int


class InboxRow(Frozen, frozen=True, kw_only=True):
    """A message of another process; `row_id` is 0 until it is stored.

    It is for whoever owns the workflow, or, if `worker` is set, for that worker.
    """

    workflow_id: WorkflowId
    kind: InboxKind
    body: Json
    accepted_at: int
    number: int | None = None
    worker: WorkerId | None = None
    row_id: int = 0


class StepWrite(Frozen, frozen=True, kw_only=True):
    """A step's row to insert or to update.

    `must_be_ready`: update it only if the stored row is `ready`. (Never together with `is_new`.)
    `is_taken`: it was taken from its workflow's owner, and `run_by` has to find it.
    """

    workflow_id: WorkflowId
    record: StepRecord
    is_new: bool
    must_be_ready: bool = False
    is_taken: bool = False


class ReadyStep(Frozen, frozen=True, kw_only=True):
    """A ready action, and the epoch of its workflow."""

    workflow_id: WorkflowId
    epoch: Epoch
    record: StepRecord


class StateWrite(Frozen, frozen=True, kw_only=True):
    """A workflow's new row, and the epoch that the stored one must still have.

    `before` is what the writer believes to be stored, if it knows: a store may then leave out
    columns that are the same.
    """

    state: WorkflowState
    expected_epoch: Epoch
    before: WorkflowState | None = None


class WorkflowFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which workflows to list, in order of creation; `after` is the last page's last `seq`."""

    name: str | None = None
    status: str | None = None
    is_blocked: bool | None = None
    is_ascending: bool = True
    limit: int = 100
    after: int | None = None


class Reader(Protocol):
    """Plain reads of committed rows, in any thread.

    Every method raises `NotOpen` once the store is closed, also if it is closed meanwhile.
    """

    def load(self, ids: Collection[WorkflowId]) -> list[Loaded]:
        """The workflows with these ids, with their journals and unconsumed events; all of it as of
        one moment."""
        ...

    def states(self, ids: Collection[WorkflowId]) -> list[WorkflowState]:
        """The workflows with these ids without journal: `live` and `events` are empty."""
        ...

    def list_workflows(self, which: WorkflowFilter) -> list[tuple[int, WorkflowState]]:
        """Up to `limit` workflows as (seq, state without journal)."""
        ...

    def list_steps(
        self, workflow_id: WorkflowId, *, is_ascending: bool, limit: int, after: int | None
    ) -> list[StepRecord]:
        """Up to `limit` steps by number, after (or, descending, before) number `after`."""
        ...

    def open_steps(self, workflow_id: WorkflowId) -> list[StepRecord]:
        """The steps that have no outcome, by number."""
        ...

    def children(self, ids: Collection[WorkflowId]) -> list[WorkflowId]:
        """The workflows whose parents are among these, ended ones too, in order of creation."""
        ...

    def ready_steps(
        self, worker_id: WorkerId, functions: Collection[str], limit: int
    ) -> list[ReadyStep]:
        """Up to `limit` steps that this worker may take from others: actions with one of these
        functions, in state `ready`, of workflows in progress that another worker owns.

        By `due_at`, the earliest first; of one time the highest number first, because owners begin
        with the lowest. A row that cannot be read is left out, and a store may look at the first
        few hundred ready steps only. In a transaction: neither these steps nor their workflows are
        changed by others before it ends.
        """
        ...

    def config(self) -> Config: ...

    def count_active(self, names: Collection[str], most: int) -> int:
        """Workflows with these names that somebody owns, that are due, or that wait for a time; no
        more than `most` are counted."""
        ...

    def claimable(self, names: Collection[str], now: int, limit: int) -> list[WorkflowId]:
        """Workflows that nobody owns, have one of these names, and want to be woken by `now`; the
        longest due first."""
        ...

    def next_wake(self, names: Collection[str]) -> int | None:
        """The earliest time at which one that nobody owns wants to be woken."""
        ...

    def find_event(self, event_id: EventId) -> tuple[WorkflowId, SentEvent, bool] | None:
        """(its workflow, the event, whether it is consumed)."""
        ...

    def find_send(self, token: str) -> tuple[WorkflowId, SentEvent, bool] | None:
        """The same, of the event that was sent under this token."""
        ...

    def created_event(self, workflow_id: WorkflowId, name: str) -> SentEvent | None:
        """Of the workflow's events of that name that are created and not sent the one that was
        created first. Cheap, however many there are."""
        ...

    def awaited_event(self, workflow_id: WorkflowId, name: str) -> tuple[int, SentEvent] | None:
        """Of those events the one that an open step awaits by its id, and that step's number: of
        several the one with the lowest. (Ids of events have no character that JSON escapes.)"""
        ...

    def count_waits(self, workflow_id: WorkflowId, name: str, *, below: int | None) -> int:
        """How many open steps with numbers under `below` (None: any) await events of that name."""
        ...

    def count_queued(self, workflow_id: WorkflowId, name: str) -> int:
        """How many events of that name were sent and not consumed, without those that an open step
        awaits by their ids."""
        ...

    def workers(self) -> list[WorkerRow]: ...

    def inbox_of(self, worker_id: WorkerId) -> list[InboxRow]:
        """What waits for this worker, or for a workflow that it owns, in order of arrival."""
        ...


class Transaction(Reader, Protocol):
    """One write transaction. Everything in it happens, or nothing."""

    # --- settings and sequences
    def set_max_parallelism(self, value: int) -> None: ...

    def take_epochs(self, count: int) -> Epoch:
        """The first of `count` numbers that nobody was given before or will be given again."""
        ...

    def take_event_sequence(self) -> int:
        """The next number in the order in which events are sent."""
        ...

    def check_schema(self) -> None:
        """Raise `StoreVersionError` if the schema is no longer the one that this code knows."""
        ...

    # --- workers
    def add_worker(self, worker_id: WorkerId, now: int) -> None: ...

    def is_fenced(self, worker_id: WorkerId) -> bool:
        """Whether the worker may not write any more (or is unknown). Locks its row."""
        ...

    def remove_worker(self, worker_id: WorkerId) -> None:
        """Forget it. Its workflows must have been given up before."""
        ...

    def set_permits(self, worker_id: WorkerId, permits: int, wanting: int) -> None: ...

    # --- workflows
    def insert_workflows(self, states: Sequence[WorkflowState]) -> None:
        """Insert new rows; the ids must be free (the caller has looked, in this transaction)."""
        ...

    def update_workflows(
        self, writes: Sequence[StateWrite], *, fence: WorkerId | None = None
    ) -> set[WorkflowId]:
        """Update rows whose epoch is the expected one; the ids of the others are returned.

        If any is returned the caller must roll back: the others may have been written.

        Args:
            fence: update none at all if this worker is fenced or unknown. All are returned then.
        """
        ...

    def release_workflows(self, worker_id: WorkerId, now: int, *, is_dead: bool) -> int:
        """Take all workflows from a worker: nobody owns them, and all want to be woken. If it is
        dead, each has had one more takeover. How many there were."""
        ...

    def wake_blocked(self, names: Collection[str], now: int, takeovers_below: int) -> None:
        """Have blocked workflows that nobody owns woken at once, but for those that many a
        worker died over."""
        ...

    def run_by(self, worker_id: WorkerId) -> list[tuple[WorkflowId, StepRecord]]:
        """Started attempts that this worker runs for workflows that others own, or nobody: it gave
        them up while the attempts ran, or has taken the steps from their owners."""
        ...

    def delete_workflows(self, ids: Collection[WorkflowId]) -> None:
        """Delete these workflows, and all rows that belong to them: steps, ticks, events, and what
        is in the inbox for their owners. What tells a worker that it has lost them stays."""
        ...

    def wake(self, workflow_id: WorkflowId, at: int) -> None:
        """If nobody owns it, have it woken at `at` at the latest."""
        ...

    def wake_waiting(self, ids: Collection[WorkflowId], at: int) -> bool:
        """As `wake`, for those of them that have something in the inbox; whether any has.

        For workflows that were just given up: what was put into the inbox for their owner, before
        it gave them up and without its knowing, must not be left lying.
        """
        ...

    # --- journal, events, inbox
    def put_steps(self, writes: Iterable[StepWrite]) -> set[WorkflowId]:
        """Insert and update steps; the workflows of those that had to be `ready` and were not are
        returned. If any is returned the caller must roll back: the others were written."""
        ...

    def cut_journal(self, workflow_id: WorkflowId, number: int, position: int) -> None:
        """Delete the steps from `number` on, the events that they have consumed, and the ticks
        after `position`: the workflow is restarted from that step."""
        ...

    def put_ticks(self, ticks: Iterable[tuple[WorkflowId, int, int]]) -> None:
        """Insert ticks as (workflow id, position, now)."""
        ...

    def put_event(self, workflow_id: WorkflowId, event: SentEvent, now: int) -> None:
        """Insert an event, or turn a created one into a sent one."""
        ...

    def consume_event(self, workflow_id: WorkflowId, event_id: EventId, number: int) -> None: ...

    def put_inbox(self, rows: Iterable[InboxRow]) -> None: ...

    def clear_inbox(self, ids: Collection[WorkflowId]) -> None:
        """Delete what is for the owners of these workflows: they have ended."""
        ...

    def delete_inbox(self, row_ids: Iterable[int]) -> None: ...

    # --- user code
    @property
    def db(self) -> Any:
        """The connection that user code gets, inside this very transaction."""
        ...

    def be_certain(self) -> None:
        """Find out what became of this transaction, should the answer to its commit be lost:
        nothing in the engine's rows would tell. A store that cannot do so does nothing."""
        ...

    def run_user_code(self, fn: Callable[[], T], *, read_only: bool) -> T:
        """Run `fn` under a savepoint: all that it wrote stays, or, if it raises, nothing.

        Raises:
            StoreError: the database was in trouble meanwhile; it is not the user's fault.
            TransactionLost: the transaction itself is gone; the caller must roll back.
            UserRaisedStoreError: for a `StoreError` that `fn` raised by itself.
        """
        ...

    def run_engine_code(self, fn: Callable[[], T]) -> T:
        """Run engine code that user code called (a verb of its context) inside `run_user_code`."""
        ...


class GuestTransaction(Transaction, Protocol):
    """The engine's side of a transaction that the user opened on a connection of his own."""

    def check_open(self) -> None:
        """Raise `ConnectionMisuse` if the user's transaction has ended."""
        ...


class TransactionLost(PerdureError):
    """User code ended the transaction, or left it so that it cannot be committed.

    The caller rolls the batch back and runs that unit alone. `statement` is the SQL that did it,
    where it is known.
    """

    def __init__(self, statement: str | None) -> None:
        named = "a statement of the step" if statement is None else repr(statement)
        super().__init__(
            f"{named} ended or blocked the transaction that the step shares with others;"
            " use neither OR ROLLBACK nor RAISE(ROLLBACK), and raise an exception to undo a step"
        )
        self.statement = statement


class UserRaisedStoreError(PerdureError):
    """User code raised a `StoreError` while the store that it runs in was in no trouble.

    It stands for that error, its cause, because it is not one itself: a step that fails by a
    `StoreError` would be tried again for ever, and everybody in its transaction with it.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(f"{type(error).__name__}: {error}")


class Fenced(Exception):
    """This worker was declared dead by another one: it must drop everything and start anew."""


class Store(Protocol):
    """A database. One instance serves one manager, from several threads.

    `shares_commits` says whether units with user code may share one transaction, `tells_all`
    whether `has_changed` tells of each commit of others, and not only of those that somebody else
    has to act on.
    """

    shares_commits: bool
    tells_all: bool

    def open(self, *, max_parallelism: int | None, works: bool = False) -> None:
        """Connect, check that it is ours to use, create or migrate the schema.

        Args:
            max_parallelism: initial value of the setting, if the schema is created.
            works: a worker is about to write here: worth some preparation.

        Raises:
            StoreError: with the reason and the remedy; nothing was written.
        """
        ...

    def close(self) -> None: ...

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Begin; commit at the end of the block, roll back if it raises. For one thread at a time.

        Raises:
            StoreBusy: the lock could not be had in time.
            StoreError: it could not begin, or the commit failed; then nothing is stored.
        """
        ...

    def write_alone(
        self, write: StateWrite, steps: Sequence[StepWrite], *, fence: WorkerId
    ) -> bool:
        """A whole transaction of one workflow: `update_workflows` with `fence`, and `put_steps`.

        Apart, because a store may do that in less than a transaction takes; see `in_transaction`.
        False if either of the two refuses: nothing was written, and a transaction finds out why.

        Raises:
            StoreError: as of `transaction`.
        """
        ...

    def reader(self) -> Reader:
        """A reader for the calling thread. Cheap: it need not be kept.

        Raises:
            NotOpen: the store is not open.
        """
        ...

    @property
    def reads_need_engine(self) -> bool:
        """Whether other threads cannot read by themselves (a private in-memory database)."""
        ...

    def has_changed(self) -> bool:
        """Whether another process has committed since the last call. Cheap.

        It may be told some milliseconds late, and it may be told though nothing has happened.
        """
        ...

    @property
    def poll_seconds(self) -> float:
        """After how long at most an idle engine should ask `has_changed` again, and look whether
        others have died."""
        ...

    def call_on_change(self, wake: Callable[[], None]) -> None:
        """From now on call `wake`, in any thread, when `has_changed` should be asked: if the store
        learns of changes by itself. Called before it is opened."""
        ...

    def dead_workers(self, worker_ids: Collection[WorkerId]) -> list[WorkerId]:
        """Which of these workers are known to be dead. In doubt a worker lives.

        In a transaction of this store those that are given stay dead until it ends: whoever takes
        everything from them looks once more there, for one may have given a sign of life.
        """
        ...

    def is_poisoned(self, error: BaseException) -> bool:
        """Whether a commit failed for what some user code left in the transaction."""
        ...

    def hold_worker(self, worker_id: WorkerId) -> None:
        """Make others see that this worker lives, for as long as this process does."""
        ...

    def release_worker(self, worker_id: WorkerId) -> None:
        """The worker has ended in good order."""
        ...


class _Refused(Exception):
    """Rolls a transaction back."""


def in_transaction(
    store: Store, write: StateWrite, steps: Sequence[StepWrite], fence: WorkerId
) -> bool:
    """`Store.write_alone` by means of `Store.transaction`."""
    try:
        with store.transaction() as tx:
            if tx.update_workflows([write], fence=fence) or (steps and tx.put_steps(steps)):
                raise _Refused
    except _Refused:
        return False
    return True
