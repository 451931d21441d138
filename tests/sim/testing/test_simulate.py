"""`simulate` as a decorator: what is drawn, what it refuses, and what it finds."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import Phase, assume, example, is_hypothesis_test, settings
from hypothesis import strategies as st
from tests.sim.testing import bank
from tests.sim.testing.bank import Receipt, approval, charge_card, manager

from perdure import ActionContext, MutationContext, Step, WorkflowManager
from perdure_sim import ALL, CRASH, NONE, NeverReached, Simulation, simulate
from perdure_sim.explore.portions import DigestsDiffer
from perdure_sim.testing.options import options
from perdure_sim.testing.trial import Trial

#: Quick: what is tested here is not how much is found.
FEW: dict[str, Any] = {"store": "memory", "max_examples": 5, "sweep": 300}


def trial_of(test: Callable[..., None]) -> Trial:
    found = vars(test)["simulation"]
    assert isinstance(found, Trial)
    return found


# --- the page's own example -----------------------------------------------------------------------

create_tables, transfer = bank.create_tables, bank.transfer


@simulate(manager, setup=create_tables, amount=st.integers(1, 500))  # fmt: skip  # As it is told.
def test_transfer_is_atomic(sim, amount):  # type: ignore[no-untyped-def]
    """What the simulator's page begins with."""
    sim.stub(charge_card, returns=Receipt("r1"), takes="0s..30s")
    run = sim.start(transfer(amount))
    sim.after("0s..2m", lambda: sim.send_event(approval, workflow_id=run.id, value=True))
    sim.settle()
    assert sim.db.execute("select count(*) from ledger").fetchone()[0] in (0, 2)


# --- what it is -----------------------------------------------------------------------------------


@settings(max_examples=3)
@example(amount=1, plan="pd1:w0/turn#2=crash")
@simulate(manager, setup=create_tables, **FEW | {"max_examples": None})
@example(amount=2)
def test_settings_and_examples_stand_above_and_below(sim: Simulation, amount: int) -> None:
    """An example without a plan is one in which nothing goes wrong."""
    assume(amount > -1_000)
    sim.start(bank.napping(abs(amount) % 9))


class TestInAClass:
    """Methods."""

    @pytest.mark.parametrize("seconds", [1, 2])
    @simulate(manager, word=st.text(max_size=3), **FEW)
    def test_methods_parametrize_and_fixtures(
        self, sim: Simulation, seconds: int, word: str, tmp_path_factory: object
    ) -> None:
        """Beside what is drawn."""
        assert isinstance(self, TestInAClass)
        assert seconds in (1, 2)
        assert isinstance(word, str)
        assert tmp_path_factory is not None
        run = sim.start(bank.napping(seconds))
        sim.settle()
        assert run.value == seconds


@simulate(manager, given={"workers": st.integers(1, 3), "store": ...}, **FEW)
def test_names_that_are_options(sim: Simulation, workers: int, store: bool) -> None:
    """They go into `given`; `...` asks the annotation."""
    assert workers in (1, 2, 3)
    assert isinstance(store, bool)


@simulate(manager, data=st.data(), **FEW)
def test_data_can_be_drawn_inside(sim: Simulation, data: st.DataObject) -> None:
    """It is not swept then."""
    sim.start(bank.napping(data.draw(st.integers(0, 5))))


@simulate(manager, **FEW)
def test_strategies_come_from_annotations(sim: Simulation, number: int, flag: bool) -> None:
    """If there are none at all."""
    assert isinstance(number, int)
    assert isinstance(flag, bool)


