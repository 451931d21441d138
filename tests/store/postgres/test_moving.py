"""Rows that move in: all of them or none, into a database without workflows, and only once."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from perdure import StoreError
from perdure.store.postgres.moving import MovingIn, check_empty, has_moved_in
from perdure.store.postgres.store import PostgresStore

COLUMNS = ("id", "name", "arguments", "rules", "created_at", "start_at", "status", "epoch")


def row(workflow_id: str, *more: Any) -> tuple[Any, ...]:
    """A workflow that was started and not begun."""
    return (workflow_id, "order", "{}", 1, 5, 5, "in_progress", 3, *more)


@pytest.fixture
def address(postgres_url: str) -> str:
    store = PostgresStore(postgres_url)
    store.open(max_parallelism=None)
    store.close()
    return postgres_url


def count(address: str, table: str) -> int:
    with psycopg.connect(address) as db:
        ((found,),) = db.execute(f"SELECT count(*) FROM {table}".encode()).fetchall()
    return int(found)


def test_all_rows_arrive_with_the_settings(address: str) -> None:
    """Each is told; the sequences go on where they stood, and workers are dead."""
    with MovingIn(address, "token") as arriving:
        columns = ("id", "started_at", "lease_until", "permits")
        worker = ("w", 4, None, 2)
        assert list(arriving.copy("perdure_workers", columns, [worker])) == [1]
        rows = [row("b", "w"), row("a", None)]
        told = arriving.copy("perdure_workflows", (*COLUMNS, "owner"), rows)
        assert list(told) == [1, 2]
        arriving.set_settings(max_parallelism=9, next_epoch=700_000, next_event=12)
    assert has_moved_in(address, "token")
    store = PostgresStore(address)
    store.open(max_parallelism=None)
    assert store.reader().config().max_parallelism == 9
    assert store.dead_workers(["w"]) == ["w"]
    with store.transaction() as tx:
        assert tx.take_epochs(1) >= 700_000
        assert tx.take_event_sequence() == 12
        assert tx.claimable(["order"], 10**15, 5) == []
    store.close()


def test_nothing_arrives_of_what_breaks_off(address: str) -> None:
    """Nor is it known that it was tried."""
    with pytest.raises(StoreError, match=r"perdure_workflows: the row \('a\\x00', 'order'\)"):
        with MovingIn(address, "token") as arriving:
            list(arriving.copy("perdure_workflows", COLUMNS, [row("b"), row("a\0")]))
    assert count(address, "perdure_workflows") == 0
    assert not has_moved_in(address, "token")


def test_it_moves_in_once(address: str) -> None:
    """The same move finds that it was there; another one finds that it is not empty."""
    with MovingIn(address, "token") as arriving:
        assert not arriving.is_done
        list(arriving.copy("perdure_workflows", COLUMNS, [row("a")]))
    with MovingIn(address, "token") as arriving:
        assert arriving.is_done
    with pytest.raises(StoreError, match="workflows already, such as 'a'"), MovingIn(address, "x"):
        pass
    with pytest.raises(StoreError, match="workflows already, such as 'a'"):
        check_empty(address)


def test_trouble_names_the_address_without_its_password(postgres_url: str) -> None:
    """No tables, no database: each is the store's trouble."""
    assert not has_moved_in(postgres_url, "token")
    elsewhere = postgres_url.replace("postgres@", "postgres:secret@").replace("/test", "/none")
    with pytest.raises(StoreError, match="none") as caught:
        has_moved_in(elsewhere, "token")
    assert "secret" not in str(caught.value)
    with pytest.raises(StoreError, match="perdure_workflows"):
        check_empty(postgres_url)
