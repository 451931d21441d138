"""Why nothing can move: that the cause is named, whatever it is, on both stores."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from tests.sim.failing import failed
from tests.sim.scenes import REFERENCE, SCENARIOS, d, forever, order

from perdure.runtime.contexts import ActionContext
from perdure_sim.explore.explorer import Explorer, Scenario, Stuck, run
from perdure_sim.faults.plan import FaultPlan
from perdure_sim.laws.violations import BlockedWithoutCause
from perdure_sim.mutants.patching import Mutant, planted
from perdure_sim.mutants.planted import MUTANTS
from perdure_sim.report.stuck import why_stuck
from perdure_sim.world.actions import Stub
from perdure_sim.world.disks import memory_disk, sqlite_disk
from perdure_sim.world.world import World


def stuck(scenario: str, plan: str, mutant: str) -> str:
    """What is said of a run that a planted bug leaves stuck."""
    failure = failed(scenario, plan, mutant, detail=False).failure
    assert isinstance(failure, Stuck)
    return str(failure)


def steady(text: str) -> str:
    """Without what hangs on which worker was faster, and on when the last timer was due."""
    return re.sub(r"now it is .*", "now it is later", re.sub(r"\bw[01]\b", "a worker", text))


@pytest.mark.parametrize(
    ("scenario", "plan", "mutant", "reasons"),
    [
        (
            "reference",
            "pd1:w0/commit#3=lost_ack*3",
            "attempts of a commit",
            [
                (
                    "attempt 1 of step 0 charge does not run in w0, though it is recorded: it never"
                    " began"
                )
            ],
        ),
        (
            "reference",
            "pd1:w0/commit#6=fails",
            "messages of a failed",
            [
                (
                    "attempt 1 of step 0 charge does not run in w0, though it is recorded: its code"
                    " has run, and the outcome was lost"
                )
            ],
        ),
        (
            "reference",
            "pd1:charge/attempt#4=raises*3",
            "timers are not",
            [
                "step 1 charge was due at +3.614s, and now it is +1h 0.08s",
                "w0 has no timer for step 1 charge",
            ],
        ),
        (
            "reference",
            "",
            "a parked",
            [
                (
                    "nobody owns it, and nobody will take it up: it is due at +15.020s, but the"
                    " time at which it wants to be woken is not stored"
                ),
                "step 4 (sleep) was due at +15.020s, and now it is +1h 0.08s",
            ],
        ),
        (
            "reference",
            "pd1:w0/carried_out#1=crash",
            "lost attempts",
            [
                (
                    "attempt 1 of step 0 charge was to run in an earlier life of w0: its outcome"
                    " can never come"
                )
            ],
        ),
        (
            "reference",
            "pd1:w0/carried_out#1=crash",
            "the dead are",
            [
                "its owner is dead, and no other worker has noticed: so nobody takes it up",
                (
                    "attempt 1 of step 0 charge was to run in an earlier life of w0: its outcome"
                    " can never come"
                ),
                "1 in its inbox, which its owner has not read",
            ],
        ),
        (
            "fans",
            "pd1:w0/carried_out#1=crash",
            "ready steps",
            [
                "w0 does not have step 2 quick in its queue of what may start",
                "w0 does not have step 3 quick in its queue of what may start",
            ],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else "",
)
def test_the_cause_is_named(scenario: str, plan: str, mutant: str, reasons: list[str]) -> None:
    """In sentences, gravest first; of the first workflow that is stuck."""
    text = stuck(scenario, plan, mutant).split(" has not ended", 2)[1]
    found = [steady(row[4:]) for row in text.splitlines() if row.startswith("  → ")]
    assert found == [steady(reason) for reason in reasons]


def test_the_facts_are_listed() -> None:
    """What it waits for and since when, its owner, when it wakes, what it has not read."""
    assert stuck("reference", "pd1:w0/carried_out#1=crash", "the dead are").splitlines()[:6] == [
        "o0 = order(n=0) has not ended, and nothing moves",
        "  waits for   step 0 charge: attempt 1, started at +0.020s in an earlier life of w0",
        "  owner       an earlier life of w0 (epoch 2003)",
        "  wakes       its owner is gone",
        "  has unread  event go (c0.1.1), sent at +10.000s",
        "  inbox       event, since +10.000s",
    ]


def test_the_last_line_says_what_the_world_has_left_to_do() -> None:
    """Nothing; and who lives."""
    last = stuck("reference", "", "a parked").splitlines()[-1]
    assert re.fullmatch(
        r"now it is \+\S+( \S+)*; w0 lives, w1 lives, c0 lives; left to do: nothing", last
    )


def test_of_many_steps_some_are_shown() -> None:
    """With how many there are."""
    text = stuck("fans", "pd1:w0/carried_out#1=crash", "ready steps")
    wide = text[text.index("wide = ") :].splitlines()
    assert sum(row.startswith("  waits for") for row in wide) == 3
    assert "              … and 3 more steps" in wide
    assert "    … and 3 more like these" in wide


def test_who_waits_for_others_is_told_so() -> None:
    """An event without a timeout, that nobody sends."""

    def waits(world: World) -> None:
        world.start(forever(), id="f")

    found = run(Scenario(name="f", definer=d, script=waits), FaultPlan(), memory_disk)
    assert isinstance(found.failure, Stuck)
    assert str(found.failure).splitlines()[:6] == [
        "f = forever() has not ended, and nothing moves",
        "  waits for   step 0 (wait for never): asked for at +0.020s",
        "  owner       nobody (epoch 2002)",
        "  wakes       never: it does not want to be taken up",
        "  → all that it waits for must come from others",
        "  → step 0 (wait for never) waits for an event that nobody has sent, without a timeout",
    ]


def test_a_world_in_which_all_has_ended_is_not_stuck() -> None:
    """And who may wait is not spoken of."""
    for may_wait, is_stuck in ((frozenset(), True), (frozenset("f"), False)):
        world = World(d, memory_disk())
        world.start(forever(), id="f")
        world.settle()
        assert bool(why_stuck(world, may_wait)) is is_stuck
        world.close()
    world = World(d, memory_disk())
    world.settle()
    assert why_stuck(world) == ""
    world.close()


def test_a_client_without_an_answer_is_told() -> None:
    """Its request stands still somewhere."""
    world = World(d, memory_disk())
    deed = world.start(order(1), id="o")
    assert not deed.is_done
    text = why_stuck(world)
    assert text.splitlines() == [
        "a client was never answered: start o",
        "  → c0 lives; in its mailbox is 1 request",
        (
            "now it is +0.000s; w0 lives, w1 lives, c0 lives; left to do: 3 things, the next one at"
            " +0.000s"
        ),
    ]
    world.close()


def test_an_action_that_does_not_end_is_told() -> None:
    """It runs, and its worker waits for it."""

    async def hang(ctx: ActionContext, n: int) -> int:
        await asyncio.get_running_loop().create_future()
        return n

    def script(world: World) -> None:
        world.start(order(1), id="o")

    scenario = Scenario(name="h", definer=d, script=script, stubs={"charge": Stub(fn=hang)})
    failure = run(scenario, FaultPlan(), memory_disk).failure
    assert isinstance(failure, Stuck)
    assert "  → attempt 1 of step 0 charge still runs in w0, and does not end" in str(failure)


def test_a_blocked_workflow_says_why() -> None:
    """Its code does not fit what is recorded."""
    world = World(d, memory_disk())
    mutant = next(each for each in MUTANTS if each.name.startswith("a replay takes any"))
    race = next(each for each in SCENARIOS if each.name == "race")
    with planted(mutant):
        race.script(world)
        with pytest.raises(BlockedWithoutCause):
            world.run()
        text = why_stuck(world)
    world.close()
    assert "  blocked     " in text
    assert "  → its code cannot go on: see what blocks it" in text


def test_a_child_that_was_not_heard_of_is_named() -> None:
    """It has ended, but its parent was not told."""
    mutant = Mutant("x", "", "runtime.operations:tell_parent", "scope.tx.put_inbox([row])", "pass")
    trees = next(each for each in SCENARIOS if each.name == "trees")
    with planted(mutant):
        failure = run(trees, FaultPlan(), memory_disk).failure
    assert isinstance(failure, Stuck)
    assert "  → its child kept/0@2004 has ended at +3.020s, and that was not told to it" in str(
        failure
    )


@pytest.mark.parametrize("is_sqlite", [False, True])
def test_both_stores_tell_the_same(is_sqlite: bool, tmp_path: Path) -> None:
    """Also what waits in the inbox, which the contract of a store shows only to owners."""
    make = (lambda: sqlite_disk(tmp_path / "a.db")) if is_sqlite else memory_disk
    explorer = Explorer(REFERENCE, make)
    mutant = next(each for each in MUTANTS if each.name.startswith("the dead are"))
    with planted(mutant):
        failure = explorer.try_plan(FaultPlan.parse("pd1:w0/carried_out#1=crash")).failure
    assert str(failure) == stuck("reference", "pd1:w0/carried_out#1=crash", "the dead are")
