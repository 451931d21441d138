"""Checks of `check_store` on rows: workflows, their journals, the inbox, and listings."""

from __future__ import annotations

from msgspec.structs import replace

from perdure.core.commands import AwaitEvent
from perdure.core.journal import StepRecord, TickRecord
from perdure.core.outcomes import Canceled, Failed, Succeeded
from perdure.core.workflow import RESTARTED, Blocked, WorkflowState
from perdure.store.base import InboxRow, StateWrite, WorkflowFilter

from .bench import (
    HUGE,
    LARGE,
    ODD,
    SPACED,
    Bench,
    Suite,
    ended,
    expect,
    run_step,
    sample_error,
    sample_steps,
    sample_workflows,
    step,
    whole,
)

suite = Suite()

# --- workflows ------------------------------------------------------------------------------------


@suite.check
def workflows_come_back_whole(bench: Bench) -> None:
    """Every field of an inserted workflow comes back as it was, to the letter."""
    states = list(sample_workflows(bench, bench.add_worker("w")))
    bench.put(*states)
    ids = [state.workflow_id for state in states]
    found = {state.workflow_id: state for state in bench.reader().states(ids)}
    for state in states:
        expect(found.get(state.workflow_id), state, "states() gives what was inserted")
    loaded = {one.state.workflow_id: one for one in bench.reader().load(ids)}
    for state in states:
        one = loaded[state.workflow_id]
        expect((one.state, one.steps, one.ticks), (state, (), ()), "load() gives it, too")


@suite.check
def updates_replace_the_state(bench: Bench) -> None:
    """Every field that may change is what the last update says, and the header stays."""
    worker = bench.add_worker("w")
    targets = list(sample_workflows(bench, worker))
    start = bench.state("a", name=ODD, wake_at=5, takeovers=2)
    bench.put(start, bench.state("bystander"))
    stored = start
    for number, target in enumerate((*targets, start)):
        state = replace(target, header=start.header, epoch=bench.epoch + number % 2)
        with bench.store.transaction() as tx:
            writes = [StateWrite(state=state, expected_epoch=stored.epoch)]
            expect(tx.update_workflows(writes), set(), "an update with the stored epoch is taken")
        expect(bench.one("a"), state, "an update writes every field but the header")
        stored = state
    expect(bench.one("bystander"), bench.state("bystander"), "other workflows stay as they are")


@suite.check
def hints_change_nothing(bench: Bench) -> None:
    """`StateWrite.before` may save work, but what is stored is the new state, epoch and all."""
    worker = bench.add_worker("w")
    before = bench.state("a", owner=worker)
    bench.put(before)
    going_on = replace(
        before,
        position=7,
        stamp=8,
        started_at=9,
        next_number=10,
        timer_at=11,
        journal_bytes=12,
        takeovers=1,
    )
    blocked = Blocked(error=sample_error(), count=1, retry_at=1)
    later = (
        going_on,
        replace(going_on, blocked=blocked, stamp=20),
        replace(going_on, on_complete_error=sample_error()),
        replace(going_on, epoch=bench.epoch + 1),
        replace(going_on, owner=None, wake_at=5),
        replace(going_on, owner=None, wake_at=6),
        replace(
            going_on, owner=None, status="success", outcome=Succeeded("1"), ended_at=9, stamp=30
        ),
    )
    for state in later:
        write = StateWrite(state=state, expected_epoch=before.epoch, before=before)
        with bench.store.transaction() as tx:
            expect(tx.update_workflows([write]), set(), "an update with the stored epoch is taken")
        expect(bench.one("a"), state, "an update with a hint writes the whole state")
        before = state
    other = replace(before, epoch=bench.epoch + 9)
    stale = StateWrite(state=other, expected_epoch=bench.epoch + 8, before=before)
    with bench.store.transaction() as tx:
        expect(tx.update_workflows([stale]), {bench.id("a")}, "a stale epoch is told, hint or not")


