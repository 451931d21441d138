"""An export is waited for, not for ever, and over a deploy."""

from __future__ import annotations

from datetime import timedelta

from catching import caught
from hypothesis import strategies as st
from polling import ASKED_MAX, begin, export, export_for_ever, is_ready, manager, next_release

from perdure import WorkflowManager
from perdure.definitions import Workflow
from perdure_sim import Simulation, simulate

MINUTES = st.integers(0, 30)


def wait_for_it(sim: Simulation, workflow: Workflow[[str], str], minutes: int) -> None:
    ready_at = sim.now + timedelta(minutes=minutes)
    sim.stub(begin, returns="e1", takes="0s..1m")
    sim.stub(is_ready, call=lambda ctx, export: sim.now >= ready_at)
    run = sim.start(workflow("users"))
    sim.always("the journal stays small", lambda: len(run.steps) <= 1 + 2 * ASKED_MAX)
    sim.settle()
    assert run.error is not None or (run.value == "e1" and sim.now >= ready_at)


@simulate(manager, minutes=MINUTES)
def test_an_export_is_waited_for(sim: Simulation, minutes: int) -> None:
    """For as long as it is said, with a journal that does not grow for ever."""
    wait_for_it(sim, export, minutes)


def test_a_loop_without_an_end_is_caught() -> None:
    """An export that takes long is enough."""

    @simulate(manager, minutes=MINUTES)
    def test(sim: Simulation, minutes: int) -> None:
        wait_for_it(sim, export_for_ever, minutes)

    found = caught(test)
    assert (found.law, found.faults) == ("AlwaysBroken[the journal stays small]", ())


def deploy_meanwhile(sim: Simulation, release: WorkflowManager) -> None:
    sim.stub(begin, returns="e1")
    sim.stub(is_ready, returns=[False, False, False, True])
    sim.start(export("users"))
    sim.after("0s..1m", lambda: sim.deploy(release))


@simulate(manager)
def test_waits_may_change_under_way(sim: Simulation) -> None:
    """A release with other durations fits the journals that are there."""
    deploy_meanwhile(sim, next_release(asks_first=False))


def test_a_step_put_before_recorded_ones_is_caught() -> None:
    """By the first workflow that the deploy finds on its way; nothing else has to go wrong."""

    @simulate(manager)
    def test(sim: Simulation) -> None:
        deploy_meanwhile(sim, next_release(asks_first=True))

    found = caught(test)
    assert (found.law, found.faults) == ("CodeDoesNotFit", ())
    assert "asked for, not recorded: action is_allowed" in found.message
