"""Running attempts of actions: `async def` as tasks of an asyncio loop, `def` in threads.

It holds no rules. What an attempt's exception means for retries is said here, because only here is
the exception itself at hand; everything else is decided by the transition.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

from perdure.core.commands import RunStep
from perdure.core.ids import idempotency_key
from perdure.core.messages import AttemptEnded
from perdure.core.outcomes import Failed, Outcome, Succeeded
from perdure.core.retry import class_name
from perdure.definitions import Action
from perdure.error_form import encode_error
from perdure.errors import (
    ErrorInfo,
    LimitExceeded,
    NonRetryableError,
    ValidationError,
)

from .attempts import Attempt, AttemptKey
from .bridge import Bridge
from .contexts import ActionContext
from .mailbox import Mailbox, Post
from .scope import Env
from .verbs import Verbs

logger = logging.getLogger("perdure.worker")


class Threads:
    """A pool of daemon threads that grows with need: an attempt that hangs holds up no exit."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[tuple[Callable[..., None], Any] | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._count = 0

    def submit(self, fn: Callable[..., None], argument: Any) -> None:
        """Run ``fn(argument)`` in a thread that is free, or in a new one.

        Raises:
            RuntimeError: no thread can be started; nothing will be run.
        """
        if not self._idle.acquire(blocking=False):
            name = f"perdure-action-{self._count + 1}"
            threading.Thread(target=self._run, name=name, daemon=True).start()
            self._count += 1
        self._work.put((fn, argument))

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            fn, argument = item
            fn(argument)
            del item, argument
            self._idle.release()

    def close(self) -> None:
        """Let the threads end when they are idle."""
        for _ in range(self._count):
            self._work.put(None)
        self._count = 0