@suite.check
def only_known_ids_are_found(bench: Bench) -> None:
    """`states` and `load` give the workflows that exist, each once, and nothing for no ids."""
    bench.put(bench.state("a"))
    a, odd = bench.id("a"), bench.id(ODD + '",]')
    reader = bench.reader()
    expect(reader.states([]), [], "no ids, no states")
    expect(reader.load([]), [], "no ids, nothing loaded")
    expect(reader.states([odd, a, a]), [bench.state("a")], "an id given twice is found once")
    expect([one.state for one in reader.load({odd, a})], [bench.state("a")], "load() finds it")


@suite.check
def stale_epochs_are_told(bench: Bench) -> None:
    """`update_workflows` gives the ids whose stored epoch is another one, or that are gone; after
    the rollback nothing is written."""
    epoch = bench.epoch
    states = [bench.state(label) for label in "abc"]
    bench.put(*states)
    writes = [
        StateWrite(state=replace(state, stamp=7, epoch=epoch + 2), expected_epoch=expected)
        for state, expected in zip(
            (*states, bench.state("gone")), (epoch, epoch + 1, epoch - 1, epoch), strict=True
        )
    ]
    try:
        with bench.store.transaction() as tx:
            stale = {bench.id("b"), bench.id("c"), bench.id("gone")}
            expect(tx.update_workflows(writes), stale, "the ids with other epochs are given")
            raise LookupError
    except LookupError:
        pass
    for label, state in zip("abc", states, strict=True):
        expect(bench.one(label), state, "after the rollback nothing is written")
    with bench.store.transaction() as tx:
        expect(tx.update_workflows(writes[1:2]), {bench.id("b")}, "one stale write is told")
    expect(bench.one("b"), states[1], "a write with a stale epoch is not taken")
    with bench.store.transaction() as tx:
        same = StateWrite(state=replace(states[0], stamp=8), expected_epoch=epoch)
        expect(tx.update_workflows([same]), set(), "the epoch may stay as it is")
    expect(bench.one("a").stamp, 8, "an update that keeps the epoch is written")


# --- what waits for a worker ----------------------------------------------------------------------


@suite.check
def due_workflows_can_be_claimed(bench: Bench) -> None:
    """`claimable` gives those that nobody owns, with one of these names, whose time has come, the
    longest due first, and at most so many."""
    worker = bench.add_worker("w")
    x, y, odd = bench.id("x"), bench.id("y"), bench.id(ODD)
    bench.put(
        bench.state("late", name=x, wake_at=30),
        bench.state("early", name=y, wake_at=-LARGE),
        bench.state("odd", name=odd, wake_at=20),
        bench.state("future", name=x, wake_at=31),
        bench.state("never", name=x),
        bench.state("owned", name=x, owner=worker, wake_at=1),
        bench.state("ended", name=x, status="canceled", outcome=Canceled(), ended_at=1),
        bench.state("other", name=bench.id("z"), wake_at=1),
    )
    reader = bench.reader()
    due = [bench.id("early"), bench.id("odd"), bench.id("late")]
    expect(reader.claimable([x, y, odd], 30, 10), due, "the due ones, the longest due first")
    expect(reader.claimable([x, y, odd], 30, 2), due[:2], "not more than the limit")
    expect(reader.claimable([x], 29, 10), [], "nothing is woken before its time")
    expect(reader.claimable([], LARGE, 10), [], "without names nothing can be claimed")


@suite.check
def the_next_wake_is_known(bench: Bench) -> None:
    """`next_wake` gives the earliest time at which one that nobody owns wants to be woken."""
    worker = bench.add_worker("w")
    x, y = bench.id("x"), bench.id("y")
    expect(bench.reader().next_wake([x, y]), None, "nobody waits")
    bench.put(
        bench.state("never", name=x),
        bench.state("owned", name=x, owner=worker, wake_at=1),
        bench.state("b", name=x, wake_at=LARGE),
    )
    expect(bench.reader().next_wake([x, y]), LARGE, "the only one that nobody owns")
    bench.put(bench.state("c", name=y, wake_at=-3))
    expect(bench.reader().next_wake([x, y]), -3, "the earliest of all")
    expect(bench.reader().next_wake([x]), LARGE, "the earliest with these names")
    expect(bench.reader().next_wake([]), None, "without names there is none")


