"""A simulated process: the production engine, on a virtual clock, with a store that may fail.

It lives and dies as a process does: a crash takes everything with it but what is on the disk.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Generator
from functools import partial
from types import GeneratorType
from typing import TYPE_CHECKING, Any

import attrs

from perdure.core.ids import WorkflowId
from perdure.core.outcomes import Outcome
from perdure.definitions import Call, Mutation, Query
from perdure.errors import StoreError
from perdure.runtime import orders, requests
from perdure.runtime.attempts import Attempt
from perdure.runtime.contexts import make_context
from perdure.runtime.engine import Engine, EngineRunner
from perdure.runtime.mailbox import Mailbox
from perdure.runtime.scope import ON_COMPLETE, Env
from perdure.runtime.statuses import read_status
from perdure.step import StepRules
from perdure.store.base import Store

from ..faults.plan import Attempted, Fault
from ..faults.sites import DRIFT_PERCENT
from ..laws.known import Place
from .actions import (
    ActionLoop,
    CallMade,
    DressedRegistry,
    NotingRunner,
    SimulatedRunner,
    SimulatedVerbs,
)
from .clock import VirtualClock
from .faulty_store import Crash, SimulatedStore, Site, Write
from .leases import renew
from .outside import NotSimulated
from .trace import About, EventKind

if TYPE_CHECKING:
    from .world import World

#: How long an idle engine takes to see what another process has committed, in ms: it polls.
POLL_MS = 20

#: How long it takes until a process that died is started again, in ms.
RESTART_MS = 500

#: How long until a living worker has noticed that another is dead, in ms: see `claims.py`.
NOTICE_MS = 120


class SimulatedEngine(Engine):
    """The production engine; its turns are events of the world."""

    _poll_seconds = float("inf")  # the world knows when another process has committed

    def __init__(self, process: Process, env: Env, store: Store, verbs: Any) -> None:
        self._process = process
        super().__init__(
            env,
            store,
            works=process.works,
            bridge=None,
            verbs=verbs,
            drain_seconds=process.drain_seconds,
        )

    def boot(self, max_parallelism: int | None) -> None:
        """Open the store, and begin the first life.

        Raises:
            StoreError: the store cannot be used now.
        """
        self.store.open(max_parallelism=max_parallelism, works=self._works)
        self._begin_life()

    def drop(self) -> None:
        """The process has died: nothing of it goes on."""
        if self._worker is not None:
            self._worker.actors.drop_all()

    def ended(self, workflow_id: WorkflowId, outcome: Outcome) -> None:
        """See `worker.Listener`."""
        self._process.world.told_end(self._process, workflow_id, outcome)
        super().ended(workflow_id, outcome)

    def _make_mailbox(self) -> Mailbox:
        process = self._process
        return Mailbox(partial(process.has_mail, process.life))

    def _make_runner(self, env: Env) -> EngineRunner:
        process = self._process
        registry = DressedRegistry(env.registry, process, process.world.stubs)
        kind = NotingRunner if process.detail else SimulatedRunner
        return kind(env, self.mailbox, process.loop, self._verbs, registry)


class Process:
    """One process of the world.

    Args:
        works: whether it runs a worker; a client only carries out requests.

    Attributes:
        rules: the code that it is booted with.
        drain_seconds: how long attempts may go on when it ends in good order; of its next life.
        is_alive: between its boot and its crash or end.
        is_paused: it stands still, as a whole.
        life: how often it was booted.
    """

    def __init__(self, world: World, name: str, rules: StepRules, *, works: bool) -> None:
        self.world = world
        self.name = name
        self.works = works
        self.rules = rules
        self.drain_seconds = world.drain_seconds
        self.detail = world.detail
        self.is_alive = False
        self.life = 0
        self._steps: Generator[str, None, None] | None = None
        self._turn_at: int | None = None
        self.is_paused = False
        self._is_late = False
        self._is_standing = False
        self._has_worked = False
        self._evicted: list[str] = []
        self._is_reloading = False
        self._turn_seen = self._seen = 0

    @property
    def now(self) -> int:
        return self.world.now

    @property
    def shares_commits(self) -> bool:
        return self.world.shares_commits

    # --- life and death -----------------------------------------------------------------------

    def boot(self) -> None:
        """Start the process."""
        self.life += 1
        self.is_alive = True
        self._steps, self._turn_at = None, None
        self.is_paused = self._is_late = False
        self._evicted = []
        self._is_reloading = False
        self.clock = VirtualClock(self.world, f"{self.name}.{self.life}")
        self.loop = ActionLoop(self)
        world = self.world
        env = Env(
            rules=self.rules,
            clock=self.clock,
            make_context=make_context,
            portions=world.portions,
        )
        self.orders = Orders(env)
        self.inner = world.open_disk()
        store = SimulatedStore(self.inner, self)
        self.engine = SimulatedEngine(self, env, store, SimulatedVerbs(self.ask, self.orders))
        self.note("boot")
        fault = world.faults.at(self.name, "boot")
        try:
            self.engine.boot(world.max_parallelism)
            if fault is not None:
                raise Crash(str(fault))
        except StoreError as error:
            self.note("boot failed", error)
            self._die()
        except Crash as crash:
            self.note("crash", crash)
            self._die()
        else:
            self.wake(self.now)
            for watch in () if self.works else world.watches:
                watch.begin()

    def crash(self) -> None:
        """Die at once; somebody starts it again."""
        if self.is_alive:
            self.note("crash")
            self._die()

    def _die(self) -> None:
        self.is_alive = False
        steps, self._steps = self._steps, None
        if steps is not None and not self._is_standing:
            steps.close()
        self.engine.drop()
        self.loop.close()
        self._ended()

    def drain(self) -> None:
        """End in good order, then start again."""
        if self.is_alive:
            self.engine._is_stopping = True
            self.wake(self.now)
            most = self.engine._drain_seconds
            for seconds in (most, most + 1):  # when the engine waits no longer
                self.at(self.now + math.ceil(seconds * 1000) + 1, lambda: self.wake(self.now))

    def _drained(self) -> None:
        """The last turn is over."""
        self._steps = None
        try:
            self.engine._finish()
        except Crash as crash:
            self.note("crash", crash)
            self._die()
            return
        self.is_alive = False
        self.engine.drop()
        self.loop.close()
        self.note("end")
        self._ended()

    def _ended(self) -> None:
        life = self.life
        self.world.crashed(self)
        self.world.at(self.now + RESTART_MS, self.name, lambda: self._restart(life))

    def close(self) -> None:
        """The world has ended."""
        if self.is_alive:
            self.is_alive = False
            if self._steps is not None:
                self._steps.close()
            self.engine.drop()
            self.loop.close()
            self.inner.close()

    def _restart(self, life: int) -> None:
        if not self.is_alive and self.life == life:
            self.boot()

    # --- turns --------------------------------------------------------------------------------

    def has_mail(self, life: int) -> None:
        """Something was put into the mailbox that the process had in this life."""
        if not self.is_alive or self.life != life:
            return
        fault = self.world.faults.at(self.name, "wake")
        if fault is None:
            self.wake(self.now)
            return
        match fault.kind:
            case "lost":  # the poll finds it
                self.wake(self.now + POLL_MS)
            case "late":
                self.wake(self.now + fault.duration)
            case _:  # twice
                self.wake(self.now)
                self.at(self.now + 1, lambda: self.wake(self.now))

    def hears(self) -> None:
        """Another process has committed something: the next poll finds it."""
        fault = self.world.faults.at(self.name, "poll")
        self.wake(self.now + (POLL_MS if fault is None else fault.duration))

    def wake(self, at: int) -> None:
        """Have a turn at `at` at the latest."""
        if self._turn_at is None or at < self._turn_at:
            if self.detail:
                self.note("wake", at)
            self._turn_at = at
            life = self.life
            self.world.at(at, self.name, lambda: self._begin_turn(at, life))

    def look_in(self, ms: int) -> None:
        """Have a turn then, also if another comes before it: that one could come too early."""
        self.at(self.now + ms, lambda: self.wake(self.now))

    def _begin_turn(self, at: int, life: int) -> None:
        if self._turn_at != at or self.life != life or not self.is_alive:
            return
        self._turn_at = None
        if self.is_paused:
            self._is_late = True  # it looks as soon as it goes on
            return
        faults = self.world.faults
        fault = faults.at(self.name, "turn")
        if fault is not None:
            self._befall(fault)
        if self.world.next_rules is not None and self.works:
            fault = faults.at(self.name, "deploy")
            if fault is not None:
                self.rules = self.world.next_rules
                self.crash() if fault.kind == "kill" else self.drain()
        if not self.is_alive:
            return
        if self.detail:
            self.note("turn")
        steps = self.engine.turn()
        assert isinstance(steps, GeneratorType)
        self._steps, self._has_worked = steps, False
        self._turn_seen = self.world.history.commits
        self._go_on(life)

    def _befall(self, fault: Fault) -> None:
        """What goes wrong at the begin of a turn."""
        world = self.world
        match fault.kind:
            case "crash":
                self.crash()
            case "evict":  # live handlers are a cache
                self._evict()
            case "jump":
                self._jump(fault.duration)
            case "jump_back":
                self._jump(-fault.duration)
            case "runs_fast":
                self.clock.drift(DRIFT_PERCENT)
            case "runs_slow":
                self.clock.drift(-DRIFT_PERCENT)
            case "drain":
                self.drain()
            case "fenced":
                world.lose_lease(self)
            case _:
                raise AssertionError(f"no such thing befalls a turn: {fault}")

    def _jump(self, ms: int) -> None:
        self.clock.offset_ms += ms
        if self.detail:
            self.note("clock", ms)

    def _evict(self) -> None:
        """Drop all actors; those that are still ours are loaded again in this turn."""
        worker = self.engine._worker
        if worker is not None:
            for workflow_id in list(worker.actors):
                worker.actors.drop(workflow_id)
                worker.actors.runnable[workflow_id] = None

    def evict(self, workflow_id: str) -> None:
        """Drop one live handler, as soon as no turn works with it."""
        self._evicted.append(workflow_id)
        if self._steps is None:
            self.wake(self.now)

    def _drop_cache(self) -> None:
        """After a turn that worked: drop all handlers, and have them replayed at once."""
        worker = self.engine._worker
        if worker is None:
            return
        if self._is_reloading:
            self._is_reloading = bool(worker.actors.runnable)
        elif self._has_worked:
            self._is_reloading = True
            self._evict()
            self.wake(self.now)

    def _evict_now(self) -> None:
        worker = self.engine._worker
        ids, self._evicted = self._evicted, []
        for workflow_id in ids:
            if worker is not None and workflow_id in worker.actors:
                worker.actors.drop(workflow_id)
                worker.actors.runnable[workflow_id] = None

    def _go_on(self, life: int) -> None:
        if self.life != life or not self.is_alive or self._steps is None:
            return
        if self.detail and self.is_paused:
            self.note("resume")
        is_late, self.is_paused, self._is_late = self._is_late, False, False
        try:
            for border in self._steps:
                self._has_worked = True
                if self.detail:
                    self.note("border", border)
                fault = self.world.faults.at(self.name, border.replace(" ", "_"))
                if fault is None:
                    continue
                if fault.kind == "crash":
                    self.crash()
                    return
                if fault.kind == "evict":
                    self._evict()
                    continue
                # "pause": others go on meanwhile, for longer than anybody waits for the dead.
                self.is_paused = True
                if self.detail:
                    self.note("pause", self.now + fault.duration)
                if fault.kind == "zombie":
                    self.world.lose_lease(self)
                self.world.at(self.now + fault.duration, self.name, lambda: self._go_on(life))
                return
        except Crash as crash:
            if self.is_alive:  # else it died where it stood still
                self.note("crash", crash)
                self._die()
            return
        self._steps = None
        wait = self.engine.wait
        if wait is None:
            self._drained()
            return
        if self._evicted:
            self._evict_now()
            self.wake(self.now)
        if not self.world.has_cache and self.works:
            self._drop_cache()
        if wait < POLL_MS / 1000:
            self._wake_in(wait)
        elif self._has_worked:
            # An idle engine polls for ever; here until a poll finds nothing. After that only a
            # commit of others, or the time, could give it something to do: then it is woken.
            self.wake(self.now + POLL_MS)
        elif wait < float("inf"):
            self._wake_in(wait)
        if is_late:
            self.wake(self.now)

    def _wake_in(self, seconds: float) -> None:
        """Have a turn when that time has passed on the process's own clock."""
        # Where the clock stands still, an engine looks again and again; here each second.
        still = min(self.clock.stands_still_ms, 1000)
        wait_ms = self.clock.real_ms(math.ceil(seconds * 1000))
        self.wake(self.now + max(wait_ms, still if seconds else 0))

    # --- what others ask of it ----------------------------------------------------------------

    def note(self, kind: EventKind, about: About = None) -> None:
        self.world.note(self.name, kind, about)

    def soon(self, fn: Callable[[], None]) -> None:
        # What a turn asks for may come only after the next one, which knows more.
        seen = self._turn_seen

        def run() -> None:
            self._seen = seen
            fn()

        self.at(self.now, run)

    def at(self, when: int, fn: Callable[[], None]) -> None:
        life = self.life

        def run() -> None:
            if self.is_alive and self.life == life:
                fn()

        self.world.at(when, self.name, run)

    def passes(self, site: Site) -> Fault | None:
        world = self.world
        fault = world.faults.at(self.name, site)
        if fault is None and not world.has_disk_trouble:
            return None  # nearly always
        fault = world.disk_trouble(site, fault)
        if fault is not None:
            self.look_in(NOTICE_MS)  # what failed now is tried again when its time has come
        return fault

    def stand_still(self, fault: Fault) -> None:
        if self._steps is None or self._is_standing:
            return  # only a turn does; what it meets meanwhile is none of its own
        life = self.life
        if fault.kind == "overtaken":
            self.world.lose_lease(self)
        was_paused, self.is_paused, self._is_standing = self.is_paused, True, True
        if self.detail:
            self.note("pause", self.now + fault.duration)
        self.world.run_inside(self.now + fault.duration)
        renew(self.world.processes)
        self._is_standing = False
        if not self.is_alive or self.life != life:
            raise Crash(str(fault))
        if self.detail:
            self.note("resume")
        self.is_paused = was_paused
        if self._is_late:
            self._is_late = False
            self.wake(self.now)

    def committed(self, writes: list[Write]) -> None:
        self.world.committed(self, writes)

    def attempt_passes(
        self, action: str, site: str, attempted: Attempted | None = None
    ) -> Fault | None:
        return self.world.faults.at(action, site, attempted)

    def made(self, call: CallMade) -> None:
        self.world.made(call, self._seen)

    def ended(self, attempt: Attempt, outcome: Outcome, *, is_retryable: bool) -> None:
        if self.is_alive:  # else it is torn down with its process
            self.world.ended(attempt, outcome, is_retryable=is_retryable)

    def place(self) -> Place | None:
        return place_of(self.engine.env.watch.function)

    def reached_outside(self, error: NotSimulated) -> None:
        self.world.reached_outside(error)

    async def ask(self, request: Any) -> Any:
        """Have the engine carry out a request; for actions, on their loop."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def settle(value: Any, error: BaseException | None) -> None:
            if not future.done():
                future.set_result(value) if error is None else future.set_exception(error)

        def answer(value: Any, error: BaseException | None) -> None:
            self.loop.call(settle, value, error)

        if self.detail:
            self.note("request", request)
        self.engine.submit(request, answer)
        return await future


_STEP = re.compile(r"\(step (?P<number>\d+) of workflow (?P<workflow_id>.*)\)\Z", re.DOTALL)
_ON_COMPLETE = "on_complete of workflow "


def place_of(function: str) -> Place | None:
    """The place of a function that the engine's watch names."""
    if function.startswith(_ON_COMPLETE):
        return function.removeprefix(_ON_COMPLETE), ON_COMPLETE
    found = _STEP.search(function)
    return None if found is None else (found["workflow_id"], int(found["number"]))


