"""Kill busy workers at random moments, many times, then judge what is left.

``python -m tests.chaos.kill --rounds 200 --seed 7`` is the long version of test_kill.py. A seed
fixes what is started and when a kill is wanted; the processes themselves run as they like, so a
seed does not replay a fault: the folder of a failed run is kept.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from random import Random
from time import monotonic  # noqa: TID251 - real processes need real time

from tests.chaos.checker import Checker, Known
from tests.chaos.databases import Database, SqliteFile, value
from tests.chaos.ledger import OPERATIONS, Ledger, go
from tests.chaos.processes import Effects, Worker, pause, wait_until

from perdure import WorkflowNotRunning

#: Calls that the driver makes in one round, at most.
CALLS_PER_ROUND = 40
#: A round ends by then even if the workers do nothing, in seconds.
ROUND_SECONDS_MAX = 1.5
#: A workflow whose worker has died so often, without its getting on in between, gets the time to
#: get on before the next kill: at five the engine blocks it, on purpose (test_poison.py).
TAKEOVERS_MAX = 3


class Chaos:
    """One database, its workers, and the driver that calls and kills.

    Args:
        database: new, without tables.
        seed: of all choices.
        workers: how many processes work on the database at a time.
    """

    def __init__(self, database: Database, seed: int, workers: int = 1) -> None:
        self.database = database
        self._random = Random(seed)
        database.create_tables()
        self.effects = Effects(database.folder / "effects.jsonl")
        self._ledger = Ledger(database.address, self.effects.path)
        self.known = Known()
        self.kills = 0
        self._wanted = workers
        self._workers: list[Worker] = []

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()
        self._ledger.manager.sync.close()

    # --- calls

    def _start(self) -> None:
        random = self._random
        id_ = f"w{len(self.known.plans)}"
        plan = random.choices(OPERATIONS, k=random.randint(3, 10))
        if random.random() < 0.1:
            plan.append("fail")
        self._ledger.manager.sync.start(
            self._ledger.mixed(plan, random.randint(1, 13)),
            id=id_,
            on_complete=self._ledger.ended,
            context=f"of {id_}",
        )
        self.known.plans[id_] = plan
        self.known.sent[id_] = 0

    def _send(self, id_: str) -> None:
        number = self.known.sent[id_]
        self._ledger.manager.sync.send_event(go, workflow_id=id_, value=number)
        self.known.sent[id_] = number + 1

    def _cancel(self, id_: str) -> None:
        try:
            self._ledger.manager.sync.cancel(id_)
        except WorkflowNotRunning:
            return
        self.known.canceled.add(id_)

    def _unsent(self) -> list[str]:
        return [
            id_
            for id_, plan in self.known.plans.items()
            if self.known.sent[id_] < plan.count("event")
        ]

    def _call(self) -> None:
        chance = self._random.random()
        unsent = self._unsent()
        if chance < 0.05 and self.known.plans:
            self._cancel(self._random.choice(list(self.known.plans)[-20:]))
        elif chance < 0.5 and unsent:
            self._send(self._random.choice(unsent))
        else:
            self._start()

    # --- rounds

    def round(self) -> None:
        """Have workers at work, call the manager, and kill one of them at some moment."""
        self.employ()
        self.call_for_a_while()
        self.kill()

    def employ(self) -> None:
        """Have as many workers as are wanted."""
        while len(self._workers) < self._wanted:
            self._workers.append(Worker(self.database, self.effects.path))

    def call_for_a_while(self) -> None:
        """Call the manager, until the workers have done something or the time is over."""
        random = self._random
        end = monotonic() + ROUND_SECONDS_MAX
        if random.random() < 0.2:  # also while one starts, claims, or takes over
            end = monotonic() + random.uniform(0, 0.6)
        goal = self.effects.count() + random.randint(1, 150)
        calls = 0
        while self.effects.count() < goal and monotonic() < end:
            if calls < CALLS_PER_ROUND:
                self._call()
                calls += 1
            pause(0.001)
        pause(random.uniform(0, 0.012))

    def kill(self) -> None:
        """Kill a worker, unless its workflows have seen too many die."""
        victim = self._random.choice(self._workers)
        if not wait_until(lambda: self._most_takeovers() <= TAKEOVERS_MAX):
            raise RuntimeError(f"a workflow does not get on\n{victim.told()}")
        if not victim.is_running:
            raise RuntimeError(f"a worker ended by itself\n{victim.told()}")
        victim.kill()
        self._workers.remove(victim)
        self.kills += 1

    def _most_takeovers(self) -> int:
        sql = "SELECT max(takeovers) FROM perdure_workflows WHERE status = 'in_progress'"
        return value(self.database, sql) or 0

    def finish(self) -> list[str]:
        """Send what is still awaited, let one worker end everything, and judge."""
        for worker in self._workers:
            worker.kill()
        self._workers.clear()
        for id_ in self._unsent():
            while self.known.sent[id_] < self.known.plans[id_].count("event"):
                self._send(id_)
        with Worker(self.database, self.effects.path, "--until-idle") as last:
            code = last.wait()
            faults = [] if code == 0 else [f"the last worker: exit code {code}\n{last.told()}"]
        return faults + Checker(self.database, self.effects, self.known).faults()


def run_rounds(chaos: Chaos, rounds: int, *, show: bool = False) -> list[str]:
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
        return chaos.finish()
    finally:
        chaos.close()


def main() -> int:
    """The long version; 0 if nothing was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.kill")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="perdure-chaos-"))
    begin = monotonic()
    chaos = Chaos(SqliteFile(folder / "chaos.db"), options.seed, options.workers)
    faults = run_rounds(chaos, options.rounds, show=True)
    known = chaos.known
    print_line(
        f"{chaos.kills} kills, {len(known.plans)} workflows, {len(known.canceled)} canceled,"
        f" {sum(known.sent.values())} events, {chaos.effects.count()} effects:"
        f" {len(faults)} faults in {monotonic() - begin:.0f} s"
    )
    for fault in faults:
        print_line(fault[:1_000])
    if faults:
        print_line(f"kept: {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


def print_line(text: str) -> None:
    """To standard output: this file is a command too."""
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