@suite.check
def active_workflows_are_counted(bench: Bench) -> None:
    """`count_active` counts those with these names that are owned, due, or wait for a time."""
    x, y = bench.id("x"), bench.id("y")
    bench.put(
        bench.state("owned", name=x, owner=bench.add_worker("w")),
        bench.state("due", name=x, wake_at=1),
        bench.state("sleeping", name=y, wake_at=LARGE),
        bench.state("waits for an event", name=x),
        bench.state("ended", name=x, status="canceled", outcome=Canceled(), ended_at=1),
    )
    asked = (((x, y), 9), ((x,), 9), ((y,), 9), ((), 9), ((x, x, y), 2))
    counts = [bench.reader().count_active(*each) for each in asked]
    expect(counts, [3, 2, 1, 0, 2], "count_active() of x and y, x, y, none, and up to a number")


@suite.check
def waking_is_only_ever_sooner(bench: Bench) -> None:
    """`wake` brings the time of a workflow forward, never back, and leaves alone what is owned or
    has ended."""
    worker = bench.add_worker("w")
    states = [
        bench.state("later", wake_at=50),
        bench.state("sooner", wake_at=5),
        bench.state("never"),
        bench.state("owned", owner=worker),
        bench.state("ended", status="canceled", outcome=Canceled(), ended_at=1),
    ]
    bench.put(*states, bench.state("bystander"))
    with bench.store.transaction() as tx:
        for state in states:
            tx.wake(state.workflow_id, 10)
        tx.wake(bench.id("unknown"), 10)
    labels = ("later", "sooner", "never", "owned", "ended", "bystander")
    found = [bench.one(label).wake_at for label in labels]
    expect(found, [10, 5, 10, None, None, None], f"wake(…, 10) of {labels}, but for the last")


@suite.check
def blocked_workflows_can_be_woken(bench: Bench) -> None:
    """`wake_blocked` wakes the blocked ones with these names that nobody owns, but for those that
    too many workers died over."""
    worker, now = bench.add_worker("w"), 10
    x = bench.id("x")
    blocked = Blocked(error=sample_error(), count=1, retry_at=LARGE)
    bench.put(
        bench.state("blocked", name=x, blocked=blocked, wake_at=LARGE, takeovers=2),
        bench.state("deadly", name=x, blocked=blocked, wake_at=LARGE, takeovers=3),
        bench.state("owned", name=x, blocked=blocked, owner=worker),
        bench.state("sleeping", name=x, wake_at=LARGE),
        bench.state("other", blocked=blocked, wake_at=LARGE),
    )
    with bench.store.transaction() as tx:
        tx.wake_blocked([x], now, 3)
    labels = ("blocked", "deadly", "owned", "sleeping", "other")
    found = [bench.one(label).wake_at for label in labels]
    expect(found, [now, LARGE, None, LARGE, LARGE], f"wake_blocked(…, 10, 3) of {labels}")


@suite.check
def a_worker_gives_up_all_it_owns(bench: Bench) -> None:
    """`release_workflows` takes all from one worker, wakes them and counts them; a dead one's have
    one more takeover."""
    dead, living = bench.add_worker("dead"), bench.add_worker("living")
    bench.put(
        bench.state("a", owner=dead, takeovers=1),
        bench.state("b", owner=dead),
        bench.state("c", owner=living),
        bench.state("d", wake_at=LARGE),
    )
    with bench.store.transaction() as tx:
        expect(tx.release_workflows(dead, 7, is_dead=True), 2, "how many there were")
        expect(tx.release_workflows(dead, 8, is_dead=True), 0, "they were released already")
        tx.remove_worker(dead)
    expect(bench.one("a"), bench.state("a", takeovers=2, wake_at=7), "released by a dead worker")
    expect(bench.one("b"), bench.state("b", takeovers=1, wake_at=7), "released by a dead worker")
    expect(bench.one("c"), bench.state("c", owner=living), "another worker's stays with it")
    with bench.store.transaction() as tx:
        expect(tx.release_workflows(living, 9, is_dead=False), 1, "how many there were")
    expect(bench.one("c"), bench.state("c", wake_at=9), "released in good order: no takeover")
    expect(bench.one("d"), bench.state("d", wake_at=LARGE), "what nobody owns stays as it is")


