"""A client's own transaction: it writes the application's tables, and uses the verbs of
`manager.over` in between. Both are on the disk together, or neither is.

The client opens it, runs the function, and commits; then it may be told nothing, or be told a lie,
and it may die on the way. As with all that it does, it tries again until it was told.
What does not belong here: what each disk does for it (`disks.Disk.over`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

from perdure.runtime.contexts import MutationContext
from perdure.runtime.over import OverContext
from perdure.store.base import GuestTransaction

from .faulty_store import Crash, SimulatedStore

if TYPE_CHECKING:
    from .process import Process

#: What runs in the transaction; its `db` is the client's own connection.
Body: TypeAlias = Callable[[MutationContext], Any]

Answer: TypeAlias = Callable[[Any, BaseException | None], None]


@attrs.frozen(eq=False)
class Transact:
    """The wish of a client to run `body` in a transaction of its own."""

    body: Body

    def submit(self, client: Process, answer: Answer) -> None:
        """Have it done as soon as this event is over, if the client still lives."""
        client.at(client.now, partial(self._run, client, answer))

    def _run(self, client: Process, answer: Answer) -> None:
        env = client.orders.env

        def run(guest: GuestTransaction) -> Any:
            return self.body(OverContext(env, guest))

        try:
            store = client.engine.store
            assert isinstance(store, SimulatedStore)
            value = store.over(client.world.over, run)
        except Crash as crash:
            client.note("crash", crash)
            client._die()
        except Exception as error:  # the store's trouble, or whatever the client's code raises
            answer(None, error)
        else:
            answer(value, None)
