"""Measure what more worker processes gain on PostgreSQL: a line for each number of them.

``benchmarks/workers.py --workers 1,2,4``: workflows of ten steps each wait in the database; then so
many workers begin at once. Steps a second are by the times that the database has. Beside them
stands the processor time that the workers and the server took, and how much of what the machine has
that is: where all is used, more workers gain nothing; where little is, all wait for the disk, which
``--durability process`` leaves out. With ``--store`` this file is one worker.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.app import CHAIN_STEPS, App  # noqa: E402
from benchmarks.places import ServerPlace  # noqa: E402
from benchmarks.raw import Durability  # noqa: E402

if TYPE_CHECKING:
    from tests.postgres import Server

#: So many workflows, started by a client in portions.
WORKFLOWS = 2_000
PORTION = 500

_TICKS = os.sysconf("SC_CLK_TCK")


def _ended(store: str) -> tuple[int, float]:
    """How many workflows have succeeded, and the seconds from the first begin to the last end."""
    import psycopg

    with psycopg.connect(store) as db:
        sql = "SELECT count(*), max(ended_at) - min(started_at) FROM perdure_workflows"
        row = db.execute(f"{sql} WHERE status = 'success'").fetchone()
    assert row is not None
    return int(row[0]), int(row[1]) / 1000


def _server_seconds(postmaster: int) -> float:
    """Processor time of a server until now: its own, and that of all its processes, ended ones
    too (Linux)."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        if int(stat.parent.name) == postmaster:
            ticks += sum(map(int, fields[11:15]))
        elif int(fields[1]) == postmaster:
            ticks += sum(map(int, fields[11:13]))
    return ticks / _TICKS


async def _prepare(app: App) -> None:
    async with app.manager.client():
        for _ in range(WORKFLOWS // PORTION):
            starts = [app.manager.start(app.chain(CHAIN_STEPS)) for _ in range(PORTION)]
            await asyncio.gather(*starts)


def work(store: str, durability: Durability) -> None:
    """Be a worker from the first line of the standard input until nothing is left; print the
    processor time that it took."""
    app = App(store, durability)
    print("ready", flush=True)
    sys.stdin.readline()
    before = resource.getrusage(resource.RUSAGE_SELF)
    app.manager.run(until_idle=True)
    after = resource.getrusage(resource.RUSAGE_SELF)
    print(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)


def measure(server: Server, folder: Path, count: int, durability: Durability) -> str:
    """A line for this number of workers."""
    store = ServerPlace(folder, server).store("workers")
    asyncio.run(_prepare(App(store, "process", max_parallelism=1_000)))
    command = [sys.executable, str(Path(__file__)), "--durability", durability, "--store", store]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    for worker in workers:
        assert worker.stdout is not None
        worker.stdout.readline()
    postmaster = server.pid
    before, begin = _server_seconds(postmaster), perf_counter()
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    own = sum(float(worker.communicate()[0]) for worker in workers)
    wall, served = perf_counter() - begin, _server_seconds(postmaster) - before
    ended, seconds = _ended(store)
    if ended != WORKFLOWS:
        raise RuntimeError(f"{ended} of {WORKFLOWS} workflows have ended")
    share = (own + served) / (wall * (os.cpu_count() or 1))
    rate = WORKFLOWS * CHAIN_STEPS / seconds
    return f"{count:>7}  {rate:>9,.0f}  {own:>9.2f} s  {served:>9.2f} s  {share:>9.0%}"


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(prog="benchmarks/workers.py", description=__doc__)
    parser.add_argument("--workers", default="1,2,4", help="how many")
    parser.add_argument("--durability", choices=("disk", "process"), default="disk")
    parser.add_argument("--store", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.store is not None:
        work(options.store, options.durability)
        return
    from tests.postgres import DURABLE, Server

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="perdure-workers-")))
        server = stack.enter_context(Server(**DURABLE, shared_buffers="512MB"))
        heads = f"{'steps/s':>9}  {'workers':>11}  {'server':>11}  {'of machine':>9}"
        print(f"{'workers':>7}  {heads}")
        for count in map(int, options.workers.split(",")):
            print(measure(server, folder, count, options.durability), flush=True)


if __name__ == "__main__":
    main()
