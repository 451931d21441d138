"""The rows of the store in memory: dicts of the engine's own values, and what may stand in them.

Every change is noted with what was there before, so that it can be taken back. The checks are the
CHECKs, unique keys and foreign keys of `store/schema/sqlite.sql`; where SQLite would leave out,
without a word, what does not fit, they are stricter: what the engine holds and what is stored must
not differ. They are assertions, because only a bug of the engine's can break them.

What does not belong here: the contract's operations (memory_transaction.py), stores and workers'
lives (memory.py).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection
from typing import Any, NoReturn, TypeAlias

import msgspec
from msgspec.structs import replace

from perdure.core.commands import RunStep
from perdure.core.ids import EventId, WorkerId, WorkflowId
from perdure.core.journal import StepRecord, TickRecord
from perdure.core.messages import SentEvent
from perdure.core.outcomes import Failed, Succeeded
from perdure.core.workflow import WorkflowHeader, WorkflowState
from perdure.store.base import InboxRow, Loaded, ReadyStep, WorkerRow

#: A change, to be taken back: which table, which key, and what was there (or ABSENT).
Change: TypeAlias = tuple[dict[Any, Any], Any, Any]

ABSENT: Any = object()

_STATUSES = frozenset({"in_progress", "success", "failed", "canceled"})
_OPEN_STATES = frozenset({"asked", "ready", "started", "backoff"})
_STEP_KINDS = frozenset({"query", "mutation", "action", "workflow", "sleep", "event"})
_INBOX_KINDS = frozenset({"attempt", "child", "event", "revoked"})


class EventRow(msgspec.Struct, frozen=True):
    """An event, when it came into being, and the step that has it."""

    event: SentEvent
    created_at: int
    consumed_by: int | None = None


class Journal(msgspec.Struct):
    """What belongs to one workflow: its place in the order of creation, and its other rows."""

    seq: int
    steps: dict[int, StepRecord]
    ticks: dict[int, TickRecord]
    events: dict[EventId, EventRow]


class Snapshot(msgspec.Struct, frozen=True):
    """All rows at one time, to be compared. `order` has the workflows in order of creation."""

    settings: dict[str, int]
    workers: dict[WorkerId, WorkerRow]
    order: tuple[WorkflowId, ...]
    workflows: dict[WorkflowId, WorkflowState]
    steps: dict[WorkflowId, dict[int, StepRecord]]
    ticks: dict[WorkflowId, dict[int, TickRecord]]
    events: dict[WorkflowId, dict[EventId, EventRow]]
    inbox: dict[int, InboxRow]


class NoChanges(list[Change]):
    """Stands in for the list of changes while nothing may be written, and says why."""

    def __init__(self, why: str) -> None:
        super().__init__()
        self._why = why

    def append(self, _change: Change, /) -> NoReturn:
        """Refused."""
        raise RuntimeError(self._why)


class Tables:
    """All rows, and two indexes that follow from them.

    The dicts stay the same objects for the life of the database. `workflows` is in order of
    creation; no other order in a dict means anything, because taking back a deletion changes it.

    Attributes:
        settings: schema_version, max_parallelism, next_epoch, next_event, last_inbox.
        homes: the workflow of each event.
        owned: what each worker owns.
        waiting: what nobody owns and somebody should take: (wake_at, seq, workflow id), sorted.
    """

    __slots__ = (
        "homes",
        "inbox",
        "journals",
        "owned",
        "settings",
        "waiting",
        "workers",
        "workflows",
    )

    def __init__(self) -> None:
        self.settings: dict[str, int] = {}
        self.workers: dict[WorkerId, WorkerRow] = {}
        self.workflows: dict[WorkflowId, WorkflowState] = {}
        self.journals: dict[WorkflowId, Journal] = {}
        self.homes: dict[EventId, WorkflowId] = {}
        self.inbox: dict[int, InboxRow] = {}
        self.owned: dict[WorkerId, set[WorkflowId]] = {}
        self.waiting: list[tuple[int, int, WorkflowId]] = []

    def change(self, changes: list[Change], table: dict[Any, Any], key: Any, value: Any) -> None:
        """Put a value, or ABSENT, into a table, and note what was there."""
        before = table.get(key, ABSENT)
        changes.append((table, key, before))
        self._set(table, key, before, value)

    def take_back(self, changes: list[Change]) -> list[Change]:
        """Undo changes, the last one first; the changes that would make them again."""
        again: list[Change] = []
        is_back = False
        for table, key, value in reversed(changes):
            now = table.get(key, ABSENT)
            again.append((table, key, now))
            self._set(table, key, now, value)
            is_back = is_back or (table is self.workflows and now is ABSENT)
        if is_back:
            self._sort()
        return again

    def _sort(self) -> None:
        """A workflow that was deleted is there again: put it where it was."""
        rows = sorted(self.workflows.items(), key=lambda each: self.journals[each[0]].seq)
        self.workflows.clear()
        self.workflows.update(rows)

    def _set(self, table: dict[Any, Any], key: Any, before: Any, after: Any) -> None:
        if table is self.workflows:
            self._index(key, before, after)
        if after is not ABSENT:
            table[key] = after
        elif before is not ABSENT:
            del table[key]

    def _index(self, workflow_id: WorkflowId, before: Any, after: Any) -> None:
        """Keep `owned` and `waiting` in step with a workflow's row."""
        owner, wake_at = _place(before)
        new_owner, new_wake_at = _place(after)
        if owner != new_owner:
            if owner is not None:
                self.owned[owner].discard(workflow_id)
            if new_owner is not None:
                self.owned.setdefault(new_owner, set()).add(workflow_id)
        if wake_at != new_wake_at:
            seq = self.journals[workflow_id].seq
            if wake_at is not None:
                del self.waiting[bisect_left(self.waiting, (wake_at, seq, workflow_id))]
            if new_wake_at is not None:
                insort(self.waiting, (new_wake_at, seq, workflow_id))

    def snapshot(self) -> Snapshot:
        """All rows. Costs a copy of the dicts; the values are shared."""
        journals = self.journals.items()
        return Snapshot(
            self.settings.copy(),
            self.workers.copy(),
            tuple(self.workflows),
            self.workflows.copy(),
            {key: journal.steps.copy() for key, journal in journals if journal.steps},
            {key: journal.ticks.copy() for key, journal in journals if journal.ticks},
            {key: journal.events.copy() for key, journal in journals if journal.events},
            self.inbox.copy(),
        )

    def ready_steps(self, worker_id: WorkerId, functions: Collection[str]) -> list[ReadyStep]:
        """See `base.Reader.ready_steps`; all of them. Looks at every step that others own."""
        found: list[ReadyStep] = []
        for owner, ids in self.owned.items():
            for workflow_id in () if owner == worker_id else ids:
                epoch = self.workflows[workflow_id].epoch
                for record in self.journals[workflow_id].steps.values():
                    command = record.command
                    if record.state == "ready" and isinstance(command, RunStep):
                        if command.kind == "action" and command.function in functions:
                            step = ReadyStep(workflow_id=workflow_id, epoch=epoch, record=record)
                            found.append(step)
        found.sort(key=_place_in_queue)
        return found

    # --- what may be stored ---------------------------------------------------------------------

    def check_workflow(self, state: WorkflowState) -> None:
        """Assert what the schema says of a row of perdure_workflows."""
        status, outcome = state.status, state.outcome
        assert status in _STATUSES, f"unknown status {status!r}: {state}"
        ended = "in_progress" if outcome is None else outcome.kind
        assert status == ended, f"status {status!r} with outcome {outcome!r}: {state}"
        if isinstance(outcome, Succeeded):
            assert outcome.value is not None, f"a success without a value: {state}"
        assert state.epoch > 0, f"epoch {state.epoch}: {state}"
        if status == "in_progress":
            assert state.ended_at is None, f"in progress, ended at {state.ended_at}: {state}"
        else:
            assert state.ended_at is not None, f"{status}, but ended at no time: {state}"
            rest = (state.owner, state.wake_at)
            assert rest == (None, None), f"{status}, with (owner, wake_at) {rest}: {state}"
        owner = state.owner
        assert owner is None or owner in self.workers, f"unknown owner {owner!r}: {state}"
        check_progress(state)

    def check_new_workflow(self, state: WorkflowState) -> None:
        """Assert what the schema says of a row of perdure_workflows that is inserted."""
        header = state.header
        workflow_id = header.workflow_id
        assert workflow_id not in self.workflows, f"workflow {workflow_id!r} exists: {state}"
        assert (header.parent_id is None) == (header.parent_number is None), (
            f"parent {header.parent_id!r} with step {header.parent_number}: {state}"
        )
        there = (header.name, header.arguments, header.depth, header.rules)
        assert None not in (*there, header.created_at, header.start_at), f"no {there}: {state}"
        self.check_workflow(state)

    def check_event(self, workflow_id: WorkflowId, row: EventRow) -> None:
        """Assert what the schema says of a row of perdure_events."""
        event = row.event
        assert workflow_id in self.journals, f"unknown workflow {workflow_id!r}: {event}"
        home = self.homes.get(event.event_id, workflow_id)
        assert home == workflow_id, f"event of {workflow_id!r} is one of {home!r}: {event}"
        assert None not in (event.name, row.created_at), f"no name, or no time: {row}"
        if event.sequence is None:
            rest = (event.sent_at, event.outcome)
            assert rest == (None, None), f"not sent, with (sent_at, outcome) {rest}: {event}"
            assert row.consumed_by is None, f"not sent, but consumed by {row.consumed_by}: {event}"
        else:
            assert event.sent_at is not None, f"sent at no time: {event}"
            assert isinstance(event.outcome, Succeeded | Failed), f"sent without value: {event}"
            if isinstance(event.outcome, Succeeded):
                assert event.outcome.value is not None, f"sent without value: {event}"


