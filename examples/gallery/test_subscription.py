"""Twelve months are paid, each once, and the year ends a year after it has begun."""

from __future__ import annotations

import subscription as shop
from catching import caught

from perdure.definitions import Workflow
from perdure_sim import Simulation, simulate

#: It begins on a 18 May; see `Simulation.now`.
DAYS = [f"2033-{month:02}-18" for month in range(6, 13)]
DAYS += [f"2034-{month:02}-18" for month in range(1, 6)]


class FakeBank(shop.Bank):
    """Keeps who has paid, by key."""

    def __init__(self) -> None:
        self.paid: dict[str, str] = {}

    async def charge(self, customer: str, key: str) -> None:
        self.paid[key] = customer


def live_a_year(sim: Simulation, workflow: Workflow[[str], str]) -> None:
    shop.bank = bank = FakeBank()
    sim.stub(shop.charge, takes="1s..3d")
    run = sim.start(workflow("Ann"))
    sim.settle()
    assert run.error is None
    assert list(bank.paid.values()) == ["Ann"] * 12
    assert [ends for (ends,) in sim.db.execute("select ends from periods")] == DAYS


@simulate(shop.manager, setup=shop.create_tables)
def test_a_year_is_paid(sim: Simulation) -> None:
    """Whatever goes wrong in it."""
    live_a_year(sim, shop.subscribe)


def test_a_charge_that_is_tried_once_is_caught() -> None:
    """It takes a worker that dies, or a bank that is not there, once in the year."""

    @simulate(shop.manager, setup=shop.create_tables)
    def test(sim: Simulation) -> None:
        live_a_year(sim, shop.subscribe_at_most_once)

    found = caught(test)
    assert (found.law, len(found.faults)) == ("AssertionError", 1)
    assert found.faults[0].startswith("charge_once/")


def test_months_that_drift_are_caught() -> None:
    """It takes a charge that takes days."""

    @simulate(shop.manager, setup=shop.create_tables)
    def test(sim: Simulation) -> None:
        live_a_year(sim, shop.subscribe_and_drift)

    found = caught(test)
    assert (found.law, len(found.faults)) == ("AssertionError", 1)
    assert found.faults[0].startswith("charge/")


def test_months_by_the_clock_are_caught() -> None:
    """No fault: a year passes in a moment, and the machine's clock says that it is one month."""

    @simulate(shop.manager, setup=shop.create_tables)
    def test(sim: Simulation) -> None:
        live_a_year(sim, shop.subscribe_by_the_clock)

    found = caught(test)
    assert (found.law, found.faults) == ("AssertionError", ())
