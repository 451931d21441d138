"""One workflow in memory, and how the worker decides for it.

An actor is a cache: the state as stored, and the live handler, which is a memo of the journal. It
may be dropped at any time; after a fault it is.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import attrs
import msgspec
from msgspec.structs import replace

from perdure import determinism
from perdure.core.commands import RunStep
from perdure.core.draft import Decision
from perdure.core.effects import CallFunction, CallOnComplete, Effect, RunAttempt, Write
from perdure.core.ids import Epoch, WorkflowId
from perdure.core.journal import Delivery, Journal, StepRecord
from perdure.core.messages import Admission, Asked, Ended, FactDelivered, HandlerBlocked, Message
from perdure.core.replay import Handler, Reaction
from perdure.core.transition import transition
from perdure.core.workflow import WorkflowState, is_parkable, next_fact, parked, survived
from perdure.definitions import Mutation, Workflow
from perdure.errors import ErrorInfo
from perdure.step import StepRules
from perdure.store.base import Loaded

from .launch import launcher
from .scope import ON_COMPLETE

logger = logging.getLogger("perdure.worker")


class Actor(msgspec.Struct):
    """A workflow that this worker owns.

    Attributes:
        state: as of the last decision; stored, unless a commit is under way.
        journal: what a replay needs, until the handler was built from it.
        handler: the live handler, once it was needed.
        must_replay: advance the handler even without a fact: its code may have changed.
    """

    state: WorkflowState
    journal: Journal | None
    handler: Handler | None = None
    must_replay: bool = False

    @staticmethod
    def of(loaded: Loaded) -> Actor:
        """An actor from the store's rows."""
        state = loaded.state
        journal = Journal(state.started_at, loaded.steps, loaded.ticks)
        return Actor(state, journal, must_replay=state.blocked is not None)

    @staticmethod
    def fresh(state: WorkflowState) -> Actor:
        """An actor of a workflow that has no history yet."""
        return Actor(state, Journal(None, (), ()))

    def close(self) -> None:
        """Drop the handler."""
        if self.handler is not None:
            self.handler.close()
            self.handler = None


class Unit(msgspec.Struct, kw_only=True):
    """What was decided for one workflow in one turn: a part of a commit that stands alone.

    Attributes:
        expected_epoch: what the stored row must have; None when the row is to be inserted.
        state: after all decisions.
        messages: what it was decided from, to be taken up again if the commit fails.
        inbox: rows of the inbox that it was decided from, to be deleted with it.
        held: ready queries and mutations that wait for the end of a pause.
        order: the client's order, for a workflow that is to be inserted.
    """

    workflow_id: WorkflowId
    actor: Actor
    expected_epoch: Epoch | None
    state: WorkflowState
    messages: Sequence[Message] = ()
    inbox: list[int] = msgspec.field(default_factory=list)
    writes: list[Write] = msgspec.field(default_factory=list)
    effects: list[Effect] = msgspec.field(default_factory=list)
    ready: list[StepRecord] = msgspec.field(default_factory=list)
    held: list[int] = msgspec.field(default_factory=list)
    order: Any = None

    def take(self, decision: Decision) -> None:
        """Add a decision."""
        self.state = decision.state
        if decision.writes:
            self.writes += decision.writes
        if decision.effects:
            self.effects += decision.effects
        if decision.ready:
            self.ready += decision.ready

    def attempts(self) -> int:
        """How many attempts of actions it starts: permits that it uses."""
        count = 0
        for effect in self.effects:
            count += isinstance(effect, RunAttempt)
        return count

    def functions(self) -> list[int]:
        """The steps whose functions run in the unit's transaction."""
        return [write.number for write in self.writes if isinstance(write, CallFunction)]

    def on_complete(self) -> set[tuple[WorkflowId, int]]:
        """Its `on_complete`, as a step, if that runs in the unit's transaction."""
        calls = any(isinstance(write, CallOnComplete) for write in self.writes)
        return {(self.workflow_id, ON_COMPLETE)} if calls else set()


