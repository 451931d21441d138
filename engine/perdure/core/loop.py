"""The event loop on which the coroutines of one workflow handler run.

It knows no I/O, no clock and no thread. Its driver pushes it by hand: resolve a future or fire the
timers, then drain the callbacks that are ready, in the order in which they became so. `asyncio`'s
own Task and Future work on it, and with them `gather`, `TaskGroup`, `timeout`, `Queue`, `Lock` …;
whatever a replay could not repeat raises a `DeterminismError` that names what to use instead.

Everything that could differ between two runs is pinned here: the order of callbacks and timers, the
time, the names of tasks, and the hashes of tasks and futures (asyncio keeps them in sets).

What does not belong here: steps, the journal, commands (`core/replay.py` drives this loop), and
when a timer fires for real (the runtime).
"""

from __future__ import annotations

import asyncio
import math
import sys
from asyncio.tasks import _enter_task, _leave_task  # what a C task does around each step
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import Context, copy_context
from heapq import heapify, heappop, heappush
from itertools import groupby
from operator import itemgetter
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeAlias

from ..errors import DeterminismError, PerdureError
from .closing import ROUNDS_MAX, asyncgen_collected, close_asyncgen, close_coroutine, end_task
from .ids import digest
from .limits import CALLBACKS_PER_FACT_MAX, SLEEP_MS_MAX
from .refusals import AS_COMPLETED, refusal

#: How many reports of `WorkflowLoop.unhandled` are kept: enough to see what is wrong.
UNHANDLED_MAX = 100

#: Below this many entries it is not worth while to look for dead tasks, generators and timers.
_SWEEP_MIN = 8

_HASH_MASK = (1 << 61) - 1
_HASH_STEP = 0x1E3779B97F4A7C15  # odd, so that all residues are visited before one comes again

_Callback: TypeAlias = Callable[..., Any]
_ExceptionHandler: TypeAlias = Callable[[Any, dict[str, Any]], object]
_get_running_loop = asyncio._get_running_loop
_set_running_loop = asyncio._set_running_loop


class HandlerSpins(PerdureError):
    """A handler ran more callbacks for one fact than the limit: most likely an endless loop."""


def _asyncgen_started(generator: AsyncGenerator[Any, Any]) -> None:
    loop = _get_running_loop()
    if isinstance(loop, WorkflowLoop):
        loop._keep_asyncgen(generator)


def hook_asyncgens() -> Any:
    """Have this thread's async generators end with the workflow loop in which they begin.

    To set the hooks takes some microseconds, since each of them is an audit event: so whoever
    advances many handlers does it once, around all of them.

    Returns:
        For `unhook_asyncgens`, in the end.
    """
    hooks = sys.get_asyncgen_hooks()
    if hooks.firstiter is _asyncgen_started:
        return None
    sys.set_asyncgen_hooks(_asyncgen_started, asyncgen_collected)
    return hooks


def unhook_asyncgens(hooks: Any) -> None:
    """What `hook_asyncgens` returned becomes this thread's again."""
    if hooks is not None:
        sys.set_asyncgen_hooks(*hooks)


class WorkflowFuture(asyncio.Future[Any]):
    """A future whose hash is the same in every run; equality stays identity."""

    __slots__ = ("_hash",)
    _hash: int

    def __hash__(self) -> int:
        return self._hash


class WorkflowTask(asyncio.Task[Any]):
    """A task whose hash is the same in every run; equality stays identity."""

    __slots__ = ("_closing_context", "_hash")

    def __init__(
        self, coro: Coroutine[Any, Any, Any], *, loop: WorkflowLoop, context: Context, **kw: Any
    ) -> None:
        # Before the base's, which puts the task into a set of asyncio's and needs the hash, and
        # which may run the task at once (eager_start).
        self._hash = loop._next_hash()
        self._closing_context = context  # 3.11 has no Task.get_context
        loop._tasks.append(self)
        try:
            super().__init__(coro, loop=loop, context=context, **kw)
        except BaseException:
            loop._tasks.remove(self)
            raise

    def __hash__(self) -> int:
        return self._hash


class _Handle(asyncio.Handle):
    """asyncio's handle without what only its debug mode needs: one is made for each callback."""

    __slots__ = ()
    _repr = None
    _source_traceback = None

    def __init__(self, callback: _Callback, args: tuple[Any, ...], context: Context) -> None:
        self._callback = callback
        self._args = args
        self._context = context
        self._cancelled = False

    def cancel(self) -> None:
        self._cancelled = True
        self._callback = self._args = None  # type: ignore[assignment]


