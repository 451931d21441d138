"""Measure what workflows cost that are only stored: a table by their number.

``benchmarks/scale.py --sizes 10000,100000`` fills a database with workflows, half of them asleep
for a year and half of them ended, with a step each, by copying the rows of two real ones. Every
second sleeper has a name that no worker knows. Then it measures, at each size, what a worker does
for others. A column is flat if the index is right.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.app import App  # noqa: E402
from benchmarks.places import FilePlace, Place, ServerPlace  # noqa: E402

from perdure.store.base import WorkflowFilter  # noqa: E402
from perdure.store.postgres.store import PostgresStore  # noqa: E402
from perdure.store.sqlite import SqliteStore  # noqa: E402

#: Workflows of one step that a worker claims and ends.
CLAIMED = 200
#: Starts, one at a time, and listings.
TIMED = 100
PAGE = 100

#: Each table with the column that names a row's workflow.
TABLES = (("perdure_workflows", "id"), ("perdure_steps", "workflow_id"))

#: Columns that the database fills.
OWN_COLUMNS = ("seq", "is_ready", "away_runner")

#: What workflows are called that no worker knows.
STRANGE = "strange"

#: So many rows at a time are copied.
CHUNK = 50_000


class Filler:
    """Copies the rows of a workflow under new ids."""

    def __init__(self, store: str) -> None:
        self._is_file = "://" not in store
        self._db: Any
        if self._is_file:
            self._db = sqlite3.connect(store, isolation_level=None)
        else:
            import psycopg

            self._db = psycopg.connect(store, autocommit=True)

    def close(self) -> None:
        """After planning anew for the sizes that there are now, and with nothing left to write."""
        if self._is_file:
            self._db.execute("ANALYZE")
        else:
            self._db.execute("VACUUM ANALYZE")
            self._db.execute("CHECKPOINT")
        self._db.close()

    def copy(self, template: str, first: int, count: int) -> None:
        """Make `count` copies, numbered from `first`."""
        for begin in range(first, first + count, CHUNK):
            end = min(begin + CHUNK, first + count)
            for table, key in TABLES:
                self._copy(table, key, template, begin, end)

    def _copy(self, table: str, key: str, template: str, begin: int, end: int) -> None:
        found = self._db.execute(f"SELECT * FROM {table} LIMIT 0")
        columns = [each[0] for each in found.description if each[0] not in OWN_COLUMNS]
        given = {key: f"'{template}-' || n"}
        if template == "asleep" and key == "id":
            given["name"] = f"CASE n % 2 WHEN 0 THEN name ELSE '{STRANGE}' END"
        values = ", ".join(given.get(each, each) for each in columns)
        if self._is_file:
            numbers = f"WITH RECURSIVE s (n) AS (SELECT {begin} UNION ALL SELECT n + 1 FROM s"
            numbers += f" WHERE n < {end - 1})"
            source = "s"
        else:
            numbers, source = "", f"generate_series({begin}, {end - 1}) AS s (n)"
        self._db.execute(
            f"INSERT INTO {table} ({', '.join(columns)}) {numbers}"
            f" SELECT {values} FROM {table}, {source} WHERE {key} = '{template}'"
        )


async def _templates(app: App) -> None:
    async with app.manager as manager:
        await manager.start(app.sleeper(), id="asleep")
        await manager.result(await manager.start(app.chain(1), id="ended"))
        while app.asleep < 1:  # noqa: ASYNC110 - counted by the engine's thread
            await asyncio.sleep(0.01)


async def _claims(app: App) -> float:
    """Milliseconds for each workflow that a new worker claims and ends."""
    async with app.manager.client():
        starts = [app.manager.start(app.chain(1)) for _ in range(CLAIMED)]
        ids = await asyncio.gather(*starts)
    async with app.manager as manager:
        begin = perf_counter()
        await asyncio.gather(*[manager.result(each) for each in ids])
        return (perf_counter() - begin) / CLAIMED * 1000


def _looks(address: str) -> float:
    """Median milliseconds of what a worker looks for by its names, and of pages by status alone."""
    opened: SqliteStore | PostgresStore = SqliteStore(address, access="read")
    if "://" in address:
        opened = PostgresStore(address, access="read")
    opened.open(max_parallelism=None)
    try:
        times = []
        for _ in range(TIMED):
            reader = opened.reader()
            begin = perf_counter()
            for names in (["unknown"], ["sleeper", "chain"]):
                reader.claimable(names, 1, 1)
                reader.next_wake(names)
                reader.count_active(names, 1000)
            for status, is_ascending in (("failed", True), ("success", False), ("success", True)):
                reader.list_workflows(
                    WorkflowFilter(status=status, is_ascending=is_ascending, limit=PAGE)
                )
            reader.list_workflows(WorkflowFilter(name=STRANGE, limit=PAGE))
            times.append(perf_counter() - begin)
    finally:
        opened.close()
    return median(times) * 1000


async def _turns(app: App) -> tuple[float, float]:
    """Median milliseconds from a start to its result, and of a page of sleepers."""
    starts, pages = [], []
    async with app.manager as manager:
        for _ in range(TIMED):
            begin = perf_counter()
            await manager.result(await manager.start(app.chain(1)))
            starts.append(perf_counter() - begin)
        for _ in range(TIMED):
            begin = perf_counter()
            await manager.list_workflows(status="in_progress", name="sleeper", limit=PAGE)
            pages.append(perf_counter() - begin)
    return median(starts) * 1000, median(pages) * 1000


def measure(place: Place, sizes: Sequence[int], repeat: int) -> None:
    """Fill up to each size, and print a line of it."""
    store = place.store("scale")

    def app() -> App:
        return App(store, place.durability)

    asyncio.run(_templates(app()))
    heads = f"{'claim and end':>14}  {'start → result':>15}  {'page of 100':>12}  {'looks':>12}"
    print(f"{'stored':>10}  {heads}")
    stored = 0
    for size in sorted(sizes):
        with closing(Filler(store)) as filler:
            for template in ("asleep", "ended"):
                filler.copy(template, stored // 2, (size - stored) // 2)
        stored = size
        claims, turns, pages, looks = [], [], [], []
        for _ in range(repeat):
            claims.append(asyncio.run(_claims(app())))
            turn, page = asyncio.run(_turns(app()))
            turns.append(turn)
            pages.append(page)
            looks.append(_looks(store))
        cells = f"{min(claims):>11.3f} ms  {min(turns):>12.3f} ms  {min(pages):>9.3f} ms"
        print(f"{size:>10,}  {cells}  {min(looks):>9.3f} ms", flush=True)


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(prog="benchmarks/scale.py", description=__doc__)
    parser.add_argument("--sizes", default="10000,100000,1000000", help="stored workflows")
    parser.add_argument("--repeat", type=int, default=3, help="the best is shown")
    parser.add_argument("--postgresql", action="store_true", help="on a server of its own")
    options = parser.parse_args()
    sizes = [int(size) for size in options.sizes.split(",")]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="perdure-scale-")))
        place: Place = FilePlace(folder, "disk")
        if options.postgresql:
            from tests.postgres import DURABLE, Server

            place = ServerPlace(
                folder, stack.enter_context(Server(**DURABLE, shared_buffers="512MB"))
            )
        measure(place, sizes, options.repeat)


if __name__ == "__main__":
    main()
