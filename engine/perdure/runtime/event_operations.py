"""Making and sending events inside one transaction, whoever owns the workflow.

An event that is only created is a row and nothing else: nobody is told. Whoever awaits it by its id
has the commit of that look for it (`missing`). A sent one is told to the owner of its workflow.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from perdure.core.awaits import is_for_created
from perdure.core.ids import EventId, WorkflowId
from perdure.core.messages import EventSent, SentEvent
from perdure.core.outcomes import Outcome
from perdure.core.workflow import WorkflowState
from perdure.errors import ErrorInfo, EventAlreadySent, EventNotFound
from perdure.sometimes import sometimes
from perdure.store.base import InboxRow

from .operations import not_found
from .scope import Scope


class CreateOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A checked wish to create an event. Its id is made before the first try."""

    event_id: EventId
    name: str
    workflow_id: WorkflowId

    def execute(self, scope: Scope) -> EventId:
        """Carry it out, as a request."""
        return create_event(scope, self)


class EventOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A checked wish to send an event.

    Attributes:
        event_id: the one that is sent, or, by name, the id of the one that may have to be made.
        send_id: made before the first try: by it another try finds what the first one has done.
        name: given by the caller, if it was.
        workflow_id: given by the caller, if it was; by name it is.
    """

    event_id: EventId
    send_id: str
    name: str | None
    workflow_id: WorkflowId | None
    outcome: Outcome
    has_own_id: bool = False

    def execute(self, scope: Scope) -> EventId:
        """Carry it out, as a request."""
        return send_event(scope, self)


def create_event(scope: Scope, order: CreateOrder) -> EventId:
    """Store an event that can be awaited and sent by its id.

    Raises:
        WorkflowNotFound
    """
    tx = scope.tx
    if tx.find_event(order.event_id) is not None:
        sometimes("an event that was created is asked for again")
        return order.event_id
    if not tx.states([order.workflow_id]):
        raise not_found(order.workflow_id)
    event = SentEvent(event_id=order.event_id, name=order.name, made=tx.take_event_sequence())
    tx.put_event(order.workflow_id, event, scope.now)
    return order.event_id


def send_event(scope: Scope, order: EventOrder) -> EventId:
    """Send an event, and wake its workflow. By name it goes to the await that waits longest, else
    to the oldest created event of that name, else it is a new one.

    Raises:
        WorkflowNotFound, EventNotFound, EventAlreadySent
    """
    tx = scope.tx
    stored = tx.find_event(order.send_id) or tx.find_send(order.send_id)
    if stored is not None:
        return _send_again(scope, stored)
    workflow_id, event = _found_by_id(scope, order) if order.has_own_id else _found(scope, order)
    states = tx.states([workflow_id])
    if not states:
        raise not_found(workflow_id)
    sent = replace(
        event,
        sequence=tx.take_event_sequence(),
        sent_at=scope.now,
        outcome=order.outcome,
        token=None if event.event_id == order.send_id else order.send_id,
    )
    tx.put_event(workflow_id, sent, scope.now)
    _tell_owner_of_event(scope, states[0], sent)
    return sent.event_id


def _found_by_id(scope: Scope, order: EventOrder) -> tuple[WorkflowId, SentEvent]:
    """The event with the order's id, and whose it is."""
    event_id = order.event_id
    found = scope.tx.find_event(event_id)
    if found is None:
        raise EventNotFound(f"no event has the id {event_id!r}: see create_event")
    workflow_id, event, _ = found
    if order.workflow_id not in (None, workflow_id):
        raise EventNotFound(
            f"event {event_id!r} belongs to workflow {workflow_id!r}, not to"
            f" {order.workflow_id!r}: leave out workflow_id"
        )
    if order.name not in (None, event.name):
        raise EventNotFound(
            f"event {event_id!r} was created as {event.name!r}, not as {order.name!r}: give that"
            " event, or leave it out"
        )
    if event.outcome is not None:
        raise EventAlreadySent(f"event {event_id!r} ({event.name}) was sent already")
    return workflow_id, event


def _found(scope: Scope, order: EventOrder) -> tuple[WorkflowId, SentEvent]:
    """The event that a send by name makes a sent one: a created one, or a new one."""
    workflow_id, name = order.workflow_id, order.name
    assert workflow_id is not None and name is not None
    event = scope.tx.created_event(workflow_id, name)
    if event is not None:  # rarely: else nothing more need be read
        event = _created_event(scope, workflow_id, event)
    if event is None:
        event = SentEvent(event_id=order.event_id, name=name)
    else:
        sometimes("a send by name goes to an event that was created")
    return workflow_id, event


def _created_event(scope: Scope, workflow_id: WorkflowId, oldest: SentEvent) -> SentEvent | None:
    """Of the created events of a name the one that a send by name is for; None for a new one."""
    tx, name = scope.tx, oldest.name
    by_id = tx.awaited_event(workflow_id, name)
    number, event = (None, oldest) if by_id is None else by_id
    before = tx.count_waits(workflow_id, name, below=number)
    queued = tx.count_queued(workflow_id, name) if before else 0  # nearly always nobody waits
    return event if is_for_created(before, queued) else None


def _send_again(scope: Scope, stored: tuple[WorkflowId, SentEvent, bool]) -> EventId:
    """An earlier try was stored after all, though its commit seemed to fail."""
    workflow_id, event, is_consumed = stored
    if not is_consumed:
        for state in scope.tx.states([workflow_id]):
            _tell_owner_of_event(scope, state, event)
    return event.event_id


def _tell_owner_of_event(scope: Scope, state: WorkflowState, event: SentEvent) -> None:
    if state.status != "in_progress":
        return  # kept for a restart
    if state.owner is None:
        scope.tx.wake(state.workflow_id, scope.now)
        scope.after.look_claims = True
    elif state.owner == scope.env.worker_id:
        # The row is durable: should this message be lost, the event is found with the workflow.
        scope.after.messages.append((state.workflow_id, EventSent(event=event)))
        # Before it, what another process has sent earlier.
        scope.after.look_inbox = True
    else:
        row = InboxRow(
            workflow_id=state.workflow_id,
            kind="event",
            body=msgspec.json.encode(event.event_id).decode(),
            accepted_at=scope.now,
        )
        scope.tx.put_inbox([row])


def missing(scope: Scope, workflow_id: WorkflowId, event_id: EventId) -> ErrorInfo | None:
    """Why a workflow cannot await this event by its id; None if it can."""
    found = scope.tx.find_event(event_id)
    if found is None:
        problem = "is unknown: no event was created with this id"
    elif found[0] != workflow_id:
        problem = f"belongs to workflow {found[0]!r}"
    elif found[2]:
        problem = "was consumed by an earlier await"
    else:
        return None
    sometimes("an await by id finds that its event cannot come")
    return ErrorInfo(EventNotFound.__name__, f"event {event_id!r} {problem}")
