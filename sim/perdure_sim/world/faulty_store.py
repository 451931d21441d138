"""The store as a simulated process sees it: with faults, and with an observer at its commits.

What is committed is told to the observer at once, also where the process is told something else:
the observer knows what is on the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

from perdure.core.ids import Epoch, WorkerId, WorkflowId
from perdure.core.messages import SentEvent
from perdure.core.workflow import WorkflowState
from perdure.errors import StoreBusy, StoreError, StoreFull, StoreReadOnly
from perdure.store.base import (
    GuestTransaction,
    InboxRow,
    Reader,
    StateWrite,
    StepWrite,
    Store,
    Transaction,
)

from ..faults.plan import Fault
from ..laws.known import Place
from .trace import About, EventKind

T = TypeVar("T")

#: What a transaction wrote, in order: the name of the method, and what it was given.
Write: TypeAlias = tuple[str, Any]

Site: TypeAlias = Literal["begin", "commit", "read"]


class Over(Protocol):
    """How a disk has a transaction of the user's own on it; see `disks.Disk`."""

    def __call__(
        self,
        store: Store,
        fn: Callable[[GuestTransaction], T],
        before_commit: Callable[[], None],
        /,
    ) -> T: ...


#: Kinds at a commit under which nothing is stored, and those after which the process is dead.
_BEFORE = ("fails", "full", "disk_full", "crash_before")
_DEADLY = ("crash_before", "crash_after", "power_loss")


class Crash(BaseException):
    """The process dies here. Not an `Exception`: no code of the engine may survive it."""


class Process(Protocol):
    """Whose store it is.

    Attributes:
        detail: whether it wants to be told everything.
        shares_commits: whether functions may share a transaction where the store lets them.
    """

    detail: bool

    @property
    def shares_commits(self) -> bool: ...

    def note(self, kind: EventKind, about: About = None) -> None:
        """Keep what happens now."""
        ...

    def passes(self, site: Site) -> Fault | None:
        """The fault that happens to this process here, if one does."""
        ...

    def committed(self, writes: list[Write]) -> None:
        """These writes are on the disk."""
        ...

    def stand_still(self, fault: Fault) -> None:
        """Others go on, and then this process does, in the middle of what it was about to do."""
        ...

    def place(self) -> Place | None:
        """Which function is about to run in the transaction; None if it is none of a workflow."""
        ...


class SimulatedStore:
    """A store whose transactions and reads go wrong as planned."""

    def __init__(self, inner: Store, process: Process) -> None:
        self.inner = inner
        self.shares_commits = inner.shares_commits and process.shares_commits
        self.tells_all = inner.tells_all
        self._process = process

    def open(self, *, max_parallelism: int | None, works: bool = False) -> None:
        self._trouble("begin")
        self.inner.open(max_parallelism=max_parallelism, works=works)

    def close(self) -> None:
        self.inner.close()

    def transaction(self) -> AbstractContextManager[Transaction]:
        return _Faulty(self.inner, self._process, self._trouble)

    def write_alone(
        self, write: StateWrite, steps: Sequence[StepWrite], *, fence: WorkerId
    ) -> bool:
        # At the same places as in a transaction.
        self._trouble("begin")
        fault = self._process.passes("commit")
        if fault is not None and fault.kind in _BEFORE:
            raise _failure(fault)
        if not self.inner.write_alone(write, steps, fence=fence):
            return False
        writes: list[Write] = [("update", (write,))]
        if steps:
            writes.append(("steps", tuple(steps)))
        self._process.committed(writes)
        if fault is not None:
            raise _failure(fault)
        return True

    def reader(self) -> Reader:
        self._trouble("read")
        return self.inner.reader()

    def over(self, over: Over, fn: Callable[[GuestTransaction], T]) -> T:
        """Run `fn` in a transaction that the process opens beside its engine's, and commit it.

        Args:
            over: of the disk.

        Raises:
            StoreError, Crash: as planned.
        """
        self._trouble("begin")
        process, writes, more = self._process, list[Write](), list[Write]()
        fault: Fault | None = None

        def run(guest: GuestTransaction) -> T:
            if process.detail:
                return fn(NotedGuest(guest, writes, process.place, more, process))
            return fn(WatchedGuest(guest, writes, process.place))

        def before_commit() -> None:
            nonlocal fault
            fault = process.passes("commit")
            if fault is not None and fault.kind in _BEFORE:
                raise Crash(str(fault)) if fault.kind == "crash_before" else _error(fault)

        value = over(self.inner, run, before_commit)
        if more:
            process.note("rows", more)
        process.committed(writes)
        if fault is not None:
            raise Crash(str(fault)) if fault.kind in _DEADLY else _error(fault)
        return value

    @property
    def reads_need_engine(self) -> bool:
        return self.inner.reads_need_engine

    def has_changed(self) -> bool:
        return self.inner.has_changed()

    @property
    def poll_seconds(self) -> float:
        return self.inner.poll_seconds

    def call_on_change(self, wake: Callable[[], None]) -> None:
        pass  # the world knows when another process has committed

    def dead_workers(self, worker_ids: Collection[WorkerId]) -> list[WorkerId]:
        return self.inner.dead_workers(worker_ids)

    def is_poisoned(self, error: BaseException) -> bool:
        return self.inner.is_poisoned(error)

    def hold_worker(self, worker_id: WorkerId) -> None:
        self.inner.hold_worker(worker_id)

    def release_worker(self, worker_id: WorkerId) -> None:
        self.inner.release_worker(worker_id)

    def _trouble(self, site: Site) -> None:
        fault = self._process.passes(site)
        if fault is not None:
            if fault.kind == "crash":
                raise Crash(str(fault))
            if fault.kind in ("stall", "overtaken"):
                self._process.stand_still(fault)
            else:
                raise _error(fault)


