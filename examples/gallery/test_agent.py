"""What the agent says that it has booked is booked, and nothing is booked twice."""

from __future__ import annotations

import agent as travel
from catching import caught
from hypothesis import strategies as st

from perdure import ActionContext
from perdure.definitions import Workflow
from perdure_sim import Simulation, simulate

CITIES = st.lists(st.sampled_from(["Lima", "Oslo", "Rome"]), min_size=1, max_size=3)


class FakeAgency(travel.Agency):
    """Without a key it cannot know what it has booked before."""

    def __init__(self) -> None:
        self.booked: dict[str, str] = {}

    async def book(self, city: str, key: str | None) -> str:
        self.booked[key or f"trip {len(self.booked)}"] = city
        return f"booked {city}"


def model(ctx: ActionContext, conversation: list[str]) -> travel.Answer:
    """Looks at the weather in all cities, books the first with sun, and tells what came of it."""
    cities, told = conversation[0].split(), conversation[1:]
    if not told:
        return travel.Answer(tools=[("weather", city) for city in cities])
    if len(told) == len(cities) and "sun" in told:
        return travel.Answer(tools=[("book", cities[told.index("sun")])])
    return travel.Answer(text=told[-1])


def plan_a_trip(sim: Simulation, workflow: Workflow[[str], str], cities: list[str]) -> None:
    travel.agency = agency = FakeAgency()
    sim.stub(travel.ask_model, call=model, takes="1s..1m")
    sim.stub(travel.weather, returns="sun")
    run = sim.start(workflow(" ".join(cities)))
    sim.settle()
    assert len(agency.booked) <= 1
    if run.error is None and run.value.startswith("booked "):
        assert list(agency.booked.values()) == [run.value.removeprefix("booked ")]


@simulate(travel.manager, cities=CITIES)
def test_what_is_said_is_booked_once(sim: Simulation, cities: list[str]) -> None:
    """Whatever goes wrong."""
    plan_a_trip(sim, travel.agent, cities)


def test_a_forgotten_await_is_caught() -> None:
    """It takes a booking that fails: the agent says that it is booked."""

    @simulate(travel.manager, cities=CITIES)
    def test(sim: Simulation, cities: list[str]) -> None:
        plan_a_trip(sim, travel.agent_in_a_hurry, cities)

    found = caught(test)
    assert (found.law, len(found.faults)) == ("AssertionError", 1)


def test_a_booking_without_a_key_is_caught() -> None:
    """It takes a worker that dies between the booking and its record."""

    @simulate(travel.manager, cities=CITIES)
    def test(sim: Simulation, cities: list[str]) -> None:
        plan_a_trip(sim, travel.agent_that_books_twice, cities)

    found = caught(test)
    assert (found.law, len(found.faults)) == ("AssertionError", 1)
    assert found.faults[0].startswith("book_without_key/")


def test_a_memory_of_the_process_is_caught() -> None:
    """At once: what is remembered is not what is replayed."""

    @simulate(travel.manager, cities=CITIES)
    def test(sim: Simulation, cities: list[str]) -> None:
        travel.conversations.clear()
        plan_a_trip(sim, travel.agent_with_a_memory, cities)

    found = caught(test)
    assert len(found.faults) <= 1