class ActionRunner:
    """Runs attempts; see `attempts.Runner`. `start` and `cancel` are called by the engine only."""

    def __init__(self, env: Env, mailbox: Mailbox, bridge: Bridge, verbs: Verbs) -> None:
        self._env = env
        self._mailbox = mailbox
        self._bridge = bridge
        self._verbs = verbs
        self._threads: Threads | None = None
        self._running: dict[AttemptKey, Attempt] = {}
        self._tasks: dict[AttemptKey, asyncio.Task[None]] = {}
        self._begun: set[AttemptKey] = set()
        self._cancelled: set[AttemptKey] = set()
        self._context = contextvars.copy_context()

    @property
    def running(self) -> int:
        """How many attempts have not ended; each holds a permit."""
        return len(self._running)

    def attempts(self) -> list[Attempt]:
        """The attempts that have not ended."""
        return list(self._running.values())

    def start(self, attempts: Sequence[Attempt]) -> None:
        """Run them now."""
        tasks = []
        for attempt in attempts:
            self._running[attempt.key] = attempt
            command = attempt.record.command
            assert isinstance(command, RunStep)
            definition = self._env.registry.get(command.function)
            if not isinstance(definition, Action):
                text = f"action {command.function!r} is not defined in this process"
                failure = Failed(ErrorInfo("DefinitionError", text))
                self._report(attempt, failure, is_retryable=True)
            elif definition.is_async:
                tasks.append((attempt, definition))
            else:
                self._start_in_thread(attempt, definition)
        if tasks:
            self._bridge.call(self._spawn, tasks)

    def cancel(self, key: AttemptKey) -> None:
        """Cancel an attempt's task; code in a thread cannot be stopped and runs on."""
        if key in self._running:
            self._bridge.call(self._cancel_task, key)

    def cancel_all(self) -> None:
        """Cancel all tasks."""
        for key in list(self._running):
            self.cancel(key)

    def close(self) -> None:
        """No more attempts will be started."""
        if self._threads is not None:
            self._threads.close()

    # --- on the loop

    def _spawn(self, tasks: list[tuple[Attempt, Action[..., Any]]]) -> None:
        loop = self._bridge.loop
        for attempt, definition in tasks:
            self._tasks[attempt.key] = loop.create_task(
                self._run_on_loop(attempt, definition), context=self._context.copy()
            )

    def _cancel_task(self, key: AttemptKey) -> None:
        # A task that is cancelled before its first step never runs, and would never report.
        if key not in self._running or key in self._cancelled:
            return  # once: a second time would disturb a clean-up
        self._cancelled.add(key)
        if key in self._begun:
            self._tasks[key].cancel()

    async def _run_on_loop(self, attempt: Attempt, definition: Action[..., Any]) -> None:
        key = attempt.key
        self._begun.add(key)
        try:
            if key in self._cancelled:
                raise asyncio.CancelledError
            args, kwargs, context = self._prepare(attempt, definition)
            value = await definition.fn(context, *args, **kwargs)
            outcome: Outcome = self._encode(definition, value)
        except BaseException as error:
            self._forget_task(key)
            self._ended(attempt, error, definition)
            if isinstance(error, KeyboardInterrupt | SystemExit):
                logger.error("an action raised %r; it failed, the worker goes on", error)
        else:
            self._forget_task(key)
            self._report(attempt, outcome)

    def _forget_task(self, key: AttemptKey) -> None:
        self._begun.discard(key)
        self._tasks.pop(key, None)

    # --- in a thread

    def _start_in_thread(self, attempt: Attempt, definition: Action[..., Any]) -> None:
        if self._threads is None:
            self._threads = Threads()
        try:
            self._threads.submit(self._run_in_thread, (attempt, definition))
        except RuntimeError as error:  # the machine has none left: a matter of this attempt only
            text = f"no thread for action {definition.name!r}: {error}"
            self._report(attempt, Failed(ErrorInfo("RuntimeError", text)), is_retryable=True)

    def _run_in_thread(self, item: tuple[Attempt, Action[..., Any]]) -> None:
        attempt, definition = item
        try:
            args, kwargs, context = self._prepare(attempt, definition)
            value = self._context.copy().run(definition.fn, context, *args, **kwargs)
            outcome: Outcome = self._encode(definition, value)
        except BaseException as error:
            self._ended(attempt, error, definition)
        else:
            self._report(attempt, outcome)

    # --- both

    def _prepare(
        self, attempt: Attempt, definition: Action[..., Any]
    ) -> tuple[list[Any], dict[str, Any], ActionContext]:
        record = attempt.record
        command = record.command
        assert isinstance(command, RunStep)
        where = f"arguments of {definition.name}"
        args, kwargs = definition.arguments.bind(command.arguments, where=where)
        key = idempotency_key(attempt.workflow_id, record.number, record.asked_epoch)
        context = ActionContext(
            self._verbs,
            name=definition.name,
            workflow_id=attempt.workflow_id,
            step_number=record.number,
            attempt=record.attempt,
            idempotency_key=key,
        )
        return args, kwargs, context

    def _encode(self, definition: Action[..., Any], value: Any) -> Outcome:
        limit = self._env.limits.value_bytes
        where = f"result of {definition.name}"
        try:
            return Succeeded(definition.result.encode(value, where=where, limit=limit))
        except (ValidationError, LimitExceeded) as error:
            # The work is done, only its result is not what was promised: to repeat the work
            # would give the same.
            raise _BadResult(error) from error

    def _ended(self, attempt: Attempt, error: BaseException, definition: Action[..., Any]) -> None:
        command = attempt.record.command
        assert isinstance(command, RunStep)
        is_retryable = True
        if isinstance(error, _BadResult):
            error, is_retryable = error.cause, False
        elif isinstance(error, (NonRetryableError, *definition.raises)):
            is_retryable = False
        elif command.retry.non_retryable:
            names = {class_name(cls) for cls in type(error).__mro__}
            is_retryable = names.isdisjoint(command.retry.non_retryable)
        info = encode_error(error, declared=definition.raises)
        self._report(attempt, Failed(info), is_retryable=is_retryable)

    def _report(self, attempt: Attempt, outcome: Outcome, *, is_retryable: bool = True) -> None:
        record = attempt.record
        # First out of the books, then the news: whoever reads them finds the permit free.
        self._running.pop(attempt.key, None)
        self._cancelled.discard(attempt.key)
        message = AttemptEnded(
            number=record.number,
            epoch=record.started_epoch or 0,
            attempt=record.attempt,
            outcome=outcome,
            accepted_at=self._env.clock.now_ms(),
            is_retryable=is_retryable,
        )
        self._mailbox.put(Post(attempt.workflow_id, message))


class _BadResult(Exception):
    """The action returned what its annotation does not allow."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(cause)
        self.cause = cause
