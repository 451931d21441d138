"""The world: virtual time, the disk, and the processes that share it. One thread, one heap.

Everything that happens is an event at a virtual time; of two at one time, that which was asked for
first comes first. So a run is a function of its scenario and its plan, and nothing else.
"""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs

from perdure.core.limits import Limits
from perdure.core.retry import RetryPolicy
from perdure.definitions import Call, Definer
from perdure.errors import PerdureError, StoreError
from perdure.step import StepRules
from perdure.store.base import Store

from .actions import CallMade, Stub
from .clock import START_MS
from .disks import Disk
from .faulty_store import Write
from .history import History, Violation
from .plan import FaultPlan, Injector
from .process import NOTICE_MS, POLL_MS, Process
from .trace import EventKind, Trace

#: Events of one run: a run with more of them runs hot.
EVENTS_MAX = 5_000

#: How long a client tries again when its process died under a request, in ms.
RETRY_MS = 1_000


class HotSpin(AssertionError):
    """Events follow each other without end."""


@attrs.define
class Deed:
    """What a client does: tried again until it is carried out, by the same ids."""

    name: str
    make: Callable[[Process], Any]
    request: Any = None
    asked_in: int = 0
    value: Any = None
    error: BaseException | None = None
    is_done: bool = False


class World:
    """One run.

    Args:
        definer: the definitions; their code is shared by all processes.
        disk: where the store lies.
        plan: what goes wrong.
        workers: how many worker processes.
        stubs: by the names of actions.
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
    ) -> None:
        self.now = START_MS
        self.faults = Injector(plan)
        self.history = History()
        self.violation: Violation | None = None
        self.stubs = dict(stubs or {})
        self.max_parallelism = max_parallelism
        self.calls: list[CallMade] = []
        self.deeds: list[Deed] = []
        self.events = 0
        self.trace = Trace()
        self._disk = disk
        self._db: sqlite3.Connection | None = None
        self._heap: list[tuple[int, int, str, Callable[[], None]]] = []
        self._sequence = 0
        self.rules = rules = StepRules(
            registry=definer.registry,
            limits=limits,
            default_retry=RetryPolicy(),
            retry_actions_by_default=False,
        )
        self.workers = [Process(self, f"w{n}", rules, works=True) for n in range(workers)]
        self.client = Process(self, "c0", rules, works=False)
        for process in self.processes:
            process.boot()

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
            if self.events > EVENTS_MAX:
                raise HotSpin(f"{EVENTS_MAX:,} events by {self.now - START_MS} ms: it runs hot")
            fn()
            if self.violation is not None:
                raise self.violation
        if self.violation is not None:
            raise self.violation  # of what was done before the first event
        if until is not None:
            self.now = max(self.now, until)

    def settle(self) -> None:
        """Let everything happen that happens by itself; then heal, and let the rest happen."""
        self.run()
        self.faults.is_healed = True
        self.note("world", "heal")
        for process in self.processes:
            process.clock.offset_ms = 0
            if process.is_alive:
                process.wake(self.now)
                process.look_in(NOTICE_MS)
        self.run()

    def note(self, lane: str, kind: EventKind, about: object = None) -> None:
        """Keep what happens now."""
        self.trace.add(self.now, lane, kind, about)

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

    def cancel(self, workflow_id: str) -> Deed:
        """Cancel a workflow."""
        return self._do(f"cancel {workflow_id}", lambda p: p.orders.cancel(workflow_id))

    def after(self, delay_ms: int, fn: Callable[[], object]) -> None:
        """Have a client do something later."""

        def do() -> None:
            fn()

        self.at(self.now + delay_ms, "client", do)

    def _do(self, name: str, make: Callable[[Process], Any]) -> Deed:
        deed = Deed(name, make)
        self.deeds.append(deed)
        self._try(deed)
        return deed

    def _try(self, deed: Deed) -> None:
        """Ask for it; again and again, until there is an answer that is not the store's trouble."""
        client = self.client
        if deed.is_done or deed.asked_in == client.life:
            return
        if not client.is_alive:
            self.at(self.now + RETRY_MS, "client", lambda: self._try(deed))
            return
        life = deed.asked_in = client.life

        def answer(value: Any, error: BaseException | None) -> None:
            if client.life != life:
                return
            if isinstance(error, StoreError):
                deed.asked_in = 0
                self.at(self.now + RETRY_MS, "client", lambda: self._try(deed))
            elif not deed.is_done:
                deed.is_done, deed.value, deed.error = True, value, error
                self.note("client", "answer", (deed.name, value, error))

        self.note("client", "ask", deed.name)
        try:
            if deed.request is None:
                deed.request = deed.make(client)  # once: its ids are what makes it safe to repeat
            client.engine.submit(deed.request, answer)
        except PerdureError as error:
            deed.is_done, deed.error = True, error

    # --- what processes tell ------------------------------------------------------------------

    def open_disk(self) -> Store:
        """The disk, for a new process."""
        return self._disk.open()

    def crashed(self, process: Process) -> None:
        """A process is gone: its locks are free, and the others notice."""
        self._disk.crash(process.inner)
        if process is self.client:
            for deed in self.deeds:  # who was not told does not know, and asks again
                self.at(self.now + RETRY_MS, "client", partial(self._try, deed))
        for other in self.processes:
            if other is not process and other.is_alive:
                other.look_in(NOTICE_MS)

    def lose_lease(self, process: Process) -> None:
        """The others take a living worker for dead."""
        worker = process.engine._worker
        if worker is None or worker.env.worker_id is None:
            return
        self._disk.lose_lease(worker.env.worker_id)
        for other in self.processes:
            if other is not process and other.is_alive:
                other.look_in(NOTICE_MS)

    def committed(self, process: Process, writes: list[Write]) -> None:
        """Something is on the disk: the others find out when they poll."""
        self.note(process.name, "commit", writes)
        self._watch(lambda: self.history.take(writes, self.now))
        for other in self.processes:
            if other is not process and other.is_alive:
                other.wake(self.now + POLL_MS)

    def made(self, call: CallMade) -> None:
        """The code of an attempt begins."""
        self.note(call.process, "attempt", call)
        self.calls.append(call)
        self._watch(lambda: self.history.attempt_begins(call))

    def _watch(self, look: Callable[[], None]) -> None:
        """Keep what law is broken: raised here, the engine would take it for its own trouble."""
        try:
            look()
        except Violation as violation:
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
