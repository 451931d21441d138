"""The decide phase: what the messages of a turn mean for each workflow. No transaction, no lock.

For each workflow its messages are taken in and its handler is advanced (`Decider`); then the pool
says which ready actions may start. A fault of perdure's own in one workflow harms no other.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import attrs

from perdure.core.commands import RunStep
from perdure.core.draft import Draft
from perdure.core.ids import WorkerId, WorkflowId
from perdure.core.loop import hook_asyncgens, unhook_asyncgens
from perdure.core.messages import Admission, Message, StepAdmitted
from perdure.core.transition import advance
from perdure.definitions import Workflow
from perdure.errors import ErrorInfo
from perdure.sometimes import sometimes

from .actor import Actor, Decider, Unit, attempts
from .actors import Actors
from .batch import Batch
from .claims import Claims
from .operations import StartOrder, new_state
from .scope import Env

logger = logging.getLogger("perdure.worker")

#: A workflow over which perdure itself stumbled so often, after a reload each time, is failed.
FAILURES_MAX = 2


@attrs.define
class DecidePhase:
    """Decides for one worker.

    Attributes:
        failures: how often perdure stumbled over a workflow, since that was last stored.
    """

    env: Env
    actors: Actors
    claims: Claims
    failures: dict[WorkflowId, int] = attrs.field(factory=dict)
    is_draining: bool = False
    _decider: Decider = attrs.field(init=False)
    _free: int = attrs.field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        self._decider = Decider(self.env.rules)

    def run(self, batch: Batch) -> list[Unit]:
        """Fill `batch.units`. The units that failed are returned: to be tried again, reloaded."""
        failed: list[Unit] = []
        self._free = self._free_permits()
        hooks = hook_asyncgens()  # once for all handlers
        try:
            self._advance(batch, failed)
        finally:
            unhook_asyncgens(hooks)
        self._admit_actions(batch)
        for unit in batch.units.values():
            self._decider.finish(unit, is_draining=self.is_draining)
        return failed

    def _advance(self, batch: Batch, failed: list[Unit]) -> None:
        """Give messages and starts to their handlers."""
        for workflow_id, messages in batch.messages.items():
            actor = self.actors.get(workflow_id)
            if actor is not None:
                unit = _unit(actor, messages)
                unit.inbox = batch.inbox.get(workflow_id, [])
                self._decide(unit, batch, failed)
        if self.actors.runner is None:
            return  # a client decides nothing
        tickets = []
        for ticket in batch.tickets:
            order = ticket.request
            if isinstance(order, StartOrder) and self._starts_here(order, batch):
                batch.starts[order.workflow_id] = ticket
                self._decide(self._fresh(order, batch.now), batch, failed)
            else:
                tickets.append(ticket)
        batch.tickets = tickets

    def _starts_here(self, order: StartOrder, batch: Batch) -> bool:
        """Whether a new workflow is ours from its first moment: its start is one commit then.

        Not if it exists already, here or in this very batch: a unit of its own would take the
        place of the one that goes on with it. (If it exists elsewhere, the commit finds out.)
        """
        workflow_id = order.workflow_id
        return (
            not self.is_draining
            and order.start_at <= batch.now
            and workflow_id not in batch.starts
            and workflow_id not in batch.messages
            and workflow_id not in self.actors
            and isinstance(self.env.registry.get(order.name), Workflow)
        )

    def _fresh(self, order: StartOrder, now: int) -> Unit:
        state = new_state(
            order, epoch=self.claims.reserved.pop(), now=now, owner=self.env.worker_id
        )
        return Unit(
            workflow_id=order.workflow_id,
            actor=Actor.fresh(state),
            expected_epoch=None,
            state=state,
            order=order,
        )

    def _decide(self, unit: Unit, batch: Batch, failed: list[Unit]) -> None:
        workflow_id, now = unit.workflow_id, batch.now
        failures = self.failures.get(workflow_id, 0)
        try:
            if failures >= FAILURES_MAX:
                text = f"perdure itself failed {failures} times over this workflow: see its log"
                error = ErrorInfo("InternalError", text)
                self._decider.fail(unit, error, now)
            else:
                self._decider.decide(unit, now, self._admission())
                self._admit_functions(unit, unit.draft)
                self._free -= attempts(unit.draft)
        except BaseException:
            # Not only `Exception`: nothing that one workflow does may end the worker of all.
            logger.exception("workflow %s: a fault of perdure's; please report it", workflow_id)
            self.failures[workflow_id] = failures + 1
            failed.append(unit)
            # At once: none of its ready actions may be admitted to what is half decided.
            self.actors.drop(workflow_id)
        else:
            batch.units[workflow_id] = unit

    def _free_permits(self) -> int:
        if self.actors.runner is None or self.is_draining:
            return 0
        return self.claims.permits - self.actors.running

    def _admission(self) -> Admission:
        """What a handler's new steps may do at once: actions only if nobody waits before them."""
        permits = 0 if self.actors.queue else max(self._free, 0)
        return Admission(self.env.worker_id or "", permits, functions=not self.claims.is_paused)

    def _admit_functions(self, unit: Unit, draft: Draft) -> None:
        """Queries and mutations need no permit; only a pause of the pool holds them up."""
        numbers = []
        for ready in draft.ready:
            if ready.command.kind != "action":
                numbers.append(ready.number)  # noqa: PERF401  A list of its own costs a call.
        if unit.workflow_id in self.actors.held:
            numbers += self.actors.held.pop(unit.workflow_id)
        for number in numbers:
            record = draft.live.get(number)
            if record is None or record.state != "ready":
                continue  # canceled since
            assert isinstance(record.command, RunStep)
            if self.env.registry.get(record.command.function) is None:
                self._decider.wait_for_definition(draft, record)
                return
            if self.claims.is_paused and not record.command.inline:
                sometimes("a function waits because the pool is paused")
                unit.held.append(number)
            else:
                advance(draft, StepAdmitted(number=number, runner=self._me))

    def _admit_actions(self, batch: Batch) -> None:
        """Start ready actions, oldest first, as far as there are permits."""
        for unit in batch.units.values():
            for record in unit.draft.ready:
                if record.command.kind == "action":
                    self.actors.enqueue(unit.workflow_id, record)
        queue = self.actors.queue
        while queue and self._free > 0:
            for step in queue.take(self._free):
                unit_or_none = batch.units.get(step.workflow_id)
                if unit_or_none is None:
                    actor = self.actors.get(step.workflow_id)
                    if actor is None:
                        continue  # dropped; it is queued again when it is loaded
                    unit_or_none = batch.units[step.workflow_id] = _unit(actor, ())
                    self._decider.begin(unit_or_none, batch.now)
                self._free -= self._start(unit_or_none.draft, step.number)

    def _start(self, draft: Draft, number: int) -> int:
        """Start one ready action; how many permits that takes."""
        record = draft.live.get(number)
        if record is None or record.state != "ready":
            sometimes("a ready action in the queue is not to be started any more")
            return 0
        assert isinstance(record.command, RunStep)
        if self.env.registry.get(record.command.function) is None:
            self._decider.wait_for_definition(draft, record)
            return 0
        advance(draft, StepAdmitted(number=number, runner=self._me))
        return 1

    @property
    def _me(self) -> WorkerId:
        assert self.env.worker_id is not None
        return self.env.worker_id


def _unit(actor: Actor, messages: Sequence[Message]) -> Unit:
    state = actor.state
    return Unit(
        workflow_id=state.workflow_id,
        actor=actor,
        expected_epoch=state.epoch,
        state=state,
        messages=messages,
    )
