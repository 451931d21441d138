"""Workers that are asked to end, and workers that are stopped for a while."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from tests.chaos.checker import Checker, Known
from tests.chaos.databases import SqliteFile, values
from tests.chaos.ledger import Ledger
from tests.chaos.processes import Effects, Worker, pause, wait_until


@attrs.frozen
class Place:
    """A database with its effects, and the definitions, to call from here."""

    database: SqliteFile
    ledger: Ledger
    effects: Effects
    known: Known

    def start(self, id_: str, *, count: int, ms: int) -> None:
        """Start a workflow of `count` parallel actions of `ms` each, at most once."""
        self.ledger.manager.sync.start(self.ledger.steady(count, ms), id=id_)

    def limit(self, max_parallelism: int) -> None:
        self.ledger.manager.sync.update_config(max_parallelism=max_parallelism)

    def worker(self, *options: str) -> Worker:
        return Worker(self.database, self.effects.path, *options)

    def select(self, sql: str) -> list[tuple[object, ...]]:
        return values(self.database, sql)

    def faults(self) -> list[str]:
        return Checker(self.database, self.effects, self.known).faults()

    def run_rest(self) -> int:
        """Let one worker end everything: its exit code."""
        with self.worker("--until-idle") as worker:
            return worker.wait()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    database, effects = SqliteFile(tmp_path / "chaos.db"), tmp_path / "effects.jsonl"
    database.create_tables()
    ledger = Ledger(database.address, effects)
    yield Place(database, ledger, Effects(effects), Known())
    ledger.manager.sync.close()


@pytest.mark.chaos
def test_a_worker_that_is_asked_to_end_finishes_what_runs(place: Place) -> None:
    """On SIGTERM a worker ends well: each attempt that it started is finished and recorded."""
    for number in range(6):
        place.start(f"w{number}", count=40, ms=25)
    place.limit(8)
    with place.worker() as worker:
        assert wait_until(lambda: place.effects.count() > 30), worker.told()
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0, worker.told()
    phases = Counter(effect.phase for effect in place.effects.read())
    assert phases["start"] == phases["end"] < 6 * 40  # in the middle, and nothing was cut off
    assert place.select("SELECT id FROM perdure_workflows WHERE owner IS NOT NULL") == []
    assert place.select("SELECT number FROM perdure_steps WHERE runner IS NOT NULL") == []
    assert place.select("SELECT id FROM perdure_workers") == []

    assert place.run_rest() == 0
    assert place.faults() == []
    failed = "SELECT workflow_id, number, error FROM perdure_steps WHERE outcome = 'failed'"
    assert place.select(failed) == []


@pytest.mark.chaos
def test_what_does_not_end_in_time_is_recorded_as_lost(place: Place) -> None:
    """An attempt that outlasts `drain_timeout` is lost, not run again, and the worker ends well."""
    place.start("slow", count=3, ms=60_000)
    with place.worker("--drain-timeout", "0.2") as worker:
        assert wait_until(lambda: place.effects.count() == 3), worker.told()
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0, worker.told()
    assert place.run_rest() == 0
    assert place.faults() == []
    values = place.select("SELECT value FROM perdure_workflows WHERE id = 'slow'")
    assert values == [('["WorkerLost","WorkerLost","WorkerLost"]',)]
    assert place.effects.count() == 3


@pytest.mark.chaos
def test_nobody_takes_over_from_a_stopped_worker(place: Place) -> None:
    """A worker that is stopped (SIGSTOP) lives: its workflows stay its own, and it goes on."""
    place.start("mine", count=60, ms=20)
    owner = "SELECT owner FROM perdure_workflows WHERE id = 'mine'"
    place.limit(2)
    with place.worker() as stopped:
        assert wait_until(lambda: place.effects.count() > 5), stopped.told()
        stopped.send(signal.SIGSTOP)
        before = place.select(owner)
        with place.worker() as other:
            # Long enough for many looks of the other one at who is dead.
            pause(1.5)
            during = place.select(owner)
            stopped.send(signal.SIGCONT)
            ended = "SELECT 1 FROM perdure_workflows WHERE status = 'success'"
            assert wait_until(lambda: place.select(ended)), stopped.told()
            other.send(signal.SIGTERM)
            assert other.wait() == 0, other.told()
        stopped.send(signal.SIGTERM)
        assert stopped.wait() == 0, stopped.told()
    assert before == during != [(None,)]
    assert place.faults() == []
    assert place.select("SELECT takeovers FROM perdure_workflows") == [(0,)]
    lost = "SELECT number FROM perdure_steps WHERE outcome <> 'success'"
    assert place.select(lost) == []
