"""`WorkflowMachine`: a state machine of Hypothesis whose rules are what happens to workflows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from hypothesis.strategies import DataObject, SearchStrategy

from perdure.definitions import Definer, WorkflowCall

from ..explore.explorer import _waits_for_events
from ..faults.plan import FaultPlan
from .disks import Setup, store_of
from .ending import check_end
from .fault_sets import ALL
from .repeating import check_repeatable
from .running import Stage
from .simulation import Run, Simulation

#: How far `advance` goes, in seconds.
ADVANCE_MAX = 7_200


class WorkflowMachine(RuleBasedStateMachine):
    """Name a manager and what is started and sent; add rules and invariants of your own.

    The rules that are there start, cancel and restart workflows, send events, let time pass, crash
    workers and deploy. At the end all workflows must have ended, or wait for events, and all laws
    of the simulator must hold. Run it with ``TestX = X.TestCase``.

    Attributes:
        manager: whose workflows are run.
        setup: makes the application's tables; see `simulate`.
        workers, store: see `simulate`.
        calls: a strategy of calls of workflows, to be started.
        events: a strategy of pairs of an event and its value, to be sent; None for no events.
        next_manager: another manager with the code of a deploy; None for no deploys.
        cancels: whether workflows are canceled.
        restarts: whether those that have ended are run again.
        sim: the simulation.
        runs: the workflows that were started.
    """

    manager: ClassVar[Definer]
    calls: ClassVar[SearchStrategy[WorkflowCall[Any]]]
    setup: ClassVar[Setup | None] = None
    workers: ClassVar[int] = 2
    store: ClassVar[str | None] = None
    events: ClassVar[SearchStrategy[tuple[Any, Any]] | None] = None
    next_manager: ClassVar[Definer | None] = None
    cancels: ClassVar[bool] = True
    restarts: ClassVar[bool] = True

    sim: Simulation
    runs: list[Run[Any]]

    def __init__(self) -> None:
        for name in ("manager", "calls"):
            if not hasattr(type(self), name):
                raise TypeError(f"{type(self).__name__}: say which {name}: see WorkflowMachine")
        super().__init__()
        cls = type(self)
        setup: Callable[..., Any] | None = cls.__dict__.get("setup") or cls.setup
        self._stage = Stage(
            manager=cls.manager,
            setup=getattr(setup, "__func__", setup),
            workers=cls.workers,
            faults=ALL,
            store=store_of(cls.manager, cls.store),
        )
        try:
            self.sim = self._stage.make(FaultPlan())
            self.runs = []
            self.prepare()
        except BaseException:  # Hypothesis has no machine yet that it could tear down
            self._close()
            raise

    def prepare(self) -> None:
        """Called before the first rule: the place for stubs."""

    @rule(data=st.data())
    def start(self, data: DataObject) -> None:
        """Start a workflow."""
        self.runs.append(self.sim.start(data.draw(self.calls)))

    @precondition(lambda self: self.runs and self.events is not None)
    @rule(data=st.data())
    def send(self, data: DataObject) -> None:
        """Send an event to one that was started."""
        run = data.draw(st.sampled_from(self.runs))
        assert self.events is not None
        event, value = data.draw(self.events)
        self.sim.send_event(event, workflow_id=run.id, value=value)

    @rule(seconds=st.integers(0, ADVANCE_MAX))
    def advance(self, seconds: int) -> None:
        """Let time pass."""
        self.sim.advance(seconds)

    @precondition(lambda self: self.runs and self.cancels)
    @rule(data=st.data())
    def cancel(self, data: DataObject) -> None:
        """Cancel one that was started."""
        self.sim.cancel(data.draw(st.sampled_from(self.runs)).id)

    @precondition(lambda self: self.runs and self.restarts)
    @rule(data=st.data())
    def restart(self, data: DataObject) -> None:
        """Have one that has ended run again, from its beginning or from where it ended."""
        run = data.draw(st.sampled_from(self.runs))
        self.sim.restart(run.id, from_step=0 if run.steps and data.draw(st.booleans()) else None)

    @rule(data=st.data())
    def crash(self, data: DataObject) -> None:
        """Have a worker die."""
        self.sim.crash(data.draw(st.integers(0, self.workers - 1)))

    @precondition(lambda self: self.next_manager is not None)
    @rule()
    def deploy(self) -> None:
        """Have the next manager's code take the place of this one's."""
        assert self.next_manager is not None
        self.sim.deploy(self.next_manager)

    def teardown(self) -> None:
        """Let all come to its end, and check it."""
        sim, world = self.sim, self.sim._world
        try:
            world.settle()
            workflows = world.history.workflows.items()
            sim.may_wait(*(each for each, known in workflows if _waits_for_events(known.state)))
            sim.settle()
            self.check_end()
            check_end(world, sim._deployed, self._stage.seen)
            if not sim._deployed:
                check_repeatable(type(self).manager, world, self._stage.seen)
        finally:
            self._close()

    def _close(self) -> None:
        if hasattr(self, "sim"):
            self.sim._world.close()
        self._stage.close()

    def check_end(self) -> None:
        """Called when nothing moves any more: the place for what holds in the end."""