@attrs.frozen
class Orders:
    """Calls as requests, as the manager makes them."""

    env: Env

    def start(
        self,
        call: Call[Any],
        *,
        id: str | None = None,
        on_complete: Any = None,
        context: Any = None,
        run_after: Any = None,
        run_at: Any = None,
    ) -> Any:
        return orders.start_order(
            self.env,
            call,
            now=self.env.clock.now_ms(),
            id=id,
            on_complete=on_complete,
            context=context,
            run_after=run_after,
            run_at=run_at,
        )

    def cancel(self, workflow_id: str) -> Any:
        return requests.Cancel(orders.checked_id(workflow_id))

    def restart(self, workflow_id: str, *, from_step: Any = None) -> Any:
        return orders.restart_order(workflow_id, from_step)

    def cleanup(self, workflow_id: str, *, force: bool = False) -> Any:
        return orders.cleanup_order(workflow_id, force)

    def event(
        self,
        event: Any = None,
        *,
        workflow_id: str | None = None,
        id: str | None = None,
        value: Any = None,
        error: str | None = None,
    ) -> Any:
        return orders.event_order(
            self.env, event, workflow_id=workflow_id, id=id, value=value, error=error
        )

    def created(self, event: Any, *, workflow_id: str) -> Any:
        return orders.create_order(self.env, event, workflow_id=workflow_id)

    def status(self, workflow_id: str) -> Any:
        return requests.Read(partial(read_status, workflow_id=workflow_id))

    def function(self, call: Call[Any], kind: type[Query[..., Any] | Mutation[..., Any]]) -> Any:
        verb = f"run_{kind.__name__.lower()}"
        definition = orders.checked_call(call, kind, verb, self.env.registry)
        return requests.RunFunction(definition, call.encode(self.env.limits.value_bytes))
