"""What an action must not reach for in a simulation: the network, threads, processes, clocks.

Each would take real time, or give what no plan repeats. While actions run, an audit hook (the one
that guards handlers) and, in their own code, a profile function look at what they call; nothing of
the standard library is replaced. What reaches outside is raised in the action, and ends the run: so
a test whose action never really ran is not green.

Not seen: a clock that is read by compiled code of others, and `time.perf_counter`, by which test
tools measure themselves. Files are let pass.
"""

from __future__ import annotations

import _thread
import asyncio
import datetime as dt
import sys
import time  # noqa: TID251  To know its functions when they are called.
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from types import FrameType
from typing import Any, NoReturn

from perdure import guard
from perdure.core.loop import WorkflowLoop
from perdure.core.refusals import refusal
from perdure.errors import NonRetryableError


class NotSimulated(NonRetryableError):
    """An action reached for something that is not simulated."""


#: The action whose code runs, and whom to tell of what it reaches for.
in_action: ContextVar[tuple[str, Callable[[NotSimulated], None]] | None] = ContextVar(
    "in_action", default=None
)

_NAMES = ["time", "time_ns", "monotonic", "monotonic_ns", "sleep", "gmtime", "localtime", "ctime"]

#: Functions written in C that no audit event tells of, in all Pythons, by identity.
_WATCHED: dict[Any, str] = {
    **{getattr(time, name): f"time.{name}" for name in _NAMES},
    _thread.start_new_thread: "threading.Thread.start",
}

#: Class methods: bound anew at each call, so known by class and name.
_NOW = frozenset(("now", "utcnow", "today"))


def _error(call: str) -> NotSimulated | None:
    """The error for a call, told already; None if no action makes it."""
    found = in_action.get()
    if found is None:
        return None
    name, tell = found
    error = NotSimulated(
        f"{call} in action {name!r}, in a simulation: it would reach outside, and no plan could"
        f" repeat that: stub the action, as in sim.stub({name}, returns=…)"
    )
    tell(error)
    return error


def refuse(call: str) -> NoReturn:
    """Raise for what an action does that cannot be simulated, and have the run end with it."""
    raise _error(call) or NotSimulated(f"{call} cannot be simulated")


def _refuse(event: str, call: str) -> Exception | None:
    return _error(call) if event in guard.REACHES_OUTSIDE else None


def _watch(frame: FrameType, event: str, function: Any) -> None:
    if event != "c_call":
        return
    owner = getattr(function, "__self__", None)
    if isinstance(owner, type) and function.__name__ in _NOW:
        if not issubclass(owner, dt.date):
            return
        call = f"{owner.__name__}.{function.__name__}(…)"
    elif owner is time or owner is _thread:
        name = _WATCHED.get(function)
        if name is None:
            return
        call = f"{name}(…)"
    else:
        return
    if not guard.is_housekeeping(frame):
        error = _error(call)
        if error is not None:
            raise error


class refusing:  # noqa: N801  Used like a function, as contextlib.suppress is.
    """``with refusing(): ...``: actions may run in this block, and may not reach outside."""

    __slots__ = ("_token",)

    def __enter__(self) -> None:
        self._token = guard.enter(_refuse)

    def __exit__(self, *_: object) -> None:
        look_away()
        guard.leave(self._token)


def look() -> None:
    """From now on the code that runs is an action's: have each of its calls looked at.

    Only then, since it costs a call for each call. A profiler that is on already keeps its place:
    then clocks and sleeps are not seen.
    """
    if sys.getprofile() is None:
        sys.setprofile(_watch)


def look_away() -> None:
    """What runs now is not the action's own code any more."""
    if sys.getprofile() is _watch:
        sys.setprofile(None)


def _looked_at(callback: Callable[..., Any], *args: Any) -> None:
    look()
    try:
        callback(*args)
    finally:
        look_away()


def _refused(name: str) -> Callable[..., NoReturn]:
    refuse_in_handler = refusal(name)

    def refuse(self: Any, *args: Any, **kw: Any) -> NoReturn:
        error = _error(f"loop.{name}(…)")
        if error is None:
            refuse_in_handler(self, *args, **kw)
        raise error

    return refuse


class OutsideLoop(WorkflowLoop):
    """A loop for actions: what it refuses is told as of an action, not of a handler.

    What an action's code has asked for, its tasks and callbacks, is looked at while it runs. It is
    known by its context, which has the action in it.
    """

    __slots__ = ()

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """See `WorkflowLoop.call_soon`."""
        if context is None:
            context = copy_context()
        if context.get(in_action) is None:
            return super().call_soon(callback, *args, context=context)
        return super().call_soon(_looked_at, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """See `WorkflowLoop.call_at`."""
        if context is None:
            context = copy_context()
        if context.get(in_action) is None:
            return super().call_at(when, callback, *args, context=context)
        return super().call_at(when, _looked_at, callback, *args, context=context)


_REFUSAL = refusal("").__code__
for _name, _method in vars(WorkflowLoop).items():
    if getattr(_method, "__code__", None) is _REFUSAL:
        setattr(OutsideLoop, _name, _refused(_name))
