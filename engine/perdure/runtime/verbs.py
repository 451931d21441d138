"""What of a manager its actions may use: as coroutines, and, for those in threads, blocking."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar, overload

from perdure.definitions import Definition, Mutation, MutationCall, QueryCall, WorkflowCall
from perdure.events import Event
from perdure.records import Status

T = TypeVar("T")
R = TypeVar("R")


class SyncVerbs(Protocol):
    """The verbs of a manager, each blocking until it is done; see `WorkflowManager`."""

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
        """Start a workflow."""
        ...

    def status(self, workflow_id: str) -> Status:
        """How a workflow stands."""
        ...

    def result(self, workflow_id: str, *, timeout: timedelta | float | None = None) -> Any:
        """Wait for a workflow to end and give its result."""
        ...

    def cancel(self, workflow_id: str) -> None:
        """Cancel a workflow."""
        ...

    def restart(
        self, workflow_id: str, *, from_step: int | str | Definition[..., Any] | None = None
    ) -> None:
        """Restart a workflow that has ended."""
        ...

    def cleanup(self, workflow_id: str, *, force: bool = False) -> bool:
        """Delete a workflow."""
        ...

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
        """Send an event, by name or by id."""
        ...

    def create_event(self, event: Event[Any] | str, *, workflow_id: str) -> str:
        """Create an event that can be awaited and sent by its id."""
        ...

    def run_query(self, call: QueryCall[R]) -> R:
        """Run a query in a transaction of its own."""
        ...

    def run_mutation(self, call: MutationCall[R]) -> R:
        """Run a mutation in a transaction of its own."""
        ...


class Verbs(Protocol):
    """The same as coroutines. How they are called, `ActionContext` says."""

    @property
    def sync(self) -> SyncVerbs: ...
    @property
    def start(self) -> Callable[..., Awaitable[str]]: ...
    @property
    def status(self) -> Callable[[str], Awaitable[Status]]: ...
    @property
    def result(self) -> Callable[..., Awaitable[Any]]: ...
    @property
    def cancel(self) -> Callable[[str], Awaitable[None]]: ...
    @property
    def restart(self) -> Callable[..., Awaitable[None]]: ...
    @property
    def cleanup(self) -> Callable[..., Awaitable[bool]]: ...
    @property
    def send_event(self) -> Callable[..., Awaitable[str]]: ...
    @property
    def create_event(self) -> Callable[..., Awaitable[str]]: ...
    @property
    def run_query(self) -> Callable[..., Awaitable[Any]]: ...
    @property
    def run_mutation(self) -> Callable[..., Awaitable[Any]]: ...
