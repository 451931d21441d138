"""Every error that perdure raises, in one tree.

::

    PerdureError                    catch this to catch them all
    ├─ DefinitionError              a decorated function cannot be used as it stands
    ├─ ValidationError              a value does not fit its annotation (also a ValueError)
    ├─ LimitExceeded                a value, journal, name or nesting is over its limit
    ├─ NotOpen                      the manager is not open, or was opened before a fork
    ├─ WorkflowNotFound
    ├─ WorkflowNotRunning           cancel of a workflow that has ended
    ├─ WorkflowRunning              restart of one that has not ended, nor is blocked
    ├─ WorkflowIdConflict           the id belongs to another call
    ├─ WorkflowFailed               result(): the workflow failed
    ├─ WorkflowCanceled             result(): the workflow was canceled
    ├─ StepFailed                   in a handler: the awaited step failed
    ├─ StepCanceled                 in a handler: the awaited step was canceled
    ├─ StepNotFound                 restart(from_step=…) names no step
    ├─ NonRetryableError            raise it in an action to end all attempts
    ├─ EventNotFound
    ├─ EventAlreadySent
    ├─ DeterminismError             a handler did what a replay could not repeat
    ├─ StoreError                   the database, never the workflow, is in trouble
    │  ├─ StoreNotFound             there is no database, or none of perdure's
    │  ├─ StoreBusy                 somebody else holds the write lock
    │  │  └─ StoreUnavailable       the server cannot be reached
    │  ├─ StoreFull                 no space left
    │  ├─ StoreReadOnly
    │  ├─ StoreCorrupt              the file is damaged
    │  ├─ StoreNotADatabase         the file is something else
    │  ├─ StoreVersionError         the schema is newer or older than this perdure knows
    │  ├─ StoreMoved                its workflows have moved to another database
    │  └─ StoreUnsupported          the file system cannot keep the promises
    ├─ ConnectionMisuse             ctx.db was asked for what would harm the shared transaction
    ├─ CalledInside                 manager.… was called inside a handler or a transaction
    └─ InternalError                a bug of perdure's: please report it
    DeterminismWarning              given when a workflow is defined

An error says what was wrong, where, and what to do. This file imports nothing of ours, so that
every other one may import it.
"""

from __future__ import annotations

from typing import Any

import attrs


@attrs.frozen
class ErrorInfo:
    """What is kept of an error: the class's name, its text, and the (cut) traceback.

    `arguments` is JSON text of the exception's ``args``, and of what else it takes, where its class
    was declared with ``raises=``, so that the handler gets the same exception again; else None.
    """

    type: str
    message: str
    traceback: str = ""
    arguments: str | None = attrs.field(default=None, repr=False)


class PerdureError(Exception):
    """The root of all errors that perdure raises on purpose."""


class DefinitionError(PerdureError):
    """A decorated function, or the way it is registered or looked up, is wrong."""


class ValidationError(PerdureError, ValueError):
    """A value does not fit the annotation that it is meant for; the message names the path."""


class LimitExceeded(PerdureError):
    """Something is larger than its limit; the message gives limit, size and remedy."""


class NotOpen(PerdureError):
    """The manager is not open here: use ``async with manager:`` or one of its kin."""

    #: Whether what was asked for may have been begun; where not, it can be asked for again.
    _has_begun = True


def not_begun(message: str) -> NotOpen:
    """A `NotOpen` of a call of which nothing was begun."""
    error = NotOpen(message)
    error._has_begun = False
    return error


class _AboutWorkflow(PerdureError):
    """An error about one workflow; `workflow_id` says which."""

    def __init__(self, message: str, *, workflow_id: str = "") -> None:
        super().__init__(message)
        self.workflow_id = workflow_id

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


class WorkflowNotFound(_AboutWorkflow):
    """No workflow has this id; it may have been cleaned up."""


class WorkflowNotRunning(_AboutWorkflow):
    """The workflow has ended already."""


class WorkflowRunning(_AboutWorkflow):
    """The workflow has not ended yet."""


class WorkflowIdConflict(_AboutWorkflow):
    """The id given to `start` belongs to a workflow that was started with another call."""


class WorkflowFailed(_AboutWorkflow):
    """The workflow whose result was asked for failed; `error` tells how."""

    def __init__(self, message: str, *, workflow_id: str, error: ErrorInfo) -> None:
        super().__init__(message, workflow_id=workflow_id)
        self.error = error


class WorkflowCanceled(_AboutWorkflow):
    """The workflow whose result was asked for was canceled."""


class StepFailed(PerdureError):
    """A step failed for good. Raised where the handler awaits the step.

    Attributes:
        error: type, message and traceback of what the step's code raised last.
        step_name: the name of the step.
        attempts: how many attempts were started.
    """

    def __init__(self, message: str, *, error: ErrorInfo, step_name: str, attempts: int) -> None:
        super().__init__(message)
        self.error = error
        self.step_name = step_name
        self.attempts = attempts

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


class StepCanceled(PerdureError):
    """A step was canceled from outside the handler. Raised where the handler awaits it."""

    def __init__(self, message: str, *, step_name: str) -> None:
        super().__init__(message)
        self.step_name = step_name

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


class StepNotFound(PerdureError):
    """The workflow has no such step."""


class NonRetryableError(PerdureError):
    """Raise it in an action to fail the step at once, whatever its retry policy says."""


class EventNotFound(PerdureError):
    """No event has this id, or it belongs to another workflow."""


class EventAlreadySent(PerdureError):
    """The event with this id was sent before."""


class DeterminismError(PerdureError):
    """A handler did something that a replay could not repeat.

    Raised in the handler by the guard (a socket, a thread, a file opened for writing), and the
    type of `InProgress.blocked` when the code no longer fits the journal.
    """


class StoreError(PerdureError):
    """The database is in trouble. It costs time, never a workflow."""


class StoreNotFound(StoreError):
    """There is no database at that place, or perdure has no tables in it."""


class StoreBusy(StoreError):
    """The write lock could not be had in time; the call was withdrawn and nothing was written."""


class StoreUnavailable(StoreBusy):
    """The database server could not be reached in time."""


class StoreFull(StoreError):
    """The disk (or the quota) is full."""


class StoreReadOnly(StoreError):
    """The database cannot be written to."""


class StoreCorrupt(StoreError):
    """The file is a damaged database: restore it from a backup."""


class StoreNotADatabase(StoreError):
    """The file is not an SQLite database."""


class StoreVersionError(StoreError):
    """The store was made by another version of perdure, whose schema this one does not know."""


class StoreMoved(StoreError):
    """The store's workflows have moved to another database, or are being moved there."""


class StoreUnsupported(StoreError):
    """The store lies where its promises cannot be kept, such as a network file system."""


class ConnectionMisuse(PerdureError):
    """User code asked of ``ctx.db`` what would harm the transaction that it shares."""


class CalledInside(PerdureError):
    """The manager was called from inside a handler, a mutation or a query."""


class InternalError(PerdureError):
    """A bug of perdure's. Please report it with the workflow's journal."""


class DeterminismWarning(UserWarning):
    """A workflow's code names something that a replay cannot repeat: a clock, randomness, …"""


def _rebuild(cls: type[PerdureError], args: tuple[Any, ...], attributes: dict[str, Any]) -> Any:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error
