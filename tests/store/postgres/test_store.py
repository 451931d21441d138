"""The PostgreSQL store: the contract, opening, leases, and connections that are lost."""

from __future__ import annotations

import threading
from pathlib import Path

import psycopg
import pytest
from tests.postgres import Server
from tests.store.postgres.databases import STILL, end_connections, execute, soon

from perdure.errors import (
    NotOpen,
    StoreBusy,
    StoreError,
    StoreNotFound,
    StoreReadOnly,
    StoreVersionError,
)
from perdure.store.base import Store
from perdure.store.postgres.store import (
    ASK_SECONDS,
    IDLE_SECONDS,
    OPEN_PAUSE,
    OPEN_TRIES,
    PostgresStore,
)
from perdure_sim import check_store


def test_the_store_keeps_the_contract(postgres_url: str) -> None:
    """All that perdure.store.base promises."""
    check_store(lambda: PostgresStore(postgres_url + STILL))


def test_it_keeps_the_contract_behind_pgbouncer(postgres_url: str) -> None:
    """Also where no session keeps anything; only notifications are missing."""
    check_store(
        lambda: PostgresStore(f"{postgres_url}{STILL}&pgbouncer=true"),
        only="workflows_come_back_whole",
    )
    check_store(
        lambda: PostgresStore(f"{postgres_url}{STILL}&pgbouncer=true"),
        only="user_code_is_kept_or_undone_whole",
    )


def test_the_adapter_has_every_member(postgres_url: str) -> None:
    """Types: this assignment."""
    store: Store = PostgresStore(postgres_url)
    assert store.shares_commits is False


def test_it_needs_to_be_open(postgres_url: str) -> None:
    """Before `open` and after `close` everything says so."""
    store = PostgresStore(postgres_url)
    with pytest.raises(NotOpen, match="not open"):
        store.reader()
    with pytest.raises(NotOpen, match="not open"), store.transaction():
        pass


@pytest.mark.parametrize("access", ["write", "read"])
def test_only_create_makes_tables(postgres_url: str, access: str) -> None:
    """Any other access to a database without perdure's tables is refused and changes nothing."""
    store = PostgresStore(postgres_url, access=access)  # type: ignore[arg-type]
    with pytest.raises(StoreNotFound, match="no tables in it"):
        store.open(max_parallelism=None)
    assert execute(postgres_url, "SELECT 1 FROM pg_class WHERE relname ~ '^perdure'") == []


def test_who_only_reads_cannot_write(store: PostgresStore, postgres_url: str) -> None:
    """A store opened to be read reads, and refuses a write."""
    reading = PostgresStore(postgres_url, access="read")
    reading.open(max_parallelism=None)
    assert reading.reader().config().max_parallelism == 7
    with pytest.raises(StoreError, match="25006"), reading.transaction() as tx:
        tx.set_max_parallelism(1)
    reading.close()


def test_another_table_of_that_name_is_left_alone(postgres_url: str) -> None:
    """What begins with perdure_ and is not ours is named."""
    execute(postgres_url, "CREATE TABLE perdure_notes (x text)")
    with pytest.raises(StoreError, match="named perdure_notes, but not perdure's"):
        PostgresStore(postgres_url).open(max_parallelism=None)
    execute(postgres_url, "CREATE TABLE perdure_config (x text)")
    with pytest.raises(StoreError, match="named perdure_config, but not perdure's"):
        PostgresStore(postgres_url).open(max_parallelism=None)


def test_a_newer_schema_is_refused(store: PostgresStore, postgres_url: str) -> None:
    """At opening, and by the transaction of a client that was open before."""
    execute(postgres_url, "UPDATE perdure_config SET schema_version = 99")
    with pytest.raises(StoreVersionError, match="version 99, newer than"):
        PostgresStore(postgres_url).open(max_parallelism=None)
    with pytest.raises(StoreVersionError, match="version 99"), store.transaction() as tx:
        tx.check_schema()


