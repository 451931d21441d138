"""Reads and writes of the store in memory: the contract's operations, in the contract's order.

What does not belong here: what may stand in a row (memory_rows.py), and when a transaction begins
and ends (memory.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TypeVar

from msgspec.structs import replace

from perdure.core.commands import AwaitEvent
from perdure.core.ids import Epoch, EventId, WorkerId, WorkflowId
from perdure.core.journal import StepRecord, TickRecord
from perdure.core.messages import SentEvent
from perdure.core.workflow import WorkflowState
from perdure.errors import ConnectionMisuse, StoreVersionError
from perdure.store.base import (
    Config,
    InboxRow,
    Loaded,
    ReadyStep,
    StateWrite,
    StepWrite,
    WorkerRow,
    WorkflowFilter,
)
from perdure.store.connection import Connection
from perdure.store.fence import READ_ONLY
from perdure.store.rows import is_progress_only
from perdure.store.sqlite_schema import SCHEMA_VERSION

from .memory_rows import (
    ABSENT,
    Change,
    EventRow,
    Journal,
    NoChanges,
    Tables,
    check_inbox,
    check_new_step,
    check_parallelism,
    check_progress,
    check_step,
    loaded,
    stored,
    with_command_of,
    with_progress,
)
from .memory_users import UserTables

T = TypeVar("T")

NOT_OPEN = NoChanges(
    "the transaction was written to after its end, or after the crash of its store: whoever did"
    " that should have ended with it"
)
_IN_USER_CODE = NoChanges(
    "user code has written the engine's rows: a verb of its context must use run_engine_code"
)


class Reads:
    """The reads of the contract, on the tables as they are."""

    __slots__ = ("_tables",)

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def load(self, ids: Collection[WorkflowId]) -> list[Loaded]:
        """See `base.Reader.load`. In the order of the ids, as SQLite happens to give them."""
        workflows, journals = self._tables.workflows, self._tables.journals
        return [loaded(workflows[each], journals[each]) for each in self._known(ids)]

    def states(self, ids: Collection[WorkflowId]) -> list[WorkflowState]:
        """See `base.Reader.states`. In the order of the ids."""
        workflows = self._tables.workflows
        return [workflows[each] for each in self._known(ids)]

    def _known(self, ids: Collection[WorkflowId]) -> list[WorkflowId]:
        workflows = self._tables.workflows
        if len(ids) == 1:
            return [each for each in ids if each in workflows]
        return sorted({each for each in ids if each in workflows})

    def list_workflows(self, which: WorkflowFilter) -> list[tuple[int, WorkflowState]]:
        """See `base.Reader.list_workflows`."""
        workflows, journals = self._tables.workflows, self._tables.journals
        ids = workflows if which.is_ascending else reversed(workflows)
        found: list[tuple[int, WorkflowState]] = []
        for workflow_id in ids:
            if len(found) == which.limit:
                break
            seq, state = journals[workflow_id].seq, workflows[workflow_id]
            if which.after is not None:
                if seq <= which.after if which.is_ascending else seq >= which.after:
                    continue
            if (
                which.name in (None, state.header.name)
                and which.status in (None, state.status)
                and which.is_blocked in (None, state.is_blocked)
            ):
                found.append((seq, state))
        return found

    def list_steps(
        self, workflow_id: WorkflowId, *, is_ascending: bool, limit: int, after: int | None
    ) -> list[StepRecord]:
        """See `base.Reader.list_steps`."""
        steps = self._steps(workflow_id)
        if not is_ascending:
            steps.reverse()
        if after is not None:
            steps = [
                record
                for record in steps
                if (record.number > after if is_ascending else record.number < after)
            ]
        return steps[:limit]

    def open_steps(self, workflow_id: WorkflowId) -> list[StepRecord]:
        """See `base.Reader.open_steps`."""
        return [record for record in self._steps(workflow_id) if record.state != "settled"]

    def _steps(self, workflow_id: WorkflowId) -> list[StepRecord]:
        journal = self._tables.journals.get(workflow_id)
        if journal is None:
            return []
        return [journal.steps[number] for number in sorted(journal.steps)]

    def children(self, ids: Collection[WorkflowId]) -> list[WorkflowId]:
        """See `base.Reader.children`. Looks at every workflow: it is asked seldom."""
        workflows = self._tables.workflows.items()
        return [workflow_id for workflow_id, row in workflows if row.header.parent_id in ids]

    def ready_steps(
        self, worker_id: WorkerId, functions: Collection[str], limit: int
    ) -> list[ReadyStep]:
        """See `base.Reader.ready_steps`. Looks at every step of the workflows that others own."""
        return self._tables.ready_steps(worker_id, functions)[:limit]

    def config(self) -> Config:
        """See `base.Reader.config`."""
        settings = self._tables.settings
        return Config(
            schema_version=settings["schema_version"], max_parallelism=settings["max_parallelism"]
        )

    def count_active(self, names: Collection[str], most: int) -> int:
        """See `base.Reader.count_active`."""
        tables = self._tables
        active = [workflow_id for owned in tables.owned.values() for workflow_id in owned]
        active += [workflow_id for _, _, workflow_id in tables.waiting]
        count = sum(tables.workflows[each].header.name in names for each in active)
        return min(count, most)

    def claimable(self, names: Collection[str], now: int, limit: int) -> list[WorkflowId]:
        """See `base.Reader.claimable`. Of those due at one time, the one created first."""
        found: list[WorkflowId] = []
        for wake_at, _, workflow_id in self._tables.waiting:
            if wake_at > now or len(found) == limit:
                break
            if self._tables.workflows[workflow_id].header.name in names:
                found.append(workflow_id)
        return found

    def next_wake(self, names: Collection[str]) -> int | None:
        """See `base.Reader.next_wake`."""
        for wake_at, _, workflow_id in self._tables.waiting:
            if self._tables.workflows[workflow_id].header.name in names:
                return wake_at
        return None

    def find_event(self, event_id: EventId) -> tuple[WorkflowId, SentEvent, bool] | None:
        """See `base.Reader.find_event`."""
        workflow_id = self._tables.homes.get(event_id)
        if workflow_id is None:
            return None
        row = self._tables.journals[workflow_id].events[event_id]
        return workflow_id, row.event, row.consumed_by is not None

    def find_send(self, token: str) -> tuple[WorkflowId, SentEvent, bool] | None:
        """See `base.Reader.find_send`. Looks at all events: they are few here."""
        for event_id, workflow_id in self._tables.homes.items():
            if self._tables.journals[workflow_id].events[event_id].event.token == token:
                return self.find_event(event_id)
        return None

    def created_event(self, workflow_id: WorkflowId, name: str) -> SentEvent | None:
        """See `base.Reader.created_event`. Looks at all events of the workflow: see `find_send`."""
        found: SentEvent | None = None
        for row in self._events(workflow_id).values():
            event = row.event
            if event.sequence is None and event.name == name:
                if found is None or (event.made or 0) < (found.made or 0):
                    found = event
        return found

    def awaited_event(self, workflow_id: WorkflowId, name: str) -> tuple[int, SentEvent] | None:
        """See `base.Reader.awaited_event`."""
        for number, command in self._open_waits(workflow_id):
            row = self._events(workflow_id).get(command.event_id or "")
            if row is not None and row.event.sequence is None and row.event.name == name:
                return number, row.event
        return None

    def count_waits(self, workflow_id: WorkflowId, name: str, *, below: int | None) -> int:
        """See `base.Reader.count_waits`."""
        return sum(
            command.event_name == name and (below is None or number < below)
            for number, command in self._open_waits(workflow_id)
        )

    def count_queued(self, workflow_id: WorkflowId, name: str) -> int:
        """See `base.Reader.count_queued`."""
        awaited = {command.event_id for _, command in self._open_waits(workflow_id)}
        return sum(
            row.consumed_by is None and row.event.sequence is not None and row.event.name == name
            for event_id, row in self._events(workflow_id).items()
            if event_id not in awaited
        )

    def _events(self, workflow_id: WorkflowId) -> Mapping[EventId, EventRow]:
        journal = self._tables.journals.get(workflow_id)
        return {} if journal is None else journal.events

    def _open_waits(self, workflow_id: WorkflowId) -> list[tuple[int, AwaitEvent]]:
        return [
            (record.number, record.command)
            for record in self._steps(workflow_id)
            if isinstance(record.command, AwaitEvent) and record.state == "asked"
        ]

    def workers(self) -> list[WorkerRow]:
        """See `base.Reader.workers`. In the order of their ids."""
        workers = self._tables.workers
        return [workers[worker_id] for worker_id in sorted(workers)]

    def inbox_of(self, worker_id: WorkerId) -> list[InboxRow]:
        """See `base.Reader.inbox_of`."""
        inbox = self._tables.inbox
        if not inbox:
            return []
        mine = self._tables.owned.get(worker_id, ())
        return [
            row
            for row_id in sorted(inbox)
            for row in (inbox[row_id],)
            if (row.workflow_id in mine if row.worker is None else row.worker == worker_id)
        ]


class MemoryTransaction(Reads):
    """One write transaction. `changes` says how to take it back.

    A write that matches no row is none, as in SQL.
    """

    __slots__ = ("_changes", "_noted", "_users")

    def __init__(self, tables: Tables, users: UserTables) -> None:
        super().__init__(tables)
        self._users = users
        self._changes: list[Change] = NOT_OPEN
        # Where the next change is noted: in `_changes`, but for while user code runs.
        self._noted: list[Change] = NOT_OPEN

    # --- its beginning and its end (see memory.py)

    @property
    def changes(self) -> list[Change]:
        """What was changed until now."""
        return self._changes

    def begin(self) -> None:
        """From now on it may be written to."""
        self._changes = self._noted = []

    def end(self) -> bool:
        """Keep what was written; whether that is anything. If it raises, it is still open."""
        has_changed = bool(self._changes)
        if self._users.is_begun and self._users.commit():
            has_changed = True
        self._changes = self._noted = NOT_OPEN
        return has_changed

    def undo(self) -> None:
        """Take back all that was written. Inside user code it raises before it has done so."""
        self._users.rollback()
        changes, self._changes, self._noted = self._changes, NOT_OPEN, NOT_OPEN
        self._tables.take_back(changes)

    def take_back_to(self, mark: int) -> None:
        """Undo the changes but the first so many; the user's tables have been put back."""
        self._tables.take_back(self._changes[mark:])
        del self._changes[mark:]

    def be_certain(self) -> None:
        """See `base.Transaction.be_certain`: as on SQLite."""

    # --- settings and sequences

    def set_max_parallelism(self, value: int) -> None:
        check_parallelism(value)
        self._set("max_parallelism", value)

    def take_epochs(self, count: int) -> Epoch:
        return self._take("next_epoch", count)

    def take_event_sequence(self) -> int:
        return self._take("next_event", 1)

    def _take(self, name: str, count: int) -> int:
        first = self._tables.settings[name]
        assert first + count > 0, f"{name} {first} + {count}"
        self._set(name, first + count)
        return first

    def _set(self, name: str, value: int) -> None:
        self._tables.change(self._noted, self._tables.settings, name, value)

    def check_schema(self) -> None:
        version = self._tables.settings["schema_version"]
        if version != SCHEMA_VERSION:
            raise StoreVersionError(
                f"memory: its schema is version {version}, not {SCHEMA_VERSION}, which this"
                " perdure knows"
            )

    # --- workers

    def add_worker(self, worker_id: WorkerId, now: int) -> None:
        workers = self._tables.workers
        assert worker_id not in workers and now is not None, f"worker {worker_id!r} at {now}"
        row = WorkerRow(worker_id=worker_id, is_fenced=False, permits=0, wanting=0)
        self._tables.change(self._noted, workers, worker_id, row)

    def is_fenced(self, worker_id: WorkerId) -> bool:
        row = self._tables.workers.get(worker_id)
        return row is None or row.is_fenced

    def remove_worker(self, worker_id: WorkerId) -> None:
        tables = self._tables
        owned = tables.owned.get(worker_id)
        assert not owned, f"worker {worker_id!r} still owns {sorted(owned or ())}"
        self.delete_inbox([row.row_id for row in tables.inbox.values() if row.worker == worker_id])
        if worker_id in tables.workers:
            tables.change(self._noted, tables.workers, worker_id, ABSENT)

    def set_permits(self, worker_id: WorkerId, permits: int, wanting: int) -> None:
        row = self._tables.workers.get(worker_id)
        if row is None:
            return
        assert permits >= 0 and wanting >= 0, f"worker {worker_id!r}: {permits}, {wanting}"
        row = replace(row, permits=permits, wanting=wanting)
        self._tables.change(self._noted, self._tables.workers, worker_id, row)

    # --- workflows

    def insert_workflows(self, states: Sequence[WorkflowState]) -> None:
        tables = self._tables
        for state in states:
            tables.check_new_workflow(state)
            workflow_id = state.header.workflow_id
            last = next(reversed(tables.workflows), None)
            seq = 1 if last is None else tables.journals[last].seq + 1
            journal = Journal(seq, {}, {}, {})
            tables.change(self._noted, tables.journals, workflow_id, journal)
            row = stored(state, state.header)
            tables.change(self._noted, tables.workflows, workflow_id, row)

    def update_workflows(
        self, writes: Sequence[StateWrite], *, fence: WorkerId | None = None
    ) -> set[WorkflowId]:
        """See `base.Transaction.update_workflows`. The columns that SQLite leaves out by the hint
        are left as they are here, too, so that a wrong hint shows."""
        if fence is not None and self.is_fenced(fence):
            return {write.state.workflow_id for write in writes}
        tables, changes = self._tables, self._noted
        workflows = tables.workflows
        stale: set[WorkflowId] = set()
        for write in writes:
            state = write.state
            workflow_id = state.header.workflow_id
            row = workflows.get(workflow_id)
            if row is None or row.epoch != write.expected_epoch:
                stale.add(workflow_id)
            elif is_progress_only(write.before, state):
                check_progress(state)
                changes.append((workflows, workflow_id, row))
                workflows[workflow_id] = with_progress(row, state)  # no index has these columns
            else:
                self._put(workflow_id, stored(state, row.header))
        return stale

    def _put(self, workflow_id: WorkflowId, row: WorkflowState) -> None:
        self._tables.check_workflow(row)
        self._tables.change(self._noted, self._tables.workflows, workflow_id, row)

    def release_workflows(self, worker_id: WorkerId, now: int, *, is_dead: bool) -> int:
        owned = sorted(self._tables.owned.get(worker_id, ()))
        for workflow_id in owned:
            row = self._tables.workflows[workflow_id]
            takeovers = row.takeovers + is_dead
            self._put(workflow_id, replace(row, owner=None, wake_at=now, takeovers=takeovers))
        return len(owned)

    def wake_blocked(self, names: Collection[str], now: int, takeovers_below: int) -> None:
        blocked = [
            (workflow_id, row)
            for workflow_id, row in self._tables.workflows.items()
            if row.blocked is not None
            and row.owner is None
            and row.takeovers < takeovers_below
            and row.header.name in names
        ]
        for workflow_id, row in blocked:
            self._put(workflow_id, replace(row, wake_at=now))

    def run_by(self, worker_id: WorkerId) -> list[tuple[WorkflowId, StepRecord]]:
        """See `base.Transaction.run_by`. Looks at every step: a worker dies seldom."""
        workflows = self._tables.workflows
        found = [
            (workflow_id, number, record)
            for workflow_id, journal in self._tables.journals.items()
            if workflows[workflow_id].owner != worker_id
            for number, record in journal.steps.items()
            if record.runner == worker_id and record.state == "started"
        ]
        found.sort(key=lambda each: each[:2])
        return [(workflow_id, record) for workflow_id, _, record in found]

    def delete_workflows(self, ids: Collection[WorkflowId]) -> None:
        tables = self._tables
        self.clear_inbox(ids)
        for workflow_id in ids:
            if workflow_id in tables.workflows:
                for event_id in tables.journals[workflow_id].events:
                    tables.change(self._noted, tables.homes, event_id, ABSENT)
                tables.change(self._noted, tables.workflows, workflow_id, ABSENT)
                tables.change(self._noted, tables.journals, workflow_id, ABSENT)

    def wake(self, workflow_id: WorkflowId, at: int) -> None:
        row = self._tables.workflows.get(workflow_id)
        if row is not None:
            self._wake(row, at)

    def wake_waiting(self, ids: Collection[WorkflowId], at: int) -> bool:
        mail = {row.workflow_id for row in self._tables.inbox.values() if row.worker is None}
        # All of them, and only then whether there was any.
        woken = [self._wake(row, at) for row in self.states(ids) if row.workflow_id in mail]
        return any(woken)

    def _wake(self, row: WorkflowState, at: int) -> bool:
        if row.owner is not None or row.status != "in_progress":
            return False
        wake_at = at if row.wake_at is None else min(row.wake_at, at)
        self._put(row.workflow_id, replace(row, wake_at=wake_at))
        return True

    # --- journal, events, inbox

    def put_steps(self, writes: Iterable[StepWrite]) -> set[WorkflowId]:
        journals, changes = self._tables.journals, self._noted
        taken: set[WorkflowId] = set()
        for write in writes:
            workflow_id, record = write.workflow_id, write.record
            journal = journals.get(workflow_id)
            number = record.number
            if write.is_new:
                assert journal is not None, f"unknown workflow {workflow_id!r}: {record}"
                steps, before = journal.steps, ABSENT
                assert number not in steps, f"{workflow_id!r} has {steps[number]}: {record}"
                check_new_step(workflow_id, record)
            else:
                before = None if journal is None else journal.steps.get(number)
                if write.must_be_ready and (before is None or before.state != "ready"):
                    taken.add(workflow_id)
                    continue
                if journal is None or before is None:
                    continue
                steps = journal.steps
                record = with_command_of(record, before)
            check_step(workflow_id, record)
            changes.append((steps, number, before))
            steps[number] = record
        return taken

    def cut_journal(self, workflow_id: WorkflowId, number: int, position: int) -> None:
        tables = self._tables
        journal = tables.journals[workflow_id]
        for event_id, row in list(journal.events.items()):
            if row.consumed_by is not None and row.consumed_by >= number:
                tables.change(self._noted, tables.homes, event_id, ABSENT)
                tables.change(self._noted, journal.events, event_id, ABSENT)
        for each in [each for each in journal.steps if each >= number]:
            tables.change(self._noted, journal.steps, each, ABSENT)
        for at in [at for at in journal.ticks if at > position]:
            tables.change(self._noted, journal.ticks, at, ABSENT)

    def put_ticks(self, ticks: Iterable[tuple[WorkflowId, int, int]]) -> None:
        for workflow_id, position, now in ticks:
            journal = self._tables.journals.get(workflow_id)
            tick = TickRecord(position, now)
            assert journal is not None, f"unknown workflow {workflow_id!r}: {tick}"
            assert position > 0 and now is not None, f"of {workflow_id!r}: {tick}"
            assert position not in journal.ticks, f"{workflow_id!r} has one: {tick}"
            self._tables.change(self._noted, journal.ticks, position, tick)

    def put_event(self, workflow_id: WorkflowId, event: SentEvent, now: int) -> None:
        tables, event_id = self._tables, event.event_id
        journal = tables.journals.get(workflow_id)
        before = None if journal is None else journal.events.get(event_id)
        row = EventRow(event, now)
        if before is not None:
            kept = replace(event, name=before.event.name, made=before.event.made)
            row = replace(before, event=kept)
        tables.check_event(workflow_id, row)
        if before is None:
            tables.change(self._noted, tables.homes, event_id, workflow_id)
        tables.change(self._noted, tables.journals[workflow_id].events, event_id, row)

    def consume_event(self, workflow_id: WorkflowId, event_id: EventId, number: int) -> None:
        journal = self._tables.journals.get(workflow_id)
        row = None if journal is None else journal.events.get(event_id)
        if journal is None or row is None or row.consumed_by is not None:
            raise RuntimeError(
                f"event {event_id!r} of workflow {workflow_id!r} is consumed already, or unknown:"
                f" step {number} must not take it"
            )
        row = replace(row, consumed_by=number)
        self._tables.check_event(workflow_id, row)
        self._tables.change(self._noted, journal.events, event_id, row)

    def put_inbox(self, rows: Iterable[InboxRow]) -> None:
        tables = self._tables
        for row in rows:
            check_inbox(row)
            row_id = tables.settings["last_inbox"] + 1
            self._set("last_inbox", row_id)
            tables.change(self._noted, tables.inbox, row_id, replace(row, row_id=row_id))

    def clear_inbox(self, ids: Collection[WorkflowId]) -> None:
        inbox = self._tables.inbox
        if inbox:
            rows = [row for row in inbox.values() if row.worker is None and row.workflow_id in ids]
            self.delete_inbox([row.row_id for row in rows])

    def delete_inbox(self, row_ids: Iterable[int]) -> None:
        inbox = self._tables.inbox
        for row_id in row_ids:
            if row_id in inbox:
                self._tables.change(self._noted, inbox, row_id, ABSENT)

    # --- user code

    @property
    def db(self) -> Connection:
        """The connection that user code gets: it has the user's tables alone."""
        return self._users.connection

    def run_user_code(self, fn: Callable[[], T], *, read_only: bool) -> T:
        """See `base.Transaction.run_user_code`."""
        connection = self._users.begin()
        changes, noted = self._changes, self._noted
        mark = len(changes)

        def call() -> T:
            result = fn()
            if read_only and len(changes) > mark:
                raise ConnectionMisuse(READ_ONLY)  # by the engine's code, through a context
            return result

        self._noted = _IN_USER_CODE
        try:
            return connection.run_user_code(call, read_only=read_only)
        except BaseException:
            self._tables.take_back(changes[mark:])
            del changes[mark:]
            raise
        finally:
            self._noted = noted

    def run_engine_code(self, fn: Callable[[], T]) -> T:
        """See `base.Transaction.run_engine_code`."""
        noted, self._noted = self._noted, self._changes
        try:
            return self._users.connection.run_engine_code(fn)
        finally:
            self._noted = noted
