"""Measure how fast the simulator runs on this machine, and print a table.

One process, one core. Beside each figure stands what a run costs in calls of an empty Python
function, timed before and after it: that tells a slow machine from a slow simulator.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import attrs

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from hypothesis import HealthCheck, Phase, given, settings  # noqa: E402
from tests.sim.scenes import REFERENCE, SCENARIOS  # noqa: E402

from perdure_sim.explore.explorer import Explorer, Run, Scenario  # noqa: E402
from perdure_sim.faults.plan import FaultPlan  # noqa: E402
from perdure_sim.faults.strategies import plans  # noqa: E402
from perdure_sim.stores.sqlite_memory import SqliteMemory  # noqa: E402
from perdure_sim.world.clock import START_MS  # noqa: E402
from perdure_sim.world.disks import Disk, memory_disk  # noqa: E402

#: Calls by which the machine is measured.
CALLS = 200_000


@attrs.frozen
class Figure:
    """One line of the table.

    Attributes:
        run: does so many runs; gives what they come to (runs, or virtual seconds).
        gate: what it is meant to reach at least, a second.
    """

    key: str
    what: str
    unit: str
    gate: float
    run: Callable[[int], float]


def checked(run: Run) -> Run:
    """A run of the benchmark must not fail: it would be short."""
    if run.failure is not None:
        raise SystemExit(f"{run.scenario.name} {run.plan}: {run.failure!r}")
    return run


def explorer(scenario: Scenario, make_disk: Callable[[], Disk] = memory_disk) -> Explorer:
    """Ready to try plans."""
    made = Explorer(scenario, make_disk)
    checked(made.begin())
    return made


def random_plans(make_disk: Callable[[], Disk]) -> Callable[[int], float]:
    """The reference scenario under random plans."""
    soak = explorer(REFERENCE, make_disk).soak(seed=1)

    def go(runs: int) -> float:
        for run in itertools.islice(soak, runs):
            checked(run)
        return runs

    return go


def without_faults(runs: int) -> float:
    """The reference scenario when nothing goes wrong."""
    made = explorer(REFERENCE)
    for _ in range(runs):
        checked(made.try_plan(FaultPlan()))
    return runs


def drawn_plans(runs: int) -> float:
    """The reference scenario under plans that Hypothesis draws."""
    made = explorer(REFERENCE)
    count = 0

    @settings(
        max_examples=runs,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(plans(made.census))
    def go(plan: FaultPlan) -> None:
        nonlocal count
        count += 1
        checked(made.try_plan(plan))

    go()
    return count


def virtual_seconds(runs: int) -> float:
    """All scenarios of the tests in turn; how much virtual time has passed, in seconds."""
    made = [explorer(scenario) for scenario in SCENARIOS]
    total = 0.0
    for each in itertools.islice(itertools.cycle(made), runs):
        total += (checked(each.try_plan(FaultPlan())).world.now - START_MS) / 1000
    return total


def figures(sqlite: SqliteMemory) -> Iterator[Figure]:
    """The lines of the table."""
    yield Figure("memory", "random plans, model store", "runs/s", 1_500, random_plans(memory_disk))
    yield Figure("clean", "no faults, model store", "runs/s", 1_500, without_faults)
    yield Figure("hypothesis", "through Hypothesis, model store", "runs/s", 500, drawn_plans)
    yield Figure("sqlite", "random plans, SQLite", "runs/s", 300, random_plans(sqlite))
    yield Figure("virtual", "all scenarios", "virtual s/s", 100_000, virtual_seconds)


def calls_per_second() -> float:
    """How many calls of an empty function this machine makes in a second of processor time."""

    def nothing() -> None:
        pass

    begin = time.process_time()
    for _ in range(CALLS):
        nothing()
    return CALLS / (time.process_time() - begin)


def measure(figure: Figure, runs: int, repeat: int) -> dict[str, object]:
    """One figure: its median, all its values, and what a run costs in calls."""
    rates, costs = [], []
    for _ in range(repeat):
        before = calls_per_second()
        begin = time.process_time()
        done = figure.run(runs)
        seconds = time.process_time() - begin
        calls = (before + calls_per_second()) / 2
        rates.append(done / seconds)
        costs.append(seconds * calls / runs)
    return {"median": median(rates), "all": rates, "calls_per_run": median(costs)}


def main() -> None:
    """The command itself."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=400, help="runs of each measurement")
    parser.add_argument("--repeat", type=int, default=5, help="measurements of each figure")
    parser.add_argument("--json", type=Path, help="write all values to this file")
    given_ = parser.parse_args()
    logging.disable(logging.CRITICAL)  # the engine reports the troubles that it is put to
    found: dict[str, dict[str, object]] = {}
    sqlite = SqliteMemory()
    print(f"Python {platform.python_version()}, medians of {given_.repeat} × {given_.runs} runs")
    print(f"{'':34}{'median':>12}  {'unit':12}{'meant':>9}  {'calls a run':>12}")
    for figure in figures(sqlite):
        values = found[figure.key] = measure(figure, given_.runs, given_.repeat)
        print(
            f"{figure.what:34}{values['median']:12,.0f}  {figure.unit:12}{figure.gate:9,.0f}"
            f"  {values['calls_per_run']:12,.0f}",
            flush=True,
        )
    sqlite.close()
    if given_.json is not None:
        given_.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
