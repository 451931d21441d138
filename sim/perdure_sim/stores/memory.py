"""The model store of the simulator: the contract of `perdure.store.base` on dicts in memory.

`MemoryDatabase` is the disk: it outlives the processes. Each simulated process has a
`MemoryStore` on it, which it opens, and closes or loses in a crash. All of it is for one thread;
nothing here reads a clock, or leaves anything to chance.

What the contract leaves open is as in SQLite; that the two agree is a property test
(property_tests/test_stores_agree.py). What is missing: user code does not see the engine's tables
(`perdure_…`), which SQLite would let it read.
What does not belong here: faults. Whoever wants some wraps a store.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from perdure.core.ids import WorkerId
from perdure.core.limits import PARALLELISM_DEFAULT
from perdure.errors import NotOpen, StoreError
from perdure.store.base import (
    GuestTransaction,
    Reader,
    StateWrite,
    StepWrite,
    Store,
    Transaction,
    in_transaction,
)
from perdure.store.connection import Connection, is_commit_poisoned, translate
from perdure.store.sqlite_schema import SCHEMA_VERSION

from .memory_guest import MemoryGuest
from .memory_rows import Change, Snapshot, Tables, check_parallelism
from .memory_transaction import MemoryTransaction, Reads
from .memory_users import UserTables

T = TypeVar("T")


class MemoryDatabase:
    """What a disk would hold, and which workers live.

    Args:
        template: the tables and rows that the user's tables begin with, as
            `memory_users.image_of` gives them. They are copied when they are first needed, which
            in most simulations is never.
    """

    def __init__(self, template: bytes = b"") -> None:
        self._tables = Tables()
        self._users = UserTables(template)
        self._held: dict[WorkerId, MemoryStore] = {}
        self._open: _OpenTransaction | None = None
        self._commits = 0
        self._kept: list[tuple[list[Change], bytes | None]] | None = None

    def snapshot(self) -> Snapshot:
        """All committed rows but the user's, to be compared. Costs a copy of some dicts."""
        with self._committed():
            return self._tables.snapshot()

    @property
    def user_tables(self) -> Connection:
        """The connection that user code gets as ``ctx.db``, for setting its tables up and for
        looking at them: with `engine_execute`, because `execute` is for user code; and call
        `commit` after writing."""
        return self._users.connection

    def crash(self, store: MemoryStore) -> None:
        """The process of `store` is gone: what it had not committed is undone, its workers are
        dead, and the store is of no use any more.

        Not from inside user code, which cannot be left in this way: raise something there.
        """
        transaction = self._open
        if transaction is not None and transaction.store is store:
            transaction.roll_back()
        self._held = {key: holder for key, holder in self._held.items() if holder is not store}
        store._forget()

    def over(
        self, store: Store, fn: Callable[[GuestTransaction], T], before_commit: Callable[[], None]
    ) -> T:
        """See `Disk.over`. The one connection to the user's tables stands for one of his own: it
        is fenced in, so that he cannot end the transaction himself."""
        assert isinstance(store, MemoryStore)
        with _OpenTransaction(store, is_own=False) as rows:
            value = rows.run_user_code(lambda: fn(MemoryGuest(rows)), read_only=False)
            before_commit()
        return value

    def lose_lease(self, worker_id: WorkerId) -> None:
        """Have others take a worker for dead, although its process goes on: a zombie."""
        self._held.pop(worker_id, None)

    def keep_commits(self) -> None:
        """Remember from now on how to undo commits. It costs a copy of the user's tables for each
        commit that changes them."""
        self._kept = []

    def count_commits(self) -> int:
        """How many there were since `keep_commits`."""
        return len(self._kept or ())

    def undo_commits(self, count: int) -> None:
        """Undo all commits but the first so many: the power was lost before they were synced.
        No store may be open."""
        assert self._open is None and self._kept is not None
        lost, self._kept = self._kept[count:], self._kept[:count]
        for changes, _ in reversed(lost):
            self._tables.take_back(changes)
        images = [image for _, image in self._kept if image is not None]
        self._users.restore(images[-1] if images else b"")

    def _keep(self, changes: list[Change], *, has_users: bool) -> None:
        assert self._kept is not None
        self._kept.append((changes, self._users.image() if has_users else None))

    def close(self) -> None:
        """The disk itself is of no use any more: the user's tables are given back."""
        assert self._open is None, "a transaction is open: crash its store before"
        self._users.close()

    @contextlib.contextmanager
    def _committed(self) -> Iterator[None]:
        """The tables without what the open transaction has changed, for as long as the block
        lasts."""
        if self._open is None:
            yield
            return
        again = self._tables.take_back(self._open.changes)
        try:
            yield
        finally:
            self._tables.take_back(again)


