"""The laws of what is committed: what breaks each of them, and what is next to it and lawful.

A case is the smallest sequence of commits of which the last one breaks the law; beside it stands
the same with the fault mended. Whole lives are in test_history_lives.py.
"""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from msgspec.structs import replace
from tests.core.playbook import NOW, fresh, ok, run, sent, step, waiting
from tests.sim.rows import (
    AGAIN,
    ASKED,
    BACKOFF,
    BEGUN,
    BOOM,
    ENDED,
    LISTENING,
    OPEN,
    OTHER,
    PLANNED,
    SLEEPING,
    STARTED,
    Told,
    at,
    born,
    call,
    consume,
    done,
    event,
    put,
    tell,
    ticks,
    told,
    update,
)

from perdure.core.journal import record_canceled
from perdure.core.messages import SentEvent
from perdure.core.outcomes import Canceled, Failed
from perdure.errors import ErrorInfo
from perdure_sim.laws import violations as laws
from perdure_sim.laws.history import History
from perdure_sim.laws.violations import Violation
from perdure_sim.world.actions import CallMade
from perdure_sim.world.faulty_store import Write as Row

#: The workflow with one open step, restarted after its end.
REOPENED = replace(OPEN, epoch=9, owner=None)

LATE = Failed(ErrorInfo("TimeoutError", "no event came in time"))

# --- the cases ------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Case:
    """After `before`, the last of `wrong` breaks a law; all of `right` is as it should be."""

    before: tuple[Told, ...] = ()
    wrong: tuple[Told, ...]
    right: tuple[Told, ...]
    says: str