def test_many_open_an_empty_database_at_once(postgres_url: str) -> None:
    """One of them makes the tables, and all of them find them."""
    stores = [PostgresStore(postgres_url + STILL) for _ in range(4)]
    threads = [threading.Thread(target=one.open, kwargs={"max_parallelism": 3}) for one in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.reader().config().max_parallelism for one in stores] == [3, 3, 3, 3]
    for one in stores:
        one.close()


def test_a_database_that_cannot_hold_every_text_is_refused(postgres_server: Server) -> None:
    """At once, and not when the first workflow gives a euro sign."""
    options = "ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0"
    postgres_server.execute(f"CREATE DATABASE latin {options}")
    store = PostgresStore(postgres_server.url("latin"))
    with pytest.raises(StoreError, match=r"LATIN1.*CREATE DATABASE … ENCODING 'UTF8'"):
        store.open(max_parallelism=None)
    with psycopg.connect(postgres_server.url("latin")) as connection:
        with pytest.raises(StoreError, match="LATIN1"):
            store.guest(connection, max_parallelism=None)
    postgres_server.execute("DROP DATABASE latin")


@pytest.mark.parametrize("pooled", [False, True])
def test_the_isolation_is_the_engines(postgres_url: str, pooled: bool) -> None:
    """Whatever is the default of the database or the user: who waits for a lock must see what was
    committed until then, and many wait."""
    default = "&options=-cdefault_transaction_isolation%3Dserializable"
    store = PostgresStore(postgres_url + STILL + default + "&pgbouncer=true" * pooled)
    store.open(max_parallelism=None)
    with store.transaction() as tx:
        sql = "SHOW transaction_isolation"
        assert tx.run_user_code(lambda: tx.db.execute(sql).fetchone(), read_only=False) == (
            "read committed",
        )
    if not pooled:  # else it has no workers
        assert store._session is not None
        assert store._session.statements.ask(sql).fetchone() == ("read committed",)
        with store._connect_pulse() as pulse:
            assert pulse.execute(sql).fetchone() == ("read committed",)
    store.close()


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    """The error says what, and shows no password."""
    store = PostgresStore(f"postgresql://me:secret@/x?host={tmp_path}")
    with pytest.raises(StoreError, match="look after the server") as caught:
        store.open(max_parallelism=None)
    assert "secret" not in str(caught.value)


def test_a_schema_of_its_own(postgres_url: str) -> None:
    """The tables lie in the first schema of the search path."""
    execute(postgres_url, "CREATE SCHEMA flow")
    store = PostgresStore(f"{postgres_url}&options=-csearch_path%3Dflow")
    store.open(max_parallelism=None)
    store.close()
    found = execute(postgres_url, "SELECT schemaname FROM pg_tables WHERE tablename ~ '^perdure_s'")
    assert found == [("flow",)]


def test_the_time_is_the_servers(postgres_url: str) -> None:
    """It is told when the store opens."""
    times: list[int] = []
    store = PostgresStore(postgres_url, tell_time=times.append)
    store.open(max_parallelism=None)
    store.close()
    ((now,),) = execute(postgres_url, "SELECT (extract(epoch FROM now()) * 1000)::bigint")
    assert isinstance(now, int)
    assert times[0] <= now


# --- liveness


def test_a_worker_without_signs_of_life_is_dead(store: PostgresStore, postgres_url: str) -> None:
    """Once its lease has run out, by the server's clock."""
    with store.transaction() as tx:
        tx.add_worker("w", 1)
    assert store.dead_workers(["w"]) == []
    execute(postgres_url, "UPDATE perdure_workers SET lease_until = clock_timestamp()")
    assert store.dead_workers(["w"]) == ["w"]


def test_who_is_in_a_transaction_lives(store: PostgresStore, postgres_url: str) -> None:
    """The lock of its row proves it, whatever its lease says."""
    with store.transaction() as tx:
        tx.add_worker("w", 1)
    execute(postgres_url, "UPDATE perdure_workers SET lease_until = clock_timestamp()")
    other = PostgresStore(postgres_url + STILL)
    other.open(max_parallelism=None)
    with other.transaction() as tx:
        assert not tx.is_fenced("w")
        assert store.dead_workers(["w"]) == []
    other.close()


