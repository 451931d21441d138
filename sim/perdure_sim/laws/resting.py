"""The laws of rest: when nothing moves any more, what is stored, and what processes still keep."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from msgspec.structs import asdict, replace

from perdure.core.commands import AwaitEvent
from perdure.core.ids import WorkerId, WorkflowId
from perdure.core.journal import command_bytes, outcome_bytes
from perdure.core.limits import TICK_BYTES
from perdure.core.workflow import WorkflowState
from perdure.store import rows
from perdure.store.base import Loaded, Store

from .known import Known
from .violations import (
    CodecLoses,
    EventLost,
    Leak,
    SizeWrong,
    StateDiffers,
    StateUnsound,
    StoreDiffers,
)

if TYPE_CHECKING:
    from ..world.process import Process

#: What of a workflow's row the history knows.
_KNOWN = ("status", "outcome", "position", "stamp", "started_at", "next_number")


def check_store(
    workflows: Mapping[WorkflowId, Known],
    deleted: Collection[WorkflowId],
    store: Store,
    *,
    is_whole: bool,
) -> list[Loaded]:
    """Compare all that was written with what the store gives.

    Args:
        is_whole: it was written by an engine: so it obeys the laws beyond that, too.
    """
    ids = list(workflows)
    found = {each.state.workflow_id: each for each in store.reader().load([*ids, *deleted])}
    for workflow_id in found.keys() - workflows.keys():
        raise StoreDiffers(f"{workflow_id} was deleted, and is there: {found[workflow_id]}")
    for workflow_id, known in workflows.items():
        loaded = found.get(workflow_id)
        if loaded is None:
            raise StoreDiffers(f"{workflow_id} is gone")
        _compare(known, loaded)
        _check_sound(loaded)
        if is_whole:
            _check_size(loaded)
            check_codec(loaded)
            _check_events(known, loaded.state)
    return [found[workflow_id] for workflow_id in ids]


def _compare(known: Known, loaded: Loaded) -> None:
    workflow_id, state = known.workflow_id, loaded.state
    steps = {record.number: record for record in loaded.steps}
    if steps != known.steps:
        wrong = min(n for n in (*steps, *known.steps) if steps.get(n) != known.steps.get(n))
        raise StoreDiffers(
            f"{workflow_id} step {wrong}: stored {steps.get(wrong)}, written"
            f" {known.steps.get(wrong)}"
        )
    ticks = {tick.position: tick.now for tick in loaded.ticks}
    if ticks != known.ticks:
        raise StoreDiffers(f"{workflow_id}: ticks {ticks}, written {known.ticks}")
    for name in _KNOWN:
        stored, written = getattr(state, name), getattr(known.state, name)
        if stored != written:
            raise StoreDiffers(f"{workflow_id}: {name} is {stored!r}, written {written!r}")
    events = {event.event_id: event for event in state.events}
    waiting = {key: each for key, each in known.sent.items() if key not in known.consumed}
    if events != waiting:
        raise StoreDiffers(f"{workflow_id}: events {events}, written {waiting}")


def _check_sound(loaded: Loaded) -> None:
    state = loaded.state
    try:
        state.check()
    except AssertionError as error:
        raise StateUnsound(f"{state.workflow_id}: {error}") from error


def _check_size(loaded: Loaded) -> None:
    state = loaded.state
    size = TICK_BYTES * len(loaded.ticks)
    for record in loaded.steps:
        if record.canceled_position is not None:
            return  # it may have had another outcome before, which counts
        size += command_bytes(record.command)
        size += 0 if record.outcome is None else outcome_bytes(record.outcome)
    size += 0 if state.outcome is None else outcome_bytes(state.outcome)
    if size != state.journal_bytes:
        raise SizeWrong(f"{state.workflow_id}: {state.journal_bytes} bytes, its rows have {size}")


def check_codec(loaded: Loaded) -> None:
    """Rows of all that was loaded, read again, are the same."""
    state, workflow_id = loaded.state, loaded.state.workflow_id
    for record in loaded.steps:
        row = (*rows.command_row(workflow_id, record), *rows.run_row(record), *rows.end_row(record))
        again = rows.step_from_row(row)
        if again != record:
            raise CodecLoses(f"{workflow_id}: {record} as a row is {again}")
    for event in state.events:
        sent = rows.event_from_row((event.event_id, event.name, *rows.event_columns(event)))
        if sent != event:
            raise CodecLoses(f"{workflow_id}: {event} as a row is {sent}")
    row = (*rows.header_row(state.header), *rows.state_row(state))
    read = rows.state_from_row(row, state.live.values(), state.events)
    if replace(read, settled=state.settled) != replace(state, live=dict(state.live)):
        raise CodecLoses(f"{workflow_id}: {state} as a row is {read}")


def _check_events(known: Known, state: WorkflowState) -> None:
    """No event lies beside an await that would take it."""
    if state.status != "in_progress" or state.blocked is not None:
        return
    for record in state.live.values():
        command = record.command
        if record.state != "asked" or not isinstance(command, AwaitEvent):
            continue
        for event in state.events:
            is_awaited = command.event_id == event.event_id or command.event_name == event.name
            if is_awaited and event.outcome is not None:
                raise EventLost(f"{known.workflow_id}: {event}, awaited by step {record.number}")


def check_processes(
    processes: Iterable[Process], registered: Iterable[WorkerId], stored: Iterable[Loaded]
) -> None:
    """What living processes keep in memory is what they need, and as it is stored."""
    states = {each.state.workflow_id: each.state for each in stored}
    living = []
    for process in processes:
        worker = process.engine._worker
        if not process.is_alive or worker is None:
            continue
        name = process.name
        if process.engine._open_tickets:
            raise Leak(f"{name}: {len(process.engine._open_tickets)} requests are not answered")
        collecting = worker._collecting
        if len(process.engine.mailbox) or collecting.pending:
            raise Leak(f"{name}: messages are not taken in: {collecting.pending}")
        if process.loop.loop.tasks:
            raise Leak(f"{name}: tasks of actions are not done: {process.loop.loop.tasks}")
        runner, me = worker._runner, worker.env.worker_id
        if runner is None or me is None:
            continue
        living.append(me)
        if runner.running:
            raise Leak(f"{name}: {runner.running} attempts hold a permit, and none runs")
        actors = worker.actors
        if len(actors.timers) or actors.runnable:
            raise Leak(f"{name}: timers {len(actors.timers)}, runnable {list(actors.runnable)}")
        for workflow_id, actor in actors.by_id.items():
            _check_actor(name, me, actor.state, states[workflow_id])
    dead = sorted(set(registered) - set(living))
    if dead:  # (one that lives may have been taken for dead, and not know it while it idles)
        raise Leak(f"workers {dead} are registered, and {sorted(living)} live")
    for state in states.values():
        if state.owner is not None and state.owner not in living:
            raise Leak(f"{state.workflow_id} is kept by {state.owner}, which does not live")


def _check_actor(name: str, me: str, state: WorkflowState, stored: WorkflowState) -> None:
    if stored.owner != me:
        raise Leak(f"{name} keeps {stored.workflow_id}, which {stored.owner} owns")
    mine, other = asdict(state), asdict(stored)
    mine["live"], other["live"] = dict(state.live), dict(stored.live)
    # Nobody is told of events that are only created: who awaits one looks for it.
    for each in (mine, other):
        each["events"] = tuple(event for event in each["events"] if event.outcome is not None)
    for field, value in mine.items():
        if value != other[field]:
            raise StateDiffers(
                f"{stored.workflow_id} in {name}: {field} is {value}, stored {other[field]}"
            )
