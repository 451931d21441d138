"""The tables in PostgreSQL: what they refuse by themselves, and an upgrade under load.

(What all stores do alike: tests/store/test_versions.py.)
"""

from __future__ import annotations

import threading
from pathlib import Path

import attrs
import psycopg
import pytest
from tests.store.places import Place, newer
from tests.store.postgres.databases import STILL, end_connections, execute, soon

from perdure.errors import StoreBusy, StoreUnavailable
from perdure.store.postgres.store import OPEN_PAUSE, UPGRADE_TRIES, PostgresStore


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO perdure_config VALUES (2, 1, 1)",
        "UPDATE perdure_config SET max_parallelism = -1",
        "UPDATE perdure_workers SET permits = -1",
        "UPDATE perdure_workers SET wanting = -1",
        "UPDATE perdure_workflows SET epoch = 0",
        "UPDATE perdure_workflows SET status = 'paused'",
        "UPDATE perdure_workflows SET status = 'success'",
        "UPDATE perdure_workflows SET value = '1'",
        "UPDATE perdure_workflows SET owner = 'nobody'",
        "UPDATE perdure_workflows SET position = 0",
        "UPDATE perdure_workflows SET parent_id = 'x'",
        "INSERT INTO perdure_ticks VALUES ('unknown', 1, 1)",
        "INSERT INTO perdure_ticks VALUES ('w', 0, 1)",
        (
            "INSERT INTO perdure_events (workflow_id, id, name, created_at, value) VALUES"
            " ('w', 'e', 'e', 1, '1')"
        ),
        "UPDATE perdure_workflows SET status = 'failed', ended_at = 1",
        "UPDATE perdure_workflows SET status = 'success', ended_at = 1, value = '1', wake_at = 1",
        "UPDATE perdure_steps SET number = -1",
        "UPDATE perdure_steps SET kind = 'rest'",
        "UPDATE perdure_steps SET asked_position = -1",
        "UPDATE perdure_steps SET state = 'lost'",
        "UPDATE perdure_steps SET attempt = -1",
        "UPDATE perdure_steps SET state = 'settled'",
        "UPDATE perdure_steps SET outcome = 'canceled'",
        "UPDATE perdure_steps SET state = 'settled', outcome = 'lost'",
        "UPDATE perdure_steps SET state = 'settled', outcome = 'success'",
        "UPDATE perdure_steps SET state = 'settled', outcome = 'canceled', value = '1'",
        "UPDATE perdure_steps SET state = 'settled', outcome = 'failed'",
        "UPDATE perdure_steps SET state = 'settled', outcome = 'canceled', error = '{}'",
        "UPDATE perdure_steps SET state = 'started', attempt = 1",
        "UPDATE perdure_steps SET state = 'started', runner = 'w'",
        "UPDATE perdure_steps SET delivered_position = 1",
        (
            "UPDATE perdure_steps SET state = 'settled', outcome = 'canceled',"
            " delivered_position = 0"
        ),
        (
            "UPDATE perdure_steps SET state = 'settled', outcome = 'success', value = '1',"
            " canceled_position = 1"
        ),
        (
            "INSERT INTO perdure_steps (workflow_id, number, kind, name, asked_position, asked_at,"
            " asked_epoch, state) VALUES ('w', 1, 'action', 'a', 0, 0, 1, 'started')"
        ),
    ],
)
def test_what_must_not_be_stored_cannot_be(
    store: PostgresStore, postgres_url: str, sql: str
) -> None:
    """The database itself refuses it."""
    execute(
        postgres_url,
        "INSERT INTO perdure_workflows (id, name, arguments, rules, created_at, start_at, status,"
        " epoch) VALUES ('w', 'w', '{}', 1, 1, 1, 'in_progress', 1)",
    )
    execute(postgres_url, "INSERT INTO perdure_workers VALUES ('w', false, 1, now())")
    execute(
        postgres_url,
        "INSERT INTO perdure_steps (workflow_id, number, kind, name, asked_position, asked_at,"
        " asked_epoch, state) VALUES ('w', 0, 'action', 'a', 0, 0, 1, 'asked')",
    )
    with pytest.raises(psycopg.IntegrityError):
        execute(postgres_url, sql)


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("UPDATE perdure_workers SET permits = -1", "permits -1 and wanting 0 of worker 'me'"),
        (
            "UPDATE perdure_workflows SET status = 'failed'",
            (
                "workflow 'w' with status 'failed', epoch 1, owner NULL, ended_at NULL, wake_at"
                " NULL, parent NULL NULL; has value: f, has error: t"
            ),
        ),
        (
            "UPDATE perdure_steps SET state = 'lost'",
            (
                "step 0 of workflow 'w' with kind 'action', state 'lost', outcome NULL, attempt 0,"
                " runner NULL, positions 0 NULL NULL; has value: t, has error: f"
            ),
        ),
    ],
)
def test_what_was_refused_is_told_without_values_of_users(
    store: PostgresStore, postgres_url: str, sql: str, told: str
) -> None:
    """An error may go into a log: it says which row, and what is wrong with it."""
    execute(
        postgres_url,
        "INSERT INTO perdure_workflows (id, name, arguments, context, rules, created_at, start_at,"
        " status, epoch) VALUES ('w', 'w', '\"secret\"', '\"secret\"', 1, 1, 1, 'in_progress', 1)",
    )
    execute(postgres_url, "INSERT INTO perdure_workers VALUES ('me', false, 1, now())")
    execute(
        postgres_url,
        "INSERT INTO perdure_steps (workflow_id, number, kind, name, arguments, asked_position,"
        " asked_at, asked_epoch, state)"
        " VALUES ('w', 0, 'action', 'a', '\"secret\"', 0, 0, 1, 'asked')",
    )
    column = "error" if "workflows" in sql else "value"
    secret = "" if "workers" in sql else f", {column} = '\"secret\"'"
    with pytest.raises(psycopg.IntegrityError) as caught:
        execute(postgres_url, f"{sql}{secret}")
    assert str(caught.value).splitlines()[0] == f"perdure must not store {told}"
    assert "secret" not in str(caught.value)


