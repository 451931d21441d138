"""What a workflow's handler holds: `Step`, the durable verbs.

Each verb checks and encodes what it was given, asks for a step, and returns a future of the
handler's own loop. What a recorded outcome means to the handler (a value, an exception) is said
here too. Running anything is not done here.
"""

from __future__ import annotations

import asyncio
import logging
import random as random_module
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, cast, overload

import attrs

from .codec import TypeCodec, plain
from .core.commands import AwaitEvent, RunChild, RunStep, Sleep, StepCommand
from .core.ids import digest
from .core.limits import NAME_LENGTH_MAX, SLEEP_MS_MAX, Limits
from .core.outcomes import Failed, Outcome, Succeeded
from .core.replay import Handler, Raise, Resolve, Value
from .core.retry import AT_MOST_ONCE, RetryPlan, RetryPolicy, duration_ms
from .definitions import (
    Action,
    ActionCall,
    Call,
    Definition,
    Mutation,
    MutationCall,
    Query,
    QueryCall,
    Registry,
    Workflow,
    WorkflowCall,
)
from .error_form import rebuild_error
from .errors import (
    DefinitionError,
    ErrorInfo,
    EventNotFound,
    LimitExceeded,
    StepCanceled,
    StepFailed,
    ValidationError,
)
from .events import Event

T = TypeVar("T")
R = TypeVar("R")

#: `retry=` as users give it.
Retry = bool | RetryPolicy | None


@attrs.frozen(kw_only=True)
class StepRules:
    """What the manager's settings mean for steps."""

    registry: Registry
    limits: Limits
    default_retry: RetryPolicy
    retry_actions_by_default: bool

    def plan(self, *wishes: Retry) -> RetryPlan:
        """The retry plan: the first wish that is not None decides, else the manager's default."""
        wish: Retry = None
        for wish in wishes:
            if wish is not None:
                break
        if wish is None:
            wish = self.retry_actions_by_default
        if wish is True:
            return self.default_retry.plan()
        if wish is False:
            return AT_MOST_ONCE
        if not isinstance(wish, RetryPolicy):
            raise TypeError(f"retry={wish!r}: give True, False, None or a RetryPolicy")
        return wish.plan()


