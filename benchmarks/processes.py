"""W1 in a worker of its own, W6 and W7: workloads that need a process to themselves.

Run as a program (``python -m benchmarks.processes ROLE …``) this file is that process; it prints
one JSON object. Times between processes are of the wall clock, others of the performance counter.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from benchmarks.app import CHAIN_STEPS, App
from benchmarks.inside import W1_STEPS, WARM_UP, Sample
from benchmarks.places import Place
from benchmarks.raw import Durability

from perdure import InProgress, Succeeded, WorkflowInfo, WorkflowManager

ROOT = Path(__file__).resolve().parent.parent

W6_WORKFLOWS = 200
W7_SLEEPERS = 10_000
#: Starts of W7 under way at once: what a busy server would have, and no memory of its own.
W7_AT_ONCE = 500
#: Of so many sleepers one is asked for its status after the clock has stopped.
W7_CHECK_EVERY = 250

#: A child that has not ended by then hangs, in seconds.
CHILD_SECONDS_MAX = 300


def _spawn(role: str, store: str, durability: Durability, *more: str) -> subprocess.Popen[str]:
    roots = [str(ROOT), *(entry for entry in sys.path if entry)]
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.processes", role, store, durability, *more],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(roots)},
    )


def _finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for a child and read what it printed."""
    try:
        output, _ = process.communicate(timeout=CHILD_SECONDS_MAX)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    if process.returncode != 0:
        raise RuntimeError(f"{process.args!r}: exit code {process.returncode}")
    return cast("dict[str, Any]", json.loads(output))


# --- W1 -----------------------------------------------------------------------------------------


def w1_worker(place: Place) -> Sample:
    """100 steps one after another in a worker process, timed by its actions: no start-up in it."""
    store = place.store("w1_worker")
    app = App(store, place.durability)

    async def prepare() -> None:
        async with app.manager.client():
            await app.manager.start(app.chain(WARM_UP + W1_STEPS + 1))

    asyncio.run(prepare())
    stamps = _finish(_spawn("chain", store, place.durability))["stamps"]
    if len(stamps) != WARM_UP + W1_STEPS + 1:
        return Sample({"steps_per_second": 0.0}, (f"W1 in a worker: {len(stamps)} steps ran",))
    seconds = (stamps[-1] - stamps[-1 - W1_STEPS]) / 1e9
    return Sample({"steps_per_second": W1_STEPS / seconds})


def _child_chain(store: str, durability: Durability) -> dict[str, object]:
    app = App(store, durability)
    app.manager.run(until_idle=True)
    return {"stamps": app.stamps}


# --- W6 -----------------------------------------------------------------------------------------


async def _all_workflows(manager: WorkflowManager) -> list[WorkflowInfo]:
    found: list[WorkflowInfo] = []
    cursor = None
    while True:
        page = await manager.list_workflows(limit=100, cursor=cursor)
        found += page.items
        if page.is_done:
            return found
        cursor = page.cursor


def _count_lines(effects: Path) -> int:
    return effects.read_bytes().count(b"\n") if effects.exists() else 0


def w6(place: Place) -> Sample:
    """200 workflows × 10 steps; kill -9 after half of the steps; a new worker finishes them."""
    store, effects = place.store("w6"), place.folder / "w6.effects"
    app = App(store, place.durability)

    async def prepare() -> list[str]:
        async with app.manager.client():
            starts = [app.manager.start(app.recorded(CHAIN_STEPS)) for _ in range(W6_WORKFLOWS)]
            return await asyncio.gather(*starts)

    async def look() -> list[WorkflowInfo]:
        async with app.manager.client():
            return await _all_workflows(app.manager)

    ids = asyncio.run(prepare())
    victim = _spawn("drain", store, place.durability, str(effects))
    while _count_lines(effects) < W6_WORKFLOWS * CHAIN_STEPS // 2 and victim.poll() is None:
        time.sleep(0.001)
    victim.kill()
    victim.communicate()
    done_before = _count_lines(effects)

    spawned_at = time.time()
    told = _finish(_spawn("drain", store, place.durability, str(effects)))
    infos = asyncio.run(look())
    faults = _w6_faults(ids, infos, effects)
    if done_before >= W6_WORKFLOWS * CHAIN_STEPS:
        faults += ("W6: the worker was killed too late, all steps had run",)
    ends = [info.ended_at for info in infos if isinstance(info.ended_at, datetime)]
    finished_at = max((end.timestamp() for end in ends), default=spawned_at)
    ran = Counter(effects.read_text().splitlines())
    return Sample(
        {
            "from_spawn_s": finished_at - spawned_at,
            "from_run_s": finished_at - told["run_at"],
            "start_up_s": told["run_at"] - spawned_at,
            "twice": sum(count > 1 for count in ran.values()),
        },
        faults,
    )


