"""The end of a run: all must have ended, and the store must hold what was written."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from perdure.core.outcomes import Canceled
from perdure.core.workflow import WorkflowState
from perdure.step import StepRules
from perdure.store.base import Loaded

from ..explore.explorer import Stuck, _waits_for_events
from ..laws.known import is_given_up
from ..laws.replaying import ReplayDiffers, Shape, check_replay
from ..laws.violations import Violation
from ..report.stuck import why_stuck
from ..world.world import World


class OnCompleteFailed(Violation):
    """A workflow's `on_complete` raised, and the test did not look at that."""


def check_settled(world: World, may_wait: Collection[str]) -> None:
    """Raise `Stuck` if a workflow is in progress, or a client waits, and nothing can move."""
    states = [known.state for known in world.history.workflows.values()]
    if any(is_given_up(state) for state in states):
        return  # so many workers died with one: it waits for a person
    waiting = set(may_wait)
    if any(fault.kind in ("power_loss", "rerun", "cleanup") for fault in world.faults.fired):
        # What clients were told of was lost, or used up, and they do not send it again.
        waiting |= {state.workflow_id for state in states if _waits_for_events(state)}
    is_done = all(deed.is_done for deed in world.deeds)
    left = [
        state.workflow_id
        for state in states
        if state.outcome is None and state.workflow_id not in waiting
    ]
    if left or not is_done:
        hint = ""
        if left and all(_only_waits(world.history.workflows[each].state) for each in left):
            names = ", ".join(left)
            hint = f"\nIf {names} need not end, say so: sim.may_wait(…)"
        raise Stuck(why_stuck(world, waiting) + hint)


def _only_waits(state: WorkflowState) -> bool:
    return bool(state.live) and _waits_for_events(state)


def check_on_complete(world: World, looked_at: Collection[str]) -> None:
    """Raise `OnCompleteFailed` if that of a workflow raised, and the test has not asked for it."""
    for workflow_id, known in world.history.workflows.items():
        error = known.state.on_complete_error
        if error is not None and workflow_id not in looked_at:
            ended = type(known.state.outcome).__name__
            raise OnCompleteFailed(
                f"{workflow_id}: on_complete {known.header.on_complete} was given {ended}, and"
                f" raised {error.type}: {error.message}\nWhat it had written is undone, and it is"
                " not tried again; only `WorkflowInfo.on_complete_error` tells of it. If that is"
                " meant, look at run.on_complete_error in the test."
            )


def check_end(world: World, deployed: Sequence[StepRules], seen: set[Shape]) -> None:
    """The laws of the end: what is stored is what was written, and replays to the same."""
    store = world.open_disk()
    store.open(max_parallelism=None)
    try:
        loaded = world.history.check_store(store)
    finally:
        store.close()
    for each in loaded:
        known = world.history.workflows[each.state.workflow_id]
        if known.past and isinstance(each.state.outcome, Canceled):
            continue  # canceled before its code ran again: its journal is that of another end
        _check_replay(each, [*reversed(deployed), world.rules], seen)
    if world.is_at_rest:
        world.history.check_processes(world.processes, loaded)


def _check_replay(loaded: Loaded, rules: Sequence[StepRules], seen: set[Shape]) -> None:
    """It fits the code under which it ended, which is one of those that were deployed."""
    *older, last = rules
    for each in older:
        try:
            check_replay(each, loaded, seen)
        except ReplayDiffers:
            continue
        return
    check_replay(last, loaded, seen)
