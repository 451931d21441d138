"""The turn: its borders, what it keeps when the store is in trouble, and whom it fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.runtime.harness import NOW, Rig, Where

from perdure.core.limits import FACTS_PER_TURN_MAX
from perdure.core.outcomes import Canceled, Outcome, Succeeded
from perdure.definitions import Definer
from perdure.errors import InternalError, StoreBusy, StoreError, StoreFull
from perdure.runtime.actor import Unit
from perdure.runtime.contexts import ActionContext, MutationContext
from perdure.step import Step
from perdure.store.base import Fenced

Make = Callable[..., Rig]
d = Definer()


@d.action
def work(ctx: ActionContext, n: int = 0) -> object:
    raise NotImplementedError("the rig's runner runs nothing")


@d.mutation
def note(ctx: MutationContext, text: str) -> str:
    ctx.db.execute("INSERT INTO notes VALUES (?)", (text,))
    return text


@d.workflow
async def answer(step: Step, value: int) -> int:
    return value


@d.workflow
async def working(step: Step, n: int = 0) -> object:
    return await step.run_action(work(n))


@d.workflow
async def noting(step: Step, text: str) -> str:
    return await step.run_mutation(note(text))


@d.workflow
async def waiting(step: Step) -> object:
    return await step.await_event("go")


@d.workflow
async def hasty(step: Step, count: int) -> int:
    for _ in range(count):
        await step.sleep(0)
    return count


@d.workflow
async def napping(step: Step) -> str:
    await step.sleep(0.5)
    return "awake"


@d.workflow
async def broken(step: Step) -> object:
    return await step.run_action(work())


@pytest.fixture
def rig(rigs: Make) -> Rig:
    made = rigs(d)
    made.rows("CREATE TABLE notes (text TEXT UNIQUE)")
    made.settle()
    return made


def notes(rig: Rig) -> list[str]:
    return [text for (text,) in rig.rows("SELECT text FROM notes ORDER BY rowid")]


# --- the turn's phases


def test_a_turn_stops_at_the_borders_of_its_phases(rig: Rig) -> None:
    """A simulator may step in after each phase, in this order."""
    rig.ask_start(answer(1))
    assert list(rig.worker.turn()) == ["collected", "decided", "committed", "told", "carried out"]


def test_an_idle_turn_does_nothing(rig: Rig) -> None:
    """Without messages there is no border, no commit, and time to sleep."""
    commits = rig.store.commits
    assert list(rig.worker.turn()) == []
    assert rig.store.commits == commits
    assert rig.worker.next_wait(1.0) == 1.0


def test_a_workflow_that_never_rests_leaves_turns_to_others(rig: Rig) -> None:
    """Of what is due to it only a part is told in one turn; the rest needs no one to wake it."""
    reply = rig.ask_start(hasty(2 * FACTS_PER_TURN_MAX))
    rig.worker.run_turn()
    other = rig.ask_start(answer(1))
    rig.worker.run_turn()
    assert rig.outcome(rig.value(other)) == 1
    assert rig.state(rig.value(reply)).status == "in_progress"
    rig.settle()
    assert rig.outcome(rig.value(reply)) == 2 * FACTS_PER_TURN_MAX


def test_the_caller_is_told_after_the_commit(rig: Rig) -> None:
    """An answer is given only when what it says is stored."""
    reply = rig.ask_start(answer(1))
    for border in rig.worker.turn():
        assert reply.is_open == (border in ("collected", "decided", "committed"))
    assert rig.outcome(rig.value(reply)) == 1


def test_many_starts_share_one_commit(rig: Rig) -> None:
    """A batch is one transaction, however many workflows it carries."""
    replies = [rig.ask_start(answer(n)) for n in range(20)]
    rig.turn()  # takes epochs in reserve, once in a while, in a commit of its own
    before = rig.store.commits
    more = [rig.ask_start(answer(n)) for n in range(20)]
    rig.turn()
    assert rig.store.commits == before + 1
    assert [rig.outcome(rig.value(reply)) for reply in replies + more] == [*range(20)] * 2


def test_the_attempt_starts_after_its_start_is_recorded(rig: Rig) -> None:
    """No attempt runs before the commit that records it: at most once depends on it."""
    reply = rig.ask_start(working())
    for border in rig.worker.turn():
        assert bool(rig.runner.started) == (border == "carried out")
    assert rig.steps(rig.value(reply)) == [("work", "started", None)]
    assert rig.runner.names() == ["work"]


def test_an_outcome_reaches_the_handler(rig: Rig) -> None:
    """What the attempt returned is what the workflow returns; its listener is told once."""
    workflow_id = rig.start(working())
    rig.runner.succeed('"done"')
    rig.settle()
    assert rig.outcome(workflow_id) == "done"
    assert rig.ended_with == {workflow_id: Succeeded('"done"')}


def test_a_short_sleep_is_kept_in_memory(rig: Rig) -> None:
    """A workflow that sleeps under a second stays with its worker, which wakes for it in time."""
    workflow_id = rig.start(napping())
    rig.settle()
    assert rig.state(workflow_id).owner == rig.worker_id
    assert rig.worker.next_wait(10.0) == 0.5
    rig.pass_time(499)
    assert rig.outcome(workflow_id) is None
    rig.pass_time(1)
    assert rig.outcome(workflow_id) == "awake"


# --- the store in trouble


@pytest.mark.parametrize("where", ["begin", "commit", "applied"])
@pytest.mark.parametrize("phase", ["start", "outcome", "event", "sleep", "mutation"])
def test_trouble_costs_time_only(rig: Rig, where: Where, phase: str) -> None:
    """Whatever was under way when a commit failed is taken up again; nothing happens twice."""
    call = {"event": waiting(), "sleep": napping(), "mutation": noting("x")}.get(phase, working())
    trouble = StoreBusy("locked")
    if phase in ("start", "mutation"):
        reply = rig.ask_start(call)
        rig.worker._claims.reserve_epochs()
        rig.store.fail(where, trouble)
        rig.turn()
        assert reply.is_open
        rig.pass_time(10)
        workflow_id = rig.value(reply)
        if phase == "start":
            rig.runner.succeed()
    else:
        workflow_id = rig.start(call)
        rig.settle()
        if phase == "outcome":
            rig.runner.succeed()
        elif phase == "event":
            rig.ask_event("go", workflow_id)
        else:
            rig.clock.advance(500)
        rig.store.fail(where, trouble)
        rig.turn()
    rig.pass_time(10)
    rig.settle()
    state = rig.state(workflow_id)
    assert state.status == "success"
    # A commit that only seemed to fail tells nobody: who waits has to look.
    assert workflow_id in rig.ended_with or rig.worker.take_foreign_change()
    assert rig.worker.trouble is None
    assert notes(rig) == (["x"] if phase == "mutation" else [])
    assert len(rig.runner.started) == (phase in ("start", "outcome"))


def test_the_delay_doubles_up_to_a_second(rig: Rig) -> None:
    """A store that stays in trouble is asked less and less often, and asked for ever."""
    rig.ask_start(answer(1))
    waits = []
    for _ in range(10):
        rig.store.fail("begin", StoreBusy("locked"))
        rig.turn()
        wait = rig.worker.next_wait(10.0)
        waits.append(wait)
        rig.clock.advance(round(wait * 1000) + 1)
    assert [round(wait, 3) for wait in waits] == [
        *(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64),
        *(1.0, 1.0, 1.0),
    ]


def test_nothing_is_tried_before_the_delay_is_over(rig: Rig) -> None:
    """While a worker waits for its store to recover it does not touch it."""
    reply = rig.ask_start(answer(1))
    rig.store.fail("begin", StoreBusy("locked"))
    rig.turn()
    commits = rig.store.commits
    assert not rig.turn()
    assert (rig.store.commits, reply.is_open) == (commits, True)
    assert isinstance(rig.worker.trouble, StoreBusy)
    rig.pass_time(10)
    assert rig.outcome(rig.value(reply)) == 1


def test_a_request_is_withdrawn_at_its_deadline(rig: Rig) -> None:
    """A caller waits 30 s for a busy store; then nothing of the request is or will be stored."""
    reply = rig.ask_start(answer(1), id="late")
    while reply.is_open:
        rig.store.fail("begin", StoreBusy("locked"))
        rig.turn()
        rig.clock.advance(1000)
    rig.store.plan.clear()
    assert isinstance(reply.error, StoreBusy)
    assert rig.clock.now - NOW > 30_000
    rig.pass_time(2000)
    assert rig.store.reader().states(["late"]) == []
    assert reply.count == 1


def test_a_full_disk_is_told_at_once(rig: Rig) -> None:
    """Only a busy store is worth waiting for: other trouble is the caller's to know now."""
    reply = rig.ask_start(answer(1), id="full")
    rig.store.fail("commit", StoreFull("no space"))
    rig.turn()
    assert isinstance(reply.error, StoreFull)
    rig.pass_time(1000)
    assert rig.store.reader().states(["full"]) == []


