"""What a test can do with its simulation, and what it sees."""

from __future__ import annotations

import inspect
import sqlite3
from datetime import timedelta
from typing import Any

import pytest
from tests.sim.testing import bank
from tests.sim.testing.bank import Receipt, approval, charge_card, run

from perdure import (
    ActionContext,
    Canceled,
    MutationContext,
    Outcome,
    Step,
    Succeeded,
    ValidationError,
    WorkflowCanceled,
    WorkflowIdConflict,
    WorkflowManager,
    WorkflowNotFound,
)
from perdure_sim import (
    AlwaysBroken,
    EventuallyBroken,
    NotEnded,
    Simulation,
    run_simulation,
)
from perdure_sim.testing.ending import OnCompleteFailed
from perdure_sim.testing.running import CodeDoesNotFit


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest) -> str:
    assert isinstance(request.param, str)
    return request.param


def test_a_workflow_from_start_to_end(store: str) -> None:
    """Run, calls and database before and after."""

    def scenario(sim: Simulation) -> None:
        sim.stub(charge_card, returns=Receipt("r1"), takes="5s")
        begin = sim.now
        run = sim.start(bank.transfer(7))
        assert run.id == "transfer-1"
        before = run.status
        assert before.kind == "in_progress"
        assert (run.steps, run.error) == ([], None)
        with pytest.raises(WorkflowNotFound):
            _ = run.journal
        with pytest.raises(NotEnded, match="transfer-1"):
            _ = run.value
        sim.advance("1s")
        assert [each.status for each in run.steps] == ["in_progress"]
        assert sim.status(run.id) == run.status
        assert bank.rows(sim) == 0
        sim.send_event(approval, workflow_id=run.id, value=True)
        sim.settle()
        assert run.value == "done"
        assert run.status == Succeeded("done")
        assert [each.name for each in run.steps] == ["charge_card", "approval", "debit", "credit"]
        assert [each.number for each in sim.list_steps(run.id, order="desc")] == [3, 2, 1, 0]
        assert [each.name for each in run.journal.steps] == [each.name for each in run.steps]
        assert bank.rows(sim) == 2
        (call,) = sim.calls(charge_card)
        assert call.arguments == {"amount": 7}
        assert (call.attempt, call.workflow_id, call.step_number) == (1, run.id, 0)
        assert call.outcome == Succeeded({"id": "r1"})
        assert timedelta() <= call.at - begin < timedelta(seconds=1)

    trace = run(scenario, store=store)
    assert trace.duration > timedelta(seconds=5)
    assert "transfer-1" in trace.timeline


def test_a_client_has_a_transaction_of_its_own(store: str) -> None:
    """The verbs of `manager.over`, with rows of the application's: all is stored, or nothing."""

    def place(over: MutationContext) -> str:
        over.db.execute("insert into ledger values (3)")
        return over.start(bank.asking("x"), id="asked")

    def refuse(over: MutationContext) -> None:
        over.db.execute("insert into ledger values (4)")
        over.start(bank.asking("y"), id="never")
        raise LookupError("no")

    def scenario(sim: Simulation) -> None:
        placed, refused = sim.transact(place), sim.transact(refuse)
        sim.advance("1m")
        assert isinstance(refused.error, LookupError)
        sim.settle()
        assert (placed.value, sim.status("asked")) == ("asked", Succeeded("x 7"))
        assert bank.rows(sim) == 1
        with pytest.raises(WorkflowNotFound):
            sim.status("never")

    trace = run(scenario, store=store)
    assert "transaction of place" in trace.timeline

    def careless(sim: Simulation) -> None:
        sim.transact(refuse)

    with pytest.raises(LookupError):  # as an error that nobody looks at
        run(careless, store=store)


def test_the_database_is_only_read(store: str) -> None:
    """And keeps nobody out while it is read."""

    def scenario(sim: Simulation) -> None:
        db = sim.db
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            db.execute("insert into ledger values (1)")
        sim.stub(charge_card, returns=Receipt("r"))
        run = sim.start(bank.hasty(7))
        half_read = db.execute("select 1 union select 2")
        sim.send_event(approval, workflow_id=run.id, value=True)
        sim.settle()
        assert [row for (row,) in half_read] == [1, 2]
        cursor = db.cursor()
        assert cursor.execute("select amount from ledger order by 1").fetchmany(2) == [(-7,), (7,)]
        assert cursor.fetchone() is None

    run(scenario, store=store)


