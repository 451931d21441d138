"""A mutation's context over a transaction that the user opened: the verbs, and his connection.

Nobody is told when the user commits. So everything has to follow from the rows alone: what is
started belongs to nobody, whom it concerns is told by the inbox, and the workers of this process
notice the commit as they notice those of other processes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from perdure.errors import ConnectionMisuse
from perdure.store.base import GuestTransaction

from .contexts import MutationContext
from .functions import FunctionLostTransaction
from .scope import Env, Scope

T = TypeVar("T")


class OverContext(MutationContext):
    """A `MutationContext` for `WorkflowManager.over`; each verb has a scope of its own."""

    def __init__(self, env: Env, guest: GuestTransaction) -> None:
        self._env = env
        self._guest = guest
        super().__init__(Scope(env=env, tx=guest, now=env.clock.now_ms()))

    @property
    def _scope(self) -> Scope:
        self._guest.check_open()
        # A user's transaction may be open for long: the time is that of the verb.
        return Scope(env=self._env, tx=self._guest, now=self._env.clock.now_ms())

    def _do(self, fn: Callable[[], T]) -> T:
        try:
            return super()._do(fn)
        except FunctionLostTransaction as error:
            raise ConnectionMisuse(
                f"the on_complete of workflow {error.workflow_id!r} has ended the transaction that"
                " manager.over() was given: it must neither commit nor roll back"
            ) from error
