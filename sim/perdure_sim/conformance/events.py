"""Checks of `check_store` on events, and on the steps that await them."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from perdure.core.commands import AwaitEvent
from perdure.core.messages import SentEvent
from perdure.core.outcomes import Failed, Succeeded

from .bench import HUGE, LARGE, ODD, SPACED, Bench, Suite, ended, expect, sample_error, step, whole

suite = Suite()


def _sent(bench: Bench, label: str, sequence: int, outcome: object) -> SentEvent:
    return SentEvent(
        event_id=bench.id(label),
        name=ODD,
        sequence=sequence,
        sent_at=-sequence,
        outcome=outcome,  # type: ignore[arg-type]
    )


def _put_events(bench: Bench, label: str, events: Iterable[SentEvent]) -> None:
    with bench.store.transaction() as tx:
        for number, event in enumerate(events):
            tx.put_event(bench.id(label), event, number)


@suite.check
def events_come_back_in_order(bench: Bench) -> None:
    """A workflow's events come back whole, in the order sent, only created ones last; consumed
    ones are not loaded any more, but can be found."""
    state = bench.state("a")
    bench.put(state, bench.state("b"))
    created = SentEvent(event_id=bench.id("0"), name="created")
    second = _sent(bench, "1", 20, Failed(sample_error()))
    third = _sent(bench, "2", LARGE, Succeeded(SPACED))
    first = _sent(bench, "3", 3, Succeeded(HUGE))
    _put_events(bench, "a", (created, second, third, first))
    ordered = [first, second, third, created]
    expect(bench.load("a").state, whole(state, (), ordered), "load() gives them in the order sent")
    expect(bench.load("b").state.events, (), "events belong to their workflow")
    expect(bench.one("a").events, (), "states() gives none")
    with bench.store.transaction() as tx:
        tx.consume_event(bench.id("a"), second.event_id, 4)
    expect(bench.load("a").state.events, (first, third, created), "a consumed event is not loaded")
    reader, a = bench.reader(), bench.id("a")
    expect(reader.find_event(second.event_id), (a, second, True), "a consumed event can be found")
    expect(reader.find_event(created.event_id), (a, created, False), "a created one can be, too")
    expect(reader.find_event(bench.id("none")), None, "an unknown event cannot")


@suite.check
def created_events_can_be_sent(bench: Bench) -> None:
    """`put_event` turns a created event into a sent one: it is still one event."""
    bench.put(bench.state("a"))
    created = SentEvent(event_id=bench.id("1"), name="e")
    _put_events(bench, "a", (created,))
    sent = replace(created, sequence=7, sent_at=8, outcome=Succeeded("null"))
    _put_events(bench, "a", (sent,))
    expect(bench.load("a").state.events, (sent,), "the event is sent, once")
    expect(bench.reader().find_event(sent.event_id), (bench.id("a"), sent, False), "it is found")


@suite.check
def created_events_are_told_apart(bench: Bench) -> None:
    """A name's oldest unsent one is found, and a sent one by its send's token."""
    bench.put(bench.state("a"))
    reader, a, token = bench.reader(), bench.id("a"), bench.id("token")
    later, created = (SentEvent(event_id=bench.id(n), name="e", made=LARGE - int(n)) for n in "01")
    expect(reader.find_send(token), None, "nothing was sent by this token")
    _put_events(bench, "a", (later, created, _sent(bench, "2", 3, Succeeded("null"))))
    expect([reader.created_event(a, n) for n in "ef"], [created, None], "the oldest is found")
    sent = replace(created, sequence=7, sent_at=8, outcome=Succeeded("null"), token=token)
    _put_events(bench, "a", (replace(sent, made=None),))
    expect(reader.created_event(a, "e"), later, "it is sent now")
    expect(reader.find_send(token), (a, sent, False), "it is found by the token, as it was made")


@suite.check
def awaited_events_are_found(bench: Bench) -> None:
    """Of a name's unsent events the one that is awaited by the step with the lowest number; the
    steps that await the name; and how many of its events lie there for those."""
    bench.put(bench.state("a"), bench.state("b"), bench.state("empty"))
    odd, other = bench.id("2"), bench.id("other")
    made = [SentEvent(event_id=each, name=ODD, made=1) for each in (bench.id("1"), odd)]
    sent = [_sent(bench, label, n, Succeeded("1")) for n, label in enumerate("345", 3)]
    foreign = replace(made[0], event_id=bench.id("6"))
    _put_events(bench, "a", (*made, replace(made[0], event_id=other, name="other"), *sent))
    _put_events(bench, "b", (foreign,))
    reader, a = bench.reader(), bench.id("a")
    expect(reader.awaited_event(a, ODD), None, "nobody awaits one")
    by_name, settled = AwaitEvent(name="e", event_name=ODD), ended()
    waits = [
        AwaitEvent(name="e", event_id=made[0].event_id, due_at=-9),
        AwaitEvent(name="e", event_id=other),
        AwaitEvent(name="e", event_id=bench.id("unknown")),
        AwaitEvent(name="e", event_id=foreign.event_id),
        AwaitEvent(name="e", event_id=sent[0].event_id),
        AwaitEvent(name=ODD, event_name="e"),
        by_name,
        by_name,
        AwaitEvent(name="e", event_id=odd, due_at=LARGE),
        replace(by_name, due_at=LARGE),
        AwaitEvent(name="e", event_id=made[0].event_id),
    ]
    steps = [step(number, command) for number, command in enumerate(waits)]
    steps[0], steps[6] = step(0, waits[0], **settled), step(6, by_name, **settled)
    bench.put_steps("a", *steps)
    expect(reader.awaited_event(a, ODD), (8, made[1]), "the lowest step that is open")
    found = [reader.awaited_event(a, name) for name in ("other", "e")]
    wanted = (1, replace(made[0], event_id=other, name="other"))
    expect(found, [wanted, None], "an event of the name is meant, not a step of it")

    def count(name: str, below: int | None) -> int:
        return reader.count_waits(a, name, below=below)

    expect([count(ODD, n) for n in (None, 10, 9, 8, 7)], [2, 2, 1, 1, 0], "open steps, by number")
    expect([count("e", 9), count("x", None)], [1, 0], "of that name alone")
    expect(reader.count_queued(a, ODD), 2, "sent events, but for one that is awaited by its id")
    with bench.store.transaction() as tx:
        tx.consume_event(a, sent[2].event_id, 6)
        expect(tx.count_queued(a, ODD), 1, "a consumed event is not queued; in a transaction")
        expect(tx.awaited_event(a, ODD), (8, made[1]), "awaited_event() in a transaction")
        expect(tx.count_waits(a, ODD, below=None), 2, "count_waits() in a transaction")
    for nothing in (bench.id("empty"), bench.id("x")):
        counted = reader.count_queued(nothing, ODD), reader.awaited_event(nothing, ODD)
        expect(counted, (0, None), "a workflow without events has none")
        expect(reader.count_waits(nothing, ODD, below=None), 0, "nor one without steps")