def _place_in_queue(step: ReadyStep) -> tuple[bool, int, int, WorkflowId]:
    """As SQLite sorts: what is null comes first."""
    due_at = step.record.due_at
    return due_at is not None, due_at or 0, -step.record.number, step.workflow_id


def _place(state: Any) -> tuple[WorkerId | None, int | None]:
    """(owner, the time to be woken at while there is none) of a workflow's row, or of ABSENT."""
    if state is ABSENT:
        return None, None
    return state.owner, (state.wake_at if state.owner is None else None)


def check_progress(state: WorkflowState) -> None:
    """Assert what the schema says of the columns that change while a worker goes on."""
    there = (state.stamp, state.next_number, state.journal_bytes, state.takeovers)
    assert None not in there, f"no {there}: {state}"
    assert (state.position >= 0) == (state.started_at is not None), (
        f"position {state.position}, started at {state.started_at}: {state}"
    )


def check_new_step(workflow_id: WorkflowId, record: StepRecord) -> None:
    """Assert what the schema says of the columns of perdure_steps that are written once."""
    assert record.number >= 0, f"step {record.number} of {workflow_id!r}: {record}"
    assert record.asked_position >= 0, f"asked at no position, of {workflow_id!r}: {record}"
    kind = record.command.kind
    assert kind in _STEP_KINDS, f"unknown kind {kind!r}, of {workflow_id!r}: {record}"
    there = (record.command.name, record.asked_at, record.asked_epoch)
    assert None not in there, f"no {there}, of {workflow_id!r}: {record}"


