"""The worker: its turn (collect, decide, commit, carry out), and nothing that waits.

`Worker.turn` is a generator that yields at the borders of its phases, so that a simulator may let
others run there; `run_turn` runs it through. This file knows no thread and no event loop: what
runs an attempt of an action, it is given as `Runner`.

A message leaves the mailbox only when its commit is known. Actors are a cache: after any fault
they are dropped and loaded again.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from typing import Literal, Protocol, TypeAlias

from perdure.core.effects import CancelAttempt, Effect, RunAttempt, SetTimer, WarnJournalSize
from perdure.core.ids import WorkflowId
from perdure.core.messages import AttemptLost
from perdure.core.outcomes import Outcome
from perdure.core.workflow import WorkflowHeader, next_fact
from perdure.errors import InternalError, StoreBusy, StoreError
from perdure.sometimes import sometimes
from perdure.store.base import Fenced, Store, TransactionLost

from .actor import Actor, Unit
from .actors import Actors
from .attempts import Attempt, AttemptKey, Runner
from .batch import Batch, passed_on
from .claims import Claims
from .clock import Clock
from .collect import CollectPhase
from .commit import (
    Committed,
    Committer,
    Result,
    StaleUnits,
    StepsTaken,
    UnitFailed,
)
from .decide import FAILURES_MAX, DecidePhase
from .functions import FunctionLostTransaction
from .inbox import InboxReader
from .mailbox import Mailbox, Post, Ticket
from .requests import Cancel, Read
from .scope import ON_COMPLETE, After, Env
from .spread import Taker

logger = logging.getLogger("perdure.worker")

#: Where a turn may be interrupted.
Border: TypeAlias = Literal["collected", "decided", "committed", "told", "carried out"]

#: How long to wait after the first failed commit, doubling up to the second, in seconds.
RETRY_SECONDS_MIN = 0.01
RETRY_SECONDS_MAX = 1.0


class Listener(Protocol):
    """Who wants to know what the worker did."""

    def ended(self, workflow_id: WorkflowId, outcome: Outcome) -> None:
        """A workflow ended, by a commit of this process."""
        ...

    @property
    def is_watched(self) -> bool:
        """Whether somebody wants to be told of changes."""
        ...

    def changed(self, ids: Collection[WorkflowId] | None) -> None:
        """Workflows may have changed, by a commit of this process; any of them if None."""
        ...


class Worker:
    """One worker's life, or, without `runner`, a client's engine that only carries out requests.

    Args:
        env: settings, definitions, clock, and this worker's id.
        store: open.
        mailbox: what reaches it.
        runner: None for a client.
        listener: told of what ends.

    Attributes:
        trouble: what is wrong with the store at the moment, if anything.
        unanswered: after `Fenced`: requests that were not carried out.
    """

    def __init__(
        self,
        env: Env,
        store: Store,
        mailbox: Mailbox,
        runner: Runner | None,
        listener: Listener,
    ) -> None:
        self.env = env
        self.clock: Clock = env.clock
        self.store = store
        self.mailbox = mailbox
        self.actors = Actors(runner)
        self.trouble: StoreError | None = None
        self._runner = runner
        self._listener = listener
        taker = Taker(env, store, self.actors)
        self._claims = Claims(env, store, taker.count)
        self._inbox = InboxReader(env, store)
        self._deciding = DecidePhase(env, self.actors, self._claims)
        self._committer = Committer(store, env)
        self.unanswered: list[Ticket] = []
        self._collecting = CollectPhase(
            env, store, mailbox, self.actors, self._claims, self._inbox, taker
        )
        self._retry_at = 0.0
        self._retries = 0

    @property
    def is_client(self) -> bool:
        """Whether it only carries out requests."""
        return self._runner is None

    # --- its life -----------------------------------------------------------------------------

    def register(self) -> None:
        """Tell the store that this worker lives."""
        now = self.clock.now_ms()
        with self.store.transaction() as tx:
            self._claims.register(tx, now)

    def begin_drain(self) -> None:
        """Start nothing new; give up what does not run."""
        self._deciding.is_draining = self._collecting.is_draining = True
        self.actors.runnable.update(dict.fromkeys(self.actors))

    def end_drain(self, lost: Sequence[Attempt]) -> None:
        """Record attempts that still run as lost, and give up everything. The last turns."""
        now = self.clock.now_ms()
        for attempt in lost:
            workflow_id, number, epoch, count = attempt.key
            message = AttemptLost(number=number, epoch=epoch, attempt=count, accepted_at=now)
            self._collecting.pending.append(Post(workflow_id, message))
        self.actors.runnable.update(dict.fromkeys(self.actors))
        while self._collecting.pending or self.actors.runnable:
            if not self.run_turn():
                return  # the store is in trouble: whoever comes next finds everything there

    def close(self) -> None:
        """Drop all actors, sign off in the store."""
        self.actors.drop_all()
        assert self.env.worker_id is not None
        try:
            with self.store.transaction() as tx:
                tx.release_workflows(self.env.worker_id, self.clock.now_ms(), is_dead=False)
                tx.remove_worker(self.env.worker_id)
        except StoreError as error:
            # Its lock is given up in any case: the next worker finds it dead.
            logger.warning("the worker could not sign off: %s", error)

    def holds(self, workflow_id: WorkflowId) -> WorkflowHeader | None:
        """The header of a workflow in progress, if it is in memory here. From any thread.

        If so, whoever was put on the list of the `Listener` before this was called will be told of
        its end; else the store has to be asked whether it has ended already.
        """
        actor = self.actors.get(workflow_id)
        return None if actor is None or actor.is_over else actor.state.header

    def take_foreign_change(self) -> bool:
        """Whether another process has committed since this was last asked."""
        collecting = self._collecting
        has_changed, collecting.foreign_change = collecting.foreign_change, False
        return has_changed

    # --- the turn -----------------------------------------------------------------------------

    def run_turn(self) -> bool:
        """A whole turn; whether there was anything to do."""
        worked = False
        for _ in self.turn():
            worked = True
        return worked

    def turn(self) -> Iterator[Border]:
        """Collect, decide, commit, carry out; nothing at all if there is nothing to do.

        Raises:
            Fenced: another process took this worker for dead: start a new life.
        """
        if self._retry_at > self.clock.monotonic():
            sometimes("a turn waits because the store was in trouble")
            self._withdraw_late_tickets()
            return
        batch = Batch(self.clock.now_ms())
        try:
            if not self._collect(batch):
                return
            yield "collected"
            for unit in self._deciding.run(batch):
                self._take_back(unit, batch)
            yield "decided"
            result = self._commit(batch)
            yield "committed"
            if result is not None:
                self._tell(batch, result)
                yield "told"
                self._carry_out(batch, result)
            yield "carried out"
        except Fenced:
            sometimes("a turn ends because another process took this worker for dead")
            # The next life finds the rest in the store; what callers asked for it must be given.
            asked = (*batch.tickets, *batch.starts.values(), *self._collecting.pending)
            self.unanswered = [item.again() for item in asked if isinstance(item, Ticket)]
            raise

    def _collect(self, batch: Batch) -> bool:
        """Fill the batch; whether there is anything in it."""
        try:
            self._collecting.run(batch)
        except StoreError as error:
            self._collecting.look_again()
            self._store_failed(error, batch)
            return False
        if batch.messages or batch.tickets:
            return True
        self._recovered()
        return False

    def next_wait(self, most: float) -> float:
        """Seconds until there is something to do that nobody will wake us for."""
        if self._retry_at:
            return max(0.0, min(most, self._retry_at - self.clock.monotonic()))
        if self.actors.runnable or self.mailbox or self._collecting.pending:
            return 0.0
        if self.is_client:
            return most
        # While draining nothing is claimed, however long it has been due.
        claim_at = None if self._deciding.is_draining else self._claims.next_at
        times = [at for at in (self.actors.timers.next_at(), claim_at) if at is not None]
        if not times:
            return most
        return max(0.0, min(most, (min(times) - self.clock.now_ms()) / 1000))

    # --- commit -------------------------------------------------------------------------------

    def _commit(self, batch: Batch) -> Result | None:
        """Commit the batch; None if it has to be taken up again. See `Batch.apart` for what has a
        transaction of its own where the store wants that."""
        apart = batch.apart(shares_commits=self.store.shares_commits)
        while True:
            units, tickets = batch.without(apart)
            try:
                result = self._committer.commit(
                    units,
                    [ticket.request for ticket in tickets],
                    batch.now,
                    self._claims.reserved,
                    extra=self._inbox.in_commit if self._inbox.has_void else None,
                )
            except Fenced:
                raise
            except StaleUnits as stale:
                self._give_up(stale.workflow_ids, batch)
            except StepsTaken as taken:
                self._reload(taken.workflow_ids, batch)
            except StoreError as error:
                self._store_failed(error, batch)
                self._doubt_commit()
                return None
            except Exception as error:
                return self._commit_one_by_one(batch, error)
            else:
                self._recovered()
                self._inbox.committed()
                if apart:
                    self._commit_each(batch, apart, result)
                return result

    def _give_up(self, workflow_ids: set[WorkflowId], batch: Batch) -> None:
        """Somebody else has taken, canceled or restarted these workflows."""
        self._collecting.foreign_change = True  # some may have ended: see `holds`
        sometimes("a decision is dropped because the workflow belongs to another now")
        for workflow_id in sorted(workflow_ids):
            # Not all attempts here: it may run again, and some may have been taken from its owner.
            self.actors.doubt_attempts(workflow_id)
        # What was for them may be an outcome that their new owners wait for.
        self._reload(workflow_ids, batch)

    def _reload(self, workflow_ids: set[WorkflowId], batch: Batch) -> None:
        """What is stored of these workflows is not what their actors hold: load them again."""
        for workflow_id in sorted(workflow_ids):
            self.actors.drop(workflow_id)
            unit = batch.units.pop(workflow_id)
            unit.actor.close()
            self._repost(unit, batch)

    def _commit_one_by_one(self, batch: Batch, error: Exception) -> Result:
        """Something spoils the batch: each unit gets a transaction of its own, to find out what."""
        if not isinstance(error, FunctionLostTransaction | TransactionLost | UnitFailed):
            logger.warning("a batch could not be committed (%r): now one by one", error)
        sometimes("a batch is committed one by one")
        whole = Result()
        self._commit_each(batch, {*batch.units, *batch.tickets}, whole)
        if whole.committed or whole.replies:
            self._recovered()
        return whole

    def _commit_each(self, batch: Batch, which: Collection[object], whole: Result) -> None:
        """Commit these units and tickets, each alone, and add to `whole` what became of them.
        Only outcomes that are passed on share a transaction, which locks in the order of ids."""
        units = [unit for unit in batch.units.values() if unit.workflow_id in which]
        parts = [self._commit_unit(unit, batch) for unit in units]
        tickets = [each for each in batch.tickets if each in which]
        group = passed_on(tickets)
        if len(group) > 1:
            parts.append(self._commit_tickets(group, batch))
            tickets = [each for each in tickets if each not in group]
        parts += [self._commit_tickets([each], batch) for each in tickets]
        for part in filter(None, parts):
            whole.add(part)

    def _commit_unit(self, unit: Unit, batch: Batch) -> Result | None:
        """Commit one unit alone. What its functions spoil fails them; our own fault, in the end,
        fails the workflow."""
        lost: set[tuple[WorkflowId, int]] = set()
        reserved = self._claims.reserved
        suspects: list[set[tuple[WorkflowId, int]]] | None = None
        while True:
            try:
                return self._committer.commit([unit], [], batch.now, reserved, frozenset(lost))
            except Fenced:
                raise
            except StaleUnits as stale:
                self._give_up(stale.workflow_ids, batch)
                return None
            except StepsTaken as taken:
                self._reload(taken.workflow_ids, batch)
                return None
            except StoreError as error:
                self._delay(error)
                self._doubt(unit)
                self._doubt_commit()
                break
            except FunctionLostTransaction as error:
                lost.add((error.workflow_id, error.number))
            except Exception as error:
                if suspects is None and self.store.is_poisoned(error):
                    suspects = _suspects(unit)
                if suspects:
                    lost = suspects.pop(0)
                    continue
                logger.exception("workflow %s: a fault of perdure's", unit.workflow_id)
                failures = self._deciding.failures
                failures[unit.workflow_id] = failures.get(unit.workflow_id, 0) + 1
                break
        del batch.units[unit.workflow_id]
        self._take_back(unit, batch)
        return None

    def _commit_tickets(self, tickets: Sequence[Ticket], batch: Batch) -> Result | None:
        """Carry out requests in a transaction; whatever spoils it is the answer to all."""
        requests = [ticket.request for ticket in tickets]
        reserved = self._claims.reserved
        lost: set[tuple[WorkflowId, int]] = set()
        while True:
            try:
                return self._committer.commit([], requests, batch.now, reserved, frozenset(lost))
            except Fenced:
                raise
            except StoreError as error:
                self._delay(error)
                self._doubt_commit()
                self._collecting.pending += [ticket.again() for ticket in tickets]
                return None
            except FunctionLostTransaction as error:
                lost.add((error.workflow_id, error.number))  # the on_complete of a cancel
            except Exception as error:
                request = requests[0]
                suspect = (getattr(request, "workflow_id", ""), ON_COMPLETE)
                if isinstance(request, Cancel) and suspect not in lost:
                    if self.store.is_poisoned(error):
                        lost.add(suspect)
                        continue
                for ticket in tickets:
                    ticket.answer(None, error)
                return None

    # --- when it fails ------------------------------------------------------------------------

    def _take_back(self, unit: Unit, batch: Batch) -> None:
        """Drop a unit's actor, and take its messages up again after a reload."""
        self.actors.drop(unit.workflow_id)
        unit.actor.close()
        ticket = batch.starts.pop(unit.workflow_id, None)
        if ticket is None:
            self._repost(unit, batch)
        elif self._deciding.failures.get(unit.workflow_id, 0) >= FAILURES_MAX:
            text = f"workflow {unit.workflow_id!r} could not be started: see perdure's log"
            ticket.answer(None, InternalError(text))
        else:
            self._collecting.pending.append(ticket.again())

    def _repost(self, unit: Unit, batch: Batch) -> None:
        workflow_id = unit.workflow_id
        self._inbox.release(unit.inbox)
        mine = [post for post in batch.posts if post.workflow_id == workflow_id]
        batch.posts = [post for post in batch.posts if post.workflow_id != workflow_id]
        self._collecting.pending += mine
        self.actors.runnable[workflow_id] = None

    def _store_failed(self, error: StoreError, batch: Batch) -> None:
        """The database is in trouble: drop the actors, keep the messages, try again later."""
        self._delay(error)
        if batch.units:
            sometimes("a whole batch of decisions is dropped with its commit")
        for unit in batch.units.values():
            unit.actor.close()  # a fresh one is nowhere else
            self._doubt(unit)
        for workflow_id in dict.fromkeys([*batch.messages, *batch.units]):
            if workflow_id in batch.starts:
                continue
            self.actors.drop(workflow_id)
            self.actors.runnable[workflow_id] = None
            self._inbox.release(batch.inbox.get(workflow_id, ()))
        tickets = [ticket.again() for ticket in (*batch.tickets, *batch.starts.values())]
        collecting = self._collecting
        collecting.pending = [*batch.posts, *tickets, *collecting.pending]
        collecting.foreign_change = True  # should it be stored after all: look who waits for it
        self._withdraw_late_tickets()

    def _doubt(self, unit: Unit) -> None:
        """A commit failed; should it be stored all the same, its attempts must be run, and those
        that it has ended must be told."""
        self.actors.doubt(unit.workflow_id)
        # One that has just begun, too: whoever asked for it may not ask again.
        self.actors.runnable[unit.workflow_id] = None
        for effect in unit.effects:
            if isinstance(effect, RunAttempt):
                attempt = Attempt.of(unit.workflow_id, effect.record)
                self.actors.doubtful.setdefault(unit.workflow_id, set()).add(attempt.key)

    def _doubt_commit(self) -> None:
        """A commit failed; should it be stored all the same, what it did to others must be found:
        workflows that it made for this worker, or canceled, events and outcomes that it sent."""
        after = self._committer.after
        others = [state.workflow_id for state in after.adopted]
        others += [*after.revoked, *(workflow_id for workflow_id, _ in after.messages)]
        for workflow_id in others:
            self.actors.doubt(workflow_id)
            self.actors.drop(workflow_id)
            self.actors.runnable[workflow_id] = None  # it is loaded, if it is (still) ours
        self._collecting.look_again()

    def _delay(self, error: StoreError) -> None:
        if self.trouble is None:
            logger.error("the store is in trouble; retrying until it is not: %s", error)
        self.trouble = error
        wait = min(RETRY_SECONDS_MIN * 2**self._retries, RETRY_SECONDS_MAX)
        self._retries = min(self._retries + 1, 30)
        self._retry_at = self.clock.monotonic() + wait

    def _recovered(self) -> None:
        self.trouble = None
        self._retry_at = 0.0
        self._retries = 0

    def _withdraw_late_tickets(self) -> None:
        """Answer requests that waited too long for a busy store, or that meet another trouble."""
        items = self._collecting.pending + self.mailbox.take()
        now, self._collecting.pending = self.clock.monotonic(), []
        is_busy = self.trouble is None or isinstance(self.trouble, StoreBusy)
        for item in items:
            is_late = isinstance(item, Ticket) and now >= item.deadline
            # Outcomes that are passed on have no deadline: nobody else would tell them again.
            is_told = isinstance(item, Ticket) and not is_busy and item.deadline < float("inf")
            if isinstance(item, Ticket) and (is_late or is_told):
                item.answer(None, self.trouble)
            else:
                self._collecting.pending.append(item)

    # --- tell and carry out -------------------------------------------------------------------

    def _tell(self, batch: Batch, result: Result) -> None:
        """Answer those who wait, now that it is certain."""
        for unit, answer, error in result.refused:
            del batch.units[unit.workflow_id]
            unit.actor.close()
            batch.starts.pop(unit.workflow_id).answer(answer, error)
            if unit.workflow_id not in self.actors:
                # Stored by a commit of ours that seemed to fail, perhaps: then it is ours.
                sometimes("a workflow that was started is not in memory")
                self.actors.runnable[unit.workflow_id] = None
        for done in result.committed:
            ticket = batch.starts.pop(done.unit.workflow_id, None)
            if ticket is not None:
                ticket.answer(done.unit.workflow_id, None)
        if result.replies:
            by_request = {id(ticket.request): ticket for ticket in batch.tickets}
            for request, answer, error in result.replies:
                by_request[id(request)].answer(answer, error)
        for workflow_id, outcome in result.after.ended:
            actor = self.actors.get(workflow_id)
            if actor is not None:
                actor.is_over = True  # first: see `holds`
            self._listener.ended(workflow_id, outcome)
        if self._listener.is_watched:
            self._listener.changed(_changed(batch, result))

    def _carry_out(self, batch: Batch, result: Result) -> None:
        attempts: dict[AttemptKey, Attempt] = {}
        revoked = dict.fromkeys(result.after.revoked)
        for done in result.committed:
            if done.unit.workflow_id not in revoked:  # else canceled in the same transaction
                self._settle_actor(done, batch.now)
                for effect in done.effects:
                    self._carry_out_effect(done.unit.workflow_id, effect, attempts)
            else:
                done.unit.actor.close()  # one that has just begun is nowhere else
        for workflow_id in revoked:
            self.actors.drop(workflow_id, cancel=True)
        self._follow(result.after)
        if attempts:
            assert self._runner is not None
            self._runner.start(list(attempts.values()))

    def _settle_actor(self, done: Committed, now: int) -> None:
        """Put the actor into the state that is stored now, or drop it."""
        unit, state = done.unit, done.state
        workflow_id = unit.workflow_id
        self._deciding.failures.pop(workflow_id, None)
        unit.actor.state = state
        if state.owner is None:
            if self.actors.get(workflow_id) is unit.actor:
                self.actors.drop(workflow_id)
            unit.actor.close()
            if state.wake_at is not None:
                self._claims.expect(state.wake_at)
            return
        self.actors.by_id[workflow_id] = unit.actor
        if unit.held:
            self.actors.held.setdefault(workflow_id, set()).update(unit.held)
        for record in done.ready:
            self.actors.enqueue(workflow_id, record)
        if next_fact(state, now) is not None:
            self.actors.runnable[workflow_id] = None

    def _carry_out_effect(
        self, workflow_id: WorkflowId, effect: Effect, attempts: dict[AttemptKey, Attempt]
    ) -> None:
        match effect:
            case RunAttempt():
                attempt = Attempt.of(workflow_id, effect.record)
                attempts[attempt.key] = attempt
            case CancelAttempt():
                key = (workflow_id, effect.number, effect.epoch, effect.attempt)
                # One that began and was cancelled in the same turn is not started at all.
                if attempts.pop(key, None) is None:
                    assert self._runner is not None
                    self._runner.cancel(key)
            case SetTimer():
                if workflow_id in self.actors:
                    self.actors.set_timer(effect.due_at, workflow_id, effect.number)
            case WarnJournalSize():
                logger.warning(
                    "workflow %s: its journal has %d of %d bytes; it fails when it is full",
                    workflow_id,
                    effect.journal_bytes,
                    self.env.limits.journal_bytes,
                )

    def _follow(self, after: After) -> None:
        for state in after.adopted:
            self.actors.adopt(Actor.fresh(state))
        for workflow_id, effect in after.effects:
            if isinstance(effect, CancelAttempt) and self._runner is not None:
                self._runner.cancel((workflow_id, effect.number, effect.epoch, effect.attempt))
        self._collecting.pending += [Post(*message) for message in after.messages]
        if after.look_inbox:
            self._inbox.look = True
        if after.look_claims:
            self._claims.expect(0)
        if after.look_config:
            self._claims.config_changed()


def _suspects(unit: Unit) -> list[set[tuple[WorkflowId, int]]]:
    """Who may have left behind what no commit accepts: each function alone, then all together."""
    functions = [(unit.workflow_id, number) for number in unit.functions()]
    functions += sorted(unit.on_complete())
    return [*({function} for function in functions), set(functions)]


def _changed(batch: Batch, result: Result) -> list[WorkflowId] | None:
    """The workflows that a commit has changed; None if it may be others than those at work."""
    is_asked = any(not isinstance(ticket.request, Read) for ticket in batch.tickets)
    if is_asked or result.after != After():
        return None
    return [done.unit.workflow_id for done in result.committed]