def test_a_range_takes_its_low_end_or_what_the_plan_says() -> None:
    """Of `after` and of `takes`; beyond the range the end that is nearer."""
    times: list[float] = []

    def scenario(sim: Simulation) -> None:
        begin = sim.now
        sim.after("10s..2m", lambda: times.append((sim.now - begin).total_seconds()))
        sim.after("1s", lambda: times.append((sim.now - begin).total_seconds()))

    run(scenario)
    run(scenario, "pd1:client/after#1=37s")
    run(scenario, "pd1:after#1=3h")
    assert times == [1, 10, 1, 37, 1, 120]

    def slow(sim: Simulation) -> None:
        sim.stub("look_up", takes="1s..30s")
        sim.start(bank.asking("x"))

    assert run(slow).duration < timedelta(seconds=10)
    assert run(slow, "pd1:look_up/takes#1=20s").duration > timedelta(seconds=20)


def test_what_one_client_does_to_a_workflow_is_done_in_order() -> None:
    """Also when its first event comes late; what others do is not held up by it."""

    def scenario(sim: Simulation) -> None:
        listening = sim.start(bank.listening())
        for word in (1, 2):
            sim.send_event("word", workflow_id=listening.id, value=word)
        sim.after("1s", lambda: sim.send_event("word", workflow_id=listening.id, value=3))
        sim.settle()
        heard.append(listening.value)

    heard: list[list[int]] = []
    run(scenario)
    run(scenario, "pd1:c0/request#2=late:3s")
    assert heard == [[1, 2, 3], [3, 1, 2]]


def test_an_event_that_is_created_before_it_is_sent() -> None:
    """Its id is known at once, and it is sent when it is there."""

    def scenario(sim: Simulation) -> None:
        listening = sim.start(bank.listening())
        event_id = sim.create_event("word", workflow_id=listening.id)
        sim.send_event(id=event_id, value=1)
        for word in (2, 3):
            sim.send_event("word", workflow_id=listening.id, value=word)
        sim.settle()
        assert listening.value == [1, 2, 3]

    run(scenario)
    run(scenario, "pd1:c0/request#2=late:3s")


def test_restart_and_cleanup() -> None:
    """A workflow runs again, and then there is none."""

    def scenario(sim: Simulation) -> None:
        sim.stub("look_up", raises=OSError("down"))
        asked = sim.start(bank.asking("x"))
        sim.settle()
        assert asked.error is not None
        sim.stub("look_up", returns="up")
        sim.restart(asked.id, from_step=0)
        sim.settle()
        assert asked.value == "up"
        gone = sim.cleanup(asked.id)
        sim.settle()
        assert gone.value is True
        with pytest.raises(WorkflowNotFound):
            sim.status(asked.id)
        sim.send_event("word", workflow_id=asked.id)  # too late, and that is all

    run(scenario)


def test_one_that_is_restarted_and_canceled_at_once() -> None:
    """Its code has not run again, so its journal leads to its first end: that is no failure."""

    def scenario(sim: Simulation) -> None:
        sim.stub("look_up", raises=OSError("down"))
        asked = sim.start(bank.asking("x"))
        sim.settle()
        sim.restart(asked.id)
        sim.cancel(asked.id)
        sim.settle()
        assert asked.status == Canceled()

    run(scenario)


def test_cancel_and_its_answer() -> None:
    """An answer comes in virtual time; that it was too late is no failure."""

    def scenario(sim: Simulation) -> None:
        napping = sim.start(bank.napping(60))
        sim.advance("10s")
        answer = sim.cancel(napping.id)
        assert not answer.is_done
        sim.settle()
        assert answer.is_done
        assert napping.status == Canceled()
        with pytest.raises(WorkflowCanceled):
            _ = napping.value
        sim.cancel(napping.id)

    run(scenario)


