"""Checks of `check_store` on transactions, settings, sequences, user code, and who lives."""

from __future__ import annotations

import contextlib
import threading

from msgspec.structs import replace

from perdure.core.messages import SentEvent
from perdure.store.base import InboxRow, StateWrite, StepWrite, Transaction, WorkerRow

from .bench import LARGE, Bench, Broken, Suite, expect, run_step

suite = Suite()


@suite.check
def opening_again_keeps_everything(bench: Bench) -> None:
    """A store that is closed and opened again has its rows and settings, whatever is given."""
    if bench.store.reads_need_engine:
        return  # private to one connection, it ends with that
    before = bench.store.reader().config().max_parallelism
    bench.put(bench.state("a"))
    bench.store.close()
    bench.store.open(max_parallelism=before + 1)
    expect(bench.store.reader().config().max_parallelism, before, "the stored setting counts")
    found = bench.store.reader().states([bench.id("a")])
    expect(found, [bench.state("a")], "what was committed is there after a reopening")


class _Stop(Exception):
    pass


def _write_everything(bench: Bench, tx: Transaction, worker: str) -> None:
    a = bench.id("a")
    tx.set_max_parallelism(tx.config().max_parallelism + 1)
    tx.add_worker(bench.prefix + "new", 1)
    tx.set_permits(worker, 3, 4)
    tx.insert_workflows([bench.state("b")])
    changed = bench.state("a", owner=worker, epoch=tx.take_epochs(1))
    stale = tx.update_workflows([StateWrite(state=changed, expected_epoch=bench.epoch)])
    expect(stale, set(), "an update with the stored epoch is taken")
    tx.put_steps([StepWrite(workflow_id=a, record=run_step(0), is_new=True)])
    tx.put_ticks([(a, 1, 1)])
    tx.put_event(a, SentEvent(event_id=bench.id("e"), name="e"), 1)
    row = InboxRow(workflow_id=a, kind="event", body="1", accepted_at=1, worker=worker, number=None)
    tx.put_inbox([row])


@suite.check
def a_failed_transaction_leaves_nothing(bench: Bench) -> None:
    """If the block raises, nothing of what was written in it stays, and the error is passed on."""
    worker = bench.add_worker("w")
    bench.put(bench.state("a"))

    def look() -> object:
        reader = bench.reader()
        found = reader.load([bench.id("a"), bench.id("b")]), reader.find_event(bench.id("e"))
        return found, reader.workers(), reader.inbox_of(worker), reader.config()

    before, stop = look(), _Stop()
    try:
        with bench.store.transaction() as tx:
            _write_everything(bench, tx, worker)
            raise stop
    except _Stop as error:
        expect(error is stop, True, "the very exception of the block is passed on")
    expect(look(), before, "a rolled back transaction wrote nothing")
    with bench.store.transaction() as tx:
        _write_everything(bench, tx, worker)
    expect(look() != before, True, "after a rollback the same writes can be committed")
    with bench.store.transaction() as tx:
        tx.set_max_parallelism(tx.config().max_parallelism - 1)


@suite.check_of_two
def others_see_what_is_committed(bench: Bench) -> None:
    """Another store sees a transaction whole once it is committed, and nothing of it before."""
    other = bench.other.reader()
    with bench.store.transaction() as tx:
        tx.insert_workflows([bench.state("a"), bench.state("b")])
        ids = [bench.id("a"), bench.id("b")]
        expect(len(tx.states(ids)), 2, "a transaction sees its own writes")
        expect(other.states(ids), [], "nobody else sees what is not committed")
    expect(len(other.states(ids)), 2, "everybody sees what is committed, at once")


@suite.check_of_two
def changes_by_others_are_told(bench: Bench) -> None:
    """`has_changed` is true once soon after another store's commit, and not after a rollback of it
    or a commit of one's own."""
    bench.store.has_changed()
    expect(bench.store.has_changed(), False, "nothing happened since the last call")
    bench.put(bench.state("a"))
    expect(bench.store.has_changed(), False, "only this store itself has committed")
    with bench.other.transaction() as tx:
        tx.insert_workflows([bench.state("b")])
    expect(_is_told(bench), True, "another store has committed")
    expect(bench.store.has_changed(), False, "it was told already")
    try:
        with bench.other.transaction() as tx:
            tx.insert_workflows([bench.state("c")])
            raise _Stop
    except _Stop:
        expect(bench.store.has_changed(), False, "another store has rolled back")