def test_it_is_an_ordinary_hypothesis_test() -> None:
    """With its name and signature, and what fuzzers look for."""
    runs: list[int] = []

    @simulate(manager, amount=st.integers(1, 9), **FEW)
    def test(sim: Simulation, amount: int, fixture: str = inspect.Parameter.empty) -> None:  # type: ignore[assignment]
        """Doc."""
        runs.append(amount)

    found: Any = test
    assert is_hypothesis_test(test)
    assert list(inspect.signature(test).parameters) == ["fixture"]
    assert (test.__name__, test.__doc__) == ("test", "Doc.")
    assert found.hypothesis.inner_test is not None

    @simulate(manager, amount=st.integers(1, 9), **FEW)
    def test_fuzzed(sim: Simulation, amount: int) -> None:
        runs.append(amount)
        sim.start(bank.napping(1))

    fuzzed: Any = test_fuzzed
    before = len(runs)
    assert fuzzed.hypothesis.fuzz_one_input(bytes(100)) is not None
    assert len(runs) > before
    trial_of(test_fuzzed).close()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"workers": 0}, "workers=0"),
        ({"max_examples": 0}, "max_examples=0"),
        ({"store": "paper"}, "store='paper'"),
        ({"faults": ["explodes"]}, "no kind 'explodes'"),
        ({"amout": st.integers()}, "no argument 'amout'; its arguments: amount"),
        ({"amount": 5}, "no strategy"),
        ({"given": {"sim": st.integers()}}, "the simulator's own"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], error: str) -> None:
    """Refused when the module is imported."""

    def test(sim: Simulation, amount: int) -> None: ...

    with pytest.raises((TypeError, ValueError), match=error):
        simulate(manager, **options)(test)


def test_functions_that_are_no_tests() -> None:
    """The message says what to write."""

    async def later(sim: Simulation) -> None: ...

    def without() -> None: ...

    wrong: list[tuple[Any, str]] = [
        (later, "plain `def`"),
        (without, "no parameter `sim`"),
        (test_transfer_is_atomic, "has @given"),
        (int, "no function"),
    ]
    for test, error in wrong:
        with pytest.raises(TypeError, match=error):
            simulate(manager)(test)
    with pytest.raises(TypeError, match="no WorkflowManager"):
        simulate(without)  # type: ignore[arg-type]


# --- what it finds --------------------------------------------------------------------------------


def hasty(sim: Simulation, amount: int) -> None:
    """A test of a workflow that is wrong."""
    sim.stub(charge_card, returns=Receipt("r1"))
    run = sim.start(bank.hasty(amount))
    sim.after("0s..2m", lambda: sim.send_event(approval, workflow_id=run.id, value=True))
    sim.settle()
    assert bank.rows(sim) in (0, 2)


@pytest.mark.parametrize("store", ["memory", "sqlite"])
@pytest.mark.parametrize("sweep", [True, False])
def test_a_bug_is_found_and_shrunk(store: str, sweep: bool) -> None:
    """One choice of time, or one fault, and the least arguments. (Without the sweep sometimes two
    faults, which do the same together: none of them can be left out.)"""

    @simulate(manager, setup=create_tables, amount=st.integers(1, 500), store=store, sweep=sweep)
    def test(sim: Simulation, amount: int) -> None:
        hasty(sim, amount)

    with pytest.raises(AssertionError) as raised:
        test()  # type: ignore[call-arg]
    failure = trial_of(test).failures[AssertionError]
    assert failure.drawn == {"amount": 1}
    assert 1 <= len(failure.plan) <= (1 if sweep else 2)
    # Where the plugin is installed, pytest shows the report; else it is a note of the exception.
    report = "\n".join([*raised.value.__notes__, *options.reports])
    assert f"@example(amount=1, plan='{failure.plan}')" in report
    assert f"test_simulate.py::test_a_bug_is_found_and_shrunk[{sweep}-{store}]' --perdure" in report
    assert "An assertion of the test does not hold." in report
    assert "its code begins; asks for step 0: mutation debit" in report


def test_what_fails_without_faults_is_shrunk_too() -> None:
    """Its arguments are all that there is of it."""

    @simulate(manager, words=st.lists(st.integers()), store="memory")
    def test(sim: Simulation, words: list[int]) -> None:
        run = sim.start(bank.napping(len(words)))
        sim.settle()
        assert run.value < 1

    with pytest.raises(AssertionError):
        test()  # type: ignore[call-arg]
    failure = trial_of(test).failures[AssertionError]
    assert (failure.drawn, len(failure.plan)) == ({"words": [0]}, 0)


