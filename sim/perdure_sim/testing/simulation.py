"""`Simulation`: what a test holds in its hand while its workflows run in a simulated world."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Generic, Literal, TypeVar, overload

import attrs

from perdure.core.journal import TickRecord
from perdure.core.outcomes import Failed, Succeeded
from perdure.definitions import Action, Call, Definer, Definition, Mutation, WorkflowCall
from perdure.errors import (
    ErrorInfo,
    WorkflowCanceled,
    WorkflowFailed,
    WorkflowNotFound,
)
from perdure.events import Event
from perdure.journals import WorkflowJournal
from perdure.records import InProgress, Page, Status, StepInfo
from perdure.runtime.contexts import MutationContext
from perdure.runtime.orders import check_page
from perdure.runtime.views import status_of, step_info
from perdure.step import from_ms
from perdure.store.base import Loaded

from ..faults.plan import CLIENT, Fault
from ..laws.known import Known
from ..world.actions import Stub
from ..world.deeds import Deed
from ..world.process import Orders, Process
from ..world.world import World
from .answers import Answer
from .calls import ActionCall, Calls
from .conditions import Condition, Conditions
from .durations import Duration, to_ms, to_range
from .ending import check_on_complete, check_settled
from .manager_settings import drain_seconds_of, rules_of
from .stubs import check_values, stub_function

R = TypeVar("R")
T = TypeVar("T")

#: So long after each other do the workers get the code of a deploy, in ms.
DEPLOY_STEP_MS = 1_000


class NotEnded(AssertionError):
    """A workflow's value was asked for, and it has not ended."""


class Run(Generic[R]):
    """A workflow that a test has started; it can be looked at at any time.

    Attributes:
        id: of the workflow.
    """

    def __init__(self, simulation: Simulation, call: Call[R], id: str, answer: Answer[str]) -> None:
        self.id = id
        self.answer = answer
        self._simulation = simulation
        self._call = call

    def __repr__(self) -> str:
        return f"<Run {self.id}: {self.status.kind}>"

    @property
    def status(self) -> Status:
        """How it stands; in progress as well while its start is not stored yet."""
        known = self._simulation._known(self.id)
        return InProgress() if known is None else _status(known)

    @property
    def value(self) -> R:
        """What it returned.

        Raises:
            WorkflowFailed, WorkflowCanceled: it did not succeed.
            NotEnded: it is in progress.
        """
        known = self._simulation._known(self.id)
        outcome = None if known is None else known.state.outcome
        name = self._call.definition.name
        if isinstance(outcome, Succeeded):
            where = f"result of {name}"
            value: R = self._call.definition.result.decode(outcome.value, where=where)
            return value
        if isinstance(outcome, Failed):
            error = outcome.error
            text = f"workflow {name} ({self.id}) failed: {error.type}: {error.message}"
            raise WorkflowFailed(text, workflow_id=self.id, error=error)
        if outcome is not None:
            text = f"workflow {name} ({self.id}) was canceled"
            raise WorkflowCanceled(text, workflow_id=self.id)
        raise NotEnded(f"workflow {name} ({self.id}) has not ended; call sim.settle() before")

    @property
    def error(self) -> ErrorInfo | None:
        """Why it failed; None if it did not."""
        known = self._simulation._known(self.id)
        outcome = None if known is None else known.state.outcome
        return outcome.error if isinstance(outcome, Failed) else None

    @property
    def on_complete_error(self) -> ErrorInfo | None:
        """What its `on_complete` raised. If nobody looks at it, it fails the test in the end."""
        self._simulation._looked_at.add(self.id)
        known = self._simulation._known(self.id)
        return None if known is None else known.state.on_complete_error

    @property
    def steps(self) -> list[StepInfo]:
        """Its steps, in the order in which they were asked for."""
        return self._simulation._steps(self.id)

    @property
    def journal(self) -> WorkflowJournal:
        """All that is recorded of it, as `WorkflowManager.journal` gives it.

        Raises:
            WorkflowNotFound: its start is not stored yet.
        """
        known = self._simulation._stored(self.id)
        steps = tuple(known.steps[number] for number in sorted(known.steps))
        ticks = tuple(TickRecord(*each) for each in sorted(known.ticks.items()))
        return WorkflowJournal(Loaded(state=known.state, steps=steps, ticks=ticks))


