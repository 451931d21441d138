"""State machines over workflows."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, run_state_machine_as_test
from tests.sim.testing import bank
from tests.sim.testing.bank import Receipt, approval, charge_card

from perdure import Step, WorkflowManager
from perdure_sim import Simulation, WorkflowMachine

FEW = settings(
    max_examples=20,
    stateful_step_count=10,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)

next_manager = WorkflowManager("bank.db", retry_actions_by_default=True)
for definition in bank.manager.registry:
    if definition.name != "napping":
        next_manager.registry.add(definition)


@next_manager.workflow
async def napping(step: Step, seconds: int) -> int:
    await step.sleep(seconds)
    return seconds


class Transfers(WorkflowMachine):
    """Transfers are whole, whatever happens in which order."""

    manager = bank.manager
    next_manager = next_manager
    setup = bank.create_tables
    store = "memory"
    calls = st.builds(bank.transfer, st.integers(1, 9)) | st.builds(bank.napping, st.just(5))
    events = st.tuples(st.just(approval), st.booleans())
    seen: ClassVar[set[str]] = set()

    def prepare(self) -> None:
        self.sim.stub(charge_card, returns=Receipt("r"), takes="3s")

    @invariant()
    def note_what_happened(self) -> None:
        """What the rules have brought about."""
        for run in self.runs:
            self.seen.add(run.status.kind)

    def check_end(self) -> None:
        assert bank.rows(self.sim) == 2 * sum(
            run.status.kind == "success" and run.value == "done" for run in self.runs
        )


class Hasty(Transfers):
    """Those of the hasty workflow are not."""

    calls = st.builds(bank.hasty, st.integers(1, 9))

    def check_end(self) -> None:
        assert bank.rows(self.sim) % 2 == 0


def test_a_machine_finds_nothing_where_all_is_well() -> None:
    """And its rules lead to all ends."""
    # A cancel between the two rows leaves one of them: that is no bug of the engine's.
    calm: Any = type("Calm", (Transfers,), {"cancels": False, "restarts": False})
    run_state_machine_as_test(calm, settings=FEW)
    assert Transfers.seen >= {"in_progress", "success"}


def test_a_machine_finds_a_bug() -> None:
    """And shows the rules that lead there."""
    with pytest.raises(AssertionError) as raised:
        run_state_machine_as_test(Hasty, settings=FEW)
    notes = "\n".join(raised.value.__notes__)
    assert "state.start(" in notes
    assert "hasty" in notes


def test_a_machine_must_say_what_it_runs() -> None:
    """Else the error says what is missing."""

    class Empty(WorkflowMachine):
        pass

    with pytest.raises(TypeError, match="Empty: say which manager"):
        Empty()
    assert Simulation.__doc__
