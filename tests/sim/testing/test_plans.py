"""In which order a test's plans are swept."""

from __future__ import annotations

from perdure_sim import ALL
from perdure_sim.faults.plan import Fault
from perdure_sim.testing.plans import swept_in_order, swept_plans

CENSUS = {
    ("charge", "attempt"): 2,
    ("charge", "report"): 2,
    ("c0", "commit"): 1,
    ("w0", "commit"): 6,
}
PLANS = swept_plans(CENSUS, {}, ALL)


def firsts(plans: list[tuple[Fault, ...]]) -> set[tuple[Fault, ...]]:
    """Those of what befalls an action for the first time."""
    return {
        faults
        for faults in plans
        if len(faults) == 1
        and faults[0].site in ("attempt", "report")
        and faults[0].occurrence == 1
    }


def test_each_example_begins_elsewhere() -> None:
    """And nothing is left out, or tried twice with the same arguments."""
    tried: set[tuple[Fault, ...]] = set()
    for number in range(3):
        ordered = swept_in_order(PLANS, number, 3, tried)
        assert sorted(ordered) == sorted(PLANS)
        tried.update(ordered[:4])
    assert len(tried) == 12


def test_what_only_one_example_comes_to_is_tried_there() -> None:
    """The other examples have not tried what befalls its actions, so it does so by itself."""
    count = len(firsts(PLANS))
    assert count > 6
    ordered = swept_in_order(PLANS, 2, 3, set())
    assert firsts(ordered[: count + 2]) == firsts(PLANS)  # (all commits twice, and the pair)


def test_what_another_example_has_tried_comes_late() -> None:
    """Each example takes its own share of it only."""
    tried = set(swept_in_order(PLANS, 0, 3, set())[: len(firsts(PLANS)) + 2])
    ordered = swept_in_order(PLANS, 1, 3, tried)
    share = [faults for faults in PLANS[1::3] if len(faults) > 1 or faults in firsts(PLANS)]
    assert ordered[: len(share)] == share
    assert ordered[len(share)] not in tried
