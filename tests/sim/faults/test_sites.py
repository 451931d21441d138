"""Faults of processes and of the store: each fires, and does what the table says."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import closing

import pytest
from tests.sim.acting import Seen, acting, d, waiting
from tests.sim.scenes import DEPLOYS, FANS, REFERENCE, TRANSFERS

from perdure.core.outcomes import Succeeded
from perdure.definitions import Definer
from perdure.runtime.contexts import ActionContext
from perdure.step import Step
from perdure_sim.explore.explorer import Explorer, Run, Scenario, run, single_faults
from perdure_sim.faults.plan import Fault, FaultPlan, PlanError
from perdure_sim.faults.sites import CHANGING, KINDS, SITES, check
from perdure_sim.world.actions import Stub
from perdure_sim.world.clock import START_MS
from perdure_sim.world.disks import memory_disk
from perdure_sim.world.world import World

PLACES = [(site, *kind) for site, kinds in KINDS.items() for kind in kinds]


def play(scenario: Scenario, plan: str, *, detail: bool = False) -> Run:
    """A run in which all faults fire and no law is broken; results are compared."""
    explorer = Explorer(scenario, memory_disk)
    explorer.begin()
    found = explorer.try_plan(FaultPlan.parse(plan), detail=detail)
    assert found.failure is None
    assert sorted(found.world.faults.fired) == list(found.plan)
    return found


def lives(found: Run, lane: str = "w0") -> list[tuple[int, str]]:
    """When a process began and ended, in ms from the begin."""
    kinds = ("boot", "boot failed", "crash", "end")
    return [
        (event.at - START_MS, event.kind)
        for event in found.world.trace.events
        if event.lane == lane and event.kind in kinds
    ]


# --- the table ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def explorer() -> Explorer:
    explorer = Explorer(DEPLOYS, memory_disk)
    explorer.begin()
    return explorer


@pytest.mark.parametrize(("site", "kind", "burst", "duration"), PLACES)
def test_each_kind_happens(
    explorer: Explorer, site: str, kind: str, burst: int, duration: int
) -> None:
    """It fires where the census says that its site is passed, and breaks no law; and what comes of
    it is the same each time."""
    actor, _ = max(
        (place for place in explorer.census if place[1] == site),
        key=lambda place: explorer.census[place],
    )
    fault = Fault(actor, site, 1, kind, burst, duration)
    found = explorer.try_plan(FaultPlan([fault]))
    assert found.failure is None
    assert found.world.faults.fired == [fault]
    again = explorer.try_plan(FaultPlan([fault]))
    assert again.world.trace.digest() == found.world.trace.digest()


def test_clients_crash_too(explorer: Explorer) -> None:
    """In a turn, at its borders, and around a commit: the sweep has all of it."""
    drawn = {
        (fault.site, fault.kind) for fault in single_faults(explorer.census) if fault.actor == "c0"
    }
    borders = ("collected", "decided", "committed", "told", "carried_out")
    assert {(site, "crash") for site in ("turn", "begin", "boot", *borders)} <= drawn
    assert {("commit", "crash_before"), ("commit", "crash_after")} <= drawn


def test_each_site_and_kind_is_told_in_one_line() -> None:
    """In words, and once."""
    for site, kinds in SITES.items():
        assert len({kind.name for kind in kinds}) == len(kinds), site
        for kind in kinds:
            assert 10 < len(kind.about) < 90
            assert kind.draws


def test_what_may_change_a_result_is_marked() -> None:
    """All else must cost no more than time."""
    of_code = {"raises_for_good", "too_much", "wrong_type"}
    of_clients = {"cancel", "restart", "rerun", "cleanup"}
    assert of_code | of_clients | {"power_loss"} == CHANGING


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("pd1:w0/nowhere#1=crash", "no site 'nowhere'; there are begin, commit"),
        ("pd1:w0/read#1=lost_ack", "at 'read' there is no 'lost_ack', but fails (an error, and"),
    ],
)
def test_a_plan_that_names_what_cannot_happen_is_refused(text: str, told: str) -> None:
    """Before the run begins; the message says what can."""
    with pytest.raises(PlanError) as caught:
        check(FaultPlan.parse(text))
    assert told in str(caught.value)
    with closing(memory_disk()) as disk, pytest.raises(PlanError):
        World(d, disk, FaultPlan.parse(text))


# --- crashes in recovery --------------------------------------------------------------------------


def test_a_process_may_die_as_soon_as_it_has_signed_in() -> None:
    """Three lives of no length, half a second apart."""
    found = play(REFERENCE, "pd1:w0/boot#1=crash*3")
    assert lives(found) == [
        (0, "boot"),
        (0, "crash"),
        (500, "boot"),
        (500, "crash"),
        (1_000, "boot"),
        (1_000, "crash"),
        (1_500, "boot"),
    ]


def test_a_process_may_die_again_when_it_takes_up_its_work() -> None:
    """A burst of crashes at one border: the first turns of its next lives."""
    found = play(REFERENCE, "pd1:w0/decided#1=crash*2")
    assert lives(found) == [
        (0, "boot"),
        (20, "crash"),
        (520, "boot"),
        (10_020, "crash"),
        (10_520, "boot"),
    ]


def test_a_workflow_whose_workers_all_died_waits_for_a_person() -> None:
    """After five it is taken up no more, and that is no alarm."""
    plan = FaultPlan.parse("pd1:w0/decided#2=crash*9;w1/decided#1=crash*9")
    found = run(REFERENCE, plan, memory_disk, {"o0": Succeeded("1"), "o1": Succeeded("4")})
    assert found.failure is None
    blocked = [known.state.blocked for known in found.world.history.workflows.values()]
    assert any(each is not None and "died 5 times" in each.error.message for each in blocked)


# --- a disk in trouble ----------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["w0/commit#6=disk_full:1m", "w1/begin#2=read_only:1m"])
def test_a_trouble_of_the_disk_befalls_all_until_it_is_over(fault: str) -> None:
    """For a minute nobody commits; then all goes on, and ends."""
    found = play(REFERENCE, f"pd1:{fault}")
    commits = [e.at for e in found.world.trace.events if e.kind == "commit"]
    pause = max(later - earlier for earlier, later in itertools.pairwise(commits))
    assert 59_000 < pause < 62_000
    ends = [known.state.ended_at or 0 for known in found.world.history.workflows.values()]
    assert min(ends) > START_MS + 60_000


def test_a_process_cannot_be_started_while_nobody_can_write() -> None:
    """It is tried again until it can."""
    found = play(REFERENCE, "pd1:w0/begin#1=read_only:2s")
    assert [kind for _, kind in lives(found)] == [*["boot", "boot failed"] * 4, "boot"]


# --- clocks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "slept"), [("runs_fast", 4_546), ("runs_slow", 5_556), ("evict", 5_000)]
)
def test_a_clock_that_drifts_is_early_or_late(kind: str, slept: int) -> None:
    """A sleep of five seconds takes more or less of the world's time; results stay the same."""
    definer = Definer()

    @definer.workflow
    async def sleeper(step: Step) -> None:
        await step.sleep(5)

    scenario = Scenario(
        name="s",
        definer=definer,
        script=lambda world: world.start(sleeper(), id="s"),
        workers=1,
    )
    found = play(scenario, f"pd1:w0/turn#2={kind}")
    ended = max(e.at for e in found.world.trace.events if e.kind == "commit")
    assert abs(ended - START_MS - 20 - slept) <= 2