# For mypy a base without abstract methods: those that are missing are added below the class.
if TYPE_CHECKING:
    _Base = asyncio.BaseEventLoop
else:
    _Base = asyncio.AbstractEventLoop


class WorkflowLoop(_Base):
    """A deterministic event loop for one workflow handler, driven by hand.

    Attributes:
        workflow_id: as given; it spreads the hashes of tasks and futures over the process.
        start_ms: as given: when the workflow started, in ms since the epoch.
        now_ms: the time of the last fact, in ms since the epoch.
        unhandled: the first `UNHANDLED_MAX` failures that nobody awaited or caught: dicts of
            `message`, `exception` (or None), `source` (a task's name, or empty).
    """

    # fmt: off
    __slots__ = (
        "_asyncgens", "_asyncgens_sweep_at", "_cancelled_timers", "_closed", "_closing",
        "_entered", "_exception_handler", "_hash", "_outer_hooks", "_outer_loop", "_ready",
        "_task_count", "_tasks", "_tasks_sweep_at", "_timer_count", "_timers", "now_ms",
        "start_ms", "unhandled", "workflow_id",
    )
    # fmt: on

    def __init__(self, workflow_id: str, start_ms: int) -> None:
        self.workflow_id = workflow_id
        self.start_ms = start_ms
        self.now_ms = start_ms
        self.unhandled: list[dict[str, Any]] = []
        self._hash = digest("loop", workflow_id) & _HASH_MASK
        # Of handles. No deque: an empty one takes 760 bytes, in every parked workflow.
        self._ready: list[Any] = []
        self._timers: list[tuple[int, int, Any]] = []  # (due in µs, creation, handle)
        self._timer_count = 0
        self._cancelled_timers = 0
        self._tasks: list[WorkflowTask] = []
        self._tasks_sweep_at = _SWEEP_MIN
        self._task_count = 0
        self._asyncgens: dict[AsyncGenerator[Any, Any], None] | None = None
        self._asyncgens_sweep_at = _SWEEP_MIN
        self._exception_handler: _ExceptionHandler | None = None
        self._outer_loop: asyncio.AbstractEventLoop | None = None
        self._outer_hooks: Any = None
        self._entered = False
        self._closing = False
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else "advancing" if self._entered else "parked"
        return f"<WorkflowLoop of {self.workflow_id!r}, {state}>"

    # ── entering ─────────────────────────────────────────────────────────────────────────────

    def enter(self) -> None:
        """Make this the running loop of the thread. User code runs only until `leave()`.

        Raises:
            RuntimeError: a workflow is being advanced already, or a task of another loop is
                running on this thread (CPython 3.14 refuses tasks within tasks).
        """
        outer = _get_running_loop()
        if outer is not None:
            if isinstance(outer, WorkflowLoop):
                raise RuntimeError(f"{self!r}: this thread is in {outer!r}; leave that one first")
            if asyncio.current_task(outer) is not None:
                raise RuntimeError(
                    f"{self!r} cannot advance inside a running asyncio task: advance it in a plain"
                    " callback of the outer loop, or in another thread"
                )
        if self._entered or self._closed:
            raise RuntimeError(f"{self!r} cannot be entered")
        self._outer_loop = outer
        self._outer_hooks = hook_asyncgens()
        _set_running_loop(self)
        self._entered = True

    def leave(self) -> None:
        """Give the thread back to the loop, if any, that was running before `enter()`."""
        self._entered = False
        _set_running_loop(self._outer_loop)
        unhook_asyncgens(self._outer_hooks)
        self._outer_loop = self._outer_hooks = None

    @contextmanager
    def entered(self) -> Iterator[None]:
        """`enter()`, then, whatever happens, `leave()`."""
        self.enter()
        try:
            yield
        finally:
            self.leave()

    def is_running(self) -> bool:
        """Whether the handler is being advanced."""
        return self._entered

    # ── advancing ────────────────────────────────────────────────────────────────────────────

    def drain(self, limit: int = CALLBACKS_PER_FACT_MAX) -> None:
        """Run the callbacks that are ready, and those they make ready, first in, first out.

        Whatever a callback raises is recorded in `unhandled` and ends only that callback.

        Raises:
            HandlerSpins: more than `limit` callbacks; the loop is then good only for closing.
        """
        if not self._entered:
            raise RuntimeError(f"{self!r}: drain() outside of enter() and leave()")
        ran = 0
        while batch := self._ready:
            ran += len(batch)
            if ran > limit:
                raise HandlerSpins(
                    f"the handler of workflow {self.workflow_id!r} ran {limit} callbacks without"
                    " waiting for a step, an event or a timer; look for a loop around"
                    " asyncio.sleep(0) or around something that is always ready"
                )
            self._ready = []
            for handle in batch:
                if handle._cancelled:
                    continue
                try:
                    handle._context.run(handle._callback, *handle._args)
                except BaseException as error:
                    # SystemExit and the like too: a handler must not end the engine.
                    self._callback_failed(error, handle)

    def set_now(self, ms: int) -> None:
        """Move the time on to `ms` since the epoch; an earlier one than `now_ms` is ignored."""
        if ms > self.now_ms:
            self.now_ms = ms

    def fire_timers(self, now_ms: int) -> int:
        """Move the time on and fire the timers due, by time, then creation.

        Those of one instant fire together, as on any loop of asyncio; all that they make ready
        runs before those of the next instant, so that a tick that is late changes nothing. A
        timer that is set meanwhile waits for the next call, even if it is due at once, so that
        this comes to an end.

        Returns:
            How many were due and not cancelled when their instant came.

        Raises:
            HandlerSpins: see `drain`.
        """
        self.set_now(now_ms)
        now_us = (self.now_ms - self.start_ms) * 1000
        timers = self._timers
        due = []
        while timers and timers[0][0] <= now_us:
            instant, _, handle = heappop(timers)
            handle._scheduled = False
            if handle._cancelled:
                self._cancelled_timers -= 1
            else:
                due.append((instant, handle))
        fired = 0
        for _, together in groupby(due, itemgetter(0)):
            # Not those that were cancelled by what fired before them.
            self._ready += [handle for _, handle in together if not handle._cancelled]
            fired += len(self._ready)
            self.drain()
        return fired

    def next_timer_ms(self) -> int | None:
        """When the earliest timer is due, in ms since the epoch, rounded up; None without one.

        It may lie in the past. `fire_timers` with this time fires that timer.
        """
        timers = self._timers
        while timers and timers[0][2]._cancelled:
            heappop(timers)
            self._cancelled_timers -= 1
        if not timers:
            return None
        return self.start_ms + (timers[0][0] + 999) // 1000

    # ── what asyncio calls ───────────────────────────────────────────────────────────────────

    def time(self) -> float:
        """Seconds from the start of the workflow to the last fact."""
        return (self.now_ms - self.start_ms) / 1000

    def call_soon(  # type: ignore[override]
        self, callback: _Callback, *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """Run `callback(*args)` in this drain, or the next one, after all that is ready now."""
        handle = _Handle(callback, args, copy_context() if context is None else context)
        if not self._closing:
            self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: _Callback, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Run `callback(*args)` at the first tick that is `delay` seconds or more after now.

        Raises:
            ValueError: `delay` is not finite, or longer than 100 years.
        """
        now = self.time()
        # A microsecond at least: a loop around a tinier sleep must let time go on.
        when = now + delay if delay <= 0 else max(now + delay, now + 1e-6)
        return self.call_at(when, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: _Callback, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Run `callback(*args)` at the first tick at or after `when`, in seconds as of `time()`.

        Raises:
            ValueError: `when` is not finite, or more than 100 years ahead.
        """
        if not math.isfinite(when):
            raise ValueError(f"a timer at {when!r} s: give a finite number of seconds")
        if (when - self.time()) * 1000 > SLEEP_MS_MAX:
            raise ValueError(f"a timer at {when!r} s: more than the limit of 100 years ahead")
        handle: Any = asyncio.TimerHandle(when, callback, args, self, context)
        if not self._closing:
            # Whole microseconds: 0.1 + 0.2 must not be later than 0.3, let alone a millisecond.
            heappush(self._timers, (round(when * 1_000_000), self._timer_count, handle))
            self._timer_count += 1
            handle._scheduled = True
        return handle  # type: ignore[no-any-return]

    def _timer_handle_cancelled(self, handle: Any) -> None:
        if not handle._scheduled:
            return
        self._cancelled_timers += 1
        timers = self._timers
        if len(timers) > _SWEEP_MIN and self._cancelled_timers * 2 > len(timers):
            # `handle` is not marked as cancelled yet.
            self._timers = [t for t in timers if not (t[2]._cancelled or t[2] is handle)]
            heapify(self._timers)
            self._cancelled_timers = 0

    def create_future(self) -> asyncio.Future[Any]:
        """A new future of this loop."""
        future = WorkflowFuture(loop=self)
        future._hash = self._next_hash()
        return future

    def create_task(
        self, coro: Any, *, name: object = None, context: Context | None = None, **kw: Any
    ) -> asyncio.Task[Any]:
        """A new task of this loop. All keywords of the Python at hand are passed on.

        Raises:
            RuntimeError: the handler is being closed.
            DeterminismError: called by `asyncio.as_completed` for a bare coroutine.
        """
        if self._closing:
            coro.close()
            raise RuntimeError(f"no new task: workflow {self.workflow_id!r} is being closed")
        if sys._getframe(1).f_code is _ENSURE_FUTURE and _is_as_completed(sys._getframe(2)):
            coro.close()
            raise DeterminismError(AS_COMPLETED)
        if len(self._tasks) >= self._tasks_sweep_at:
            self._tasks = self.tasks
            self._tasks_sweep_at = max(_SWEEP_MIN, 2 * len(self._tasks))
        self._task_count += 1
        if name is None:
            name = f"Task-{self._task_count}"
        if context is None:
            context = copy_context()
        return WorkflowTask(coro, loop=self, name=name, context=context, **kw)

    def get_debug(self) -> bool:
        """False: asyncio's debug mode measures real time."""
        return False

    def set_debug(self, enabled: bool) -> None:
        """Ignored."""

    def get_task_factory(self) -> None:
        """None: there is no task factory."""

    async def shutdown_asyncgens(self) -> None:
        """Close all async generators that have been started and have not ended."""
        for generator in self._live_asyncgens():
            await self._end_asyncgen(generator)

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Nothing to do: there is none."""

    # ── failures that nobody awaits ──────────────────────────────────────────────────────────

    def get_exception_handler(self) -> _ExceptionHandler | None:
        """What `set_exception_handler` has set."""
        return self._exception_handler

    def set_exception_handler(self, handler: _ExceptionHandler | None) -> None:
        """Have `handler(loop, context)` called instead of recording, while this advances."""
        self._exception_handler = handler

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Pass on, or record, an exception that nobody will see otherwise. Never raises."""
        # The collector may call this at any moment: user code runs only where it may.
        if self._exception_handler is not None and self._entered and not self._closing:
            thing = context.get("task") or context.get("future") or context.get("handle")
            try:
                if (get_context := getattr(thing, "get_context", None)) is not None:
                    get_context().run(self._exception_handler, self, context)  # as from 3.12 on
                else:
                    self._exception_handler(self, context)
                return
            except BaseException as error:
                failed = {"message": "the exception handler itself failed", "exception": error}
                self.default_exception_handler(failed)
        self.default_exception_handler(context)

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """Record the failure in `unhandled`."""
        if len(self.unhandled) >= UNHANDLED_MAX:
            return
        report = {key: context.get(key) for key in ("message", "exception")}
        # Not the task itself: that would bring it back to life in its finalizer.
        task = context.get("task") or context.get("future")
        report["source"] = task.get_name() if isinstance(task, asyncio.Task) else ""
        self.unhandled.append(report)

    def _callback_failed(self, error: BaseException, handle: asyncio.Handle) -> None:
        if not isinstance(error, Exception) and any(t._exception is error for t in self._tasks):
            return  # a task keeps it, and raises it again only to end asyncio.run()
        context = {"message": "exception in a callback", "exception": error, "handle": handle}
        self.call_exception_handler(context)

    # ── the end ──────────────────────────────────────────────────────────────────────────────

    @property
    def tasks(self) -> list[WorkflowTask]:
        """The tasks that have not ended, in the order in which they were created."""
        return [task for task in self._tasks if not task.done()]

    def cancel_tasks(self) -> None:
        """The handler has ended: cancel what it left running, in creation order, and close it.

        Each task may catch it and clean up; one that goes on awaiting is cancelled again, up to
        `ROUNDS_MAX` times, then closed. Then async generators left behind. No timer fires
        meanwhile. The loop is then good only for `close()`.
        """
        if self._closing:
            return
        with nullcontext() if self._entered else self.entered():
            try:
                self._cancel_rounds()
                if generators := self._live_asyncgens():
                    for generator in generators:
                        self.create_task(self._end_asyncgen(generator), context=Context())
                    self.drain()
                    self._cancel_rounds()
            except HandlerSpins as error:
                self.default_exception_handler({"message": str(error), "exception": error})
            self.close_tasks()

    def _cancel_rounds(self) -> None:
        for _ in range(ROUNDS_MAX):
            if not (live := self.tasks):
                return
            for task in live:
                task.cancel()
            self.drain()

    def close_tasks(self) -> None:
        """Drop the handler: close its coroutines where they stand, in creation order.

        A closed coroutine gets GeneratorExit: its `finally` blocks run, up to their first await;
        what it raises is ignored. No callback runs any more, now or later, no task can be
        created, and nothing is reported when the remains are collected.

        Raises:
            RuntimeError: called by the handler itself, or see `enter`.
        """
        if self._closing:
            return
        if (live := self.tasks) or self._asyncgens:
            with nullcontext() if self._entered else self.entered():
                if asyncio.current_task(self) is not None:
                    raise RuntimeError(f"{self!r} cannot be closed by its own handler")
                self._closing = True
                for task in live:
                    self._close_task(task)
                for generator in self._live_asyncgens():
                    Context().run(close_asyncgen, generator)
        self._closing = True
        for task in live:
            end_task(task)
        self._ready.clear()
        self._timers.clear()
        self._tasks.clear()
        self._asyncgens = self._exception_handler = None

    def _close_task(self, task: WorkflowTask) -> None:
        coro: Any = task.get_coro()
        _enter_task(self, task)
        try:
            # In its own context: `var.reset(token)` in a `finally` works in no other.
            task._closing_context.run(close_coroutine, coro)
        finally:
            _leave_task(self, task)

    def is_closed(self) -> bool:
        """Whether `close()` was called."""
        return self._closed

    def close(self) -> None:
        """Drop the handler if that was not done, and refuse to be entered again. Idempotent.

        Raises:
            RuntimeError: it is being advanced; see also `close_tasks`.
        """
        if self._closed:
            return
        if self._entered:
            raise RuntimeError(f"{self!r} cannot be closed while it advances")
        self.close_tasks()
        self._closed = True

    # ── async generators ─────────────────────────────────────────────────────────────────────

    def _keep_asyncgen(self, generator: AsyncGenerator[Any, Any]) -> None:
        # Held strongly: one that is left behind is closed at the handler's end and not when the
        # collector finds it, since that moment differs between two runs.
        generators = self._asyncgens
        if generators is None:
            generators = self._asyncgens = {}
        elif len(generators) >= self._asyncgens_sweep_at:
            generators = self._asyncgens = dict.fromkeys(self._live_asyncgens())
            self._asyncgens_sweep_at = max(_SWEEP_MIN, 2 * len(generators))
        generators[generator] = None

    def _live_asyncgens(self) -> list[AsyncGenerator[Any, Any]]:
        return [g for g in self._asyncgens or () if getattr(g, "ag_frame", g) is not None]

    async def _end_asyncgen(self, generator: AsyncGenerator[Any, Any]) -> None:
        try:
            await generator.aclose()
        except Exception as error:
            text = "an async generator failed while it was closed"
            self.call_exception_handler({"message": text, "exception": error})

    def _next_hash(self) -> int:
        self._hash = value = (self._hash + _HASH_STEP) & _HASH_MASK
        return value


_ENSURE_FUTURE = getattr(asyncio.tasks, "_ensure_future", asyncio.ensure_future).__code__


def _is_as_completed(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code.co_filename == _ENSURE_FUTURE.co_filename:
        if frame.f_code.co_qualname.startswith(("as_completed", "_AsCompleted")):
            return True
        frame = frame.f_back
    return False


# By what the Python at hand has, so that a method of a later one is refused by name as well.
for _name in dir(asyncio.AbstractEventLoop):
    if not _name.startswith("_") and _name not in vars(WorkflowLoop):
        setattr(WorkflowLoop, _name, refusal(_name))
del _name
