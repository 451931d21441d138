"""Checks of `check_store` on what is taken away: the ends of journals, and whole trees."""

from __future__ import annotations

from msgspec.structs import replace

from perdure.core.journal import TickRecord
from perdure.core.messages import SentEvent
from perdure.core.outcomes import Succeeded
from perdure.store.base import InboxRow

from .bench import LARGE, Bench, Suite, ended, expect, run_step

suite = Suite()

#: What each workflow of these checks has: steps, ticks, and events that were sent to it.
COUNT = 4


def _fill(bench: Bench, label: str) -> None:
    """A workflow with steps, ticks, events that they have consumed, and one that nobody has."""
    bench.put(bench.state(label))
    bench.put_steps(label, *(run_step(number, **ended()) for number in range(COUNT)))
    workflow_id = bench.id(label)
    with bench.store.transaction() as tx:
        tx.put_ticks((workflow_id, position, position) for position in range(1, COUNT + 1))
        for number in range(COUNT + 1):
            event = SentEvent(
                event_id=bench.id(f"{label}{number}"),
                name="e",
                sequence=tx.take_event_sequence(),
                sent_at=1,
                outcome=Succeeded("1"),
            )
            tx.put_event(workflow_id, event, 1)
            if number < COUNT:
                tx.consume_event(workflow_id, event.event_id, number)


def _events(bench: Bench, label: str) -> list[int]:
    """Which of the events of `_fill` are there."""
    reader = bench.reader()
    return [n for n in range(COUNT + 1) if reader.find_event(bench.id(f"{label}{n}")) is not None]


@suite.check
def a_journal_is_cut(bench: Bench) -> None:
    """The steps from a number on go, with the events that they have consumed, and the ticks after a
    position; no other workflow loses anything."""
    for label in ("a", "b"):
        _fill(bench, label)
    with bench.store.transaction() as tx:
        tx.cut_journal(bench.id("a"), 2, 3)
    kept = bench.load("a")
    expect([step.number for step in kept.steps], [0, 1], "the steps before the number stay")
    ticks = tuple(TickRecord(position, position) for position in (1, 2, 3))
    expect(kept.ticks, ticks, "the ticks up to the position stay")
    expect(_events(bench, "a"), [0, 1, 4], "events go with the steps that have consumed them")
    other = bench.load("b")
    expect((len(other.steps), len(other.ticks)), (COUNT, COUNT), "another's journal stays whole")
    expect(_events(bench, "b"), [0, 1, 2, 3, 4], "another's events stay")


@suite.check
def a_cut_journal_goes_on(bench: Bench) -> None:
    """Where steps and ticks were cut others may be put, and a cut that takes nothing is none."""
    _fill(bench, "a")
    with bench.store.transaction() as tx:
        tx.cut_journal(bench.id("a"), COUNT, LARGE)
    expect(len(bench.load("a").steps), COUNT, "nothing lies there")
    with bench.store.transaction() as tx:
        tx.cut_journal(bench.id("a"), 0, 0)
        tx.put_ticks([(bench.id("a"), 1, 7)])
    again = run_step(0, asked_at=77)
    bench.put_steps("a", again)
    found = bench.load("a")
    expect((found.steps, found.ticks), ((again,), (TickRecord(1, 7),)), "these are in their place")
    expect(_events(bench, "a"), [COUNT], "what nobody has consumed stays")


@suite.check
def children_are_found(bench: Bench) -> None:
    """Those of all the given workflows, in order of creation, ended ones too, and no others."""
    parents = [bench.id("a"), bench.id("b")]
    bench.put(bench.state("a"), bench.state("b"), bench.state("alone"))

    def child(label: str, parent: str) -> None:
        bench.put(bench.state(label, parent_id=bench.id(parent), parent_number=0, depth=1))

    for label, parent in (("b1", "b"), ("a1", "a"), ("b2", "b"), ("a1x", "a1")):
        child(label, parent)
    over = {"status": "success", "outcome": Succeeded("1"), "ended_at": 1}
    bench.put(bench.state("a2", parent_id=parents[0], parent_number=1, depth=1, **over))
    found = bench.reader().children(parents)
    expect(found, [bench.id(each) for each in ("b1", "a1", "b2", "a2")], "children of both")
    expect(bench.reader().children([]), [], "nobody has no children")
    expect(bench.reader().children([bench.id("alone"), "nobody"]), [], "not all have children")


@suite.check
def what_is_deleted_is_gone(bench: Bench) -> None:
    """With its steps, ticks, events and mail; ids are free again, and no other loses anything."""
    worker = bench.add_worker("w")
    for label in ("a", "b", "c"):
        _fill(bench, label)
    mail = [
        InboxRow(workflow_id=bench.id(label), kind="event", body="1", accepted_at=1)
        for label in ("a", "c")
    ]
    word = InboxRow(
        workflow_id=bench.id("a"), kind="revoked", body="null", accepted_at=1, worker=worker
    )
    with bench.store.transaction() as tx:
        tx.put_inbox([*mail, word])
        tx.delete_workflows([bench.id("a"), bench.id("b"), "nobody"])
        expect(tx.states([bench.id("a")]), [], "it is gone within the transaction")
    ids = [bench.id(label) for label in ("a", "b", "c")]
    expect([each.state.workflow_id for each in bench.reader().load(ids)], ids[2:], "the rest")
    expect((_events(bench, "a"), _events(bench, "b")), ([], []), "its events are gone")
    expect(_events(bench, "c"), [0, 1, 2, 3, 4], "another's events stay")
    bench.put(replace(bench.state("a"), owner=worker))
    fresh = bench.load("a")
    expect((fresh.steps, fresh.ticks), ((), ()), "nothing of it is there for another of its id")
    left = [(row.workflow_id, row.kind) for row in bench.reader().inbox_of(worker)]
    expect(left, [(bench.id("a"), "revoked")], "only what tells a worker of its loss stays")


@suite.check
def a_delete_is_undone(bench: Bench) -> None:
    """If its transaction fails, all of it is there as before, in its place of the listing."""

    class Undo(Exception):
        pass

    for label in ("a", "b"):
        _fill(bench, label)
    before = bench.load("a"), bench.load("b"), _events(bench, "a")
    try:
        with bench.store.transaction() as tx:
            tx.cut_journal(bench.id("b"), 0, 0)
            tx.delete_workflows([bench.id("a")])
            raise Undo
    except Undo:
        pass
    expect((bench.load("a"), bench.load("b"), _events(bench, "a")), before, "it is as it was")
