"""The settings with which a manager runs its definitions."""

from __future__ import annotations

from perdure.core.limits import Limits
from perdure.core.retry import RetryPolicy
from perdure.definitions import Definer
from perdure.manager import WorkflowManager
from perdure.step import StepRules

from ..world.world import DRAIN_SECONDS


def rules_of(manager: Definer) -> StepRules:
    """The manager's own settings; of bare definitions the usual ones.

    Raises:
        TypeError: it is no manager.
    """
    if isinstance(manager, WorkflowManager):
        return manager._env.rules
    if not isinstance(manager, Definer):
        raise TypeError(f"{manager!r} is no WorkflowManager")
    return StepRules(
        registry=manager.registry,
        limits=Limits(),
        default_retry=RetryPolicy(),
        retry_actions_by_default=False,
    )


def parallelism_of(manager: Definer) -> int | None:
    """The manager's `max_parallelism`, if it has one."""
    return manager._max_parallelism if isinstance(manager, WorkflowManager) else None


def drain_seconds_of(manager: Definer) -> float:
    """How long running attempts may go on in a worker that is stopped."""
    return manager._drain_seconds if isinstance(manager, WorkflowManager) else DRAIN_SECONDS


def loses_with_power(manager: Definer) -> bool:
    """Whether a power loss takes the last commits with it."""
    return isinstance(manager, WorkflowManager) and manager._durability == "process"