def test_an_error_that_nobody_looks_at_fails_the_test() -> None:
    """As it would be raised where the call is awaited."""

    def ignoring(sim: Simulation) -> None:
        sim.send_event("word", workflow_id="nobody", value=1)

    def looking(sim: Simulation) -> None:
        sim.start(bank.napping(1), id="a")
        second = sim.start(bank.napping(2), id="a")
        sim.advance("0.5s")
        assert isinstance(second.answer.error, WorkflowIdConflict)

    with pytest.raises(WorkflowNotFound):
        run(ignoring)
    run(looking)

    def wrong(sim: Simulation) -> None:
        with pytest.raises(ValidationError):
            sim.start(bank.napping("long"))  # type: ignore[arg-type]
        with pytest.raises(WorkflowNotFound, match="stored now: none"):
            sim.status("nobody")
        assert len(sim.list_steps("nobody")) == 0

    run(wrong)


def test_conditions() -> None:
    """Each is broken by an exception of its own."""

    def always(sim: Simulation) -> None:
        sim.always("awake", lambda: not sim.list_steps("n"))
        sim.start(bank.napping(5), id="n")

    def late(sim: Simulation) -> None:
        run = sim.start(bank.napping(50))
        sim.eventually("done", lambda: isinstance(run.status, Succeeded), within="30s")

    def never(sim: Simulation) -> None:
        sim.eventually("seen", lambda: False)

    def saying(sim: Simulation) -> None:
        def condition() -> bool:
            raise AssertionError("3 of 4")

        sim.always("all", condition)

    def fine(sim: Simulation) -> None:
        run = sim.start(bank.napping(50))
        sim.always("time", lambda: sim.now is not None)
        sim.eventually("done", lambda: isinstance(run.status, Succeeded), within="60s")

    found = []
    for scenario, kind, text in (
        (always, AlwaysBroken, "always 'awake': not so at"),
        (late, EventuallyBroken, "eventually 'done': not within 30s"),
        (never, EventuallyBroken, "eventually 'seen': not by the end of the run"),
        (saying, AlwaysBroken, "3 of 4"),
    ):
        with pytest.raises(kind, match=text) as raised:
            run(scenario)
        found.append(raised.type)
    assert len(set(found)) == 4
    run(fine)


def test_crashes_and_evictions_of_a_script() -> None:
    """The workflow ends all the same."""

    def scenario(sim: Simulation) -> None:
        sim.stub("look_up", takes="10s")
        found = sim.start(bank.asking("x"))
        sim.advance("2s")
        (call,) = sim.calls("look_up")
        sim.crash(call.worker)
        sim.crash("client")
        sim.advance("1s")
        sim.evict()
        sim.settle()
        assert found.value == "x 7"
        assert [each.attempt for each in sim.calls("look_up")] == [1, 2]
        assert sim.calls("look_up")[0].outcome is None
        with pytest.raises(ValueError, match="there are w0, w1"):
            sim.crash(9)

    run(scenario)


def test_a_deploy_that_fits_and_one_that_does_not() -> None:
    """The new code goes on where the old one was; what does not fit is a failure."""
    fitting, unfit = WorkflowManager("bank.db"), WorkflowManager("bank.db")

    @fitting.workflow(name="napping")
    async def napping_next(step: Step, seconds: int) -> int:
        await step.sleep(seconds)
        return seconds + 1

    @unfit.mutation
    def note(ctx: MutationContext) -> None: ...

    @unfit.workflow(name="napping")
    async def napping_unfit(step: Step, seconds: int) -> int:
        await step.run_mutation(note())
        return seconds

    def scenario(sim: Simulation, manager: WorkflowManager) -> None:
        napping = sim.start(bank.napping(60))
        sim.after("30s", lambda: sim.deploy(manager))
        sim.settle()
        assert napping.value == 61
        assert sim.start(napping_next(1)).id == "napping-2"

    run(lambda sim: scenario(sim, fitting))
    with pytest.raises(CodeDoesNotFit, match="DeterminismError"):
        run(lambda sim: scenario(sim, unfit))


def test_a_workflow_that_waits_must_be_said_to() -> None:
    """Else it is stuck, and the message says how to allow it."""

    def scenario(sim: Simulation, *, may_wait: bool) -> None:
        waiting = sim.start(bank.listening())
        if may_wait:
            sim.may_wait(waiting)

    with pytest.raises(AssertionError, match=r"(?s)wait for word.*sim.may_wait"):
        run(lambda sim: scenario(sim, may_wait=False))
    run(lambda sim: scenario(sim, may_wait=True))


