"""The store in memory and the SQLite store give the same answers to the same calls.

Two databases, one of each sort, with two stores on each. Every call goes to both; what comes back
must be equal, and so must what readers see. A write that breaks a constraint is refused by both,
and rolled back, as the contract wants it.

What is left out, because the two differ there, and only for faults of the engine's that SQLite
does not see: what it drops without a word (see memory_rows.py), two writes of one row in one call,
and a stale update whose new epoch is the stored one.
"""

from __future__ import annotations

import contextlib
import functools
import sqlite3
import tempfile
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from property_tests.store_calls import (
    EVENTS,
    IDS,
    NAMES,
    WORKERS,
    Update,
    drawn,
    filters,
    make_event,
    make_letter,
    make_state,
    make_steps,
    make_updates,
    numbers,
    several,
    some_ids,
    some_names,
    times,
    workers,
    workflow_ids,
)

from perdure.core.messages import SentEvent
from perdure.core.workflow import WorkflowState
from perdure.errors import ConnectionMisuse, StoreError
from perdure.store.base import (
    InboxRow,
    Loaded,
    Reader,
    StepWrite,
    Store,
    Transaction,
    TransactionLost,
    WorkflowFilter,
)
from perdure.store.sqlite import SqliteStore
from perdure_sim.stores.memory import MemoryDatabase, MemoryStore
from perdure_sim.stores.memory_users import image_of

USER_TABLES = """
    CREATE TABLE item (x INTEGER UNIQUE);
    CREATE TABLE parent (id INTEGER PRIMARY KEY);
    CREATE TABLE child (parent INTEGER REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
"""

#: What user code does.
STATEMENTS = (
    "INSERT INTO item VALUES (1)",
    "INSERT INTO item VALUES (2)",
    "INSERT OR ROLLBACK INTO item VALUES (1)",
    "INSERT INTO child VALUES (1)",  # of no parent: the commit fails
    "DELETE FROM child",
    "SELECT count(*), sum(x) FROM item",
    "COMMIT",
    "CREATE TABLE perdure_mine (x)",
)

#: The answer to a write that breaks a constraint.
REFUSED = "refused"


def by_id(found: list[Any]) -> list[Any]:
    """Workflows, of which a store promises no order."""

    def key(each: Any) -> str:
        state = each.state if isinstance(each, Loaded) else each
        workflow_id: str = state.workflow_id
        return workflow_id

    return sorted(found, key=key)