def check_step(workflow_id: WorkflowId, record: StepRecord) -> None:
    """Assert what the schema says of the columns of perdure_steps that change."""
    state, outcome = record.state, record.outcome
    assert record.attempt >= 0, f"attempt {record.attempt}, of {workflow_id!r}: {record}"
    if outcome is None:
        assert state in _OPEN_STATES, f"{state!r} without outcome, of {workflow_id!r}: {record}"
        if state == "started":
            assert record.runner is not None and record.attempt > 0, (
                f"started without runner or attempt, of {workflow_id!r}: {record}"
            )
        assert (
            record.settled_at is None
            and record.delivered_position is None
            and record.delivered_at is None
            and record.canceled_position is None
            and record.event_id is None
        ), f"open, with something of an end, of {workflow_id!r}: {record}"
        return
    assert state == "settled", f"{state!r} with an outcome, of {workflow_id!r}: {record}"
    if isinstance(outcome, Succeeded):
        assert outcome.value is not None, f"success without value, of {workflow_id!r}: {record}"
    delivered = record.delivered_position
    assert delivered is None or delivered > record.asked_position, (
        f"delivered at {delivered}, before it was asked, of {workflow_id!r}: {record}"
    )
    assert record.canceled_position is None or outcome.kind == "canceled", (
        f"cancelled at {record.canceled_position}, yet {outcome!r}, of {workflow_id!r}: {record}"
    )


