"""Nobody pays without a yes to that question, and who confirms is let in soon."""

from __future__ import annotations

from catching import caught
from hypothesis import strategies as st
from onboarding import (
    accepted,
    clicked,
    confirmed,
    create_tables,
    mail,
    manager,
    onboard,
    onboard_by_clicks,
    onboard_by_sleeping,
)

from perdure.definitions import Workflow
from perdure.events import Event
from perdure_sim import Simulation, simulate

Onboarding = Workflow[[str], str]


def click_the_first_link(
    sim: Simulation, workflow: Onboarding, link: Event[bool], clicks: int
) -> None:
    sim.stub(mail, returns=None, takes="0s..1m")
    run = sim.start(workflow("Ada"))
    for _ in range(clicks):
        sim.after("1m..1d", lambda: sim.send_event(link, workflow_id=run.id, value=True))
    sim.settle()
    assert ("paid",) not in sim.db.execute("select plan from users").fetchall()


@simulate(manager, setup=create_tables, clicks=st.integers(0, 3))
def test_clicks_on_the_first_link_buy_nothing(sim: Simulation, clicks: int) -> None:
    """However often, and whatever goes wrong."""
    click_the_first_link(sim, onboard, confirmed, clicks)


def test_one_event_for_two_questions_is_caught() -> None:
    """A double click: no fault at all."""

    @simulate(manager, setup=create_tables, clicks=st.integers(0, 3))
    def test(sim: Simulation, clicks: int) -> None:
        click_the_first_link(sim, onboard_by_clicks, clicked, clicks)

    found = caught(test)
    assert (found.law, found.faults) == ("AssertionError", ())
    assert found.arguments == {"clicks": 2}


@simulate(manager, setup=create_tables)
def test_the_plan_is_what_was_said(sim: Simulation) -> None:
    """The workflow and the table agree, whether the second answer comes in time or not."""
    sim.stub(mail, returns=None)
    run = sim.start(onboard("Ada"))
    sim.after("1m..4d", lambda: sim.send_event(confirmed, workflow_id=run.id, value=True))
    sim.after("1d..20d", lambda: sim.send_event(accepted, workflow_id=run.id, value=True))
    sim.settle()
    plans = [plan for (plan,) in sim.db.execute("select plan from users")]
    if run.status.kind == "success":
        assert plans == ([] if run.value == "expired" else [run.value])


def confirm_at_once(sim: Simulation, workflow: Onboarding) -> None:
    sim.stub(mail, returns=None)
    run = sim.start(workflow("Ada"))
    sim.send_event(confirmed, workflow_id=run.id, value=True)
    is_in = "select count(*) from users"
    sim.eventually(
        "Ada is let in",
        lambda: run.error is not None or sim.db.execute(is_in).fetchone() == (1,),
        within="1d",
    )


@simulate(manager, setup=create_tables)
def test_who_confirms_is_let_in_within_a_day(sim: Simulation) -> None:
    """And not when the time to confirm is over."""
    confirm_at_once(sim, onboard)


def test_a_sleep_for_a_timeout_is_caught() -> None:
    """Nothing has to go wrong for that either."""

    @simulate(manager, setup=create_tables)
    def test(sim: Simulation) -> None:
        confirm_at_once(sim, onboard_by_sleeping)

    found = caught(test)
    assert (found.law, found.faults) == ("EventuallyBroken[Ada is let in]", ())