CASES: dict[str, Case] = {
    "IdTaken": Case(
        before=(born(fresh()),),
        wrong=(born(replace(fresh(), epoch=2)),),
        right=(born(OTHER),),
        says="w was started twice",
    ),
    "IdTaken in one commit": Case(
        wrong=(born(fresh(), replace(fresh(), epoch=2)),),
        right=(born(fresh(), OTHER),),
        says="w was started twice",
    ),
    "StaleWrite": Case(
        before=(born(BEGUN), [update(replace(BEGUN, epoch=2, owner="w2"))]),
        wrong=([update(BEGUN)],),
        right=([update(replace(BEGUN, epoch=3), 2)],),
        says="expected epoch 1, stored 2",
    ),
    "StaleWrite from the future": Case(
        before=(born(BEGUN),),
        wrong=([update(replace(BEGUN, epoch=2), 2)],),
        right=([update(replace(BEGUN, epoch=2), 1)],),
        says="expected epoch 2, stored 1",
    ),
    "EpochReused by another": Case(
        before=(born(fresh()),),
        wrong=(born(replace(OTHER, epoch=1)),),
        right=(born(OTHER),),
        says="epoch 1 was w's, now it is v's",
    ),
    "EpochReused by an owner": Case(
        before=(born(fresh(), OTHER),),
        wrong=([update(replace(fresh(), epoch=2))],),
        right=([update(replace(fresh(), epoch=3))],),
        says="w: epoch 2 was given before",
    ),
    "EpochReused: it fell": Case(
        before=(born(replace(fresh(), epoch=5)),),
        wrong=([update(replace(fresh(), epoch=4), 5)],),
        right=([update(replace(fresh(), epoch=6), 5)],),
        says="w: epoch 4 after 5",
    ),
    "EndChanged": Case(
        before=(born(BEGUN),),
        wrong=(
            [update(replace(BEGUN, status="success", outcome=ok(), ended_at=NOW))],
            [update(replace(BEGUN, status="canceled", outcome=Canceled(), ended_at=NOW))],
        ),
        right=(
            [
                update(replace(BEGUN, status="success", outcome=ok(), ended_at=NOW)),
                update(
                    replace(
                        BEGUN,
                        status="success",
                        outcome=ok(),
                        ended_at=NOW,
                        on_complete_error=BOOM.error,
                    )
                ),
            ],
        ),
        says="w ended as Succeeded(value='1'), now Canceled()",
    ),
    "StepAfterEnd": Case(
        before=(born(OPEN),),
        wrong=([update(ENDED), put(done(ASKED))], [put(told(done(ASKED)))]),
        right=([update(ENDED), put(done(ASKED))], [event(sent(1))]),
        says="w step 0 written after the end, Succeeded(value='1')",
    ),
    "RestartCutsWrong: an outcome is forgotten": Case(
        before=(born(OPEN), [update(ENDED), put(done(ASKED))]),
        wrong=([update(REOPENED), put(ASKED)],),
        right=([update(REOPENED), put(done(ASKED))],),
        says="w step 0 had the outcome Succeeded(value='1')",
    ),
    "RestartCutsWrong: another place": Case(
        before=(born(OPEN), [update(ENDED), put(done(ASKED))]),
        wrong=([update(replace(REOPENED, next_number=0)), ("cut", ("w", 0, 1))],),
        right=([update(replace(REOPENED, next_number=0)), ("cut", ("w", 0, 0))],),
        says="w: after 1, which asks for no 0",
    ),
    "RestartCutsWrong: nobody asks again": Case(
        before=(born(OPEN), [update(ENDED), put(done(ASKED, Canceled()))]),
        wrong=([update(REOPENED)],),
        right=([update(REOPENED), put(ASKED)],),
        says="w step 0 was canceled by the end, and is not asked again",
    ),
    "NumbersNotDense: one is left out": Case(
        before=(born(BEGUN),),
        wrong=([update(replace(BEGUN, next_number=1)), put(replace(ASKED, number=1), new=True)],),
        right=([update(replace(BEGUN, next_number=1)), put(ASKED, new=True)],),
        says="w step 1 comes when there are 0 steps",
    ),
    "NumbersNotDense: one is counted and not there": Case(
        before=(born(BEGUN),),
        wrong=([update(replace(BEGUN, next_number=2)), put(ASKED, new=True)],),
        right=([update(replace(BEGUN, next_number=1)), put(ASKED, new=True)],),
        says="w: next_number 2, 1 steps",
    ),
    "StoreDiffers": Case(
        before=(born(BEGUN),),
        wrong=([update(replace(BEGUN, next_number=1)), put(ASKED)],),
        right=([update(replace(BEGUN, next_number=1)), put(ASKED, new=True)],),
        says="w step 0: updated, but it was never inserted",
    ),
    "JournalChanged: the start": Case(
        before=(born(BEGUN),),
        wrong=([update(replace(BEGUN, started_at=NOW + 1))],),
        right=([update(replace(BEGUN, stamp=NOW + 1))],),
        says=f"w: started at {NOW + 1}",
    ),
    "JournalChanged: what was delivered": Case(
        before=(born(OPEN), [update(at(OPEN, 1)), put(told(done(ASKED)))]),
        wrong=([put(told(done(ASKED)))],),
        right=([event(sent(1))],),
        says="w step 0 was delivered",
    ),
    "OutcomeChanged": Case(
        before=(born(OPEN), [put(done(ASKED))]),
        wrong=([put(done(ASKED, BOOM))],),
        right=([update(at(OPEN, 1)), put(told(done(ASKED)))],),
        says="w step 0: Succeeded(value='1') became Failed(error=ErrorInfo(type='ValueError'",
    ),
    "OutcomeChanged: it is gone": Case(
        before=(born(OPEN), [put(done(STARTED))]),
        wrong=([put(STARTED)],),
        right=([put(done(STARTED))],),
        says="w step 0: Succeeded(value='1') became None",
    ),
    "OutcomeChanged: canceled by nobody": Case(
        before=(born(OPEN), [put(done(ASKED))]),
        wrong=([put(record_canceled(ASKED, NOW))],),
        right=([put(replace(record_canceled(ASKED, NOW), canceled_position=0))],),
        says="w step 0: Succeeded(value='1') became Canceled()",
    ),
    "PositionsNotDense: two at one": Case(
        before=(born(OPEN),),
        wrong=([update(at(OPEN, 2)), put(told(done(ASKED), 1)), ticks(1)],),
        right=([update(at(OPEN, 2)), put(told(done(ASKED), 1)), ticks(2)],),
        says="w tick: position 1 is taken",
    ),
    "PositionsNotDense: a step at that of a tick": Case(
        before=(born(OPEN), [update(at(OPEN, 1)), ticks(1)]),
        wrong=([update(at(OPEN, 2)), put(told(done(ASKED), 1))],),
        right=([update(at(OPEN, 2)), put(told(done(ASKED), 2))],),
        says="w step 0: position 1 is taken",
    ),
    "PositionsNotDense: one that nothing is at": Case(
        before=(born(OPEN),),
        wrong=([update(at(OPEN, 2)), put(told(done(ASKED), 2))],),
        right=([update(at(OPEN, 1)), put(told(done(ASKED), 1))],),
        says="w: 2 facts, up to position 2, but the last position is 2",
    ),
    "PositionsNotDense: one that is not counted": Case(
        before=(born(OPEN),),
        wrong=([put(told(done(ASKED), 1))],),
        right=([put(done(ASKED))],),
        says="w: 2 facts, up to position 1, but the last position is 0",
    ),
    "TimeWentBack: the stamp": Case(
        before=(born(BEGUN),),
        wrong=([update(replace(BEGUN, stamp=NOW - 1))],),
        right=([update(replace(BEGUN, stamp=NOW))],),
        says=f"w: stamp {NOW - 1} position 0 after {NOW} 0",
    ),
    "TimeWentBack: the position": Case(
        before=(born(BEGUN),),
        wrong=([update(at(BEGUN, -1, started_at=None))],),
        right=([update(at(BEGUN, 0))],),
        says=f"w: stamp {NOW} position -1 after {NOW} 0",
    ),
    "TooManyAttempts: one is left out": Case(
        before=(born(OPEN),),
        wrong=([put(AGAIN)],),
        right=([put(STARTED)],),
        says="w step 0: attempt 2 after 0",
    ),
    "TooManyAttempts: back to an earlier one": Case(
        before=(born(OPEN), [put(STARTED)], [put(BACKOFF)], [put(AGAIN)]),
        wrong=([put(STARTED)],),
        right=([put(done(AGAIN))],),
        says="w step 0: attempt 1 after 2",
    ),
    "TooManyAttempts: more than the policy has": Case(
        before=(born(OPEN), [put(STARTED)], [put(BACKOFF)], [put(AGAIN)]),
        wrong=([put(replace(AGAIN, attempt=3))],),
        right=([put(done(AGAIN, BOOM))],),
        says="w step 0: 3 of 2",
    ),
    "TooManyAttempts: at most once means once": Case(
        before=(born(waiting(run())), [put(replace(STARTED, command=run()))]),
        wrong=([put(replace(AGAIN, command=run()))],),
        right=([put(done(replace(STARTED, command=run()), BOOM))],),
        says="w step 0: 2 of 1",
    ),
    "TooManyAttempts: after the outcome": Case(
        before=(born(OPEN), [put(STARTED)], [put(done(STARTED))]),
        wrong=([put(done(AGAIN))],),
        right=([update(at(OPEN, 1)), put(told(done(STARTED)))],),
        says="w step 0: attempt 2 after its outcome",
    ),
    "BackoffTooShort": Case(
        before=(born(OPEN), [put(STARTED)], [put(BACKOFF)]),
        wrong=([put(replace(AGAIN, started_at=NOW + 99))],),
        right=([put(AGAIN)],),
        says=f"w step 0: due at {NOW + 100}, started {NOW + 99}",
    ),
    "TimerEarly: an action": Case(
        before=(born(PLANNED),),
        wrong=([put(replace(STARTED, command=run(due_at=NOW + 50), started_at=NOW + 49))],),
        right=([put(replace(STARTED, command=run(due_at=NOW + 50), started_at=NOW + 50))],),
        says=f"w step 0: due at {NOW + 50}, started at {NOW + 49}",
    ),
    "TimerEarly: a sleep": Case(
        before=(born(SLEEPING),),
        wrong=([put(done(step(SLEEPING), at=NOW + 49))],),
        right=([put(done(step(SLEEPING), at=NOW + 50))],),
        says=f"w step 0: due at {NOW + 50}, woke at {NOW + 49}",
    ),
    "TimerEarly: the end of a wait": Case(
        before=(born(LISTENING),),
        wrong=([put(done(step(LISTENING), LATE, at=NOW + 49))],),
        right=([put(done(step(LISTENING), LATE, at=NOW + 50))],),
        says=f"w step 0: timed out at {NOW + 49}, due {NOW + 50}",
    ),
    "EventTwice": Case(
        before=(born(BEGUN), [event(sent(1)), event(sent(2))], [consume(1, 0)]),
        wrong=([consume(1, 1)],),
        right=([consume(2, 1)],),
        says="e1: by step 0 and by 1",
    ),
    "EventTwice: it was never sent": Case(
        before=(born(BEGUN),),
        wrong=([consume(1, 0)],),
        right=([event(sent(1))], [consume(1, 0)]),
        says="e1, consumed by step 0, was never sent",
    ),
    "EventTwice: it was only created": Case(
        before=(born(BEGUN), [("event", ("w", SentEvent(event_id="e1", name="e")))]),
        wrong=([consume(1, 0)],),
        right=([event(sent(1))], [consume(1, 0)]),
        says="e1, consumed by step 0, was never sent",
    ),
    "EventsOutOfOrder": Case(
        before=(born(BEGUN), [event(sent(1)), event(sent(2)), event(sent(3, "other"))]),
        wrong=([consume(2, 0)],),
        right=([consume(3, 0)], [consume(1, 1)], [consume(2, 2)]),
        says="e2 was consumed before e1, sent earlier",
    ),
    "AttemptNotRecorded": Case(
        before=(born(OPEN),),
        wrong=(call(1),),
        right=([put(STARTED)], call(1)),
        says="w step 0 attempt 1 of f runs; recorded is StepRecord(number=0",
    ),
    "AttemptNotRecorded: the next one": Case(
        before=(born(OPEN), [put(STARTED)], call(1), [put(BACKOFF)]),
        wrong=(call(2),),
        right=([put(AGAIN)], call(2)),
        says="w step 0 attempt 2 of f runs; recorded is StepRecord(number=0",
    ),
    "AttemptNotRecorded: of an unknown step": Case(
        before=(born(BEGUN),),
        wrong=(call(1),),
        right=([update(OPEN), put(STARTED, new=True)], call(1)),
        says="w step 0 attempt 1 of f runs; recorded is None",
    ),
    "AttemptNotRecorded: of an unknown workflow": Case(
        wrong=(call(1),),
        right=(born(OPEN), [put(STARTED)], call(1)),
        says="w step 0 attempt 1 of f runs; recorded is None",
    ),
    "AttemptTwice": Case(
        before=(born(OPEN), [put(STARTED)], call(1)),
        wrong=(call(1),),
        right=([put(BACKOFF)], [put(AGAIN)], call(2)),
        says=f"w step 0 attempt 1 ran at {NOW} in w1, now CallMade(",
    ),
    "KeyChanged": Case(
        before=(born(OPEN), [put(STARTED)], call(1), [put(BACKOFF)], [put(AGAIN)]),
        wrong=(call(2, key="w/0@2"),),
        right=(call(2),),
        says="w step 0 attempt 2: w/0@1, now w/0@2",
    ),
    "StateUnsound": Case(
        before=(born(OPEN),),
        wrong=([update(ENDED)],),
        right=([update(ENDED), put(record_canceled(ASKED, NOW))],),
        says="w has ended, but not its step StepRecord(number=0",
    ),
}