@suite.check
def attempts_for_others_are_found(bench: Bench) -> None:
    """`run_by` gives the started attempts that a worker runs for workflows that it gave up, whoever
    owns them now."""
    me, they = bench.add_worker("me"), bench.add_worker("they")
    started = {"state": "started", "attempt": 1, "started_at": 5, "started_epoch": 1}
    mine, other = run_step(2, runner=me, **started), run_step(3, runner=they, **started)
    settled = run_step(4, runner=me, attempt=1, **ended())
    steps = (mine, other, settled, run_step(5, state="ready", due_at=1))
    lives: dict[str, list[tuple[str | None, int]]] = {
        "kept": [],
        "given up": [(None, 0)],
        "taken up": [(None, 0), (they, 1)],
    }
    for label, owners in lives.items():
        state = bench.state(label, owner=me, position=0, started_at=5, next_number=6)
        bench.put(state)
        bench.put_steps(label, *steps)
        before = whole(state, steps)
        for owner, epoch in owners:
            after = replace(before, owner=owner, epoch=bench.epoch + epoch)
            with bench.store.transaction() as tx:
                write = StateWrite(state=after, expected_epoch=before.epoch, before=before)
                expect(tx.update_workflows([write]), set(), "an update is taken")
            before = after
    with bench.store.transaction() as tx:
        found = sorted(tx.run_by(me), key=lambda pair: pair[0])
        wanted = [(bench.id("given up"), mine), (bench.id("taken up"), mine)]
        expect(found, wanted, "run_by() gives what is started here for others and nobody")
        expect(tx.run_by(me + "x"), [], "an unknown worker runs nothing")


# --- journals -------------------------------------------------------------------------------------


@suite.check
def steps_come_back_whole(bench: Bench) -> None:
    """Every field of a step comes back as it was, by number; `live` holds the open ones."""
    steps = sample_steps()
    state = bench.state("a", position=20, started_at=5, next_number=len(steps))
    bench.put(state, bench.state("bystander"))
    bench.put_steps("a", *reversed(steps))
    found = bench.load("a")
    for one, record in zip(found.steps, steps, strict=False):
        expect(one, record, "load() gives the step that was put")
    expect(len(found.steps), len(steps), "load() gives all steps")
    expect(found.state, whole(state, steps), "the state holds its open steps")
    expect(bench.one("a"), state, "states() gives it without journal")
    expect(bench.load("bystander").steps, (), "steps belong to their workflow")


@suite.check
def steps_can_be_updated(bench: Bench) -> None:
    """What changes of a step is what its last write says, delivery and cancel included."""
    bench.put(bench.state("a"))
    samples = sample_steps()
    first = run_step(0)
    bench.put_steps("a", first, run_step(1))
    # Backwards too: nothing of an outcome may stay where a step is open again.
    for sample in (*samples, *reversed(samples)):
        command = {
            name: getattr(first, name)
            for name in ("number", "command", "asked_position", "asked_at", "asked_epoch")
        }
        record = replace(sample, **command, child_id=None)
        bench.put_steps("a", record, is_new=False)
        expect(bench.load("a").steps, (record, run_step(1)), "an update changes all progress")


@suite.check
def ended_workflows_have_no_open_steps(bench: Bench) -> None:
    """An ended workflow has its journal, but no live steps: no handler will learn their outcome."""
    state = bench.state("a", status="failed", outcome=Failed(sample_error()), ended_at=9)
    bench.put(state)
    bench.put_steps("a", run_step(0, **ended()))
    found = bench.load("a")
    expect((found.state, len(found.steps)), (state, 1), "load() gives its journal alone")


