"""`WorkflowManager`: the one object that users make. It turns calls into requests and waits.

What a call means for a workflow is decided elsewhere: in the transaction that carries it out
(runtime/operations.py), or in the transition (core).
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

import attrs

from perdure.codec import plain
from perdure.core.limits import Limits
from perdure.core.outcomes import Failed, Outcome, Succeeded
from perdure.core.retry import RetryPolicy, duration_ms
from perdure.core.workflow import WorkflowHeader, WorkflowState
from perdure.definitions import Call, Definer, Mutation, Query, Workflow
from perdure.determinism import install
from perdure.errors import (
    NotOpen,
    PerdureError,
    StoreUnsupported,
    WorkflowCanceled,
    WorkflowFailed,
)
from perdure.events import Event
from perdure.records import Page, Settings, Status, StepInfo, WorkflowInfo
from perdure.runtime import orders, requests
from perdure.runtime.bridge import bridge_of
from perdure.runtime.clock import RealClock
from perdure.runtime.contexts import make_context
from perdure.runtime.engine import Engine, LoopEngine, ThreadEngine
from perdure.runtime.inside import refuse_inside
from perdure.runtime.loops import OwnLoop, refuse_loop
from perdure.runtime.operations import not_found
from perdure.runtime.scope import Env
from perdure.runtime.views import status_of, step_info, workflow_info
from perdure.step import StepRules
from perdure.store.base import Reader, Store, WorkflowFilter
from perdure.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from perdure.sync import SyncManager

T = TypeVar("T")
R = TypeVar("R")

Durability = Literal["disk", "process"]


@attrs.define(eq=False)
class Opening:
    """One opening of a manager, from its beginning until what it opened is closed.

    Attributes:
        is_under_way: a thread opens the store.
        is_given_up: nobody wants any more what is opened.
    """

    is_under_way: bool = False
    is_given_up: bool = False


class WorkflowManager(Definer):
    """Defines workflows, runs them, and answers about them.

    Making one does no I/O. Open it with ``async with manager:`` (runs a worker in this process),
    ``async with manager.client():`` (some other process works), ``with manager.sync:`` (for code
    without a loop), or ``manager.run()`` (a worker process).

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

    def __init__(
        self,
        store: str | os.PathLike[str],
        *,
        max_parallelism: int | None = None,
        retry_actions_by_default: bool = False,
        default_retry: RetryPolicy = RetryPolicy(),
        limits: Limits = Limits(),
        durability: Durability = "disk",
        drain_timeout: timedelta | float = 30,
    ) -> None:
        super().__init__()
        if max_parallelism is not None:
            orders.check_parallelism(max_parallelism)
        if not isinstance(retry_actions_by_default, bool):
            raise TypeError(
                f"retry_actions_by_default={retry_actions_by_default!r}: give True or False"
            )
        if not isinstance(default_retry, RetryPolicy):
            raise TypeError(f"default_retry={default_retry!r}: give a RetryPolicy")
        if not isinstance(limits, Limits):
            raise TypeError(f"limits={limits!r}: give Limits(…)")
        self.store_url = os.fspath(store) if isinstance(store, os.PathLike) else store
        self._durability = durability
        self._make_store()  # refuse a bad address here, not when it is opened
        self._max_parallelism = max_parallelism
        self._drain_seconds = duration_ms(drain_timeout, "drain_timeout") / 1000
        rules = StepRules(
            registry=self.registry,
            limits=limits,
            default_retry=default_retry,
            retry_actions_by_default=retry_actions_by_default,
        )
        self._env = Env(rules=rules, clock=RealClock(), make_context=make_context)
        self._engine: Engine | None = None
        self._opening: Opening | None = None
        self._lock = threading.Lock()
        self._sync: SyncManager | None = None
        self._sync_lock = threading.Lock()

    def _make_store(self) -> Store:
        address = self.store_url
        if not isinstance(address, str) or not address:
            raise TypeError(f"store={address!r}: give the path of an SQLite file")
        if address.startswith(("postgresql://", "postgres://")):
            raise StoreUnsupported(f"store={address!r}: PostgreSQL is not supported yet")
        path = address.removeprefix("sqlite:///")
        if not path or "://" in path:
            raise ValueError(f"store={address!r}: give a path, 'sqlite:///path' or ':memory:'")
        return SqliteStore(path, durability=self._durability)

    def __repr__(self) -> str:
        return f"<WorkflowManager of {self.store_url!r}>"

    # --- opening ------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Open the store and run a worker inside this process."""
        await self._open(works=True)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Drain the worker and close the store."""
        await self._close()

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Self]:
        """Open the store only: start, send, read and cancel, while other processes work."""
        await self._open(works=False)
        try:
            yield self
        finally:
            await self._close()

    async def _open(self, *, works: bool) -> None:
        refuse_inside("open")
        opening = self._reserve()
        try:
            engine = ThreadEngine(
                self._env,
                self._make_store(),
                works=works,
                bridge=bridge_of(asyncio.get_running_loop()),
                verbs=self,
                drain_seconds=self._drain_seconds,
            )
            await asyncio.to_thread(self._open_engine, engine, opening)
        except BaseException:
            self._give_up(opening)
            raise

    def _reserve(self) -> Opening:
        """Only one opens, and stays open: whoever comes first."""
        with self._lock:
            if self._opening is not None:
                raise PerdureError(f"{self!r} is open already")
            self._opening = opening = Opening()
            return opening

    def _free(self, opening: Opening) -> None:
        with self._lock:
            if self._opening is opening:
                self._opening = self._engine = None

    def _open_engine(self, engine: ThreadEngine, opening: Opening) -> None:
        """In a thread, which runs on when the caller is cancelled meanwhile."""
        with self._lock:
            if opening.is_given_up:
                return
            opening.is_under_way = True
        try:
            install()
            engine.open(max_parallelism=self._max_parallelism)
        except BaseException:
            self._free(opening)
            raise
        with self._lock:
            opening.is_under_way = False
            is_wanted = not opening.is_given_up
            if is_wanted:
                self._engine = engine
        if not is_wanted:
            engine.stop()
            self._join(engine, opening)

    def _give_up(self, opening: Opening) -> None:
        """An opening has failed or was cancelled: nothing of it stays open."""
        with self._lock:
            opening.is_given_up = True
            if opening.is_under_way:
                return  # its thread will close what it opens
            engine = self._engine if self._opening is opening else None
        if isinstance(engine, ThreadEngine):
            engine.stop()
            ending = partial(self._join, engine, opening)
            threading.Thread(target=ending, name="perdure-closing", daemon=True).start()
        else:
            self._free(opening)

    def _join(self, engine: ThreadEngine, opening: Opening) -> None:
        try:
            engine.join()
        finally:
            self._free(opening)

    async def _close(self) -> None:
        engine, opening = self._engine, self._opening
        if isinstance(engine, ThreadEngine) and opening is not None:
            engine.stop()
            # In the background, so that actions can end on this loop meanwhile; they may use the
            # manager until then.
            await asyncio.to_thread(self._join, engine, opening)

    def run(self, *, until_idle: bool = False) -> None:
        """Work, in this thread, until SIGTERM or SIGINT; then drain.

        Args:
            until_idle: return as soon as nothing runs, is ready, or waits for a time. (Retries and
                sleeps are work to do; waiting for events, or for code that fits, is not.)

        Raises:
            StoreError: the store cannot be opened.
            PerdureError: the manager is open already, or the engine failed.
        """
        refuse_inside("run")
        refuse_loop("run", "use `async with manager:`")
        opening = self._reserve()
        try:
            install()
            OwnLoop().run(self._run(until_idle))
        finally:
            self._free(opening)

    async def _run(self, until_idle: bool) -> None:
        loop = asyncio.get_running_loop()
        engine = LoopEngine(
            self._env,
            self._make_store(),
            works=True,
            bridge=bridge_of(loop),
            verbs=self,
            drain_seconds=self._drain_seconds,
        )
        engine.attach(loop)
        signals = (signal.SIGTERM, signal.SIGINT)
        if threading.current_thread() is threading.main_thread():
            for number in signals:
                with suppress(NotImplementedError):  # Windows
                    loop.add_signal_handler(number, engine.stop)
        self._engine = engine
        await engine.run(max_parallelism=self._max_parallelism, until_idle=until_idle)

    @property
    def sync(self) -> SyncManager:
        """The same calls, blocking, for code without an asyncio loop."""
        with self._sync_lock:  # one for all threads, whoever asks first
            if self._sync is None:
                from perdure.sync import SyncManager

                self._sync = SyncManager(self)
            return self._sync

    # --- starting and managing ----------------------------------------------------------------

    async def start(
        self,
        call: Call[Any],
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
                transaction that ends the workflow.
            context: a value for `on_complete`, kept with the workflow.
            run_after: delay, a timedelta or seconds.
            run_at: start time, a datetime with a time zone.

        Returns:
            The workflow's id.

        Raises:
            WorkflowIdConflict: the id belongs to another call.
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

        Raises:
            WorkflowNotFound
        """
        refuse_inside("status")
        orders.checked_id(workflow_id)

        def read(reader: Reader) -> Status:
            state = _state(reader, workflow_id)
            running: tuple[StepInfo, ...] = ()
            if state.outcome is None:
                records = reader.open_steps(workflow_id)
                running = tuple(step_info(workflow_id, record) for record in records)
            return status_of(state, running)

        return await self._read(read)

    async def result(self, workflow_id: str, *, timeout: timedelta | float | None = None) -> Any:
        """Wait for a workflow to end and give its result.

        Args:
            timeout: a timedelta or seconds.

        Raises:
            WorkflowFailed, WorkflowCanceled: it did not succeed.
            WorkflowNotFound, TimeoutError
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
                state = await self._read(lambda reader: _state(reader, workflow_id))
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

    async def cancel(self, workflow_id: str) -> None:
        """Cancel a workflow and its children, whoever owns them; done when this returns.

        Raises:
            WorkflowNotFound, WorkflowNotRunning
            DefinitionError: this process does not know the workflow's `on_complete`.
        """
        refuse_inside("cancel")
        await self._ask(requests.Cancel(orders.checked_id(workflow_id)))

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
            event: from `define_event`, or a plain name.
            workflow_id: to whom.
            id: of an event that was made before.
            value: the payload, checked against the event's type.
            error: instead of a value: the await raises `StepFailed` with this text.

        Returns:
            The event's id.

        Raises:
            WorkflowNotFound, EventNotFound, EventAlreadySent, ValidationError, LimitExceeded
        """
        refuse_inside("send_event")
        order = orders.event_order(
            self._env, event, workflow_id=workflow_id, id=id, value=value, error=error
        )
        event_id: str = await self._ask(order)
        return event_id

    async def run_query(self, call: Call[R]) -> R:
        """Run a query in a transaction of its own; what it raises is raised here."""
        return await self._run_function(call, Query, "run_query")

    async def run_mutation(self, call: Call[R]) -> R:
        """Run a mutation in a transaction of its own; if it raises, nothing is written."""
        return await self._run_function(call, Mutation, "run_mutation")

    async def _run_function(self, call: Call[R], kind: Any, verb: str) -> R:
        refuse_inside(verb)
        definition = orders.checked_call(call, kind, f"manager.{verb}", self.registry)
        arguments = call.encode(self._env.limits.value_bytes)
        text = await self._ask(requests.RunFunction(definition, arguments))
        result: R = definition.result.decode(text, where=f"result of {definition.name}")
        return result

    # --- reading ------------------------------------------------------------------------------

    async def list_workflows(
        self,
        *,
        name: str | None = None,
        status: Literal["in_progress", "success", "failed", "canceled"] | None = None,
        order: Literal["asc", "desc"] = "asc",
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[WorkflowInfo]:
        """Workflows in order of creation, a page at a time.

        Args:
            name: of the workflow definition.
            status: only those with it.
            order: "asc" for the oldest first.
            limit: items of a page, 1 to 1,000.
            cursor: of the page before.
        """
        if status not in (None, "in_progress", "success", "failed", "canceled"):
            raise ValueError(
                f"status={status!r}: give 'in_progress', 'success', 'failed' or 'canceled'"
            )
        is_ascending, after = orders.check_page(order, limit, cursor)
        which = WorkflowFilter(
            name=orders.checked_filter(name),
            status=status,
            is_ascending=is_ascending,
            limit=limit + 1,
            after=after,
        )
        rows = await self._read(lambda reader: reader.list_workflows(which))
        items = [workflow_info(state) for _, state in rows[:limit]]
        is_done = len(rows) <= limit
        last = str(rows[limit - 1][0]) if not is_done else None
        return Page(items=items, cursor=last, is_done=is_done)

    async def list_steps(
        self,
        workflow_id: str,
        *,
        order: Literal["asc", "desc"] = "asc",
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[StepInfo]:
        """The steps of a workflow by number, a page at a time; an unknown id has none."""
        orders.checked_id(workflow_id)
        is_ascending, after = orders.check_page(order, limit, cursor)
        records = await self._read(
            lambda reader: reader.list_steps(
                workflow_id, is_ascending=is_ascending, limit=limit + 1, after=after
            )
        )
        items = [step_info(workflow_id, record) for record in records[:limit]]
        is_done = len(records) <= limit
        last = str(items[-1].number) if not is_done else None
        return Page(items=items, cursor=last, is_done=is_done)

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
        if max_parallelism is not None:
            orders.check_parallelism(max_parallelism)
            await self._ask(requests.UpdateConfig(max_parallelism))

    # --- inside -------------------------------------------------------------------------------

    def _open_one(self) -> Engine:
        engine = self._engine
        if engine is None:
            raise NotOpen(
                f"{self!r} is not open: use `async with manager:` or `async with"
                " manager.client():`, or, without a loop, manager.sync"
            )
        engine.check()
        return engine

    async def _ask(self, request: Any) -> Any:
        """Have the engine carry out a request, in the transaction of its next turn."""
        engine = self._open_one()
        loop = asyncio.get_running_loop()
        bridge = bridge_of(loop)
        future: asyncio.Future[Any] = loop.create_future()

        def answer(value: Any, error: BaseException | None) -> None:
            bridge.call(_settle, future, value, error)

        engine.submit(request, answer)
        return await future

    async def _read(self, fn: Callable[[Reader], T]) -> T:
        """Read committed rows: here and now, or through the engine where that is the only way."""
        refuse_inside("status")
        engine = self._open_one()
        if engine.store.reads_need_engine:
            value: T = await self._ask(requests.Read(fn))
            return value
        return fn(engine.store.reader())


def _settle(future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if future.done():
        return  # the caller was cancelled; what it asked for may have happened all the same
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)


def _state(reader: Reader, workflow_id: str) -> WorkflowState:
    states = reader.states([workflow_id])
    if not states:
        raise not_found(workflow_id)
    return states[0]
