"""The engine of one manager in this process: a worker's turns, called from a thread or a loop.

It holds what outlives a worker (the store, the mailbox, who waits for which workflow) and gives a
worker that was fenced a new life. Two ways to be driven: `ThreadEngine` has a thread of its own;
`LoopEngine` runs its turns as plain callbacks of an asyncio loop, with no thread in between. (The
simulator has a third.)
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Collection, Iterator
from typing import Any, Protocol

import attrs

from perdure.core.ids import WorkflowId
from perdure.core.loop import hook_asyncgens
from perdure.core.outcomes import Outcome
from perdure.core.workflow import WorkflowHeader
from perdure.errors import NotOpen, PerdureError, StoreError, StoreVersionError
from perdure.sometimes import sometimes
from perdure.store.base import Fenced, Store, WorkflowFilter

from .attempts import Runner
from .bridge import Bridge
from .clock import Clock
from .commit import Request
from .mailbox import Mailbox, Ticket
from .operations import StartOrder
from .runner import ActionRunner
from .scope import Env
from .verbs import Verbs
from .watch import Watchdog
from .watching import Waiters, Watchers
from .worker import Border, Worker

logger = logging.getLogger("perdure.worker")

#: How often those who watch look, in seconds, where the store does not tell of each commit of
#: others: a read for each.
WATCH_SECONDS = 0.5

#: How long to wait before another try to begin a life, in seconds.
RETRY_SECONDS = 1.0

#: How many workflows may be active for it to be worth a look whether all of them are blocked.
BLOCKED_MAX = 1000

#: How often at most to look for that, in seconds: it reads every workflow in progress.
BLOCKED_SECONDS = 0.2

#: How long a client's request may wait while the store is busy.
BUSY_SECONDS = 30.0


class EngineRunner(Runner, Protocol):
    """What an engine needs of the runner of its worker, beside what the worker does."""

    def cancel_all(self) -> None:
        """Cancel them."""
        ...

    def close(self) -> None:
        """No more attempts will be started."""
        ...


class Engine:
    """What all kinds of engine share.

    Args:
        env: without a worker id: each life of the worker gets its own.
        store: not open yet.
        works: whether to run workflows, or only to carry out requests.
        bridge: to the loop that runs `async def` actions; None for a client.
        verbs: what actions may do with the manager.

    Attributes:
        wait: after a turn, the seconds until the next one is due; None when the engine is done.
    """

    def __init__(
        self,
        env: Env,
        store: Store,
        *,
        works: bool,
        bridge: Bridge | None,
        verbs: Verbs,
        drain_seconds: float,
    ) -> None:
        self.env = env
        self.store = store
        self.waiters = Waiters()
        self.watchers = Watchers()
        self.failure: BaseException | None = None
        self._works = works
        self._bridge = bridge
        self._verbs = verbs
        self._drain_seconds = drain_seconds
        self._pid = os.getpid()
        self.wait: float | None = 0.0
        self._is_stopping = False
        self._is_closed = False
        self._drain_until: float | None = None
        self._look_again = False
        self._blocked_look_at = float("-inf")
        self._open_tickets: dict[Ticket, Callable[[Any, BaseException | None], None]] = {}
        self.mailbox = self._make_mailbox()
        self._watched_at = float("-inf")
        store.call_on_change(self.mailbox.wake)
        self._watchdog = Watchdog(env.watch)
        self._worker: Worker | None = None
        self._runner: EngineRunner | None = None

    def _make_mailbox(self) -> Mailbox:
        return Mailbox()

    @property
    def _poll_seconds(self) -> float:
        """How long to wait at most, though nothing is known to be due."""
        return self.store.poll_seconds

    @property
    def clock(self) -> Clock:
        return self.env.clock

    @property
    def trouble(self) -> StoreError | None:
        """What is wrong with the store at the moment, if anything."""
        return None if self._worker is None else self._worker.trouble

    # --- callers

    def submit(
        self,
        request: Request | StartOrder,
        answer: Callable[[Any, BaseException | None], None],
    ) -> None:
        """Have a request carried out; `answer` is called from the engine. From any thread.

        Raises:
            NotOpen: the engine has stopped, failed, or was made before a fork.
        """
        self.check()
        deadline = self.clock.monotonic() + BUSY_SECONDS
        ticket = Ticket(request, answer, deadline)
        self._open_tickets[ticket] = answer

        def closing(value: Any, error: BaseException | None) -> None:
            if self._open_tickets.pop(ticket, None) is not None:
                answer(value, error)

        ticket.answer = closing
        self.mailbox.put(ticket)
        if self._is_closed:
            self._answer_rest()

    def check(self) -> None:
        """Raise if the engine cannot answer."""
        if self._pid != os.getpid():
            raise NotOpen("this manager was opened before a fork: open one in this process")
        if self.failure is not None:
            raise _failed(self.failure) from self.failure
        if self._is_closed:
            raise NotOpen("the manager has been closed")

    def holds(self, workflow_id: WorkflowId) -> WorkflowHeader | None:
        """See `Worker.holds`; the list is that of `waiters`."""
        worker = self._worker
        return None if worker is None else worker.holds(workflow_id)

    def ended(self, workflow_id: WorkflowId, outcome: Outcome) -> None:
        """See `worker.Listener`."""
        self.waiters.ended(workflow_id, outcome)

    @property
    def is_watched(self) -> bool:
        """See `worker.Listener`."""
        return bool(self.watchers)

    def changed(self, ids: Collection[WorkflowId] | None) -> None:
        """See `worker.Listener`."""
        self.watchers.changed(ids)

    def is_idle(self) -> bool:
        """Whether nothing runs, is ready, or waits for a time, here or elsewhere. Workflows that
        are blocked do not count: they are tried again, but they wait for other code. False when
        the store cannot tell."""
        if self.mailbox or (self._runner is not None and self._runner.running):
            return False
        names = frozenset(self.env.registry.workflow_names)
        try:
            count = self.store.reader().count_active(names, BLOCKED_MAX + 1)
            if not 0 < count <= BLOCKED_MAX:
                return count == 0
            now = self.clock.monotonic()
            if now < self._blocked_look_at:
                return False
            self._blocked_look_at = now + BLOCKED_SECONDS
            return count == self._count_blocked(names)
        except StoreError:
            return False  # the next turn meets it as well

    def _count_blocked(self, names: frozenset[str]) -> int:
        """Workflows that `count_active` counts only because they are tried again later."""
        now, count, after = self.clock.now_ms(), 0, None
        while True:
            which = WorkflowFilter(status="in_progress", is_blocked=True, after=after)
            rows = self.store.reader().list_workflows(which)
            for _, state in rows:
                assert state.blocked is not None
                at = state.wake_at if state.owner is None else state.blocked.retry_at
                # What is due now has not been tried by this worker's code.
                is_later = at is not None and at > now
                count += is_later and state.header.name in names
            if len(rows) < which.limit:
                return count
            after = rows[-1][0]

    # --- a worker's life

    def _begin_life(self) -> None:
        """A new worker, with an id of its own, registered and holding its lock."""
        if not self._works:
            self._worker = Worker(self.env, self.store, self.mailbox, None, self)
            return
        worker_id = self.clock.new_id()
        env = attrs.evolve(self.env, worker_id=worker_id)
        self.store.hold_worker(worker_id)
        try:
            self._runner = self._make_runner(env)
            self._worker = Worker(env, self.store, self.mailbox, self._runner, self)
            self._worker.register()
        except BaseException:
            self.store.release_worker(worker_id)
            raise

    def _make_runner(self, env: Env) -> EngineRunner:
        """What runs the attempts of a life's actions."""
        assert self._bridge is not None
        return ActionRunner(env, self.mailbox, self._bridge, self._verbs)

    def _end_life(self) -> None:
        worker, runner = self._worker, self._runner
        self._worker = self._runner = None
        if worker is not None and worker.env.worker_id is not None:
            worker.close()
            self.store.release_worker(worker.env.worker_id)
        if runner is not None:
            runner.cancel_all()
            runner.close()

    def turn(self) -> Iterator[Border]:
        """One turn, border by border; `wait` says then when the next one is due.

        It is a generator for a simulator, which may let others run at the borders.
        """
        worker = self._worker
        if worker is None:
            self.wait = self._begin_next_life()
            return
        try:
            if self._is_stopping and not self._drain():
                self.wait = None
                return
            yield from worker.turn()
        except Fenced:
            sometimes("a worker begins a new life")
            logger.error("another process took this worker for dead; it starts a new life")
            self._end_life()
            for ticket in worker.unanswered:
                self.mailbox.put(ticket)
            self.wait = self._begin_next_life()
            return
        self._look_for_changes()
        self.wait = worker.next_wait(self._poll_seconds)

    def _turn(self) -> float | None:
        """One turn; the seconds to wait before the next one, or None when the engine is done."""
        bridge, watch = self._bridge, self.env.watch
        watch.turn_since = self.clock.monotonic()
        if bridge is not None:
            bridge.hold()
        try:
            for _ in self.turn():
                pass
        finally:
            watch.turn_since = None
            if bridge is not None:
                bridge.release()
        return self.wait

    def _begin_next_life(self) -> float | None:
        """After a fence; the seconds to wait, for the store may be in trouble as well.

        Raises:
            StoreVersionError: a newer perdure has upgraded the store: this process must stop.
        """
        if self._is_stopping:
            return None
        try:
            self._begin_life()
        except StoreVersionError:
            raise
        except StoreError as error:
            logger.error("no new life yet: %s", error)
            return RETRY_SECONDS
        return 0.0

    def _look_for_changes(self) -> None:
        """Workflows that change or end in other processes, and are watched or waited for here."""
        ids = self.waiters.ids()
        assert self._worker is not None
        if not ids and not self.watchers:
            return
        if self._worker.take_foreign_change():
            self._look_again = True
            self.watchers.changed(None)
        elif self.watchers and not self.store.tells_all:
            now = self.clock.monotonic()
            if now - self._watched_at >= WATCH_SECONDS:
                self._watched_at = now
                self.watchers.changed(None)
        if not self._look_again or not ids:
            return
        try:
            states = self.store.reader().states(ids)
        except StoreError:
            return  # the next turn meets it as well, and looks again
        self._look_again = False
        for state in states:
            if state.outcome is not None:
                self.waiters.ended(state.workflow_id, state.outcome)
        for workflow_id in set(ids).difference(state.workflow_id for state in states):
            sometimes("a workflow that is waited for was deleted by another process")
            self.waiters.gone(workflow_id)

    def _drain(self) -> bool:
        """Whether there is still something to wait for after a stop was asked for."""
        worker, runner = self._worker, self._runner
        assert worker is not None
        if not self._works:
            return bool(self.mailbox)
        assert runner is not None
        now = self.clock.monotonic()
        if self._drain_until is None:
            self._drain_until = now + self._drain_seconds
            worker.begin_drain()
        if runner.running and now < self._drain_until:
            return True
        if self.mailbox and now < self._drain_until + 1:
            return True  # outcomes that have come in
        lost = runner.attempts()
        if lost:
            logger.warning("still running after the drain, recorded as lost: %d", len(lost))
        runner.cancel_all()
        worker.end_drain(lost)
        return False

    def _finish(self) -> None:
        """The last act: end the worker's life, answer who still waits, close the store."""
        self._watchdog.stop()
        try:
            self._end_life()
        finally:
            self._is_closed = True
            self._answer_rest()
            self.store.close()

    def _answer_rest(self) -> None:
        error = self.failure or NotOpen("the manager has been closed")
        while self._open_tickets:
            _, answer = self._open_tickets.popitem()
            answer(None, error)
        self.waiters.fail(error)
        self.watchers.fail(error)


