"""What functions get as their first argument: the contexts of queries, mutations and actions."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, TypeVar, overload

from perdure.definitions import Definition, Mutation, MutationCall, QueryCall, WorkflowCall
from perdure.errors import PerdureError
from perdure.events import Event
from perdure.records import Status

from . import event_operations, operations, orders, restarts
from .scope import Scope
from .verbs import SyncVerbs, Verbs

T = TypeVar("T")
R = TypeVar("R")


class _TransactionContext:
    """A context over an open transaction; it is of no use after its function has ended."""

    def __init__(self, scope: Scope) -> None:
        self._open_scope: Scope | None = scope

    @property
    def _scope(self) -> Scope:
        if self._open_scope is None:
            raise PerdureError("the context was used after its function had ended")
        return self._open_scope

    def close(self) -> None:
        """The function has ended."""
        self._open_scope = None

    @property
    def db(self) -> Any:
        """The store's own connection, inside the open transaction: an `sqlite3.Connection`, or, on
        PostgreSQL, a `psycopg.Connection`.

        The transaction is the engine's: it is committed together with the step, and carries
        other workflows' writes too. Raise an exception to undo what the function wrote.
        """
        return self._scope.tx.db


class QueryContext(_TransactionContext):
    """The context of a query: `db` is read-only."""


class MutationContext(_TransactionContext):
    """The context of a mutation: the database, and the manager's verbs.

    The verbs take part in the transaction: if the mutation fails, none of it happened.
    """

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
        """Start a workflow with this transaction; see `WorkflowManager.start`."""
        scope = self._scope
        order = orders.start_order(
            scope.env,
            call,
            now=scope.now,
            id=id,
            on_complete=on_complete,
            context=context,
            run_after=run_after,
            run_at=run_at,
        )
        return self._do(lambda: operations.start(scope, order))

    def cancel(self, workflow_id: str) -> None:
        """Cancel a workflow with this transaction; see `WorkflowManager.cancel`."""
        scope = self._scope
        self._do(lambda: operations.cancel(scope, orders.checked_id(workflow_id)))

    def restart(
        self, workflow_id: str, *, from_step: int | str | Definition[..., Any] | None = None
    ) -> None:
        """Restart a workflow with this transaction; see `WorkflowManager.restart`."""
        scope, order = self._scope, orders.restart_order(workflow_id, from_step)
        self._do(lambda: restarts.restart(scope, order))

    def cleanup(self, workflow_id: str, *, force: bool = False) -> bool:
        """Delete a workflow with this transaction; see `WorkflowManager.cleanup`."""
        scope, order = self._scope, orders.cleanup_order(workflow_id, force)
        return self._do(lambda: restarts.cleanup(scope, order))

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
        """Send an event with this transaction; see `WorkflowManager.send_event`."""
        scope = self._scope
        order = orders.event_order(
            scope.env, event, workflow_id=workflow_id, id=id, value=value, error=error
        )
        return self._do(lambda: event_operations.send_event(scope, order))

    def create_event(self, event: Event[Any] | str, *, workflow_id: str) -> str:
        """Create an event with this transaction; see `WorkflowManager.create_event`."""
        scope = self._scope
        order = orders.create_order(scope.env, event, workflow_id=workflow_id)
        return self._do(lambda: event_operations.create_event(scope, order))

    def _do(self, fn: Callable[[], T]) -> T:
        return self._scope.tx.run_engine_code(fn)


def make_context(scope: Scope, is_query: bool) -> QueryContext | MutationContext:
    """The context for a function in the transaction of `scope`."""
    return QueryContext(scope) if is_query else MutationContext(scope)


class ActionContext:
    """The context of one attempt of an action.

    Attributes:
        workflow_id: of the workflow whose step this is.
        step_number: of the step, from 0.
        attempt: of this attempt, from 1.
        idempotency_key: the same for all attempts of this step; give it to services that take one.
        logger: ``perdure.action.<name>``, with the ids of the step in ``extra``.
    """

    def __init__(
        self,
        verbs: Verbs,
        *,
        name: str,
        workflow_id: str,
        step_number: int,
        attempt: int,
        idempotency_key: str,
    ) -> None:
        self._verbs = verbs
        self.workflow_id = workflow_id
        self.step_number = step_number
        self.attempt = attempt
        self.idempotency_key = idempotency_key
        self._name = name

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger that knows the step."""
        about = {
            "workflow_id": self.workflow_id,
            "step_number": self.step_number,
            "attempt": self.attempt,
        }
        return logging.LoggerAdapter(logging.getLogger(f"perdure.action.{self._name}"), about)

    @property
    def sync(self) -> SyncVerbs:
        """The verbs below, blocking: for a plain `def` action, which runs in a thread and cannot
        await. In an `async def` action they are refused: they would stop its loop."""
        return self._verbs.sync

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
        """Start a workflow, in a transaction of its own; see `WorkflowManager.start`."""
        return await self._verbs.start(
            call,
            id=id,
            on_complete=on_complete,
            context=context,
            run_after=run_after,
            run_at=run_at,
        )

    async def status(self, workflow_id: str) -> Status:
        """How a workflow stands; see `WorkflowManager.status`."""
        return await self._verbs.status(workflow_id)

    async def result(self, workflow_id: str, *, timeout: timedelta | float | None = None) -> Any:
        """Wait for a workflow to end; see `WorkflowManager.result`. The action keeps its place
        under `max_parallelism` meanwhile: a workflow waits better with `Step.run_workflow`."""
        return await self._verbs.result(workflow_id, timeout=timeout)

    async def cancel(self, workflow_id: str) -> None:
        """Cancel a workflow; see `WorkflowManager.cancel`."""
        await self._verbs.cancel(workflow_id)

    async def restart(
        self, workflow_id: str, *, from_step: int | str | Definition[..., Any] | None = None
    ) -> None:
        """Restart a workflow; see `WorkflowManager.restart`."""
        await self._verbs.restart(workflow_id, from_step=from_step)

    async def cleanup(self, workflow_id: str, *, force: bool = False) -> bool:
        """Delete a workflow; see `WorkflowManager.cleanup`."""
        return await self._verbs.cleanup(workflow_id, force=force)

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
        """Send an event, in a transaction of its own; see `WorkflowManager.send_event`. Another
        attempt of this action sends another one, unless it is sent by its id."""
        return await self._verbs.send_event(
            event, workflow_id=workflow_id, id=id, value=value, error=error
        )

    async def create_event(self, event: Event[Any] | str, *, workflow_id: str) -> str:
        """Create an event, in a transaction of its own; see `WorkflowManager.create_event`."""
        return await self._verbs.create_event(event, workflow_id=workflow_id)

    async def run_query(self, call: QueryCall[R]) -> R:
        """Run a query in a transaction of its own; see `WorkflowManager.run_query`."""
        result: R = await self._verbs.run_query(call)
        return result

    async def run_mutation(self, call: MutationCall[R]) -> R:
        """Run a mutation in a transaction of its own; see `WorkflowManager.run_mutation`."""
        result: R = await self._verbs.run_mutation(call)
        return result
