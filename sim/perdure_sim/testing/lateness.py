"""How late an attempt must be to outlast what waits for it.

A fault that makes an attempt slow does so for a minute and a half; who waits for an hour, or for a
day, would never see it. So the runs without faults say how long the waits were that were open when
an attempt began: the time-out of its step, a timer of the code, a wait for an event, a sleep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

from perdure.core.commands import AwaitEvent, Sleep
from perdure.core.journal import StepRecord

from ..faults.sites import KINDS
from ..laws.known import Known
from ..world.actions import CallMade
from ..world.world import World

#: Kinds that make an attempt late.
LATE_KINDS = ("slow", "deaf")

#: How long they do in any plan, in ms.
USUAL_MS = max(duration for kind, _, duration in KINDS["attempt"] if kind in LATE_KINDS)

#: Other lengths of time for one action.
LATE_MAX = 3

#: So much later than the end of the wait, in ms.
MORE_MS = 1_000

#: Action to lengths of time in ms, the shortest first.
Lateness: TypeAlias = Mapping[str, tuple[int, ...]]

NEVER_LATE: Lateness = {}


def watch(world: World) -> Callable[[], dict[str, tuple[int, ...]]]:
    """Look at the attempts of a run from now on.

    Returns:
        A function that gives, by their actions, how late they must be for each of the waits.
    """
    found: dict[str, set[int]] = {}

    def begins(call: CallMade) -> None:
        ends = found.setdefault(call.action, set())
        for known in world.history.workflows.values():
            ends.update(end - world.now for end in _ends(known) if end > world.now)

    world.on_attempt = begins
    return lambda: {action: _lengths(waits) for action, waits in found.items()}


def _ends(known: Known) -> Iterator[int]:
    """When the waits of a workflow end, if nothing comes before."""
    state = known.state
    if state.outcome is not None:
        return
    if state.timer_at is not None:
        yield state.timer_at
    for record in known.open.values():
        end = _end(record)
        if end is not None:
            yield end


def _end(record: StepRecord) -> int | None:
    if record.outcome is not None:
        return None
    if isinstance(record.command, AwaitEvent | Sleep):
        return record.due_at
    return record.deadline_at


def _lengths(waits: set[int]) -> tuple[int, ...]:
    """In whole seconds, and only a few of them; each outlasts another wait."""
    usual = max((wait for wait in waits if wait < USUAL_MS), default=0)
    seconds = {-(-wait // 1_000) for wait in waits if wait != usual}  # that one is outlasted anyway
    found = sorted(each * 1_000 + MORE_MS for each in seconds)
    if len(found) > LATE_MAX:
        found = [found[0], found[len(found) // 2], found[-1]]
    return tuple(found)
