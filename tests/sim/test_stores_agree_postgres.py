"""The same schedules on the model store, SQLite and PostgreSQL: the same facts in the same order.

PostgreSQL takes no two functions into one transaction. So what is compared to the letter runs with
``world/commits#1=apart``, which makes the other two do the same; without it they have fewer
commits, a fault of a plan falls on other moments, and what must be equal is how workflows end and
what they leave.
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Callable, Iterator

import pytest
from tests.postgres import Server
from tests.sim.again import AGAIN
from tests.sim.edges import BELL, CANCELS
from tests.sim.families import FAMILIES, MEETING
from tests.sim.guests import GUESTS
from tests.sim.scenes import EVENTS, FANS, LEADERS, RACE, REFERENCE, SCENARIOS, TRANSFERS, TREES
from tests.sim.spreads import CHOOSY, FELLED, SPREAD

from perdure.core.outcomes import Failed, Outcome
from perdure_sim.explore.explorer import Run, Scenario, random_plan, run
from perdure_sim.faults.plan import FaultPlan
from perdure_sim.stores.postgres import PostgresSchemas
from perdure_sim.stores.sqlite_memory import SqliteMemory
from perdure_sim.world.disks import Disk, memory_disk

Disks = dict[str, Callable[[], Disk]]

#: One of each thing that the engine does.
ALL = (*SCENARIOS, FAMILIES, MEETING, AGAIN, BELL, CANCELS, SPREAD, CHOOSY, FELLED, GUESTS)

APART = "pd1:world/commits#1=apart"

#: Epochs stand in the ids of children; how far one is from the next is the store's own matter.
EPOCH = re.compile(r"@(\d+)")

#: Each at a moment that all these scenarios have.
TROUBLE = (
    "w0/commit#2=crash_before;w1/commit#3=crash_after",
    "w0/commit#3=crash_after",
    "w0/commit#4=lost_ack*3",
    "w1/commit#2=busy_ack;w0/commit#5=fails",
    "c0/commit#1=lost_ack;c0/request#1=twice",
    "w0/turn#4=evict;w1/turn#4=evict;w0/carried_out#2=evict",
    "w0/carried_out#2=zombie:40s",
    "w0/collected#3=zombie:40s",
    "w1/begin#3=overtaken:2s",
    "w0/turn#5=fenced",
    "w0/begin#2=busy*3;w0/read#3=fails",
    "w0/told#2=crash;world/cache#1=none;world/batch#1=one",
)


@pytest.fixture(scope="module")
def disks(postgres_server: Server) -> Iterator[Disks]:
    """Makes the disks of each store."""
    sqlite = SqliteMemory()
    postgres = PostgresSchemas(postgres_server.create_database(), hears_all=True)
    yield {"memory": memory_disk, "sqlite": sqlite, "postgresql": postgres}
    postgres.close()
    sqlite.close()


@pytest.fixture(autouse=True)
def silence(caplog: pytest.LogCaptureFixture) -> None:
    """The engine logs what was planned."""
    caplog.set_level(logging.CRITICAL + 1, "perdure")


def facts(found: Run) -> list[str]:
    """All that a run has left, and all that happened in it, in order."""
    if found.failure is not None:
        raise found.failure
    told = [f"{each.at} {each.lane} {each.kind}" for each in found.world.trace.events]
    journals = [
        f"{workflow_id} {record.number} {record.command} {record.state} {record.attempt}"
        f" {record.asked_position} {record.asked_at} {plain(record.outcome)} {record.settled_at}"
        f" {record.delivered_position} {record.delivered_at} {record.canceled_position}"
        f" {record.child_id}"
        for workflow_id, known in found.world.history.workflows.items()
        for record in known.steps.values()
    ]
    ends = [
        f"{workflow_id} {known.ticks} {known.state.started_at} {known.state.ended_at}"
        f" {plain(known.state.outcome)}"
        for workflow_id, known in found.world.history.workflows.items()
    ]
    return without_epochs([*told, *journals, *ends])


def without_epochs(lines: list[str]) -> list[str]:
    """The same with each epoch's place among them."""
    there = sorted({int(number) for line in lines for number in EPOCH.findall(line)})
    return [EPOCH.sub(lambda found: f"@no {there.index(int(found[1]))}", line) for line in lines]


def plain(outcome: Outcome | None) -> object:
    """An outcome without a traceback."""
    if isinstance(outcome, Failed):
        return outcome.error.type, outcome.error.message
    return outcome


def ends(found: Run) -> dict[str, object]:
    """How the workflows ended that clients have started."""
    if found.failure is not None:
        raise found.failure
    return {name: plain(each) for name, each in found.outcomes.items() if "/" not in name}


def play(scenario: Scenario, plan: str | FaultPlan, make_disk: Callable[[], Disk]) -> Run:
    """One run; what the application's tables hold is looked at by the scenario's own check."""
    return run(scenario, FaultPlan.parse(plan) if isinstance(plan, str) else plan, make_disk)


def check_agree(scenario: Scenario, plan: str | FaultPlan, disks: Disks) -> None:
    """The same schedule on all stores gives the same facts."""
    memory, sqlite, postgres = (facts(play(scenario, plan, make)) for make in disks.values())
    assert postgres == memory, str(plan)
    assert sqlite == memory, str(plan)


@pytest.mark.parametrize("scenario", ALL, ids=lambda each: each.name)
def test_without_faults_all_stores_give_the_same_journals(scenario: Scenario, disks: Disks) -> None:
    """To the millisecond, and in the same order."""
    check_agree(scenario, APART, disks)


@pytest.mark.parametrize("scenario", ALL, ids=lambda each: each.name)
def test_sharing_commits_changes_no_end(scenario: Scenario, disks: Disks) -> None:
    """What SQLite does in one commit PostgreSQL does in several."""
    shared, apart = (play(scenario, "pd1:", disks[name]) for name in ("sqlite", "postgresql"))
    assert ends(shared) == ends(apart)


@pytest.mark.parametrize("trouble", TROUBLE)
@pytest.mark.parametrize("scenario", [TRANSFERS, LEADERS], ids=lambda each: each.name)
def test_in_trouble_all_stores_give_the_same_journals(
    scenario: Scenario, trouble: str, disks: Disks
) -> None:
    """Processes die, answers are lost, workers are taken for dead that live."""
    check_agree(scenario, f"{APART};{trouble}", disks)


@pytest.mark.parametrize("trouble", TROUBLE)
def test_in_trouble_the_reference_ends_the_same(trouble: str, disks: Disks) -> None:
    """When it tries an action again hangs on the epoch's number, and so on the store."""
    plan = f"{APART};{trouble}"
    memory, sqlite, postgres = (ends(play(REFERENCE, plan, make)) for make in disks.values())
    assert memory == sqlite == postgres


@pytest.mark.parametrize(
    "scenario", [EVENTS, FANS, RACE, TREES, MEETING, SPREAD], ids=lambda each: each.name
)
def test_in_random_trouble_all_stores_give_the_same_journals(
    scenario: Scenario, disks: Disks
) -> None:
    """Some plans for each scenario, the same at each time."""
    census = play(scenario, APART, memory_disk).world.faults.census
    chance = random.Random(scenario.name)
    for _ in range(2):
        plan = FaultPlan([*random_plan(chance, census, 5), *FaultPlan.parse(APART)])
        check_agree(scenario, without_power_loss(plan), disks)


def without_power_loss(plan: FaultPlan) -> FaultPlan:
    """What SQLite and PostgreSQL have stored stays."""
    return FaultPlan(fault for fault in plan if fault.kind != "power_loss")
