"""Transactions side by side: who waits for whom, and what each of them sees then."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from msgspec.structs import replace
from tests.store.postgres.databases import STILL, execute, soon

from perdure.core.messages import SentEvent
from perdure.core.outcomes import Succeeded
from perdure.core.workflow import WorkflowHeader, WorkflowState
from perdure.errors import StoreBusy
from perdure.store.base import InboxRow, StateWrite
from perdure.store.postgres.store import PostgresStore


def workflow(workflow_id: str, **fields: object) -> WorkflowState:
    header = WorkflowHeader(
        workflow_id=workflow_id, name="n", arguments="{}", created_at=1, start_at=1
    )
    return WorkflowState(header=header, epoch=1, **fields)  # type: ignore[arg-type]


@pytest.fixture
def other(store: PostgresStore, postgres_url: str) -> Iterator[PostgresStore]:
    """As another process would have it."""
    other = PostgresStore(postgres_url + STILL)
    other.open(max_parallelism=None)
    yield other
    other.close()


def side_by_side(
    url: str, first: Callable[[Callable[[], None]], None], second: Callable[[], None]
) -> None:
    """Run `second` as soon as `first` calls what it is given, which returns when `second` waits for
    a lock."""
    thread = threading.Thread(target=second)

    def go() -> None:
        thread.start()
        sql = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        assert soon(lambda: execute(url, sql) != [(0,)])

    first(go)
    thread.join()


def test_who_gives_a_workflow_up_sees_the_mail(
    store: PostgresStore, other: PostgresStore, postgres_url: str
) -> None:
    """A message that is put while its owner gives it up wakes it: one of the two sees the other."""
    with store.transaction() as tx:
        tx.add_worker("w", 1)
        tx.insert_workflows([workflow("a", owner="w")])
    found: list[bool] = []

    def send(go: Callable[[], None]) -> None:
        with other.transaction() as tx:
            row = InboxRow(workflow_id="a", kind="event", body="1", accepted_at=1)
            assert [state.owner for state in tx.states(["a"])] == ["w"]
            tx.put_inbox([row])
            go()

    def give_up() -> None:
        with store.transaction() as tx:
            write = StateWrite(state=workflow("a", owner=None), expected_epoch=1)
            assert tx.update_workflows([write], fence="w") == set()
            found.append(tx.wake_waiting(["a"], 5))

    side_by_side(postgres_url, send, give_up)
    assert found == [True]
    assert [state.wake_at for state in store.reader().states(["a"])] == [5]


def test_waking_waits_for_who_gives_it_up(
    store: PostgresStore, other: PostgresStore, postgres_url: str
) -> None:
    """The other way round: who wakes it finds that nobody owns it any more."""
    with store.transaction() as tx:
        tx.add_worker("w", 1)
        tx.insert_workflows([workflow("a", owner="w")])

    def give_up(go: Callable[[], None]) -> None:
        with store.transaction() as tx:
            write = StateWrite(state=workflow("a", owner=None), expected_epoch=1)
            assert tx.update_workflows([write], fence="w") == set()
            go()

    def wake() -> None:
        with other.transaction() as tx:
            tx.wake("a", 7)

    side_by_side(postgres_url, give_up, wake)
    assert [state.wake_at for state in store.reader().states(["a"])] == [7]


def test_an_event_is_sent_by_one_of_two(
    store: PostgresStore, other: PostgresStore, postgres_url: str
) -> None:
    """The second that looks for it finds it sent."""
    created = SentEvent(event_id="e", name="e")
    with store.transaction() as tx:
        tx.insert_workflows([workflow("a")])
        tx.put_event("a", created, 1)
    sent = replace(created, sequence=1, sent_at=1, outcome=Succeeded("1"))
    seen: list[SentEvent] = []

    def send(go: Callable[[], None]) -> None:
        with store.transaction() as tx:
            assert tx.find_event("e") == ("a", created, False)
            tx.put_event("a", sent, 1)
            tx.states([])
            go()

    def look() -> None:
        with other.transaction() as tx:
            found = tx.find_event("e")
            assert found is not None
            seen.append(found[1])

    side_by_side(postgres_url, send, look)
    assert seen == [sent]


def test_a_journal_is_read_after_its_lock(
    store: PostgresStore, other: PostgresStore, postgres_url: str
) -> None:
    """Who loads a workflow to change it sees what its owner has committed until then."""
    with store.transaction() as tx:
        tx.insert_workflows([workflow("a")])
    seen: list[int] = []

    def go_on(go: Callable[[], None]) -> None:
        with store.transaction() as tx:
            assert len(tx.states(["a"])) == 1
            tx.put_ticks([("a", 1, 1)])
            go()

    def load() -> None:
        with other.transaction() as tx:
            seen.extend(len(loaded.ticks) for loaded in tx.load(["a"]))

    side_by_side(postgres_url, go_on, load)
    assert seen == [1]


def test_what_is_locked_is_not_claimed(store: PostgresStore, other: PostgresStore) -> None:
    """Nobody waits for it: it is left out, and found by the next look."""
    with store.transaction() as tx:
        tx.insert_workflows([workflow("a", wake_at=1), workflow("b", wake_at=2)])
    with store.transaction() as tx:
        assert tx.claimable(["n"], 9, 1) == ["a"]
        with other.transaction() as they:
            assert they.claimable(["n"], 9, 9) == ["b"]


def test_of_two_that_insert_the_same_one_tries_again(
    store: PostgresStore, other: PostgresStore, postgres_url: str
) -> None:
    """It is no fault of anybody's: the next try finds it."""
    caught: list[BaseException] = []

    def insert(go: Callable[[], None]) -> None:
        with store.transaction() as tx:
            tx.insert_workflows([workflow("a")])
            tx.states(["a"])
            go()

    def insert_too() -> None:
        try:
            with other.transaction() as tx:
                tx.insert_workflows([workflow("a")])
        except StoreBusy as error:
            caught.append(error)

    side_by_side(postgres_url, insert, insert_too)
    assert "another process has just put the same" in str(caught[0])


