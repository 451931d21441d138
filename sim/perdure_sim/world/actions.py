"""Actions on virtual time: the production runner, on a loop of the simulator's own.

What runs an attempt, encodes its result, decides what an exception means and reports is
`perdure.runtime.runner.ActionRunner` itself. Here are the loop that it runs on, the stubs that
may stand for an action's code, and the faults that befall an attempt.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol

import attrs

from perdure import guard
from perdure.codec import TypeCodec
from perdure.core.commands import RunStep
from perdure.core.outcomes import Json, Outcome
from perdure.definitions import Action, Call, Definition, Mutation, Query, Registry
from perdure.errors import NonRetryableError
from perdure.records import Status
from perdure.runtime.attempts import Attempt
from perdure.runtime.contexts import ActionContext
from perdure.runtime.mailbox import Mailbox
from perdure.runtime.runner import ActionRunner
from perdure.runtime.scope import Env

from ..faults.plan import Attempted, Fault
from .clock import START_MS
from .outside import NotSimulated, OutsideLoop, in_action, look, look_away, refuse, refusing
from .trace import About, EventKind

#: The function of a stub: it gets what the action gets.
StubFunction = Callable[..., Any]


class SimulatedFailure(Exception):
    """What an action raises where the plan says so."""


@attrs.frozen(kw_only=True)
class Stub:
    """Stands for an action's code: takes some time, then calls `fn`, or the code itself.

    Attributes:
        fn: gets what the action gets; None for the action's own code.
        takes_ms: how long it takes before that; asked for at each attempt if it is a function.
    """

    fn: StubFunction | None = None
    takes_ms: int | Callable[[], int] = 0


@attrs.frozen(kw_only=True)
class CallMade:
    """One attempt of an action, as the outside world saw it begin.

    Attributes:
        epoch: that of its recorded start.
        keywords: the names of the last of the arguments, those given by name.
    """

    action: str
    workflow_id: str
    step_number: int
    attempt: int
    idempotency_key: str
    process: str
    at: int
    arguments: tuple[Any, ...]
    epoch: int
    keywords: tuple[str, ...] = ()


class Host(Protocol):
    """The simulated process that actions run in.

    Attributes:
        detail: whether it wants to be told everything.
        is_alive: whether it has not died.
    """

    name: str
    detail: bool
    is_alive: bool

    def note(self, kind: EventKind, about: About = None) -> None:
        """Keep what happens now."""
        ...

    @property
    def now(self) -> int:
        """The world's time."""
        ...

    def soon(self, fn: Callable[[], None]) -> None:
        """Call it in an event of its own, at this time, if this process lives then."""
        ...

    def at(self, when: int, fn: Callable[[], None]) -> None:
        """Call it at a later time, if this process lives then."""
        ...

    def attempt_passes(
        self, action: str, site: str, attempted: Attempted | None = None
    ) -> Fault | None:
        """The fault that befalls this attempt, if one does."""
        ...

    def crash(self) -> None:
        """Die."""
        ...

    def made(self, call: CallMade) -> None:
        """An attempt's code begins."""
        ...

    def ended(self, attempt: Attempt, outcome: Outcome, *, is_retryable: bool) -> None:
        """An attempt's code has ended, and this is about to be told."""
        ...

    def reached_outside(self, error: NotSimulated) -> None:
        """An attempt's code did what cannot be simulated."""
        ...


@attrs.frozen
class OddResult:
    """Stands for a result that the engine must not accept: too large, or of the wrong type."""

    kind: str
    value: Any


class _OfNoType:
    """What no annotation allows, and no codec can encode."""

    def __repr__(self) -> str:
        return "<of no type>"  # an address would differ from process to process


_OF_NO_TYPE = _OfNoType()


@attrs.frozen
class _NoRoom:
    """A codec under which any value is over the limit."""

    inner: TypeCodec[Any]

    def encode(self, value: Any, *, where: str, limit: int) -> Json:
        return self.inner.encode(value, where=where, limit=0)


#: Of the attempt that a task runs: the epoch of its recorded start.
_epoch: ContextVar[int] = ContextVar("perdure_sim_epoch")
#: Whether it is the last of the several that its step has.
_is_last: ContextVar[bool] = ContextVar("perdure_sim_is_last")

_ODD_RESULTS = ("too_much", "wrong_type")


class _TrackedLoop(OutsideLoop):
    """A loop whose attempts are tasks of its own, and so end with it."""

    __slots__ = ()

    def get_task_factory(self) -> Any:
        """`create_task`: whoever asks makes its tasks there."""
        return self.create_task


