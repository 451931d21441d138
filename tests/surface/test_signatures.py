"""The verbs of the surface: their names, the names of their options, and the defaults."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from perdure import (
    ActionContext,
    Limits,
    MutationContext,
    RetryPolicy,
    Step,
    WorkflowManager,
    define_event,
)

NO_DEFAULT = inspect.Parameter.empty

_WHEN: dict[str, Any] = {"run_after": None, "run_at": None}
_STEP: dict[str, Any] = {"name": None, **_WHEN, "unstable_args": None}
_PAGE: dict[str, Any] = {"order": "asc", "limit": 100, "cursor": None}

#: What each takes by position, and what by keyword alone, with its default.
STEP_VERBS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "run_query": (["call"], {**_STEP, "inline": False}),
    "run_mutation": (["call"], {**_STEP, "inline": False}),
    "run_action": (["call"], {**_STEP, "retry": None, "timeout": None}),
    "run_workflow": (["call"], {**_STEP, "workflow_id": None}),
    "sleep": (["duration"], {"name": "sleep"}),
    "sleep_until": (["when"], {"name": "sleep"}),
    "await_event": (["event"], {"id": None, "timeout": None}),
    "with_options": ([], {"unstable_args": None, "retry": None}),
    "now": ([], {}),
    "uuid4": ([], {}),
}

MANAGER_VERBS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "start": (["call"], {"id": None, "on_complete": None, "context": None, **_WHEN}),
    "status": (["workflow_id"], {}),
    "result": (["workflow_id"], {"timeout": None}),
    "watch": (["workflow_id"], {}),
    "cancel": (["workflow_id"], {}),
    "restart": (["workflow_id"], {"from_step": None}),
    "cleanup": (["workflow_id"], {"force": False}),
    "send_event": (["event"], {"workflow_id": None, "id": None, "value": None, "error": None}),
    "create_event": (["event"], {"workflow_id": NO_DEFAULT}),
    "list_workflows": ([], {"name": None, "status": None, "blocked": None, **_PAGE}),
    "list_steps": (["workflow_id"], _PAGE),
    "run_query": (["call"], {}),
    "run_mutation": (["call"], {}),
    "config": ([], {}),
    "update_config": ([], {"max_parallelism": None}),
}


def taken(function: Any) -> tuple[list[str], dict[str, Any]]:
    """What a method takes by position, and what by keyword alone."""
    parameters = list(inspect.signature(function).parameters.values())
    by_keyword = [each for each in parameters if each.kind is each.KEYWORD_ONLY]
    by_position = [each.name for each in parameters if each.kind is not each.KEYWORD_ONLY]
    return by_position[1:], {each.name: each.default for each in by_keyword}


@pytest.mark.parametrize("verb", STEP_VERBS)
def test_each_verb_of_a_step_takes_what_is_promised(verb: str) -> None:
    """Its options are given by keyword, and may all be left out."""
    assert taken(getattr(Step, verb)) == STEP_VERBS[verb]


@pytest.mark.parametrize("verb", MANAGER_VERBS)
def test_each_verb_of_a_manager_takes_what_is_promised(verb: str) -> None:
    """And its blocking twin takes the same."""
    assert taken(getattr(WorkflowManager, verb)) == MANAGER_VERBS[verb]
    blocking = type(WorkflowManager(":memory:").sync)
    assert taken(getattr(blocking, verb)) == MANAGER_VERBS[verb]


@pytest.mark.parametrize(
    "verb", ["start", "cancel", "restart", "cleanup", "send_event", "create_event"]
)
def test_the_verbs_of_contexts_take_the_same(verb: str) -> None:
    """Those of a mutation, which are not awaited, and those of an action."""
    for context in (MutationContext, ActionContext):
        assert taken(getattr(context, verb)) == MANAGER_VERBS[verb]
    assert not inspect.iscoroutinefunction(getattr(MutationContext, verb))
    assert inspect.iscoroutinefunction(getattr(ActionContext, verb))


def test_the_options_of_a_manager() -> None:
    """The store alone has no default."""
    assert taken(WorkflowManager.__init__) == (
        ["store"],
        {
            "max_parallelism": None,
            "retry_actions_by_default": False,
            "default_retry": RetryPolicy(),
            "limits": Limits(),
            "durability": "disk",
            "drain_timeout": 30,
        },
    )
    assert taken(WorkflowManager.run) == ([], {"until_idle": False})


def test_the_options_of_a_retry_policy() -> None:
    """All by keyword; without any it is the default policy."""
    assert taken(RetryPolicy.__init__) == (
        [],
        {
            "max_attempts": 5,
            "initial_backoff": 0.5,
            "base": 2.0,
            "max_backoff": None,
            "jitter": True,
            "non_retryable": (),
        },
    )


def test_an_event_has_a_name_and_a_type() -> None:
    """Without a type it takes any JSON value."""
    parameters = inspect.signature(define_event).parameters
    assert [(each.name, each.default) for each in parameters.values()] == [
        ("name", NO_DEFAULT),
        ("type", object),
    ]