@suite.check
def steps_can_be_listed(bench: Bench) -> None:
    """`list_steps` gives so many steps by number, up or down, from `after` on; `open_steps` those
    without an outcome."""
    bench.put(bench.state("a"), bench.state("b"))
    steps: list[StepRecord] = [run_step(number) for number in range(12)]
    steps[3] = run_step(3, **ended())
    steps[5] = step(5, AwaitEvent(name="e", event_name="e"))
    bench.put_steps("a", *steps)
    bench.put_steps("b", run_step(0))

    def numbers(is_ascending: bool, limit: int, after: int | None) -> list[int]:
        found = bench.reader().list_steps(
            bench.id("a"), is_ascending=is_ascending, limit=limit, after=after
        )
        expect(found, [steps[record.number] for record in found], "list_steps() gives whole steps")
        return [record.number for record in found]

    expect(numbers(True, 3, None), [0, 1, 2], "the first page")
    expect(numbers(True, 100, 2), list(range(3, 12)), "what comes after step 2")
    expect(numbers(False, 3, None), [11, 10, 9], "the first page, downwards")
    expect(numbers(False, 100, 2), [1, 0], "what comes before step 2, downwards")
    expect(numbers(True, 5, 11), [], "nothing after the last")
    found = bench.reader().open_steps(bench.id("a"))
    expect(found, steps[:3] + steps[4:], "open_steps() gives all without an outcome, by number")
    reader = bench.reader()
    unknown = reader.list_steps(bench.id("x"), is_ascending=True, limit=9, after=None)
    expect((unknown, reader.open_steps(bench.id("x"))), ([], []), "an unknown workflow has none")


@suite.check
def ticks_come_back_in_order(bench: Bench) -> None:
    """The ticks of a workflow come back by position."""
    bench.put(bench.state("a"), bench.state("b"))
    a, b = bench.id("a"), bench.id("b")
    with bench.store.transaction() as tx:
        tx.put_ticks([(a, 10, 7), (a, 9, -LARGE), (b, 3, 1)])
        tx.put_ticks((a, position, LARGE) for position in (LARGE,))
    wanted = (TickRecord(9, -LARGE), TickRecord(10, 7), TickRecord(LARGE, LARGE))
    expect(bench.load("a").ticks, wanted, "load() gives the ticks by position")
    expect(bench.load("b").ticks, (TickRecord(3, 1),), "ticks belong to their workflow")


# --- the inbox ------------------------------------------------------------------------------------


@suite.check
def inbox_rows_reach_their_worker(bench: Bench) -> None:
    """`inbox_of` gives, in order of arrival, what is for a worker's workflows or for itself, whole,
    and nothing that is for others."""
    me, they = bench.add_worker("me"), bench.add_worker("they")
    bench.put(bench.state("mine", owner=me), bench.state("theirs", owner=they), bench.state("free"))
    mine, theirs, free = bench.id("mine"), bench.id("theirs"), bench.id("free")
    rows = [
        InboxRow(workflow_id=mine, kind="attempt", body=HUGE, accepted_at=LARGE, number=LARGE),
        InboxRow(workflow_id=mine, kind="revoked", body="1", accepted_at=3, worker=they),
        InboxRow(workflow_id=theirs, kind="revoked", body="2", accepted_at=2, worker=me),
        InboxRow(workflow_id=free, kind="child", body=SPACED, accepted_at=2, number=0),
        InboxRow(workflow_id=mine, kind="event", body=f'"{ODD}"', accepted_at=-LARGE),
        InboxRow(workflow_id=bench.id("gone"), kind="revoked", body="3", accepted_at=1, worker=me),
    ]
    with bench.store.transaction() as tx:
        tx.put_inbox(rows[:1])
        tx.put_inbox(iter(rows[1:]))

    def inbox(worker: str) -> list[InboxRow]:
        return [replace(row, row_id=0) for row in bench.reader().inbox_of(worker)]

    expect(inbox(me), [rows[0], rows[2], rows[4], rows[5]], "what is for this worker, in order")
    expect(inbox(they), [rows[1]], "what is for the other worker")
    with bench.store.transaction() as tx:
        claimed = StateWrite(state=bench.state("free", owner=they), expected_epoch=bench.epoch)
        tx.update_workflows([claimed])
    expect(inbox(they), [rows[1], rows[3]], "who claims a workflow has its inbox")
    row_ids = [row.row_id for row in bench.reader().inbox_of(me)]
    expect(0 not in row_ids and len(set(row_ids)), 4, "each stored row has an id of its own")
    with bench.store.transaction() as tx:
        tx.delete_inbox(row_ids[1:3])
        tx.delete_inbox(row_ids[1:2])  # once more: another process may have been faster
    expect(inbox(me), [rows[0], rows[5]], "just the rows that were deleted are gone")