def test_settings_of_the_manager_hold() -> None:
    """Its retries and its parallelism."""
    frugal = WorkflowManager("bank.db", max_parallelism=1)
    frugal.registry.add(bank.look_up)

    @frugal.action
    async def once(ctx: Any, n: int) -> int:
        raise OSError("no")

    @frugal.workflow
    async def trying(step: Step) -> int:
        return await step.run_action(once(1))

    @frugal.workflow
    async def asking_twice(step: Step) -> list[str]:
        both = [step.run_action(bank.look_up(name)) for name in "ab"]
        return [await each for each in both]

    def scenario(sim: Simulation) -> None:
        sim.stub("look_up", takes="10s")
        tried, asked = sim.start(trying()), sim.start(asking_twice())
        sim.settle()
        assert tried.error is not None
        assert len(sim.calls(once)) == 1  # retry_actions_by_default is off
        assert asked.value == ["a 3", "b 3"]

    assert run(scenario, manager=frugal).duration > timedelta(seconds=20)


@pytest.mark.parametrize(("drain_timeout", "is_lost"), [(1, True), (30, False), (100, False)])
def test_a_worker_that_is_stopped_waits_as_long_as_the_manager_says(
    drain_timeout: int, is_lost: bool
) -> None:
    """A deploy lets running attempts end; what takes longer than `drain_timeout` is lost."""
    manager = WorkflowManager("bank.db", drain_timeout=drain_timeout)

    @manager.action
    async def copy(ctx: ActionContext) -> str:
        return "copied"

    @manager.workflow
    async def copying(step: Step) -> str:
        return await step.run_action(copy())

    def scenario(sim: Simulation) -> None:
        sim.stub(copy, returns="copied", takes="20s")
        run = sim.start(copying())
        sim.advance("1s")
        sim.deploy(manager)
        sim.settle()
        assert (run.error is not None) is is_lost

    run(scenario, manager=manager)


def test_steps_come_in_pages() -> None:
    """As on the manager."""

    def paged(sim: Simulation) -> None:
        heard = sim.start(bank.listening(), id="w")
        for number in range(3):
            sim.send_event("word", workflow_id="w", value=number)
        sim.settle()
        assert heard.value == [0, 1, 2]
        for order in ("asc", "desc"):
            whole = sim.list_steps("w", order=order)
            first = sim.list_steps("w", order=order, limit=2)
            rest = sim.list_steps("w", order=order, cursor=first.cursor)
            assert (len(whole), len(first), first.is_done, rest.is_done) == (3, 2, False, True)
            assert [*first, *rest] == list(whole)

    run(paged)


@pytest.mark.parametrize(
    "name",
    ["start", "send_event", "create_event", "cancel", "restart", "cleanup", "status", "list_steps"],
)
def test_verbs_take_what_the_managers_take(name: str) -> None:
    """Only what they give is not awaited."""
    theirs, ours = (
        [
            (each.name, each.kind, each.default)
            for each in inspect.signature(verb).parameters.values()
        ]
        for verb in (getattr(WorkflowManager, name), getattr(Simulation, name))
    )
    assert ours == theirs


def test_an_on_complete_that_raises_fails_the_test_that_does_not_look() -> None:
    """Nobody else would hear of it: the workflow has ended as it has ended."""
    manager = WorkflowManager("closing.db")

    @manager.action
    async def pay(ctx: ActionContext) -> int:
        return 7

    @manager.mutation
    def close(ctx: MutationContext, workflow_id: str, outcome: Outcome) -> None:
        assert isinstance(outcome, Succeeded), "nothing to close"

    @manager.workflow
    async def closing(step: Step) -> int:
        return await step.run_action(pay())

    def hasty(sim: Simulation) -> None:
        sim.start(closing(), on_complete=close)

    def careful(sim: Simulation) -> None:
        run = sim.start(closing(), on_complete=close)
        sim.settle()
        assert (run.on_complete_error is None) == (run.status.kind == "success")

    plan = "pd1:pay/attempt#1=raises_for_good"
    assert run_simulation(manager, hasty).failure is None
    assert run_simulation(manager, careful, plan).failure is None
    trace = run_simulation(manager, hasty, plan)
    assert isinstance(trace.failure, OnCompleteFailed)
    told = "closing-1: on_complete close was given Failed, and raised AssertionError: nothing to"
    assert told in str(trace.failure)
    assert "OnCompleteFailed: A workflow's `on_complete` raised" in trace.report
