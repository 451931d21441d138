"""`simulate` on a real PostgreSQL server."""

from __future__ import annotations

import gc
import random
from typing import Any

import psycopg
import pytest
from hypothesis import strategies as st
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
    assert left_in(address) == []


def left_in(address: str) -> list[tuple[str]]:
    """The simulator's schemas that are in a database."""
    with psycopg.connect(address) as connection:
        sql = "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'perdure%'"
        found: list[tuple[str]] = connection.execute(sql).fetchall()
        return found


@pytest.mark.parametrize("is_bad", [False, True])
def test_nothing_is_left_by_a_fuzzer(
    is_bad: bool, postgres_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody says when it has ended: what is in the database goes with the test. Also if the
    application's tables cannot be made."""
    address = postgres_server.create_database()
    monkeypatch.setenv(POSTGRESQL, address)

    def setup(connection: psycopg.Connection[Any]) -> None:
        make_tables(connection)
        if is_bad:
            make_tables(connection)

    def fuzz() -> None:
        @simulate(d, setup=setup, store="postgresql", amount=st.integers(1, 9))
        def test(sim: Simulation, amount: int) -> None:
            sim.start(shop(amount))

        rng, call = random.Random(1), vars(test)["hypothesis"].fuzz_one_input
        if is_bad:
            with pytest.raises(psycopg.errors.DuplicateTable):
                call(rng.randbytes(200))
        else:
            assert [call(rng.randbytes(200)) for _ in range(3)] != [None] * 3
            assert len(left_in(address)) == 2

    fuzz()
    gc.collect()
    assert left_in(address) == []


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
