"""Each region gets its own figure, whoever answers first."""

from __future__ import annotations

from catching import caught
from hypothesis import strategies as st
from report import manager, report, report_by_arrival, report_by_set, sales_of

from perdure.definitions import Workflow
from perdure_sim import Simulation, simulate

SALES = {"north": 1, "south": 20, "east": 300, "west": 4_000}
REGIONS = st.lists(st.sampled_from(sorted(SALES)))


def add_up(
    sim: Simulation, workflow: Workflow[[list[str]], dict[str, int]], regions: list[str]
) -> None:
    sim.stub(sales_of, call=lambda ctx, region: SALES[region], takes="0s..1m")
    run = sim.start(workflow(regions))
    sim.settle()
    if run.error is None:  # else a region was not there for good
        assert run.value == {region: SALES[region] for region in regions}


@simulate(manager, regions=REGIONS)
def test_figures_are_those_of_their_regions(sim: Simulation, regions: list[str]) -> None:
    """Each region has a figure of its own, and is named more than once or not at all."""
    add_up(sim, report, regions)


def test_the_order_of_arrival_is_caught() -> None:
    """The first region is slow: a choice of time."""

    @simulate(manager, regions=REGIONS)
    def test(sim: Simulation, regions: list[str]) -> None:
        add_up(sim, report_by_arrival, regions)

    found = caught(test)
    assert found.law == "AssertionError"
    assert len(found.faults) == 1
    assert len(found.arguments["regions"]) == 2


def test_the_order_of_a_set_is_caught() -> None:
    """No fault: journals are replayed in another process as well, where strings hash otherwise."""

    @simulate(manager, regions=REGIONS)
    def test(sim: Simulation, regions: list[str]) -> None:
        add_up(sim, report_by_set, regions)

    found = caught(test)
    assert (found.law, found.faults) == ("ReplayDiffers", ())
    # Two are enough, unless two processes happen to agree on the order of each pair.
    assert len(found.arguments["regions"]) in (2, 3)
