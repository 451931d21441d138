"""Loops that nothing ends: in workflows and in actions, with and without waiting in them."""

from __future__ import annotations

import asyncio
import importlib
import signal
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from perdure import ActionContext, MutationContext, Step, StepFailed, WorkflowManager
from perdure.definitions import WorkflowCall
from perdure_sim import Simulation, run_simulation, simulate
from perdure_sim.testing import endless
from perdure_sim.testing.endless import NoEnd

manager = WorkflowManager("endless.db", retry_actions_by_default=True)


@manager.mutation
def touch(ctx: MutationContext) -> None:
    """Nothing."""


@manager.action
async def never_back(ctx: ActionContext) -> None:
    while True:
        pass


@manager.action
async def busy(ctx: ActionContext) -> None:
    while True:  # noqa: ASYNC110  Just that.
        await asyncio.sleep(0)


@manager.action
async def polling(ctx: ActionContext) -> None:
    while True:  # noqa: ASYNC110
        await asyncio.sleep(1)


@manager.action(retry=False)
async def failing(ctx: ActionContext) -> None:
    raise ValueError("always")


@manager.workflow
async def one(step: Step, name: str) -> None:
    await step.run_action({"never_back": never_back, "busy": busy, "polling": polling}[name]())


@manager.workflow
async def sleeping(step: Step) -> None:
    while True:
        await step.sleep(1)


@manager.workflow
async def napping(step: Step, naps: int) -> None:
    for _ in range(naps):
        await step.sleep(1)


@manager.workflow
async def mutating(step: Step) -> None:
    while True:
        await step.run_mutation(touch())


@manager.workflow
async def trying(step: Step) -> str:
    while True:
        try:
            await step.run_action(failing())
        except StepFailed:
            continue
        return "done"


@manager.workflow
async def ending(step: Step) -> None:
    await step.sleep(1)


@manager.workflow
async def spinning(step: Step) -> None:
    while True:
        pass


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (sleeping(), ["sleeping-1 has asked for", "sleep", "sim.advance(", "sim.cancel("]),
        (mutating(), ["mutating-1 has asked for", "touch", "events_max="]),
        (trying(), ["trying-1 has asked for", "failing"]),
        (spinning(), ["spinning is at test_endless.py:"]),
        (one("never_back"), ["never_back is at test_endless.py:"]),
        (one("busy"), ["busy"]),  # by its callbacks or by its time, whichever comes first
        (one("polling"), ["action polling (step 0 of one-1, attempt 1)", "timeout="]),
    ],
)
def test_a_loop_is_told_with_its_place(
    call: WorkflowCall[Any], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose it is, and what to do."""
    monkeypatch.setattr(endless, "SECONDS_MAX", 0.2)
    monkeypatch.setattr(endless, "SECONDS_THEN", 0.1)

    @simulate(manager, store="memory", events_max=300)
    def test(sim: Simulation) -> None:
        sim.start(call)

    with pytest.raises(NoEnd) as raised:
        test()  # type: ignore[call-arg]
    for each in words:
        assert each in str(raised.value)
    assert signal.getsignal(signal.SIGPROF) is signal.SIG_DFL


@pytest.mark.parametrize(("naps", "is_told"), [(15, False), (60, True)])
def test_steps_of_one_workflow_are_counted_as_well(naps: int, is_told: bool) -> None:
    """A loop that waits takes long before it has made many events."""

    @simulate(manager, store="memory", max_examples=1, sweep=False, events_max=400)
    def test(sim: Simulation) -> None:
        sim.start(napping(naps))

    with pytest.raises(NoEnd) if is_told else nullcontext():
        test()  # type: ignore[call-arg]


def test_a_disk_that_is_full_is_no_loop() -> None:
    """Everybody tries again and again: that makes events, and no steps."""

    def scenario(sim: Simulation) -> None:
        for _ in range(4):
            sim.start(ending())

    plan = "pd1:" + ";".join(f"w0/commit#{number}=disk_full:3m" for number in (1, 50, 100, 150))
    trace = run_simulation(manager, scenario, plan, store="memory")
    assert trace.failure is None
    assert trace.events > 2_000


def test_what_is_meant_to_go_on_for_ever_is_canceled() -> None:
    """As the message says."""

    @simulate(manager, store="memory", max_examples=5, sweep=300)
    def test(sim: Simulation) -> None:
        run = sim.start(sleeping())
        sim.advance("1m")
        sim.cancel(run.id)

    test()  # type: ignore[call-arg]


def test_an_import_that_takes_long_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An action may be the first to import something large."""
    code = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n"
    (tmp_path / "something_large.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(endless, "SECONDS_MAX", 0.1)
    loading = WorkflowManager("loading.db")

    @loading.action
    async def load(ctx: ActionContext) -> None:
        importlib.import_module("something_large")

    @loading.workflow
    async def loads(step: Step) -> None:
        await step.run_action(load())

    def scenario(sim: Simulation) -> None:
        sim.start(loads())

    assert run_simulation(loading, scenario).failure is None


@pytest.mark.parametrize("look", [lambda number, frame: None, signal.SIG_IGN])
def test_the_timer_of_somebody_else_is_left_alone(look: Callable[..., None]) -> None:
    """A profiler, say."""
    before = signal.signal(signal.SIGPROF, look)
    try:

        @simulate(manager, store="memory", max_examples=1, sweep=False)
        def test(sim: Simulation) -> None:
            assert signal.getsignal(signal.SIGPROF) is look
            sim.start(ending())

        test()  # type: ignore[call-arg]
        assert signal.getsignal(signal.SIGPROF) is look
    finally:
        signal.signal(signal.SIGPROF, before)


@pytest.mark.parametrize("number", [0, True, 1.5])
def test_a_bound_that_is_none(number: Any) -> None:
    """Told when the test is made."""
    with pytest.raises(ValueError, match="events_max="):
        simulate(manager, events_max=number)
