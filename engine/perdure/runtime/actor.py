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

from perdure import guard
from perdure.core.commands import RunStep
from perdure.core.draft import Draft
from perdure.core.effects import CallFunction, CallOnComplete, Effect, RunAttempt, Write
from perdure.core.ids import Epoch, WorkflowId
from perdure.core.journal import Delivery, Journal, StepRecord
from perdure.core.limits import FACTS_PER_TURN_MAX
from perdure.core.messages import (
    Admission,
    Asked,
    Ended,
    FactDelivered,
    FailWorkflow,
    HandlerBlocked,
    Message,
)
from perdure.core.replay import Handler, Reaction
from perdure.core.transition import advance
from perdure.core.workflow import RESTARTED, WorkflowState, is_parkable, next_fact, next_wake
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
        damage: what of it the store cannot read; then nothing else of it is to be believed.
        is_over: its workflow has ended, or is out of our hands: who waits for it has been told, or
            will be.
    """

    state: WorkflowState
    journal: Journal | None
    handler: Handler | None = None
    must_replay: bool = False
    is_over: bool = False
    damage: ErrorInfo | None = None

    @staticmethod
    def of(loaded: Loaded) -> Actor:
        """An actor from the store's rows."""
        state = loaded.state
        journal = Journal(state.started_at, loaded.steps, loaded.ticks)
        must_replay = state.blocked is not None
        return Actor(state, journal, must_replay=must_replay, damage=loaded.damage)

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
        state: as the actor has it; after all decisions, what they made of it.
        messages: what it was decided from, to be taken up again if the commit fails.
        inbox: rows of the inbox that it was decided from, to be deleted with it.
        held: ready queries and mutations that wait for the end of a pause.
        order: the client's order, for a workflow that is to be inserted.
    """

    workflow_id: WorkflowId
    actor: Actor
    expected_epoch: Epoch | None
    state: WorkflowState
    _draft: Draft | None = None
    messages: Sequence[Message] = ()
    inbox: list[int] = msgspec.field(default_factory=list)
    writes: list[Write] = msgspec.field(default_factory=list)
    effects: list[Effect] = msgspec.field(default_factory=list)
    held: list[int] = msgspec.field(default_factory=list)
    order: Any = None

    @property
    def draft(self) -> Draft:
        """What it is decided in: from `Decider.begin` to `Decider.finish`."""
        assert self._draft is not None, "not under way"
        return self._draft

    @draft.setter
    def draft(self, draft: Draft | None) -> None:
        self._draft = draft

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

    def begin(self, unit: Unit, now: int) -> Draft:
        """Open a unit, and take in all its messages."""
        draft = unit.draft = Draft.of(unit.state, now, self.rules.limits)
        for message in unit.messages:
            advance(draft, message)
        return draft

    def fail(self, unit: Unit, error: ErrorInfo, now: int) -> None:
        """Open a unit, and end its workflow."""
        draft = unit.draft = Draft.of(unit.state, now, self.rules.limits)
        advance(draft, FailWorkflow(error=error))

    def decide(self, unit: Unit, now: int, admission: Admission) -> None:
        """Open a unit, and deliver facts to the handler until it has to wait."""
        if unit.actor.damage is not None:
            # What is for it stays where it is until its rows can be read.
            unit.messages, unit.inbox = (), []
            advance(self.begin(unit, now), HandlerBlocked(error=unit.actor.damage))
            return
        self._deliver_all(unit, self.begin(unit, now), admission)
        unit.draft.survive()

    def _deliver_all(self, unit: Unit, draft: Draft, admission: Admission) -> None:
        actor, now = unit.actor, draft.now
        if actor.must_replay and draft.position >= 0:
            actor.must_replay = False
            if not self._replay(unit, draft):
                return
            blocked = draft.blocked
            if blocked is not None and (blocked.error == RESTARTED or not draft.busy):
                draft.blocked = None  # its code fits; what is ready may still miss its function
        for _ in range(FACTS_PER_TURN_MAX):
            fact = next_fact(draft, now)
            if fact is None:
                return
            if actor.handler is None and not self._replay(unit, draft):
                return
            if draft.status != "in_progress":
                return
            assert actor.handler is not None
            advance(draft, FactDelivered(fact=fact))
            delivery = Delivery(draft.position, draft.stamp, fact)
            reaction = _guarded(actor.handler, delivery)
            if isinstance(reaction, Asked):
                if reaction.steps:
                    reaction = replace(reaction, admission=_left(admission, draft))
                advance(draft, reaction)
                continue
            if isinstance(reaction, Ended):
                reaction = self._end(draft, reaction)
            if isinstance(reaction, HandlerBlocked):
                self._block(unit, reaction, now)
                return
            advance(draft, reaction)

    def _replay(self, unit: Unit, draft: Draft) -> bool:
        """Build the handler and run it through the journal; False if it is blocked."""
        actor, header, now = unit.actor, draft.header, draft.now
        actor.close()
        definition = self.rules.registry.get(header.name)
        journal = actor.journal
        assert journal is not None, "the journal of a dropped handler was not loaded again"
        if not isinstance(definition, Workflow):
            error = ErrorInfo("DefinitionError", f"{header.name!r} is no workflow in this process")
            self._block(unit, HandlerBlocked(error=error), now)
            return False
        start_ms = draft.started_at
        if start_ms is None:
            start_ms = max(now, draft.stamp)
        launch = launcher(definition, header.arguments, self.rules)
        actor.handler = Handler(header.workflow_id, launch, journal, start_ms)
        actor.journal = None
        if not len(journal):
            return True
        reaction = _guarded(actor.handler, None)
        if isinstance(reaction, Ended):  # after a restart, all of whose outcomes are kept
            reaction = self._end(draft, reaction)
        if isinstance(reaction, HandlerBlocked):
            self._block(unit, reaction, now)
            return False
        advance(draft, reaction)
        return True

    def _end(self, draft: Draft, ended: Ended) -> Ended | HandlerBlocked:
        """The end of a workflow; it waits for a process that knows its `on_complete`."""
        name = draft.header.on_complete
        if name is None or isinstance(self.rules.registry.get(name), Mutation):
            return ended
        text = f"its on_complete {name!r} is no mutation in this process: it ends where it is"
        return HandlerBlocked(error=ErrorInfo("DefinitionError", text))

    def wait_for_definition(self, draft: Draft, record: StepRecord) -> None:
        """A step of a function that this process does not define: give the workflow up, so that
        it goes on where the function is defined."""
        command = record.command
        assert isinstance(command, RunStep)
        text = (
            f"{command.kind} {command.function!r} of step {record.number} is not defined in this"
            " process: the workflow goes on where it is"
        )
        _advance_blocked(draft, HandlerBlocked(error=ErrorInfo("DefinitionError", text)))

    def _block(self, unit: Unit, blocked: HandlerBlocked, now: int) -> None:
        """Nothing of what was delivered to a handler that is blocked in the end is journaled."""
        unit.actor.close()
        _advance_blocked(self.begin(unit, now), blocked)

    def finish(self, unit: Unit, *, is_draining: bool) -> None:
        """Everything is decided: the draft becomes the state.

        The ownership of a workflow that only waits is given up; while draining, that of any other
        too that has no running attempt.
        """
        draft = unit.draft
        draft.warn_of_size()
        if is_parkable(draft, draft.now):
            draft.give_up(next_wake(draft))
        elif is_draining and draft.status == "in_progress" and draft.owner is not None:
            # What others run for it goes on without its owner.
            owner = draft.owner
            if all(r.state != "started" or r.runner != owner for r in draft.live.values()):
                draft.give_up(draft.now)
        unit.state, unit.writes, unit.effects = draft.state(), draft.writes, draft.effects
        unit.draft = None


def _advance_blocked(draft: Draft, blocked: HandlerBlocked) -> None:
    """Take in that a workflow cannot go on. Whoever keeps the program running is told once, and
    not at each further try."""
    before = draft.blocked
    if before is None or before.error.message != blocked.error.message:
        logger.error("workflow %s is blocked: %s", draft.header.workflow_id, blocked.error.message)
    advance(draft, blocked)


def attempts(draft: Draft) -> int:
    """How many attempts of actions it starts: permits that it uses."""
    count = 0
    for effect in draft.effects:
        count += type(effect) is RunAttempt
    return count


def _left(admission: Admission, draft: Draft) -> Admission:
    """What has not been used up of what the pool lets a workflow start."""
    used = attempts(draft)
    return replace(admission, permits=admission.permits - used) if used else admission


def _guarded(handler: Handler, delivery: Delivery | None) -> Reaction:
    """Advance a handler, with sockets, threads and the like refused meanwhile."""
    token = guard.enter()
    try:
        return handler.replay() if delivery is None else handler.deliver(delivery)
    finally:
        guard.leave(token)
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