#: What is asked for is closed with the commit in which it is asked for.
CHANGES: dict[str, Any] = {
    "command": run("g", attempts=2),
    "asked_position": 1,
    "asked_at": NOW + 1,
    "asked_epoch": 2,
    "child_id": "v",
}
CASES |= {
    f"JournalChanged: {name}": Case(
        before=(born(OPEN),),
        wrong=([put(replace(STARTED, **{name: value}))],),
        right=([put(STARTED)],),
        says=f"w step 0: {name} was {getattr(ASKED, name)!r}",
    )
    for name, value in CHANGES.items()
}


def law(name: str) -> type[Violation]:
    """The class that a case is about."""
    found: type[Violation] = getattr(laws, name.partition(":")[0].partition(" ")[0])
    return found


@pytest.mark.parametrize("name", CASES)
def test_a_broken_law_is_named(name: str) -> None:
    """What breaks a law raises that law's class and no other, and says what contradicts."""
    case = CASES[name]
    history = tell(History(), [*case.before, *case.wrong[:-1]])
    with pytest.raises(Violation) as caught:
        tell(history, case.wrong[-1:])
    assert type(caught.value) is law(name)
    assert case.says in str(caught.value)


@pytest.mark.parametrize("name", CASES)
def test_what_is_next_to_it_is_lawful(name: str) -> None:
    """The same with its one fault mended raises nothing, and is known."""
    case = CASES[name]
    history = tell(History(), [*case.before, *case.right])
    inserted = [
        state.workflow_id
        for each in (*case.before, *case.right)
        if not isinstance(each, CallMade)
        for kind, what in each
        if kind == "insert"
        for state in what
    ]
    assert list(history.workflows) == inserted