def _failure(fault: Fault) -> BaseException:
    return Crash(str(fault)) if fault.kind in _DEADLY else _error(fault)


def _error(fault: Fault) -> StoreError:
    match fault.kind:
        case "busy" | "busy_ack":
            return StoreBusy(f"simulated: {fault}")
        case "full" | "disk_full":
            return StoreFull(f"simulated: {fault}")
        case "read_only":
            return StoreReadOnly(f"simulated: {fault}")
        case _:
            return StoreError(f"simulated: {fault}")


class _Faulty:
    """A transaction that may fail to begin, or to end."""

    __slots__ = ("_context", "_inner", "_more", "_process", "_trouble", "_writes")

    def __init__(self, inner: Store, process: Process, trouble: Callable[[Site], None]) -> None:
        self._inner = inner
        self._process = process
        self._trouble = trouble

    def __enter__(self) -> Transaction:
        self._trouble("begin")
        self._context = self._inner.transaction()
        self._writes: list[Write] = []
        if self._process.detail:
            self._more: list[Write] = []
            inner = self._context.__enter__()
            return Noted(inner, self._writes, self._process.place, self._more, self._process)
        return Watched(self._context.__enter__(), self._writes, self._process.place)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        end = self._context.__exit__
        if error is not None:
            end(kind, error, traceback)
            return
        fault = self._process.passes("commit")
        if fault is not None and fault.kind in _BEFORE:
            failure = _failure(fault)
            end(type(failure), failure, None)
            raise failure
        end(None, None, None)
        if self._process.detail and self._more:
            self._process.note("rows", self._more)
        self._process.committed(self._writes)
        if fault is not None:
            raise _failure(fault)


