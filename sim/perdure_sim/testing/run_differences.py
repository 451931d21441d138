"""Where two runs part that should be one: the same test, the same arguments, no faults."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator
from pathlib import Path

from perdure.core.commands import RunStep, describe
from perdure.core.ids import WorkflowId
from perdure.core.journal import StepRecord
from perdure.definitions import Action, Definition, Registry

from ..explore.portions import DigestsDiffer
from ..laws.known import Known
from ..report.telling import tell
from ..report.wording import cut, moment, outcome_text
from ..world.trace import DETAIL_KINDS, Event
from ..world.world import World

#: So much is shown of what was another the second time.
CHARS = 200

#: Of an event whose text is the same in both, so much is shown of where the events part.
EVENT_CHARS = 120


def difference(one: World, other: World) -> DigestsDiffer | None:
    """What to raise of two runs; None if they are the same."""
    if one.trace.digest() == other.trace.digest():
        return None
    why = next(_causes(one, other), None) or (
        "is there something in the test, in a stub or in an action that keeps values from run to"
        " run, or that is left to chance?"
    )
    return DigestsDiffer(
        f"the same run without faults went otherwise the second time\n{why}\n{_where(one, other)}"
    )


def _causes(one: World, other: World) -> Iterator[str]:
    """Whose doing it is, the earliest first."""
    firsts, thens = one.history.workflows.items(), other.history.workflows.values()
    found: list[tuple[tuple[int, int], str]] = []
    for (workflow_id, first), then in zip(firsts, thens, strict=False):
        found += _parted(one, workflow_id, first, then)
    yield from (text for _, text in sorted(found))


def _parted(
    world: World, workflow_id: WorkflowId, first: Known, then: Known
) -> Iterator[tuple[tuple[int, int], str]]:
    """What differs of a workflow, with when it was asked for."""
    name = first.header.name
    if first.header.name != then.header.name or first.header.arguments != then.header.arguments:
        why = f"{workflow_id} was started with other arguments\nwhoever starts it (the test, an"
        why += " action) takes them from something that is not the same each time"
        yield (0, 0), why
        return
    for number in sorted(first.steps.keys() | then.steps.keys()):
        pair = first.steps.get(number), then.steps.get(number)
        text = _step_parted(world, name, *pair)
        if text is not None:
            asked_at = min(each.asked_at for each in pair if each is not None)
            yield (asked_at, number), f"{workflow_id}, step {number}: {text}"
            return
    if first.state.outcome != then.state.outcome:
        yield (
            (first.state.ended_at or 0, 0),
            f"{workflow_id} ended otherwise\n{_of_code(world, name)}",
        )


def _step_parted(
    world: World, workflow: str, first: StepRecord | None, then: StepRecord | None
) -> str | None:
    if first is None or then is None or first.command != then.command:
        asked = [
            "nothing" if each is None else cut(describe(each.command), CHARS)
            for each in (first, then)
        ]
        return (
            f"{workflow} asked for {asked[0]}, and then for {asked[1]}\n{_of_code(world, workflow)}"
        )
    if first.outcome == then.outcome or not isinstance(first.command, RunStep):
        return None
    ended = [
        "has not ended" if each is None else cut(outcome_text(each), CHARS)
        for each in (first.outcome, then.outcome)
    ]
    name = first.command.name
    return f"{first.command.kind} {name} {ended[0]}, and then {ended[1]}\n{_of_code(world, name)}"


def _of_code(world: World, name: str) -> str:
    """What is wrong with a function, and where it stands."""
    if name in world.stubs:
        return f"what stands for {name} in the test keeps values from run to run, or rolls dice"
    place = _place(world.rules.registry, name)
    text = f"the code of {name}{place} keeps values from run to run, or reads a clock, chance or"
    text += " the outside"
    if isinstance(world.rules.registry.get(name), Action):
        text += f"; stub it, as in sim.stub({name}, returns=…)"
    return text


def _place(registry: Registry, name: str) -> str:
    definition = registry.get(name)
    if not isinstance(definition, Definition):
        return ""
    code = inspect.unwrap(definition.fn).__code__
    return f" ({Path(code.co_filename).name}:{code.co_firstlineno})"


# --- the events -----------------------------------------------------------------------------------


def _where(one: World, other: World) -> str:
    """The first event that was another one."""
    both = [[e for e in each.trace.events if e.kind not in DETAIL_KINDS] for each in (one, other)]
    pairs = itertools.zip_longest(*both)
    number = next(number for number, (a, b) in enumerate(pairs) if str(a) != str(b))
    first, second = (_told(events, number) for events in both)
    if first == second:
        first, second = _apart(*(str(events[number]) for events in both))
    return f"at first   {first}\nthen       {second}"


def _told(events: list[Event], number: int) -> str:
    if number >= len(events):
        return "(nothing)"
    line = tell(events[: number + 1])[-1]
    return f"{moment(line.at)} {line.lane}: {'; '.join(line.text.splitlines())}"


def _apart(first: str, second: str) -> tuple[str, str]:
    """Two texts, from shortly before they part."""
    pairs = enumerate(zip(first, second, strict=False))
    same = next((number for number, (one, other) in pairs if one != other), 0)
    begin = max(0, same - EVENT_CHARS // 2)
    one, other = (cut(each[begin:], EVENT_CHARS) for each in (first, second))
    return one, other