def test_a_full_disk_fails_no_workflow(rig: Rig) -> None:
    """The outcome of an attempt waits until there is space again."""
    workflow_id = rig.start(working())
    rig.runner.succeed("7")
    for _ in range(3):
        rig.store.fail("commit", StoreFull("no space"))
        rig.turn()
        rig.clock.advance(1000)
    rig.settle()
    assert rig.outcome(workflow_id) == 7


def test_an_attempt_recorded_by_a_doubtful_commit_is_run(rig: Rig) -> None:
    """A start that was stored, although the commit seemed to fail, is carried out: once."""
    workflow_id = rig.start(waiting_then_working())
    rig.settle()
    rig.done(rig.ask_event("go", workflow_id))
    assert rig.outcome(workflow_id) is None
    rig.runner.succeed("1")
    rig.store.fail("applied", StoreError("the connection broke"))
    rig.turn()
    rig.pass_time(10)
    assert len(rig.runner.started) == 2
    rig.runner.succeed("2")
    rig.settle()
    assert rig.outcome(workflow_id) == [1, 2]


@d.workflow
async def waiting_then_working(step: Step) -> list[object]:
    await step.await_event("go")
    return [await step.run_action(work(1)), await step.run_action(work(2))]


def applied(rig: Rig, *, passing: int = 0) -> None:
    """The next commit (but for so many before it) is stored, and its worker is told that it
    failed; then all goes well."""
    rig.store.let_pass(passing)
    rig.store.fail("applied", StoreError("the connection broke"))
    rig.turn()
    rig.pass_time(10)
    rig.settle()