def test_a_clock_that_is_set_back_stands_still() -> None:
    """Its timers are late by as much, and no time of a workflow goes back."""
    found = play(REFERENCE, "pd1:w0/turn#4=jump_back:30s")
    at = {e.at - START_MS for e in found.world.trace.events if e.kind == "commit"}
    assert max(at) >= 15_020
    assert found.outcomes == {"o0": Succeeded("1"), "o1": Succeeded("4")}


# --- wake-ups -------------------------------------------------------------------------------------


def turns(plan: str) -> set[int]:
    """When w0 had turns in the reference scenario, in ms from the begin."""
    events = play(REFERENCE, plan, detail=True).world.trace.events
    return {e.at - START_MS for e in events if (e.lane, e.kind) == ("w0", "turn")}


def test_wake_ups_come_twice_late_or_not_at_all() -> None:
    """One more turn for nothing; a turn that comes later; a turn that a poll finds."""
    assert {80, 81} & turns("") == {80}
    assert {80, 81} <= turns("pd1:w0/wake#4=twice")

    def sent(plan: str) -> list[int]:
        workflows = play(REFERENCE, plan).world.history.workflows.values()
        return [(e.sent_at or 0) - START_MS for each in workflows for e in each.sent.values()]

    assert sent("") == [10_000, 10_000]
    assert sent("pd1:c0/wake#3=late:5s;c0/wake#4=late:5s") == [15_000, 15_000]
    assert sent("pd1:c0/wake#3=lost;c0/wake#4=lost") == [10_020, 10_020]


