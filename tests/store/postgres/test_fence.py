"""What may be run on the engine's connection, by the text of a statement."""

from __future__ import annotations

import pytest

from perdure.store.postgres.fence import is_harmless, objection, sets_something


@pytest.mark.parametrize(
    "statement",
    [
        "BEGIN",
        "start transaction",
        "Commit",
        "END;",
        "ABORT",
        "ROLLBACK",
        "rollback work",
        "/* so */ COMMIT",
        "-- so\nCOMMIT",
        "COMMIT PREPARED 'x'",
        "PREPARE TRANSACTION 'x'",
        "SAVEPOINT perdure_user_code",
        'RELEASE SAVEPOINT "perdure_user_code"',
        "ROLLBACK TO perdure_user_code",
        "SET x = 1",
        "SET SESSION x = 1",
        "SET LOCAL TRANSACTION READ WRITE",
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "RESET ALL",
        "DISCARD ALL",
        "DEALLOCATE ALL",
        "LISTEN x",
        "INSERT INTO perdure_steps VALUES (1)",
        'insert into public."perdure_steps" select 1',
        "UPDATE perdure_workflows SET owner = NULL",
        "UPDATE ONLY perdure_workflows SET owner = NULL",
        "DELETE FROM public.perdure_inbox",
        "TRUNCATE TABLE perdure_steps",
        "DROP TABLE IF EXISTS perdure_steps",
        "ALTER TABLE perdure_steps ADD x int",
        "CREATE TABLE IF NOT EXISTS perdure_mine (x int)",
        "CREATE INDEX i ON perdure_steps (value)",
        "LOCK TABLE perdure_config",
        "WITH x AS (DELETE FROM perdure_steps RETURNING 1) SELECT 1 FROM x",
    ],
)
def test_refused(statement: str) -> None:
    """What would harm the transaction, the session, or the engine's rows."""
    assert objection(statement) is not None


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1",
        "(SELECT 1) UNION (SELECT 2)",
        "SAVEPOINT mine",
        "ROLLBACK TO SAVEPOINT mine",
        "ROLLBACK WORK TO mine",
        "RELEASE mine",
        "SET LOCAL statement_timeout = 100",
        "SET CONSTRAINTS ALL IMMEDIATE",
        "PREPARE x AS SELECT 1",
        "SELECT * FROM perdure_workflows",
        "INSERT INTO mine SELECT id FROM perdure_workflows",
        "UPDATE mine SET x = 1 FROM perdure_workflows w WHERE w.id = mine.id",
        "DELETE FROM mine USING perdure_workflows w WHERE w.id = mine.id",
        "INSERT INTO mine VALUES ('update perdure_steps')",
        "COPY mine FROM STDIN",
        "CREATE TABLE mine (perdure_id text)",
        "WITH x AS (SELECT 1 FROM perdure_steps) SELECT 1 FROM x",
    ],
)
def test_allowed(statement: str) -> None:
    """The rest, reads of the engine's tables among it."""
    assert objection(statement) is None


def test_what_needs_a_look_afterwards() -> None:
    """After what is not known to be harmless it is checked that the transaction is still there."""
    assert is_harmless("select 1") and is_harmless("/* x */ INSERT INTO a VALUES (1)")
    assert not is_harmless("CALL x()") and not is_harmless("DO 'x'") and not is_harmless("")


def test_what_changes_a_setting() -> None:
    """A SET, or the function that does the same."""
    assert sets_something("SET LOCAL x = 1")
    assert sets_something("SELECT set_config('x', '1', true)")
    assert not sets_something("UPDATE a SET x = 1")
