"""`manager.sync`: the manager's calls, blocking, for code that has no asyncio loop."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from concurrent.futures import CancelledError
from contextlib import suppress
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Self, TypeVar, overload

from perdure.checking import CheckedWorkflow, CheckReport
from perdure.definitions import Definition, Mutation, MutationCall, QueryCall, WorkflowCall
from perdure.errors import NotOpen, PerdureError
from perdure.events import Event
from perdure.journals import WorkflowJournal
from perdure.records import InProgress, Page, Settings, Status, StepInfo, WorkflowInfo
from perdure.runtime.inside import refuse_inside
from perdure.runtime.loops import OwnLoop, refuse_loop

if TYPE_CHECKING:
    from perdure.manager import WorkflowManager
    from perdure.runtime.engine import Engine

T = TypeVar("T")
R = TypeVar("R")

#: How long `close` waits for its thread, in seconds: longer than what the thread itself waits for.
JOIN_SECONDS = 5.0
P = ParamSpec("P")


class SyncManager:
    """The calls of a `WorkflowManager`, each blocking until it is done.

    ``with manager.sync:`` opens the store and runs a worker in this process, with a loop of its
    own in a thread for `async def` actions. On a manager that is not open, the first call opens
    the store as a client; `close` closes it, and so does whoever opens the manager otherwise, after
    the calls of other threads. (But not while one of them takes longer than some seconds, as
    `result` may, and not a database in memory.) It may be used from any thread, also beside an open
    manager.
    """

    #: How long whoever opens the manager otherwise waits for calls under way, in seconds.
    patience = 5.0

    def __init__(self, manager: WorkflowManager) -> None:
        self._manager = manager
        self._lock = threading.Lock()
        self._loop_lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._opened = False
        self._pid = os.getpid()
        #: Opened by a first call, of which nobody has to know; calls under way; being closed.
        self.is_implicit = False
        self._calls = 0
        self._is_leaving = False
        self._calls_lock = threading.Lock()
        self._calls_changed = threading.Condition(self._calls_lock)

    def __enter__(self) -> Self:
        """Open the store and run a worker inside this process."""
        refuse_inside("sync")
        refuse_loop("sync", "use `async with manager:`")
        self.step_aside(self._open_by_name)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Drain the worker and close the store."""
        self.close()

    def close(self) -> None:
        """Close what `with` or a first call has opened; nothing if there is nothing to close."""
        self._refuse_fork()
        with self._lock:
            thread = self._close()
        _join(thread)

    def step_aside(self, claim: Callable[[], T]) -> T:
        """Close what a first call has opened, for somebody who opens the manager by name and has
        `claim` do so, or see to it that nobody else does: no call comes in between.

        Waits for calls under way, but no longer than `patience`, after which nothing is closed; nor
        is a database in memory, which would be gone.
        """
        self._refuse_fork()
        thread: threading.Thread | None = None
        try:
            with self._lock:
                if self.is_implicit and not self._manager._is_in_memory:
                    thread = self._leave()
                return claim()
        finally:
            _join(thread)

    def _leave(self) -> threading.Thread | None:
        """Close it after the calls under way, with the lock held; the thread that ends, if so."""
        try:
            with self._calls_lock:
                self._is_leaving = True
                if not self._calls_changed.wait_for(lambda: self._calls == 0, self.patience):
                    return None
            return self._close()
        finally:
            with self._calls_lock:
                self._is_leaving = False
                self._calls_changed.notify_all()

    def _open_by_name(self) -> None:
        self._call(self._manager._open(works=True))
        self._opened = True

    def _close(self) -> threading.Thread | None:
        """Close it, with the lock held; the thread that ends."""
        try:
            if self._opened:
                self._opened = self.is_implicit = False
                self._call(self._manager._close())
        finally:
            thread = self._stop_loop()
        return thread

    def _stop_loop(self) -> threading.Thread | None:
        with self._loop_lock:
            loop, self._loop = self._loop, None
            thread, self._thread = self._thread, None
            if loop is not None:
                loop.call_soon_threadsafe(loop.stop)
            return thread

    # --- the calls

    def start(
        self,
        call: WorkflowCall[Any],
        *,
        id: str | None = None,
        on_complete: Mutation[..., Any] | None = None,
        context: Any = None,
        run_after: timedelta | float | None = None,
        run_at: datetime | None = None,
    ) -> str:
        """See `WorkflowManager.start`."""
        return self._do(
            self._manager.start,
            call,
            id=id,
            on_complete=on_complete,
            context=context,
            run_after=run_after,
            run_at=run_at,
        )

    def status(self, workflow_id: str) -> Status:
        """See `WorkflowManager.status`."""
        return self._do(self._manager.status, workflow_id)

    def result(self, workflow_id: str, *, timeout: timedelta | float | None = None) -> Any:
        """See `WorkflowManager.result`."""
        return self._do(self._manager.result, workflow_id, timeout=timeout)

    def watch(self, workflow_id: str) -> Generator[Status, None, None]:
        """See `WorkflowManager.watch`; a plain generator."""
        self._be_ready("watch")
        try:
            return self._watch(self._manager._engine, self._manager.watch(workflow_id))
        finally:
            self._end_call()

    def _watch(
        self, engine: Engine | None, changes: AsyncGenerator[Status, None]
    ) -> Generator[Status, None, None]:
        async def following() -> Status | None:
            return await anext(changes, None)

        status: Status | None = None
        try:
            while status is None or isinstance(status, InProgress):
                # Closed with the loop that it lives on, it would end as if there were no more.
                with self._calls_lock:  # whoever wants to close it may wait in vain
                    self._calls_changed.wait_for(lambda: not self._is_leaving)
                if not self._begin_call(engine):
                    raise NotOpen("the manager has been closed")
                try:
                    status = self._call(following())
                finally:
                    self._end_call()
                if status is None:
                    raise NotOpen("the manager has been closed")
                yield status
        finally:
            # Without the loop, which may be gone: there is nothing to wait for at its end.
            with suppress(StopIteration, RuntimeError):
                changes.aclose().send(None)

    def cancel(self, workflow_id: str) -> None:
        """See `WorkflowManager.cancel`."""
        self._do(self._manager.cancel, workflow_id)

    def restart(
        self, workflow_id: str, *, from_step: int | str | Definition[..., Any] | None = None
    ) -> None:
        """See `WorkflowManager.restart`."""
        self._do(self._manager.restart, workflow_id, from_step=from_step)

    def cleanup(self, workflow_id: str, *, force: bool = False) -> bool:
        """See `WorkflowManager.cleanup`."""
        return self._do(self._manager.cleanup, workflow_id, force=force)

    @overload
    def send_event(
        self, event: Event[None], *, workflow_id: str | None = None, id: str | None = None
    ) -> str: ...
    @overload
    def send_event(
        self,
        event: Event[T],
        *,
        workflow_id: str | None = None,
        id: str | None = None,
        value: T,
    ) -> str: ...
    @overload
    def send_event(
        self,
        event: Event[Any],
        *,
        workflow_id: str | None = None,
        id: str | None = None,
        error: str,
    ) -> str: ...
    @overload
    def send_event(
        self,
        event: str | None = None,
        *,
        workflow_id: str | None = None,
        id: str | None = None,
        value: Any = None,
        error: str | None = None,
    ) -> str: ...
    def send_event(
        self,
        event: Event[Any] | str | None = None,
        *,
        workflow_id: str | None = None,
        id: str | None = None,
        value: Any = None,
        error: str | None = None,
    ) -> str:
        """See `WorkflowManager.send_event`."""
        return self._do(
            self._manager._send_event,
            event,
            workflow_id=workflow_id,
            id=id,
            value=value,
            error=error,
        )

    def create_event(self, event: Event[Any] | str, *, workflow_id: str) -> str:
        """See `WorkflowManager.create_event`."""
        return self._do(self._manager.create_event, event, workflow_id=workflow_id)

    def run_query(self, call: QueryCall[R]) -> R:
        """See `WorkflowManager.run_query`."""
        return self._do(self._manager.run_query, call)

    def run_mutation(self, call: MutationCall[R]) -> R:
        """See `WorkflowManager.run_mutation`."""
        return self._do(self._manager.run_mutation, call)

    def list_workflows(
        self,
        *,
        name: str | None = None,
        status: Literal["in_progress", "success", "failed", "canceled"] | None = None,
        blocked: bool | None = None,
        order: Literal["asc", "desc"] = "asc",
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[WorkflowInfo]:
        """See `WorkflowManager.list_workflows`."""
        return self._do(
            self._manager.list_workflows,
            name=name,
            status=status,
            blocked=blocked,
            order=order,
            limit=limit,
            cursor=cursor,
        )

    def list_steps(
        self,
        workflow_id: str,
        *,
        order: Literal["asc", "desc"] = "asc",
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[StepInfo]:
        """See `WorkflowManager.list_steps`."""
        return self._do(
            self._manager.list_steps, workflow_id, order=order, limit=limit, cursor=cursor
        )

    def journal(self, workflow_id: str) -> WorkflowJournal:
        """See `WorkflowManager.journal`."""
        return self._do(self._manager.journal, workflow_id)

    def check(
        self,
        *,
        name: str | None = None,
        progress: Callable[[CheckedWorkflow], object] | None = None,
    ) -> CheckReport:
        """See `WorkflowManager.check`."""
        return self._do(self._manager.check, name=name, progress=progress)

    def config(self) -> Settings:
        """See `WorkflowManager.config`."""
        return self._do(self._manager.config)

    def update_config(self, *, max_parallelism: int | None = None) -> None:
        """See `WorkflowManager.update_config`."""
        self._do(self._manager.update_config, max_parallelism=max_parallelism)

    # --- inside

    def _do(
        self, method: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **options: P.kwargs
    ) -> T:
        while True:
            self._be_ready(method.__name__.removeprefix("_"))
            engine = self._manager._engine
            try:
                return self._call(method(*args, **options))
            except NotOpen as error:
                # Whoever had it open by name has closed it since: this is a first call again.
                if error._has_begun or not self._manager._is_rid_of(engine, self.patience):
                    raise
            finally:
                self._end_call()

    def _be_ready(self, verb: str) -> None:
        """Open the store as a client if nothing is open; refuse what would wait for ever. Until
        `_end_call` it stays open."""
        refuse_inside(verb)  # here: the loop's thread does not know where the caller stands
        refuse_loop(f"sync.{verb}", f"await manager.{verb}(…)")
        self._refuse_fork()
        if self._begin_call(self._manager._engine):
            return
        with self._lock:
            if self._manager._settled() is None:
                self._open_as_client()
            with self._calls_lock:
                self._calls += 1

    def _open_as_client(self) -> None:
        try:
            self._call(self._manager._open(works=False))
        except PerdureError:
            if self._manager._settled() is None:
                raise
            return  # another thread was faster, and opened it by name
        self._opened = self.is_implicit = True

    def _begin_call(self, engine: Engine | None) -> bool:
        """Whether `engine` is what is open; then it is, until `_end_call`."""
        with self._calls_lock:
            is_open = self._manager._engine is engine is not None and not self._is_leaving
            self._calls += is_open
            return is_open

    def _end_call(self) -> None:
        with self._calls_lock:
            self._calls -= 1
            self._calls_changed.notify_all()

    def _refuse_fork(self) -> None:
        """Raise in the child of a fork, which has neither our thread nor whoever held a lock."""
        if self._pid == os.getpid():
            return
        locks = (self._lock, self._loop_lock, self._calls_lock)
        if self._loop is not None or any(lock.locked() for lock in locks):
            raise NotOpen("this manager was used before a fork: make another one in this process")
        self._pid = os.getpid()  # nothing was under way

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop of our thread, and wait for it."""
        with self._loop_lock:  # several threads may make their first call at once
            if self._loop is None:
                own = OwnLoop()
                thread = threading.Thread(target=own.serve, name="perdure-sync", daemon=True)
                thread.start()
                self._loop, self._thread = own.loop, thread
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except CancelledError:
            raise NotOpen("the manager has been closed") from None
        except BaseException:
            future.cancel()  # Ctrl-C: nobody waits for it any more
            raise


def _join(thread: threading.Thread | None) -> None:
    if thread is not None and thread is not threading.current_thread():
        thread.join(JOIN_SECONDS)  # so that nothing runs when the interpreter shuts down