def test_what_others_commit_may_be_noticed_late() -> None:
    """An event that a client has sent, by both workers."""

    def consumed(plan: str) -> tuple[int, list[int]]:
        """When, in ms from the begin; and how often each worker had polled before it was sent."""
        with closing(World(d, memory_disk(), FaultPlan.parse(plan))) as world:
            world.start(waiting(), id="x")
            world.run(START_MS + 2_000)
            polls = [world.faults.census[worker.name, "poll"] for worker in world.workers]
            world.send_event("never", workflow_id="x")
            world.settle()
            return (world.history.workflows["x"].state.ended_at or 0) - START_MS, polls

    at, polls = consumed("")
    assert at == 2_020
    late = [f"w{worker}/poll#{count + 1}=late:5s" for worker, count in enumerate(polls)]
    assert consumed(f"pd1:{';'.join(late)}") == (7_000, polls)


# --- evictions ------------------------------------------------------------------------------------


def counted(begun: list[str]) -> Scenario:
    """A workflow that is seen each time its handler begins: live, or in a replay."""
    definer = Definer()

    @definer.action
    async def work(ctx: ActionContext, n: int) -> int:
        return n

    @definer.workflow
    async def chain(step: Step, name: str) -> int:
        begun.append(name)
        return sum([await step.run_action(work(n)) for n in range(4)])

    def script(world: World) -> None:
        for name in "ab":
            world.start(chain(name), id=name)

    stubs = {"work": Stub(takes_ms=30)}
    return Scenario(name="chain", definer=definer, script=script, stubs=stubs, workers=1)


def replays(begun: list[str], scenario: Scenario, plan: str) -> dict[str, int]:
    """How many more times than usual each handler began."""

    def count(plan: str) -> dict[str, int]:
        begun.clear()
        assert run(scenario, FaultPlan.parse(plan), memory_disk).failure is None
        return {name: begun.count(name) for name in "ab"}

    usual, found = count(""), count(plan)
    return {name: found[name] - usual[name] for name in "ab"}


@pytest.mark.parametrize(
    "place", [*(f"turn#{n}" for n in range(4, 9)), *(f"carried_out#{n}" for n in range(2, 5))]
)
def test_all_handlers_are_dropped_before_or_after_a_turn(place: str) -> None:
    """And replayed."""
    begun: list[str] = []
    assert replays(begun, counted(begun), f"pd1:w0/{place}=evict") == {"a": 1, "b": 1}


