"""`max_parallelism` bounds all workers together, also when one of them is killed."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tests.chaos.checker import Checker, Known
from tests.chaos.ledger import Ledger, create_tables
from tests.chaos.processes import Effect, Effects, Worker, wait_until

LIMIT = 5
ACTIONS = 30
#: Workflows that are started at least, and at most until both workers have got some.
WORKFLOWS_MIN, WORKFLOWS_MAX = 8, 200

RECORDED = "SELECT count(*) FROM perdure_steps WHERE kind = 'action' AND state = 'started'"
WORKERS = "SELECT count(*) FROM perdure_workers"
LEFT = "SELECT count(*) FROM perdure_workflows WHERE status = 'in_progress'"


def most_at_once(effects: list[Effect], killed: set[int]) -> int:
    """The largest number of attempts whose code ran at the same time.

    `killed` are the processes that were: what they left open ended with them.
    """
    changes = []
    open_attempts = {}
    for effect in effects:
        attempt = (effect.workflow, effect.number, effect.attempt)
        changes.append((effect.at, 1 if effect.phase == "start" else -1))
        if effect.phase == "start":
            open_attempts[attempt] = effect
        else:
            del open_attempts[attempt]
    # The moment of a kill is not known: the last line of the process is the latest sure one.
    last = {effect.pid: effect.at for effect in effects}
    for effect in open_attempts.values():
        assert effect.pid in killed, f"an attempt without an end: {effect}"
        changes.append((last[effect.pid], -1))
    running = most = 0
    for _, change in sorted(changes):
        running += change
        most = max(most, running)
    return most


@pytest.mark.chaos
def test_two_workers_keep_one_limit(tmp_path: Path) -> None:
    """At no moment do more attempts run, or stand recorded as started, than the limit allows."""
    database, effects = tmp_path / "chaos.db", Effects(tmp_path / "effects.jsonl")
    create_tables(database)
    ledger = Ledger(database, effects.path)
    ledger.manager.sync.update_config(max_parallelism=LIMIT)
    recorded = []

    with closing(sqlite3.connect(database, isolation_level=None)) as connection:

        def look(sql: str) -> int:
            count: int = connection.execute(sql).fetchone()[0]
            return count

        def is_done() -> bool:
            recorded.append(look(RECORDED))
            return look(LEFT) == 0

        with (
            Worker(database, effects.path) as victim,
            Worker(database, effects.path) as other,
        ):
            assert wait_until(lambda: look(WORKERS) == 2), other.told()
            started = 0
            while started < WORKFLOWS_MIN or len({effect.pid for effect in effects.read()}) < 2:
                assert started < WORKFLOWS_MAX, "one worker got no attempt"
                ledger.manager.sync.start(ledger.steady(ACTIONS, 8), id=f"w{started}")
                started += 1
                is_done()
            wait_until(lambda: is_done() or effects.count() > started * ACTIONS // 2)
            victim.kill()
            assert wait_until(is_done), other.told()
    ledger.manager.sync.close()

    assert 1 < max(recorded) <= LIMIT
    assert 1 < most_at_once(effects.read(), {victim.pid}) <= LIMIT
    assert Checker(database, effects, Known()).faults() == []
