"""Random programs that are restarted, canceled and deleted at random moments, in random trouble.

The laws of the simulator hold in every run: what a restart keeps of a journal stays as it is, only
what it was asked to run anew is asked for again, journals replay, nothing is left behind, and all
comes to an end. Here it is added what the effects may be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Literal

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from property_tests.cases import silence
from property_tests.programs import (
    PROGRAMS,
    Program,
    d,
    ended,
    events,
    interpret,
    make_ledger,
    paths,
)

from perdure_sim.explore.explorer import Run, Scenario, run
from perdure_sim.faults.plan import FaultPlan
from perdure_sim.faults.sites import CHANGING
from perdure_sim.faults.strategies import plans
from perdure_sim.world.deeds import Deed
from perdure_sim.world.disks import memory_disk
from perdure_sim.world.world import World

#: When all that clients meddle with is over, in ms: whatever waits for an event gets it then.
LATER_MS = 100_000


@attrs.frozen
class Meddling:
    """What a client does to a program that runs, or has run.

    Attributes:
        after: in ms, since the start.
        step: the number of a step to restart from; there may be no such step.
        force: of a cleanup.
    """

    kind: Literal["cancel", "restart", "cleanup"]
    after: int
    step: int | None = None
    force: bool = False


MEDDLINGS = st.builds(
    Meddling,
    kind=st.sampled_from(["restart", "restart", "cancel", "cleanup"]),
    after=st.integers(0, 4_000) | st.integers(10_000, 60_000),
    step=st.none() | st.integers(0, 8),
    force=st.booleans(),
)


@attrs.define
class Played:
    """One run, and what came of the meddling."""

    found: Run
    rows: Counter[str]
    deeds: list[tuple[Meddling, Deed]]

    def restarts(self, *, from_step: bool) -> int:
        """How many were carried out, or may have been."""
        return sum(
            meddling.kind == "restart"
            and deed.error is None
            and (meddling.step is not None) == from_step
            for meddling, deed in self.deeds
        )


def letters(program: Program, path: str) -> Iterator[tuple[str, int]]:
    """The events that the program sends to itself, by steps that a restart may keep: name, and how
    many."""
    if program[0] == "letters":
        yield path, program[1]
    for part_path, part in paths(program, path):
        yield from letters(part, part_path)


def play(program: Program, meddlings: list[Meddling], plan: FaultPlan = FaultPlan()) -> Played:
    """Run a program that clients meddle with, under all laws.

    Raises:
        AssertionError: a law is broken.
    """
    deeds: list[tuple[Meddling, Deed]] = []
    rows: Counter[str] = Counter()

    def meddle(world: World, meddling: Meddling) -> None:
        match meddling.kind:
            case "cancel":
                deed = world.cancel("p0")
            case "restart":
                deed = world.restart("p0", from_step=meddling.step)
            case "cleanup":
                deed = world.cleanup("p0", force=meddling.force)
        deeds.append((meddling, deed))

    def script(world: World) -> None:
        started = world.start(interpret("p0", program), id="p0", on_complete=ended)
        for meddling in meddlings:
            world.after(meddling.after, partial(meddle, world, meddling), started)
        later = []
        for name, ms in events(program, "p0"):
            send = partial(world.send_event, name, workflow_id="p0", value="sent")
            world.after(ms, send, started)
            later.append(send)
        for name, many in letters(program, "p0"):
            send = partial(world.send_event, name, workflow_id="p0", value="sent")
            later += [send] * many
        for time in range(len(meddlings)):  # those that it had may have gone with their steps
            for send in later:
                world.after(LATER_MS * (time + 1), send, started)

    def look(world: World) -> None:
        rows.update(path for (path,) in world.db.execute("SELECT path FROM ledger"))

    scenario = Scenario(name="restarts", definer=d, script=script, setup=make_ledger, check=look)
    with silence():
        found = run(scenario, plan, memory_disk)
    if found.failure is not None:
        raise found.failure
    return Played(found, rows, deeds)


def check(played: Played) -> None:
    """What the ledger may have: each mutation's row once for each time that it was asked for."""
    again = played.restarts(from_step=True)
    for path, count in played.rows.items():
        if path.endswith(" ended"):
            continue
        assert count <= 1 + again, f"{path} is there {count} times after {again} restarts"
    ends = played.rows["p0 ended"]
    most = 1 + again + played.restarts(from_step=False)
    assert ends <= most, f"on_complete ran {ends} times, and there were {most} lives"
    known = played.found.world.history.workflows.get("p0")
    if known is not None and played.rows:
        assert known.has_ended
        assert ends >= 1


@given(program=PROGRAMS, meddlings=st.lists(MEDDLINGS, min_size=1, max_size=4), data=st.data())
@settings(max_examples=120)
def test_programs_end_whatever_is_done_to_them(
    program: Program, meddlings: list[Meddling], data: st.DataObject
) -> None:
    """Without faults, and with any: they end, or are gone, and nothing is done too often."""
    calm = play(program, meddlings)
    check(calm)
    census = calm.found.world.faults.census
    check(play(program, meddlings, data.draw(plans(census, without=CHANGING), label="plan")))