@pytest.fixture
def place(postgres_url: str) -> Place:
    """The same database."""
    return Place("postgres", postgres_url)


def test_a_crash_on_the_way_leaves_the_older_tables(
    place: Place, store: PostgresStore, tmp_path: Path
) -> None:
    """Whoever comes next finds them whole, and goes the way again."""
    before = place.tables()
    schema = newer(place, tmp_path, "CREATE TABLE perdure_more (x int)", "SELECT pg_sleep(3600)")
    failures: list[BaseException] = []

    def upgrade() -> None:
        try:
            place.store(schema=schema).open(max_parallelism=None)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=upgrade)
    thread.start()
    sql = "SELECT 1 FROM pg_stat_activity WHERE query ~ '^SELECT pg_sleep' AND state = 'active'"
    assert soon(lambda: bool(execute(place.address, sql)))
    end_connections(place.address)
    thread.join()
    assert [type(failure) for failure in failures] == [StoreUnavailable]
    assert place.tables() == before
    schema = newer(place, tmp_path, "CREATE TABLE perdure_more (x int)")
    again = place.store(schema=schema)
    again.open(max_parallelism=None)
    assert again.reader().config().schema_version == schema.version
    again.close()


def test_an_upgrade_waits_for_transactions_under_way(
    place: Place, store: PostgresStore, tmp_path: Path
) -> None:
    """A client's transaction that has seen the older version ends before the tables change."""
    schema = newer(place, tmp_path, "CREATE TABLE perdure_more (x int)")
    upgrading = place.store(schema=schema)
    thread = threading.Thread(target=upgrading.open, kwargs={"max_parallelism": None})
    with store.transaction() as tx:
        tx.check_schema()
        thread.start()
        sql = "SELECT 1 FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND NOT granted"
        assert soon(lambda: bool(execute(place.address, sql)))
        tx.set_max_parallelism(70)
    thread.join()
    config = upgrading.reader().config()
    assert (config.schema_version, config.max_parallelism) == (schema.version, 70)
    upgrading.close()


def test_an_upgrade_may_take_its_time(place: Place, store: PostgresStore, tmp_path: Path) -> None:
    """A limit for statements is meant for those of every day."""
    limited = Place(place.kind, f"{place.address}&options=-cstatement_timeout%3D2min")
    check = "DO $$ BEGIN ASSERT current_setting('statement_timeout') = '0'; END $$"
    upgrading = limited.store(schema=newer(place, tmp_path, check))
    upgrading.open(max_parallelism=None)
    upgrading.close()


def test_an_upgrade_that_was_in_the_way_is_tried_again(
    place: Place, store: PostgresStore, tmp_path: Path
) -> None:
    """Locks that others hold for long, and deadlocks with them, cost it time; not for ever."""
    execute(place.address, "CREATE SEQUENCE tries")
    fail = "DO $$ BEGIN IF nextval('tries') {} THEN RAISE {}; END IF; END $$"
    twice = newer(
        place,
        tmp_path,
        fail.format("= 1", "lock_not_available"),
        fail.format("= 3", "deadlock_detected"),  # it was asked once in the first try
        "CREATE TABLE perdure_more (x int)",
    )
    waits: list[float] = []
    upgrading = PostgresStore(place.address + STILL, schema=twice, pause=waits.append)
    upgrading.open(max_parallelism=None)
    assert waits == [OPEN_PAUSE] * 2
    upgrading.close()
    always = attrs.evolve(twice, version=twice.version + 1)
    (tmp_path / f"postgres-{always.version}.sql").write_text(
        fail.format("> 0", "lock_not_available") + ";\n"
    )
    waits.clear()
    upgrading = PostgresStore(place.address + STILL, schema=always, pause=waits.append)
    with pytest.raises(StoreBusy, match="55P03"):
        upgrading.open(max_parallelism=None)
    assert len(waits) == UPGRADE_TRIES - 1