class Simulation:
    """The world of one run of a test: its clients, its clock, its stubs and its database.

    Made by `simulate` and `run_simulation`; a test gets it as its first argument.
    """

    def __init__(self, manager: Definer, world: World) -> None:
        self._manager = manager
        self._world = world
        self._answers: list[Answer[Any]] = []
        self._starts: dict[str, Deed] = {}
        self._chain: dict[str, Deed] = {}
        self._created: dict[str, str] = {}
        self._counts: dict[str, int] = {}
        self._calls = Calls(world)
        self._conditions = Conditions()
        self._deployed: list[Any] = []
        self._waiting: set[str] = set()
        self._looked_at: set[str] = set()
        self._settled_at: tuple[int, int] | None = None
        self.ranges: dict[tuple[str, str], list[tuple[int, int]]] = {}

    # --- what clients do ----------------------------------------------------------------------

    def start(
        self,
        call: WorkflowCall[R],
        *,
        id: str | None = None,
        on_complete: Mutation[..., Any] | None = None,
        context: Any = None,
        run_after: timedelta | float | None = None,
        run_at: datetime | None = None,
    ) -> Run[R]:
        """Start a workflow, as `WorkflowManager.start` does; not awaited.

        Without an `id` it gets one that can be read: the workflow's name and a number.

        Raises:
            ValidationError, LimitExceeded, TypeError, ValueError: as on the manager.
        """
        current = self._current(call)
        order = self._world.client.orders.start(
            current,
            id=self._new_id(call) if id is None and isinstance(call, Call) else id,
            on_complete=on_complete,
            context=context,
            run_after=run_after,
            run_at=run_at,
        )
        deed = self._deed(f"start {order.workflow_id}", order, None)
        self._starts.setdefault(order.workflow_id, deed)
        return Run(self, call, order.workflow_id, self._answer(deed))

    @overload
    def send_event(
        self, event: Event[None], *, workflow_id: str | None = None, id: str | None = None
    ) -> Answer[str]: ...
    @overload
    def send_event(
        self,
        event: Event[T],
        *,
        workflow_id: str | None = None,
        id: str | None = None,
        value: T,
    ) -> Answer[str]: ...
    @overload
    def send_event(
        self,
        event: Event[Any],
        *,
        workflow_id: str | None = None,
        id: str | None = None,
        error: str,
    ) -> Answer[str]: ...
    @overload
    def send_event(
        self,
        event: str | None = None,
        *,
        workflow_id: str | None = None,
        id: str | None = None,
        value: Any = None,
        error: str | None = None,
    ) -> Answer[str]: ...
    def send_event(
        self,
        event: Event[Any] | str | None = None,
        *,
        workflow_id: str | None = None,
        id: str | None = None,
        value: Any = None,
        error: str | None = None,
    ) -> Answer[str]:
        """Send an event, as `WorkflowManager.send_event` does; not awaited.

        What one piece of a test (its body, or one function of `after`) does to a workflow, it does
        in order: the event is sent when the start, or the event before it, was answered.
        """
        order = self._world.client.orders.event(
            event, workflow_id=workflow_id, id=id, value=value, error=error
        )
        name = order.name or order.event_id
        to = workflow_id or self._created.get(id or "")
        return self._ask(f"event {name} to {to or order.event_id}", order, to)

    def create_event(self, event: Event[Any] | str, *, workflow_id: str) -> str:
        """Create an event before it is sent, as `WorkflowManager.create_event` does; not awaited.

        Returns:
            The event's id, by which it can be awaited and sent.
        """
        order = self._world.client.orders.created(event, workflow_id=workflow_id)
        self._ask(f"event {order.name} for {workflow_id}", order, workflow_id)
        self._created[order.event_id] = workflow_id
        event_id: str = order.event_id
        return event_id

    def cancel(self, workflow_id: str) -> Answer[None]:
        """Cancel a workflow, as `WorkflowManager.cancel` does; not awaited."""
        order = self._world.client.orders.cancel(workflow_id)
        return self._ask(f"cancel {workflow_id}", order, workflow_id)

    def restart(
        self, workflow_id: str, *, from_step: int | str | Definition[..., Any] | None = None
    ) -> Answer[None]:
        """Have a workflow that has ended run again, as `WorkflowManager.restart` does; not
        awaited."""
        order = self._world.client.orders.restart(workflow_id, from_step=from_step)
        return self._ask(f"restart {workflow_id}", order, workflow_id)

    def cleanup(self, workflow_id: str, *, force: bool = False) -> Answer[bool]:
        """Delete a workflow, as `WorkflowManager.cleanup` does; not awaited. The answer's value
        says whether it did."""
        order = self._world.client.orders.cleanup(workflow_id, force=force)
        return self._ask(f"clean up {workflow_id}", order, workflow_id)

    def transact(
        self, body: Callable[[MutationContext], R], *, name: str | None = None
    ) -> Answer[R]:
        """Have a client open a transaction of its own, call `body` in it, and commit; not awaited.

        `body` gets what `WorkflowManager.over` gives for the client's connection: its verbs, and
        the connection as `db`, for the application's tables. Like all clients here it tries again
        until it is told that it has committed, so `body` may run, and commit, more than once: give
        ids to what it starts. What it raises undoes all, and is the answer.

        Args:
            body: must not commit or roll back itself.
            name: for the report.
        """
        deed = self._world.transact(name or f"transaction of {body.__name__}", body)
        return self._answer(deed)

    def status(self, workflow_id: str) -> Status:
        """How a workflow stands now, as it is stored.

        Raises:
            WorkflowNotFound
        """
        return _status(self._stored(workflow_id))

    def list_steps(
        self,
        workflow_id: str,
        *,
        order: Literal["asc", "desc"] = "asc",
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[StepInfo]:
        """The steps of a workflow as they are stored now, a page at a time, as
        `WorkflowManager.list_steps` does; an unknown id has none."""
        is_ascending, after = check_page(order, limit, cursor)
        steps = self._steps(workflow_id)[:: 1 if is_ascending else -1]
        if after is not None:
            is_left = operator.gt if is_ascending else operator.lt
            steps = [each for each in steps if is_left(each.number, after)]
        items, is_done = steps[:limit], len(steps) <= limit
        return Page(items=items, cursor=None if is_done else str(items[-1].number), is_done=is_done)

    def after(self, delay: Duration, fn: Callable[[], object]) -> None:
        """Have a client do something later, in virtual time.

        Args:
            delay: seconds, a timedelta or a text such as ``"30s"``. A range (``"0s..2m"``) is a
                choice of the plan: its low end, unless the plan says ``client/after#1=37s``.
            fn: called then; what it raises fails the test.
        """
        ms = self._choose(CLIENT, "after", *to_range(delay, "delay"))

        def call() -> None:
            outer, self._chain = self._chain, {}
            try:
                fn()
            finally:
                self._chain = outer

        self._world.at(self._world.now + ms, "client", call)

    # --- time ---------------------------------------------------------------------------------

    @property
    def now(self) -> datetime:
        """The virtual time, in UTC."""
        return from_ms(self._world.now)

    def advance(self, duration: Duration) -> None:
        """Let this much virtual time pass, and all happen that happens in it."""
        self._world.run(until=self._world.now + to_ms(duration, "duration"))

    def settle(self) -> None:
        """Let all happen that happens by itself; then stop all faults, and let the rest happen.

        Called at the end of a test that has not done so. What a test asserts after it is about
        the end: every workflow has ended, and every client has its answer.

        Raises:
            Stuck: a workflow does not end, and nothing can move any more.
        """
        self._world.settle()
        self._settled_at = (self._world.events, len(self._world.deeds))
        check_settled(self._world, self._waiting)
        for answer in self._answers:
            answer._check()

    def may_wait(self, *workflows: Run[Any] | str) -> None:
        """Say that these workflows need not end: they may wait for an event that does not come."""
        self._waiting |= {each.id if isinstance(each, Run) else each for each in workflows}

    # --- what happens to processes ------------------------------------------------------------

    def crash(self, worker: int | str = 0) -> None:
        """Have a worker's process die at once; it is started again half a second later.

        Args:
            worker: its number, from 0, or its name (``"w0"``); ``"client"`` for the client's.
        """
        self._process(worker).crash()

    def evict(self) -> None:
        """Have all workers drop their live handlers: they are replayed when they are needed."""
        for process in self._world.workers:
            for workflow_id in self._world.history.workflows:
                if process.is_alive:
                    process.evict(workflow_id)

    def deploy(self, manager: Definer) -> None:
        """Have new code take the place of the old one: one worker now, the others after it.

        Args:
            manager: another one, with the new definitions.
        """
        rules, drain_seconds = rules_of(manager), drain_seconds_of(manager)
        self._deployed.append(rules)
        self._manager = manager
        world = self._world

        def renew(process: Process) -> None:
            process.rules, process.drain_seconds = rules, drain_seconds
            if process.works:
                process.drain()
            else:  # it is started again in a moment; what it is asked until then is asked of it
                process.crash()
                process.orders = Orders(attrs.evolve(process.orders.env, rules=rules))

        for number, process in enumerate([world.client, *world.workers]):
            later = max(0, number - 1) * DEPLOY_STEP_MS
            if later:
                world.at(world.now + later, process.name, partial(renew, process))
            else:
                renew(process)

    # --- actions ------------------------------------------------------------------------------

    def stub(
        self,
        action: Action[..., Any] | str,
        *,
        returns: Any = ...,
        raises: Any = None,
        call: Callable[..., Any] | None = None,
        takes: Duration = 0,
    ) -> None:
        """Have something stand for an action's code, from its next attempt on.

        Args:
            action: the definition, or its name.
            returns: what it returns; of a list one item after the other, the last one for ever. An
                exception among them is raised.
            raises: an exception that it raises, or a list of them, taken in turn.
            call: a function that gets what the action gets; it may be `async`.
            takes: how long each attempt takes before that, in virtual time; of a range
                (``"0s..30s"``) the low end, unless the plan says ``charge/takes#2=12s``. Without
                the other options the action's own code runs after it.

        Raises:
            TypeError, ValueError: the options do not fit together.
            ValidationError: what `returns` says is nothing that the action may return.
        """
        name = self._action_name(action)
        low, high = to_range(takes, "takes")
        fn = stub_function(returns, raises, call)
        self._check_values(name, returns)
        self._world.stubs[name] = Stub(
            fn=fn,
            takes_ms=low if low == high else lambda: self._choose(name, "takes", low, high),
        )

    def calls(self, action: Action[..., Any] | str) -> list[ActionCall]:
        """Every attempt of an action in this run, in the order in which they began."""
        return self._calls.of(self._action_name(action), self._manager)

    # --- looking ------------------------------------------------------------------------------

    @property
    def db(self) -> Any:
        """The application's database as a reader finds it now; it cannot be written to. A
        connection of the store's own kind: `sqlite3`'s, or psycopg's."""
        return self._world.db

    def always(self, name: str, condition: Condition) -> None:
        """Have a condition checked after every event from now on; it must hold each time."""
        self._conditions.always(name, condition)
        self._look_from_now_on()

    def eventually(
        self, name: str, condition: Condition, *, within: Duration | None = None
    ) -> None:
        """Have a condition checked until it holds once.

        Args:
            within: so long from now, in virtual time, or by the end of the run.
        """
        until, ms = None, 0
        if within is not None:
            ms = to_ms(within, "within")
            until = self._world.now + ms
            self._world.at(until + 1, "client", lambda: None)  # so that somebody looks then
        self._conditions.eventually(name, condition, until, ms)
        self._look_from_now_on()

    def sometimes(self, name: str, condition: Condition) -> None:
        """Have a condition checked after every event: it must hold once in some run of the test."""
        self._conditions.sometimes(name, condition)
        self._look_from_now_on()

    # --- inside -------------------------------------------------------------------------------

    def _finish(self) -> None:
        """The test's function is over."""
        world = self._world
        if self._settled_at != (world.events, len(world.deeds)) or not world.is_at_rest:
            self.settle()
        self._conditions.finish(world.now)
        if not self._deployed:  # new code may have another one
            check_on_complete(world, self._looked_at)

    def _look_from_now_on(self) -> None:
        self._world.observer = lambda: self._conditions.look(self._world.now)
        self._conditions.look(self._world.now)

    def _choose(self, actor: str, site: str, low: int, high: int) -> int:
        """A length of time within a range: what the plan says, or the least."""
        if low == high:
            return low
        self.ranges.setdefault((actor, site), []).append((low, high))
        fault: Fault | None = self._world.faults.at(actor, site)
        return low if fault is None else min(max(fault.duration, low), high)

    def _current(self, call: Call[R]) -> Call[R]:
        """The call as the code of the last deploy has it: clients were renewed as well."""
        if not self._deployed or not isinstance(call, Call):
            return call
        definition = self._manager.registry.get(call.definition.name)
        return call if definition is None else attrs.evolve(call, definition=definition)

    def _new_id(self, call: Call[Any]) -> str:
        plain = call.definition.name
        name = "".join(c if c not in ";#=/" and not c.isspace() else "_" for c in plain)
        self._counts[name] = number = self._counts.get(name, 0) + 1
        return f"{name}-{number}"

    def _deed(self, name: str, order: Any, after: Deed | None) -> Deed:
        """Ask for something, when what comes before it is done."""
        world = self._world
        deed = Deed(name, lambda process: order)

        def ask() -> None:
            world.deeds.append(deed)
            world._try(deed)

        if after is None or after.is_done:
            ask()
        else:
            after.follow_ups.append(ask)
        return deed

    def _ask(self, name: str, order: Any, workflow_id: str | None) -> Answer[Any]:
        before = None
        if workflow_id is not None:
            before = self._chain.get(workflow_id) or self._starts.get(workflow_id)
        deed = self._deed(name, order, before)
        if workflow_id is not None:
            self._chain[workflow_id] = deed
        return self._answer(deed, was_there=workflow_id in self._starts)

    def _answer(self, deed: Deed, *, was_there: bool = False) -> Answer[Any]:
        answer: Answer[Any] = Answer(deed, was_there=was_there)
        self._answers.append(answer)
        return answer

    def _known(self, workflow_id: str) -> Known | None:
        return self._world.history.workflows.get(workflow_id)

    def _stored(self, workflow_id: str) -> Known:
        known = self._known(workflow_id)
        if known is None:
            there = ", ".join(self._world.history.workflows) or "none"
            raise WorkflowNotFound(f"no workflow {workflow_id!r}; stored now: {there}")
        return known

    def _steps(self, workflow_id: str) -> list[StepInfo]:
        known = self._known(workflow_id)
        if known is None:
            return []
        return [step_info(workflow_id, known.steps[number]) for number in sorted(known.steps)]

    def _process(self, worker: int | str) -> Process:
        world = self._world
        if worker in ("client", world.client.name):
            return world.client
        for number, process in enumerate(world.workers):
            if worker in (number, process.name):
                return process
        names = ", ".join(process.name for process in world.workers)
        raise ValueError(f"worker={worker!r}: there are {names}, and 'client'")

    def _check_values(self, name: str, returns: Any) -> None:
        """Else the action would fail in each run, and the test be green for want of anything."""
        action = self._manager.registry.get(name)
        if returns is ... or not isinstance(action, Action):
            return
        check_values(action, returns, self._world.rules.limits.value_bytes)

    def _action_name(self, action: object) -> str:
        if isinstance(action, Action):
            return action.name
        registry = self._manager.registry
        if isinstance(action, str) and isinstance(registry.get(action), Action):
            return action
        there = ", ".join(each.name for each in registry if isinstance(each, Action)) or "none"
        raise TypeError(f"{action!r} is no action; the manager has: {there}")


def _status(known: Known) -> Status:
    state = known.state
    running: Iterable[StepInfo] = ()
    if state.outcome is None:
        open_steps = (record for record in known.steps.values() if record.outcome is None)
        running = (step_info(known.workflow_id, record) for record in open_steps)
    return status_of(state, tuple(running))
