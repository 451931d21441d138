"""Money is neither made nor lost, at any time, and nobody is told of what has not happened."""

from __future__ import annotations

import transfer as bank
from catching import caught
from hypothesis import strategies as st

from perdure.definitions import Workflow
from perdure_sim import Simulation, simulate

CENTS = st.integers(1, 200)


class FakeMessages(bank.Messages):
    """Without a key it cannot know what it has sent before."""

    def __init__(self) -> None:
        self.sent: dict[str, str] = {}

    def send(self, account: str, text: str, key: str | None) -> None:
        self.sent[key or f"message {len(self.sent)}"] = text


def pay(sim: Simulation, workflow: Workflow[[str, str, int], str], cents: int) -> None:
    bank.messages = messages = FakeMessages()

    def is_whole() -> bool:
        rows = sim.db.execute("select cents from accounts").fetchall()
        return sum(int(cents) for (cents,) in rows) == 200

    def is_true() -> bool:
        (count,) = sim.db.execute("select count(*) from received").fetchone()
        return len(messages.sent) <= int(count)

    sim.always("money is neither made nor lost", is_whole)
    sim.always("what people are told has happened", is_true)
    runs = [sim.start(workflow("Ann", "Bob", cents)), sim.start(workflow("Ann", "Bob", 1))]
    sim.settle()
    moved = cents * (runs[0].value != "refused") + (runs[1].value != "refused")
    assert ("Bob", 100 + moved) in sim.db.execute("select * from accounts").fetchall()


@simulate(bank.manager, setup=bank.create_tables, cents=CENTS)
def test_money_is_neither_made_nor_lost(sim: Simulation, cents: int) -> None:
    """Whatever goes wrong."""
    pay(sim, bank.transfer, cents)


def test_a_mutation_that_calls_out_is_caught() -> None:
    """The message is out before the transaction is."""

    @simulate(bank.manager, setup=bank.create_tables, cents=CENTS)
    def test(sim: Simulation, cents: int) -> None:
        pay(sim, bank.transfer_calling_out, cents)

    found = caught(test)
    assert "what people are told has happened" in found.message
    assert len(found.faults) <= 1


def test_two_mutations_for_one_are_caught() -> None:
    """No fault: between the two anybody may look."""

    @simulate(bank.manager, setup=bank.create_tables, cents=CENTS)
    def test(sim: Simulation, cents: int) -> None:
        pay(sim, bank.transfer_in_two, cents)

    found = caught(test)
    assert "money is neither made nor lost" in found.message
    assert found.faults == ()


def test_a_balance_of_another_time_is_caught() -> None:
    """Two transfers at once: the second one writes what the first one has read as well."""

    @simulate(bank.manager, setup=bank.create_tables, cents=CENTS)
    def test(sim: Simulation, cents: int) -> None:
        pay(sim, bank.transfer_of_what_was, cents)

    found = caught(test)
    assert found.law == "AssertionError"
    assert len(found.faults) <= 1
