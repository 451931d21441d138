"""A client's own transaction: its rows and the engine's are on the disk together, or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import Any

import attrs
import pytest
from tests.counting import counted
from tests.sim.guests import GUESTS, fulfil, make_tables, place
from tests.sim.portable import execute

from perdure.errors import ConnectionMisuse
from perdure.runtime.contexts import MutationContext
from perdure_sim.explore.explorer import Explorer, run, single_faults, spread
from perdure_sim.faults.plan import FaultPlan
from perdure_sim.stores.sqlite_memory import SqliteMemory
from perdure_sim.world.disks import Disk, memory_disk, sqlite_disk
from perdure_sim.world.world import World

MakeDisk = Callable[[], Disk]

#: Plans of the scenario: all of them are a few hundred.
PLANS_MAX = 60


@pytest.fixture(params=["memory", "sqlite", "file"])
def make_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeDisk]:
    """The model store, and SQLite in memory and in a file."""
    if request.param == "memory":
        yield memory_disk
    elif request.param == "file":
        files = iter(range(99))
        yield lambda: sqlite_disk(tmp_path / f"{next(files)}.db")
    else:
        with contextlib.closing(SqliteMemory()) as memory:
            yield memory


@pytest.fixture
def world_of(make_disk: MakeDisk) -> Callable[[str], AbstractContextManager[World]]:
    """Makes a world with a plan, and closes it."""

    @contextlib.contextmanager
    def make(plan: str) -> Iterator[World]:
        disk = make_disk()
        disk.prepare(make_tables)
        world = World(GUESTS.definer, disk, FaultPlan.parse(plan))
        try:
            yield world
        finally:
            world.close()

    return make


def orders(world: World) -> list[str]:
    return [each for (each,) in execute(world.db, "SELECT id FROM orders ORDER BY id")]


def test_single_faults_part_nothing(make_disk: MakeDisk) -> None:
    """The first, the last and the middle one of each kind; and all laws hold."""
    explorer = Explorer(GUESTS, make_disk)
    begun = explorer.begin()
    assert begun.failure is None
    fired = 0
    for fault in islice(spread(single_faults(explorer.census), explorer.census), PLANS_MAX):
        found = explorer.try_plan(FaultPlan([fault]))
        assert found.failure is None, str(found.plan)
        fired += len(found.world.faults.fired)
    assert fired > PLANS_MAX / 2


@pytest.mark.parametrize(
    ("fault", "tries"),
    [
        ("c0/begin#2=busy", 1),  # the first is that of its boot
        ("c0/begin#2=crash", 1),
        ("c0/commit#1=busy_ack", 2),
        ("c0/commit#1=fails", 2),
        ("c0/commit#1=crash_before", 2),
        ("c0/commit#1=crash_after", 2),
        ("c0/commit#1=lost_ack", 2),
    ],
)
def test_a_client_tries_again_until_it_is_told(
    world_of: Callable[[str], AbstractContextManager[World]], fault: str, tries: int
) -> None:
    """Whether what it tried before was stored or not."""
    runs = []

    def body(over: MutationContext) -> str:
        runs.append(over.db)
        place(over, "b")
        return "placed"

    with world_of(f"pd1:{fault}") as world:
        deed = world.transact("place b", body)
        world.run(until=world.now + 60_000)
        assert (deed.value, deed.error, len(runs)) == ("placed", None, tries)
        assert [str(each) for each in world.faults.fired] == [fault]
        assert orders(world) == ["b"] == list(world.history.workflows)


def test_what_the_client_raises_undoes_all(
    world_of: Callable[[str], AbstractContextManager[World]],
) -> None:
    """It is the answer, and nobody tries again."""

    def body(over: MutationContext) -> None:
        place(over, "b")
        raise LookupError("no, thanks")

    with world_of("pd1:") as world:
        deed = world.transact("place b", body)
        world.run(until=world.now + 60_000)
        assert isinstance(deed.error, LookupError)
        assert orders(world) == [] == list(world.history.workflows)


def test_a_verb_that_raises_has_written_nothing(
    world_of: Callable[[str], AbstractContextManager[World]],
) -> None:
    """The rest of the transaction is stored; what is known of the disk is what is on it."""

    def body(over: MutationContext) -> None:
        place(over, "b")
        guest: Any = over._guest  # type: ignore[attr-defined]

        def fails() -> None:
            over.start(fulfil("x"), id="x")
            raise LookupError

        with contextlib.suppress(LookupError):
            guest.run_engine_code(fails)

    with world_of("pd1:") as world:
        deed = world.transact("place b", body)
        world.run(until=world.now + 1_000)
        assert (deed.is_done, deed.error) == (True, None)
        assert orders(world) == ["b"] == list(world.history.workflows)
        store = world.open_disk()
        store.open(max_parallelism=None)
        world.history.check_store(store)
        store.close()


def test_the_client_does_not_end_the_transaction_itself(
    world_of: Callable[[str], AbstractContextManager[World]],
) -> None:
    """It is committed where its function returns; who does so before is told."""
    with world_of("pd1:") as world:
        deed = world.transact("commits", lambda over: over.db.rollback())
        world.run(until=world.now + 1_000)
        assert isinstance(deed.error, ConnectionMisuse)


def test_a_send_takes_no_longer_where_many_events_are_created(
    world_of: Callable[[str], AbstractContextManager[World]],
) -> None:
    """Four times the created events of one name, and the sends to them, take four times the calls,
    also in the model store."""
    counts = []
    for count in (100, 400):

        def body(over: MutationContext, count: int = count) -> None:
            place(over, "b")
            with counted() as calls:
                for verb in (over.create_event, over.send_event):
                    for _ in range(count):
                        verb("e", workflow_id="b")
            counts.append(calls())

        with world_of("pd1:") as world:
            deed = world.transact("place b", body)
            world.run(until=world.now + 1_000)
            assert (deed.is_done, deed.error) == (True, None)
    few, many = counts
    assert many / few < 6, counts


def test_the_law_sees_a_disk_that_keeps_the_one_without_the_other() -> None:
    """The user's rows alone are taken back, as if each had a transaction of its own."""

    def make_disk() -> Disk:
        disk = memory_disk()

        def over(store: Any, fn: Any, before_commit: Any) -> Any:
            def torn(guest: Any) -> Any:
                value = fn(guest)
                execute(guest.db, "DELETE FROM orders")
                return value

            return disk.over(store, torn, before_commit)

        return attrs.evolve(disk, over=over)

    found = run(GUESTS, FaultPlan(), make_disk)
    assert isinstance(found.failure, AssertionError)
    assert str(found.failure).startswith("orders [], workflows ['a']")
