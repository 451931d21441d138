"""The marked points of the engine: that the simulator's own scenarios lead to each of them."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest
from tests.sim.again import AGAIN, GONE
from tests.sim.corners import CORNERS
from tests.sim.edges import MENDED
from tests.sim.scenes import SCENARIOS
from tests.sim.spreads import SPREADS
from tests.sim.tickets import TICKETS
from tests.sim.watched import WATCHED
from tests.sources import parse

from perdure_sim.explore.explorer import run
from perdure_sim.faults.plan import FaultPlan
from perdure_sim.world.disks import memory_disk

ENGINE = Path(__file__).parents[2] / "engine" / "perdure"
SCENES = (*SCENARIOS, *CORNERS, *SPREADS, TICKETS, AGAIN, GONE, WATCHED, MENDED)
BY_NAME = {scenario.name: scenario for scenario in SCENES}

#: For each point a scenario and a plan that lead there.
WAYS = {
    "a batch is committed one by one": ("spoilers", ""),
    "a blocked workflow is restarted": ("mended", ""),
    "a child ends that nobody waits for any more": (
        "late",
        "pd1:w0/commit#12=fails;w1/decided#1=crash",
    ),
    "a child that is gone is started again": ("again", "pd1:a-child/touched#4=cleanup"),
    "a claim whose commit seemed to fail was stored": ("race", "pd1:w0/commit#3=lost_ack*3"),
    "a cleanup that was carried out is asked for again": ("again", "pd1:c0/commit#4=lost_ack"),
    "a decision is dropped because the workflow belongs to another now": (
        "late",
        "pd1:w0/collected#2=pause:2s",
    ),
    "a decision is dropped because another worker has taken a step": (
        "spread",
        "pd1:w0/collected#2=pause:2s",
    ),
    "a function waits because the pool is paused": ("paused", ""),
    "a function was admitted in the turn in which its step ended": ("limits", ""),
    "a journal is full": ("limits", ""),
    "a message comes after the end of its workflow": ("limits", ""),
    "a message is for a workflow that is no longer ours": ("race", ""),
    "a ready action in the queue is not to be started any more": (
        "fans",
        "pd1:quick/attempt#1=raises_for_good",
    ),
    "a restart that was carried out is asked for again": ("again", "pd1:c0/commit#7=lost_ack"),
    "a start that was carried out is asked for again": ("help", "pd1:w0/carried_out#2=crash"),
    "a timer fires for a step that has gone on": ("late", "pd1:bounded/attempt#1=raises"),
    "a turn ends because another process took this worker for dead": (
        "events",
        "pd1:w0/carried_out#1=zombie:40s",
    ),
    "a turn waits because the store was in trouble": ("race", "pd1:w0/read#1=fails*3"),
    "a whole batch of decisions is dropped with its commit": (
        "race",
        "pd1:w0/commit#3=lost_ack*3",
    ),
    "a workflow that is waited for was deleted by another process": ("watched", ""),
    "a worker begins a new life": ("events", "pd1:w0/carried_out#1=zombie:40s"),
    "a worker finds another one dead": ("events", "pd1:w0/carried_out#1=crash"),
    "a worker finds itself fenced when it looks for work": ("events", "pd1:w0/turn#1=fenced"),
    "a worker finds itself fenced when it takes steps from others": (
        "choosy",
        "pd1:w1/begin#5=overtaken:200ms",
    ),
    "a worker finds itself struck off when it looks for permits": (
        "events",
        "pd1:w0/carried_out#1=zombie:40s",
    ),
    "a worker is told that nobody waits for a step that it has taken": ("impatient", ""),
    "a worker reads that a workflow is no longer its own": (
        "trees",
        "pd1:felled/0/touched#1=cancel",
    ),
    "a worker takes steps from another one": ("spread", ""),
    "a worker that was taken for dead tries to start something": (
        "help",
        "pd1:w0/collected#2=zombie:40s",
    ),
    "a worker that was taken for dead tries to write": (
        "events",
        "pd1:w0/collected#1=zombie:40s",
    ),
    "a worker that was found dead gives a sign of life": (
        "events",
        "pd1:w0/collected#1=zombie:1s;w1/begin#5=stall:2s",
    ),
    "a workflow has outlived too many workers": (
        "reference",
        "pd1:w0/collected#3=crash*30;w1/collected#2=crash*30",
    ),
    "a workflow is canceled by a mutation of its own transaction": ("haste", ""),
    "a workflow of ours is loaded again": ("race", "pd1:w0/commit#3=lost_ack*3"),
    "a workflow was lost, and is ours again when that is read": (
        "trees",
        "pd1:felled/0/touched#1=restart",
    ),
    "a workflow that may kill its worker has something due": (
        "late",
        "pd1:c0/commit#2=disk_full:1m;w0/decided#4=crash;w1/decided#4=crash",
    ),
    "a workflow that may kill its worker is taken up alone": (
        "reference",
        "pd1:w0/collected#6=crash;w1/collected#1=crash*2",
    ),
    "a workflow that was given up learns something in the same transaction": ("limits", ""),
    "a workflow that was started is not in memory": ("help", "pd1:w0/carried_out#2=crash"),
    "a write is refused because its epoch is stale": ("late", "pd1:w0/collected#2=pause:2s"),
    "an attempt is run whose start seemed not to be stored": (
        "race",
        "pd1:w0/commit#3=lost_ack*3",
    ),
    "an attempt takes longer than its timeout": ("transfers", "pd1:quick/attempt#1=slow:90s"),
    "an attempt was lost with its worker": ("reference", "pd1:w0/carried_out#1=crash"),
    "an event in the inbox has been consumed already": (
        "haste",
        "pd1:c0/commit#2=lost_ack;w0/collected#1=pause:2s",
    ),
    "a send by name goes to an event that was created": ("tickets", ""),
    "an await by id finds that its event cannot come": ("tickets", ""),
    "an event is awaited by id twice": ("late", ""),
    "an event that was created is asked for again": ("tickets", "pd1:c0/commit#3=lost_ack"),
    "an event was sent in time, and its timeout came first": (
        "late",
        "pd1:w0/committed#1=zombie:40s;w1/collected#6=crash",
    ),
    "an event that is awaited again went with the step that consumed it": ("gone", ""),
    "an on_complete restarts what is to be deleted": ("again", ""),
    "an outcome that was not passed on yet is for a workflow of ours by now": (
        "fans",
        "pd1:w0/begin#18=read_only:1m;w0/committed#16=zombie:40s",
    ),
    "an outcome that is too late comes before the timer of its timeout": (
        "late",
        "pd1:bounded/attempt#1=slow:1s;w0/carried_out#1=pause:3s",
    ),
    "an outcome comes for an attempt that another has followed": (
        "late",
        "pd1:bounded/attempt#1=deaf:1s",
    ),
    "an outcome comes for an attempt that was canceled, timed out, or reported": ("race", ""),
    "steps were taken by a commit that seemed to fail": (
        "spread once",
        "pd1:w1/commit#3=lost_ack*3",
    ),
    "the attempts of a step are used up": ("race", "pd1:once/attempt#1=raises"),
    "the outcome of an attempt is passed on to another worker": ("race", ""),
    "the owner learns that another worker has taken a step": ("spread", ""),
    "what a function did is undone": ("transfers", ""),
}


def marked() -> list[str]:
    """The points that the engine's source marks."""
    points = []
    for path in sorted(ENGINE.rglob("*.py")):
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                if node.func.id == "sometimes":
                    (point,) = node.args
                    assert isinstance(point, ast.Constant), f"{path}: {ast.dump(point)}"
                    assert isinstance(point.value, str)
                    points.append(point.value)
    return points


def test_there_is_a_way_to_each_point() -> None:
    """And each is marked in one place alone."""
    assert Counter(marked()) == Counter(WAYS.keys())


@pytest.mark.parametrize("point", WAYS)
def test_each_point_is_reached(point: str) -> None:
    """By a run in which all laws hold."""
    name, plan = WAYS[point]
    found = run(BY_NAME[name], FaultPlan.parse(plan), memory_disk)
    assert found.failure is None
    assert point in found.reached


def test_a_run_says_only_what_it_came_to() -> None:
    """Without trouble most points are not reached."""
    found = run(BY_NAME["reference"], FaultPlan(), memory_disk)
    assert len(found.reached) < len(WAYS) / 4
    assert found.reached <= WAYS.keys()
