"""W1 to W5: workloads whose worker lives in the measuring process, actions on the caller's loop.

Each function runs its workload once in a new database and gives what it measured, with the list
of what was wrong: a fast wrong answer is no answer.
"""

from __future__ import annotations

import asyncio
from statistics import quantiles
from time import perf_counter

import attrs
from benchmarks.app import CHAIN_STEPS, App
from benchmarks.places import Place

W1_STEPS = 100
W2_WORKFLOWS = 500
#: `max_parallelism` of W2 and W3: all of their actions may run at once, as a user would set it for
#: actions that wait rather than compute.
WIDE = 1000
W3_WIDTH = 500
W4_STARTS = 200
W5_STEPS = 2_000
W5_PART = 200

#: Steps, or starts, before the clock: first imports and first pages are paid once in a process.
WARM_UP = 20


@attrs.frozen
class Sample:
    """What one run of a workload gave: its figures by name, and what was wrong."""

    figures: dict[str, float]
    faults: tuple[str, ...] = ()


def _expect(what: str, found: object, wanted: object) -> tuple[str, ...]:
    return () if found == wanted else (f"{what}: {found!r} instead of {wanted!r}",)


async def _warm_up(app: App) -> None:
    await app.manager.result(await app.manager.start(app.chain(WARM_UP)))
    app.stamps.clear()


async def _w1(place: Place) -> Sample:
    app = App(place.store("w1"), place.durability)
    async with app.manager as manager:
        await _warm_up(app)
        begin = perf_counter()
        value = await manager.result(await manager.start(app.chain(W1_STEPS)))
        seconds = perf_counter() - begin
    faults = _expect("W1 result", value, W1_STEPS) + _expect("W1 steps", len(app.stamps), W1_STEPS)
    return Sample({"steps_per_second": W1_STEPS / seconds}, faults)


async def _w2(place: Place, max_parallelism: int | None) -> Sample:
    app = App(place.store("w2"), place.durability, max_parallelism=max_parallelism)

    async def run_one() -> int:
        value: int = await app.manager.result(await app.manager.start(app.chain(CHAIN_STEPS)))
        return value

    async with app.manager:
        await _warm_up(app)
        begin = perf_counter()
        values = await asyncio.gather(*[run_one() for _ in range(W2_WORKFLOWS)])
        seconds = perf_counter() - begin
    faults = _expect("W2 results", values, [CHAIN_STEPS] * W2_WORKFLOWS)
    faults += _expect("W2 steps", len(app.stamps), W2_WORKFLOWS * CHAIN_STEPS)
    return Sample({"steps_per_second": W2_WORKFLOWS * CHAIN_STEPS / seconds}, faults)


async def _w3(place: Place) -> Sample:
    app = App(place.store("w3"), place.durability, max_parallelism=WIDE)
    async with app.manager as manager:
        await _warm_up(app)
        begin = perf_counter()
        value = await manager.result(await manager.start(app.fan(W3_WIDTH)))
        seconds = perf_counter() - begin
    faults = _expect("W3 result", value, W3_WIDTH) + _expect("W3 steps", len(app.stamps), W3_WIDTH)
    return Sample({"steps_per_second": W3_WIDTH / seconds}, faults)


async def _w4(place: Place) -> Sample:
    app = App(place.store("w4"), place.durability)
    times = []
    values = []
    async with app.manager as manager:
        for _ in range(WARM_UP + W4_STARTS):
            begin = perf_counter()
            values.append(await manager.result(await manager.start(app.chain(1))))
            times.append(perf_counter() - begin)
    cuts = quantiles(times[WARM_UP:], n=20)
    faults = _expect("W4 results", values, [1] * len(values))
    return Sample({"p50_ms": cuts[9] * 1000, "p95_ms": cuts[18] * 1000}, faults)


async def _w5(place: Place) -> Sample:
    app = App(place.store("w5"), place.durability)
    async with app.manager as manager:
        await _warm_up(app)
        value = await manager.result(await manager.start(app.chain(W5_STEPS)))
    stamps = app.stamps
    faults = _expect("W5 result", value, W5_STEPS) + _expect("W5 steps", len(stamps), W5_STEPS)
    if faults:
        return Sample({"last_to_first": 0.0, "steps_per_second": 0.0}, faults)
    first = stamps[W5_PART] - stamps[0]
    last = stamps[-1] - stamps[-1 - W5_PART]
    seconds = (stamps[-1] - stamps[0]) / 1e9
    rate = (W5_STEPS - 1) / seconds
    return Sample({"last_to_first": last / first, "steps_per_second": rate})


def w1_own_loop(place: Place) -> Sample:
    """100 steps one after another, from `start` to `result`."""
    return asyncio.run(_w1(place))


def w2(place: Place) -> Sample:
    """500 workflows of 10 steps at once, from the first `start` to the last `result`."""
    return asyncio.run(_w2(place, WIDE))


def w2_default(place: Place) -> Sample:
    """The same with `max_parallelism` at its default, 100: four steps in five queue first."""
    return asyncio.run(_w2(place, None))


def w3(place: Place) -> Sample:
    """500 parallel steps in one workflow, from `start` to `result`."""
    return asyncio.run(_w3(place))


def w4(place: Place) -> Sample:
    """`start` to `result` of a workflow of one step, one at a time."""
    return asyncio.run(_w4(place))


def w5(place: Place) -> Sample:
    """2,000 steps in a row: does a long journal make the last ones slower than the first?"""
    return asyncio.run(_w5(place))
