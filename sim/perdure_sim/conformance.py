"""`check_store`: the conformance suite of a store adapter, for the contract of perdure.store.base.

Each check is a small function with the promise it is about as its docstring. The checks share one
database and so use ids, names and events of their own; they expect nothing of what else is in it.
What does not belong here: speed, crashes of processes, and anything that only one database can do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import attrs

from perdure.core.commands import AwaitEvent, RunChild, RunStep, Sleep, StepCommand
from perdure.core.journal import StepRecord, TickRecord
from perdure.core.messages import SentEvent
from perdure.core.outcomes import Canceled, Failed, Succeeded
from perdure.core.retry import RetryPlan
from perdure.core.workflow import Blocked, WorkflowHeader, WorkflowState
from perdure.errors import ErrorInfo
from perdure.store.base import (
    InboxRow,
    Loaded,
    Reader,
    StateWrite,
    StepWrite,
    Store,
    Transaction,
    WorkflowFilter,
)

#: Text that quoting, formatting and encoding get wrong.
ODD = "O'Neil \"q\" \\ %s ? :x \n\t é 𝄞 🧪 \u2028 \ufffd"
#: JSON that must come back to the letter: a replay compares arguments as text.
SPACED = '{ "b":1.0,"a":[ ],  "é":"\\u00e9" }'
#: A value as large as they get, in UTF-8 bytes.
HUGE = '"' + "é" * (512 * 1024 - 1) + '"'
LARGE = 2**62


class Broken(Exception):
    """A promise of the contract that does not hold; the message names it."""


def expect(found: object, wanted: object, promise: str) -> None:
    """Raise `Broken` unless `found` equals `wanted`; `promise` says what should be so."""
    if found != wanted:
        raise Broken(f"{promise}: found {_short(found)}, expected {_short(wanted)}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 400 else f"{text[:200]} … {text[-200:]}"


@attrs.define
class Bench:
    """What a check works with: stores on one database, and ids that nobody else has."""

    make_store: Callable[[], Store]
    store: Store
    prefix: str
    epoch: int
    others: list[Store] = attrs.field(factory=list)

    @property
    def other(self) -> Store:
        """A second store on the same database, as another process would have it."""
        return self.others[0] if self.others else self.open_another()

    def open_another(self) -> Store:
        """One more store on the same database."""
        store = self.make_store()
        store.open(max_parallelism=None)
        self.others.append(store)
        return store

    def reader(self) -> Reader:
        """Reads what is committed: through another store, where the database can be shared."""
        return (self.store if self.store.reads_need_engine else self.other).reader()

    def id(self, label: str) -> str:
        """An id, or a name, that belongs to this check."""
        return f"{self.prefix}/{label}"

    def state(self, label: str, **fields: Any) -> WorkflowState:
        """A workflow that waits for its start, unless `fields` say otherwise."""
        header: dict[str, Any] = {"arguments": "{}", "created_at": 5, "start_at": 5}
        names = {field.name for field in attrs.fields(WorkflowHeader)}
        header |= {name: fields.pop(name) for name in list(fields) if name in names}
        header.setdefault("name", self.id("name"))
        fields.setdefault("epoch", self.epoch)
        return WorkflowState(
            header=WorkflowHeader(workflow_id=self.id(label), **header), **fields
        )

    def put(self, *states: WorkflowState) -> None:
        """Insert workflows, in this order."""
        with self.store.transaction() as tx:
            tx.insert_workflows(states)

    def add_worker(self, label: str) -> str:
        """Register a worker; its id."""
        worker_id = self.prefix.replace("/", "-") + "-" + label
        with self.store.transaction() as tx:
            tx.add_worker(worker_id, 1)
        return worker_id

    def put_steps(self, label: str, *records: StepRecord, is_new: bool = True) -> None:
        """Write steps of one workflow."""
        with self.store.transaction() as tx:
            tx.put_steps(
                StepWrite(workflow_id=self.id(label), record=record, is_new=is_new)
                for record in records
            )

    def one(self, label: str) -> WorkflowState:
        """A workflow as it is stored, without its journal."""
        states = self.reader().states([self.id(label)])
        expect(len(states), 1, f"states() finds the workflow {label}")
        return states[0]

    def load(self, label: str) -> Loaded:
        """A workflow as it is stored, with its journal."""
        loaded = self.reader().load([self.id(label)])
        expect(len(loaded), 1, f"load() finds the workflow {label}")
        return loaded[0]


Check = Callable[[Bench], None]

#: All checks by name, in the order in which they are run; whether one needs two stores.
CHECKS: dict[str, tuple[Check, bool]] = {}


def _check(fn: Check) -> Check:
    CHECKS[fn.__name__] = (fn, False)
    return fn


def _check_of_two(fn: Check) -> Check:
    CHECKS[fn.__name__] = (fn, True)
    return fn


def check_store(make_store: Callable[[], Store], *, only: str | None = None) -> None:
    """Check that a store adapter keeps the whole contract of `perdure.store.base`.

    Call it from one test::

        def test_the_store_keeps_the_contract(tmp_path):
            check_store(lambda: MyStore(tmp_path / "app.db"))

    Args:
        make_store: makes a new store, not opened, on the **same** database at each call: some
            checks look at the work of one through another. (If what it makes cannot share its
            database, `reads_need_engine`, these checks are left out.)
        only: the name of the one check to run, as failures give it.

    Raises:
        AssertionError: the names of the checks that failed, each with the promise broken.
        ValueError: there is no check called `only`.
    """
    if only is not None and only not in CHECKS:
        raise ValueError(f"only={only!r}: give one of {', '.join(CHECKS)}")
    failures: list[tuple[str, Exception]] = []
    for name in CHECKS if only is None else [only]:
        try:
            _run(name, make_store)
        except Exception as error:
            failures.append((name, error))
    if failures:
        lines = [_failure_text(name, error) for name, error in failures]
        head = f"the store breaks {len(lines)} of {len(CHECKS)} promises:"
        raise AssertionError("\n".join([head, *lines])) from failures[0][1]


def _failure_text(name: str, error: Exception) -> str:
    promise = " ".join((CHECKS[name][0].__doc__ or "").split())
    detail = str(error) if isinstance(error, Broken) else f"raised {error!r}"
    return f"* {name}: {promise}\n    {detail}"


def _run(name: str, make_store: Callable[[], Store]) -> None:
    check, needs_two = CHECKS[name]
    store = make_store()
    store.open(max_parallelism=None)
    bench = Bench(make_store=make_store, store=store, prefix="", epoch=0)
    try:
        if needs_two and store.reads_need_engine:
            return
        with store.transaction() as tx:
            bench.epoch = tx.take_epochs(1)
        bench.prefix = f"{name}/{bench.epoch}"
        check(bench)
    finally:
        for opened in (*bench.others, store):
            opened.close()


# --- values that a store has to bring back -------------------------------------------------------


def _error() -> ErrorInfo:
    return ErrorInfo(type="app.Odd", message=ODD, traceback="a\n  b\n", arguments='["x", 1]')


def _workflows(bench: Bench, worker: str) -> Iterable[WorkflowState]:
    """One of each sort, with every field filled somewhere."""
    yield bench.state("fresh", wake_at=5)
    yield bench.state(ODD, name=ODD, context="null", wake_at=5)
    yield bench.state(
        "all",
        arguments=SPACED,
        context=HUGE,
        on_complete=ODD,
        parent_id=ODD,
        parent_number=LARGE,
        depth=3,
        rules=9,
        created_at=-LARGE,
        start_at=LARGE,
        position=LARGE,
        stamp=-LARGE,
        started_at=-1,
        next_number=LARGE,
        timer_at=-LARGE,
        wake_at=LARGE,
        journal_bytes=LARGE,
        takeovers=4,
        blocked=Blocked(error=_error(), count=3, retry_at=LARGE),
    )
    yield bench.state("owned", owner=worker, position=0, started_at=7, stamp=7)
    ended = {"position": 3, "started_at": 0, "stamp": 9, "ended_at": 9}
    huge = Succeeded(HUGE)
    yield bench.state(
        "success", status="success", outcome=huge, on_complete_error=_error(), **ended
    )
    yield bench.state("failed", status="failed", outcome=Failed(_error()), **ended)
    yield bench.state("canceled", status="canceled", outcome=Canceled(), ended_at=-LARGE)


def _run_step(number: int, **fields: Any) -> StepRecord:
    command = RunStep(kind="action", name="pay", function="pay", arguments="{}")
    return _step(number, command, **fields)


def _step(number: int, command: StepCommand, **fields: Any) -> StepRecord:
    fields = {"asked_position": 0, "asked_at": 5, "asked_epoch": 1, "state": "asked"} | fields
    return StepRecord(number=number, command=command, **fields)


def _ended(**fields: Any) -> dict[str, Any]:
    return {"state": "settled", "outcome": Succeeded("1"), "settled_at": 9} | fields


def _steps() -> tuple[StepRecord, ...]:
    """One of each sort, with every field filled somewhere; those that are open come first."""
    plan = RetryPlan(
        max_attempts=7,
        initial_ms=1,
        base=1.1,
        cap_ms=LARGE,
        jitter=True,
        non_retryable=("a.B", ODD),
    )
    everything = RunStep(
        kind="action",
        name=ODD,
        function=ODD,
        arguments=SPACED,
        unstable=True,
        due_at=-LARGE,
        retry=plan,
        timeout_ms=LARGE,
    )
    inline = RunStep(kind="mutation", name="m", function="m", arguments="{}", inline=True)
    query = RunStep(kind="query", name="q", function="q", arguments=HUGE)
    child = RunChild(
        name="c", function="w", arguments="[ ]", unstable=True, due_at=1, child_id=ODD
    )
    started = {"state": "started", "runner": "w", "attempt": 3, "started_at": -1}
    delivered = {"delivered_position": LARGE, "delivered_at": -LARGE}
    canceled = {"outcome": Canceled(), "canceled_position": 3}
    return (
        _step(0, everything, **started, started_epoch=LARGE, deadline_at=LARGE, asked_at=-LARGE),
        _step(1, inline, state="ready", due_at=-1, asked_epoch=LARGE),
        _step(2, child, child_id=ODD),
        _step(3, RunChild(name="c", function="w", arguments="{}")),
        _step(4, Sleep(name=ODD, due_at=-LARGE), due_at=LARGE),
        _step(5, AwaitEvent(name="e", event_name=ODD, due_at=LARGE), due_at=LARGE),
        _step(6, AwaitEvent(name="e", event_id=ODD)),
        _run_step(7, state="backoff", due_at=0, attempt=1, started_at=0, started_epoch=1),
        _run_step(8, **_ended(outcome=Failed(_error()), settled_at=8)),
        _step(9, query, **_ended(outcome=Succeeded(HUGE), settled_at=7)),
        _step(10, AwaitEvent(name="e", event_name="e"), **_ended(**delivered), event_id=ODD),
        _run_step(11, **_ended(**canceled)),
    )


def _whole(
    state: WorkflowState, steps: Iterable[StepRecord], events: Iterable[SentEvent] = ()
) -> WorkflowState:
    """`state` as `load` has to give it: with what its open steps and its events say."""
    live = {
        record.number: record
        for record in steps
        if record.state != "settled"
        or (record.delivered_position is None and record.canceled_position is None)
    }
    settled = [(r.settled_at or 0, n) for n, r in live.items() if r.state == "settled"]
    waits = [n for n, r in live.items() if r.command.kind == "event" and r.state == "asked"]
    return attrs.evolve(
        state,
        live=live,
        settled=tuple(sorted(settled)),
        awaiting=tuple(waits),
        busy=sum(record.state in ("ready", "started") for record in live.values()),
        events=tuple(events),
    )


# --- transactions ---------------------------------------------------------------------------------


@_check
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
    tx.put_steps([StepWrite(workflow_id=a, record=_run_step(0), is_new=True)])
    tx.put_ticks([(a, 1, 1)])
    tx.put_event(a, SentEvent(event_id=bench.id("e"), name="e"), 1)
    row = InboxRow(
        workflow_id=a, kind="event", body="1", accepted_at=1, worker=worker, number=None
    )
    tx.put_inbox([row])


@_check
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


@_check_of_two
def others_see_what_is_committed(bench: Bench) -> None:
    """Another store sees a transaction whole once it is committed, and nothing of it before."""
    other = bench.other.reader()
    with bench.store.transaction() as tx:
        tx.insert_workflows([bench.state("a"), bench.state("b")])
        ids = [bench.id("a"), bench.id("b")]
        expect(len(tx.states(ids)), 2, "a transaction sees its own writes")
        expect(other.states(ids), [], "nobody else sees what is not committed")
    expect(len(other.states(ids)), 2, "everybody sees what is committed, at once")


@_check_of_two
def changes_by_others_are_told(bench: Bench) -> None:
    """`has_changed` is true once after another store's commit, and not after a rollback of it or
    a commit of one's own."""
    bench.store.has_changed()
    expect(bench.store.has_changed(), False, "nothing happened since the last call")
    bench.put(bench.state("a"))
    expect(bench.store.has_changed(), False, "only this store itself has committed")
    with bench.other.transaction() as tx:
        tx.insert_workflows([bench.state("b")])
    expect(bench.store.has_changed(), True, "another store has committed")
    expect(bench.store.has_changed(), False, "it was told already")
    try:
        with bench.other.transaction() as tx:
            tx.insert_workflows([bench.state("c")])
            raise _Stop
    except _Stop:
        expect(bench.store.has_changed(), False, "another store has rolled back")


@_check
def a_reader_is_kept(bench: Bench) -> None:
    """A thread that asks for a reader again sees what was committed meanwhile."""
    bench.store.reader().states([])
    bench.put(bench.state("a"))
    found = bench.store.reader().states([bench.id("a")])
    expect(len(found), 1, "a reader sees what was committed since it was made")


@_check
def settings_are_shared(bench: Bench) -> None:
    """`set_max_parallelism` changes what everybody reads as config, 0 included."""
    before = bench.store.reader().config()
    for value in (0, 17, before.max_parallelism):
        with bench.store.transaction() as tx:
            tx.set_max_parallelism(value)
        wanted = attrs.evolve(before, max_parallelism=value)
        expect(bench.reader().config(), wanted, "config() gives what was set")


@_check
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


@_check
def event_numbers_rise(bench: Bench) -> None:
    """`take_event_sequence` gives a higher number each time, to whoever asks."""
    taken = []
    for store in (bench.store, bench.store if bench.store.reads_need_engine else bench.other):
        for _ in range(2):
            with store.transaction() as tx:
                taken += [tx.take_event_sequence(), tx.take_event_sequence()]
    expect(taken, sorted(set(taken)), "the numbers of events rise")