def _w6_faults(ids: list[str], infos: list[WorkflowInfo], effects: Path) -> tuple[str, ...]:
    by_id = {info.workflow_id: info for info in infos}
    faults = [f"W6: {id_} was started and is gone" for id_ in ids if id_ not in by_id]
    faults += [
        f"W6: {info.workflow_id} ended as {info.status}"
        for info in infos
        if info.status != Succeeded(CHAIN_STEPS)
    ]
    ran = set(effects.read_text().splitlines())
    for id_ in ids:
        missing = [n for n in range(CHAIN_STEPS) if f"{id_} {n}" not in ran]
        if missing:
            faults.append(f"W6: {id_}: the steps {missing} have left no effect")
    return tuple(faults)


def _child_drain(store: str, durability: Durability, effects: str) -> dict[str, object]:
    app = App(store, durability, Path(effects))
    run_at = time.time()
    app.manager.run(until_idle=True)
    return {"run_at": run_at}


# --- W7 -----------------------------------------------------------------------------------------


def w7(place: Place) -> Sample:
    """10,000 workflows that sleep for an hour, in one process."""
    told = _finish(_spawn("sleepers", place.store("w7"), place.durability))
    figures = {"seconds": told["seconds"], "kb_each": told["kb_each"]}
    return Sample(figures, tuple(told["faults"]))


def _rss_bytes() -> int:
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


async def _sleep_all(store: str, durability: Durability) -> dict[str, object]:
    app = App(store, durability)
    async with app.manager as manager:
        await manager.result(await manager.start(app.chain(WARM_UP)))
        gc.collect()
        before = _rss_bytes()
        begin = time.perf_counter()
        checked = []
        for first in range(0, W7_SLEEPERS, W7_AT_ONCE):
            starts = [manager.start(app.sleeper()) for _ in range(W7_AT_ONCE)]
            ids = await asyncio.gather(*starts)
            checked += ids[(-first) % W7_CHECK_EVERY :: W7_CHECK_EVERY] + ids[-1:]
        while app.asleep < W7_SLEEPERS:  # noqa: ASYNC110 - counted by the engine's thread
            await asyncio.sleep(0.001)
        while not await _is_asleep(manager, checked[-1]):  # noqa: ASYNC110 - its commit
            await asyncio.sleep(0.001)
        seconds = time.perf_counter() - begin
        gc.collect()
        grown = _rss_bytes() - before
        awake = [id_ for id_ in checked if not await _is_asleep(manager, id_)]
    faults = [f"W7: {id_} is not asleep" for id_ in awake]
    return {"seconds": seconds, "kb_each": grown / 1024 / W7_SLEEPERS, "faults": faults}


async def _is_asleep(manager: WorkflowManager, id_: str) -> bool:
    status = await manager.status(id_)
    return isinstance(status, InProgress) and [s.kind for s in status.running] == ["sleep"]


def _child_sleepers(store: str, durability: Durability) -> dict[str, object]:
    return asyncio.run(_sleep_all(store, durability))


_ROLES: dict[str, Callable[..., dict[str, object]]] = {
    "chain": _child_chain,
    "drain": _child_drain,
    "sleepers": _child_sleepers,
}

if __name__ == "__main__":
    role, *rest = sys.argv[1:]
    print(json.dumps(_ROLES[role](*rest)))
