"""`WorkflowManager`: the one object that users make. It turns calls into requests and waits.

What a call means for a workflow is decided elsewhere: in the transaction that carries it out
(runtime/operations.py), or in the transition (core).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, overload

from perdure.codec import plain
from perdure.core.outcomes import Failed, Outcome, Succeeded
from perdure.core.retry import duration_ms
from perdure.core.workflow import WorkflowHeader
from perdure.definitions import (
    Call,
    Definition,
    Mutation,
    MutationCall,
    Query,
    QueryCall,
    Workflow,
    WorkflowCall,
)
from perdure.errors import (
    NotOpen,
    StoreReadOnly,
    StoreUnavailable,
    WorkflowCanceled,
    WorkflowFailed,
    not_begun,
)
from perdure.events import Event
from perdure.inspecting import InspectedManager
from perdure.records import Settings, Status
from perdure.runtime import orders, requests
from perdure.runtime.bridge import bridge_of
from perdure.runtime.contexts import MutationContext
from perdure.runtime.engine import BUSY_SECONDS
from perdure.runtime.inside import refuse_inside
from perdure.runtime.over import OverContext
from perdure.runtime.statuses import read_state, read_status
from perdure.runtime.verbs import Verbs
from perdure.runtime.watching import watch
from perdure.store.base import Reader

if TYPE_CHECKING:
    import sqlite3

    import psycopg

    from perdure.sync import SyncManager

#: How long a read waits until it is tried again while the server is away, at first and at most, in
#: seconds.
READ_PAUSE = 0.1
READ_PAUSE_MAX = 2.0

T = TypeVar("T")
R = TypeVar("R")


class WorkflowManager(InspectedManager):
    """Defines workflows, runs them, and answers about them.

    Making one does no I/O. Open it with ``async with manager:`` (runs a worker in this process),
    ``async with manager.client():`` (some other process works), ``with manager.sync:`` (for code
    without a loop), or ``manager.run()`` (a worker process).

    Each call may also raise `NotOpen` (the manager is not open here), `CalledInside` (the caller
    is a handler, a mutation or a query) and `StoreError` (`StoreBusy` when the database could not
    be written to for 30 seconds; nothing was done).

    Args:
        store: path of an SQLite file (text or a `Path`), ``"sqlite:///path"``, or ``":memory:"``.
        max_parallelism: running action attempts over all workers of the store: the initial value
            of the stored setting (100 if it is never given); later see `update_config`.
        retry_actions_by_default: whether actions without a policy of their own are retried.
        default_retry: the policy that ``retry=True`` means.
        limits: sizes of values and journals.
        durability: "disk" survives a power loss, "process" only a crash of the process.
        drain_timeout: how long running attempts may go on when the worker is stopped, a
            timedelta or seconds.

    Raises:
        ValueError, TypeError: an option makes no sense.
    """

    _sync: SyncManager | None = None

    @property
    def sync(self) -> SyncManager:
        """The same calls, blocking, for code without an asyncio loop."""
        with self._lock:  # one for all threads, whoever asks first
            if self._sync is None:
                from perdure.sync import SyncManager

                self._sync = SyncManager(self)
            return self._sync

    @property
    def _aside(self) -> Callable[[Callable[[], None]], None] | None:
        return None if self._sync is None else self._sync.step_aside

    @property
    def _verbs(self) -> Verbs:
        return self

    # --- starting and managing ----------------------------------------------------------------

    async def start(
        self,
        call: WorkflowCall[Any],
        *,
        id: str | None = None,
        on_complete: Mutation[..., Any] | None = None,
        context: Any = None,
        run_after: timedelta | float | None = None,
        run_at: datetime | None = None,
    ) -> str:
        """Start a workflow; it is stored when this returns.

        Args:
            call: of a workflow.
            id: makes the start idempotent: the same id with the same call starts nothing new.
            on_complete: a mutation ``(ctx, workflow_id, outcome, context)``, run once, in the
                transaction that ends the workflow. A `Succeeded` outcome holds the plain JSON
                value, whatever the workflow returns: see `Succeeded`. What it returns is dropped,
                and is not compared with its annotation.
            context: a value for `on_complete`, kept with the workflow.
            run_after: delay, a timedelta or seconds.
            run_at: start time, a datetime with a time zone.

        Returns:
            The workflow's id.

        Raises:
            WorkflowIdConflict: the id belongs to another call.
            DefinitionError: the parameters of `on_complete` are not those of one, or it is not
                registered here; nothing was stored.
            ValidationError, LimitExceeded, TypeError, ValueError: nothing was stored.
        """
        refuse_inside("start")
        order = orders.start_order(
            self._env,
            call,
            now=self._env.clock.now_ms(),
            id=id,
            on_complete=on_complete,
            context=context,
            run_after=run_after,
            run_at=run_at,
        )
        workflow_id: str = await self._ask(order)
        return workflow_id

    async def status(self, workflow_id: str) -> Status:
        """How a workflow stands: `InProgress`, `Succeeded`, `Failed` or `Canceled`.

        Args:
            workflow_id: as `start` gave it.

        Returns:
            The status. Values in it are plain JSON values; `result` gives the workflow's as its
            return annotation says.

        Raises:
            WorkflowNotFound: no workflow has this id.
        """
        refuse_inside("status")
        orders.checked_id(workflow_id)
        return await self._read(partial(read_status, workflow_id=workflow_id))

    async def result(self, workflow_id: str, *, timeout: timedelta | float | None = None) -> Any:
        """Wait for a workflow to end and give its result.

        Args:
            workflow_id: as `start` gave it.
            timeout: how long to wait, a timedelta or seconds; None for as long as it takes.

        Returns:
            What the workflow returned, as its return annotation says; a plain JSON value if this
            manager does not define the workflow.

        Raises:
            WorkflowFailed, WorkflowCanceled: it did not succeed.
            WorkflowNotFound: no workflow has this id, or another process has deleted it before
                its outcome was read here.
            TimeoutError: it has not ended in time; it goes on.
        """
        refuse_inside("result")
        orders.checked_id(workflow_id)
        seconds = None if timeout is None else duration_ms(timeout, "timeout") / 1000
        engine = self._open_one()
        loop = asyncio.get_running_loop()
        bridge = bridge_of(loop)
        future: asyncio.Future[Outcome] = loop.create_future()

        def waiter(outcome: Outcome | None, error: BaseException | None) -> None:
            bridge.call(_settle, future, outcome, error)

        engine.waiters.add(workflow_id, waiter)
        try:
            # After the waiter was set: what ends from now on is told, what ended before is seen.
            header, outcome = engine.holds(workflow_id), None
            if header is None:
                state = await self._read(partial(read_state, workflow_id=workflow_id))
                header, outcome = state.header, state.outcome
            if outcome is None:
                try:
                    async with asyncio.timeout(seconds):
                        outcome = await future
                except TimeoutError:
                    text = f"workflow {workflow_id!r} has not ended within {seconds} s"
                    raise TimeoutError(text) from None
        finally:
            engine.waiters.discard(workflow_id, waiter)
            future.cancel()  # should it be told all the same, nobody would take that up
        return self._value(header, outcome)

    def _value(self, header: WorkflowHeader, outcome: Outcome) -> Any:
        workflow_id, name = header.workflow_id, header.name
        if isinstance(outcome, Succeeded):
            definition = self.registry.get(name)
            if isinstance(definition, Workflow):
                return definition.result.decode(outcome.value, where=f"result of {name}")
            return plain(outcome.value)
        if isinstance(outcome, Failed):
            error = outcome.error
            text = f"workflow {name} ({workflow_id}) failed: {error.type}: {error.message}"
            raise WorkflowFailed(text, workflow_id=workflow_id, error=error)
        text = f"workflow {name} ({workflow_id}) was canceled"
        raise WorkflowCanceled(text, workflow_id=workflow_id)

    def watch(self, workflow_id: str) -> AsyncGenerator[Status, None]:
        """Each change of a workflow's status, the present one first, the last one at its end.

        ``async for status in manager.watch(workflow_id): ...``. A change is whatever makes a status
        differ from the one before, also within `InProgress`: a step that begins or ends, a further
        attempt, code that does not fit. Whoever is slow gets the newest, not each in between.
        The last one is given also of a workflow that was deleted meanwhile, if this process did
        that: `cleanup` with ``force=True`` cancels first.

        Args:
            workflow_id: as `start` gave it.

        Raises:
            WorkflowNotFound: there is no such workflow, or another process has deleted it before
                its last status was read here.
            NotOpen: the manager is not open, or was closed meanwhile.
        """
        refuse_inside("watch")
        orders.checked_id(workflow_id)
        engine = self._open_one()
        return watch(engine, workflow_id, lambda: self.status(workflow_id))

    async def cancel(self, workflow_id: str) -> None:
        """Cancel a workflow and its children, whoever owns them; done when this returns.

        Args:
            workflow_id: as `start` gave it.

        Raises:
            WorkflowNotFound: no workflow has this id.
            WorkflowNotRunning: it has ended already.
            DefinitionError: this process does not know the workflow's `on_complete`.
        """
        refuse_inside("cancel")
        await self._ask(requests.Cancel(orders.checked_id(workflow_id)))

    async def restart(
        self, workflow_id: str, *, from_step: int | str | Definition[..., Any] | None = None
    ) -> None:
        """Have a workflow that has ended run again; it goes on as soon as a worker takes it up.

        So may one that is blocked: what it still runs is canceled, and it has no end in between.

        Without `from_step` every outcome is kept, failures too, and steps that had none are asked
        for again: that is for mended code, and to go on with what was canceled. Attempts are
        counted anew, and a step keeps its idempotency key. `on_complete` runs again at the end.

        Args:
            workflow_id: which workflow.
            from_step: run this step and all after it anew: its number, a name (the last step of
                that name), or the definition that it ran, not called.

        Raises:
            WorkflowNotFound, WorkflowRunning, StepNotFound
        """
        refuse_inside("restart")
        await self._ask(orders.restart_order(workflow_id, from_step))

    async def cleanup(self, workflow_id: str, *, force: bool = False) -> bool:
        """Delete a workflow that has ended, with its steps, its events, and its children.

        Args:
            workflow_id: which workflow.
            force: cancel it first, if it runs.

        Returns:
            Whether it was deleted: False if there is none, or if it runs and `force` is not given.

        Raises:
            DefinitionError: it runs, and this process does not know its `on_complete`.
        """
        refuse_inside("cleanup")
        is_deleted: bool = await self._ask(orders.cleanup_order(workflow_id, force))
        return is_deleted

    # --- events -------------------------------------------------------------------------------

    @overload
    async def send_event(
        self, event: Event[None], *, workflow_id: str | None = None, id: str | None = None
    ) -> str: ...
    @overload
    async def send_event(
        self,
        event: Event[T],
        *,
        workflow_id: str | None = None,
        id: str | None = None,
        value: T,
    ) -> str: ...
    @overload
    async def send_event(
        self,
        event: Event[Any],
        *,
        workflow_id: str | None = None,
        id: str | None = None,
        error: str,
    ) -> str: ...
    @overload
    async def send_event(
        self,
        event: str | None = None,
        *,
        workflow_id: str | None = None,
        id: str | None = None,
        value: Any = None,
        error: str | None = None,
    ) -> str: ...
    async def send_event(
        self,
        event: Event[Any] | str | None = None,
        *,
        workflow_id: str | None = None,
        id: str | None = None,
        value: Any = None,
        error: str | None = None,
    ) -> str:
        """Send an event to a workflow; it is kept until the workflow consumes it.

        Args:
            event: from `define_event`, or a plain name. It goes to the await that waits longest,
                else to the oldest created event of that name, else it makes one.
            workflow_id: to whom; may be left out with `id`.
            id: of an event that `create_event` made: exactly that one is sent.
            value: the payload, checked against the event's type.
            error: instead of a value: the await raises `StepFailed` with this text.

        Returns:
            The event's id.

        Raises:
            WorkflowNotFound: there is none, to send to by name.
            EventNotFound: no event has the id, or it is not of this name or this workflow.
            EventAlreadySent: the event with this id was sent before.
            ValidationError, LimitExceeded, TypeError, ValueError: nothing was stored.
        """
        return await self._send_event(
            event, workflow_id=workflow_id, id=id, value=value, error=error
        )

    async def _send_event(
        self,
        event: Event[Any] | str | None,
        *,
        workflow_id: str | None,
        id: str | None,
        value: Any,
        error: str | None,
    ) -> str:
        refuse_inside("send_event")
        order = orders.event_order(
            self._env, event, workflow_id=workflow_id, id=id, value=value, error=error
        )
        event_id: str = await self._ask(order)
        return event_id

    async def create_event(self, event: Event[Any] | str, *, workflow_id: str) -> str:
        """Create an event that a workflow can await, and anyone can send, by its id.

        Args:
            event: from `define_event`, or a plain name.
            workflow_id: whose event it is: no other workflow can await it.

        Returns:
            The event's id, for `send_event` and `Step.await_event`.

        Raises:
            WorkflowNotFound, LimitExceeded, TypeError, ValueError: nothing was stored.
        """
        refuse_inside("create_event")
        event_id: str = await self._ask(
            orders.create_order(self._env, event, workflow_id=workflow_id)
        )
        return event_id

    # --- functions ----------------------------------------------------------------------------

    async def run_query(self, call: QueryCall[R]) -> R:
        """Run a query in a read-only transaction of its own.

        Args:
            call: of a query.

        Raises:
            Exception: whatever the query raises.
        """
        return await self._run_function(call, Query, "run_query")

    async def run_mutation(self, call: MutationCall[R]) -> R:
        """Run a mutation in a transaction of its own; twice if the answer to its commit is lost.

        Args:
            call: of a mutation.

        Raises:
            Exception: whatever the mutation raises; then nothing was written.
        """
        return await self._run_function(call, Mutation, "run_mutation")

    async def _run_function(self, call: Call[R], kind: Any, verb: str) -> R:
        refuse_inside(verb)
        definition = orders.checked_call(call, kind, f"manager.{verb}", self.registry)
        arguments = call.encode(self._env.limits.value_bytes)
        text = await self._ask(requests.RunFunction(definition, arguments))
        result: R = definition.result.decode(text, where=f"result of {definition.name}")
        return result

    def over(self, connection: sqlite3.Connection | psycopg.Connection[Any]) -> MutationContext:
        """The verbs of a mutation, over a transaction that you opened on the same database.

        What they do is stored when you commit, together with your own writes, or not at all; a verb
        that raises leaves your transaction as it was before. Workers see it within moments of the
        commit. The manager need not be open. Use the context in the connection's own thread, and
        until you commit.

        Args:
            connection: to the manager's database, inside a transaction. If none is open, and
                `sqlite3` would open one at your first write, it is opened now (BEGIN IMMEDIATE);
                with psycopg likewise, unless the connection is in autocommit mode.

        Raises:
            ConnectionMisuse: no transaction is open, or it is a connection to another database, is
                closed, or belongs to another thread.
            StoreError: the database is in trouble.
        """
        refuse_inside("over")
        store = self._make_store()
        own: Any = connection  # each store checks that it is of its own kind
        return OverContext(self._env, store.guest(own, max_parallelism=self._max_parallelism))

    # --- settings -----------------------------------------------------------------------------

    async def config(self) -> Settings:
        """The settings that all workers of the store share."""
        stored = await self._read(lambda reader: reader.config())
        return Settings(max_parallelism=stored.max_parallelism)

    async def update_config(self, *, max_parallelism: int | None = None) -> None:
        """Change the shared settings; all workers follow at once.

        Args:
            max_parallelism: running action attempts over all workers, 0 to 100,000. 0 pauses:
                no action starts, and no query or mutation that is not inline.
        """
        refuse_inside("update_config")
        self._open_one()
        if max_parallelism is not None:
            orders.check_parallelism(max_parallelism)
            await self._ask(requests.UpdateConfig(max_parallelism))

    # --- inside -------------------------------------------------------------------------------

    async def _ask(self, request: Any) -> Any:
        """Have the engine carry out a request, in the transaction of its next turn."""
        engine = self._open_one()
        opening = self._opening
        if opening is not None and opening.access == "read":
            # Here, because an engine tries for ever to write into a store that is in trouble.
            raise StoreReadOnly(f"{self!r} was opened to be read: open it with access='write'")
        loop = asyncio.get_running_loop()
        bridge = bridge_of(loop)
        future: asyncio.Future[Any] = loop.create_future()

        def answer(value: Any, error: BaseException | None) -> None:
            bridge.call(_settle, future, value, error)

        engine.submit(request, answer)
        return await future

    async def _read(self, fn: Callable[[Reader], T]) -> T:
        """Read committed rows: here and now, or through the engine where that is the only way.

        Raises:
            StoreUnavailable: the server was away for as long as a call waits.
        """
        refuse_inside("status")
        engine = self._open_one()
        if engine.store.reads_need_engine:
            value: T = await self._ask(requests.Read(fn))
            return value
        clock = engine.clock
        until, pause = clock.monotonic() + BUSY_SECONDS, READ_PAUSE
        while True:
            try:
                return fn(engine.store.reader())
            except StoreUnavailable:
                if clock.monotonic() + pause > until:
                    raise
            except NotOpen as error:
                raise not_begun(str(error)) from None
            await asyncio.sleep(pause)
            pause = min(2 * pause, READ_PAUSE_MAX)


def _settle(future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if future.done():
        return  # the caller was cancelled; what it asked for may have happened all the same
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
