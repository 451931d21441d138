"""The director of the demo: starts the processes, kills workers midway, and has it all proved.

What to do next is decided by what the tables show, never by waiting for some time.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs

from perdure.demo.children import Children, end_gently
from perdure.demo.proof import Proof, prove
from perdure.demo.service import Counts, ask_counts
from perdure.demo.view import Seen, View

USERS = ("Ada", "Alan", "Barbara", "Donald", "Edsger", "Frances", "Grace", "John")
#: The steps of each workflow by name, in their order. Not taken from the program: that reads its
#: settings when it is imported, which must not be before they are set.
STEPS = ("welcome", "look up", "follow-up", "approval", "approved")

#: The tables are read this often.
LOOK_SECONDS = 0.03
#: Nothing may take longer than that (and the demo's day) without any progress in the tables.
STALL_SECONDS = 30.0


@attrs.frozen(kw_only=True)
class Plan:
    """What is to be played: how many users, how many kills, and how long a day is."""

    users: int = 6
    kills: int = 2
    day_seconds: float = 2.0

    @property
    def steps(self) -> int:
        """How many steps all workflows have together."""
        return self.users * len(STEPS)

    @property
    def steps_reachable(self) -> int:
        """How many can be done before the last kill: one approval is held back until then."""
        return self.steps - 2

    @property
    def kills_max(self) -> int:
        """With more kills there would not be a step between each two, or they would be too many.

        A workflow whose worker dies five times without progress is taken for the murderer.
        """
        return min(self.steps_reachable - 1, 4)

    def names(self) -> tuple[str, ...]:
        """The users' names."""
        more = (f"user-{number}" for number in range(len(USERS) + 1, self.users + 1))
        return (*USERS, *more)[: self.users]

    def kill_marks(self) -> list[int]:
        """At how many settled steps each kill is due: in the middle of as many equal parts."""
        halves = range(1, 2 * self.kills, 2)
        return [-(-self.steps_reachable * half // (2 * self.kills)) for half in halves]


@attrs.frozen(kw_only=True)
class Result:
    """How it went: `faults` is empty if all is well."""

    proof: Proof
    counts: Counts
    kills: int
    seconds: float
    faults: tuple[str, ...]


class _GoneWrong(Exception):
    """The play cannot go on; the text says why."""


class Stopped(Exception):
    """Somebody ended the demo by a signal."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.number = number


def play(plan: Plan, folder: Path, store: Path, view: View) -> Result:
    """Play the demo from beginning to end; no process of it is left when this returns.

    Args:
        plan: what to play.
        folder: for what the processes say; it exists.
        store: the SQLite file; it does not exist.
        view: shows what happens.

    Raises:
        Stopped: SIGINT, SIGTERM or SIGHUP came.
    """
    with Children(folder) as children, view:
        return asyncio.run(_until_signal(_Director(plan, store, view, children).direct()))


async def _until_signal(work: Coroutine[Any, Any, Result]) -> Result:
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    came: list[int] = []

    def stop(number: int) -> None:
        came.append(number)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        if not came:
            raise
        raise Stopped(came[0]) from None


class _Director:
    def __init__(self, plan: Plan, store: Path, view: View, children: Children) -> None:
        self._plan = plan
        self._store = store
        self._view = view
        self._children = children
        self._settings: dict[str, str] = {}
        self._worker: subprocess.Popen[str] | None = None
        self._workers = 0
        self._marks = plan.kill_marks()
        self._done_at_kill = -1
        self._ids: dict[str, str] = {}
        self._seen: dict[str, Seen] = {}
        self._approver: subprocess.Popen[str] | None = None
        self._approved: set[str] = set()

    async def direct(self) -> Result:
        """The whole play."""
        began = time.monotonic()
        faults: list[str] = []
        port, app = self._start_service()
        async with app.manager.client():
            await app.manager.run_mutation(app.create_tables())
            self._start_worker()
            try:
                for user in self._plan.names():
                    self._ids[user] = await app.manager.run_mutation(app.sign_up(user))
                self._view.say(f"{len(self._ids)} users have signed up")
                await self._until_all_ended(app)
            except _GoneWrong as error:
                faults.append(str(error))
        if not faults:
            faults += await self._end_worker()
        proof = prove(self._store, self._plan.names(), app.EMAILS)
        kills = self._plan.kills - len(self._marks)
        return Result(
            proof=proof,
            counts=ask_counts(port),
            kills=kills,
            seconds=time.monotonic() - began,
            faults=(*faults, *proof.faults),
        )

    # --- processes

    def _start_service(self) -> tuple[int, ModuleType]:
        process = self._children.start("service", settings={}, log="service.log", piped=True)
        assert process.stdout is not None, "the service was started with a pipe"
        line = process.stdout.readline()
        if not line.strip().isdigit():
            log = self._children.log_of("service.log")
            raise RuntimeError(f"the demo's HTTP service did not start:\n{log}")
        # The program reads its settings when it is imported: only now, and the same everywhere.
        self._settings = {
            "PERDURE_DEMO_STORE": str(self._store),
            "PERDURE_DEMO_SERVICE_PORT": line.strip(),
            "PERDURE_DEMO_DAY_SECONDS": str(self._plan.day_seconds),
        }
        os.environ.update(self._settings)
        from perdure.demo import app

        self._view.say(f"started the HTTP service (pid {process.pid}, port {line.strip()})")
        return int(line), app

    def _start_worker(self) -> None:
        self._workers += 1
        log = f"worker-{self._workers}.log"
        self._worker = self._children.start("worker", settings=self._settings, log=log)
        self._view.say(f"started worker {self._workers} (pid {self._worker.pid})")

    def _kill_worker(self, done: int, running: int) -> None:
        worker = self._worker
        assert worker is not None, "a worker is started before the first look"
        worker.kill()
        worker.wait()
        self._view.say(
            f"SIGKILL worker {self._workers} (pid {worker.pid}): {done} of {self._plan.steps}"
            f" steps are done, {running} running"
        )

    async def _end_worker(self) -> list[str]:
        assert self._worker is not None, "a worker is started before the first look"
        fault = await asyncio.to_thread(end_gently, self._worker)
        return [] if fault is None else [self._told(f"worker {self._workers} {fault}")]

    def _told(self, fault: str) -> str:
        log = self._children.log_of(f"worker-{self._workers}.log")
        return f"{fault}; it said:\n{log}" if log else fault

    def _check_processes(self) -> None:
        assert self._worker is not None, "a worker is started before the first look"
        if (code := self._worker.poll()) is not None:
            raise _GoneWrong(self._told(f"worker {self._workers} ended by itself, code {code}"))
        if self._approver is not None and (code := self._approver.poll()) is not None:
            if code:
                log = self._children.log_of("approver.log")
                raise _GoneWrong(f"the approving process ended with code {code}:\n{log}")
            self._approver = None

    # --- what the tables show, and what follows from it

    async def _until_all_ended(self, app: ModuleType) -> None:
        changed = time.monotonic()
        while True:
            before = dict(self._seen)
            await self._look(app)
            self._view.show(list(self._seen.values()))
            if all(seen.status != "in_progress" for seen in self._seen.values()):
                return
            now = time.monotonic()
            changed = changed if self._seen == before else now
            if now - changed > STALL_SECONDS + self._plan.day_seconds:
                raise _GoneWrong(self._told(f"no progress for {now - changed:.0f} s"))
            self._check_processes()
            self._approve()
            self._kill_if_due()
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self, app: ModuleType) -> None:
        for user, workflow_id in self._ids.items():
            seen = self._seen.get(user)
            if seen is None or seen.status == "in_progress":
                # The status first: a workflow that has ended has no more steps to come.
                status = await app.manager.status(workflow_id)
                page = await app.manager.list_steps(workflow_id)
                steps = {step.name: step for step in page.items}
                self._seen[user] = Seen(user=user, status=status.kind, steps=steps)

    def _kill_if_due(self) -> None:
        steps = [step for seen in self._seen.values() for step in seen.steps.values()]
        done = sum(step.status == "success" for step in steps)
        if not self._marks or done < self._marks[0]:
            return
        if self._done_at_kill == done < self._plan.steps_reachable:
            return  # the new worker has not done anything yet
        running = [step for step in steps if step.status == "in_progress" and step.attempts]
        looked_up = sum(step.kind == "action" and step.status == "success" for step in steps)
        if not running and looked_up < self._plan.users:
            return  # in a moment an attempt runs again: in the middle of one, a kill tells most
        del self._marks[0]
        self._done_at_kill = done
        self._kill_worker(done, len(running))
        self._start_worker()

    def _approve(self) -> None:
        if self._approver is not None:
            return
        waiting = [
            user
            for user, seen in self._seen.items()
            if user not in self._approved and "approval" in seen.steps
        ]
        # The last one waits until all kills are done, so that each finds something to interrupt.
        last = self._plan.names()[-1]
        waiting = [user for user in waiting if user != last or not self._marks]
        if waiting:
            self._approved.update(waiting)
            ids = [self._ids[user] for user in waiting]
            self._approver = self._children.start(
                "approve", *ids, settings=self._settings, log="approver.log"
            )
            self._view.say(
                f"process {self._approver.pid} sends the approvals of {_listed(waiting)}"
            )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
