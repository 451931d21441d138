"""Traces told to people: what the lines say."""

from __future__ import annotations

import re

import pytest
from tests.sim.failing import run_of
from tests.sim.testing import bank

from perdure_sim import Simulation, run_simulation
from perdure_sim.report.causes import NOISE
from perdure_sim.report.telling import Line, tell
from perdure_sim.report.wording import moment
from perdure_sim.world.clock import START_MS
from perdure_sim.world.trace import Event


def lines_of(scenario: str, plan: str = "") -> list[Line]:
    """The lines of a run, without turns and wake-ups."""
    lines = tell(run_of(scenario, plan).world.trace.events)
    return [line for line in lines if line.kind not in NOISE]


def texts(scenario: str, workflow_id: str, plan: str = "") -> list[str]:
    """What is said of one workflow, with time and lane."""
    return [
        f"{moment(line.at)} {line.lane} {part.text}"
        for line in lines_of(scenario, plan)
        for part in line.parts
        if part.workflow_id == workflow_id
    ]


def test_the_story_of_an_order() -> None:
    """A workflow's life from its start to its end, without a word of rows or columns."""
    told = [re.sub(r"\bw[01]\b", "w", text) for text in texts("reference", "o1")]
    assert told == [
        "+0.000s c0 the client asks: start o1",
        "+0.000s c0 is started as order(n=1)",
        "+0.000s c0 the client is told: start o1 is done",
        "+0.020s w w takes it up (epoch 2004)",
        (
            "+0.020s w its code begins; asks for step 0: action charge(n=1); its attempt 1 is to"
            " run in w"
        ),
        "+0.020s w step 0, attempt 1: charge(1) begins to run",
        "+0.050s w step 0, attempt 1: charge returned 1",
        (
            "+0.050s w step 0 charge succeeded with 1; asks for step 1: action charge(n=2); its"
            " attempt 1 is to run in w; asks for step 2: mutation note(n=1); it succeeded with 1"
            " (its code is not told yet)"
        ),
        "+0.050s w step 1, attempt 1: charge(2) begins to run",
        "+0.050s w its code is told that step 2 note succeeded with 1",
        "+0.080s w step 1, attempt 1: charge returned 2",
        (
            "+0.080s w step 1 charge succeeded with 2; asks for step 3: wait for event go, until"
            " +1h 0.08s; is put aside until +1h 0.08s"
        ),
        "+10.000s c0 the client asks: event to o1",
        "+10.000s c0 event go is sent (1) as c0.1.2; wakes it",
        "+10.000s c0 the client is told: event to o1 is done",
        "+10.020s w w takes it up (epoch 2006)",
        (
            "+10.020s w step 3 (wait for go) gets event c0.1.2: 1; asks for step 4: sleep until"
            " +15.020s; is put aside until +15.020s"
        ),
        "+15.020s w w takes it up (epoch 2008)",
        "+15.020s w step 4 (sleep) is over; it ends: it succeeded with 4",
    ]


def test_a_crash_and_who_takes_over() -> None:
    """That the owner is dead, that the attempt is lost, and that the next one runs elsewhere."""
    told = texts("reference", "o0", "pd1:w0/decided#2=crash")
    assert "+0.170s w1 its owner w0 is dead; anybody may take it up now" in told
    assert "+0.170s w1 w1 takes it up (epoch 2005)" in told
    assert any("attempt 1 is over without success, the next one is due at" in text for text in told)
    assert any(text.endswith("attempt 2 is to run in w1") for text in told)


def test_a_worker_that_lives_again_is_told_from_what_it_was() -> None:
    """The process is the same, the worker is another one."""
    said = "\n".join(line.text for line in lines_of("reference", "pd1:w0/decided#2=crash"))
    assert "strikes w0 off the list of workers" in said
    assert "signs on as w0 (life 2)" in said