def test_who_gives_a_sign_of_life_is_not_buried(store: PostgresStore, postgres_url: str) -> None:
    """Found dead, and looked at again in the transaction that would bury it. Those that are dead
    then cannot renew their lease before it ends."""
    with store.transaction() as tx:
        tx.add_worker("late", 1)
        tx.add_worker("lost", 1)
        tx.add_worker("me", 1)
    gone = "UPDATE perdure_workers SET lease_until = clock_timestamp() WHERE id <> 'me'"
    execute(postgres_url, gone)
    assert store.dead_workers(["late", "lost"]) == ["late", "lost"]
    sign = "UPDATE perdure_workers SET lease_until = 'infinity' WHERE id = 'late'"
    execute(postgres_url, sign)
    with store.transaction() as tx:
        assert not tx.is_fenced("me")
        assert store.dead_workers(["late", "lost"]) == ["lost"]
        locked = "SELECT 1 FROM perdure_workers WHERE id = 'lost' FOR SHARE NOWAIT"
        with pytest.raises(psycopg.errors.LockNotAvailable):
            execute(postgres_url, locked)
        tx.remove_worker("lost")
    assert execute(postgres_url, "SELECT id FROM perdure_workers ORDER BY id") == [
        ("late",),
        ("me",),
    ]


def test_a_lease_counts_from_the_end_of_user_code(store: PostgresStore, postgres_url: str) -> None:
    """It may have taken longer than the lease: who looks at the row then must see that it lives."""
    with store.transaction() as tx:
        tx.add_worker("w", 1)
    with store.transaction() as tx:
        assert not tx.is_fenced("w")
        now = "SELECT clock_timestamp() + interval '600 s'"
        (at,) = tx.run_user_code(lambda: tx.db.execute(now).fetchone(), read_only=False)
    ((lease_until,),) = execute(postgres_url, "SELECT lease_until FROM perdure_workers")
    assert lease_until >= at


def test_signs_of_life_renew_the_lease(postgres_url: str) -> None:
    """A held worker's lease is renewed without any commit of its own."""
    store = PostgresStore(f"{postgres_url}&lease=1")
    store.open(max_parallelism=None)
    store.hold_worker("w")
    with store.transaction() as tx:
        tx.add_worker("w", 1)
    sql = "SELECT lease_until::text FROM perdure_workers"
    before = execute(postgres_url, sql)
    assert soon(lambda: execute(postgres_url, sql) != before)
    store.close()


def test_a_worker_waits_for_a_server_that_takes_no_writes(
    store: PostgresStore, postgres_url: str
) -> None:
    """It may be started while the disk is full, or on a standby that is promoted; not for ever."""
    read_only = "&options=-cdefault_transaction_read_only%3Don"
    waits: list[float] = []
    starting = PostgresStore(postgres_url + STILL + read_only, pause=waits.append)
    with pytest.raises(StoreReadOnly, match="25006"):
        starting.open(max_parallelism=None, works=True)
    assert waits == [OPEN_PAUSE] * (OPEN_TRIES - 1)
    starting.open(max_parallelism=None)  # who starts nothing may look
    starting.close()


# --- news


def test_who_waits_is_woken_by_others(store: PostgresStore, postgres_url: str) -> None:
    """Until it has asked it waits shortly; without news nothing polls but for the dead."""
    woken = threading.Event()
    waiting = PostgresStore(postgres_url + STILL)
    waiting.call_on_change(woken.set)
    waiting.open(max_parallelism=None)
    assert waiting.poll_seconds == IDLE_SECONDS
    with store.transaction() as tx:
        tx.add_worker("w", 1)
    assert woken.wait(30)
    assert waiting.poll_seconds == ASK_SECONDS
    assert waiting.has_changed()
    assert waiting.poll_seconds == IDLE_SECONDS
    waiting.close()


