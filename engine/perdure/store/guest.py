"""The engine's side of a transaction that the user opened: what is the same on every database.

The engine's rows are written through it with the engine's own statements, and stored with the
user's, or not at all. Nothing here commits or rolls back the user's transaction, or begins one (but
see each `open_guest`): what fails is undone to a savepoint.
What does not belong here: what the verbs of a context do, and who notices the commit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeVar

from perdure.errors import ConnectionMisuse, StoreError

from .base import TransactionLost

T = TypeVar("T")

#: Names of the savepoints: of a verb, and of an `on_complete` that it runs.
VERB = "perdure_over"
_ON_COMPLETE = "perdure_over_user"


class UserTransaction(ABC):
    """What a store's `Guest` inherits beside its transaction."""

    @property
    @abstractmethod
    def is_open(self) -> bool:
        """Whether the user has not ended the transaction."""

    @abstractmethod
    def savepoint(self, name: str) -> AbstractContextManager[None]:
        """What is done in the block is undone if that raises."""

    def run_user_code(self, fn: Callable[[], T], *, read_only: bool) -> T:
        """Run an `on_complete`; it has the user's connection, with no fence around it.

        Raises:
            TransactionLost: it has ended the transaction.
        """
        try:
            with self.savepoint(_ON_COMPLETE):
                return fn()
        except StoreError:
            raise
        except BaseException as error:
            if not self.is_open:
                raise TransactionLost(None) from error
            raise


def ended() -> ConnectionMisuse:
    """The user has committed or rolled back, and goes on with the context."""
    return ConnectionMisuse(
        "the transaction that manager.over() was given has ended: call manager.over() again, in the"
        " next one"
    )


def engines_own() -> ConnectionMisuse:
    """The user gave the connection that the engine lends to mutations."""
    return ConnectionMisuse(
        "over(ctx.db): in a mutation use the verbs of its ctx: they are in its transaction"
    )
