"""Journals from elsewhere against today's code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.sim.testing import bank
from tests.sim.testing.bank import Receipt, approval, charge_card

from perdure import MutationContext, Step, ValidationError, WorkflowManager
from perdure.journals import WorkflowJournal
from perdure_sim import Run, Simulation, replay_check, run_simulation


def journals() -> list[WorkflowJournal]:
    """Of a transfer and a nap, both in the middle."""
    found: list[WorkflowJournal] = []

    def scenario(sim: Simulation) -> None:
        sim.stub(charge_card, returns=Receipt("r"))
        runs: list[Run[Any]] = [sim.start(bank.transfer(7)), sim.start(bank.napping(60))]
        sim.advance("10s")
        found.extend(run.journal for run in runs)
        sim.send_event(approval, workflow_id=runs[0].id, value=True)

    trace = run_simulation(bank.manager, scenario, setup=bank.create_tables)
    assert trace.failure is None
    return found


def test_code_that_fits(tmp_path: Path) -> None:
    """From journals, lines and a file."""
    given = journals()
    lines = [line for each in given for line in each.lines()]
    file = tmp_path / "journals.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    for each in (given, lines, file, str(file)):
        assert replay_check(bank.manager, each).checked == {"transfer": 1, "napping": 1}


def test_code_that_does_not() -> None:
    """The message shows both sides."""
    changed = WorkflowManager("bank.db")

    @changed.mutation
    def note(ctx: MutationContext) -> None: ...

    @changed.workflow
    async def napping(step: Step, seconds: int) -> None:
        await step.run_mutation(note())

    with pytest.raises(AssertionError, match="not asked for: step 0: sleep"):
        replay_check(changed, journals()[1:])


def test_nothing_to_check_is_an_error() -> None:
    """A check that cannot fail is none."""
    with pytest.raises(ValueError, match="no journal"):
        replay_check(bank.manager, [])
    with pytest.raises(ValidationError, match="line 1"):
        replay_check(bank.manager, ["{}"])
