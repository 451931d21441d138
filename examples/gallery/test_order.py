"""The bank keeps the price of what is packed, and nothing of what is not."""

from __future__ import annotations

import order as shop
from catching import caught
from hypothesis import strategies as st

from perdure.definitions import Workflow
from perdure_sim import Simulation, simulate

CENTS = st.integers(1, 500)


class FakeBank(shop.Bank):
    """Without a key it cannot know what it has taken before."""

    def __init__(self) -> None:
        self.taken: dict[str, tuple[int, int]] = {}
        self.voided: set[int] = set()

    async def charge(self, number: int, cents: int, key: str | None) -> None:
        if number in self.voided:
            raise PermissionError(f"order {number} is void")
        self.taken[key or f"charge {len(self.taken)}"] = (number, cents)

    async def void(self, number: int) -> None:
        self.voided.add(number)
        self.taken = {key: value for key, value in self.taken.items() if value[0] != number}


def buy(sim: Simulation, workflow: Workflow[[int, int], str], cents: int) -> None:
    shop.bank = bank = FakeBank()
    for number in (1, 2):  # there is one piece
        sim.start(workflow(number, cents))
    sim.settle()
    packed = sim.db.execute("select number from packed").fetchall()
    assert sorted(bank.taken.values()) == [(number, cents) for (number,) in packed]


@simulate(shop.manager, setup=shop.create_tables, cents=CENTS)
def test_what_is_paid_is_packed(sim: Simulation, cents: int) -> None:
    """Whatever goes wrong: once, and for the price."""
    buy(sim, shop.order, cents)


def test_a_charge_without_a_key_is_caught() -> None:
    """It takes a worker that dies between the charge and its record."""

    @simulate(shop.manager, setup=shop.create_tables, cents=CENTS)
    def test(sim: Simulation, cents: int) -> None:
        buy(sim, shop.order_without_key, cents)

    found = caught(test)
    assert (found.law, len(found.faults)) == ("AssertionError", 1)
    assert found.faults[0].startswith("charge_without_key/")


def test_a_charge_outside_of_the_try_is_caught() -> None:
    """It takes a charge that is made, and fails all the same."""

    @simulate(shop.manager, setup=shop.create_tables, cents=CENTS)
    def test(sim: Simulation, cents: int) -> None:
        buy(sim, shop.order_half_covered, cents)

    found = caught(test)
    assert (found.law, len(found.faults)) == ("AssertionError", 2)
    assert all(fault.startswith("charge/") for fault in found.faults)


def test_a_refund_that_is_tried_once_is_caught() -> None:
    """It takes a worker that dies while it gives the money back."""

    @simulate(shop.manager, setup=shop.create_tables, cents=CENTS)
    def test(sim: Simulation, cents: int) -> None:
        buy(sim, shop.order_refunded_at_most_once, cents)

    found = caught(test)
    assert (found.law, len(found.faults)) == ("AssertionError", 1)
    assert found.faults[0].startswith("refund/")
