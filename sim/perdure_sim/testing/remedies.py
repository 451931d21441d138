"""Which faults spare what a workflow does after something has failed: its remedies.

That an action fails for good is a fault like others: a bank says no. If it befell the refund as
well, no compensation could be right, however often it is tried, and a test that says "what was
taken is given back" would have to fail. So once a step of a workflow has failed, or of one that it
is a child of, its actions go wrong as before, but not for good: of several tries that they have,
the last is left alone. A test of what is done where the remedy fails, too, stubs it to raise.
"""

from __future__ import annotations

from perdure.core.outcomes import Succeeded

from ..faults.plan import Attempted, Fault
from ..world.world import World


def spare_remedies(world: World) -> None:
    """From now on."""

    def spares(fault: Fault, attempted: Attempted) -> bool:
        is_final = fault.kind == "raises_for_good" or (fault.kind == "raises" and attempted.is_last)
        return is_final and _has_failed_step(world, attempted.workflow_id)

    world.faults.spares = spares


def _has_failed_step(world: World, workflow_id: str | None) -> bool:
    known = world.history.workflows.get(workflow_id) if workflow_id is not None else None
    if known is None:
        return False
    outcomes = (step.outcome for step in known.steps.values())
    if any(outcome is not None and type(outcome) is not Succeeded for outcome in outcomes):
        return True
    return _has_failed_step(world, known.header.parent_id)
