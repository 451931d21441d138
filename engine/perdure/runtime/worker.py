"""The worker: its turn (collect, decide, commit, carry out), and nothing that waits.

`Worker.turn` is a generator that yields at the borders of its phases, so that a simulator may let
others run there; `run_turn` runs it through. This file knows no thread and no event loop: what an
attempt of an action is run by, it is given as `Runner`.

A message leaves the mailbox only when its commit is known. Actors are a cache: after any fault
they are dropped and loaded again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol, TypeAlias

import attrs

from perdure.core.effects import (
    CallFunction,
    CancelAttempt,     Effect,
    RunAttempt,
    SetTimer,
    WarnJournalSize,
)
from perdure.core.ids import Epoch, WorkerId, WorkflowId
from perdure.core.journal import StepRecord
from perdure.core.messages import AttemptLost, FailWorkflow, Message, StepAdmitted, StepDue
from perdure.core.outcomes import Outcome
from perdure.core.pool import Queue
from perdure.core.workflow import due_timers, next_fact
from perdure.definitions import Workflow
from perdure.errors import ErrorInfo, InternalError, StoreBusy, StoreError
from perdure.store.base import Fenced, Store, TransactionLost

from .actor import Actor, Decider, Unit
from .claims import Claims
from .clock import Clock
from .commit import (
    Committed,
    Committer,
    FunctionLostTransaction,
    Result,
    StaleUnits,
    UnitFailed,
)
from .inbox import InboxReader
from .mailbox import Mailbox, Post, Ticket
from .operations import After, Env, StartOrder, new_state
from .scheduler import Scheduler

logger = logging.getLogger("perdure.worker")

#: Where a turn may be interrupted.
Border: TypeAlias = Literal["collected", "decided", "committed", "told", "carried out"]

#: How long to wait after the first failed commit, doubling up to the second, in seconds.
RETRY_SECONDS_MIN = 0.01
RETRY_SECONDS_MAX = 1.0

#: A turn that takes longer is reported: everything else waits for it.
SLOW_TURN_SECONDS = 1.0

#: Units of one commit. More would make those who wait for it wait longer than one sync costs.
BATCH_MAX = 500


@attrs.frozen(kw_only=True)
class Attempt:
    """An attempt of an action: recorded, and to be run now."""

    workflow_id: WorkflowId
    record: StepRecord

    @property
    def key(self) -> AttemptKey:
        record = self.record
        assert record.started_epoch is not None
        return (self.workflow_id, record.number, record.started_epoch, record.attempt)


#: (workflow, step number, epoch of the start, attempt)
AttemptKey: TypeAlias = tuple[WorkflowId, int, Epoch, int]


class Runner(Protocol):
    """What runs attempts. It reports each with a `Post` of `AttemptEnded`, exactly once."""

    def start(self, attempts: Sequence[Attempt]) -> None: ...

    def cancel(self, key: AttemptKey) -> None:
        """Nobody waits for it any more: tell its code, if it still runs."""
        ...

    @property
    def running(self) -> int:
        """How many have not ended: each holds a permit."""
        ...


class Listener(Protocol):
    """Who wants to know what the worker did."""

    def ended(self, workflow_id: WorkflowId, outcome: Outcome) -> None:
        """A workflow ended, by a commit of this process."""
        ...


@attrs.define
class _Batch:
    """What one turn works on."""

    now: int
    messages: dict[WorkflowId, list[Message]] = attrs.field(factory=dict)
    inbox: dict[WorkflowId, list[int]] = attrs.field(factory=dict)
    tickets: list[Ticket] = attrs.field(factory=list)
    units: dict[WorkflowId, Unit] = attrs.field(factory=dict)
    starts: dict[WorkflowId, Ticket] = attrs.field(factory=dict)
    posts: list[Post] = attrs.field(factory=list)

    @property
    def is_empty(self) -> bool:
        return not (self.messages or self.tickets or self.units)


class Worker:
    """One worker's life, or, without `runner`, a client's engine that only carries out requests.

    Args:
        env: settings, definitions, clock, and this worker's id.
        store: open.
        mailbox: what reaches it.
        runner: None for a client.
        listener: told of what ends.
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
        self.store = store
        self.mailbox = mailbox
        self.actors: dict[WorkflowId, Actor] = {}
        self.timers = Scheduler()
        self.queue = Queue()
        self.trouble: StoreError | None = None
        self.is_draining = False
        self._runner = runner
        self._listener = listener
        self._decider = Decider(env.rules)
        self._committer = Committer(store, env)
        self._claims = Claims(env, store)
        self._inbox = InboxReader(env, store)
        self._runnable: dict[WorkflowId, None] = {}
        self._held: dict[tuple[WorkflowId, int], None] = {}
        self._reserved: list[Epoch] = []
        self._failures: dict[WorkflowId, int] = {}
        self._foreign_change = True
        self._retry_at = 0.0
        self._retries = 0
        self._pending: list[Post | Ticket] = []

    @property
    def clock(self) -> Clock:
        return self.env.clock

    @property
    def is_client(self) -> bool:
        """Whether it only carries out requests."""
        return self._runner is None

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
            self._withdraw_late_tickets()
            return
        started = self.clock.monotonic()
        try:
            batch = self._collect()
        except StoreError as error:
            self._store_failed(error, None)
            return
        if batch.is_empty:
            return
        yield "collected"
        self._decide(batch)
        yield "decided"
        result = self._commit(batch)
        yield "committed"
        if result is not None:
            self._tell(batch, result)
            yield "told"
            self._carry_out(batch, result)
        seconds = self.clock.monotonic() - started
        if seconds > SLOW_TURN_SECONDS:
            logger.warning("a turn took %.1f s; %d workflows", seconds, len(batch.units))
        yield "carried out"

    # --- its life -----------------------------------------------------------------------------

    def register(self) -> None:
        """Tell the store that this worker lives."""
        now = self.clock.now_ms()
        with self.store.transaction() as tx:
            self._claims.register(tx, now)

    def begin_drain(self) -> None:
        """Start nothing new; give up what does not run."""
        self.is_draining = True
        for workflow_id in self.actors:
            self._runnable[workflow_id] = None

    def end_drain(self, lost: Sequence[Attempt]) -> None:
        """Record attempts that still run as lost, and give up everything. The last turn."""
        now = self.clock.now_ms()
        for attempt in lost:
            workflow_id, number, epoch, count = attempt.key
            message = AttemptLost(number=number, epoch=epoch, attempt=count, accepted_at=now)
            self._pending.append(Post(workflow_id, message))
        for workflow_id in self.actors:
            self._runnable[workflow_id] = None
        while self._pending or self._runnable:
            if not self.run_turn():
                return  # the store is in trouble: whoever comes next finds everything there

    def close(self) -> None:
        """Drop all actors; forget the worker, if nothing refers to it any more."""
        for workflow_id in list(self.actors):
            self._drop(workflow_id)
        assert self.env.worker_id is not None
        now = self.clock.now_ms()
        try:
            with self.store.transaction() as tx:
                tx.release_workflows(self.env.worker_id, now, is_dead=False)
                tx.remove_worker(self.env.worker_id)
        except StoreError as error:
            # Its lock is given up in any case: the next worker finds it dead.
            logger.warning("the worker could not sign off: %s", error)

    def take_foreign_change(self) -> bool:
        """Whether another process has committed since this was last asked."""
        changed, self._foreign_change = self._foreign_change, False
        return changed

    def next_wait(self, most: float) -> float:
        """Seconds until there is something to do that nobody will wake us for."""
        if self._retry_at:
            return max(0.0, min(most, self._retry_at - self.clock.monotonic()))
        if self._runnable or self.mailbox or self._pending:
            return 0.0
        times = [at for at in (self.timers.next_at(), self._claims.next_at) if at is not None]
        if self.is_client or not times:
            return most
        return max(0.0, min(most, (min(times) - self.clock.now_ms()) / 1000))

    # --- collect ------------------------------------------------------------------------------

    def _collect(self) -> _Batch:
        now = self.clock.now_ms()
        batch = _Batch(now)
        has_changed = self.store.has_changed()
        self._foreign_change = self._foreign_change or has_changed
        if not self.is_client:
            self._collect_foreign(batch, has_changed)
        items = self._pending + self.mailbox.take()
        self._pending = []
        for index, item in enumerate(items):
            if len(batch.messages) + len(batch.tickets) >= BATCH_MAX:
                self._pending = items[index:]
                break
            if isinstance(item, Post):
                batch.posts.append(item)
                batch.messages.setdefault(item.workflow_id, []).append(item.message)
            else:
                batch.tickets.append(item)
        if not self.is_client:
            for _, workflow_id, number in self.timers.pop_due(now):
                if workflow_id in self.actors:
                    messages = batch.messages.setdefault(workflow_id, [])
                    if number >= 0:
                        messages.append(StepDue(number=number))
            for workflow_id in list(self._runnable)[:BATCH_MAX]:
                batch.messages.setdefault(workflow_id, [])
                del self._runnable[workflow_id]
            self._load_missing(batch)
        return batch

    def _collect_foreign(self, batch: _Batch, has_changed: bool) -> None:
        """What other processes left for us: claims, rows of the inbox."""
        claims = []
        if not self.is_draining:
            claims = self._claims.look(batch.now, has_changed=has_changed)
        for claimed in claims:
            self._adopt(Actor.of(claimed.loaded))
            batch.messages.setdefault(claimed.loaded.state.workflow_id, [])
            self._inbox.look = True
        self._queue_permits(has_changed)
        for row in self._inbox.read(has_changed=has_changed):
            if row.is_revoked:
                self._drop(row.workflow_id, cancel=True)
            elif row.message is not None:
                batch.messages.setdefault(row.workflow_id, []).append(row.message)
                batch.inbox.setdefault(row.workflow_id, []).append(row.row_id)
        for claimed in claims:
            # After the inbox: what a dead worker had reported is not lost.
            batch.messages[claimed.loaded.state.workflow_id].extend(claimed.messages)

    def _queue_permits(self, has_changed: bool) -> None:
        """Keep the number of permits in step with what is needed; see `Claims.permits`."""
        assert self._runner is not None
        needed = self._runner.running + len(self.queue)
        before = self._claims.is_paused
        self._claims.update_permits(needed, has_changed=has_changed)
        if before and not self._claims.is_paused:
            for workflow_id, _ in self._held:
                self._runnable[workflow_id] = None

    def _load_missing(self, batch: _Batch) -> None:
        """Actors for workflows of ours that were dropped; others are not ours any more."""
        missing = [workflow_id for workflow_id in batch.messages if workflow_id not in self.actors]
        if not missing:
            return
        for loaded in self._claims.load(missing):
            if loaded.state.owner == self.env.worker_id:
                self._adopt(Actor.of(loaded))
        for workflow_id in missing:
            if workflow_id not in self.actors:
                messages = batch.messages.pop(workflow_id)
                # Its new owner reads the rows himself.
                self._inbox.release(batch.inbox.pop(workflow_id, ()))
                request = self._inbox.pass_on(workflow_id, messages, batch.now)
                if request is not None:
                    batch.tickets.append(Ticket(request, _no_answer, float("inf")))

    def _adopt(self, actor: Actor) -> None:
        """Take an actor in, with the timers and the queue places that follow from its state."""
        state = actor.state
        self._drop(state.workflow_id)
        self.actors[state.workflow_id] = actor
        self._runnable[state.workflow_id] = None
        for timer in due_timers(state):
            self.timers.set(timer.due_at, state.workflow_id, timer.number)
        for record in state.live.values():
            if record.state == "ready":
                self._enqueue(state.workflow_id, record)

    def _enqueue(self, workflow_id: WorkflowId, record: StepRecord) -> None:
        if record.command.kind == "action":
            self.queue.add(record.due_at or 0, workflow_id, record.number)
        else:
            self._held[workflow_id, record.number] = None
            self._runnable[workflow_id] = None

    def _drop(self, workflow_id: WorkflowId, *, cancel: bool = False) -> None:
        actor = self.actors.pop(workflow_id, None)
        if actor is None:
            return
        actor.close()
        if cancel and self._runner is not None:
            for record in actor.state.live.values():
                if record.state == "started":
                    self._runner.cancel(Attempt(workflow_id=workflow_id, record=record).key)

    # --- decide -------------------------------------------------------------------------------

    def _decide(self, batch: _Batch) -> None:
        for workflow_id, messages in batch.messages.items():
            actor = self.actors.get(workflow_id)
            if actor is not None:
                unit = self._unit(actor, messages)
                unit.inbox = batch.inbox.get(workflow_id, [])
                self._decide_unit(unit, batch)
        tickets = []
        for ticket in batch.tickets:
            if isinstance(ticket.request, StartOrder) and self._starts_here(ticket.request, batch):
                batch.starts[ticket.request.workflow_id] = ticket
                self._decide_unit(self._fresh_unit(ticket.request, batch.now), batch)
            else:
                tickets.append(ticket)
        batch.tickets = tickets
        if not self.is_client and not self.is_draining:
            self._admit(batch)
        for unit in batch.units.values():
            self._decider.park(unit, batch.now, is_draining=self.is_draining)

    def _starts_here(self, order: StartOrder, batch: _Batch) -> bool:
        return (
            not self.is_client
            and not self.is_draining
            and order.start_at <= batch.now
            and order.workflow_id not in batch.starts
            and isinstance(self.env.registry.get(order.name), Workflow)
        )

    def _unit(self, actor: Actor, messages: Sequence[Message]) -> Unit:
        state = actor.state
        return Unit(
            workflow_id=state.workflow_id,
            actor=actor,
            expected_epoch=state.epoch,
            state=state,
            messages=messages,
        )

    def _fresh_unit(self, order: StartOrder, now: int) -> Unit:
        if not self._reserved:
            self._reserved = self._claims.reserve_epochs()
        owner = self.env.worker_id
        state = new_state(order, epoch=self._reserved.pop(), now=now, owner=owner)
        actor = Actor.fresh(state)
        return Unit(
            workflow_id=order.workflow_id,
            actor=actor,
            expected_epoch=None,
            state=state,
            order=order,
        )

    def _decide_unit(self, unit: Unit, batch: _Batch) -> None:
        """Decide for one workflow; a bug of ours there must not harm another one."""
        workflow_id, now = unit.workflow_id, batch.now
        failures = self._failures.get(workflow_id, 0)
        mark = (unit.state, unit.inbox)
        try:
            if failures >= 2:
                error = ErrorInfo("InternalError", "perdure itself failed twice; see its log")
                self._decider.apply(unit, FailWorkflow(error=error), now)
            else:
                self._decider.decide(unit, now)
                self._admit_functions(unit, now)
        except Exception:
            logger.exception("workflow %s: a fault of perdure's, please report it", workflow_id)
            self._failures[workflow_id] = failures + 1
            unit.state, unit.inbox = mark
            self._drop(workflow_id)
            unit.actor.close()
            self._again(unit, batch)
            return
        batch.units[workflow_id] = unit

    def _again(self, unit: Unit, batch: _Batch) -> None:
        """Take up a unit's messages in the next turn, after a reload."""
        ticket = batch.starts.pop(unit.workflow_id, None)
        if ticket is not None:
            if self._failures.get(unit.workflow_id, 0) >= 2:
                text = f"workflow {unit.workflow_id!r} could not be started; see the log"
                ticket.answer(None, InternalError(text))
            else:
                self._pending.append(ticket)
            return
        self._inbox.release(unit.inbox)
        self._repost(unit, batch)

    def _repost(self, unit: Unit, batch: _Batch) -> None:
        self._pending.extend(post for post in batch.posts if post.workflow_id == unit.workflow_id)
        self._runnable[unit.workflow_id] = None

    def _admit_functions(self, unit: Unit, now: int) -> None:
        """Queries and mutations need no permit; only a pause of the pool holds them up."""
        ready = {record.number: record for record in unit.ready}
        for held_id, number in list(self._held):
            held = unit.state.live.get(number) if held_id == unit.workflow_id else None
            if held is not None:
                ready[number] = held
        for number, record in ready.items():
            command: Any = record.command
            if command.kind == "action":
                continue
            if self._claims.is_paused and not command.inline:
                self._held[unit.workflow_id, number] = None
                continue
            self._held.pop((unit.workflow_id, number), None)
            message = StepAdmitted(number=number, runner=self.env.worker_id or "")
            self._decider.apply(unit, message, now)

    def _admit(self, batch: _Batch) -> None:
        """Start ready actions, oldest first, as far as there are permits."""
        assert self._runner is not None
        assert self.env.worker_id is not None
        for unit in batch.units.values():
            for record in unit.ready:
                if record.command.kind == "action":
                    self.queue.add(record.due_at or 0, unit.workflow_id, record.number)
            unit.ready = [record for record in unit.ready if record.command.kind != "action"]
        free = self._claims.permits - self._runner.running
        while free > 0 and (ready := self.queue.take(free)):
            for step in ready:
                unit_or_none = batch.units.get(step.workflow_id)
                if unit_or_none is None:
                    actor = self.actors.get(step.workflow_id)
                    if actor is None:
                        continue  # dropped; it is queued again when it is loaded
                    unit_or_none = batch.units[step.workflow_id] = self._unit(actor, ())
                record = unit_or_none.state.live.get(step.number)
                if record is None or record.state != "ready":
                    continue  # canceled since, or queued twice
                message = StepAdmitted(number=step.number, runner=self.env.worker_id)
                self._decider.apply(unit_or_none, message, batch.now)
                free -= 1

    # --- commit -------------------------------------------------------------------------------

    def _commit(self, batch: _Batch) -> Result | None:
        """Commit the batch; None if it has to be taken up again."""
        try:
            result = self._committer.commit(
                list(batch.units.values()),
                [ticket.request for ticket in batch.tickets],
                batch.now,
                self._reserved,
                extra=self._inbox.in_commit,
            )
        except Fenced:
            raise
        except StaleUnits as stale:
            for workflow_id in stale.workflow_ids:
                self._give_up(workflow_id, batch)
            return self._commit(batch)
        except StoreError as error:
            self._store_failed(error, batch)
            return None
        except Exception as error:
            return self._commit_one_by_one(batch, error)
        self._committed()
        return result

    def _committed(self) -> None:
        self.trouble = None
        self._retry_at = 0.0
        self._retries = 0
        self._inbox.committed()

    def _give_up(self, workflow_id: WorkflowId, batch: _Batch) -> None:
        """Somebody else has taken, canceled or restarted this workflow."""
        unit = batch.units.pop(workflow_id, None)
        self._drop(workflow_id, cancel=True)
        if unit is not None:
            self._inbox.release(unit.inbox)
            # What was for it may be an outcome that its new owner waits for.
            self._repost(unit, batch)

    def _commit_one_by_one(self, batch: _Batch, error: Exception) -> Result | None:
        """Some unit spoils the batch: each gets a transaction of its own, to find out which."""
        if not isinstance(error, FunctionLostTransaction | TransactionLost | UnitFailed):
            logger.warning("a batch could not be committed (%r): now one by one", error)
        whole = Result()
        units, tickets = list(batch.units.values()), batch.tickets
        for unit in units:
            self._merge(whole, self._commit_alone(unit, [], batch))
        for ticket in tickets:
            self._merge(whole, self._commit_alone(None, [ticket], batch))
        self._inbox.committed()
        return whole

    def _commit_alone(
        self, unit: Unit | None, tickets: list[Ticket], batch: _Batch
    ) -> Result | None:
        lost: set[tuple[WorkflowId, int]] = set()
        units = [] if unit is None else [unit]
        requests: list[Any] = [ticket.request for ticket in tickets]
        while True:
            try:
                return self._committer.commit(
                    units, requests, batch.now, self._reserved, frozenset(lost)
                )
            except Fenced:
                raise
            except StaleUnits:
                assert unit is not None
                self._give_up(unit.workflow_id, batch)
                return None
            except StoreError as error:
                for ticket in tickets:
                    ticket.answer(None, error)
                if unit is not None:
                    self._unit_failed(unit, batch)
                self._delay(error)
                return None
            except FunctionLostTransaction as error:
                if (error.workflow_id, error.number) in lost:
                    raise
                lost.add((error.workflow_id, error.number))
            except Exception as error:
                for ticket in tickets:
                    ticket.answer(None, error)
                if unit is None:
                    return None
                functions = {(unit.workflow_id, n) for n in _functions(unit)}
                if functions - lost and self.store.is_poisoned(error):
                    lost |= functions
                    continue
                logger.exception("workflow %s: a fault of perdure's", unit.workflow_id)
                self._failures[unit.workflow_id] = self._failures.get(unit.workflow_id, 0) + 1
                self._unit_failed(unit, batch)
                return None

    def _unit_failed(self, unit: Unit, batch: _Batch) -> None:
        batch.units.pop(unit.workflow_id, None)
        self._drop(unit.workflow_id)
        unit.actor.close()
        self._again(unit, batch)

    def _merge(self, whole: Result, part: Result | None) -> None:
        if part is None:
            return
        whole.committed += part.committed
        whole.refused += part.refused
        whole.replies += part.replies
        for name in ("adopted", "revoked", "effects", "messages", "ended"):
            getattr(whole.after, name).extend(getattr(part.after, name))
        whole.after.look_inbox |= part.after.look_inbox
        whole.after.look_claims |= part.after.look_claims
        whole.after.look_config |= part.after.look_config

    def _store_failed(self, error: StoreError, batch: _Batch | None) -> None:
        """The database is in trouble: drop the actors, keep the messages, try again later."""
        self._delay(error)
        if batch is None:
            return
        for unit in batch.units.values():
            self._drop(unit.workflow_id)
            unit.actor.close()
            self._inbox.release(unit.inbox)
            if unit.expected_epoch is not None:
                self._repost(unit, batch)
        for ticket in [*batch.tickets, *batch.starts.values()]:
            if isinstance(error, StoreBusy):
                self._pending.append(ticket)
            else:
                ticket.answer(None, error)
        batch.units.clear()
        self._withdraw_late_tickets()

    def _delay(self, error: StoreError) -> None:
        if self.trouble is None:
            logger.error("the store is in trouble; retrying until it is not: %s", error)
        self.trouble = error
        wait = min(RETRY_SECONDS_MIN * 2**self._retries, RETRY_SECONDS_MAX)
        self._retries = min(self._retries + 1, 30)
        self._retry_at = self.clock.monotonic() + wait

    def _withdraw_late_tickets(self) -> None:
        """Answer requests that have waited for too long."""
        items = self._pending + self.mailbox.take()
        now, kept = self.clock.monotonic(), []
        for item in items:
            if isinstance(item, Ticket) and (now >= item.deadline or not _is_busy(self.trouble)):
                item.answer(None, self.trouble)
            else:
                kept.append(item)
        self._pending = kept

    # --- tell and carry out -------------------------------------------------------------------

    def _tell(self, batch: _Batch, result: Result) -> None:
        """Answer those who wait, now that it is certain."""
        for unit, answer, error in result.refused:
            batch.units.pop(unit.workflow_id)
            unit.actor.close()
            batch.starts.pop(unit.workflow_id).answer(answer, error)
        for done in result.committed:
            ticket = batch.starts.pop(done.unit.workflow_id, None)
            if ticket is not None:
                ticket.answer(done.unit.workflow_id, None)
        by_request = {id(ticket.request): ticket for ticket in batch.tickets}
        for request, answer, error in result.replies:
            by_request[id(request)].answer(answer, error)
        for workflow_id, outcome in result.after.ended:
            self._listener.ended(workflow_id, outcome)

    def _carry_out(self, batch: _Batch, result: Result) -> None:
        attempts: list[Attempt] = []
        revoked = set(result.after.revoked)
        for done in result.committed:
            self._failures.pop(done.unit.workflow_id, None)
            if done.unit.workflow_id in revoked:
                continue  # canceled in the very same transaction
            self._settle_actor(done, batch.now)
            for effect in done.effects:
                self._carry_out_effect(done.unit.workflow_id, effect, attempts)
        for workflow_id in revoked:
            self._drop(workflow_id, cancel=True)
        self._follow(result.after)
        if attempts:
            assert self._runner is not None
            self._runner.start(attempts)

    def _settle_actor(self, done: Committed, now: int) -> None:
        """Put the actor into the state that is stored now, or drop it."""
        actor, state = done.unit.actor, done.state
        workflow_id = done.unit.workflow_id
        actor.state = state
        if state.owner is None:
            if self.actors.get(workflow_id) is actor:
                del self.actors[workflow_id]
            actor.close()
            if state.wake_at is not None:
                self._claims.expect(state.wake_at)
            return
        self.actors[workflow_id] = actor
        for record in done.ready:
            if record.command.kind == "action":
                self._enqueue(workflow_id, record)
        if next_fact(state, now) is not None:
            self._runnable[workflow_id] = None

    def _carry_out_effect(
        self, workflow_id: WorkflowId, effect: Effect, attempts: list[Attempt]
    ) -> None:
        match effect:
            case RunAttempt():
                attempts.append(Attempt(workflow_id=workflow_id, record=effect.record))
            case CancelAttempt():
                assert self._runner is not None
                self._runner.cancel((workflow_id, effect.number, effect.epoch, effect.attempt))
            case SetTimer():
                if workflow_id in self.actors:
                    self.timers.set(effect.due_at, workflow_id, effect.number)
            case WarnJournalSize():
                logger.warning(
                    "workflow %s: its journal has %d of %d bytes; it fails when it is full",
                    workflow_id,
                    effect.journal_bytes,
                    self.env.limits.journal_bytes,
                )

    def _follow(self, after: After) -> None:
        for state in after.adopted:
            self._adopt(Actor.fresh(state))
        for workflow_id, effect in after.effects:
            if isinstance(effect, CancelAttempt) and self._runner is not None:
                self._runner.cancel((workflow_id, effect.number, effect.epoch, effect.attempt))
        if after.messages:
            self._pending.extend(Post(workflow_id, message) for workflow_id, message in after.messages)
        if after.look_inbox:
            self._inbox.look = True
        if after.look_claims:
            self._claims.expect(0)
        if after.look_config:
            self._claims.config_changed()


def _no_answer(value: Any, error: BaseException | None) -> None:
    if error is not None:
        logger.error("the outcome of an attempt could not be passed on: %r", error)


def _functions(unit: Unit) -> list[int]:
    return [write.number for write in unit.writes if isinstance(write, CallFunction)]


def _is_busy(error: StoreError | None) -> bool:
    return error is None or isinstance(error, StoreBusy)