class ThreadEngine(Engine):
    """An engine with a thread of its own."""

    _thread: threading.Thread | None = None

    def open(self, *, max_parallelism: int | None) -> None:
        """Open the store, register the worker, start the thread.

        Raises:
            StoreError: the store cannot be used.
        """
        self.store.open(max_parallelism=max_parallelism, works=self._works)
        try:
            self._begin_life()
        except BaseException:
            self.store.close()
            raise
        self._thread = threading.Thread(target=self._main, name="perdure-engine", daemon=True)
        self._thread.start()

    def _main(self) -> None:
        self._watchdog.start()
        hook_asyncgens()  # for good: the thread is the engine's
        try:
            while (wait := self._turn()) is not None:
                if wait > 0:
                    self.mailbox.wait(wait)
        except BaseException as error:
            self.failure = error
            is_ours = not isinstance(error, StoreVersionError)
            logger.critical("the engine has failed and stops: %s", error, exc_info=is_ours)
        finally:
            try:
                self._finish()
            except BaseException as error:
                self.failure = self.failure or error
                logger.critical("the engine could not end in good order", exc_info=True)

    def stop(self) -> None:
        """Ask the engine to drain and end."""
        self._is_stopping = True
        self.mailbox.wake()

    def join(self) -> None:
        """Wait for the end; blocks.

        Raises:
            StoreVersionError: a newer perdure has upgraded the store.
            PerdureError: the engine had failed.
        """
        if self._thread is not None:
            self._thread.join()
        if self.failure is not None:
            raise _failed(self.failure) from self.failure


