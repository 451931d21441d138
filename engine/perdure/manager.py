"""`WorkflowManager`: the one object that users make. It turns calls into requests and waits.

What a call means for a workflow is decided elsewhere: in the transaction that carries it out
(runtime/operations.py), or in the transition (core).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from perdure.checking import CheckedWorkflow, Checker, CheckReport, check_all
from perdure.codec import plain
from perdure.core.outcomes import Failed, Outcome, Succeeded
from perdure.core.retry import duration_ms
from perdure.core.workflow import WorkflowHeader, WorkflowState
from perdure.definitions import Call, Mutation, Query, Workflow
from perdure.errors import (
    StoreReadOnly,
    WorkflowCanceled,
    WorkflowFailed,
)
from perdure.events import Event
from perdure.journals import WorkflowJournal
from perdure.opening import OpenManager
from perdure.records import Page, Settings, Status, StepInfo, WorkflowInfo
from perdure.runtime import orders, requests
from perdure.runtime.bridge import bridge_of
from perdure.runtime.contexts import Verbs
from perdure.runtime.inside import refuse_inside
from perdure.runtime.loops import refuse_loop
from perdure.runtime.operations import not_found
from perdure.runtime.views import status_of, step_info, workflow_info
from perdure.store.base import Loaded, Reader, WorkflowFilter

if TYPE_CHECKING:
    from perdure.sync import SyncManager

T = TypeVar("T")
R = TypeVar("R")


class WorkflowManager(OpenManager):
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
    def _verbs(self) -> Verbs:
        return self

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
        blocked: bool | None = None,
        order: Literal["asc", "desc"] = "asc",
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[WorkflowInfo]:
        """Workflows in order of creation, a page at a time.

        Args:
            name: of the workflow definition.
            status: only those with it.
            blocked: only those whose code does not fit their journal; False for all others.
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
            is_blocked=orders.checked_flag(blocked, "blocked"),
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

    async def journal(self, workflow_id: str) -> WorkflowJournal:
        """All that is recorded of a workflow, as of one moment.

        Raises:
            WorkflowNotFound
        """
        refuse_inside("journal")
        orders.checked_id(workflow_id)
        loaded = await self._read(lambda reader: reader.load([workflow_id]))
        if not loaded:
            raise not_found(workflow_id)
        return WorkflowJournal(loaded[0])

    async def check(
        self,
        *,
        name: str | None = None,
        progress: Callable[[CheckedWorkflow], object] | None = None,
    ) -> CheckReport:
        """Replay every unfinished workflow of the store against this process's code.

        It changes nothing and runs no step, so it may look at a store in use: open the manager
        with ``client(access="read")``. Blocked workflows are checked as well.

        Args:
            name: only workflows of this definition.
            progress: called after each workflow, in another thread.
        """
        refuse_inside("check")
        checker = Checker(self._env.rules, name=orders.checked_filter(name))
        after: int | None = None
        while True:
            which = WorkflowFilter(name=name, status="in_progress", after=after)
            rows = await self._read(partial(_list, which))
            for sequence, state in rows:
                after = sequence
                loaded = await self._read(partial(_load, state.workflow_id))
                if not loaded or loaded[0].state.outcome is not None:
                    continue  # it has ended meanwhile
                # In a thread: a replay needs one in which no loop runs, and may take a while.
                checked = await asyncio.to_thread(checker.check, WorkflowJournal(loaded[0]))
                if progress is not None:
                    await asyncio.to_thread(progress, checked)
            if len(rows) < which.limit:
                return checker.report()

    def check_journals(
        self,
        journals: Iterable[WorkflowJournal],
        *,
        progress: Callable[[CheckedWorkflow], object] | None = None,
    ) -> CheckReport:
        """Replay journals, such as `load_journals` gives, against this process's code.

        No store is needed, so this may run where production's cannot be reached. A journal of a
        workflow that has ended must lead to the same end.

        Args:
            progress: called after each of them.
        """
        refuse_inside("check_journals")
        refuse_loop("check_journals", "await asyncio.to_thread(manager.check_journals, …)")
        return check_all(self._env.rules, journals, progress)

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


def _list(which: WorkflowFilter, reader: Reader) -> list[tuple[int, WorkflowState]]:
    return reader.list_workflows(which)


def _load(workflow_id: str, reader: Reader) -> list[Loaded]:
    return reader.load([workflow_id])


def _state(reader: Reader, workflow_id: str) -> WorkflowState:
    states = reader.states([workflow_id])
    if not states:
        raise not_found(workflow_id)
    return states[0]
