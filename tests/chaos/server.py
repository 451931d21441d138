"""Trouble on a PostgreSQL server, and among its workers, under load; then judge what is left.

``python -m tests.chaos.server --rounds 60 --seed 7`` is the long version of test_server.py. Beside
kills there are workers that are stopped beyond their lease and go on as zombies, connections that
are cut, restarts of the server, and times in which it takes no writes.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from time import monotonic  # noqa: TID251 - real processes need real time
from typing import TypeAlias

from tests.chaos.databases import ServerDatabase, value
from tests.chaos.kill import Chaos, print_line
from tests.chaos.processes import pause
from tests.postgres import DURABLE, Server

from perdure import StoreReadOnly

#: Seconds after which a worker that does not renew its lease is taken for dead.
LEASE_SECONDS = 2

#: Attempts of actions that may run at a time.
LIMIT = 12

#: What workers hold that nobody has taken for dead: an attempt needs one of them to run.
PERMITS = "SELECT coalesce(sum(permits), 0) FROM perdure_workers WHERE NOT fenced"


class ServerChaos(Chaos):
    """One database of a server, its workers, and all that goes wrong.

    Args:
        server: that nobody else uses.
        folder: for effects and logs.
        seed: of all choices.
        workers: how many processes work at a time.

    Attributes:
        troubles: how often each of them came about.
        most_permits: the largest number that was seen in use.
    """

    def __init__(self, server: Server, folder: Path, seed: int, workers: int = 4) -> None:
        self._server = server
        database = ServerDatabase(server.create_database(), folder, f"lease={LEASE_SECONDS}")
        super().__init__(database, seed, workers)
        self._ledger.manager.sync.update_config(max_parallelism=LIMIT)
        self.troubles: Counter[str] = Counter()
        self.most_permits = 0
        self._left: list[Trouble] = []

    def round(self) -> None:
        """Have workers at work, call the manager, and have one thing go wrong meanwhile."""
        if not self._left:  # each in turn, in another order each time
            self._left = self._random.sample(TROUBLES, len(TROUBLES))
        trouble = self._left.pop()
        self.troubles[trouble.__name__] += 1
        self.employ()
        self.call_for_a_while()
        with self._meanwhile(lambda: trouble(self)):
            self.call_for_a_while()
        self.most_permits = max(self.most_permits, value(self.database, PERMITS))
        self.look_after()

    @contextmanager
    def _meanwhile(self, trouble: Callable[[], None]) -> Iterator[None]:
        """While this goes on in another thread, the driver calls: it feels it too."""
        errors: list[BaseException] = []

        def run() -> None:
            try:
                trouble()
            except BaseException as error:
                errors.append(error)

        thread = Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            thread.join()
        for error in errors:
            raise error

    def look_after(self) -> None:
        """No worker ends by itself, whatever goes wrong with the server."""
        for worker in self._workers:
            if not worker.is_running:
                raise RuntimeError(f"a worker ended by itself\n{worker.told()}")

    def _call(self) -> None:
        with suppress(StoreReadOnly):  # told at once, and nothing was done
            super()._call()

    # --- what goes wrong

    def stopped_beyond_its_lease(self) -> None:
        """A worker stands still until the others take it for dead, then goes on."""
        zombie = self._random.choice(self._workers)
        zombie.send(signal.SIGSTOP)
        pause(LEASE_SECONDS * self._random.uniform(0.5, 2))
        zombie.send(signal.SIGCONT)

    def connections_cut(self) -> None:
        """Several times, all sessions end."""
        for _ in range(self._random.randint(1, 5)):
            self._server.cut_connections()
            pause(self._random.uniform(0, 0.2))

    def restarted(self) -> None:
        """The server is stopped in good order and is gone for a while."""
        self._server.shut_down("fast")
        pause(self._random.uniform(0, LEASE_SECONDS * 1.5))
        self._server.start()

    def crashed(self) -> None:
        """The server dies; it recovers when it is started again."""
        self._server.shut_down("immediate")
        pause(self._random.uniform(0, 1))
        self._server.start()

    def read_only(self) -> None:
        """For a while no transaction may write, as on a standby or a full disk."""
        self._server.set("default_transaction_read_only", "on")
        pause(self._random.uniform(0.1, LEASE_SECONDS * 1.5))
        self._server.set("default_transaction_read_only", "off")


Trouble: TypeAlias = Callable[[ServerChaos], None]

TROUBLES: tuple[Trouble, ...] = (
    ServerChaos.kill,
    ServerChaos.stopped_beyond_its_lease,
    ServerChaos.connections_cut,
    ServerChaos.restarted,
    ServerChaos.crashed,
    ServerChaos.read_only,
)


def run_rounds(chaos: ServerChaos, rounds: int, *, show: bool = False) -> list[str]:
    """So many rounds and the end; the faults."""
    try:
        for number in range(1, rounds + 1):
            chaos.round()
            if show:
                sys.stderr.write(
                    f"\rround {number}/{rounds}: {len(chaos.known.plans)} workflows started,"
                    f" {chaos.effects.count()} effects "
                )
                sys.stderr.flush()
        if show:
            sys.stderr.write("\n")
        faults = chaos.finish()
        if chaos.most_permits > LIMIT:
            faults.append(f"{chaos.most_permits} permits were held at once, not {LIMIT}")
        return faults
    finally:
        chaos.close()


def main() -> int:
    """The long version; 0 if nothing was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.server")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=4)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="perdure-chaos-"))
    begin = monotonic()
    with Server(**DURABLE) as server:
        chaos = ServerChaos(server, folder, options.seed, options.workers)
        faults = run_rounds(chaos, options.rounds, show=True)
    known = chaos.known
    print_line(", ".join(f"{count} × {name}" for name, count in chaos.troubles.most_common()))
    print_line(
        f"{len(known.plans)} workflows, {len(known.canceled)} canceled,"
        f" {sum(known.sent.values())} events, {chaos.effects.count()} effects, at most"
        f" {chaos.most_permits} of {LIMIT} permits held:"
        f" {len(faults)} faults in {monotonic() - begin:.0f} s"
    )
    for fault in faults:
        print_line(fault[:1_000])
    if faults:
        print_line(f"kept: {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
