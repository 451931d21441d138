"""No connection is left open by a test that a fuzzer calls, or that is interrupted in the middle.

Python 3.13 warns of each one that is collected while it is open; in a test of somebody else's,
where warnings are errors, that fails. What they are is noted here for any Python.
"""

from __future__ import annotations

import gc
import random
import sqlite3
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test
from hypothesis.strategies import SearchStrategy
from tests.sim.testing import bank
from tests.sim.testing.bank import manager

from perdure_sim import Simulation, WorkflowMachine, run_simulation, simulate
from perdure_sim.stores.sqlite_memory import SqliteMemory

#: Where connections that are made are noted.
_noted: list[list[sqlite3.Connection]] = []


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "sqlite3.connect/handle" and _noted:
        _noted[-1].append(arguments[0])


sys.addaudithook(_note)  # for good: Python knows no way to remove one


def _is_open(connection: sqlite3.Connection) -> bool:
    try:
        return connection.total_changes >= 0
    except sqlite3.ProgrammingError:
        return False


def left_open(do: Callable[[], object]) -> tuple[str, int]:
    """What a call raises, and how many connections are open when all that it made is garbage."""
    made: list[sqlite3.Connection] = []
    _noted.append(made)
    raised = ""
    try:
        do()
    except (Exception, KeyboardInterrupt) as error:
        raised = type(error).__name__
    finally:
        _noted.pop()
    gc.collect()
    assert made != []
    return raised, sum(map(_is_open, made))


def interrupt(*_: object) -> None:
    """Somebody presses Ctrl-C."""
    raise KeyboardInterrupt


def half_a_setup(db: sqlite3.Connection) -> None:
    bank.create_tables(db)
    interrupt()


def bad_setup(db: sqlite3.Connection) -> None:
    db.execute("create tabel ledger (amount)")


def passing(sim: Simulation) -> None:
    sim.start(bank.napping(3))
    sim.settle()
    assert sim.db.execute("select count(*) from ledger").fetchone() == (0,)


def interrupted(sim: Simulation) -> None:
    passing(sim)
    interrupt()


def interrupted_later() -> Callable[[Simulation], None]:
    """When there have been some runs."""
    left = iter(range(4))

    def script(sim: Simulation) -> None:
        passing(sim)
        if next(left, None) is None:
            interrupt()

    return script


def fuzz(store: str, script: Callable[[Simulation], None], setup: Any = bank.create_tables) -> None:
    """Call a test as fuzzers do, and forget it."""

    @simulate(manager, store=store, setup=setup)
    def test(sim: Simulation, number: int) -> None:
        script(sim)

    rng, call = random.Random(1), vars(test)["hypothesis"].fuzz_one_input
    assert [call(rng.randbytes(200)) for _ in range(9)] != [None] * 9


def explore(
    store: str,
    script: Callable[[Simulation], None],
    setup: Any = bank.create_tables,
    numbers: SearchStrategy[int] = st.integers(),
) -> None:
    """Call a test as pytest does."""

    @simulate(manager, store=store, setup=setup, number=numbers, max_examples=5)
    def test(sim: Simulation, number: int) -> None:
        script(sim)

    test()  # type: ignore[call-arg]  # Hypothesis draws the number


def interrupted_in_a_draw(store: str) -> None:
    """While Hypothesis draws what the fifth run is given."""
    left = iter(range(4))

    def draw(number: int) -> int:
        if next(left, None) is None:
            interrupt()
        return number

    explore(store, passing, numbers=st.integers().map(draw))


def machine(named: str, begin: Callable[[Simulation], None], *, in_a_rule: bool) -> None:
    """Have a state machine interrupted while it is made, or in its first rule."""

    class Machine(WorkflowMachine):
        store = named
        calls = st.builds(bank.napping, st.integers(1, 9).map(interrupt if in_a_rule else abs))
        cancels = restarts = False

        def prepare(self) -> None:
            begin(self.sim)

    Machine.manager, Machine.setup = manager, bank.create_tables
    run_state_machine_as_test(
        Machine, settings=settings(max_examples=2, stateful_step_count=20, deadline=None)
    )


CTRL_C = "KeyboardInterrupt"

CASES: dict[str, tuple[str, Callable[[str], object]]] = {
    "fuzzed": ("", lambda store: fuzz(store, passing)),
    "fuzzed, the first run": (CTRL_C, lambda store: fuzz(store, interrupted)),
    "fuzzed, a later run": (CTRL_C, lambda store: fuzz(store, interrupted_later())),
    "fuzzed, setup": (CTRL_C, lambda store: fuzz(store, passing, half_a_setup)),
    "fuzzed, a bad setup": ("OperationalError", lambda store: fuzz(store, passing, bad_setup)),
    "the first run": (CTRL_C, lambda store: explore(store, interrupted)),
    "a later run": (CTRL_C, lambda store: explore(store, interrupted_later())),
    "a draw": (CTRL_C, interrupted_in_a_draw),
    "setup": (CTRL_C, lambda store: explore(store, passing, half_a_setup)),
    "a bad setup": ("OperationalError", lambda store: explore(store, passing, bad_setup)),
    "a machine begins": (CTRL_C, lambda store: machine(store, interrupted, in_a_rule=False)),
    "a machine's rule": (CTRL_C, lambda store: machine(store, passing, in_a_rule=True)),
    "one run": (
        CTRL_C,
        lambda store: run_simulation(manager, interrupted, store=store, setup=bank.create_tables),
    ),
}


@pytest.mark.parametrize("store", ["memory", "sqlite"])
@pytest.mark.parametrize("name", CASES)
def test_no_connection_is_left_open(name: str, store: str) -> None:
    """And whoever called the test gets what it raises."""
    raises, do = CASES[name]
    assert left_open(lambda: do(store)) == (raises, 0)


def test_a_database_closes_its_connections_with_itself() -> None:
    """In whichever thread it is collected: those in use and those that nobody uses."""

    def forget() -> None:
        disks = SqliteMemory()
        stores = [disks().open() for _ in range(2)]
        for store in stores:
            store.open(max_parallelism=None)
        stores[0].close()
        held.append(disks)

    def elsewhere() -> None:
        forget()
        thread = threading.Thread(target=held.clear)
        thread.start()
        thread.join()

    held: list[SqliteMemory] = []
    assert left_open(elsewhere) == ("", 0)
