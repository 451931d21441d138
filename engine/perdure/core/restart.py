"""The restart of a workflow that has ended: what of its journal stays, and what is asked again.

A pure function of values. The cut lies where the first step to be run anew was asked for: the
steps from that one on are deleted, and the ticks after that position; what else the handler had
learned after the cut it learns again, in the old order. Replaying what is left leads the handler
to the cut, where it asks for the rest anew. It is now there: the fact at the cut gets the time of
the restart, or a sleep that is run anew would be over, and a timeout too, before they began.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from .commands import AwaitEvent, RunChild, RunStep
from .frozen import Frozen
from .ids import Epoch, WorkflowId
from .journal import StepRecord, TickRecord, command_bytes, outcome_bytes
from .limits import TICK_BYTES
from .outcomes import Canceled
from .workflow import RESTARTED, Blocked, WorkflowState


class Restart(Frozen, frozen=True, kw_only=True):
    """What becomes of a workflow that is restarted.

    Attributes:
        state: in progress again; nobody owns it, and somebody should at once.
        changed: the rows of steps that stay and change.
        cut_number: steps from this one on are deleted, with the events that they consumed; None
            if all stay.
        cut_position: ticks after it are deleted.
        children: workflows that deleted steps had started, by the steps' numbers.
        asked_again: steps that wait for a child again.
    """

    state: WorkflowState
    changed: tuple[StepRecord, ...]
    cut_number: int | None
    cut_position: int
    children: tuple[tuple[int, WorkflowId], ...]
    asked_again: tuple[StepRecord, ...]


def restarted(
    state: WorkflowState,
    steps: Sequence[StepRecord],
    ticks: Sequence[TickRecord],
    *,
    from_number: int | None,
    epoch: Epoch,
    now: int,
) -> Restart:
    """The workflow from its beginning, with what is known of it.

    Args:
        state: of a workflow that has ended, with its unconsumed events.
        from_number: the first step to be run anew; None to keep all outcomes.
        epoch: the new one.
    """
    assert state.outcome is not None, state
    cut = _cut(state, steps, ticks, from_number, now)
    kept = cut.kept
    live: dict[int, StepRecord] = {}
    changed = [] if cut.restamped is None else [cut.restamped]
    kept_ticks = [tick for tick in ticks if tick.position <= cut.position]
    # Nothing is wrong, but its handler must run, and no fact will make it.
    again = Blocked(error=RESTARTED, count=0, retry_at=now)
    settled = _settled_again(kept, cut.position)
    for record in kept:
        after = settled.get(record.number)
        if after is None and _has_no_outcome(record, cut.position):
            after = _asked_again(record, now)
        if after is not None:
            changed.append(after)
            live[record.number] = after
    return Restart(
        state=replace(
            state,
            epoch=epoch,
            owner=None,
            status="in_progress",
            outcome=None,
            position=cut.position,
            stamp=cut.stamp,
            started_at=cut.started_at,
            ended_at=None,
            next_number=len(kept),
            live=live,
            settled=tuple((each.settled_at or 0, each.number) for each in settled.values()),
            awaiting=tuple(
                number
                for number, each in live.items()
                if isinstance(each.command, AwaitEvent) and each.state == "asked"
            ),
            busy=sum(each.state == "ready" for each in live.values()),
            timer_at=None,
            wake_at=now,
            journal_bytes=_size(kept, live, kept_ticks),
            takeovers=0,
            blocked=again if cut.position >= 0 else None,
            on_complete_error=None,
        ),
        changed=tuple(changed),
        cut_number=from_number,
        cut_position=cut.position,
        children=tuple(
            (each.number, each.child_id) for each in cut.gone if each.child_id is not None
        ),
        asked_again=tuple(
            each
            for each in live.values()
            if isinstance(each.command, RunChild) and each.state == "asked"
        ),
    )


class _Cut(Frozen, frozen=True):
    """Where the journal is cut, and what is before and behind it.

    Attributes:
        stamp: of the last fact before the cut.
        restamped: the step that brought this fact, if its time changes; it is among `kept`.
    """

    position: int
    stamp: int
    started_at: int | None
    kept: list[StepRecord]
    gone: list[StepRecord]
    restamped: StepRecord | None = None


def _cut(
    state: WorkflowState,
    steps: Sequence[StepRecord],
    ticks: Sequence[TickRecord],
    from_number: int | None,
    now: int,
) -> _Cut:
    if from_number is None:
        return _Cut(state.position, state.stamp, state.started_at, list(steps), [])
    kept = [each for each in steps if each.number < from_number]
    gone = [each for each in steps if each.number >= from_number]
    position = next(each.asked_position for each in gone if each.number == from_number)
    if position == 0:
        return _Cut(0, now, now, kept, gone)
    if any(tick.position == position for tick in ticks):
        # Its time says which of the handler's timers it fired, so it cannot have another one.
        # It fires again, if nothing of what it led to is kept.
        if not any(position in (each.asked_position, each.canceled_position) for each in kept):
            position -= 1
        stamp = _stamp_at(position, state, steps, ticks)
        return _Cut(position, stamp, state.started_at, kept, gone)
    at = next(i for i, each in enumerate(kept) if each.delivered_position == position)
    kept[at] = replace(kept[at], delivered_at=now)
    return _Cut(position, now, state.started_at, kept, gone, kept[at])


def _has_no_outcome(record: StepRecord, cut: int) -> bool:
    """Whether a step was canceled by the end of its workflow, or by what the handler did after the
    cut: that is no outcome of its own."""
    if record.outcome is None:
        return True
    if not isinstance(record.outcome, Canceled) or record.delivered_position is not None:
        return False
    return record.canceled_position is None or record.canceled_position > cut


def _settled_again(kept: Sequence[StepRecord], cut: int) -> dict[int, StepRecord]:
    """The steps whose outcomes are delivered again, or for the first time, in that order."""
    delivered, undelivered = [], []
    for record in kept:
        if record.delivered_position is None:
            is_own = record.outcome is not None and not _has_no_outcome(record, cut)
            if is_own and record.canceled_position is None:
                undelivered.append(record)
        elif record.delivered_position > cut:
            delivered.append(record)
    delivered.sort(key=lambda each: each.delivered_position or 0)
    undelivered.sort(key=lambda each: (each.settled_at or 0, each.number))
    again: dict[int, StepRecord] = {}
    last = (0, -1)
    for record in (*delivered, *undelivered):
        # What is read from a store comes in the order of (accepted at, number): where the old
        # order was another one, because something was heard of late, the time gives way.
        at = record.settled_at or 0
        if (at, record.number) < last:
            at = last[0] + 1
        last = (at, record.number)
        again[record.number] = replace(
            record, settled_at=at, delivered_position=None, delivered_at=None
        )
    return again


def _asked_again(record: StepRecord, now: int) -> StepRecord:
    """A step that runs anew. Its idempotency key stays; its attempts are counted anew."""
    command = record.command
    asked = replace(
        record,
        state="asked",
        due_at=command.due_at,
        runner=None,
        attempt=0,
        started_at=None,
        started_epoch=None,
        deadline_at=None,
        outcome=None,
        settled_at=None,
        canceled_position=None,
        event_id=None,
    )
    if isinstance(command, RunChild):
        return replace(asked, due_at=None)
    if isinstance(command, RunStep) and (command.due_at is None or command.due_at <= now):
        return replace(asked, state="ready", due_at=now)
    return asked


def _stamp_at(
    position: int,
    state: WorkflowState,
    steps: Sequence[StepRecord],
    ticks: Sequence[TickRecord],
) -> int:
    """When the fact at `position` was delivered."""
    if position == 0:
        return state.started_at or 0
    for tick in ticks:
        if tick.position == position:
            return tick.now
    return next(each.delivered_at or 0 for each in steps if each.delivered_position == position)


def _size(
    kept: Sequence[StepRecord], live: dict[int, StepRecord], ticks: Sequence[TickRecord]
) -> int:
    """The size of the journal that is left."""
    size = TICK_BYTES * len(ticks)
    for record in kept:
        outcome = live.get(record.number, record).outcome
        size += command_bytes(record.command) + (0 if outcome is None else outcome_bytes(outcome))
    return size
