"""Leases: who is taken for dead though it lives, whose lease holds again, and who was buried alive.

A process that comes back from a pause gives a sign of life, as PostgreSQL's store does, before
another one has taken its work over. That matters to whoever was about to do so just then: hence
leases are renewed while a process stands still, and only then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from perdure.core.ids import WorkerId

from ..laws.violations import BuriedAlive
from .faulty_store import Write

if TYPE_CHECKING:
    from .process import Process


def workers(processes: Iterable[Process]) -> Iterator[tuple[WorkerId, Process]]:
    """The worker of each process that has one, and is not dead."""
    for process in processes:
        worker = process.engine._worker if process.is_alive else None
        if worker is not None and worker.env.worker_id is not None:
            yield worker.env.worker_id, process


def renew(processes: Iterable[Process]) -> None:
    """Those that were taken for dead, and go on, give a sign of life."""
    for worker_id, process in workers(processes):
        if not process.is_paused and process.inner.dead_workers([worker_id]):
            process.inner.hold_worker(worker_id)


def check_burials(writes: Sequence[Write], processes: Sequence[Process]) -> None:
    """Raise `BuriedAlive` if a commit takes everything from a worker whose lease holds."""
    buried = {what[0] for kind, what in writes if kind == "release" and what[2]}
    if not buried:
        return
    for worker_id, process in workers(processes):
        if worker_id in buried and not process.inner.dead_workers([worker_id]):
            raise BuriedAlive(f"{worker_id} of {process.name} has a lease that holds")