def check_parallelism(value: int) -> None:
    """Assert what the schema says of max_parallelism in perdure_config."""
    assert 0 <= value <= 100_000, f"max_parallelism {value}"


def check_inbox(row: InboxRow) -> None:
    """Assert what the schema says of a row of perdure_inbox."""
    assert row.kind in _INBOX_KINDS, f"unknown kind {row.kind!r}: {row}"
    assert None not in (row.workflow_id, row.body, row.accepted_at), f"not whole: {row}"


# --- values as they are stored --------------------------------------------------------------------


def stored(state: WorkflowState, header: WorkflowHeader) -> WorkflowState:
    """A state as a row holds it: nothing of its steps and events."""
    return WorkflowState(
        header,
        state.epoch,
        state.owner,
        state.status,
        state.outcome,
        state.position,
        state.stamp,
        state.started_at,
        state.ended_at,
        state.next_number,
        {},
        (),
        (),
        0,
        (),
        state.timer_at,
        state.wake_at,
        state.journal_bytes,
        state.takeovers,
        state.blocked,
        state.on_complete_error,
    )


def with_progress(row: WorkflowState, state: WorkflowState) -> WorkflowState:
    """A row with what changes while a worker goes on (PROGRESS_STATE_COLUMNS) from `state`."""
    return WorkflowState(
        row.header,
        row.epoch,
        row.owner,
        row.status,
        row.outcome,
        state.position,
        state.stamp,
        state.started_at,
        row.ended_at,
        state.next_number,
        {},
        (),
        (),
        0,
        (),
        state.timer_at,
        row.wake_at,
        state.journal_bytes,
        state.takeovers,
        row.blocked,
        row.on_complete_error,
    )


def with_command_of(record: StepRecord, row: StepRecord) -> StepRecord:
    """A step as an update writes it: what was asked, and when, stays as it is stored."""
    if (
        record.command is row.command
        and record.asked_position == row.asked_position
        and record.asked_at == row.asked_at
        and record.asked_epoch == row.asked_epoch
        and record.child_id == row.child_id
    ):
        return record
    return replace(
        record,
        command=row.command,
        asked_position=row.asked_position,
        asked_at=row.asked_at,
        asked_epoch=row.asked_epoch,
        child_id=row.child_id,
    )


def loaded(row: WorkflowState, journal: Journal) -> Loaded:
    """A workflow with its journal and unconsumed events, as `rows.state_from_row` makes it."""
    steps = tuple([journal.steps[number] for number in sorted(journal.steps)])
    live: dict[int, StepRecord] = {}
    if row.status == "in_progress":
        live = {
            record.number: record
            for record in steps
            # As `rows.is_open`, without a call for each.
            if record.state != "settled"
            or (record.delivered_position is None and record.canceled_position is None)
        }
    events: tuple[SentEvent, ...] = ()
    if journal.events:
        left = [each for each in journal.events.values() if each.consumed_by is None]
        events = tuple(each.event for each in sorted(left, key=_event_order))
    settled = [
        (record.settled_at or 0, number)
        for number, record in live.items()
        if record.state == "settled"
    ]
    waits = [
        number
        for number, record in live.items()
        if record.state == "asked" and record.command.kind == "event"
    ]
    state = replace(
        row,
        live=live,
        settled=tuple(sorted(settled)),
        awaiting=tuple(waits),
        busy=sum([record.state in ("ready", "started") for record in live.values()]),
        events=events,
    )
    ticks = tuple([journal.ticks[position] for position in sorted(journal.ticks)])
    return Loaded(state=state, steps=steps, ticks=ticks)


def _event_order(row: EventRow) -> tuple[bool, int, int, EventId]:
    """In the order in which they were sent; those that are only created last."""
    sequence = row.event.sequence
    return sequence is None, sequence or 0, row.created_at, row.event.event_id