def _is_told(bench: Bench) -> bool:
    """Whether the store learns of a change: a notification may take some milliseconds."""
    pause = threading.Event()
    return any(bench.store.has_changed() or pause.wait(0.01) for _ in range(100))


@suite.check
def a_reader_is_kept(bench: Bench) -> None:
    """A thread that asks for a reader again sees what was committed meanwhile."""
    bench.store.reader().states([])
    bench.put(bench.state("a"))
    found = bench.store.reader().states([bench.id("a")])
    expect(len(found), 1, "a reader sees what was committed since it was made")


@suite.check
def settings_are_shared(bench: Bench) -> None:
    """`set_max_parallelism` changes what everybody reads as config, 0 included."""
    before = bench.store.reader().config()
    for value in (0, 17, before.max_parallelism):
        with bench.store.transaction() as tx:
            tx.set_max_parallelism(value)
        wanted = replace(before, max_parallelism=value)
        expect(bench.reader().config(), wanted, "config() gives what was set")


@suite.check
def the_schema_is_known(bench: Bench) -> None:
    """`check_schema` has nothing against the schema that the store itself has made."""
    with bench.store.transaction() as tx:
        tx.check_schema()


@suite.check
def epochs_are_never_given_twice(bench: Bench) -> None:
    """`take_epochs` gives the first of so many numbers that nobody else ever gets."""
    taken: list[int] = []
    for store in (bench.store, bench.store if bench.store.reads_need_engine else bench.other):
        for count in (1, 3, 1):
            with store.transaction() as tx:
                for _ in range(2):
                    first = tx.take_epochs(count)
                    taken += range(first, first + count)
    expect(min(taken) > bench.epoch, True, "epochs rise")
    expect(taken, sorted(set(taken)), "epochs rise, and none is given twice")


@suite.check
def event_numbers_rise(bench: Bench) -> None:
    """`take_event_sequence` gives a higher number each time, to whoever asks."""
    taken = []
    for store in (bench.store, bench.store if bench.store.reads_need_engine else bench.other):
        for _ in range(2):
            with store.transaction() as tx:
                taken += [tx.take_event_sequence(), tx.take_event_sequence()]
    expect(taken, sorted(set(taken)), "the numbers of events rise")


# --- user code ------------------------------------------------------------------------------------


def _make_table(bench: Bench) -> None:
    """A table of the user's, empty."""
    with bench.store.transaction() as tx:
        sql = "CREATE TABLE IF NOT EXISTS conformance_rows (x INTEGER)"
        tx.run_user_code(lambda: tx.db.execute(sql), read_only=False)
        tx.run_user_code(lambda: tx.db.execute("DELETE FROM conformance_rows"), read_only=False)


def _insert(tx: Transaction, value: int = 1) -> int:
    tx.db.execute(f"INSERT INTO conformance_rows (x) VALUES ({value})")
    return value


def _count(tx: Transaction) -> int:
    def count() -> int:
        found = tx.db.execute("SELECT count(*) FROM conformance_rows").fetchone()[0]
        return int(found)

    return tx.run_user_code(count, read_only=True)


@suite.check
def user_code_is_kept_or_undone_whole(bench: Bench) -> None:
    """What `run_user_code` wrote stays with the transaction; if it raises, its writes alone are
    undone, and the exception is passed on."""
    _make_table(bench)
    stop = _Stop()

    def fail() -> None:
        _insert(tx, 2)
        raise stop

    with bench.store.transaction() as tx:
        tx.insert_workflows([bench.state("a")])
        expect(
            tx.run_user_code(lambda: _insert(tx), read_only=False),
            1,
            "run_user_code gives back what the function returned",
        )
        try:
            tx.run_user_code(fail, read_only=False)
            expect("no error", "the function's exception", "run_user_code passes it on")
        except _Stop as error:
            expect(error is stop, True, "the very exception of the function is passed on")
        tx.insert_workflows([bench.state("b")])
        expect(_count(tx), 1, "the failed function's writes are undone, the other's are there")
    with bench.store.transaction() as tx:
        expect(_count(tx), 1, "user code's writes are committed with the transaction")
        found = tx.states([bench.id("a"), bench.id("b")])
        expect(len(found), 2, "the engine's writes around a failed function are kept")


