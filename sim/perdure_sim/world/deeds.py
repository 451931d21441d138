"""What a client does, and what it is told of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from msgspec.structs import replace

from perdure.errors import PerdureError
from perdure.runtime import requests
from perdure.runtime.event_operations import CreateOrder, EventOrder
from perdure.runtime.operations import StartOrder

from ..laws.history import History
from ..laws.violations import BadAnswer, ToldTooEarly
from .process import Process


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


def no_answer(value: Any, error: BaseException | None) -> None:
    """Nobody listens."""


def check_answer(history: History, deed: Deed, value: Any, error: BaseException | None) -> None:
    """What a client is told has been done is on the disk."""
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
