"""`simulate` on a real PostgreSQL server."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from tests.postgres import Server

from perdure import MutationContext, Step, WorkflowManager
from perdure.definitions import Definer
from perdure_sim import Simulation, simulate
from perdure_sim.testing.disks import POSTGRESQL, store_of

d = Definer()


@d.mutation
def pay(ctx: MutationContext, amount: int) -> int:
    ctx.db.execute("INSERT INTO paid VALUES (%s)", (amount,))
    return amount


@d.workflow
async def shop(step: Step, amount: int) -> int:
    await step.sleep(5)
    return await step.run_mutation(pay(amount))


def make_tables(connection: psycopg.Connection[Any]) -> None:
    connection.execute("CREATE TABLE paid (amount integer PRIMARY KEY)")


def test_workflows_are_simulated_on_a_server(
    postgres_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run finds its tables as `setup` makes them, and nothing is left in the database."""
    address = postgres_server.create_database()
    monkeypatch.setenv(POSTGRESQL, address)
    runs = []

    @simulate(d, setup=make_tables, store="postgresql", sweep=10, max_examples=3, given={})
    def test(sim: Simulation) -> None:
        run = sim.start(shop(3))
        sim.settle()
        assert sim.db.execute("SELECT amount FROM paid").fetchall() == [(run.value,)]
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            sim.db.execute("DELETE FROM paid")
        runs.append(run.id)

    run_it: Any = test
    run_it()
    assert len(runs) > 3
    with psycopg.connect(address) as connection:
        sql = "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'perdure%'"
        assert connection.execute(sql).fetchall() == []


def test_without_an_address_it_is_said_where_to_give_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The definitions alone have none."""
    monkeypatch.delenv(POSTGRESQL, raising=False)

    @simulate(d, store="postgresql", given={})
    def test(sim: Simulation) -> None:
        sim.settle()

    run_it: Any = test
    with pytest.raises(ValueError, match="set PERDURE_SIM_POSTGRESQL"):
        run_it()


def test_a_manager_on_postgres_is_simulated_there() -> None:
    """Unless the test says otherwise."""
    manager = WorkflowManager("postgresql://localhost/app")
    assert store_of(manager, None) == "postgresql"
    assert store_of(manager, "memory") == "memory"
