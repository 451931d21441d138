"""The world: virtual time, the disk, and the processes that share it. One thread, one heap.

Everything that happens is an event at a virtual time; of two at one time, that which was asked for
first comes first. So a run is a function of its scenario and its plan, and nothing else.
"""

from __future__ import annotations

import heapq
import math
import re
import sqlite3
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs

from perdure.core.ids import WorkflowId
from perdure.core.limits import PARALLELISM_DEFAULT, Limits, Portions
from perdure.core.outcomes import Outcome
from perdure.core.retry import RetryPolicy
from perdure.core.workflow import RESTARTED, WorkflowState
from perdure.definitions import Call, Definer
from perdure.errors import NotOpen, PerdureError, StoreError
from perdure.runtime import requests
from perdure.runtime.attempts import Attempt
from perdure.step import StepRules
from perdure.store.base import Store

from ..faults.plan import Fault, FaultPlan, Injector, is_actor
from ..faults.sites import DISK_TROUBLE_MS, KNOBS, LASTING, check
from ..laws.history import History
from ..laws.known import Author, is_given_up
from ..laws.violations import BlockedWithoutCause, HotSpin, ToldTooEarly
from ..laws.waits import patience
from ..report.wording import moment
from .actions import CallMade, Stub
from .clock import START_MS
from .deeds import Deed, asked_again, check_answer, submit
from .disks import Disk
from .faulty_store import Over, Write
from .leases import check_burials, workers
from .outside import NotSimulated
from .process import NOTICE_MS, Process
from .trace import About, EventKind, Trace
from .transacting import Body, Transact
from .watches import Watch

#: Events of one run: a run with more of them runs hot.
EVENTS_MAX = 5_000

#: How long to wait for a rest where code is deployed that may not fit, in ms.
DEPLOY_MS = 3_600_000

#: How often at most the old code comes back at the end, and then the new.
ROLLBACKS_MAX = 4

#: The epoch in an id that the engine made for a child: it depends on who took its parent up.
EPOCH = re.compile(r"@\d+")

#: How long running attempts may go on in a worker that is stopped, where nobody says it: seconds.
DRAIN_SECONDS = 30.0

#: How long a client tries again when its process died under a request, in ms.
RETRY_MS = 1_000


def _call(fn: Callable[[], object]) -> None:
    fn()