class MemoryStore:
    """One process's store on a database in memory."""

    shares_commits = True
    tells_all = True
    poll_seconds = 0.02

    #: Any thread could read, but there is only one.
    reads_need_engine = False

    def __init__(self, database: MemoryDatabase) -> None:
        self.database = database
        self._transaction: _OpenTransaction | None = None
        self._reader: MemoryReader | None = None
        # How many commits are no news: those at the last look, and our own since then.
        self._seen = -1

    def open(self, *, max_parallelism: int | None, works: bool = False) -> None:
        """See `base.Store.open`."""
        database = self.database
        settings = database._tables.settings
        if not settings:
            limit = PARALLELISM_DEFAULT if max_parallelism is None else max_parallelism
            check_parallelism(limit)
            settings["schema_version"] = SCHEMA_VERSION
            settings["max_parallelism"] = limit
            settings["next_epoch"] = settings["next_event"] = 1
            settings["last_inbox"] = 0
        self._transaction = _OpenTransaction(self)
        self._reader = MemoryReader(database)
        self._seen = database._commits - 1  # what was committed before is news

    def close(self) -> None:
        """Give up everything, as a crash would. May be opened again."""
        self.database.crash(self)

    def _forget(self) -> None:
        if self._reader is not None:
            self._reader.is_closed = True
        self._transaction = self._reader = None

    def transaction(self) -> AbstractContextManager[Transaction]:
        """See `base.Store.transaction`.

        Raises:
            RuntimeError: a transaction is open already, this store's or another's. (At the
                beginning of the block.)
        """
        if self._transaction is None:
            raise self._not_open()
        return self._transaction

    def write_alone(
        self, write: StateWrite, steps: Sequence[StepWrite], *, fence: WorkerId
    ) -> bool:
        """See `base.Store.write_alone`."""
        return in_transaction(self, write, steps, fence)

    def reader(self) -> Reader:
        """See `base.Store.reader`."""
        if self._reader is None:
            raise NotOpen("memory: the store is not open: use `async with manager:`")
        return self._reader

    def has_changed(self) -> bool:
        """See `base.Store.has_changed`."""
        if self._transaction is None:
            raise self._not_open()
        commits = self.database._commits
        if self._seen == commits:
            return False
        self._seen = commits
        return True

    def call_on_change(self, wake: Callable[[], None]) -> None:
        """See `base.Store.call_on_change`. It never does."""

    def hold_worker(self, worker_id: str) -> None:
        """See `base.Store.hold_worker`."""
        if self._transaction is None:
            raise self._not_open()
        held = self.database._held
        if worker_id in held:
            raise StoreError(f"memory: worker {worker_id!r} is held by another process")
        held[worker_id] = self

    def release_worker(self, worker_id: str) -> None:
        """See `base.Store.release_worker`."""
        held = self.database._held
        if held.get(worker_id) is self:
            del held[worker_id]

    def dead_workers(self, worker_ids: Collection[str]) -> list[str]:
        """See `base.Store.dead_workers`."""
        held = self.database._held
        return [worker_id for worker_id in worker_ids if worker_id not in held]

    def is_poisoned(self, error: BaseException) -> bool:
        """See `base.Store.is_poisoned`."""
        return is_commit_poisoned(error)

    def _not_open(self) -> StoreError:
        return StoreError("memory: the store is not open, or its process has crashed")


class MemoryReader(Reads):
    """Reads what is committed, for as long as its store is open."""

    __slots__ = ("_database", "is_closed")

    def __init__(self, database: MemoryDatabase) -> None:
        super().__init__(database._tables)
        self._database = database
        self.is_closed = False


def _of_committed(name: str) -> Callable[..., Any]:
    """The read of that name, without what the open transaction has changed."""
    inherited = getattr(Reads, name)

    @functools.wraps(inherited)
    def read(self: MemoryReader, /, *args: Any, **kwargs: Any) -> Any:
        if self.is_closed:
            raise NotOpen("memory: the store was closed meanwhile: read while the manager is open")
        if self._database._open is None:
            return inherited(self, *args, **kwargs)
        with self._database._committed():
            return inherited(self, *args, **kwargs)

    return read


for _name in vars(Reads):
    if not _name.startswith("_"):
        setattr(MemoryReader, _name, _of_committed(_name))


class _OpenTransaction:
    """Begin, then commit or roll back: one object for all transactions of a store."""

    __slots__ = ("_database", "_is_own", "_rows", "store")

    def __init__(self, store: MemoryStore, *, is_own: bool = True) -> None:
        self.store = store
        self._is_own = is_own  # else it is news for the store as well
        self._database = store.database
        self._rows = MemoryTransaction(self._database._tables, self._database._users)

    @property
    def changes(self) -> list[Any]:
        return self._rows.changes

    def __enter__(self) -> MemoryTransaction:
        database = self._database
        if database._open is not None:
            whose = "this" if database._open is self else "another"
            raise RuntimeError(f"a transaction of {whose} store is open: they must not overlap")
        database._open = self
        self._rows.begin()
        return self._rows

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        database = self._database
        if database._open is not self:
            # Its store has crashed meanwhile, and all was undone. Whoever goes on is not told
            # that it was committed.
            if error is None:
                raise NotOpen("memory: the process of this store has crashed: nothing is stored")
            return
        if error is not None:
            self._undo(error)
            return
        changes, has_users = self._rows.changes, database._users.is_begun
        try:
            has_changed = self._rows.end()
        except BaseException as failure:
            self._undo(failure)
            raise
        database._open = None
        if database._kept is not None:
            database._keep(changes, has_users=has_users)
        if has_changed:
            database._commits += 1
            self.store._seen += self._is_own

    def _undo(self, error: BaseException) -> None:
        """Roll back; raise what the error means for the store, if it means something."""
        self.roll_back()
        trouble = translate(error, "memory")
        if trouble is not None:
            raise trouble from error

    def roll_back(self) -> None:
        """Take back what was written, and be over."""
        self._rows.undo()
        self._database._open = None
