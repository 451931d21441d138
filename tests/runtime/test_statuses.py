"""Reading how workflows stand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.runtime.harness import Rig

from perdure.core.outcomes import Succeeded
from perdure.definitions import Definer
from perdure.errors import WorkflowNotFound
from perdure.records import InProgress
from perdure.runtime.orders import create_order, event_order
from perdure.runtime.statuses import read_state, read_status
from perdure.step import Step

d = Definer()


@d.workflow
async def waiting(step: Step) -> object:
    return await step.await_event(id=await step.await_event("id"))


def test_a_status_shows_the_open_steps_and_then_the_end(rigs: Callable[..., Rig]) -> None:
    """An await by id shows the event that it awaits, before it is there."""
    rig = rigs(d)
    workflow_id = rig.start(waiting())
    event_id = rig.value(rig.done(rig.ask(create_order(rig.env, "e", workflow_id=workflow_id))))
    rig.done(rig.ask_event("id", workflow_id, event_id))
    status = read_status(rig.store.reader(), workflow_id)
    assert isinstance(status, InProgress)
    assert [(step.name, step.event_id) for step in status.running] == [(event_id, event_id)]
    order = event_order(rig.env, None, workflow_id=None, id=event_id, value=3, error=None)
    rig.done(rig.ask(order))
    assert read_status(rig.store.reader(), workflow_id) == Succeeded(3)
    assert read_state(rig.store.reader(), workflow_id).status == "success"


def test_who_is_unknown_has_no_status(rigs: Callable[..., Rig]) -> None:
    """It is an error that names the id."""
    with pytest.raises(WorkflowNotFound, match="'nobody'"):
        read_status(rigs(d).store.reader(), "nobody")