@suite.check
def mail_of_ended_workflows_can_be_cleared(bench: Bench) -> None:
    """`clear_inbox` deletes what is for the owners of these workflows, and no worker's own mail."""
    worker = bench.add_worker("w")
    bench.put(bench.state("a", owner=worker), bench.state("b", owner=worker))
    rows = [
        InboxRow(workflow_id=bench.id(label), kind="event", body=label, accepted_at=1, worker=to)
        for label, to in (("a", None), ("a", worker), ("b", None), ("a", None))
    ]
    with bench.store.transaction() as tx:
        tx.put_inbox(rows)
        tx.clear_inbox([bench.id("a"), bench.id("none")])
    left = [replace(row, row_id=0) for row in bench.reader().inbox_of(worker)]
    expect(left, rows[1:3], "only mail for the owners of these workflows is gone")


@suite.check
def mail_wakes_what_was_given_up(bench: Bench) -> None:
    """`wake_waiting` wakes those of the ids that nobody owns and that have mail, and says whether
    there was any; mail for one worker does not count."""
    worker = bench.add_worker("w")
    states = [
        bench.state("mail", wake_at=50),
        bench.state("none", wake_at=50),
        bench.state("for a worker", wake_at=50),
        bench.state("owned", owner=worker),
        bench.state("not asked for", wake_at=50),
    ]
    bench.put(*states)
    ids = [state.workflow_id for state in states[:4]]
    with bench.store.transaction() as tx:
        tx.put_inbox(
            InboxRow(
                workflow_id=bench.id(label),
                kind="event",
                body="1",
                accepted_at=1,
                worker=worker if label == "for a worker" else None,
            )
            for label in ("mail", "for a worker", "owned", "not asked for")
        )
        expect(tx.wake_waiting(ids[1:3], 10), False, "none of these has mail")
        expect(tx.wake_waiting(ids, 10), True, "one of these has mail")
    found = [bench.one(state.workflow_id.rsplit("/", 1)[1]).wake_at for state in states]
    expect(found, [10, 50, 50, None, 50], "only the one with mail is woken")


# --- listings -------------------------------------------------------------------------------------


@suite.check
def workflows_can_be_listed(bench: Bench) -> None:
    """`list_workflows` gives so many workflows in order of creation, up or down, filtered by name,
    status and whether they are blocked, a page at a time."""
    name = bench.id("x")
    blocked = Blocked(error=sample_error(), count=1, retry_at=1)
    restarted = Blocked(error=RESTARTED, count=0, retry_at=1)
    states = [
        bench.state("z", name=name, blocked=restarted),
        bench.state("other"),
        bench.state("y", name=name, blocked=blocked),
        bench.state("x", name=name, status="canceled", outcome=Canceled(), ended_at=1),
        bench.state("w", name=name, created_at=-LARGE),
    ]
    bench.put(*states[:2])
    bench.put(*states[2:])
    named = [state for state in states if state.header.name == name]

    def listed(which: WorkflowFilter) -> list[WorkflowState]:
        return [state for _, state in bench.reader().list_workflows(which)]

    every = WorkflowFilter(name=name)
    expect(listed(every), named, "in the order of their creation")
    down = replace(every, is_ascending=False)
    expect(listed(down), named[::-1], "the latest first")
    expect(listed(replace(every, status="canceled")), [named[2]], "by status")
    expect(listed(replace(every, is_blocked=True)), [named[1]], "the blocked ones")
    expect(listed(replace(every, is_blocked=False)), [named[0], *named[2:]], "the others")
    both = WorkflowFilter(name=bench.id("none"), status="success", is_blocked=True)
    expect(listed(both), [], "all filters hold together")
    for which, wanted in ((every, named), (down, named[::-1])):
        pages: list[WorkflowState] = []
        page = replace(which, limit=3)
        for _ in wanted:  # a bound: a broken store may go on for ever
            rows = bench.reader().list_workflows(page)
            expect(len(rows) <= 3, True, "not more than the limit")
            pages += [state for _, state in rows]
            page = replace(page, after=rows[-1][0]) if rows else page
        expect(pages, wanted, "page after page, each once")
    latest = listed(WorkflowFilter(is_ascending=False, limit=1))
    expect(latest, [states[-1]], "without a filter, all are listed")
