"""The replay: running a handler over its journal, and on from there.

A handler is a pure function from history to commands; a live coroutine is only the memo of that
function. `Handler` holds it. It may be dropped at any time and built again from the journal.

Facts are delivered one at a time, in the order of their positions, and everything that is ready
in the handler's loop runs before the next one: live and on replay alike. So every race, lock and
queue in the handler has the same history both times.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, TypeAlias

from msgspec import Struct

from perdure.errors import DeterminismError, ErrorInfo, StepFailed

from .commands import CancelStep, StepCommand, describe
from .journal import Batch, Delivery, Journal, Started, StepEnded, Tick
from .loop import HandlerSpins, WorkflowFuture, WorkflowLoop
from .messages import Asked, Ended, HandlerBlocked
from .outcomes import Failed, Outcome

#: What the handler did with a fact.
Reaction: TypeAlias = Asked | Ended | HandlerBlocked

#: Makes the handler's main coroutine, which returns the workflow's outcome and raises nothing.
Launch: TypeAlias = Callable[["Handler"], Coroutine[Any, Any, Outcome]]

#: Turns a recorded outcome into the value for the handler, or the exception to raise in it.
Resolve: TypeAlias = Callable[[Outcome], "Value | Raise"]


class Value(Struct, frozen=True):
    """The step returned this."""

    value: Any


class Raise(Struct, frozen=True):
    """The step raised this."""

    error: BaseException


class Place(Struct, frozen=True, kw_only=True):
    """Where code and journal part.

    Attributes:
        position: of the fact in reaction to which it happened.
        number: of the step that it is about, where it is about one.
        recorded: what the journal has and the code did not ask for.
        asked: what the code asked for and the journal does not have.
    """

    position: int
    number: int | None = None
    recorded: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()


_NOT_YOURS = (
    "the future of a step ends with the outcome of its step: cancel it, or make a future of your"
    " own with asyncio.get_running_loop().create_future()"
)


class StepFuture(WorkflowFuture):
    """The future of a step. Cancelling it cancels the step."""

    __slots__ = ("handler", "number", "resolve")

    handler: Handler
    number: int
    resolve: Resolve

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel the future and, durably, the step behind it."""
        if not super().cancel(msg):
            return False
        self.handler.on_future_cancelled(self.number)
        return True

    def set_result(self, result: Any, /) -> NoReturn:
        """Refused, as a task refuses it."""
        raise RuntimeError(_NOT_YOURS)

    def set_exception(self, exception: Any, /) -> NoReturn:
        """Refused, as a task refuses it."""
        raise RuntimeError(_NOT_YOURS)


