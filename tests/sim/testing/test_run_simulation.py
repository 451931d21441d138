"""`run_simulation`, and tests as targets of the command line."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
from tests.sim.testing import bank
from tests.sim.testing.bank import manager
from tests.sim.testing.test_plugin import TESTS

from perdure_sim import Simulation, run_simulation, simulate
from perdure_sim.command.cli import command_line
from perdure_sim.explore.explorer import Explorer
from perdure_sim.explore.targets import TargetError, load
from perdure_sim.faults.plan import DELAY, PlanError
from perdure_sim.world.disks import memory_disk


def nap(sim: Simulation) -> None:
    """One workflow of one sleep."""
    sim.start(bank.napping(60))


def test_a_plan_and_a_seed_give_the_same_run_again() -> None:
    """In its fingerprint; without either nothing goes wrong."""
    calm = run_simulation(manager, nap)
    assert (calm.plan, calm.fired, calm.failure, calm.report) == ("", (), None, "")
    assert calm.digest == run_simulation(manager, nap).digest
    crashed = run_simulation(manager, nap, "pd1:w0/turn#1=crash")
    assert crashed.fired == ("w0/turn#1=crash",)
    assert crashed.digest != calm.digest
    assert "w0 dies" in crashed.timeline
    drawn = [run_simulation(manager, nap, seed=7) for _ in range(2)]
    assert drawn[0].plan == drawn[1].plan != ""
    assert drawn[0].digest == drawn[1].digest
    assert run_simulation(manager, nap, drawn[0].plan).digest == drawn[0].digest
    assert run_simulation(manager, nap, seed=8).plan != drawn[0].plan


def test_what_fails_is_kept_and_told() -> None:
    """It is not raised."""

    def wrong(sim: Simulation) -> None:
        nap(sim)
        sim.settle()
        raise AssertionError("as told")

    trace = run_simulation(manager, wrong, "pd1:w0/turn#1=crash")
    assert str(trace.failure) == "as told"
    assert "as told" in trace.report
    with pytest.raises(PlanError):
        run_simulation(manager, nap, "pd1:w0/turn#1=explodes")


def test_a_test_is_a_target_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is swept and replayed as a scenario is."""
    (tmp_path / "target_it.py").write_text(TESTS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    found = command_line.main(["census", "target_it.py:test_hasty"], standalone_mode=False)
    assert not found
    out = capsys.readouterr().out
    assert "test_hasty: " in out
    assert "charge_card" in out
    for store in ("memory", "sqlite"):
        code = command_line.main(
            ["sweep", "target_it.py:test_hasty", "--max-runs", "120", "--store", store],
            standalone_mode=False,
        )
        assert code == 1
        out = capsys.readouterr().out
        assert "test_hasty: AssertionError in 1 run" in out
    plan = next(word for word in out.split() if word.startswith("pd1:")).strip("'")
    code = command_line.main(["replay", "target_it.py:test_hasty", plan], standalone_mode=False)
    assert code == 1
    assert "hasty-1" in capsys.readouterr().out
    sys.modules.pop("target_it", None)


def test_the_command_tries_what_the_test_would() -> None:
    """Times within ranges, attempts that outlast long waits, and no fault that it leaves out."""

    @simulate(manager, faults=["slow", "jump"])
    def test(sim: Simulation) -> None:
        sim.stub("look_up", returns="x", takes="1s..9s")
        sim.start(bank.napping(3_600))
        sim.advance("1s")
        sim.start(bank.asking("x"))
        sim.after("2s..2h", lambda: sim.start(bank.napping(7_200)))

    explorer = Explorer(test.simulation.scenario(), memory_disk)  # type: ignore[attr-defined]
    assert explorer.begin().failure is None
    rng = random.Random(5)
    singles = [fault for plan in explorer.singles() for fault in plan]
    drawn = [fault for _ in range(300) for fault in explorer.draw(rng, 8)]
    for faults in (singles, drawn):
        assert {fault.kind for fault in faults} == {"slow", "jump", DELAY}
        places = {(fault.actor, fault.site) for fault in faults if fault.kind == DELAY}
        assert places == {("client", "after"), ("look_up", "takes")}
        lengths = {fault.duration for fault in faults if fault.kind == "slow"}
        assert min(lengths) < 3_600_000 <= max(lengths)


def test_a_test_that_needs_pytest_is_no_target() -> None:
    """The message says why."""
    place = "tests.sim.testing.test_simulate:TestInAClass.test_methods_parametrize_and_fixtures"
    with pytest.raises(TargetError, match="self comes from pytest"):
        load([place])


def test_a_seed_draws_no_fault_where_only_times_are_chosen() -> None:
    """Where something takes a range of time, nothing else can happen."""

    def scenario(sim: Simulation) -> None:
        sim.after("1s..5s", lambda: sim.start(bank.napping(1)))

    for seed in range(1, 60):
        assert run_simulation(manager, scenario, seed=seed, store="memory").failure is None
