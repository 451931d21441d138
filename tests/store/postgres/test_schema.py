"""The tables in PostgreSQL: what they refuse by themselves, and which version they are."""

from __future__ import annotations

import psycopg
import pytest
from tests.store.postgres.databases import execute

from perdure.errors import StoreVersionError
from perdure.store.postgres.schema import SCHEMA_VERSION, check_version
from perdure.store.postgres.store import PostgresStore


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


def test_versions_are_told_apart() -> None:
    """Our own passes; of another one it is said what to do."""
    check_version(SCHEMA_VERSION, "x")
    with pytest.raises(StoreVersionError, match="upgrade perdure in this process"):
        check_version(SCHEMA_VERSION + 1, "x")
    for other in (SCHEMA_VERSION - 1, None):
        with pytest.raises(StoreVersionError, match="does not know"):
            check_version(other, "x")