class Handler:
    """A running handler and the loop that it runs on.

    Args:
        workflow_id: whose handler it is; seeds what must differ between workflows.
        launch: makes the main coroutine.
        journal: what is recorded. `replay` runs through it.
        start_ms: the stamp of the first fact.
    """

    __slots__ = (
        "_batch",
        "_cancels",
        "_futures",
        "_is_advancing",
        "_is_over",
        "_journal",
        "_launch",
        "_main",
        "_next_number",
        "_place",
        "_position",
        "_steps",
        "_violation",
        "is_dropped",
        "is_replaying",
        "loop",
        "workflow_id",
    )

    def __init__(self, workflow_id: str, launch: Launch, journal: Journal, start_ms: int) -> None:
        self.workflow_id = workflow_id
        self.loop = WorkflowLoop(workflow_id, start_ms)
        self.is_replaying = False
        self.is_dropped = False
        self._is_over = False
        self._launch = launch
        self._journal: Journal | None = journal
        self._main: Any = None
        self._next_number = len(journal.steps)
        self._futures: dict[int, StepFuture] = {}
        self._batch: Batch | None = None
        self._steps: list[tuple[int, StepCommand]] = []
        self._cancels: list[CancelStep] = []
        self._violation: ErrorInfo | None = None
        self._position = -1
        self._place: Place | None = None
        self._is_advancing = False

    # --- driven by the worker -----------------------------------------------------------------

    def replay(self) -> Reaction:
        """Run through the journal; what the handler then wants beyond it is the reaction."""
        journal = self._journal
        assert journal is not None, "a handler replays once"
        self._journal = None
        self.is_replaying = True
        deliveries = journal.deliveries
        for index, delivery in enumerate(deliveries):
            is_last = index == len(deliveries) - 1
            self._batch = journal.batch(delivery.position)
            self._advance(delivery, is_last=is_last)
            if self._violation is None:
                self._close_batch(delivery, is_last=is_last)
            if self._violation is not None:
                break
        self._batch = None
        self.is_replaying = False
        return self._reaction()

    def deliver(self, delivery: Delivery) -> Reaction:
        """Give the handler a new fact and let it run until it blocks or ends."""
        self._advance(delivery, is_last=True)
        return self._reaction()

    def close(self) -> None:
        """Drop the handler: its coroutines are closed, in order, and may ask for nothing."""
        self.is_dropped = self._is_over = True
        self._futures.clear()
        self.loop.close_tasks()
        self.loop.close()
        # The task and the future that it waits for hold us: gone at once, not with the garbage.
        self._main = None

    # --- used by what the handler holds -------------------------------------------------------

    def ask(self, command: StepCommand, resolve: Resolve) -> StepFuture:
        """Ask for a step; its future ends when the outcome is delivered.

        Raises:
            DeterminismError: the workflow is not advancing (the call comes from another thread,
                from a finalizer, or after the end), or its code does not fit the journal.
        """
        if (self._is_over or self._violation is not None) and self.loop.is_running():
            # Refused by never answering: code that catches every error and tries again would
            # otherwise loop for ever. It is closed where it waits.
            return self._future(-1, resolve)
        if not self._is_advancing:
            raise DeterminismError(
                f"{describe(command)}: refused, because workflow {self.workflow_id!r} is not"
                " running here: steps are asked for by its own handler, while it runs"
            )
        number = self._match(command)
        future = self._futures[number] = self._future(number, resolve)
        return future

    def _future(self, number: int, resolve: Resolve) -> StepFuture:
        future = StepFuture(loop=self.loop)
        future._hash = self.loop._next_hash()
        future.handler = self
        future.number = number
        future.resolve = resolve
        return future

    def on_future_cancelled(self, number: int) -> None:
        """The handler cancelled the future of a step (or the engine, when it closes down)."""
        if self._futures.pop(number, None) is None or not self._is_advancing:
            return
        if self._batch is not None and self._batch.take_cancel(number):
            return
        self._cancels.append(CancelStep(number))

    @property
    def violation(self) -> ErrorInfo | None:
        """Why the handler cannot go on, if it cannot."""
        return self._violation

    @property
    def place(self) -> Place | None:
        """Where it cannot go on, if it cannot."""
        return self._place

    # --- inside -------------------------------------------------------------------------------

    def _match(self, command: StepCommand) -> int:
        if self._batch is not None:
            record = self._batch.take(command)
            if record is not None:
                return record.number
        number = self._next_number
        self._next_number += 1
        self._steps.append((number, command))
        return number

    def _advance(self, delivery: Delivery, *, is_last: bool) -> None:
        loop = self.loop
        self._position = delivery.position
        loop.enter()
        self._is_advancing = True
        try:
            match delivery.fact:
                case StepEnded():
                    loop.set_now(delivery.stamp)
                    self._settle(delivery.fact)
                    loop.drain()
                case Tick():
                    loop.fire_timers(delivery.fact.now)
                case Started():
                    loop.set_now(delivery.stamp)
                    # A context of its own: what the host has set is not part of the history.
                    self._begin()
                    loop.drain()
            if self._main is not None and self._main.done() and self._violation is None and is_last:
                self._finish()
        except HandlerSpins as error:
            self._block("HandlerSpins", str(error))
        finally:
            self._is_advancing = False
            loop.leave()

    def _begin(self) -> None:
        try:
            main = self._launch(self)
        except Exception as error:
            self._block(type(error).__name__, f"the handler cannot be called any more: {error}")
            return
        # A context of its own: what the host has set is not part of the history.
        self._main = self.loop.create_task(main, context=contextvars.Context())

    def _settle(self, fact: StepEnded) -> None:
        future = self._futures.pop(fact.number, None)
        if future is None:
            if self.is_replaying:
                self._block(
                    "DeterminismError",
                    f"the journal has an outcome for step {fact.number}, which the code did not"
                    " ask for or has cancelled",
                    number=fact.number,
                )
            return
        try:
            resolved = future.resolve(fact.outcome)
        except Exception as error:
            self._block(
                type(error).__name__,
                f"the recorded outcome of step {fact.number} no longer fits its type: {error}",
                number=fact.number,
            )
            return
        if isinstance(resolved, Value):
            asyncio.Future.set_result(future, resolved.value)
        else:
            if isinstance(resolved.error, StepFailed):
                resolved.error.attempts = fact.attempts
            asyncio.Future.set_exception(future, resolved.error)

    def _finish(self) -> None:
        """The handler has ended: what it left behind is cancelled and may ask for nothing."""
        self._is_over = True
        self._futures.clear()
        self.loop.cancel_tasks()

    def _close_batch(self, delivery: Delivery, *, is_last: bool) -> None:
        """After a replayed fact: what was asked for must be what is recorded."""
        assert self._batch is not None
        missing = self._batch.left()
        extra = [describe(command) for _, command in self._steps]
        extra += [f"cancel of step {cancel.number}" for cancel in self._cancels]
        has_ended_early = self._main is not None and self._main.done() and not is_last
        # Where the journal ends, what is new is simply asked for now.
        is_new_wrong = bool(extra) and not is_last
        if not missing and not is_new_wrong and not has_ended_early:
            return
        where = f"position {delivery.position} ({_describe_fact(delivery)})"
        lines = [
            f"the code does not fit the journal at {where}; the journal is right and the code wrong"
        ]
        lines += [f"  recorded, not asked for: {row}" for row in missing]
        lines += [f"  asked for, not recorded: {row}" for row in extra]
        if has_ended_early:
            lines.append("  the handler ended, but the journal goes on")
        lines.append("  bring back code that fits, or cancel or restart the workflow")
        self._block(
            "DeterminismError",
            "\n".join(lines),
            number=self._batch.first_left(),
            recorded=tuple(missing),
            asked=tuple(extra),
        )

    def _block(
        self,
        type_name: str,
        message: str,
        *,
        number: int | None = None,
        recorded: tuple[str, ...] = (),
        asked: tuple[str, ...] = (),
    ) -> None:
        if self._violation is None:
            self._violation = ErrorInfo(type_name, message)
            self._place = Place(
                position=self._position, number=number, recorded=recorded, asked=asked
            )

    def _reaction(self) -> Reaction:
        steps, cancels = tuple(self._steps), tuple(self._cancels)
        self._steps, self._cancels = [], []
        if self._violation is not None:
            return HandlerBlocked(error=self._violation)
        main = self._main
        if main is None or not main.done():
            timer_at = self.loop.next_timer_ms()
            if timer_at is None and not self._futures:
                return HandlerBlocked(error=ErrorInfo("HandlerStuck", self._stuck()))
            return Asked(steps=steps, cancels=cancels, timer_at=timer_at)
        if main.cancelled():
            # The last thing that it did: else the launcher would have caught the error.
            error = ErrorInfo("CancelledError", "the code of the workflow cancelled its own task")
            return Ended(outcome=Failed(error), steps=steps, cancels=cancels)
        raised = main.exception()
        if raised is not None:
            # The launcher promises that it never does; should it, this workflow waits alone.
            error = ErrorInfo("InternalError", f"the handler's main task raised {raised!r}")
            return HandlerBlocked(error=error)
        return Ended(outcome=main.result(), steps=steps, cancels=cancels)

    def _stuck(self) -> str:
        """Why nothing can ever wake the handler: its loop has no other thread and no I/O."""
        tasks = ", ".join(map(_place, self.loop.tasks))
        return (
            f"the handler of workflow {self.workflow_id!r} waits for what can never come: it has no"
            f" step, child, event or timer open ({tasks}); look for a future that nobody resolves,"
            " a lock that is not released, tasks that wait for each other; mend the code, or cancel"
            " the workflow"
        )


def _place(task: asyncio.Task[Any]) -> str:
    """Where a task waits: its name, and the innermost of the coroutines that await each other."""
    names: list[str] = []
    coro: Any = task.get_coro()
    while (frame := getattr(coro, "cr_frame", None)) is not None:
        names.append(f"{frame.f_code.co_qualname}, line {frame.f_lineno}")
        coro = coro.cr_await
    return " in ".join([task.get_name(), *reversed(names[-3:])])


def _describe_fact(delivery: Delivery) -> str:
    match delivery.fact:
        case Started():
            return "the start"
        case StepEnded():
            return f"the outcome of step {delivery.fact.number}"
        case Tick():
            return "a timer"
