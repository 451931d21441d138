"""What the event loop of a handler refuses, and what to use instead: texts, no logic.

What does not belong here: the guard that refuses sockets, threads and files outside of the loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from ..errors import DeterminismError

_IN_AN_ACTION = "do it in an action: await step.run_action(…)"

#: asyncio puts the coroutines into a set before any of them is a task with a hash of ours.
AS_COMPLETED = (
    "asyncio.as_completed over bare coroutines starts them in random order; give it tasks:"
    " as_completed([asyncio.create_task(c) for c in …])"
)

_DRIVEN = "the engine drives this loop; just await what you need"

#: By the name of the loop's method; the others get `_IN_AN_ACTION`.
_INSTEAD = {
    "run_forever": _DRIVEN,
    "run_until_complete": _DRIVEN,
    "stop": _DRIVEN,
    "call_soon_threadsafe": (
        "another thread cannot reach into a handler: send the workflow an event"
        " (manager.send_event), or have an action do the work"
    ),
    "run_in_executor": (
        "no threads in a handler (asyncio.to_thread too); " + _IN_AN_ACTION + "; a plain `def`"
        " action runs in a thread"
    ),
    "set_default_executor": "no threads in a handler; " + _IN_AN_ACTION,
    "set_task_factory": (
        "use asyncio.create_task; tasks are of perdure's class so that their order is the same on"
        " every replay"
    ),
    "add_signal_handler": "handle signals outside of the workflow and send it an event",
    "remove_signal_handler": "handle signals outside of the workflow and send it an event",
}


def refusal(name: str) -> Callable[..., NoReturn]:
    """A method for the loop that raises `DeterminismError` and tells what to use instead."""

    def refuse(self: Any, *args: Any, **kw: Any) -> NoReturn:
        raise DeterminismError(
            f"loop.{name}() in the handler of workflow {self.workflow_id!r}: a replay could not"
            f" repeat it; {_INSTEAD.get(name, _IN_AN_ACTION)}"
        )

    refuse.__name__ = name
    refuse.__qualname__ = f"WorkflowLoop.{name}"
    return refuse