@attrs.frozen
class Decider:
    """Decides for one actor at a time: no transaction, no lock, no I/O."""

    rules: StepRules

    def apply(self, unit: Unit, message: Message, now: int) -> None:
        """One transition."""
        unit.take(transition(unit.state, message, now, self.rules.limits))

    def decide(self, unit: Unit, now: int, admission: Admission) -> None:
        """Take in all messages, then deliver facts to the handler until it has to wait."""
        for message in unit.messages:
            self.apply(unit, message, now)
        self._deliver_all(unit, now, admission)
        unit.state = survived(unit.state)

    def _deliver_all(self, unit: Unit, now: int, admission: Admission) -> None:
        actor = unit.actor
        # Should the handler turn out to be blocked, nothing of what was delivered is journaled.
        mark = (unit.state, len(unit.writes), len(unit.effects), len(unit.ready))
        if actor.must_replay and unit.state.position >= 0:
            actor.must_replay = False
            if not self._replay(unit, now, mark):
                return
        while (fact := next_fact(unit.state, now)) is not None:
            if actor.handler is None and not self._replay(unit, now, mark):
                return
            if unit.state.status != "in_progress":
                return
            assert actor.handler is not None
            self.apply(unit, FactDelivered(fact=fact), now)
            delivery = Delivery(unit.state.position, unit.state.stamp, fact)
            reaction = _guarded(actor.handler, delivery)
            if isinstance(reaction, Ended):
                reaction = self._end(unit, reaction)
            if isinstance(reaction, HandlerBlocked):
                self._block(unit, mark, reaction, now)
                return
            if isinstance(reaction, Asked) and reaction.steps:
                reaction = replace(reaction, admission=_left(admission, unit))
            self.apply(unit, reaction, now)

    def _replay(self, unit: Unit, now: int, mark: Any) -> bool:
        """Build the handler and run it through the journal; False if it is blocked."""
        actor, header = unit.actor, unit.state.header
        actor.close()
        definition = self.rules.registry.get(header.name)
        journal = actor.journal
        assert journal is not None, "the journal of a dropped handler was not loaded again"
        if not isinstance(definition, Workflow):
            error = ErrorInfo("DefinitionError", f"{header.name!r} is no workflow in this process")
            self._block(unit, mark, HandlerBlocked(error=error), now)
            return False
        start_ms = unit.state.started_at
        if start_ms is None:
            start_ms = max(now, unit.state.stamp)
        launch = launcher(definition, header.arguments, self.rules)
        actor.handler = Handler(header.workflow_id, launch, journal, start_ms)
        actor.journal = None
        if not len(journal):
            return True
        reaction = _guarded(actor.handler, None)
        if isinstance(reaction, HandlerBlocked):
            self._block(unit, mark, reaction, now)
            return False
        self.apply(unit, reaction, now)
        return True

    def _end(self, unit: Unit, ended: Ended) -> Ended | HandlerBlocked:
        """The end of a workflow; it waits for a process that knows its `on_complete`."""
        name = unit.state.header.on_complete
        if name is None or isinstance(self.rules.registry.get(name), Mutation):
            return ended
        text = f"its on_complete {name!r} is no mutation in this process: it ends where it is"
        return HandlerBlocked(error=ErrorInfo("DefinitionError", text))

    def wait_for_definition(self, unit: Unit, record: StepRecord, now: int) -> None:
        """A step of a function that this process does not define: give the workflow up, so that
        it goes on where the function is defined."""
        command = record.command
        assert isinstance(command, RunStep)
        text = (
            f"{command.kind} {command.function!r} of step {record.number} is not defined in this"
            " process: the workflow goes on where it is"
        )
        self.apply(unit, HandlerBlocked(error=ErrorInfo("DefinitionError", text)), now)

    def _block(self, unit: Unit, mark: Any, blocked: HandlerBlocked, now: int) -> None:
        unit.state, writes, effects, ready = mark
        del unit.writes[writes:]
        del unit.effects[effects:]
        del unit.ready[ready:]
        unit.actor.close()
        self.apply(unit, blocked, now)

    def park(self, unit: Unit, now: int, *, is_draining: bool) -> None:
        """Give up the ownership of a workflow that only waits; while draining, of any other too
        that has no running attempt."""
        state = unit.state
        if is_parkable(state, now):
            unit.state = parked(state)
        elif is_draining and state.status == "in_progress" and state.owner is not None:
            if all(record.state != "started" for record in state.live.values()):
                unit.state = replace(state, owner=None, wake_at=now)


def _left(admission: Admission, unit: Unit) -> Admission:
    """What the unit has not used up of what the pool lets it start."""
    used = unit.attempts()
    if not used:
        return admission
    return replace(admission, permits=admission.permits - used)


def _guarded(handler: Handler, delivery: Delivery | None) -> Reaction:
    """Advance a handler, with sockets, threads and the like refused meanwhile."""
    token = determinism.enter()
    try:
        return handler.replay() if delivery is None else handler.deliver(delivery)
    finally:
        determinism.leave(token)
        if handler.loop.unhandled:
            _report(handler, is_replay=delivery is None)


def _report(handler: Handler, *, is_replay: bool) -> None:
    """Log what a handler's tasks raised and nobody awaited, as asyncio does; once."""
    reports = list(handler.loop.unhandled)
    handler.loop.unhandled.clear()
    if is_replay:
        return  # told when it happened first
    for report in reports:
        logger.error(
            "workflow %s: %s",
            handler.workflow_id,
            report["message"],
            exc_info=report.get("exception"),
        )
