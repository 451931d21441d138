"""What a client does, and what it is told of it."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
from msgspec.structs import replace

from perdure.errors import PerdureError
from perdure.runtime import requests
from perdure.runtime.event_operations import CreateOrder, EventOrder
from perdure.runtime.operations import StartOrder

from ..faults.sites import STORM
from ..laws.history import History
from ..laws.violations import BadAnswer, ToldTooEarly
from .process import Process
from .transacting import Transact

if TYPE_CHECKING:
    from .world import World


@attrs.define
class Deed:
    """What a client does: tried again until it is carried out, by the same ids."""

    name: str
    make: Callable[[Process], Any]
    request: Any = None
    asked_in: int = 0
    value: Any = None
    error: BaseException | None = None
    is_done: bool = False
    is_waiting: bool = False
    done_at: int = 0
    follow_ups: list[Callable[[], object]] = attrs.field(factory=list)
    was_asked: bool = False


def asked_again(request: Any) -> Any:
    """The request of a client that asks for it more than once: what it starts may be there."""
    return replace(request, has_own_id=True) if isinstance(request, StartOrder) else request


def submit(world: World, deed: Deed, answer: Callable[[Any, BaseException | None], None]) -> None:
    """Have the client send the request of a deed, or what becomes of it on the way."""
    client = world.client
    if isinstance(deed.request, Transact):
        deed.request.submit(client, answer)  # it sends nothing: it opens the database itself
        return
    fault = world.faults.at(client.name, "request")
    if fault is not None and fault.kind == "late":
        late = partial(client.engine.submit, deed.request, answer)
        client.at(world.now + fault.duration, late)
        return
    if fault is not None:
        deed.request = asked_again(deed.request)
    client.engine.submit(deed.request, answer)
    match fault and fault.kind:
        case "twice":
            client.engine.submit(copy(deed.request), answer)
        case "storm":
            for _ in range(STORM - 1):
                client.engine.submit(copy(deed.request), answer)
        case "elsewhere":
            for worker in world.workers:
                if worker.is_alive:
                    worker.engine.submit(copy(deed.request), no_answer)
                    return


def no_answer(value: Any, error: BaseException | None) -> None:
    """Nobody listens."""


def check_answer(history: History, deed: Deed, value: Any, error: BaseException | None) -> None:
    """What a client is told has been done is on the disk."""
    if isinstance(deed.request, Transact):
        return  # what it has written was told when it was stored; what it raises is its own
    if error is not None:
        if not isinstance(error, PerdureError):
            raise BadAnswer(f"{deed.name}: {error!r}") from error
        return
    request, workflows = deed.request, history.everybody
    match request:
        case StartOrder():
            known = workflows.get(request.workflow_id)
            call = (request.name, request.arguments)
            if known is None or (known.header.name, known.header.arguments) != call:
                raise ToldTooEarly(f"{deed.name} is answered, known is {known}")
        case EventOrder():
            event = history.events.get(value)
            if event is None or event.outcome is None:
                raise ToldTooEarly(f"{deed.name} is answered, and it was not sent")
        case CreateOrder():
            if value not in history.events:
                raise ToldTooEarly(f"{deed.name} is answered, and it was not created")
        case requests.Cancel():
            known = workflows[request.workflow_id]
            if not (known.has_ended or known.past):
                raise ToldTooEarly(f"{deed.name} is answered, and it goes on")
        case _:
            pass