def test_without_the_faults_that_it_needs_it_is_not_found() -> None:
    """`faults` says what may go wrong; choices of time are no faults."""

    def test(sim: Simulation) -> None:
        sim.stub(charge_card, returns=Receipt("r1"))
        run = sim.start(bank.hasty(1))
        sim.send_event(approval, workflow_id=run.id, value=True)
        sim.settle()
        assert bank.rows(sim) == 2

    options: dict[str, Any] = {"setup": create_tables, "store": "memory", "max_examples": 20}
    simulate(manager, faults=NONE, **options)(test)()  # type: ignore[call-arg]
    simulate(manager, faults=CRASH, **options)(test)()  # type: ignore[call-arg]
    with pytest.raises(AssertionError):
        simulate(manager, faults=ALL & {"raises_for_good"}, **options)(test)()  # type: ignore[call-arg]


def test_what_is_done_and_fails_for_good_is_swept() -> None:
    """Two faults, which plans drawn at random hardly ever are."""
    done: list[str] = []

    def look_up(ctx: ActionContext, name: str, *, limit: int) -> str:
        done.append(name)
        return name

    @simulate(manager, store="memory", max_examples=1)
    def test(sim: Simulation) -> None:
        done.clear()
        sim.stub(bank.look_up, call=look_up)
        run = sim.start(bank.asking("Ann"))
        sim.settle()
        assert run.error is None or not done

    with pytest.raises(AssertionError):
        test()  # type: ignore[call-arg]
    assert str(trial_of(test).failures[AssertionError].plan) == (
        "pd1:look_up/attempt#2=raises_for_good;look_up/report#1=crash"
    )


def test_what_a_mutation_does_outside_of_its_transaction_is_swept() -> None:
    """All transactions are run twice in one plan; of its faults the one that matters is left."""
    sent: list[int] = []
    outer = WorkflowManager("outer.db")

    @outer.mutation
    def send(ctx: MutationContext, number: int) -> None:
        sent.append(number)

    @outer.workflow
    async def sending(step: Step) -> None:
        for number in range(9):
            await step.run_mutation(send(number))

    @simulate(outer, store="memory", max_examples=1, sweep=1)
    def test(sim: Simulation) -> None:
        sent.clear()
        sim.start(sending())
        sim.settle()
        assert sent == list(range(9))

    with pytest.raises(AssertionError):
        test()  # type: ignore[call-arg]
    (fault,) = trial_of(test).failures[AssertionError].plan
    assert (fault.site, fault.kind) == ("commit", "fails")


def test_a_test_that_keeps_something_from_run_to_run() -> None:
    """Is not repeatable, and is told so before anything goes wrong."""
    runs: list[int] = []

    @simulate(manager, store="memory")
    def test(sim: Simulation) -> None:
        runs.append(1)
        sim.start(bank.napping(len(runs)))

    wanted = r"(?s)went otherwise the second time.*at first .*seconds=1.*then .*seconds=2"
    with pytest.raises(DigestsDiffer, match=wanted):
        test()  # type: ignore[call-arg]


def test_sometimes_must_be_reached_in_one_run() -> None:
    """By the sweep or an example; else the test fails at its end."""

    def body(sim: Simulation, name: str) -> None:
        sim.stub("look_up", returns="x")
        run = sim.start(bank.asking("x"))
        if name == "retried":
            sim.sometimes(name, lambda: any(each.attempt == 2 for each in sim.calls("look_up")))
        else:
            sim.sometimes(name, lambda: run.status.kind == "canceled")

    @simulate(manager, store="memory", max_examples=5)
    def test_reached(sim: Simulation) -> None:
        body(sim, "retried")

    @simulate(manager, store="memory", max_examples=5)
    def test_missed(sim: Simulation) -> None:
        body(sim, "canceled")

    test_reached()  # type: ignore[call-arg]
    with pytest.raises(NeverReached, match=r"sometimes 'canceled': in none of \d+ runs"):
        test_missed()  # type: ignore[call-arg]


def test_phases_can_be_chosen() -> None:
    """As for any test: only the explicit example is run here, after the sweep."""
    plans: list[int] = []

    @settings(phases=[Phase.explicit])
    @example(number=7, plan="pd1:w0/turn#1=crash")
    @simulate(manager, number=st.integers(0, 3), store="memory", sweep=False)
    def test(sim: Simulation, number: int) -> None:
        plans.append(number)

    test()  # type: ignore[call-arg]
    assert plans.count(7) == 1
    assert plans[-1] == 7
