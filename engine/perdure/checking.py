"""Whether today's code fits the journals of workflows that run: `perdure check`.

A journal is replayed by the code that replays it in production, to its end, and then given what it
has not learned yet. Nothing is stored, no step runs. What production tolerates is told here as
well: a handler that reads a clock blocks nobody until the clock matters.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, TypeAlias

import attrs
from msgspec.structs import replace

from perdure.clockwatch import Watch
from perdure.core.commands import RunChild, RunStep, describe
from perdure.core.journal import Delivery, Journal, Started, StepEnded, StepRecord
from perdure.core.messages import Asked, Ended, HandlerBlocked
from perdure.core.outcomes import Canceled, Failed, Outcome, Succeeded
from perdure.core.replay import Handler, Place, Reaction
from perdure.core.workflow import RULES
from perdure.definitions import Mutation, Workflow
from perdure.determinism import Use, uses
from perdure.journals import WorkflowJournal
from perdure.runtime.launch import launcher
from perdure.step import StepRules
from perdure.store.base import Loaded

#: differs: the code asks for something else than is recorded. value: what is recorded no longer
#: fits its type. undefined: a function or workflow is not defined here. outside: the code reads
#: what a replay cannot repeat. rules: the journal is of a newer perdure. stuck: the code does not
#: come to rest.
ViolationKind: TypeAlias = Literal["differs", "value", "undefined", "outside", "rules", "stuck"]

#: A workflow may end so while its handler waits.
_ENGINE_ERRORS = ("LimitExceeded", "InternalError")


@attrs.frozen(kw_only=True)
class CheckViolation:
    """One reason why the code does not fit.

    Attributes:
        kind: "differs" (it asks for something else than is recorded), "value" (what is recorded no
            longer fits its type), "undefined" (a function or workflow is not defined), "outside"
            (it reads a clock, chance, the environment or the like), "rules" (the journal is of a
            newer perdure) or "stuck" (it does not come to rest).
        name: of the workflow's definition.
        message: the whole report.
        workflow_id: None where it is about the code alone.
        step: the number of the step that it is about, if there is one.
        position: of the fact after which it happened.
        recorded: what the journal has and the code does not ask for.
        asked: what the code asks for and the journal does not have.
        place: file and line of the code, where they are known.
    """

    kind: ViolationKind
    name: str
    message: str
    workflow_id: str | None = None
    step: int | None = None
    step_name: str | None = None
    position: int | None = None
    recorded: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    place: str | None = None


@attrs.frozen(kw_only=True)
class CheckedWorkflow:
    """What came of the replay of one workflow.

    Attributes:
        facts: how many were replayed.
        was_blocked: whether the code that ran last did not fit.
        next: what the code does next, in words; nothing if it does not fit.
    """

    workflow_id: str
    name: str
    facts: int
    was_blocked: bool
    violations: tuple[CheckViolation, ...] = ()
    next: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class CheckReport:
    """What came of a check.

    Attributes:
        checked: how many workflows were replayed, by the names of their definitions.
        unblocked: how many of them were blocked, and fit now.
        saw_clocks: False if a profiler was on, so that clocks that helper functions read went
            unseen.
    """

    checked: dict[str, int]
    violations: tuple[CheckViolation, ...]
    unblocked: int = 0
    saw_clocks: bool = True

    @property
    def is_ok(self) -> bool:
        """Whether there is no violation."""
        return not self.violations


Progress: TypeAlias = Callable[[CheckedWorkflow], object]


class Checker:
    """Replays journals, one after the other, and keeps what is wrong."""

    def __init__(self, rules: StepRules, *, name: str | None = None) -> None:
        self._rules = rules
        self._watch = Watch()
        self._checked: Counter[str] = Counter()
        self._unblocked = 0
        self._violations = list(self._read_code(name))

    def _read_code(self, name: str | None) -> Iterator[CheckViolation]:
        """What stands in the code of the workflows, whether their journals come by there or not."""
        for definition in self._rules.registry:
            if isinstance(definition, Workflow) and name in (None, definition.name):
                self._watch.subject = definition.name
                for use in uses(definition.fn):
                    if self._watch.is_new(use):
                        yield _outside(use, definition.name, None)

    def check(self, journal: WorkflowJournal) -> CheckedWorkflow:
        """Replay one journal. In any thread that runs no asyncio loop."""
        loaded = journal._loaded
        state = loaded.state
        self._checked[journal.name] += 1
        found, next_ = self._replay(loaded)
        violations = (*found, *self._of_watch(loaded), *self._undefined(loaded))
        self._violations += violations
        was_blocked = state.is_blocked
        self._unblocked += was_blocked and not violations
        return CheckedWorkflow(
            workflow_id=journal.workflow_id,
            name=journal.name,
            facts=state.position + 1,
            was_blocked=was_blocked,
            violations=violations,
            next=() if violations else next_,
        )

    def report(self) -> CheckReport:
        """What came of all of them."""
        return CheckReport(
            checked=dict(sorted(self._checked.items())),
            violations=tuple(self._violations),
            unblocked=self._unblocked,
            saw_clocks=not self._watch.is_blind,
        )

    # --- one workflow

    def _replay(self, loaded: Loaded) -> tuple[list[CheckViolation], tuple[str, ...]]:
        state = loaded.state
        header = state.header
        if header.rules > RULES:
            text = f"its journal keeps rules {header.rules}; this perdure knows {RULES}: upgrade it"
            return [_of(loaded, "rules", text)], ()
        if loaded.damage is not None:
            return [_of(loaded, "value", loaded.damage.message)], ()
        definition = self._rules.registry.get(header.name)
        if not isinstance(definition, Workflow):
            text = f"there is no workflow {header.name!r} here: it waits until a worker has it"
            return [_of(loaded, "undefined", text)], ()
        journal = Journal(state.started_at, loaded.steps, loaded.ticks)
        start_ms = header.start_at if state.started_at is None else state.started_at
        launch = launcher(definition, header.arguments, self._rules)
        handler = Handler(header.workflow_id, launch, journal, start_ms)
        self._watch.subject = header.name
        try:
            with self._watch:
                reaction = _advance(handler, journal, loaded, start_ms)
            place = handler.place
        finally:
            handler.close()
        if isinstance(reaction, HandlerBlocked):
            return [_blocked(loaded, reaction, place)], ()
        if state.outcome is not None:
            return list(_other_end(loaded, state.outcome, reaction)), ()
        return [], tuple(_next(loaded, reaction))

    def _of_watch(self, loaded: Loaded) -> list[CheckViolation]:
        header = loaded.state.header
        found, self._watch.uses = self._watch.uses, []
        return [_outside(use, header.name, header.workflow_id) for use in found]

    def _undefined(self, loaded: Loaded) -> Iterator[CheckViolation]:
        """What the workflow will need, and is not defined here."""
        state, registry = loaded.state, self._rules.registry
        if loaded.damage is not None:
            return
        if state.outcome is not None or not isinstance(registry.get(state.header.name), Workflow):
            return
        for record in loaded.steps:
            command = record.command
            if record.outcome is None and isinstance(command, RunStep | RunChild):
                definition = registry.get(command.function)
                if definition is None or definition.kind != command.kind:
                    text = (
                        f"{command.kind} {command.function!r} of step {record.number} is not"
                        " defined here: the workflow waits until a worker has it"
                    )
                    yield _of(loaded, "undefined", text, record)
        name = state.header.on_complete
        if name is not None and not isinstance(registry.get(name), Mutation):
            text = f"its on_complete {name!r} is no mutation here: it cannot end"
            yield _of(loaded, "undefined", text)


def _advance(handler: Handler, journal: Journal, loaded: Loaded, start_ms: int) -> Reaction:
    """Replay to the end of the journal, then deliver what is there and was not delivered.

    Timers and events come in between in production, in an order that is not known yet; so what is
    asked for in reaction is a forecast. That an outcome still fits its type is none.
    """
    if len(journal):
        reaction = handler.replay()
        position = journal.deliveries[-1].position
    else:
        reaction = handler.deliver(Delivery(0, start_ms, Started()))
        position = 0
    waiting = sorted(
        (record.settled_at or 0, record.number)
        for record in loaded.steps
        if record.outcome is not None
        and record.delivered_position is None
        and record.canceled_position is None
    )
    steps = [] if not isinstance(reaction, Asked) else list(reaction.steps)
    for settled_at, number in waiting:
        if loaded.state.outcome is not None or not isinstance(reaction, Asked):
            break
        position += 1
        record = loaded.steps[number]
        assert record.outcome is not None
        stamp = max(settled_at, loaded.state.stamp)
        fact = StepEnded(number, record.outcome, record.attempt)
        reaction = handler.deliver(Delivery(position, stamp, fact))
        if isinstance(reaction, Asked):
            steps += reaction.steps
    if isinstance(reaction, Asked):
        return replace(reaction, steps=tuple(steps))
    return reaction


def _next(loaded: Loaded, reaction: Reaction) -> Iterator[str]:
    assert not isinstance(reaction, HandlerBlocked)
    for _, command in reaction.steps:
        yield f"asks for {describe(command)}"
    for cancel in reaction.cancels:
        yield f"cancels step {cancel.number}"
    if isinstance(reaction, Ended):
        yield f"ends: {_spell(reaction.outcome)}"
        return
    canceled = {cancel.number for cancel in reaction.cancels}
    for record in loaded.steps:
        if record.outcome is None and record.number not in canceled:
            yield f"waits for step {record.number}: {describe(record.command)}"
    if reaction.timer_at is not None:
        yield "waits for a timer"


def _other_end(loaded: Loaded, outcome: Outcome, reaction: Reaction) -> Iterator[CheckViolation]:
    """Of a workflow that has ended: that the code would not end it like that."""
    if isinstance(reaction, Ended):
        if _gist(reaction.outcome) == _gist(outcome):
            return
        text = f"it ends with {_spell(reaction.outcome)}; recorded is {_spell(outcome)}"
    elif isinstance(outcome, Canceled) or (
        isinstance(outcome, Failed) and outcome.error.type in _ENGINE_ERRORS
    ):
        return  # the engine ended it while it waited
    else:
        text = f"it goes on; recorded is that it ended with {_spell(outcome)}"
    yield _of(loaded, "differs", text)


def _gist(outcome: Outcome) -> object:
    """An outcome without its traceback, which a moved line changes."""
    if isinstance(outcome, Failed):
        return (outcome.error.type, outcome.error.message)
    return outcome


def _spell(outcome: Outcome) -> str:
    if isinstance(outcome, Succeeded):
        return f"success, {outcome.value}"
    if isinstance(outcome, Failed):
        return f"a failure, {outcome.error.type}: {outcome.error.message}"
    return "a cancellation"


def _blocked(loaded: Loaded, reaction: HandlerBlocked, place: Place | None) -> CheckViolation:
    error = reaction.error
    kind: ViolationKind = "value"
    if error.type == "DeterminismError":
        kind = "differs"
    elif error.type in ("HandlerSpins", "InternalError"):
        kind = "stuck"
    number = None if place is None else place.number
    record = None if number is None else loaded.steps[number]
    violation = _of(loaded, kind, error.message, record)
    if place is None:
        return violation
    return attrs.evolve(
        violation, position=place.position, recorded=place.recorded, asked=place.asked
    )


def _of(
    loaded: Loaded, kind: ViolationKind, message: str, record: StepRecord | None = None
) -> CheckViolation:
    header = loaded.state.header
    return CheckViolation(
        kind=kind,
        name=header.name,
        message=message,
        workflow_id=header.workflow_id,
        step=None if record is None else record.number,
        step_name=None if record is None else record.command.name,
    )


def _outside(use: Use, name: str, workflow_id: str | None) -> CheckViolation:
    place = f"{os.path.relpath(use.filename)}:{use.line}"
    text = f"{use.what} at {place}: a replay would not see the same. Instead: {use.remedy}"
    return CheckViolation(
        kind="outside", name=name, message=text, workflow_id=workflow_id, place=place
    )


def check_all(
    rules: StepRules,
    journals: Iterable[WorkflowJournal],
    name: str | None = None,
    progress: Progress | None = None,
) -> CheckReport:
    """Replay journals; see `WorkflowManager.check_journals`."""
    checker = Checker(rules, name=name)
    for journal in journals:
        checked = checker.check(journal)
        if progress is not None:
            progress(checked)
    return checker.report()
