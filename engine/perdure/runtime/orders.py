"""Checks what callers give and encodes it: wishes become orders that a transaction can carry out.

Everything that can be refused without the store is refused here, before anything is written.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from perdure.codec import TypeCodec, encode_plain
from perdure.core.limits import PARALLELISM_MAX
from perdure.core.outcomes import Failed, Outcome, Succeeded
from perdure.definitions import Call, Definition, Mutation, Registry, Workflow
from perdure.errors import DefinitionError, ErrorInfo
from perdure.events import Event
from perdure.step import check_call, check_name, due_ms

from .event_operations import CreateOrder, EventOrder
from .functions import context_codec
from .operations import StartOrder
from .restarts import CleanupOrder, RestartOrder
from .scope import Env

#: Items of one page of a listing.
PAGE_MAX = 1000


def checked_id(workflow_id: object) -> str:
    """A workflow id.

    Raises:
        TypeError: it is no text (most often: it was not awaited).
        ValueError: it is no text that can be stored.
    """
    if not isinstance(workflow_id, str):
        raise TypeError(f"workflow_id={workflow_id!r}: give the id that start() returned")
    return _storable(workflow_id, "workflow_id")


def checked_flag(value: object, what: str) -> bool | None:
    """True, False or None.

    Raises:
        TypeError: it is something else.
    """
    if value is not None and not isinstance(value, bool):
        raise TypeError(f"{what}={value!r}: give True, False or None")
    return value


def checked_filter(name: object) -> str | None:
    """A workflow's name to look for, or None.

    Raises:
        TypeError, ValueError: it can be nobody's name.
    """
    if name is None:
        return None
    if not isinstance(name, str):
        raise TypeError(f"name={name!r}: give the name of a workflow definition, a str")
    return _storable(name, "name")


def _storable(text: str, what: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what}={text!r}: half a surrogate pair is no text") from None
    if "\0" in text:
        raise ValueError(f"{what}={text!r}: a NUL character cannot be stored by every database")
    return str.__str__(text)


def check_parallelism(value: object) -> None:
    """Refuse a number of attempts that cannot be set; raises ValueError."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= PARALLELISM_MAX:
        raise ValueError(f"max_parallelism={value!r}: give a number from 0 to {PARALLELISM_MAX:,}")


def check_page(order: str, limit: int, cursor: str | None) -> tuple[bool, int | None]:
    """Which page of a listing: whether it ascends, and after which item.

    Raises:
        ValueError: there is no such page.
    """
    if order not in ("asc", "desc"):
        raise ValueError(f"order={order!r}: give 'asc' or 'desc'")
    if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= PAGE_MAX:
        raise ValueError(f"limit={limit!r}: give a number from 1 to {PAGE_MAX:,}")
    if cursor is None:
        return order == "asc", None
    if not isinstance(cursor, str) or not cursor.isdecimal():
        raise ValueError(f"cursor={cursor!r}: give the cursor of a page")
    return order == "asc", int(cursor)


def checked_call(
    call: object, kind: type[Definition[..., Any]], verb: str, registry: Registry
) -> Any:
    """The definition of a call that was given outside a workflow; see `step.check_call`.

    Raises:
        TypeError, DefinitionError
    """
    if isinstance(call, Call) and not isinstance(call.definition, kind):
        wrong, wanted = call.definition, kind.__name__.lower()
        if wrong.kind == "action":  # there is no verb for it here
            raise TypeError(
                f"{verb}: {wrong.name} is an action, and {verb} takes a call of a {wanted}:"
                " start a workflow that runs the action"
            )
        right = "start" if wrong.kind == "workflow" else f"run_{wrong.kind}"
        raise TypeError(f"{verb}: {wrong.name} is a {wrong.kind}: use {right}")
    return check_call(call, kind, verb, registry)


