"""From a workflow's definition to the coroutine that a handler runs."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from perdure.core.outcomes import Failed, Json, Outcome, Succeeded
from perdure.core.replay import Handler, Launch
from perdure.definitions import Workflow
from perdure.error_form import encode_error
from perdure.step import Step, StepRules

from .inside import INSIDE


def launcher(definition: Workflow[..., Any], arguments: Json, rules: StepRules) -> Launch:
    """What makes the main coroutine of a workflow's handler.

    The returned function raises `ValidationError` when the recorded arguments no longer fit the
    definition: then the code is wrong, not the workflow. The coroutine itself raises nothing.
    """

    def launch(handler: Handler) -> Coroutine[Any, Any, Outcome]:
        where = f"recorded arguments of {definition.name}"
        args, kwargs = definition.arguments.bind(arguments, where=where)
        step = Step(handler, rules, definition)
        return _run(handler, definition, step, args, kwargs, rules)

    return launch


async def _run(
    handler: Handler,
    definition: Workflow[..., Any],
    step: Step,
    args: list[Any],
    kwargs: dict[str, Any],
    rules: StepRules,
) -> Outcome:
    INSIDE.set("handler")
    try:
        value = await definition.fn(step, *args, **kwargs)
        where = f"result of {definition.name}"
        return Succeeded(
            definition.result.encode(value, where=where, limit=rules.limits.value_bytes)
        )
    except BaseException as error:
        if handler.is_dropped:
            raise  # the handler is being dropped, not ended
        # SystemExit too, and whatever else: the workflow has failed; the worker goes on.
        return Failed(encode_error(error))
