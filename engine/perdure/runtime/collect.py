"""The collect phase: everything that has reached a worker, sorted by workflow.

The mailbox, what nobody owns, what other processes left in the inbox, what is due. Workflows that
are not in memory are loaded; what is for a workflow that is not ours any more is passed on.
"""

from __future__ import annotations

import logging
from typing import Any

import attrs

from perdure.core.ids import WorkflowId
from perdure.core.messages import EventSent, Message, StepDue
from perdure.core.workflow import WorkflowState, due_timers
from perdure.sometimes import sometimes
from perdure.store.base import Store

from .actor import Actor
from .actors import Actors
from .attempts import Attempt
from .batch import Batch
from .claims import Claims
from .inbox import InboxReader, PassOn
from .mailbox import Mailbox, Post, Ticket
from .scope import Env
from .spread import Taker

logger = logging.getLogger("perdure.worker")

#: How often, at most, to look whether another process has committed.
LOOK_SECONDS = 0.002


@attrs.define
class CollectPhase:
    """Collects for one worker, or, where the actors have no runner, only clients' requests.

    Attributes:
        pending: taken from the mailbox and to be taken up (again), before anything newer.
        is_draining: nothing new is claimed.
        foreign_change: another process has committed; for others to look and to clear.
    """

    env: Env
    store: Store
    mailbox: Mailbox
    actors: Actors
    claims: Claims
    inbox: InboxReader
    taker: Taker
    pending: list[Post | Ticket] = attrs.field(factory=list)
    is_draining: bool = False
    foreign_change: bool = True
    _looked_at: float = attrs.field(default=float("-inf"), init=False)
    _must_look: bool = attrs.field(default=False, init=False)

    def run(self, batch: Batch) -> None:
        """Fill the batch.

        Raises:
            StoreError: what was collected by then is in the batch.
        """
        most = self.env.portions.batch
        has_changed = self._look_for_changes()
        self.foreign_change = self.foreign_change or has_changed
        if self.actors.runner is not None:
            if len(self.claims.reserved) < most:
                self.claims.reserve_epochs()
            if self._collect_foreign(batch, has_changed):
                self._collect_due_of_suspect(batch)
                return
        items = self.pending + self.mailbox.take()
        self.pending = items[most:]
        for item in items[:most]:
            if isinstance(item, Post):
                batch.posts.append(item)
                batch.messages.setdefault(item.workflow_id, []).append(item.message)
            else:
                batch.tickets.append(item)
        if self.actors.runner is not None:
            # Timers only when nothing waits before them: an event that was sent in time must
            # not lose against its time-out because the mailbox was long.
            may_fire = not self.pending
            if may_fire:
                self._collect_due(batch)
                self._collect_runnable(batch)
            if self._load_missing(batch) and may_fire:
                # What was due before a message came must not wait behind it.
                self._collect_due(batch)

    def look_again(self) -> None:
        """The store failed in the middle: what was seen and not taken in must be seen again."""
        self.inbox.reset()
        self.claims.look_again()
        self.actors.runnable.update(dict.fromkeys(self.actors.held))
        self.foreign_change = self._must_look = True

    def _look_for_changes(self) -> bool:
        """Whether another process has committed. Under load not in every turn: it would cost each
        step some microseconds, and nobody notices two milliseconds."""
        now = self.env.clock.monotonic()
        at = self.actors.timers.next_at()
        # What was sent before a time-out must be seen before it.
        is_due = at is not None and at <= self.env.clock.now_ms()
        if not (is_due or self._must_look) and now - self._looked_at < LOOK_SECONDS:
            return False
        self._looked_at = now
        has_changed = self.store.has_changed() or self._must_look
        self._must_look = False
        return has_changed

    def _collect_foreign(self, batch: Batch, has_changed: bool) -> bool:
        """What nobody owns, and what other processes left for us. Whether that is a workflow that
        may kill its worker: then nothing else may be in its turn."""
        claims = []
        if not self.is_draining:
            claims = self.claims.look(batch.now, has_changed=has_changed)
        for claimed in claims:
            workflow_id = claimed.loaded.state.workflow_id
            self.actors.adopt(Actor.of(claimed.loaded))
            # It may have been ours before, and out of our hands since.
            self.actors.cancel_unsure(workflow_id, claimed.loaded.state)
            self._start_doubtful(claimed.loaded.state)
            self._forget_events(workflow_id, batch)
            kept = self._not_passed_on(workflow_id)
            batch.messages[workflow_id] = list(kept)
            # As posts: should this turn fail, nothing else would tell them again.
            batch.posts.extend(Post(workflow_id, each) for each in (*kept, *claimed.messages))
        if claims or self.claims.take_buried():
            self.inbox.look = True
        if self.claims.take_given_up():
            self.foreign_change = True  # as if it was another's: no unit of ours is about it
        is_suspect = bool(claims) and claims[0].is_suspect
        self._update_permits(has_changed, may_take=not is_suspect)
        for letter in self.inbox.read(has_changed=has_changed):
            if is_suspect and letter.workflow_id not in batch.messages:
                self.inbox.release([letter.row_id])
            elif letter.is_revoked:
                self.foreign_change = True  # it may have been read late
                self._lose(letter.workflow_id)
            elif letter.message is not None:
                batch.messages.setdefault(letter.workflow_id, []).append(letter.message)
                batch.inbox.setdefault(letter.workflow_id, []).append(letter.row_id)
        for claimed in claims:
            # After the inbox: what a dead worker had reported is not lost.
            batch.messages[claimed.loaded.state.workflow_id].extend(claimed.messages)
        return is_suspect

    def _not_passed_on(self, workflow_id: WorkflowId) -> list[Message]:
        """Outcomes of attempts that ran here for another owner, and that the store has not taken
        yet: the workflow is ours now, and they came before whatever is due by now."""

        kept: list[Message] = []
        others: list[Post | Ticket] = []
        for item in self.pending:
            request = item.request if isinstance(item, Ticket) else None
            if isinstance(request, PassOn) and request.workflow_id == workflow_id:
                sometimes("an outcome that was not passed on yet is for a workflow of ours by now")
                kept += request.messages
            else:
                others.append(item)
        self.pending = others
        return kept

    def _lose(self, workflow_id: WorkflowId) -> None:
        """A workflow, or an attempt of ours, was taken out of our hands, some time ago: it may be
        ours again, and other attempts may go on."""
        actor = self.actors.get(workflow_id)
        stored = self.store.reader().load([workflow_id])
        if actor is None or not stored or stored[0].state.epoch != actor.state.epoch:
            self.actors.drop(workflow_id)
            steps = stored[0].steps if stored else ()
            self.actors.cancel_others(workflow_id, steps)
        else:
            sometimes("a workflow was lost, and is ours again when that is read")
            self.actors.cancel_others(workflow_id, actor.state.live.values())

    def _update_permits(self, has_changed: bool, *, may_take: bool) -> None:
        assert self.actors.runner is not None
        self._run_in_doubt()
        self.actors.drop_stale()
        claims, queue = self.claims, self.actors.queue
        was_paused = claims.is_paused
        running = self.actors.running
        # What is its own comes first.
        may_take = may_take and not (queue or self.is_draining)
        claims.update_permits(
            running, running + len(queue), has_changed=has_changed, may_take=may_take
        )
        if was_paused and not claims.is_paused:
            self.actors.runnable.update(dict.fromkeys(self.actors.held))
        if queue and claims.permits > running and not self.is_draining:
            self.actors.runnable[queue.peek().workflow_id] = None
        most = min(claims.offered, claims.permits - running)
        if most > 0:
            self.actors.runner.start(self.taker.take(most))

    def _run_in_doubt(self) -> None:
        """Run attempts at steps of others whose taking is stored after all."""
        if self.actors.taking:
            assert self.actors.runner is not None
            self.actors.runner.start(self.taker.found_in_doubt())

    def _collect_due(self, batch: Batch) -> None:
        # What was read came by now, which may be long after the turn began.
        batch.now = self.env.clock.now_ms()
        for _, workflow_id, number in self.actors.timers.pop_due(batch.now):
            if workflow_id in self.actors:
                messages = batch.messages.setdefault(workflow_id, [])
                if number >= 0:
                    messages.append(StepDue(number=number))

    def _collect_due_of_suspect(self, batch: Batch) -> None:
        """What is due of the only workflow in this turn: an event that came after its time-out
        must not win because nothing else may be in the turn."""
        batch.now = self.env.clock.now_ms()
        for workflow_id, messages in batch.messages.items():
            actor = self.actors.get(workflow_id)
            for timer in () if actor is None else due_timers(actor.state):
                if timer.number is not None and timer.due_at <= batch.now:
                    sometimes("a workflow that may kill its worker has something due")
                    messages.append(StepDue(number=timer.number))

    def _collect_runnable(self, batch: Batch) -> None:
        runnable = self.actors.runnable
        for workflow_id in list(runnable)[: self.env.portions.batch]:
            batch.messages.setdefault(workflow_id, [])
            del runnable[workflow_id]

    def _load_missing(self, batch: Batch) -> bool:
        """Load workflows of ours that were dropped; others are not ours any more. Whether any was
        loaded."""
        present = self.actors.by_id
        missing = [workflow_id for workflow_id in batch.messages if workflow_id not in present]
        if not missing:
            return False
        has_loaded = False
        for loaded in self.claims.load(self._ours(missing)):
            self.actors.cancel_unsure(loaded.state.workflow_id, loaded.state)
            if loaded.state.owner == self.env.worker_id:
                has_loaded = True
                sometimes("a workflow of ours is loaded again")
                self.actors.adopt(Actor.of(loaded))
                self._start_doubtful(loaded.state)
                self._forget_events(loaded.state.workflow_id, batch)
        for workflow_id in missing:
            if workflow_id in self.actors:
                continue
            sometimes("a message is for a workflow that is no longer ours")
            self.actors.doubtful.pop(workflow_id, None)
            self.actors.cancel_unsure(workflow_id, None)
            messages = batch.messages.pop(workflow_id)
            # Its new owner reads the rows himself.
            self.inbox.release(batch.inbox.pop(workflow_id, ()))
            # From here on the request stands for the posts.
            batch.posts = [post for post in batch.posts if post.workflow_id != workflow_id]
            request = self.inbox.pass_on(workflow_id, messages)
            if request is not None:
                batch.tickets.append(Ticket(request, _no_answer, float("inf")))
        return has_loaded

    def _ours(self, ids: list[WorkflowId]) -> list[WorkflowId]:
        """Those of these workflows whose journals are needed: not those that only some step was
        taken from, whose outcome goes to their owner."""
        if not self.taker.has_taken:
            return ids
        ours = {
            state.workflow_id
            for state in self.store.reader().states(ids)
            if state.owner == self.env.worker_id
        }
        return [each for each in ids if each in ours or each in self.actors.unsure]

    def _start_doubtful(self, state: WorkflowState) -> None:
        """Run attempts whose start is stored after all, though its commit seemed to fail."""
        keys = self.actors.doubtful.pop(state.workflow_id, ())
        attempts = [
            attempt
            for record in state.live.values()
            # Should that commit have failed indeed, another worker may have taken the step.
            if record.state == "started"
            and record.runner == self.env.worker_id
            and (attempt := Attempt.of(state.workflow_id, record)).key in keys
        ]
        if attempts:
            sometimes("an attempt is run whose start seemed not to be stored")
            assert self.actors.runner is not None
            self.actors.runner.start(attempts)

    def _forget_events(self, workflow_id: WorkflowId, batch: Batch) -> None:
        """Unconsumed events come with the workflow that is loaded: to tell them again later, when
        they may be consumed, would deliver them twice."""

        def is_event(item: Post | Ticket) -> bool:
            return (
                isinstance(item, Post)
                and item.workflow_id == workflow_id
                and isinstance(item.message, EventSent)
            )

        batch.posts = [post for post in batch.posts if not is_event(post)]
        messages = batch.messages.get(workflow_id, [])
        batch.messages[workflow_id] = [each for each in messages if not isinstance(each, EventSent)]
        self.pending = [item for item in self.pending if not is_event(item)]


def _no_answer(_: Any, error: BaseException | None) -> None:
    if error is not None:
        logger.error("the outcome of an attempt could not be passed on: %r", error)
