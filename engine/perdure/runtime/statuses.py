"""Reading how workflows stand."""

from __future__ import annotations

from perdure.core.ids import WorkflowId
from perdure.core.workflow import WorkflowState
from perdure.records import Status, StepInfo
from perdure.store.base import Reader

from .operations import not_found
from .views import status_of, step_info


def read_state(reader: Reader, workflow_id: WorkflowId) -> WorkflowState:
    """A workflow's state without its journal.

    Raises:
        WorkflowNotFound
    """
    states = reader.states([workflow_id])
    if not states:
        raise not_found(workflow_id)
    return states[0]


def read_status(reader: Reader, workflow_id: WorkflowId) -> Status:
    """A workflow's status, with the steps that have no outcome yet.

    Raises:
        WorkflowNotFound
    """
    state = read_state(reader, workflow_id)
    running: tuple[StepInfo, ...] = ()
    if state.outcome is None:
        records = reader.open_steps(workflow_id)
        running = tuple(step_info(workflow_id, record) for record in records)
    return status_of(state, running)