def test_permits_are_taken_one_after_the_other(
    store: PostgresStore, other: PostgresStore, postgres_url: str
) -> None:
    """Who reads the settings to take permits sees those that were taken before."""
    with store.transaction() as tx:
        tx.add_worker("w", 1)
    seen: list[int] = []

    def take(go: Callable[[], None]) -> None:
        with store.transaction() as tx:
            assert tx.config().max_parallelism == 7
            tx.set_permits("w", 7, 0)
            tx.states(["nobody"])
            go()

    def look() -> None:
        with other.transaction() as tx:
            tx.config()
            seen.extend(row.permits for row in tx.workers())

    side_by_side(postgres_url, take, look)
    assert seen == [7]


def test_who_buries_a_worker_waits_for_its_commit(
    store: PostgresStore, other: PostgresStore, postgres_url: str
) -> None:
    """A commit that has begun is ended first; the next one finds the worker gone."""
    with store.transaction() as tx:
        tx.add_worker("w", 1)
        tx.insert_workflows([workflow("a", owner="w")])
    released: list[int] = []

    def commit(go: Callable[[], None]) -> None:
        with store.transaction() as tx:
            write = StateWrite(state=workflow("a", owner="w", stamp=5), expected_epoch=1)
            assert tx.update_workflows([write], fence="w") == set()
            go()

    def bury() -> None:
        with other.transaction() as tx:
            assert tx.run_by("w") == []
            released.append(tx.release_workflows("w", 9, is_dead=True))
            tx.remove_worker("w")

    side_by_side(postgres_url, commit, bury)
    assert released == [1]
    (state,) = store.reader().states(["a"])
    assert (state.owner, state.stamp, state.takeovers) == (None, 5, 1)
    with store.transaction() as tx:
        assert tx.is_fenced("w")


def test_an_event_is_consumed_once(store: PostgresStore) -> None:
    """A second consumption is a fault of ours, and stores nothing."""
    sent = SentEvent(event_id="e", name="e", sequence=1, sent_at=1, outcome=Succeeded("1"))
    with store.transaction() as tx:
        tx.insert_workflows([workflow("a")])
        tx.put_event("a", sent, 1)
        tx.consume_event("a", "e", 0)

    def consume_again() -> None:
        with store.transaction() as tx:
            tx.put_ticks([("a", 1, 1)])
            tx.consume_event("a", "e", 1)

    with pytest.raises(RuntimeError, match="consumed already"):
        consume_again()
    assert [loaded.ticks for loaded in store.reader().load(["a"])] == [()]