def start_order(
    env: Env,
    call: Call[Any],
    *,
    now: int,
    id: str | None,
    on_complete: Mutation[..., Any] | None,
    context: Any,
    run_after: timedelta | float | None,
    run_at: datetime | None,
) -> StartOrder:
    """What `start` was given, checked and encoded.

    Raises:
        TypeError, ValueError, DefinitionError, ValidationError, LimitExceeded
    """
    definition = checked_call(call, Workflow, "start", env.registry)
    limit = env.limits.value_bytes
    codec: TypeCodec[Any] | None = None
    if on_complete is not None:
        if not isinstance(on_complete, Mutation):
            raise TypeError(f"on_complete={on_complete!r}: give a mutation, not called")
        if env.registry.get(on_complete.name) is not on_complete:
            raise DefinitionError(
                f"on_complete={on_complete!r} is not registered with this manager"
            )
        codec = context_codec(on_complete)
    text = None
    if context is not None:
        if codec is not None:
            text = codec.encode(context, where="context", limit=limit)
        else:
            text = encode_plain(context, where="context", limit=limit)
    due = due_ms(run_after, run_at, now)
    return StartOrder(
        workflow_id=env.clock.new_id() if id is None else check_name(id, "id"),
        name=definition.name,
        arguments=call.encode(limit),
        start_at=now if due is None else due,
        has_own_id=id is not None,
        on_complete=None if on_complete is None else on_complete.name,
        context=text,
    )


def restart_order(workflow_id: object, from_step: object) -> RestartOrder:
    """What `restart` was given, checked.

    Raises:
        TypeError, ValueError: it can be no step.
    """
    step: int | str | None
    if isinstance(from_step, Definition):
        step = from_step.name
    elif from_step is None or isinstance(from_step, str):
        step = from_step
    elif isinstance(from_step, int) and not isinstance(from_step, bool):
        if from_step < 0:
            raise ValueError(f"from_step={from_step!r}: steps are numbered from 0")
        step = from_step
    else:
        raise TypeError(
            f"from_step={from_step!r}: give a step's number, its name, or the definition that it"
            " ran (not called)"
        )
    return RestartOrder(workflow_id=checked_id(workflow_id), from_step=step)


def cleanup_order(workflow_id: object, force: object) -> CleanupOrder:
    """What `cleanup` was given, checked.

    Raises:
        TypeError, ValueError: it can be no workflow's id, or `force` is no bool.
    """
    if not isinstance(force, bool):
        raise TypeError(f"force={force!r}: give True or False")
    return CleanupOrder(workflow_id=checked_id(workflow_id), force=force)


def create_order(env: Env, event: Event[Any] | str, *, workflow_id: str) -> CreateOrder:
    """What `create_event` was given, checked.

    Raises:
        TypeError, ValueError, LimitExceeded
    """
    name = event.name if isinstance(event, Event) else event
    return CreateOrder(
        event_id=env.clock.new_id(),
        name=check_name(name, "event"),
        workflow_id=checked_id(workflow_id),
    )


def event_order(
    env: Env,
    event: Event[Any] | str | None,
    *,
    workflow_id: str | None,
    id: str | None,
    value: Any,
    error: str | None,
) -> EventOrder:
    """What `send_event` was given, checked and encoded.

    Raises:
        TypeError, ValueError, ValidationError, LimitExceeded
    """
    if id is None and (event is None or workflow_id is None):
        raise ValueError("send_event: give an event (or its name) and workflow_id=, or id=")
    name = event.name if isinstance(event, Event) else event
    if name is not None:
        name = check_name(name, "event")
    if workflow_id is not None:
        workflow_id = checked_id(workflow_id)
    outcome: Outcome
    if error is not None:
        if not isinstance(error, str):
            raise TypeError(f"error={error!r}: give a text")
        error = _storable(error, "error")
        if value is not None:
            raise ValueError("send_event: give value or error, not both")
        outcome = Failed(ErrorInfo("EventError", error))
    else:
        limit = env.limits.value_bytes
        where = f"payload of event {name or id}"
        if isinstance(event, Event):
            outcome = Succeeded(event.codec.encode(value, where=where, limit=limit))
        else:
            outcome = Succeeded(encode_plain(value, where=where, limit=limit))
    send_id = env.clock.new_id()
    return EventOrder(
        event_id=send_id if id is None else check_name(id, "id"),
        send_id=send_id,
        name=name,
        workflow_id=workflow_id,
        outcome=outcome,
        has_own_id=id is not None,
    )
