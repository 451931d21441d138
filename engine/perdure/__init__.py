"""perdure: durable workflows in plain async Python, embedded, on SQLite.

A user writes ordinary ``async def`` code with steps; it survives crashes, restarts and deploys.
Start with `WorkflowManager`.
"""

from __future__ import annotations

from perdure.checking import CheckedWorkflow, CheckReport, CheckViolation
from perdure.core.limits import Limits
from perdure.core.outcomes import Canceled, Failed, Succeeded
from perdure.core.retry import RetryPolicy
from perdure.definitions import Action, Call, Mutation, Query, Workflow
from perdure.errors import (
    CalledInside,
    ConnectionMisuse,
    DefinitionError,
    DeterminismError,
    DeterminismWarning,
    ErrorInfo,
    EventAlreadySent,
    EventNotFound,
    InternalError,
    LimitExceeded,
    NonRetryableError,
    NotOpen,
    PerdureError,
    StepCanceled,
    StepFailed,
    StepNotFound,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreMoved,
    StoreNotADatabase,
    StoreNotFound,
    StoreReadOnly,
    StoreUnsupported,
    StoreVersionError,
    ValidationError,
    WorkflowCanceled,
    WorkflowFailed,
    WorkflowIdConflict,
    WorkflowNotFound,
    WorkflowNotRunning,
    WorkflowRunning,
)
from perdure.events import Event, define_event
from perdure.journals import WorkflowJournal, load_journals
from perdure.manager import WorkflowManager
from perdure.migrating import MigrationReport, abandon_migration, migrate
from perdure.records import InProgress, Outcome, Page, Settings, Status, StepInfo, WorkflowInfo
from perdure.runtime.contexts import ActionContext, MutationContext, QueryContext
from perdure.step import Step

__all__ = [
    "Action",
    "ActionContext",
    "Call",
    "CalledInside",
    "Canceled",
    "CheckReport",
    "CheckViolation",
    "CheckedWorkflow",
    "ConnectionMisuse",
    "DefinitionError",
    "DeterminismError",
    "DeterminismWarning",
    "ErrorInfo",
    "Event",
    "EventAlreadySent",
    "EventNotFound",
    "Failed",
    "InProgress",
    "InternalError",
    "LimitExceeded",
    "Limits",
    "MigrationReport",
    "Mutation",
    "MutationContext",
    "NonRetryableError",
    "NotOpen",
    "Outcome",
    "Page",
    "PerdureError",
    "Query",
    "QueryContext",
    "RetryPolicy",
    "Settings",
    "Status",
    "Step",
    "StepCanceled",
    "StepFailed",
    "StepInfo",
    "StepNotFound",
    "StoreBusy",
    "StoreCorrupt",
    "StoreError",
    "StoreFull",
    "StoreMoved",
    "StoreNotADatabase",
    "StoreNotFound",
    "StoreReadOnly",
    "StoreUnsupported",
    "StoreVersionError",
    "Succeeded",
    "ValidationError",
    "Workflow",
    "WorkflowCanceled",
    "WorkflowFailed",
    "WorkflowIdConflict",
    "WorkflowInfo",
    "WorkflowJournal",
    "WorkflowManager",
    "WorkflowNotFound",
    "WorkflowNotRunning",
    "WorkflowRunning",
    "abandon_migration",
    "define_event",
    "load_journals",
    "migrate",
]