# --- lost connections


def test_lost_connections_are_made_again(store: PostgresStore, postgres_url: str) -> None:
    """Reads go on at once, transactions after an error that says that the store is in trouble."""
    assert store.reader().config().max_parallelism == 7
    end_connections(postgres_url)
    assert store.reader().config().max_parallelism == 7
    with pytest.raises(StoreError), store.transaction() as tx:
        tx.set_max_parallelism(9)
    with store.transaction() as tx:
        tx.set_max_parallelism(10)
    assert store.reader().config().max_parallelism == 10


def test_a_connection_lost_in_the_middle_keeps_nothing(
    store: PostgresStore, postgres_url: str
) -> None:
    """What was written before is undone; the next transaction is a new one."""

    def write() -> None:
        with store.transaction() as tx:
            tx.add_worker("w", 1)
            assert [row.worker_id for row in tx.workers()] == ["w"]
            end_connections(postgres_url)
            tx.workers()

    with pytest.raises(StoreError):
        write()
    with store.transaction() as tx:
        assert tx.workers() == []


def test_the_ear_comes_back(store: PostgresStore, postgres_url: str) -> None:
    """After a lost connection others are heard again, and something may have been missed."""
    store.has_changed()
    end_connections(postgres_url)
    assert soon(store.has_changed)
    other = PostgresStore(postgres_url + STILL)
    other.open(max_parallelism=None)

    def heard() -> bool:
        with other.transaction() as tx:
            tx.set_max_parallelism(5)
        return store.has_changed()

    assert soon(heard)
    other.close()


def test_a_lock_is_not_waited_for_for_ever(store: PostgresStore, postgres_url: str) -> None:
    """The store is busy then, and what was written is undone."""

    def write() -> None:
        with store.transaction() as tx:
            tx.add_worker("w", 1)
            tx.set_max_parallelism(3)

    with psycopg.connect(postgres_url) as other:
        other.execute("LOCK TABLE perdure_config")
        with pytest.raises(StoreBusy, match="end the transaction that holds the lock"):
            write()
        other.rollback()
    assert store.reader().workers() == []


def test_a_statement_that_is_canceled_is_trouble(store: PostgresStore, postgres_url: str) -> None:
    """By `statement_timeout`, or by hand: no workflow is to blame, neither for writes nor reads."""
    role = "perdure_impatient"
    execute(postgres_url, f"CREATE ROLE {role} SUPERUSER LOGIN")
    execute(postgres_url, f"ALTER ROLE {role} SET statement_timeout = '20ms'")
    impatient = PostgresStore(postgres_url.replace("postgres@", f"{role}@") + STILL)
    impatient.open(max_parallelism=None)
    try:
        with psycopg.connect(postgres_url) as other:
            other.execute("LOCK TABLE perdure_workers")
            with pytest.raises(StoreError, match="57014"):
                impatient.reader().workers()
            with pytest.raises(StoreError, match="57014"), impatient.transaction() as tx:
                tx.is_fenced("w")
    finally:
        impatient.close()
        execute(postgres_url, f"DROP ROLE {role}")


def test_a_commit_stands_though_nobody_can_be_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The queue of notifications is full because somebody listens and does not read. To report
    the commit as failed would have it carried out twice."""
    with Server(max_notify_queue_pages="64") as server:
        url = server.create_database()
        store = PostgresStore(url + STILL)
        store.open(max_parallelism=7)
        try:
            with psycopg.connect(url) as deaf:
                deaf.execute("LISTEN x")
                deaf.commit()
                deaf.execute("SELECT 1")
                with pytest.raises(psycopg.errors.ProgramLimitExceeded):
                    _fill_queue(url)
                with store.transaction() as tx:
                    tx.set_max_parallelism(3)
            assert store.reader().config().max_parallelism == 3
            assert "too many notifications" in caplog.text
        finally:
            store.close()


def _fill_queue(url: str) -> None:
    for _ in range(1000):
        execute(url, "SELECT pg_notify('x', repeat('a', 7990))")
