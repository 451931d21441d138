"""What a worker takes from others: workflows nobody owns, those of the dead, permits, epochs.

Each is a short transaction of its own, before the turn's commit: that a worker has taken a
workflow up must be stored before its handler runs, or a handler that kills its process would kill
every worker in turn without a trace.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

import msgspec
from msgspec.structs import replace

from perdure.core.ids import Epoch, WorkerId, WorkflowId
from perdure.core.limits import TAKEOVERS_ALONE, TAKEOVERS_MAX
from perdure.core.messages import AttemptLost, Message
from perdure.core.outcomes import Canceled
from perdure.core.pool import Share, permits_to_hold
from perdure.core.workflow import Blocked, WorkflowState
from perdure.errors import ErrorInfo
from perdure.sometimes import sometimes
from perdure.store.base import (
    Fenced,
    InboxRow,
    Loaded,
    Reader,
    StateWrite,
    Store,
    Transaction,
    WorkerRow,
)

from .operations import encode_inbox
from .scope import Env

logger = logging.getLogger("perdure.worker")

#: How often to look whether other workers still live, in ms. A try of a lock each.
DEAD_CHECK_MS = 100


class Claimed(msgspec.Struct, frozen=True):
    """A workflow that was taken up, and what follows from what its last owner left.

    A suspect may be what killed its workers: it gets a turn of its own.
    """

    loaded: Loaded
    messages: tuple[Message, ...]
    is_suspect: bool


class Claims:
    """What one worker takes, and when it looks again.

    Args:
        count_steps: counts, up to a number, steps of others that could be started here.

    Attributes:
        next_at: when to look at the latest for what wants to be woken; None for not at all.
        permits: how many attempts may run here.
        offered: how many steps of others could be started here, when that was last looked for.
        reserved: epochs for workflows that start here, used up from the end.
        is_paused: whether `max_parallelism` is 0.
    """

    def __init__(
        self, env: Env, store: Store, count_steps: Callable[[Reader, int], int] | None = None
    ) -> None:
        self._env = env
        self._count_steps = count_steps
        self.offered = 0
        self._store = store
        self.next_at: int | None = 0
        self.permits = 0
        self.reserved: list[Epoch] = []
        self.is_paused = False
        self._wanting = 0
        self._is_contended = False
        self._has_buried = self._has_given_up = False
        self._doubtful: list[WorkflowId] = []
        self._others: list[WorkerRow] | None = None
        self._dead_check_at = 0
        self._look_config = True

    @property
    def _names(self) -> tuple[str, ...]:
        return self._env.registry.workflow_names

    @property
    def _me(self) -> WorkerId:
        assert self._env.worker_id is not None
        return self._env.worker_id

    def expect(self, at: int) -> None:
        """Something that nobody owns wants to be woken at `at`."""
        if self.next_at is None or at < self.next_at:
            self.next_at = at

    def config_changed(self) -> None:
        """The shared settings were changed in this process."""
        self._look_config = True

    def look_again(self) -> None:
        """The store failed in the middle of a look."""
        self.expect(0)
        self._look_config = True
        self._others = None
        self._dead_check_at = 0  # perhaps one was found, and could not be buried

    def take_buried(self) -> bool:
        """Whether a dead worker was found since this was last asked: the inbox may have more."""
        has_buried, self._has_buried = self._has_buried, False
        return has_buried

    def take_given_up(self) -> bool:
        """Whether a workflow was blocked, because its workers die, since this was last asked."""
        has_given_up, self._has_given_up = self._has_given_up, False
        return has_given_up

    # --- a worker's life

    def register(self, tx: Transaction, now: int) -> None:
        """A new life begins: what was blocked gets another chance, with this code."""
        tx.check_schema()  # an upgrade of the store fences all workers of older code
        tx.add_worker(self._me, now)
        tx.wake_blocked(self._names, now, TAKEOVERS_MAX)

    def reserve_epochs(self) -> None:
        """Have epochs at hand for workflows that start here, so that a start needs no look."""
        count = self._env.portions.epochs
        with self._store.transaction() as tx:
            first = tx.take_epochs(count)
        self.reserved = list(range(first + count - 1, first - 1, -1))

    def load(self, ids: Collection[WorkflowId]) -> list[Loaded]:
        """Workflows with their journals."""
        return self._store.reader().load(ids)

    # --- workflows

    def look(self, now: int, *, has_changed: bool) -> list[Claimed]:
        """Take up what wants to be woken, and what the dead have left, if it is time to look."""
        if has_changed:
            self._others = None
        if now >= self._dead_check_at:
            self._dead_check_at = now + DEAD_CHECK_MS
            self._bury_dead(now)
        claimed = self._claimed_in_doubt(now) if self._doubtful else []
        if claimed:
            sometimes("a claim whose commit seemed to fail was stored")
        if not claimed and not has_changed and (self.next_at is None or self.next_at > now):
            return []
        reader = self._store.reader()
        if not claimed and reader.claimable(self._names, now, 1):
            claimed = self._claim(now)
        self.next_at = reader.next_wake(self._names)
        self._doubtful = []
        return claimed

    def _claimed_in_doubt(self, now: int) -> list[Claimed]:
        """What was taken up just before the store got into trouble, and nobody here works on."""
        living = {row.worker_id for row in self._store.reader().workers() if not row.is_fenced}
        return [
            Claimed(each, _lost(each.state, living, now), each.state.takeovers >= TAKEOVERS_ALONE)
            for each in self.load(self._doubtful)
            if each.state.owner == self._me
        ]

    def _claim(self, now: int) -> list[Claimed]:
        with self._store.transaction() as tx:
            if tx.is_fenced(self._me):
                sometimes("a worker finds itself fenced when it looks for work")
                raise Fenced
            found = tx.load(tx.claimable(self._names, now, self._env.portions.claims))
            suspects = [each for each in found if each.state.takeovers >= TAKEOVERS_ALONE]
            if suspects:
                # It may be what killed its workers: nothing else is to be at risk with it.
                sometimes("a workflow that may kill its worker is taken up alone")
                found = suspects[:1]
            self._doubtful = [each.state.workflow_id for each in found]
            living = {row.worker_id for row in tx.workers() if not row.is_fenced}
            epoch = tx.take_epochs(len(found)) if found else 0
            claimed, writes = [], []
            for offset, each in enumerate(found):
                state = self._taken(each.state, epoch + offset, now)
                writes.append(StateWrite(state=state, expected_epoch=each.state.epoch))
                if state.owner is not None:
                    loaded = replace(each, state=state)
                    claimed.append(Claimed(loaded, _lost(state, living, now), bool(suspects)))
            if writes and tx.update_workflows(writes):
                raise AssertionError("a workflow changed inside one transaction")
        return claimed

    def _taken(self, state: WorkflowState, epoch: Epoch, now: int) -> WorkflowState:
        if state.takeovers < TAKEOVERS_MAX:
            return replace(state, owner=self._me, epoch=epoch, wake_at=None)
        sometimes("a workflow has outlived too many workers")
        self._has_given_up = True
        text = (
            f"its worker died {state.takeovers} times while it owned this workflow: mend what"
            " kills the process, then cancel or restart the workflow"
        )
        if state.blocked is None or state.blocked.error.message != text:
            logger.error("workflow %s is blocked: %s", state.workflow_id, text)
        blocked = Blocked(error=ErrorInfo("WorkerLost", text), count=1, retry_at=now)
        return replace(state, epoch=epoch, wake_at=None, blocked=blocked)

    def _bury_dead(self, now: int) -> None:
        """Take everything from workers whose processes are gone."""
        if self._others is None:
            rows = self._store.reader().workers()
            self._others = [row for row in rows if row.worker_id != self._me]
        if not self._others:
            return
        for dead in self._store.dead_workers([row.worker_id for row in self._others]):
            sometimes("a worker finds another one dead")
            with self._store.transaction() as tx:
                if tx.is_fenced(self._me):
                    raise Fenced
                if not self._store.dead_workers([dead]):
                    sometimes("a worker that was found dead gives a sign of life")
                    continue
                for workflow_id, record in tx.run_by(dead):
                    # Owned by others who cannot know: they are told. (Who takes a workflow of the
                    # dead one's own over finds its attempts himself.)
                    body = encode_inbox(
                        Canceled(),
                        epoch=record.started_epoch or 0,
                        attempt=record.attempt,
                        is_lost=True,
                    )
                    row = InboxRow(
                        workflow_id=workflow_id,
                        kind="attempt",
                        body=body,
                        number=record.number,
                        accepted_at=now,
                    )
                    tx.put_inbox([row])
                    tx.wake(workflow_id, now)  # where nobody owns it
                count = tx.release_workflows(dead, now, is_dead=True)
                tx.remove_worker(dead)
            logger.info("worker %s is gone; %d workflows to take over", dead, count)
            self._others = None
            # Our own commit tells us nothing: its permits are free, and its attempts are told lost.
            self._look_config = self._has_buried = True
            self.expect(0)

    # --- permits

    def update_permits(
        self, running: int, needed: int, *, has_changed: bool, may_take: bool = False
    ) -> None:
        """Take permits that are free and needed; give back what others want and we do not use.

        What others want permits for may be started here instead: then they are needed here.

        Args:
            running: attempts that run here.
            needed: those, and the ready actions that wait here.
            has_changed: another process has committed something.
            may_take: steps may be taken from others.
        """
        self.offered = 0
        wants = needed > self.permits
        # What others lack, or the limit no longer allows, goes back as soon as an attempt ends.
        gives_back = self._is_contended and running < self.permits
        if not (has_changed or self._look_config or gives_back or wants != bool(self._wanting)):
            return
        reader = self._store.reader()
        limit, rows = reader.config().max_parallelism, reader.workers()
        mine = next((row for row in rows if row.worker_id == self._me), None)
        if mine is None:
            sometimes("a worker finds itself struck off when it looks for permits")
            raise Fenced
        if may_take and any(row.wanting for row in rows if row.worker_id != self._me):
            self.offered = self._offered(reader, limit, len(rows), running)
            needed += self.offered
        share = self._share(rows, limit, running, needed)
        wanting = share.wanting
        if len(rows) == 1 or (wanting and mine.wanting and share.permits == mine.permits):
            wanting = mine.wanting  # alone nobody needs to know, nor how many it lacks by now
        if (share.permits, wanting) != (mine.permits, mine.wanting):
            with self._store.transaction() as tx:
                if tx.is_fenced(self._me):
                    raise Fenced
                # Once more, under the lock: both may have changed since.
                limit, rows = tx.config().max_parallelism, tx.workers()
                share = self._share(rows, limit, running, needed)
                tx.set_permits(self._me, share.permits, share.wanting)
        others = [row for row in rows if row.worker_id != self._me]
        held = share.permits + sum(row.permits for row in others)
        self._is_contended = held > limit or any(row.wanting for row in others)
        self.permits, self._wanting = share.permits, share.wanting
        self.is_paused, self._look_config = limit == 0, False

    def _offered(self, reader: Reader, limit: int, workers: int, running: int) -> int:
        """How many steps of others could be started here: no more than a fair share allows."""
        if self._count_steps is None:
            return 0
        most = -(-limit // workers) - running
        return self._count_steps(reader, min(most, self._env.portions.claims))

    def _share(self, rows: Collection[WorkerRow], limit: int, running: int, needed: int) -> Share:
        shares = {row.worker_id: Share(row.worker_id, row.permits, row.wanting) for row in rows}
        mine = shares.pop(self._me, Share(self._me, 0, 0))
        others = list(shares.values())
        return permits_to_hold(mine, others, limit=limit, running=running, needed=needed)


def _lost(state: WorkflowState, living: Collection[WorkerId], now: int) -> tuple[Message, ...]:
    """Attempts whose workers are gone: what they did is not known."""
    lost = [
        record
        for record in state.live.values()
        if record.state == "started" and record.runner not in living
    ]
    if lost:
        sometimes("an attempt was lost with its worker")
    return tuple(
        AttemptLost(
            number=record.number,
            epoch=record.started_epoch or 0,
            attempt=record.attempt,
            accepted_at=now,
        )
        for record in lost
    )
