"""Planted bugs: how we know that the simulator works.

Each mutant changes one place in the source of one engine function, in this process only, while it
is planted. A mutant that no run finds is a missing check. Production code knows nothing of them.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import attrs


@attrs.frozen
class Mutant:
    """One planted bug.

    Attributes:
        name: what is wrong, in a few words.
        sort: what kind of bug it is.
        target: ``module:function`` or ``module:Class.method``, below ``perdure``.
        old: a piece of the function's source that occurs once in it.
        new: what stands there instead.
    """

    name: str
    sort: str
    target: str
    old: str
    new: str


class MutantError(Exception):
    """A mutant no longer fits the source that it changes."""


def _function(mutant: Mutant) -> tuple[Any, str, FunctionType]:
    module_name, _, path = mutant.target.partition(":")
    owner: Any = importlib.import_module(f"perdure.{module_name}")
    *classes, name = path.split(".")
    for each in classes:
        owner = getattr(owner, each)
    found = inspect.getattr_static(owner, name)
    function = _bare(found)
    if not isinstance(function, FunctionType):
        raise MutantError(f"{mutant.name}: {mutant.target} is no plain function")
    return owner, name, function


def _bare(found: Any) -> Any:
    """The function in a static method or a property."""
    if isinstance(found, staticmethod):
        return found.__func__
    return found.fget if isinstance(found, property) else found


def changed(mutant: Mutant) -> FunctionType:
    """The function with the bug in it.

    Raises:
        MutantError: the piece of source does not occur, or more than once.
    """
    _, name, function = _function(mutant)
    source = textwrap.dedent(inspect.getsource(function))
    if source.count(mutant.old) != 1:
        raise MutantError(
            f"{mutant.name}: {mutant.old!r} occurs {source.count(mutant.old)} times in"
            f" {mutant.target}: the source has changed, change the mutant too"
        )
    source = source.replace(mutant.old, mutant.new)
    code = compile("from __future__ import annotations\n" + source, mutant.target, "exec")
    names: dict[str, Any] = {}
    exec(code, function.__globals__, names)
    made = _bare(names[name])
    assert isinstance(made, FunctionType)
    return made


def _as_it_is(function: FunctionType) -> FunctionType:
    return function


@contextmanager
def planted(mutant: Mutant) -> Iterator[None]:
    """Plant a bug for the length of a block, wherever its function is known."""
    owner, name, function = _function(mutant)
    bad = changed(mutant)
    places = [(owner, name)]
    if inspect.ismodule(owner):
        for module in list(sys.modules.values()):
            if module is not None and module.__name__.startswith(("perdure.", "perdure_sim.")):
                if vars(module).get(name) is function and (module, name) not in places:
                    places.append((module, name))
    found = inspect.getattr_static(owner, name)
    wrap = type(found) if isinstance(found, staticmethod | property) else _as_it_is
    before = [(place, inspect.getattr_static(place, name)) for place, name in places]
    try:
        for place, name in places:
            setattr(place, name, wrap(bad))
        yield
    finally:
        for place, old in before:
            setattr(place, name, old)


MUTANTS = (
    # --- fences and epochs
    Mutant(
        "the worker's own fence is not looked at",
        "fencing",
        "runtime.commit:Committer._put_rows",
        "fence=self.env.worker_id",
        "fence=None",
    ),
    Mutant(
        "a cancel keeps the epoch",
        "fencing",
        "core.transition:advance",
        "draft.epoch = message.epoch",
        "pass",
    ),
    # --- what is not known to be committed
    Mutant(
        "after a failed commit the actors are kept",
        "unknown outcome",
        "runtime.worker:Worker._store_failed",
        "self.actors.drop(workflow_id)\n",
        "pass\n",
    ),
    Mutant(
        "attempts of a commit that was stored after all are not run",
        "unknown outcome",
        "runtime.worker:Worker._doubt",
        "if isinstance(effect, RunAttempt):",
        "if False:",
    ),
    Mutant(
        "a start is tried again as if it were new",
        "unknown outcome",
        "runtime.worker:_again",
        "if isinstance(ticket.request, StartOrder):",
        "if False:",
    ),
    Mutant(
        "messages of a failed turn are forgotten",
        "lost message",
        "runtime.worker:Worker._store_failed",
        "[*batch.posts, *tickets, *collecting.pending]",
        "[*tickets, *collecting.pending]",
    ),
    Mutant(
        "events that were loaded are told again",
        "duplicate",
        "runtime.collect:CollectPhase._forget_events",
        "[each for each in messages if not isinstance(each, EventSent)]",
        "messages",
    ),
    # --- timers
    Mutant(
        "a sleep that is short enough is not slept",
        "timer",
        "core.transition:_ask",
        "if command.due_at <= now:",
        "if command.due_at <= now + 10:",
    ),
    Mutant(
        "a tick tells a later time",
        "timer",
        "core.workflow:next_fact",
        "return Tick(max(now, state.stamp))",
        "return Tick(max(now, state.stamp) + 2_000)",
    ),
    Mutant(
        "timers are not derived again",
        "timer",
        "core.workflow:due_timers",
        'record.state not in ("ready", "settled")',
        'record.state not in ("ready", "settled", "backoff")',
    ),
    Mutant(
        "a parked workflow does not know when to wake",
        "timer",
        "core.workflow:next_wake",
        "return min(times, default=None)",
        "return None",
    ),
    # --- attempts and retries
    Mutant(
        "one attempt too many",
        "retry",
        "core.transition:_fail_attempt",
        "record.attempt >= plan.max_attempts",
        "record.attempt > plan.max_attempts",
    ),
    Mutant(
        "the wait between attempts is forgotten",
        "retry",
        "core.transition:_fail_attempt",
        "draft.now + plan.backoff_ms(record.attempt, key=key)",
        "draft.now",
    ),
    Mutant(
        "attempts begin anew after a loss",
        "retry",
        "core.transition:_on_attempt_lost",
        "_fail_attempt(draft, record,",
        "_fail_attempt(draft, replace(record, attempt=0),",
    ),
    Mutant(
        "lost attempts are not told",
        "recovery",
        "runtime.claims:_lost",
        'if record.state == "started" and record.runner not in living',
        "if False",
    ),
    Mutant(
        "a late outcome of an earlier attempt counts",
        "late outcome",
        "core.transition:_current_attempt",
        "(record.started_epoch, record.attempt) != (message.epoch, message.attempt)",
        "False",
    ),
    Mutant(
        "an outcome that is reported twice is taken twice",
        "duplicate",
        "core.transition:_current_attempt",
        'if record is None or record.state != "started":',
        "if record is None:",
    ),
    Mutant(
        "the idempotency key changes with the owner",
        "retry",
        "runtime.runner:ActionRunner._prepare",
        "record.asked_epoch)",
        "record.started_epoch or 0)",
    ),
    # --- recovery
    Mutant(
        "ready steps of a loaded workflow are not queued",
        "recovery",
        "runtime.actors:Actors.adopt",
        'if record.state == "ready":',
        "if False:",
    ),
    Mutant(
        "the dead are not buried",
        "recovery",
        "runtime.claims:Claims._bury_dead",
        "if not self._others:",
        "if True:",
    ),
    Mutant(
        "what is left to learn is not looked at",
        "recovery",
        "runtime.worker:Worker._settle_actor",
        "self.actors.runnable[workflow_id] = None",
        "pass",
    ),
    # --- events
    Mutant(
        "of two events the later one comes first",
        "event",
        "core.workflow:match_events",
        "for event in state.events:",
        "for event in reversed(state.events):",
    ),
    Mutant(
        "a new event takes the place of the others",
        "event",
        "core.transition:_on_event_sent",
        "others = [known for known in draft.events if known.event_id != event.event_id]",
        "others = []",
    ),
    Mutant(
        "a delivered event is not consumed",
        "event",
        "core.transition:_delivered",
        "draft.writes.append(ConsumeEvent(event.event_id, record.number))",
        "pass",
    ),
    Mutant(
        "the inbox is not read again",
        "lost message",
        "runtime.inbox:InboxReader.read",
        "if not (self.look or has_changed):",
        "if not self.look:",
    ),
    # --- order and time
    Mutant(
        "outcomes are delivered by when they were seen",
        "order",
        "core.draft:Draft._queue",
        "if not self.settled or self.settled[-1][0] <= record.settled_at:",
        "if True:",
    ),
    Mutant(
        "the last outcome is delivered first",
        "order",
        "core.workflow:next_fact",
        "at, number = state.settled[0]",
        "at, number = state.settled[-1]",
    ),
    Mutant(
        "a workflow's time follows the clock back",
        "time",
        "core.transition:_on_fact_delivered",
        "stamp = max(draft.stamp, draft.now)",
        "stamp = draft.now - 1",
    ),
    # --- the end
    Mutant(
        "open steps stay open when the workflow ends",
        "end",
        "core.transition:_end",
        "draft.drop(record)\n",
        "pass\n",
    ),
    Mutant(
        "an end does not give up the ownership",
        "end",
        "core.transition:_end",
        "draft.owner = draft.wake_at = draft.timer_at = draft.blocked = None",
        "draft.wake_at = draft.timer_at = draft.blocked = None",
    ),
    # --- replay
    Mutant(
        "a replay takes any step for the one that is asked for",
        "replay",
        "core.journal:Batch.take",
        "if is_same(command, record.command):",
        "if i == len(steps) - 1:",
    ),
    Mutant(
        "a replay delivers by step number",
        "replay",
        "core.journal:Journal.__init__",
        "deliveries.sort(key=lambda delivery: delivery.position)",
        "pass",
    ),
    Mutant(
        "the position is not counted on",
        "replay",
        "core.transition:_on_fact_delivered",
        "position = draft.position = draft.position + 1",
        "position = draft.position = max(draft.position, 0) + (draft.position != 3)",
    ),
    # --- the pool
    Mutant(
        "running attempts hold no permit",
        "pool",
        "runtime.decide:DecidePhase._free_permits",
        "self.claims.permits - self.actors.running",
        "self.claims.permits",
    ),
    Mutant(
        "permits are taken without looking at the others",
        "pool",
        "core.pool:permits_to_hold",
        "free = max(0, limit - taken - mine.permits)",
        "free = max(0, limit - mine.permits); taken = 0",
    ),
)