def _failed(failure: BaseException) -> PerdureError:
    """What callers are told of an engine that has failed."""
    if isinstance(failure, StoreVersionError):
        return StoreVersionError(str(failure))  # no fault of the engine's, and with a remedy
    return PerdureError(f"the engine has failed: {failure!r}")


class LoopEngine(Engine):
    """An engine whose turns are callbacks of an asyncio loop."""

    # A plain handle, with no `when`, is what some loops give for a moment that is close.
    _handle: asyncio.Handle | None = None
    _wake_at = 0.0
    _is_due = False

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Say on which loop, and so in which thread, `run` will be called."""
        self._loop = loop
        self._loop_thread = threading.get_ident()
        self._done: asyncio.Future[None] = loop.create_future()

    def _make_mailbox(self) -> Mailbox:
        return Mailbox(self._wake)

    async def run(
        self,
        *,
        max_parallelism: int | None,
        until_idle: bool,
        opened: Callable[[], object] | None = None,
    ) -> None:
        """Work until `stop` is called, or until nothing is left to do.

        Args:
            max_parallelism: see `base.Store.open`, which may block the loop for half a minute.
            until_idle: end when nothing is left to do.
            opened: called when the store is open; from then on the loop hears of everything.
        """
        self._until_idle = until_idle
        self.store.open(max_parallelism=max_parallelism, works=self._works)
        try:
            if opened is not None:
                opened()
            self._begin_life()
            self._watchdog.start()
            self._wake()
            await self._done
        finally:
            if self._handle is not None:
                self._handle.cancel()
            self._finish()

    def stop(self) -> None:
        """Ask the engine to drain and end."""
        self._is_stopping = True
        self._wake()

    def _wake(self) -> None:
        if self._is_due:
            return
        self._is_due = True
        try:
            if threading.get_ident() == self._loop_thread:
                self._loop.call_soon(self._tick)
            else:
                self._loop.call_soon_threadsafe(self._tick)
        except RuntimeError:
            pass  # the loop is closed

    def _tick(self) -> None:
        if self._done.done() or self._is_closed:
            return  # woken by the store, and it could not begin
        self._is_due = False
        try:
            wait = self._turn()
            may_end = self._until_idle and not self._is_stopping
            is_idle = may_end and wait is not None and wait > 0 and self.is_idle()
        except BaseException as error:
            self.failure = error
            self._done.set_exception(error)
            return
        if wait is None:
            self._done.set_result(None)
        elif is_idle:
            self.stop()
        elif wait > 0:
            self._wake_in(wait)
        else:
            self._wake()

    def _wake_in(self, seconds: float) -> None:
        """Have a tick in `seconds` at the latest. A timer that is set earlier serves as well: under
        load each tick would otherwise cancel one and make one."""
        now = self._loop.time()
        at = now + seconds
        if self._handle is not None:
            if now < self._wake_at <= at:
                return
            self._handle.cancel()
        self._handle, self._wake_at = self._loop.call_at(at, self._wake_now), at

    def _wake_now(self) -> None:
        # It may come early, by a coarse clock's tick: then another one has to be set.
        self._handle = None
        self._wake()
