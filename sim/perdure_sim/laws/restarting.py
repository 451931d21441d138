"""The laws of a restart: the one thing that may change what is closed in a journal."""

from __future__ import annotations

from collections.abc import Mapping

from perdure.core.journal import StepRecord
from perdure.core.outcomes import Canceled
from perdure.core.workflow import WorkflowState
from perdure.runtime.scope import ON_COMPLETE
from perdure.store.rows import is_open

from .known import Known
from .violations import RestartCutsWrong

_ASKED = ("number", "command", "asked_position", "asked_at", "asked_epoch", "child_id")


def restarted(
    old: Known,
    state: WorkflowState,
    rows: Mapping[int, StepRecord],
    *,
    number: int,
    position: int,
    now: int,
) -> Known:
    """What is known of a workflow from its restart on.

    Args:
        old: what was known until then.
        state: as it is written.
        rows: the steps that this commit writes, by their numbers.
        number: steps from this one on are deleted.
        position: and facts after this one.
    """
    new = Known(state, old.header, state.owner, since=state.epoch, past=list(old.past))
    assert old.state.outcome is not None
    new.ended_last = old.ended_in
    new.past.append(old.state.outcome)
    asked_at = position
    if number < len(old.steps):
        asked_at = old.steps[number].asked_position
        if position == asked_at - 1 and asked_at in old.ticks:
            asked_at = position  # a timer that fires again
    if asked_at != position:
        raise RestartCutsWrong(f"{old.workflow_id}: after {position}, which asks for no {number}")
    if (state.position, state.next_number) != (position, number):
        raise RestartCutsWrong(f"{old.workflow_id}: after {position}, before {number}: {state}")
    for each, before in old.steps.items():
        if each < number:
            new.steps[each] = _kept(old, before, rows.get(each, before), position)
    new.open = {each: record for each, record in new.steps.items() if is_open(record)}
    new.ticks = {at: tick for at, tick in old.ticks.items() if at <= position}
    new.delivered = {at: stamp for at, stamp in old.delivered.items() if at <= position}
    if position in new.delivered and position not in new.ticks and number < len(old.steps):
        new.delivered[position] = state.stamp  # the one time that changes
    new.checked_to = min(old.checked_to, position)
    new.consumed = {event: by for event, by in old.consumed.items() if by < number}
    gone = old.consumed.keys() - new.consumed.keys()
    new.sent = {event: sent for event, sent in old.sent.items() if event not in gone}
    again = {each for each, record in new.steps.items() if record.outcome is None}
    new.functions = {
        each
        for each in old.functions
        if each != ON_COMPLETE and each < number and each not in again
    }
    new.seen.asked = dict.fromkeys(new.steps, now)
    new.seen.settled = {each: now for each in new.steps if each not in again}
    new.seen.sent = dict.fromkeys(new.sent, now)
    new.seen.restarted = now
    return new


def _kept(old: Known, before: StepRecord, after: StepRecord, position: int) -> StepRecord:
    """A step that stays: so does what was asked, and its outcome, if it had one of its own."""
    where = f"{old.workflow_id} step {before.number}"
    for name in _ASKED:
        if getattr(before, name) != getattr(after, name):
            raise RestartCutsWrong(f"{where}: {name} was {getattr(before, name)!r}: {after}")
    if after.outcome is None and not isinstance(before.outcome, Canceled):
        raise RestartCutsWrong(f"{where} had the outcome {before.outcome}: {after}")
    if after.delivered_position is not None and after.delivered_position > position:
        raise RestartCutsWrong(f"{where} was learned after {position}: {after}")
    was_open = before.delivered_position is None and before.canceled_position is None
    if isinstance(before.outcome, Canceled) and was_open and isinstance(after.outcome, Canceled):
        raise RestartCutsWrong(f"{where} was canceled by the end, and is not asked again: {after}")
    return after