class Watched:
    """A transaction that keeps what is written to workflows, steps, ticks, events and workers, and
    which functions ran in it and did not raise.

    Its other methods are those of the transaction itself.
    """

    def __init__(
        self, inner: Transaction, writes: list[Write], place: Callable[[], Place | None]
    ) -> None:
        self._inner = inner
        self._writes = writes
        self._place = place

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def insert_workflows(self, states: Sequence[WorkflowState]) -> None:
        self._inner.insert_workflows(states)
        self._writes.append(("insert", tuple(states)))

    def update_workflows(
        self, writes: Sequence[StateWrite], *, fence: WorkerId | None = None
    ) -> set[WorkflowId]:
        stale = self._inner.update_workflows(writes, fence=fence)
        if not stale:
            self._writes.append(("update", tuple(writes)))
        return stale

    def release_workflows(self, worker_id: WorkerId, now: int, *, is_dead: bool) -> int:
        self._writes.append(("release", (worker_id, now, is_dead)))
        return self._inner.release_workflows(worker_id, now, is_dead=is_dead)

    def put_steps(self, writes: Iterable[StepWrite]) -> set[WorkflowId]:
        writes = tuple(writes)
        taken = self._inner.put_steps(writes)
        if not taken:
            self._writes.append(("steps", writes))
        return taken

    def cut_journal(self, workflow_id: WorkflowId, number: int, position: int) -> None:
        self._inner.cut_journal(workflow_id, number, position)
        self._writes.append(("cut", (workflow_id, number, position)))

    def delete_workflows(self, ids: Collection[WorkflowId]) -> None:
        self._inner.delete_workflows(ids)
        self._writes.append(("delete", tuple(ids)))

    def put_ticks(self, ticks: Iterable[tuple[WorkflowId, int, int]]) -> None:
        ticks = tuple(ticks)
        self._inner.put_ticks(ticks)
        self._writes.append(("ticks", ticks))

    def put_event(self, workflow_id: WorkflowId, event: SentEvent, now: int) -> None:
        self._inner.put_event(workflow_id, event, now)
        self._writes.append(("event", (workflow_id, event)))

    def consume_event(self, workflow_id: WorkflowId, event_id: str, number: int) -> None:
        self._inner.consume_event(workflow_id, event_id, number)
        self._writes.append(("consume", (workflow_id, event_id, number)))

    def run_user_code(self, fn: Callable[[], T], *, read_only: bool) -> T:
        mark, place = len(self._writes), self._place()
        try:
            result = self._inner.run_user_code(fn, read_only=read_only)
        except BaseException:
            del self._writes[mark:]  # what its verbs wrote is undone with it
            raise
        if place is not None:
            self._writes.append(("function", place))
        return result

    def add_worker(self, worker_id: WorkerId, now: int) -> None:
        self._inner.add_worker(worker_id, now)
        self._writes.append(("add_worker", worker_id))

    def remove_worker(self, worker_id: WorkerId) -> None:
        self._inner.remove_worker(worker_id)
        self._writes.append(("remove_worker", worker_id))

    def set_permits(self, worker_id: WorkerId, permits: int, wanting: int) -> None:
        self._inner.set_permits(worker_id, permits, wanting)
        self._writes.append(("permits", (worker_id, permits)))

    def set_max_parallelism(self, value: int) -> None:
        self._inner.set_max_parallelism(value)
        self._writes.append(("limit", value))


class WatchedGuest(Watched):
    """That of a transaction of the user's: a verb that raises has written nothing."""

    def run_engine_code(self, fn: Callable[[], T]) -> T:
        mark = len(self._writes)
        try:
            return self._inner.run_engine_code(fn)
        except BaseException:
            del self._writes[mark:]
            raise


class Noted(Watched):
    """A transaction that keeps also what it writes to wake-ups and inboxes, for people.

    Args:
        more: gets them; they are apart from what the laws look at.
        process: told when a write is refused.
    """

    def __init__(
        self,
        inner: Transaction,
        writes: list[Write],
        place: Callable[[], Place | None],
        more: list[Write],
        process: Process,
    ) -> None:
        super().__init__(inner, writes, place)
        self._more = more
        self._process = process

    def update_workflows(
        self, writes: Sequence[StateWrite], *, fence: WorkerId | None = None
    ) -> set[WorkflowId]:
        stale = super().update_workflows(writes, fence=fence)
        if stale:
            self._process.note("refused", sorted(stale))
        return stale

    def is_fenced(self, worker_id: WorkerId) -> bool:
        is_fenced = self._inner.is_fenced(worker_id)
        if is_fenced:
            self._process.note("refused", [])
        return is_fenced

    def set_permits(self, worker_id: WorkerId, permits: int, wanting: int) -> None:
        super().set_permits(worker_id, permits, wanting)
        self._more.append(("wanting", (worker_id, wanting)))

    def take_epochs(self, count: int) -> Epoch:
        first = self._inner.take_epochs(count)
        self._more.append(("epochs", (first, count)))
        return first

    def wake(self, workflow_id: WorkflowId, at: int) -> None:
        self._inner.wake(workflow_id, at)
        self._more.append(("wake", (workflow_id, at)))

    def put_inbox(self, rows: Iterable[InboxRow]) -> None:
        rows = tuple(rows)
        self._inner.put_inbox(rows)
        self._more.append(("inbox", rows))


class NotedGuest(WatchedGuest, Noted):
    """Both."""