def test_faults_are_told_with_what_they_do() -> None:
    """Of a burst the first in full, and then which one it is."""
    lines = lines_of("reference", "pd1:w0/commit#5=fails*3")
    assert [line.text for line in lines if line.kind == "fault"] == [
        (
            "w0/commit#5=fails*3: the 5th commit of w0 fails, and nothing of it is stored; so do"
            " the 2 after it"
        ),
        "w0/commit#5=fails*3 again, 2 of 3",
        "w0/commit#5=fails*3 again, 3 of 3",
    ]


def test_children_know_their_parents() -> None:
    """And what is told to them when they end."""
    lines = lines_of("trees")
    pairs = {pair for line in lines for pair in line.children}
    assert pairs == {(f"{tree}/{n}@{e}", tree) for tree, e in TREES.items() for n in range(3)}
    said = texts("trees", "kept")
    assert any("asks for step 1: child workflow leaf(seconds=4) as kept/1@2004" in t for t in said)
    assert any("the outcome of the child of step 0 is put into the inbox" in text for text in said)
    assert said[-1].endswith("step 2 (child leaf) succeeded with 5; it ends: it succeeded with 12")


#: The trees, and the epochs in which they asked for their leaves.
TREES = {"felled": 2003, "kept": 2004}


def test_a_mutation_that_meddles_with_others_is_known_to_have_done_so() -> None:
    """It starts one, sends to another, and cancels a third."""
    pairs = {pair for line in lines_of("leaders") for pair in line.meddled}
    assert {("led", "leader"), ("f", "leader"), ("idler", "leader")} <= pairs


@pytest.mark.parametrize("scenario", ["transfers", "events", "fans", "race", "trees", "leaders"])
@pytest.mark.parametrize(
    "plan",
    [
        "",
        "pd1:w0/commit#5=lost_ack;w0/decided#4=zombie:40s;w1/told#2=crash",
        "pd1:c0/commit#1=lost_ack*3;w0/turn#3=evict;w1/turn#4=jump:1m;quick/attempt#1=slow:90s",
    ],
)
def test_no_line_shows_rows(scenario: str, plan: str) -> None:
    """Whatever happens, each line is a sentence: no value of the engine, no bare instant."""
    for line in lines_of(scenario, plan):
        assert line.text.strip()
        for bad in ("StepRecord", "WorkflowState", "StateWrite", "20000000", "None"):
            assert bad not in line.text, line


def test_after_a_power_cut_is_told_from_what_is_left() -> None:
    """What was lost is done again, and told again."""
    plan = "pd1:w0/commit#5=power_loss:50ms"
    said = [line.text for line in lines_of("reference", plan)]
    (lost,) = [text for text in said if text.startswith("the disk has lost what was stored since")]
    begun = [text for text in said if "o0: is started as order(n=0)" in text]
    assert len(begun) == 2
    assert said.index(begun[0]) < said.index(lost)
    assert "o0: is started as order(n=0)" in "\n".join(said[said.index(lost) :])


def test_a_process_that_ends_in_good_order_is_no_dead_one() -> None:
    """It gives up what it has, and starts again."""
    said = [line.text for line in lines_of("reference", "pd1:w0/turn#3=drain")]
    assert "w0 ends in good order" in said
    assert "w0 dies, and all that was only in its memory is lost" not in said


def test_a_commit_with_very_many_changes_is_told_in_short() -> None:
    """The first ones, how many there are, and the last one."""
    ticks = [("ticks", tuple(("kept", n, START_MS) for n in range(1_000)))]
    line = tell([Event(START_MS, "w0", "commit", ticks)])[0]
    assert "… 991 more changes …" in line.text
    assert len(line.text) < 600


def test_an_attempt_that_dies_with_its_process_raises_nothing() -> None:
    """Its code is torn down, which nobody sees."""

    def one(sim: Simulation) -> None:
        sim.stub(bank.look_up, takes="10s", returns="x")
        sim.start(bank.asking("x"))

    trace = run_simulation(bank.manager, one, "pd1:look_up/attempt#1=crash")
    assert "step 0, attempt 2: look_up returned" in trace.timeline
    assert "GeneratorExit" not in trace.timeline