class ActionLoop:
    """The loop of one process's actions, and the bridge to it.

    It is the loop that handlers run on, with the world's time: so `asyncio.sleep`, `gather` and
    `timeout` work, and whoever reaches for a socket or a thread is told so.
    """

    def __init__(self, host: Host) -> None:
        self.loop = _TrackedLoop(f"actions of {host.name}", START_MS)
        self.host = host
        self._timer_at: int | None = None
        guard.install()

    def hold(self) -> None:
        """Nothing to hold: each call is an event of its own."""

    def release(self) -> None:
        """See `hold`."""

    def call(self, fn: Callable[..., Any], *args: Any) -> None:
        """Run ``fn(*args)`` on the loop, in an event of its own."""
        self.host.soon(lambda: self._run(lambda: fn(*args)))

    def close(self) -> None:
        """The process is gone, and its tasks with it."""
        self.loop.close()

    def _run(self, fn: Callable[[], Any]) -> None:
        loop = self.loop
        loop.enter()
        try:
            with refusing():
                loop.set_now(self.host.now)
                fn()
                loop.drain()
        finally:
            loop.leave()
        self._set_timer()

    def _set_timer(self) -> None:
        at = self.loop.next_timer_ms()
        if at is not None and (self._timer_at is None or at < self._timer_at):
            self._timer_at = at
            if self.host.detail:
                self.host.note("timer set", at)
            self.host.at(max(at, self.host.now), lambda: self._fire(at))

    def _fire(self, at: int) -> None:
        if self._timer_at == at:
            self._timer_at = None
            if self.host.detail:
                self.host.note("timer")
        self._run(lambda: self.loop.fire_timers(self.host.now))


class SimulatedRunner(ActionRunner):
    """The production runner on an `ActionLoop`; every action runs there, plain `def` ones too."""

    def __init__(
        self, env: Env, mailbox: Mailbox, loop: ActionLoop, verbs: Any, registry: Registry
    ) -> None:
        rules = attrs.evolve(env.rules, registry=registry)
        dressed = attrs.evolve(env, rules=rules)
        super().__init__(dressed, mailbox, loop, verbs)  # type: ignore[arg-type]
        self._host = loop.host

    def _prepare(
        self, attempt: Attempt, definition: Action[..., Any]
    ) -> tuple[list[Any], dict[str, Any], ActionContext]:
        record = attempt.record
        assert isinstance(record.command, RunStep)
        _epoch.set(record.started_epoch or 0)
        _is_last.set(1 < record.command.retry.max_attempts <= record.attempt)
        return super()._prepare(attempt, definition)

    def _encode(self, definition: Action[..., Any], value: Any) -> Outcome:
        look()  # the result's own classes may have code
        try:
            return self._encode_odd(definition, value)
        finally:
            look_away()

    def _encode_odd(self, definition: Action[..., Any], value: Any) -> Outcome:
        if not isinstance(value, OddResult):
            return super()._encode(definition, value)
        if value.kind == "wrong_type":
            return super()._encode(definition, _OF_NO_TYPE)
        narrow: Any = _NoRoom(definition.result)
        return super()._encode(attrs.evolve(definition, result=narrow), value.value)

    def _report(self, attempt: Attempt, outcome: Outcome, *, is_retryable: bool = True) -> None:
        tell = super()._report

        def report() -> None:
            host.ended(attempt, outcome, is_retryable=is_retryable)
            tell(attempt, outcome, is_retryable=is_retryable)

        host, command = self._host, attempt.record.command
        assert isinstance(command, RunStep)
        fault = host.attempt_passes(command.function, "report")
        match fault and fault.kind:
            case None:
                report()
            case "crash":  # what it did is done, and nobody knows
                host.soon(host.crash)
            case "twice":
                report()
                report()
            case "late":
                assert fault is not None
                host.at(host.now + fault.duration, report)
            case _:
                raise AssertionError(f"no such thing befalls a report: {fault}")


class NotingRunner(SimulatedRunner):
    """A runner that tells how each attempt ended."""

    def _report(self, attempt: Attempt, outcome: Outcome, *, is_retryable: bool = True) -> None:
        if self._host.is_alive:  # what is torn down with its process ends as nobody sees
            self._host.note("attempt end", (attempt, outcome))
        super()._report(attempt, outcome, is_retryable=is_retryable)


