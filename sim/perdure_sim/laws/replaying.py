"""The laws of replay: a journal gives the same commands again, all of it and each part from its
beginning.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import TypeAlias

from msgspec.structs import replace

from perdure.core.journal import Journal
from perdure.core.messages import Asked, Ended, HandlerBlocked
from perdure.core.outcomes import Canceled, Failed
from perdure.core.replay import Handler, Reaction
from perdure.definitions import Workflow
from perdure.runtime.launch import launcher
from perdure.step import StepRules
from perdure.store.base import Loaded

from .violations import Violation

#: Journals with more facts have not each of their prefixes replayed, but so many, spread evenly.
PREFIXES_MAX = 20


#: See `shape_of`.
Shape: TypeAlias = Hashable

#: A workflow may end so while its handler waits.
_ENGINE_ERRORS = ("LimitExceeded", "InternalError")


class ReplayDiffers(Violation):
    """A workflow's code, run again from its journal, did something else than what is recorded."""


def check_replay(rules: StepRules, loaded: Loaded, seen: set[Shape] | None = None) -> None:
    """Replay a journal, and its prefixes; raises `ReplayDiffers`.

    Args:
        seen: shapes of journals whose prefixes were replayed before: they are not again, which is
            what makes runs by the thousand affordable.
    """
    whole = check_whole(rules, loaded)
    if whole is None:
        return
    shape = None if seen is None else shape_of(loaded)
    if seen is not None and shape in seen:
        return
    for position in _positions(len(whole)):
        _check(rules, loaded, _prefix(loaded, position), is_whole=False)
    if seen is not None and shape is not None:
        seen.add(shape)  # not before: what failed must fail again while it is shrunk


def check_whole(rules: StepRules, loaded: Loaded) -> Journal | None:
    """Replay a journal once, to its end; raises `ReplayDiffers`. None if it cannot be replayed."""
    state = loaded.state
    definition = rules.registry.get(state.header.name)
    if not isinstance(definition, Workflow) or state.started_at is None:
        return None
    whole = Journal(state.started_at, loaded.steps, loaded.ticks)
    _check(rules, loaded, whole, is_whole=True)
    return whole


def shape_of(loaded: Loaded) -> Shape:
    """What was asked for where, and what came of it where; no times and no values."""
    rows = [
        (
            record.command.name,
            record.asked_position,
            record.delivered_position,
            record.canceled_position,
            None if record.outcome is None else record.outcome.kind,
        )
        for record in loaded.steps
    ]
    ticks = [tick.position for tick in loaded.ticks]
    return (loaded.state.header.name, loaded.state.header.arguments, tuple(rows), tuple(ticks))


def _positions(count: int) -> Iterator[int]:
    step = max(1, count // PREFIXES_MAX)
    yield from range(0, count - 1, step)


def _prefix(loaded: Loaded, last: int) -> Journal:
    """The journal as it was when the fact at position `last` had been delivered."""
    steps = []
    for record in loaded.steps:
        if record.asked_position > last:
            continue
        if record.delivered_position is not None and record.delivered_position > last:
            record = replace(record, delivered_position=None, delivered_at=None)
        if record.canceled_position is not None and record.canceled_position > last:
            record = replace(record, canceled_position=None)
        steps.append(record)
    ticks = [tick for tick in loaded.ticks if tick.position <= last]
    return Journal(loaded.state.started_at, steps, ticks)


def _check(rules: StepRules, loaded: Loaded, journal: Journal, *, is_whole: bool) -> None:
    state = loaded.state
    definition = rules.registry.get(state.header.name)
    assert isinstance(definition, Workflow)
    assert state.started_at is not None
    launch = launcher(definition, state.header.arguments, rules)
    handler = Handler(state.workflow_id, launch, journal, state.started_at)
    try:
        reaction = handler.replay()
    finally:
        handler.close()
    problem = _problem(loaded, reaction, is_whole=is_whole)
    if problem is not None:
        raise ReplayDiffers(f"{state.workflow_id}, {len(journal)} facts: {problem}")


def _problem(loaded: Loaded, reaction: Reaction, *, is_whole: bool) -> str | None:
    outcome = loaded.state.outcome
    if isinstance(reaction, HandlerBlocked):
        return reaction.error.message
    if reaction.steps or reaction.cancels:
        return f"it asked for {reaction.steps} and cancelled {reaction.cancels}, unrecorded"
    if isinstance(reaction, Ended):
        if not is_whole:
            return f"it ended as {reaction.outcome} before its journal did"
        if outcome != reaction.outcome:
            return f"it ended as {reaction.outcome}, recorded is {outcome}"
    elif isinstance(reaction, Asked) and is_whole and outcome is not None:
        is_ours = isinstance(outcome, Failed) and outcome.error.type in _ENGINE_ERRORS
        if not (is_ours or isinstance(outcome, Canceled)):
            return f"it waits, but recorded is {outcome}"
    return None