def test_children_of_a_doubtful_commit_run(rig: Rig) -> None:
    """They are this worker's, and nobody else would take them up."""
    workflow_id = rig.start(waiting_then_parent())
    rig.settle()
    rig.ask_event("go", workflow_id)
    rig.turn()
    applied(rig, passing=1)  # the parent slept: first it is claimed
    assert len(rig.runner.started) == 1
    rig.runner.succeed("5")
    rig.settle()
    assert rig.outcome(workflow_id) == 5


def test_the_outcome_of_a_child_that_ended_in_doubt_reaches_its_parent(rig: Rig) -> None:
    """It lies in the inbox, and no other process has committed anything."""
    workflow_id = rig.start(parent())
    rig.settle()
    rig.runner.succeed("5")
    applied(rig)
    assert rig.outcome(workflow_id) == 5


@pytest.mark.parametrize("what", ["send", "start", "cancel"])
def test_what_a_mutation_did_in_doubt_is_followed(rig: Rig, what: str) -> None:
    """The mutation is not run again: what its verbs did is found in the store."""
    other = rig.start(waiting())
    workflow_id = rig.start(meddling(what, other))
    rig.settle()
    rig.runner.succeed("1")
    applied(rig)
    rig.settle()
    assert rig.outcome(workflow_id) is True
    expected = {"send": 7, "start": None, "cancel": Canceled()}[what]
    assert rig.outcome(other) == expected
    if what == "start":
        rig.runner.succeed("2")
        rig.settle()
        assert rig.outcome("started") == 2


def test_a_cancel_in_doubt_is_not_held(rig: Rig) -> None:
    """Who asks for its result afterwards is sent to the store, and not made to wait for ever."""
    workflow_id = rig.start(working())
    rig.settle()
    rig.ask_cancel(workflow_id)
    applied(rig)
    assert rig.outcome(workflow_id) == Canceled()
    assert rig.worker.holds(workflow_id) is None


@d.workflow
async def parent(step: Step) -> object:
    return await step.run_workflow(working())


@d.workflow
async def waiting_then_parent(step: Step) -> object:
    await step.await_event("go")
    return await step.run_workflow(working())


@d.mutation
def meddle(ctx: MutationContext, what: str, other: str) -> None:
    if what == "send":
        ctx.send_event("go", workflow_id=other, value=7)
    elif what == "start":
        ctx.start(working(), id="started")
    else:
        ctx.cancel(other)


@d.workflow
async def meddling(step: Step, what: str, other: str) -> bool:
    await step.run_action(work())
    await step.run_mutation(meddle(what, other))
    return True


# --- our own faults


def test_a_fault_of_ours_fails_one_workflow_alone(rig: Rig) -> None:
    """A workflow over which the engine stumbles twice ends with InternalError; no other does."""
    good, bad = rig.start(working(1)), rig.start(broken())
    rig.settle()
    # An action step that is recorded as ready *and* counted as settled breaks an assertion.
    spoil(rig, bad)
    for key in list(rig.runner.open):
        rig.runner.succeed("1", key)
    rig.settle()
    assert rig.outcome(good) == 1
    assert rig.error(bad) == "InternalError"