@suite.check
def user_code_goes_with_the_transaction(bench: Bench) -> None:
    """User code's writes are undone together with the transaction that they are part of."""
    _make_table(bench)
    try:
        with bench.store.transaction() as tx:
            tx.run_user_code(lambda: _insert(tx), read_only=False)
            raise _Stop
    except _Stop:
        pass
    with bench.store.transaction() as tx:
        expect(_count(tx), 0, "a rollback undoes what user code wrote")


@suite.check
def read_only_user_code_cannot_write(bench: Bench) -> None:
    """With `read_only` user code reads, and a write is refused and leaves nothing."""
    _make_table(bench)
    with bench.store.transaction() as tx:
        tx.run_user_code(lambda: _insert(tx), read_only=False)
    try:
        with bench.store.transaction() as tx:
            expect(_count(tx), 1, "a query reads what was committed")
            tx.run_user_code(lambda: _insert(tx), read_only=True)
    except Broken:
        raise
    except Exception:
        pass  # which one is the database's matter
    else:
        expect("no error", "an error", "a write in a query is refused")
    with bench.store.transaction() as tx:
        expect(_count(tx), 1, "a refused write leaves nothing")


@suite.check
def user_code_cannot_commit(bench: Bench) -> None:
    """User code that tries to commit gets an error, and what others wrote before it is not
    committed by it."""
    _make_table(bench)
    refused = False
    try:
        with bench.store.transaction() as tx:
            tx.insert_workflows([bench.state("a")])
            try:
                tx.run_user_code(tx.db.commit, read_only=False)
            except Exception:
                refused = True
            raise _Stop
    except _Stop:
        pass
    expect(refused, True, "a commit by user code is an error")
    found = bench.reader().states([bench.id("a")])
    expect(found, [], "a rolled back transaction is not committed by user code")


@suite.check
def engine_code_belongs_to_its_user_code(bench: Bench) -> None:
    """What `run_engine_code` wrote inside `run_user_code` stays, or is undone, together with the
    user code that called it."""
    _make_table(bench)

    def call(label: str, fails: bool) -> None:
        states = [bench.state(label)]

        def insert() -> str:
            tx.insert_workflows(states)
            return label

        result = tx.run_engine_code(insert)
        expect(result, label, "run_engine_code gives back what the function returned")
        _insert(tx)
        if fails:
            raise _Stop

    with bench.store.transaction() as tx:
        tx.run_user_code(lambda: call("kept", False), read_only=False)
        with contextlib.suppress(_Stop):
            tx.run_user_code(lambda: call("undone", True), read_only=False)
        expect(_count(tx), 1, "only the writes of the user code that succeeded are there")
    found = bench.reader().states([bench.id("kept"), bench.id("undone")])
    expect(found, [bench.state("kept")], "only what successful user code asked for is there")


@suite.check
def ordinary_errors_poison_nothing(bench: Bench) -> None:
    """`is_poisoned` blames user code for a failed commit only where the database says so."""
    expect(bench.store.is_poisoned(ValueError("x")), False, "a ValueError poisons no transaction")


# --- workers --------------------------------------------------------------------------------------


@suite.check
def unknown_workers_are_fenced(bench: Bench) -> None:
    """`is_fenced` is false for a registered worker and true for one that is unknown or removed."""
    worker = bench.add_worker("w")
    with bench.store.transaction() as tx:
        expect(tx.is_fenced(worker), False, "a registered worker may write")
        expect(tx.is_fenced(worker + "x"), True, "an unknown worker is fenced")
        tx.remove_worker(worker)
        expect(tx.is_fenced(worker), True, "a removed worker is fenced, at once")
    with bench.store.transaction() as tx:
        expect(tx.is_fenced(worker), True, "a removed worker stays fenced")