# --- what no law forbids, or should ---------------------------------------------------------------

#: What `pytest.raises` raises where nothing was.
NOT_RAISED = pytest.fail.Exception


def test_a_gap_with_a_fact_beyond_the_last_position_is_found() -> None:
    """As many facts as positions are not enough: each position has its fact."""
    history = tell(History(), [born(OPEN)])
    with pytest.raises(laws.PositionsNotDense):
        history.take([update(at(OPEN, 1)), put(told(done(ASKED), 2))], NOW)


@pytest.mark.parametrize(
    "fact",
    [
        ("ticks", (("w", 1, NOW - 1),)),
        put(replace(told(done(ASKED)), delivered_at=NOW - 1)),
    ],
)
def test_a_fact_is_not_older_than_the_one_before_it(fact: Row) -> None:
    """The handler's clock never goes back: neither by a tick nor by an outcome."""
    history = tell(History(), [born(OPEN)])
    with pytest.raises(laws.TimeWentBack):
        history.take([update(at(OPEN, 1)), fact], NOW)


def test_a_step_that_waited_for_the_pool_has_waited_out_its_backoff() -> None:
    """A backoff that was cut short is found also where a commit lies before the next attempt."""
    ready = replace(BACKOFF, state="ready")
    history = tell(History(), [born(OPEN), [put(STARTED)], [put(BACKOFF)]])
    with pytest.raises(laws.BackoffTooShort):
        tell(history, [[put(ready)], [put(replace(AGAIN, started_at=NOW + 1))]])


def test_an_event_is_kept_for_a_workflow_that_has_ended() -> None:
    """It may be restarted; and what a worker gives up is not a change of the workflow's."""
    history = tell(History(), [born(OPEN), [update(ENDED), put(done(ASKED))]])
    history.take([event(sent(1)), ("release", ("w1", NOW, True))], NOW)
    assert list(history.workflows["w"].sent) == ["e1"]