def spoil(rig: Rig, workflow_id: str) -> None:
    """Make the engine's own code raise whenever it decides for this workflow."""
    decider = rig.worker._deciding._decider

    class Spoiled(type(decider)):  # type: ignore[misc]
        def decide(self, unit: Unit, *args: Any) -> None:
            if unit.workflow_id == workflow_id:
                raise AssertionError("a planted bug")
            super().decide(unit, *args)

    rig.worker._deciding._decider = Spoiled(decider.rules)


def test_a_start_over_which_the_engine_stumbles_is_answered(rig: Rig) -> None:
    """A caller is never left waiting: the second failure is told."""
    reply = rig.ask_start(answer(1), id="bad")
    spoil(rig, "bad")
    rig.settle()
    assert isinstance(reply.error, InternalError)
    assert rig.store.reader().states(["bad"]) == []


# --- others meddle


def test_a_cancel_from_elsewhere_leaves_the_unit_out(rigs: Make) -> None:
    """A workflow canceled between decide and commit stays canceled; its neighbours commit."""
    rig, client = rigs(d), rigs(d, works=False)
    canceled, kept = rig.start(working(1)), rig.start(working(2))
    rig.settle()
    for key in list(rig.runner.open):
        rig.runner.succeed("1", key)
    for border in rig.worker.turn():
        if border == "decided":
            client.ask_cancel(canceled)
            client.turn()
    rig.settle()
    assert rig.outcome(canceled) == Canceled()
    assert rig.outcome(kept) == 1


def test_a_cancel_from_elsewhere_cancels_the_attempts(rigs: Make) -> None:
    """The owner of a workflow canceled by another process tells the attempts that run."""
    rig, client = rigs(d), rigs(d, works=False)
    workflow_id = rig.start(working())
    rig.settle()
    client.done(client.ask_cancel(workflow_id))
    rig.settle()
    assert rig.runner.cancelled == rig.runner.started
    rig.runner.succeed()
    rig.settle()
    assert rig.outcome(workflow_id) == Canceled()
    assert rig.steps(workflow_id) == [("work", "settled", "canceled")]


def test_who_waits_learns_of_the_end_from_the_list_or_from_the_store(rigs: Make) -> None:
    """A workflow is held from the end of its first turn until its end is told, and not longer.

    Else who comes in between would wait for ever: he does not look into the store, and is told
    nothing any more.
    """
    rig = rigs(d)
    held: list[object] = []
    tell = rig.ended

    def ended(workflow_id: str, outcome: Outcome) -> None:
        held.append(rig.worker.holds(workflow_id))
        tell(workflow_id, outcome)

    rig.ended = ended  # type: ignore[method-assign]
    workflow_id = rig.start(working())
    rig.settle()
    header = rig.worker.holds(workflow_id)
    assert header is not None
    assert (header.workflow_id, header.name) == (workflow_id, "working")
    rig.runner.succeed("1")
    rig.settle()
    assert held == [None]
    assert rig.worker.holds(workflow_id) is None
    assert rig.worker.holds("unknown") is None


@pytest.mark.parametrize("when", ["before", "in the turn"])
def test_an_end_elsewhere_makes_the_owner_look_for_it(rigs: Make, when: str) -> None:
    """Whoever was promised to be told of an end: that another process has ended the workflow is
    told when the owner lets go of it, however early it saw that something had changed."""
    rig, client = rigs(d), rigs(d, works=False)
    workflow_id = rig.start(working())
    rig.settle()
    if when == "before":
        client.done(client.ask_cancel(workflow_id))
        rig.clock.advance(5)  # it does not look in each turn
    else:
        rig.runner.succeed("1")
    for border in rig.worker.turn():
        if border == "collected":
            rig.worker.take_foreign_change()
        if border == "decided" and when == "in the turn":
            client.done(client.ask_cancel(workflow_id))
    let_go = rig.worker.holds(workflow_id) is None
    assert (let_go, rig.worker.take_foreign_change()) == (True, True)


def test_a_fenced_worker_writes_nothing(rig: Rig) -> None:
    """A worker that was taken for dead raises Fenced, and nothing of its turn is stored."""
    workflow_id = rig.start(working())
    rig.rows("UPDATE perdure_workers SET fenced = 1 WHERE id = ?", rig.worker_id)
    rig.runner.succeed()
    with pytest.raises(Fenced):
        rig.settle()
    assert rig.steps(workflow_id) == [("work", "started", None)]