def instant_ms(value: datetime, what: str) -> int:
    """A point in time in milliseconds since the epoch, rounded up.

    Raises:
        TypeError: not a `datetime`.
        ValueError: a naive one: nobody knows which time zone it means.
    """
    if not isinstance(value, datetime):
        raise TypeError(f"{what}={value!r}: give a datetime")
    if value.tzinfo is None:
        raise ValueError(f"{what}={value!r}: give a datetime with a time zone, such as UTC")
    return -((datetime(1970, 1, 1, tzinfo=UTC) - value) // timedelta(milliseconds=1))


def from_ms(ms: int) -> datetime:
    """Milliseconds since the epoch as a datetime in UTC."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)


def within_reach(at_ms: int, now_ms: int, what: str) -> int:
    """`at_ms`, if it is not more than a hundred years away.

    Raises:
        ValueError: it is.
    """
    if at_ms - now_ms > SLEEP_MS_MAX:
        raise ValueError(f"{what}: further away than the limit of 100 years")
    return at_ms


def due_ms(run_after: timedelta | float | None, run_at: datetime | None, now_ms: int) -> int | None:
    """`run_after` or `run_at` as an instant; None if neither is given.

    Raises:
        ValueError, TypeError: both are given, or one is no duration or point in time.
    """
    if run_after is not None and run_at is not None:
        raise ValueError("give run_after or run_at, not both")
    if run_after is not None:
        return now_ms + duration_ms(run_after, "run_after")
    if run_at is not None:
        return within_reach(instant_ms(run_at, "run_at"), now_ms, f"run_at={run_at!r}")
    return None


def _with_article(kind: str) -> str:
    return f"an {kind}" if kind == "action" else f"a {kind}"


def check_call(
    call: object, kind: type[Definition[..., Any]], verb: str, registry: Registry
) -> Any:
    """The call's definition, if it is of the wanted kind and registered.

    Raises:
        TypeError: not a call, or of another kind; the message names the right verb.
        DefinitionError: the function belongs to another manager.
    """
    if not isinstance(call, Call):
        if isinstance(call, Definition):
            raise TypeError(f"{verb}({call.name}): call it: {verb}({call.name}(…))")
        raise TypeError(
            f"{verb}: give a call of {_with_article(kind.__name__.lower())}, not {call!r}"
        )
    definition = call.definition
    if not isinstance(definition, kind):
        kind_found = definition.kind
        raise TypeError(
            f"{verb}: {definition.name} is {_with_article(kind_found)}: use run_{kind_found}"
        )
    if registry.get(definition.name) is not definition:
        raise DefinitionError(
            f"{verb}: {definition!r} is not registered with this manager: decorate it with"
            f" this manager's @manager.{definition.kind}"
        )
    return definition


def check_name(name: object, what: str) -> str:
    """A name or id that fits into a key.

    Raises:
        TypeError, ValueError, LimitExceeded: it is no text, empty, or too long.
    """
    if not isinstance(name, str):
        raise TypeError(f"{what}={name!r}: give a str")
    if not name or not name.isprintable():
        raise ValueError(f"{what}={name!r}: give at least one character, all of them printable")
    if len(name) > NAME_LENGTH_MAX:
        raise LimitExceeded(
            f"{what}={name[:40]!r}…: {len(name)} characters, over the limit of {NAME_LENGTH_MAX}:"
            " choose a shorter one"
        )
    return str.__str__(name)  # of a subclass (markup, an enum) only the text is stored


def check_flag(value: object, what: str) -> bool:
    """True or False, and nothing that only counts as one: it is stored.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{what}={value!r}: give True or False")
    return value


class _ReplayLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger that is silent while the handler is replayed."""

    def __init__(self, logger: logging.Logger, handler: Handler) -> None:
        super().__init__(logger, {"workflow_id": handler.workflow_id})
        self._handler = handler

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802  The base class named it.
        return not self._handler.is_replaying and self.logger.isEnabledFor(level)


class Step:
    """The durable verbs of a workflow; its handler's first argument.

    Every verb starts its step when it is called and returns an `asyncio.Future`. Await it, or
    collect several and use `asyncio.gather`, `wait`, `as_completed`, `TaskGroup`, `timeout`, ….
    Cancelling the future cancels the step.
    """

    def __init__(
        self,
        handler: Handler,
        rules: StepRules,
        workflow: Workflow[..., Any],
        *,
        unstable_args: bool = False,
        retry: Retry = None,
    ) -> None:
        self._handler = handler
        self._rules = rules
        self._workflow = workflow
        self._unstable = unstable_args
        self._retry = retry
        self._random: random_module.Random | None = None
        self._uuids: random_module.Random | None = None
        self._logger: _ReplayLogger | None = None

    # --- what it knows

    @property
    def workflow_id(self) -> str:
        """The id of this workflow."""
        return self._handler.workflow_id

    def now(self) -> datetime:
        """The time of the latest journaled fact, in UTC. It stands still while the code runs."""
        return from_ms(self._handler.loop.now_ms)

    @property
    def random(self) -> random_module.Random:
        """A random generator that gives the same numbers on every replay of this workflow."""
        if self._random is None:
            self._random = random_module.Random(digest("random", self.workflow_id))
        return self._random

    def uuid4(self) -> uuid.UUID:
        """A UUID that is the same on every replay."""
        return uuid.UUID(int=self._uuid_source.getrandbits(128), version=4)

    @property
    def _uuid_source(self) -> random_module.Random:
        if self._uuids is None:
            self._uuids = random_module.Random(digest("uuid4", self.workflow_id))
        return self._uuids

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger (``perdure.workflow.<name>``) that is silent during replay."""
        if self._logger is None:
            logger = logging.getLogger(f"perdure.workflow.{self._workflow.name}")
            self._logger = _ReplayLogger(logger, self._handler)
        return self._logger

    def with_options(self, *, unstable_args: bool | None = None, retry: Retry = None) -> Step:
        """A `Step` with other defaults for the steps that are run through it.

        Args:
            unstable_args: do not compare arguments on replay.
            retry: for actions; see `run_action`.

        Raises:
            TypeError: `retry` cannot be used.
        """
        self._rules.plan(retry)  # refuse nonsense here, not at the first use
        step = Step(
            self._handler,
            self._rules,
            self._workflow,
            unstable_args=self._is_unstable(unstable_args),
            retry=self._retry if retry is None else retry,
        )
        step._random, step._uuids = self.random, self._uuid_source
        return step

    # --- functions

    def run_query(
        self,
        call: QueryCall[R],
        *,
        name: str | None = None,
        run_after: timedelta | float | None = None,
        run_at: datetime | None = None,
        unstable_args: bool | None = None,
        inline: bool = False,
    ) -> asyncio.Future[R]:
        """Run a query in a read-only transaction. For the parameters see `run_mutation`."""
        definition = check_call(call, Query, "run_query", self._rules.registry)
        due = self._due_of(run_after, run_at, inline)
        return self._run(call, definition, name, due, unstable_args, inline=inline)

    def run_mutation(
        self,
        call: MutationCall[R],
        *,
        name: str | None = None,
        run_after: timedelta | float | None = None,
        run_at: datetime | None = None,
        unstable_args: bool | None = None,
        inline: bool = False,
    ) -> asyncio.Future[R]:
        """Run a mutation: its effects happen exactly once, or, if it raises, not at all.

        Args:
            call: of a mutation: ``send_email(user, kind="welcome")``.
            name: of the step, instead of the function's.
            run_after: delay, a timedelta or seconds.
            run_at: start time, a datetime with a time zone.
            unstable_args: do not compare the arguments on replay.
            inline: do not wait in the queue, nor for a pause of the pool.

        Raises:
            ValidationError, LimitExceeded, ValueError, TypeError: at the call; nothing is asked.
        """
        definition = check_call(call, Mutation, "run_mutation", self._rules.registry)
        due = self._due_of(run_after, run_at, inline)
        return self._run(call, definition, name, due, unstable_args, inline=inline)

    def run_action(
        self,
        call: ActionCall[R],
        *,
        name: str | None = None,
        run_after: timedelta | float | None = None,
        run_at: datetime | None = None,
        unstable_args: bool | None = None,
        retry: Retry = None,
        timeout: timedelta | float | None = None,
    ) -> asyncio.Future[R]:
        """Run an action: code that may do anything, outside of any transaction.

        Args:
            call: of an action.
            retry: True for the default policy, False for at most one start (also across
                crashes), a `RetryPolicy`, or None for what the action, the workflow and the
                manager say, in this order.
            timeout: bound of each attempt, a timedelta or seconds; None for the action's own.
            name, run_after, run_at, unstable_args: see `run_mutation`.

        Raises:
            ValidationError, LimitExceeded, ValueError, TypeError: at the call; nothing is asked.
        """
        definition = check_call(call, Action, "run_action", self._rules.registry)
        due = self._due_of(run_after, run_at, inline=False)
        plan = self._rules.plan(retry, self._retry, definition.retry, self._workflow.retry)
        timeout_ms = definition.timeout_ms
        if timeout is not None:
            timeout_ms = duration_ms(timeout, "timeout")
            if timeout_ms == 0:
                raise ValueError(f"timeout={timeout!r}: give a duration above 0, or None")
        return self._run(
            call, definition, name, due, unstable_args, retry=plan, timeout_ms=timeout_ms
        )

    def run_workflow(
        self,
        call: WorkflowCall[R],
        *,
        name: str | None = None,
        run_after: timedelta | float | None = None,
        run_at: datetime | None = None,
        unstable_args: bool | None = None,
        workflow_id: str | None = None,
    ) -> asyncio.Future[R]:
        """Start another workflow and wait for its result; it is canceled with this one.

        Args:
            call: of a workflow.
            workflow_id: the child's id; one that exists already fails the step.
            name, run_after, run_at, unstable_args: see `run_mutation`.

        Raises:
            ValidationError, LimitExceeded, ValueError, TypeError: at the call; nothing is asked.
        """
        definition = check_call(call, Workflow, "run_workflow", self._rules.registry)
        step_name = definition.name if name is None else check_name(name, "name")
        command = RunChild(
            name=step_name,
            function=definition.name,
            arguments=call.encode(self._rules.limits.value_bytes),
            unstable=self._is_unstable(unstable_args),
            due_at=self._due_of(run_after, run_at, inline=False),
            child_id=None if workflow_id is None else check_name(workflow_id, "workflow_id"),
        )
        return self._ask(command, _resolver(definition, step_name))

    # --- waiting

    def sleep(self, duration: timedelta | float, *, name: str = "sleep") -> asyncio.Future[None]:
        """Sleep durably.

        Args:
            duration: a timedelta or seconds, up to 100 years.
            name: of the step.

        Raises:
            ValueError, TypeError, LimitExceeded: at the call; nothing is asked.
        """
        due = self._handler.loop.now_ms + duration_ms(duration, "duration")
        command = Sleep(name=check_name(name, "name"), due_at=due)
        return self._ask(command, _resolve_nothing(name))

    def sleep_until(self, when: datetime, *, name: str = "sleep") -> asyncio.Future[None]:
        """Sleep durably until a point in time; not at all if it is past.

        Args:
            when: a datetime with a time zone, at most 100 years ahead.
            name: of the step.

        Raises:
            ValueError, TypeError, LimitExceeded: at the call; nothing is asked.
        """
        due = within_reach(instant_ms(when, "when"), self._handler.loop.now_ms, f"when={when!r}")
        command = Sleep(name=check_name(name, "name"), due_at=due)
        return self._ask(command, _resolve_nothing(name))

    @overload
    def await_event(
        self, event: Event[T], *, id: str | None = None, timeout: timedelta | float | None = None
    ) -> asyncio.Future[T]: ...
    @overload
    def await_event(
        self,
        event: str | None = None,
        *,
        id: str | None = None,
        timeout: timedelta | float | None = None,
    ) -> asyncio.Future[Any]: ...
    def await_event(
        self,
        event: Event[Any] | str | None = None,
        *,
        id: str | None = None,
        timeout: timedelta | float | None = None,
    ) -> asyncio.Future[Any]:
        """Wait for an event that is sent to this workflow; give its payload.

        Events queue: each is consumed once, in the order in which they were sent.

        Args:
            event: from `define_event`, or a plain name.
            id: of one event made by `create_event`; takes exactly that one.
            timeout: a timedelta or seconds, after which the await raises `TimeoutError`.

        Raises:
            StepFailed: the event was sent with ``error=``.
            EventNotFound: the id is unknown, consumed, or another workflow's.
            TimeoutError: no event came in time.
        """
        if event is None and id is None:
            raise ValueError("await_event: give an event, a name or an id")
        event_name = event.name if isinstance(event, Event) else event
        if event_name is not None:
            event_name = check_name(event_name, "event")
        event_id = None if id is None else check_name(id, "id")
        due = None
        if timeout is not None:
            due = self._handler.loop.now_ms + duration_ms(timeout, "timeout")
        step_name = event_name or cast(str, event_id)
        command = AwaitEvent(
            name=step_name,
            event_name=event_name if event_id is None else None,
            event_id=event_id,
            due_at=due,
        )
        codec = event.codec if isinstance(event, Event) else None
        return self._ask(command, _event_resolver(step_name, codec))

    # --- inside

    def _due_of(
        self, run_after: timedelta | float | None, run_at: datetime | None, inline: bool
    ) -> int | None:
        if check_flag(inline, "inline") and (run_after is not None or run_at is not None):
            raise ValueError("an inline step runs now: leave out run_after and run_at")
        return due_ms(run_after, run_at, self._handler.loop.now_ms)

    def _is_unstable(self, wish: bool | None) -> bool:
        return self._unstable if wish is None else check_flag(wish, "unstable_args")

    def _run(
        self,
        call: Call[Any],
        definition: Any,
        name: str | None,
        due_at: int | None,
        unstable: bool | None,
        *,
        inline: bool = False,
        retry: RetryPlan = AT_MOST_ONCE,
        timeout_ms: int | None = None,
    ) -> asyncio.Future[Any]:
        step_name = definition.name if name is None else check_name(name, "name")
        command = RunStep(
            kind=definition.kind,
            name=step_name,
            function=definition.name,
            arguments=call.encode(self._rules.limits.value_bytes),
            unstable=self._is_unstable(unstable),
            inline=inline,
            due_at=due_at,
            retry=retry,
            timeout_ms=timeout_ms,
        )
        return self._ask(command, _resolver(definition, step_name))

    def _ask(self, command: StepCommand, resolve: Resolve) -> asyncio.Future[Any]:
        return self._handler.ask(command, resolve)


# --- what a recorded outcome means ----------------------------------------------------------------


def _failure(error: ErrorInfo, step_name: str, remark: str | None = None) -> Raise:
    message = f"step {step_name} failed: {error.type}: {error.message}"
    if remark is not None:
        message = f"{message} ({remark})"
    # The number of attempts is filled in with the fact that brings the outcome.
    return Raise(StepFailed(message, error=error, step_name=step_name, attempts=0))


def _canceled(step_name: str) -> Raise:
    return Raise(StepCanceled(f"step {step_name} was canceled", step_name=step_name))


def _resolver(definition: Definition[..., Any], step_name: str) -> Resolve:
    def resolve(outcome: Outcome) -> Value | Raise:
        if isinstance(outcome, Succeeded):
            where = f"result of {definition.name}"
            return Value(definition.result.decode(outcome.value, where=where))
        if isinstance(outcome, Failed):
            declared = getattr(definition, "raises", ())
            error = rebuild_error(outcome.error, declared) if declared else None
            if isinstance(error, BaseException):
                return Raise(error)
            return _failure(outcome.error, step_name, error)
        return _canceled(step_name)

    return resolve


def _resolve_nothing(step_name: str) -> Resolve:
    def resolve(outcome: Outcome) -> Value | Raise:
        return Value(None) if isinstance(outcome, Succeeded) else _canceled(step_name)

    return resolve


def _event_resolver(step_name: str, codec: TypeCodec[Any] | None) -> Resolve:
    decode: Callable[[str], Any] = plain
    if codec is not None:
        typed = codec

        def decode(text: str) -> Any:
            return typed.decode(text, where=f"payload of event {step_name}")

    def resolve(outcome: Outcome) -> Value | Raise:
        if isinstance(outcome, Succeeded):
            try:
                return Value(decode(outcome.value))
            except ValidationError as error:
                # The sender may not know the type. The event is consumed; the handler may catch it.
                return Raise(error)
        if isinstance(outcome, Failed):
            if outcome.error.type == "TimeoutError":
                return Raise(TimeoutError(outcome.error.message))
            if outcome.error.type == "EventNotFound":
                return Raise(EventNotFound(outcome.error.message))
            return _failure(outcome.error, step_name)
        return _canceled(step_name)

    return resolve