@suite.check
def fenced_workers_update_nothing(bench: Bench) -> None:
    """With `fence`, `update_workflows` updates for a registered worker as without it, and for one
    that is removed or unknown nothing at all: all ids are returned."""
    worker = bench.add_worker("w")
    states = [bench.state("a"), bench.state("b", owner=worker)]
    bench.put(*states)

    def update(fence: str, stamp: int) -> set[str]:
        # The second one changes little and says so: another statement may write it.
        writes = [
            StateWrite(state=replace(state, stamp=stamp), expected_epoch=bench.epoch, before=before)
            for state, before in zip(states, (None, states[1]), strict=True)
        ]
        with bench.store.transaction() as tx:
            return tx.update_workflows(writes, fence=fence)

    def stamps() -> list[int]:
        return [bench.one("a").stamp, bench.one("b").stamp]

    both = {bench.id("a"), bench.id("b")}
    expect(update(worker, 7), set(), "a registered worker updates")
    expect(stamps(), [7, 7], "a registered worker updates")
    expect(update(worker + "x", 8), both, "an unknown worker is told all ids")
    with bench.store.transaction() as tx:
        tx.release_workflows(worker, 9, is_dead=True)
        tx.remove_worker(worker)
    expect(update(worker, 8), both, "a removed worker is told all ids")
    expect(stamps(), [7, 7], "who is fenced updates nothing")


@suite.check
def permits_are_kept(bench: Bench) -> None:
    """`workers` gives each worker with its permits; a removed one is gone."""
    one, two = bench.add_worker("1"), bench.add_worker("2")
    with bench.store.transaction() as tx:
        tx.set_permits(two, 3, LARGE)

    def rows() -> list[WorkerRow]:
        return [row for row in bench.reader().workers() if row.worker_id in (one, two)]

    first = WorkerRow(worker_id=one, is_fenced=False, permits=0, wanting=0)
    second = WorkerRow(worker_id=two, is_fenced=False, permits=3, wanting=LARGE)
    found = {row.worker_id: row for row in rows()}
    expect(found, {one: first, two: second}, "workers() gives each with its permits")
    with bench.store.transaction() as tx:
        tx.remove_worker(two)
    expect(rows(), [first], "a removed worker, and no other, is gone")


@suite.check_of_two
def living_workers_are_not_dead(bench: Bench) -> None:
    """A worker that is held is dead for nobody; once released it no longer counts as living."""
    one, two = bench.add_worker("1"), bench.add_worker("2")
    bench.store.hold_worker(one)
    bench.store.hold_worker(two)
    expect(bench.other.dead_workers([one, two]), [], "held workers live, for another process")
    expect(bench.store.dead_workers([one, two]), [], "held workers live, for their own process")
    expect(bench.other.dead_workers([]), [], "only those asked for are given")
    bench.store.release_worker(one)
    expect(bench.other.dead_workers([one, two]), [one], "only the released worker lives no more")
    expect(bench.other.dead_workers([two]), [], "only those asked for are given")
    bench.store.release_worker(two)


@suite.check_of_two
def the_dead_are_looked_at_in_a_transaction(bench: Bench) -> None:
    """`dead_workers` tells the same in a transaction, which goes on: by it they are buried."""
    me = bench.add_worker("me")
    one, two = bench.add_worker("1"), bench.add_worker("2")
    bench.other.hold_worker(me)
    bench.store.hold_worker(one)
    bench.store.hold_worker(two)
    bench.store.release_worker(one)
    with bench.other.transaction() as tx:
        expect(tx.is_fenced(me), False, "who buries lives")
        expect(bench.other.dead_workers([one, two]), [one], "only the released worker is dead")
        tx.remove_worker(one)
    with bench.other.transaction() as tx:
        expect(bench.other.dead_workers([two]), [], "as the first thing in a transaction")
    ids = [row.worker_id for row in bench.reader().workers() if row.worker_id in (me, one, two)]
    expect(ids, sorted([me, two]), "what was done in that transaction is stored")
    bench.store.release_worker(two)
    bench.other.release_worker(me)