class DressedRegistry(Registry):
    """A registry whose actions are stubs, or go wrong as planned."""

    def __init__(self, inner: Registry, host: Host, stubs: dict[str, Stub]) -> None:
        super().__init__()
        self._inner = inner
        self._host = host
        self._stubs = stubs
        self._dressed: dict[str, Definition[..., Any]] = {}

    def get(self, name: str) -> Definition[..., Any] | None:
        """The definition of that name; an action in its simulated dress."""
        found = self._dressed.get(name)
        if found is None:
            definition = self._inner.get(name)
            if not isinstance(definition, Action):
                return definition
            found = self._dressed[name] = self._dress(definition)
        return found

    def _dress(self, action: Action[..., Any]) -> Action[..., Any]:
        host, name = self._host, action.name

        async def run(context: ActionContext, *args: Any, **kwargs: Any) -> Any:
            made = CallMade(
                action=name,
                workflow_id=context.workflow_id,
                step_number=context.step_number,
                attempt=context.attempt,
                idempotency_key=context.idempotency_key,
                process=host.name,
                at=host.now,
                arguments=(*args, *kwargs.values()),
                epoch=_epoch.get(),
                keywords=tuple(kwargs),
            )
            host.made(made)
            attempted = Attempted(context.workflow_id, _is_last.get())
            fault = host.attempt_passes(name, "attempt", attempted)
            stub = self._stubs.get(name) or Stub()  # as it is now: a test may change it
            takes_ms = stub.takes_ms if isinstance(stub.takes_ms, int) else stub.takes_ms()
            if takes_ms:
                await asyncio.sleep(takes_ms / 1000)
            if fault is not None:
                await _befall(fault, host)
            fn = stub.fn or action.fn
            call = fn if action.is_async else _without_loop(fn)
            in_action.set((name, host.reached_outside))
            look()
            try:
                value = call(context, *args, **kwargs)
                if inspect.isawaitable(value):
                    value = await value
            finally:
                look_away()
            if fault is not None and fault.kind in _ODD_RESULTS:
                return OddResult(fault.kind, value)
            return value

        return attrs.evolve(action, fn=run, is_async=True)


async def _befall(fault: Fault, host: Host) -> None:
    """What goes wrong with an attempt."""
    match fault.kind:
        case "raises":
            raise SimulatedFailure(str(fault))
        case "raises_for_good":
            raise NonRetryableError(f"simulated: {fault}")
        case "slow":
            await asyncio.sleep(fault.duration / 1000)
        case "deaf":  # it takes its time, whoever cancels it
            until = host.now + fault.duration
            while host.now < until:
                try:
                    await asyncio.sleep((until - host.now) / 1000)
                except asyncio.CancelledError:
                    continue
        case "crash":  # in the middle of its code
            host.soon(host.crash)
            await asyncio.Event().wait()
        case "too_much" | "wrong_type":
            pass  # when it has ended
        case _:
            raise AssertionError(f"no such thing befalls an attempt: {fault}")


def _without_loop(fn: StubFunction) -> StubFunction:
    """A plain `def` action runs in a thread of its own in production, where no loop runs."""

    def call(*args: Any, **kwargs: Any) -> Any:
        loop = asyncio._get_running_loop()
        asyncio._set_running_loop(None)
        try:
            return fn(*args, **kwargs)
        finally:
            asyncio._set_running_loop(loop)

    return call


class SimulatedVerbs:
    """What actions may do with the manager: its calls, carried out by the process's own engine."""

    def __init__(self, ask: Callable[[Any], Any], orders: Any) -> None:
        self._ask = ask
        self._orders = orders

    async def start(self, call: Call[Any], **options: Any) -> str:
        """See `WorkflowManager.start`."""
        workflow_id: str = await self._ask(self._orders.start(call, **options))
        return workflow_id

    async def cancel(self, workflow_id: str) -> None:
        """See `WorkflowManager.cancel`."""
        await self._ask(self._orders.cancel(workflow_id))

    async def restart(self, workflow_id: str, **options: Any) -> None:
        """See `WorkflowManager.restart`."""
        await self._ask(self._orders.restart(workflow_id, **options))

    async def cleanup(self, workflow_id: str, **options: Any) -> bool:
        """See `WorkflowManager.cleanup`."""
        is_deleted: bool = await self._ask(self._orders.cleanup(workflow_id, **options))
        return is_deleted

    async def send_event(self, event: Any = None, **options: Any) -> str:
        """See `WorkflowManager.send_event`."""
        event_id: str = await self._ask(self._orders.event(event, **options))
        return event_id

    async def create_event(self, event: Any, *, workflow_id: str) -> str:
        """See `WorkflowManager.create_event`."""
        event_id: str = await self._ask(self._orders.created(event, workflow_id=workflow_id))
        return event_id

    async def status(self, workflow_id: str) -> Status:
        """See `WorkflowManager.status`."""
        status: Status = await self._ask(self._orders.status(workflow_id))
        return status

    async def result(self, workflow_id: str, *, timeout: Any = None) -> Any:
        """Refused: who waits here holds up a world in which others may have to do it first."""
        refuse(f"ctx.result({workflow_id!r})")

    @property
    def sync(self) -> Any:
        """Refused: nothing may block the one thread of a world."""
        refuse("ctx.sync")

    async def run_query(self, call: Call[Any]) -> Any:
        """See `WorkflowManager.run_query`."""
        return await self._run(call, Query)

    async def run_mutation(self, call: Call[Any]) -> Any:
        """See `WorkflowManager.run_mutation`."""
        return await self._run(call, Mutation)

    async def _run(self, call: Call[Any], kind: Any) -> Any:
        text = await self._ask(self._orders.function(call, kind))
        definition = call.definition
        return definition.result.decode(text, where=f"result of {definition.name}")