class World:
    """One run.

    Args:
        definer: the definitions; their code is shared by all processes.
        disk: where the store lies.
        plan: what goes wrong.
        workers: how many worker processes.
        stubs: by the names of actions.
        next_definer: what a deploy brings: other code for the same names.
        detail: note also what goes on inside the processes, for people: see `trace.DetailKind`.
        rules: with which a manager runs the definitions; `limits` are of no use then.
        drain_seconds: how long running attempts may go on in a worker that is stopped.

    Attributes:
        events_max, steps_max: a run of more events, or steps of one workflow, runs hot.
        observer: called after each event.
        on_attempt: called when an action's code begins.
        on_attempt_end: called with the attempt and its outcome when an action's code ends.
        next_rules: the same, as processes are booted with it.
        portions: how much a turn takes at once.
        has_cache: whether live handlers outlive their turns.
        shares_commits: whether functions may share a transaction where the store lets them.
        may_block: ids of workflows whose code is meant not to fit.
    """

    def __init__(
        self,
        definer: Definer,
        disk: Disk,
        plan: FaultPlan = FaultPlan(),
        *,
        workers: int = 2,
        stubs: dict[str, Stub] | None = None,
        max_parallelism: int | None = None,
        limits: Limits = Limits(),
        next_definer: Definer | None = None,
        detail: bool = False,
        rules: StepRules | None = None,
        drain_seconds: float = DRAIN_SECONDS,
    ) -> None:
        check(plan)
        self.now = START_MS
        self.faults = Injector(plan)
        self.drain_seconds = drain_seconds
        self.history = History(is_whole=True, patience=self._held_up)
        self.violation: Exception | None = None
        self.stubs = dict(stubs or {})
        self.max_parallelism = max_parallelism
        limit = PARALLELISM_DEFAULT if max_parallelism is None else max_parallelism
        self.history.owners.limit = limit
        self.calls: list[CallMade] = []
        self.deeds: list[Deed] = []
        self.watches: list[Watch] = []
        self.may_block: set[str] = set()
        self.events = 0
        self.trace = Trace()
        self.detail = detail
        if detail:
            self.faults.tell = self._fault_fired
        self._disk = disk
        self._db: sqlite3.Connection | None = None
        self._heap: list[tuple[int, int, str, Callable[[], None]]] = []
        self._sequence = 0
        self._trouble: Fault | None = None
        self._trouble_until = 0
        self._power_cut: Fault | None = None
        self._log: list[tuple[int, int, list[Write] | CallMade]] | None = None
        self._plain_ids: dict[str, str | None] = {}
        self.events_max = EVENTS_MAX
        self.steps_max = sys.maxsize
        self.observer: Callable[[], None] | None = None
        self.on_attempt: Callable[[CallMade], None] | None = None
        self.on_attempt_end: Callable[[Attempt, Outcome], None] | None = None
        self.rules = rules = rules or StepRules(
            registry=definer.registry,
            limits=limits,
            default_retry=RetryPolicy(),
            retry_actions_by_default=False,
        )
        self.next_rules: StepRules | None = None
        if next_definer is not None:
            self.next_rules = attrs.evolve(rules, registry=next_definer.registry)
        self._draw_knobs()
        if self.faults.has("power_loss") and disk.undo_commits is not None:
            disk.keep_commits()
            self._log = []
        self.workers = [Process(self, f"w{n}", rules, works=True) for n in range(workers)]
        self.client = Process(self, "c0", rules, works=False)
        for process in self.processes:
            process.boot()

    def _draw_knobs(self) -> None:
        """Settings that the plan makes small, for the whole run."""
        knobs = {name: self.faults.at("world", name) for name in KNOBS}
        self.portions = Portions(batch=1, claims=1, epochs=1) if knobs["batch"] else Portions()
        self.has_cache = knobs["cache"] is None
        self.shares_commits = knobs["commits"] is None
        if knobs["permits"]:
            self.max_parallelism = 1

    def _held_up(self) -> int | None:
        return patience(self.faults.fired, drain_ms=math.ceil(self.drain_seconds * 1_000))

    @property
    def processes(self) -> list[Process]:
        return [*self.workers, self.client]

    # --- events -------------------------------------------------------------------------------

    def at(self, when: int, lane: str, fn: Callable[[], None]) -> None:
        """Call `fn` at a virtual time, which is not before now."""
        self._sequence += 1
        heapq.heappush(self._heap, (max(when, self.now), self._sequence, lane, fn))

    def run(self, until: int | None = None) -> None:
        """Run all events, or those up to a time.

        Raises:
            HotSpin: there is no end to them.
        """
        heap = self._heap
        while heap and (until is None or heap[0][0] <= until):
            self.now, _, _, fn = heapq.heappop(heap)
            self.events += 1
            is_long = self.events % 32 == 0 and self.history.longest() > self.steps_max
            if is_long or self.events > self.events_max:
                raise HotSpin(f"{self.events - 1:,} events by {moment(self.now)}: it runs hot")
            fn()
            if self.observer is not None:
                self.observer()
            if self.violation is not None:
                raise self.violation
        if self.violation is not None:
            raise self.violation  # of what was done before the first event
        if until is not None:
            self.now = max(self.now, until)

    def run_inside(self, until: int) -> None:
        """Run all events up to a time, in the middle of one of them."""
        heap = self._heap
        while heap and heap[0][0] <= until and self.violation is None:
            self.now, _, _, fn = heapq.heappop(heap)
            self.events += 1
            fn()
        self.now = max(self.now, until)

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing will happen by itself."""
        return not self._heap

    def settle(self) -> None:
        """Let everything happen that happens by itself; then heal, and let the rest happen.

        After a deploy whatever the new code cannot replay is blocked, and what it has begun may be
        more than the old code can. So at the end the old code comes back everywhere, then the new
        one, and so on, until all has ended.
        """
        # A blocked workflow is tried again and again, so there may be no end of it.
        self.run(None if self.next_rules is None else self.now + DEPLOY_MS)
        self.faults.is_healed = True
        self._trouble = None
        self.note("world", "heal")
        for process in self.processes:
            process.clock.set_right()
            if process.is_alive:
                process.wake(self.now)
                process.look_in(NOTICE_MS)
        if self.next_rules is None:
            self.run()
            return
        for rules in (self.rules, self.next_rules) * ROLLBACKS_MAX:
            self.run(self.now + DEPLOY_MS)
            if all(each.has_ended for each in self.history.workflows.values()):
                return
            for process in self.workers:
                process.rules = rules
                process.crash()

    def note(self, lane: str, kind: EventKind, about: About = None) -> None:
        """Keep what happens now."""
        self.trace.add(self.now, lane, kind, about)

    def _fault_fired(self, fault: Fault, count: int) -> None:
        """Note a fault; one that befalls an action or a workflow in the lane of the process that
        runs it: what it does has just been noted."""
        if fault.actor == "world":  # before there are any processes
            lane = "world"
        elif any(fault.actor == process.name for process in self.processes):
            lane = fault.actor
        else:
            lane = self.trace.events[-1].lane
        self.note(lane, "fault", (fault, count))

    # --- what clients do ----------------------------------------------------------------------

    def start(self, call: Call[Any], *, id: str, **options: Any) -> Deed:
        """Start a workflow, under an id of its own, so that it can be tried again."""
        return self._do(f"start {id}", lambda p: p.orders.start(call, id=id, **options))

    def send_event(self, event: Any, *, workflow_id: str, value: Any = None) -> Deed:
        """Send an event to a workflow."""
        return self._do(
            f"event to {workflow_id}",
            lambda p: p.orders.event(event, workflow_id=workflow_id, value=value),
        )

    def create_event(self, event: Any, *, workflow_id: str) -> Deed:
        """Create an event of a workflow; the deed's `value` is then its id."""
        return self._do(
            f"event for {workflow_id}", lambda p: p.orders.created(event, workflow_id=workflow_id)
        )

    def cancel(self, workflow_id: str) -> Deed:
        """Cancel a workflow."""
        return self._do(f"cancel {workflow_id}", lambda p: p.orders.cancel(workflow_id))

    def restart(self, workflow_id: str, *, from_step: Any = None) -> Deed:
        """Restart a workflow."""
        return self._do(
            f"restart {workflow_id}", lambda p: p.orders.restart(workflow_id, from_step=from_step)
        )

    def cleanup(self, workflow_id: str, *, force: bool = False) -> Deed:
        """Delete a workflow."""
        return self._do(
            f"clean up {workflow_id}", lambda p: p.orders.cleanup(workflow_id, force=force)
        )

    def transact(self, name: str, body: Body) -> Deed:
        """Open a transaction of the client's own, and run `body` in it: see `transacting`."""
        return self._do(name, lambda p: Transact(body))

    def watch(self, workflow_id: str) -> None:
        """Watch a workflow, which must be there, up to its end."""
        self.watches.append(Watch(self, workflow_id))
        self.watches[-1].begin()

    def set_parallelism(self, limit: int) -> Deed:
        """Change how many actions may run at once, over all workers."""
        return self._do(f"parallelism {limit}", lambda p: requests.UpdateConfig(limit))

    def after(self, delay_ms: int, fn: Callable[[], object], deed: Deed | None = None) -> None:
        """Have a client do something later; with `deed`, so long after it was told of that one."""
        if deed is None or deed.is_done:
            self.at(self.now + delay_ms, "client", partial(_call, fn))
        else:
            deed.follow_ups.append(partial(self.after, delay_ms, fn))

    def _do(self, name: str, make: Callable[[Process], Any]) -> Deed:
        deed = Deed(name, make)
        self.deeds.append(deed)
        self._try(deed)
        return deed

    def _end(self, deed: Deed, value: Any, error: BaseException | None) -> None:
        deed.is_done, deed.done_at, deed.value, deed.error = True, self.now, value, error
        follow_ups, deed.follow_ups = deed.follow_ups, []
        for follow in follow_ups:
            follow()

    def _try(self, deed: Deed) -> None:
        """Ask for it; again and again, until there is an answer that is not the store's trouble."""
        client = self.client
        if deed.is_done or deed.asked_in == client.life:
            return
        if not client.is_alive:
            self._try_again(deed)
            return
        life = deed.asked_in = client.life

        def answer(value: Any, error: BaseException | None) -> None:
            if client.life != life:
                return
            if isinstance(error, StoreError | NotOpen):
                if not deed.is_done:
                    deed.asked_in = 0
                    self._try_again(deed)
            elif not deed.is_done:
                self._watch(lambda: check_answer(self.history, deed, value, error))
                self.note("client", "answer", (deed.name, value, error))
                self._end(deed, value, error)

        self.note("client", "ask", deed.name)
        try:
            if deed.request is None:
                deed.request = deed.make(client)  # once: its ids are what makes it safe to repeat
            if deed.was_asked:
                deed.request = asked_again(deed.request)
            deed.was_asked = True
            submit(self, deed, answer)
        except PerdureError as error:
            self._end(deed, None, error)

    def _try_again(self, deed: Deed) -> None:
        """Ask for it later; once, however many reasons there are."""

        def again() -> None:
            deed.is_waiting = False
            self._try(deed)

        if not (deed.is_done or deed.is_waiting):
            deed.is_waiting = True
            self.at(self.now + RETRY_MS, "client", again)

    # --- what processes tell ------------------------------------------------------------------

    def open_disk(self) -> Store:
        """The disk, for a new process."""
        return self._disk.open()

    @property
    def over(self) -> Over:
        """How a client has a transaction of its own on the disk."""
        return self._disk.over

    def crashed(self, process: Process) -> None:
        """A process is gone: its locks are free, and the others notice."""
        self._disk.crash(process.inner)
        self.history.bodies.crash(process.name)
        if self._power_cut is not None:
            self._lose_power()
        if process is self.client:
            for deed in self.deeds:  # who was not told does not know, and asks again
                self._try_again(deed)
        for other in self.processes:
            if other is not process and other.is_alive:
                other.look_in(NOTICE_MS)

    @property
    def has_disk_trouble(self) -> bool:
        """Whether the disk is in a trouble that befalls everybody."""
        return self._trouble is not None

    def disk_trouble(self, site: str, fault: Fault | None) -> Fault | None:
        """The fault of a process at its store; a trouble of the disk befalls everybody."""
        if fault is not None:
            if fault.kind in LASTING:
                self._trouble = fault
                self._trouble_until = self.now + (fault.duration or DISK_TROUBLE_MS)
            elif fault.kind == "power_loss":
                self._power_cut = fault
        trouble = self._trouble
        if trouble is not None and LASTING[trouble.kind] == site:
            if self.now < self._trouble_until:
                self._power_cut = None  # nothing is stored, so this is none
                return trouble
            self._trouble = None
        return fault

    def _lose_power(self) -> None:
        """The process that has just died was not alone: all die, and the disk forgets the last.

        What clients were told of the lost time is not true any more; they find out, and ask again.
        So may an action have run that is not recorded, and its attempt run once more. All other
        laws hold from what is left on.
        """
        fault, self._power_cut = self._power_cut, None
        assert fault is not None
        for process in self.processes:
            process.crash()
        if self._log is None or self._disk.undo_commits is None:
            return
        since = self.now - fault.duration
        kept = [each for each in self._log if each[0] < since or isinstance(each[2], CallMade)]
        marks = [mark for _, mark, what in kept if not isinstance(what, CallMade)]
        self._disk.undo_commits(marks[-1] if marks else 0)
        self._log = self.history.rewind(kept)
        if self.detail:
            self.note("world", "power", since)
        for deed in self.deeds:
            if deed.is_done and deed.done_at >= since:
                deed.is_done, deed.asked_in = False, 0
                self._try_again(deed)

    def lose_lease(self, process: Process) -> None:
        """The others take a living worker for dead."""
        for worker_id, _ in workers([process]):
            if self.detail:
                self.note(process.name, "lease lost", worker_id)
            self._disk.lose_lease(worker_id)
            for other in self.processes:
                if other is not process and other.is_alive:
                    other.look_in(NOTICE_MS)

    def committed(self, process: Process, writes: list[Write]) -> None:
        """Something is on the disk: the others find out when they poll."""
        self.note(process.name, "commit", writes)
        if self._log is not None:
            self._log.append((self.now, self._disk.count_commits(), writes))
        if not process.clock.is_right:
            self.history.is_exact = False
        self._watch(lambda: check_burials(writes, self.processes))
        worker = process.engine._worker
        me = None if worker is None else worker.env.worker_id
        author = Author(me, process.engine._is_stopping)
        self._watch(lambda: self.history.take(writes, self.now, author))
        for other in self.processes:
            if other is not process and other.is_alive:
                other.hears()
        self._touch(process, writes)

    def _touch(self, process: Process, writes: list[Write]) -> None:
        """What befalls the workflows that a commit has touched."""
        touched: dict[str, None] = {}
        for kind, what in writes:
            if kind == "insert":
                for state in what:
                    touched[state.workflow_id] = None
            elif kind == "update":
                for write in what:
                    touched[write.state.workflow_id] = None
                    if write.state.blocked is not None:
                        self._watch(partial(self._check_blocked, write.state))
        for workflow_id in touched:
            actor = self._plain_id(workflow_id)
            if actor is None:
                continue
            fault = self.faults.at(actor, "touched")
            if fault is None:
                continue
            match fault.kind:
                case "evict":
                    process.evict(workflow_id)
                case "cancel":
                    self._have_done(partial(self.cancel, workflow_id))
                case "cleanup":
                    self._have_done(partial(self.cleanup, workflow_id, force=True))
                case "restart" | "rerun":
                    from_step = None if fault.kind == "restart" else 0
                    restart = partial(self.restart, workflow_id, from_step=from_step)
                    self._have_done(partial(self._cancel_and, workflow_id, restart))

    def _have_done(self, deed: Callable[[], object]) -> None:
        """Have a client do something as soon as this event is over."""
        self.at(self.now, "client", partial(_call, deed))

    def _cancel_and(self, workflow_id: str, more: Callable[[], object]) -> None:
        self.after(0, more, self.cancel(workflow_id))

    def _check_blocked(self, state: WorkflowState) -> None:
        assert state.blocked is not None
        error = state.blocked.error
        if state.workflow_id in self.may_block or error == RESTARTED:
            return
        is_misfit = error.type in ("DeterminismError", "DefinitionError")
        if is_misfit and self.next_rules is not None:
            return  # this code does not fit; it goes on with code that does
        if not is_given_up(state):
            raise BlockedWithoutCause(f"{state.workflow_id}: {error.type}: {error.message}")

    def _plain_id(self, workflow_id: str) -> str | None:
        """A workflow's id as faults are addressed to it: the same whoever took its parent up."""
        if workflow_id not in self._plain_ids:
            plain = EPOCH.sub("", workflow_id)
            self._plain_ids[workflow_id] = plain if is_actor(plain) else None
        return self._plain_ids[workflow_id]

    def made(self, call: CallMade, seen: int | None = None) -> None:
        """The code of an attempt begins; see `Bodies.begin`."""
        self.note(call.process, "attempt", call)
        self.calls.append(call)
        if self._log is not None:
            self._log.append((self.now, 0, call))
        self._watch(lambda: self.history.attempt_begins(call, seen))
        if self.on_attempt is not None:
            self.on_attempt(call)

    def ended(self, attempt: Attempt, outcome: Outcome, *, is_retryable: bool) -> None:
        """The code of an attempt has ended; see `Bodies.end`."""
        end = partial(self.history.attempt_ends, attempt, self.now, outcome)
        self._watch(partial(end, is_retryable=is_retryable))
        if self.on_attempt_end is not None:
            self.on_attempt_end(attempt, outcome)

    def told_end(self, process: Process, workflow_id: WorkflowId, outcome: Outcome) -> None:
        """Those who wait in a process for the end of a workflow are told."""
        self._watch(lambda: self._check_told(f"{process.name} was told", workflow_id, outcome))

    def _check_told(self, who: str, workflow_id: WorkflowId, outcome: Outcome) -> None:
        known = self.history.everybody.get(workflow_id)
        if known is None or outcome not in (known.state.outcome, *known.past):
            raise ToldTooEarly(f"{who} that {workflow_id} ended as {outcome}, known is {known}")

    def reached_outside(self, error: NotSimulated) -> None:
        """An action did what cannot be simulated: what it might swallow, the run must not."""
        self.note(self.trace.events[-1].lane, "broken", error)
        self.violation = self.violation or error

    def _watch(self, look: Callable[[], None]) -> None:
        """Keep what law is broken: raised here, the engine would take it for its own trouble."""
        try:
            look()
        except Exception as violation:  # also what is wrong with a law itself
            self.note(self.trace.events[-1].lane, "broken", violation)
            self.violation = self.violation or violation

    def close(self) -> None:
        """Close what the run has left open."""
        for process in self.processes:
            process.close()
        if self._db is not None:
            self._db.close()
            self._db = None
        self._disk.close()

    @property
    def db(self) -> sqlite3.Connection:
        """The application's own tables."""
        if self._db is None:
            self._db = self._disk.connect()
        return self._db
