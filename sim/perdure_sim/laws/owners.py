"""The laws of who may write what: workers, those who own a workflow, and permits."""

from __future__ import annotations

from collections.abc import Mapping

from perdure.core.ids import WorkerId, WorkflowId
from perdure.store.base import StepWrite

from ..world.faulty_store import Write
from .known import Author, Known, is_taking
from .violations import NotTheOwner, TooManyPermits, WrittenByTheDead


class Owners:
    """The workers that are registered, and the permits that each of them holds.

    Attributes:
        limit: of attempts that run at a time.
        workers: their permits, by their ids.
    """

    def __init__(self) -> None:
        self.limit: int | None = None
        self.workers: dict[WorkerId, int] = {}

    def check(
        self, writes: list[Write], workflows: Mapping[WorkflowId, Known], author: Author
    ) -> None:
        """Who has committed this may do so; `workflows` are as they were before."""
        me = author.worker_id
        was_alive = me is None or me in self.workers or ("add_worker", me) in writes
        mine: set[WorkflowId] = set()  # what becomes the author's in this very commit
        for kind, what in writes:
            touched: list[WorkflowId] = []
            match kind:
                case "insert":
                    for state in what:
                        mine.add(state.workflow_id)
                        if state.owner not in (None, me):
                            raise NotTheOwner(f"{me} gave {state.workflow_id} to {state.owner}")
                        if state.owner is not None:
                            touched.append(state.workflow_id)
                case "update":
                    for write in what:
                        state = write.state
                        touched.append(state.workflow_id)
                        if state.epoch == write.expected_epoch or state.workflow_id in mine:
                            continue
                        owner = workflows[state.workflow_id].owner
                        is_taken = owner is None and state.owner in (None, me)
                        if not (is_taken or state.outcome is not None):
                            raise NotTheOwner(
                                f"{me} took {state.workflow_id}, which {owner} owns: {state}"
                            )
                        mine.add(state.workflow_id)
                case "steps":
                    for write in what:
                        if not _is_taken(write, workflows.get(write.workflow_id), me):
                            touched.append(write.workflow_id)
                        elif not was_alive:
                            raise WrittenByTheDead(f"{me} is fenced and has taken {write}")
                case "ticks":
                    touched += [workflow_id for workflow_id, _, _ in what]
                case "consume":
                    touched.append(what[0])
            for workflow_id in touched:
                if workflow_id in mine:
                    continue
                known = workflows.get(workflow_id)
                if known is not None and (me is None or known.owner != me):
                    raise NotTheOwner(f"{me} wrote {kind} of {workflow_id}, owner {known.owner}")
            mine.update(touched)  # what it was entitled to, it may go on with in this commit
            if touched and not was_alive:
                raise WrittenByTheDead(f"{me} is fenced and has written {kind} of {touched}")
        self._take(writes, workflows)

    def _take(self, writes: list[Write], workflows: Mapping[WorkflowId, Known]) -> None:
        is_raised = False
        for kind, what in writes:
            match kind:
                case "add_worker":
                    self.workers[what] = 0
                case "remove_worker":
                    self.workers.pop(what, None)
                case "permits":
                    worker_id, permits = what
                    if worker_id in self.workers:
                        is_raised = is_raised or permits > self.workers[worker_id]
                        self.workers[worker_id] = permits
                case "limit":
                    self.limit = what
                case "release":
                    for known in workflows.values():
                        if known.owner == what[0]:
                            known.owner = None
                case _:
                    pass
        if is_raised and self.limit is not None and sum(self.workers.values()) > self.limit:
            raise TooManyPermits(f"{self.workers}, and the limit is {self.limit}")


def _is_taken(write: StepWrite, known: Known | None, me: WorkerId | None) -> bool:
    """Whether this step is taken from its workflow's owner, as anybody may who lives."""
    if known is None or known.owner in (None, me):
        return False
    return is_taking(known.steps.get(write.record.number), write.record, me)