@functools.cache
def template() -> tuple[bytes, bytes]:
    """A file with all tables, and a database with the user's alone: made once."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "template.db"
        store = SqliteStore(str(path))
        store.open(max_parallelism=5)
        store.close()
        with contextlib.closing(sqlite3.connect(path)) as user:
            user.executescript(USER_TABLES)
        return path.read_bytes(), image_of(lambda db: db.executescript(USER_TABLES))


class _Undo(Exception):
    """Ends a transaction, or user code, that is to be undone."""


class StoresMachine(RuleBasedStateMachine):
    """Calls at random, each to a SQLite store and to one in memory; 0 and 1 are processes."""

    def __init__(self) -> None:
        super().__init__()
        self.begin_database()
        self.stores = [self.new_stores(), self.new_stores()]
        self.process = 0
        self.managers: list[AbstractContextManager[Transaction]] = []
        self.transactions: list[Transaction] | None = None
        self.before = self.database.snapshot()

    def begin_database(self) -> None:
        """A file, and the same in memory."""
        file, image = template()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "app.db"
        self.path.write_bytes(file)
        self.database = MemoryDatabase(image)

    def end_database(self) -> None:
        """The file is gone."""
        self.folder.cleanup()

    def new_stores(self) -> tuple[Store, MemoryStore]:
        """The stores of one process."""
        stores = SqliteStore(str(self.path), durability="process"), MemoryStore(self.database)
        for store in stores:
            store.open(max_parallelism=5)
            assert store.has_changed(), "a store that was just opened has seen nothing"
        return stores

    def teardown(self) -> None:
        """Close everything; a transaction that is open is lost."""
        for sqlite, memory in self.stores:
            sqlite.close()
            self.database.crash(memory)
        self.database.close()
        self.end_database()

    # --- calling both ---------------------------------------------------------------------------

    def answer(self, fn: Callable[[Transaction], Any], tx: Transaction) -> Any:
        """What a transaction answers, or that it refuses."""
        try:
            return fn(tx)
        except (sqlite3.IntegrityError, AssertionError, RuntimeError):
            return REFUSED

    def call(self, fn: Callable[[Transaction], Any]) -> Any:
        """What both transactions answer, begun if none is open. If they refuse, both are rolled
        back, and it is None."""
        if self.transactions is None:
            self.begin()
        assert self.transactions is not None
        sqlite, memory = (self.answer(fn, tx) for tx in self.transactions)
        assert sqlite == memory
        if sqlite != REFUSED:
            return sqlite
        self.undo()
        return None

    def begin(self) -> None:
        """Begin a transaction of the process whose turn it is."""
        self.before = self.database.snapshot()
        self.managers = [store.transaction() for store in self.stores[self.process]]
        self.transactions = [manager.__enter__() for manager in self.managers]

    def undo(self) -> None:
        """Roll back both, if there is something."""
        if self.transactions is None:
            return
        for manager in self.managers:
            assert not manager.__exit__(_Undo, _Undo(), None)
        self.transactions = None
        assert self.database.snapshot() == self.before
        self.compare()

    def compare(self) -> None:
        """Readers of both databases see the same."""
        sqlite, memory = self.stores[1 - self.process]
        assert self.look(sqlite.reader()) == self.look(memory.reader())

    def loaded(self) -> dict[str, Loaded]:
        """The workflows as the transaction sees them, by id."""
        return {each.state.workflow_id: each for each in self.call(lambda tx: tx.load(IDS))}

    def settings_of(self, tx: Transaction, count: int) -> Any:
        """What its sequences give, and its settings."""
        return tx.take_epochs(count), tx.take_event_sequence(), tx.config()

    def look(self, reader: Reader) -> list[Any]:
        """All that a reader sees."""
        return [
            by_id(reader.load(IDS)),
            by_id(reader.states(IDS)),
            self.list_workflows(reader, WorkflowFilter()),
            [reader.open_steps(workflow_id) for workflow_id in IDS],
            reader.workers(),
            [reader.ready_steps(worker, ("f",), 20) for worker in WORKERS],
            reader.ready_steps("u", ("c", "q"), 20),
            reader.ready_steps("u", ("f",), 1),
            [self.inbox_of(reader, worker) for worker in WORKERS],
            self.claimable(reader, NAMES, 9, 9),
            reader.next_wake(NAMES),
            [reader.count_active(NAMES, most) for most in (2, 99)],
            [reader.find_event(event_id) for event_id in EVENTS],
            reader.config(),
        ]

    def list_workflows(self, reader: Reader, which: WorkflowFilter) -> Any:
        """Workflows, with their numbers."""
        return reader.list_workflows(which)

    def inbox_of(self, reader: Reader, worker: str) -> Any:
        """A worker's mail, with its numbers."""
        return reader.inbox_of(worker)

    def claimable(self, reader: Reader, names: Collection[str], now: int, limit: int) -> Any:
        """What nobody owns and is due."""
        return reader.claimable(names, now, limit)

    def run_by(self, tx: Transaction, worker: str) -> Any:
        """Nothing: databases find them by a mark, which is set for what an engine would write, and
        not for any steps."""
        tx.run_by(worker)

    # --- transactions and processes -------------------------------------------------------------

    @initialize(
        states=drawn(lambda chance: [make_state(chance, workflow_id) for workflow_id in IDS[1:]]),
        writes=drawn(make_steps),
        events=several(make_event, 6),
        letters=several(make_letter, 4),
    )
    def begin_with_rows(
        self,
        states: list[WorkflowState],
        writes: list[StepWrite],
        events: list[SentEvent],
        letters: list[InboxRow],
    ) -> None:
        """Two workers, and some workflows with steps, events and mail."""
        self.call(lambda tx: tx.add_worker("u", 1))
        self.call(lambda tx: tx.add_worker("v", 1))
        self.commit(0)
        for state in states:
            self.call(lambda tx: tx.insert_workflows([state]))  # noqa: B023 - at once
            self.commit(1)
        self.put_steps(writes)
        self.commit(0)
        self.put_events("b", events, 1)
        self.commit(0)
        self.put_inbox(letters)
        self.commit(1)

    @rule(then=st.integers(0, 1))
    def commit(self, then: int) -> None:
        """It is committed, if it can be; the other process is told if there was anything. It is
        the turn of process `then`."""
        if self.transactions is None:
            self.begin()
        failures: list[Any] = []
        stores: tuple[Store, Store] = self.stores[self.process]
        for manager, store in zip(self.managers, stores, strict=True):
            try:
                manager.__exit__(None, None, None)
                failures.append(None)
            except sqlite3.IntegrityError as error:  # a deferred key of the user's
                failures.append((str(error), store.is_poisoned(error)))
        self.transactions = None
        assert failures[0] == failures[1]
        after = self.database.snapshot()
        self.compare()
        told = [store.has_changed() for store in self.stores[1 - self.process]]
        if failures[0] is not None:
            assert (after, told) == (self.before, [False, False])
        elif after != self.before:
            assert told == [True, True]
        # Else what was written is what was there: SQLite may tell of it or not.
        assert not any(store.has_changed() for store in self.stores[self.process])
        self.process = then

    @rule(then=st.integers(0, 1))
    def roll_back(self, then: int) -> None:
        """It is undone; it is the turn of process `then`."""
        self.undo()
        assert not any(store.has_changed() for store in self.stores[1 - self.process])
        self.process = then

    @rule(process=st.integers(0, 1), crashes=st.booleans(), worker=workers, holds=st.booleans())
    def end_process(self, process: int, crashes: bool, worker: str, holds: bool) -> None:
        """A process ends, with or without closing its store, and a new one comes; the other one
        lets know that a worker lives, or that it has ended."""
        if self.transactions is not None and self.process == process:
            self.transactions = None
        sqlite, memory = self.stores[process]
        sqlite.close()
        if crashes:
            self.database.crash(memory)
        else:
            memory.close()
        self.stores[process] = self.new_stores()
        for store in self.stores[1 - process]:
            with contextlib.suppress(StoreError):  # it is held already
                (store.hold_worker if holds else store.release_worker)(worker)
        for sqlite, memory in self.stores:
            assert sqlite.dead_workers(WORKERS) == memory.dead_workers(WORKERS)
        self.compare()

    @rule(
        which=filters,
        after=st.none() | numbers,
        ids=some_ids,
        names=some_names,
        now=times,
    )
    def read(
        self,
        which: WorkflowFilter,
        after: int | None,
        ids: list[str],
        names: list[str],
        now: int,
    ) -> None:
        """A transaction sees its own writes, and every reader what was committed before. With the
        reads that take more than ids."""
        if self.transactions is not None:
            sqlite, memory = map(self.look, self.transactions)
            assert sqlite == memory
        sqlite, memory = (
            [
                self.list_workflows(reader, which),
                [
                    reader.list_steps(
                        each, is_ascending=which.is_ascending, limit=which.limit, after=after
                    )
                    for each in IDS
                ],
                by_id(reader.load(ids)),
                by_id(reader.states(ids)),
                self.claimable(reader, names, now, which.limit),
                reader.next_wake(names),
                reader.count_active(names, which.limit),
            ]
            for reader in (store.reader() for store in self.stores[self.process])
        )
        assert sqlite == memory

    # --- settings, sequences, workers -----------------------------------------------------------

    @rule(value=st.sampled_from([0, 3, 100_000, 100_001]), count=st.integers(0, 3))
    def set_numbers(self, value: int, count: int) -> None:
        """Settings and sequences."""
        self.call(lambda tx: self.settings_of(tx, count))
        if count == 3:
            self.call(lambda tx: tx.set_max_parallelism(value))

    @rule(worker=workers, permits=st.integers(-1, 20), is_new=st.booleans())
    def put_worker(self, worker: str, permits: int, is_new: bool) -> None:
        """A worker comes, or has permits."""
        self.call(lambda tx: tx.check_schema())
        if is_new and self.call(lambda tx: tx.is_fenced(worker)):
            self.call(lambda tx: tx.add_worker(worker, 1))
        else:
            self.call(lambda tx: tx.set_permits(worker, permits, 1))

    @rule(worker=workers, releases=st.integers(0, 6), is_dead=st.booleans(), now=times)
    def remove_worker(self, worker: str, releases: int, is_dead: bool, now: int) -> None:
        """A worker goes; now and then without giving up what it owns."""
        self.call(lambda tx: self.run_by(tx, worker))
        if releases:
            self.call(lambda tx: tx.release_workflows(worker, now, is_dead=is_dead))
            self.call(lambda tx: self.run_by(tx, worker))
        if releases < 3:
            self.call(lambda tx: [self.run_by(tx, each) for each in WORKERS])
            self.call(lambda tx: tx.remove_worker(worker))

    # --- workflows ------------------------------------------------------------------------------

    @rule(states=several(make_state, 2))
    def insert(self, states: list[WorkflowState]) -> None:
        """New workflows, mostly with ids that are free."""
        known = self.loaded()
        free = [each for each in states if each.workflow_id not in known or each.stamp == 0]
        self.call(lambda tx: tx.insert_workflows(free))

    @rule(
        batches=several(make_updates, 3),
        fence=st.sampled_from([None, None, None, "u", "v", "w"]),
    )
    def update(self, batches: list[list[Update]], fence: str | None) -> None:
        """Workflows' new rows; who wrote over another's must roll back."""
        for changes in batches:
            known = self.loaded()
            writes = [
                change.write(known[change.id].state if change.id in known else None)
                for change in changes
                if change.id in known or change.is_stale
            ]
            if self.call(lambda tx: tx.update_workflows(writes, fence=fence)):  # noqa: B023 - at once
                self.undo()

    @rule(ids=some_ids, names=some_names, at=times, below=st.integers(0, 4))
    def wake(self, ids: list[str], names: list[str], at: int, below: int) -> None:
        """Workflows are woken."""
        self.call(lambda tx: tx.wake_blocked(names, at, below))
        for workflow_id in ids[:1]:
            self.call(lambda tx: tx.wake(workflow_id, at))  # noqa: B023 - at once
        self.call(lambda tx: tx.wake_waiting(ids, at - 1))

    # --- journals, events, inbox ----------------------------------------------------------------

    @rule(writes=drawn(make_steps))
    def put_steps(self, writes: list[StepWrite]) -> None:
        """Steps to update, which are there or not, and new ones, mostly with free numbers, and of
        workflows that are there."""
        known = self.loaded()
        taken = {(each, step.number) for each in known for step in known[each].steps}
        mostly = [
            write
            for write in writes
            if not write.is_new
            or write.record.due_at == 0
            or (
                write.workflow_id in known and (write.workflow_id, write.record.number) not in taken
            )
        ]
        self.call(lambda tx: tx.put_steps(iter(mostly)))

    @rule(
        ticks=st.lists(st.tuples(workflow_ids, st.integers(0, 30), times), min_size=1, max_size=4)
    )
    def put_ticks(self, ticks: list[tuple[str, int, int]]) -> None:
        """Ticks, mostly of workflows that are there."""
        known = self.loaded()
        mostly = [tick for tick in ticks if tick[0] in known or tick[1] == 1]
        self.call(lambda tx: tx.put_ticks(iter(mostly)))

    @rule(workflow_id=workflow_ids, events=several(make_event, 4), now=times)
    def put_events(self, workflow_id: str, events: list[SentEvent], now: int) -> None:
        """Events are created or sent, mostly of the workflow that they are of already."""
        known = self.loaded()
        for event in events:
            found = self.call(lambda tx: tx.find_event(event.event_id))  # noqa: B023 - at once
            home = found[0] if found is not None and now else workflow_id
            if home in known or not now:
                self.call(lambda tx: tx.put_event(home, event, now))  # noqa: B023 - at once

    @rule(event_id=st.sampled_from(EVENTS), number=numbers)
    def consume_event(self, event_id: str, number: int) -> None:
        """An event is given to a step, mostly one that was sent and not yet consumed."""
        found = self.call(lambda tx: tx.find_event(event_id))
        if found is not None and (number == 0 or (found[1].outcome is not None and not found[2])):
            self.call(lambda tx: tx.consume_event(found[0], event_id, number))

    @rule(rows=several(make_letter, 3))
    def put_inbox(self, rows: list[InboxRow]) -> None:
        """Messages for owners and workers."""
        self.call(lambda tx: tx.put_inbox(iter(rows)))

    @rule(ids=some_ids, row_ids=st.lists(st.integers(0, 9), max_size=3))
    def delete_inbox(self, ids: list[str], row_ids: list[int]) -> None:
        """Messages are done with."""
        self.call(lambda tx: tx.clear_inbox(ids))
        self.call(lambda tx: tx.delete_inbox(iter(row_ids)))

    # --- user code ------------------------------------------------------------------------------

    @rule(
        sql=st.sampled_from(STATEMENTS),
        read_only=st.booleans(),
        fails_at=st.integers(-3, 2),
        depth=st.integers(0, 2),
    )
    def run_user_code(self, sql: str, read_only: bool, fails_at: int, depth: int) -> None:
        """User code that writes its own rows and the engine's, and may fail after that."""
        row = InboxRow(workflow_id="a", kind="event", body="1", accepted_at=1)

        def run(tx: Transaction, depth: int) -> Any:
            def code() -> Any:
                found = tx.db.execute(sql).fetchall()
                if depth:
                    tx.run_engine_code(lambda: tx.put_inbox([row]))
                    with contextlib.suppress(_Undo):
                        tx.run_engine_code(lambda: run(tx, depth - 1))
                if depth == fails_at:
                    raise _Undo
                return found

            return tx.run_user_code(code, read_only=read_only)

        def tell(tx: Transaction) -> Any:
            try:
                return run(tx, depth)
            except (_Undo, sqlite3.Error, ConnectionMisuse, TransactionLost) as error:
                return type(error), str(error)

        answered = self.call(tell)
        if answered is not None and answered[:1] == (TransactionLost,):
            self.undo()


TestStores = StoresMachine.TestCase
TestStores.settings = settings(max_examples=120, stateful_step_count=40)
