"""The verbs of actions: that all that offer them offer the same."""

from __future__ import annotations

import inspect

import pytest

from perdure.manager import WorkflowManager
from perdure.runtime.contexts import ActionContext, MutationContext
from perdure.runtime.verbs import SyncVerbs, Verbs
from perdure.sync import SyncManager

NAMES = [name for name in vars(SyncVerbs) if not name.startswith("_")]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", [WorkflowManager, SyncManager, ActionContext, MutationContext])
def test_each_verb_takes_the_same_wherever_it_is(kind: type, name: str) -> None:
    """Parameters, their kinds and defaults; a mutation has those that make sense in one."""
    if kind is MutationContext and not hasattr(kind, name):
        assert name in ("status", "result", "run_query", "run_mutation")
        return
    expected = inspect.signature(getattr(SyncVerbs, name)).parameters.values()
    assert list(inspect.signature(getattr(kind, name)).parameters.values()) == list(expected)
    assert name in vars(Verbs)
