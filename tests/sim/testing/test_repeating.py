"""What only another replay shows: clocks, dice and the order of sets are found, without a fault."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from perdure import MutationContext, Step, WorkflowManager
from perdure.definitions import WorkflowCall
from perdure_sim import Simulation, simulate
from perdure_sim.laws import replay_process
from perdure_sim.laws.replaying import ReplayDiffers
from perdure_sim.testing.repeating import NotRepeatable, why_not_elsewhere

manager = WorkflowManager("repeating.db")
TOWNS = [f"town {number}" for number in range(20)]


@manager.mutation
def visit(ctx: MutationContext, town: str) -> str:
    return town


@manager.workflow
async def by_set(step: Step) -> None:
    for town in set(TOWNS):
        await step.run_mutation(visit(town))


@manager.workflow
async def by_set_after_failure(step: Step, number: int) -> None:
    try:
        await step.await_event("go", timeout=number)
    except TimeoutError:
        await by_set.fn(step)


@manager.workflow
async def sorted_set(step: Step) -> None:
    for town in sorted(set(TOWNS)):
        await step.run_mutation(visit(f"{town} {step.now()} {step.uuid4()} {step.random.random()}"))


@manager.workflow
async def visiting_anywhere(step: Step) -> str:
    return await step.run_mutation(visit(str(READS["uuid.uuid4"]())))


CALLS: list[None] = []


@manager.workflow
async def counting(step: Step) -> str:
    CALLS.append(None)
    return await step.run_mutation(visit(f"town {len(CALLS)}"))


READS: dict[str, Callable[[], object]] = {
    "datetime.datetime.now": lambda: datetime.now(UTC),  # noqa: TID251  What this is about.
    "uuid.uuid4": uuid.uuid4,  # noqa: TID251
    "os.environ": lambda: os.environ["PATH"],
}


@manager.workflow
async def reading(step: Step, what: str) -> None:
    READS[what]()


def found_in(
    call: WorkflowCall[Any], after: Callable[[Simulation, str], object] | None = None
) -> BaseException | None:
    """What a test of one workflow fails with, on its defaults but for the store."""

    @simulate(manager, store="memory", max_examples=3, sweep=300)
    def test(sim: Simulation) -> None:
        run = sim.start(call)
        if after is not None:
            after(sim, run.id)

    try:
        test()  # type: ignore[call-arg]
    except AssertionError as error:
        return error
    return None


def test_the_order_of_a_set_is_found_in_another_process() -> None:
    """Though in this one it is always the same."""
    found = found_in(by_set())
    assert isinstance(found, ReplayDiffers)
    assert "in another process, with PYTHONHASHSEED=" in str(found)


def test_each_way_of_a_workflow_is_looked_at() -> None:
    """Also one that only some runs go: here the event comes in time at first."""

    def send(sim: Simulation, workflow_id: str) -> None:
        sim.after("0s..9s", lambda: sim.send_event("go", workflow_id=workflow_id))

    assert isinstance(found_in(by_set_after_failure(5), send), ReplayDiffers)


def test_a_replay_process_starts_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module may call its simulated tests when it is imported, and the child imports it."""
    monkeypatch.setattr(replay_process, "IS_CHILD", True)
    assert found_in(by_set()) is None


def test_what_belongs_to_the_step_is_no_matter() -> None:
    """Sorted sets, and the step's own time and chance."""
    assert found_in(sorted_set()) is None


@pytest.mark.parametrize("what", READS)
def test_what_a_helper_reads_is_found(what: str) -> None:
    """With the place, and what to write instead."""
    found = found_in(reading(what))
    assert isinstance(found, NotRepeatable)
    assert what in str(found)
    assert "test_repeating.py:" in str(found)
    assert "; instead: " in str(found)


def test_a_manager_that_has_no_name_is_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    """No other process can import it, and the test's output says so."""
    local = WorkflowManager("local.db")

    @local.workflow
    async def plain(step: Step) -> None:
        await step.sleep(1)

    @simulate(local, store="memory", max_examples=3, sweep=False)
    def test(sim: Simulation) -> None:
        sim.start(plain())

    test()  # type: ignore[call-arg]
    assert why_not_elsewhere(local) == "the manager is no name of a module"
    told = "not replayed in another process: the manager is no name of a module"
    assert told in capsys.readouterr().out
    assert why_not_elsewhere(manager) is None


def test_a_random_argument_is_told_by_what_made_it() -> None:
    """And not by the replay that asked for something else, of which nobody sees why."""
    error = found_in(visiting_anywhere())
    assert type(error) is NotRepeatable
    assert "uuid.uuid4 in " in str(error) and f"{__file__}:" in str(error)
    assert "instead: use step.uuid4()" in str(error)


def test_what_is_not_seen_is_guessed() -> None:
    """The two facts, and what may be the reason, but nothing about other code."""
    error = found_in(counting())
    assert type(error) is ReplayDiffers
    assert 'recorded, not asked for: step 0: mutation visit {"town":"town ' in str(error)
    assert "a global or an object that runs share" in str(error)