@pytest.mark.parametrize("commit", range(3, 7))
def test_one_handler_is_dropped_at_any_of_its_commits(commit: int) -> None:
    """And no other."""
    begun: list[str] = []
    assert replays(begun, counted(begun), f"pd1:b/touched#{commit}=evict") == {"a": 0, "b": 1}


def test_no_cache_and_a_batch_of_one_go_together() -> None:
    """Each handler that was dropped is loaded in a turn of its own."""
    found = play(REFERENCE, "pd1:w0/boot#1=crash;world/batch#1=one;world/cache#1=none")
    assert found.world.events < 1_000


def test_without_a_cache_every_turn_begins_with_replays() -> None:
    """As often as there are turns that work."""
    begun: list[str] = []
    found = replays(begun, counted(begun), "pd1:world/cache#1=none")
    assert min(found.values()) >= 4


# --- orderly ends ---------------------------------------------------------------------------------


def drained(takes_ms: int) -> tuple[Run, list[tuple[str, int]]]:
    seen = Seen()

    async def work(ctx: ActionContext, n: int, text: str) -> str:
        seen("begins")
        await asyncio.sleep(takes_ms / 1000)
        seen("ends")
        return "done"

    scenario = Scenario(
        name="drain",
        definer=d,
        script=lambda world: world.start(acting(attempts=2), id="x"),
        stubs={"act": Stub(fn=work)},
        workers=1,
    )
    return play(scenario, "pd1:w0/turn#3=drain"), seen.list[2:]


def test_a_process_that_drains_waits_for_its_attempts() -> None:
    """It ends when they have, and is started again."""
    found, seen = drained(4_000)
    assert lives(found)[:3] == [(0, "boot"), (4_040, "end"), (4_540, "boot")]
    assert seen == [("begins", 20), ("ends", 4_020)]


def test_a_process_that_drains_does_not_wait_for_ever() -> None:
    """After half a minute attempts are recorded as lost; the next life tries them again."""
    found, seen = drained(40_000)
    assert [kind for _, kind in lives(found)[:3]] == ["boot", "end", "boot"]
    assert 30_000 < lives(found)[1][0] < 32_000
    assert [what for what, _ in seen] == ["begins", "begins", "ends"]


# --- small settings -------------------------------------------------------------------------------


def widths(found: Run, kind: str) -> list[int]:
    """How many workflows each commit of a worker wrote so."""
    return [
        len(what)
        for event in found.world.trace.events
        if event.kind == "commit" and event.lane != "c0"
        for name, what in event.about
        if name == kind
    ]


def test_a_small_batch_takes_one_message_and_one_workflow() -> None:
    """Where else several would share a commit."""
    assert max(widths(play(FANS, ""), "update")) > 1
    assert set(widths(play(FANS, "pd1:world/batch#1=one"), "update")) == {1}


def test_with_one_permit_actions_run_one_after_the_other() -> None:
    """The least that `max_parallelism` can be."""
    found = play(FANS, "pd1:world/permits#1=one")
    begins = [call.at for call in found.world.calls]
    gaps = [later - earlier for earlier, later in itertools.pairwise(begins)]
    assert min(gaps) >= 40


def test_settings_hold_after_the_heal() -> None:
    """They are no trouble that passes."""
    found = play(TRANSFERS, "pd1:world/batch#1=one;world/permits#1=one")
    assert found.world.portions.batch == found.world.max_parallelism == 1


# --- leases ---------------------------------------------------------------------------------------


def test_a_healthy_worker_may_be_taken_for_dead() -> None:
    """Another one takes its work over; it is fenced at its next commit, and begins a new life."""
    found = play(REFERENCE, "pd1:w0/turn#5=fenced")
    assert lives(found) == [(0, "boot")]  # the process goes on
    owners = {
        write.state.owner
        for event in found.world.trace.events
        if event.kind == "commit"
        for name, what in event.about
        if name == "update"
        for write in what
    }
    assert len([owner for owner in owners if owner and owner.startswith("w0.1")]) == 2
