"""What clients ask for: requests that a turn carries out inside its transaction.

`StartOrder` (operations.py), `CreateOrder` and `EventOrder` (event_operations.py) are requests too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from perdure.core.outcomes import Json
from perdure.definitions import Definition, Mutation
from perdure.errors import StoreError
from perdure.store.base import Reader, TransactionLost

from . import operations
from .functions import FunctionRaised, run_function
from .scope import Scope


@attrs.frozen(eq=False)
class Cancel:
    """Cancel a workflow and all below it."""

    workflow_id: str

    def execute(self, scope: Scope) -> None:
        """Carry it out."""
        operations.cancel(scope, self.workflow_id)


@attrs.frozen(eq=False)
class RunFunction:
    """Run a query or a mutation from outside a workflow."""

    definition: Definition[..., Any]
    arguments: Json

    def execute(self, scope: Scope) -> Json:
        """Carry it out; the result is encoded."""
        definition = self.definition
        if isinstance(definition, Mutation):
            scope.tx.be_certain()  # of all that clients ask for this alone leaves no trace
        try:
            return run_function(scope, definition, self.arguments, "called from outside")
        except (StoreError, TransactionLost):
            raise
        except BaseException as error:
            raise FunctionRaised(error) from error


@attrs.frozen(eq=False)
class UpdateConfig:
    """Change the settings that all workers share."""

    max_parallelism: int

    def execute(self, scope: Scope) -> None:
        """Carry it out."""
        scope.tx.set_max_parallelism(self.max_parallelism)
        scope.after.look_config = True


@attrs.frozen(eq=False)
class Read:
    """Read through the engine, where other threads cannot read by themselves."""

    fn: Callable[[Reader], Any]

    def execute(self, scope: Scope) -> Any:
        """Carry it out."""
        return self.fn(scope.tx)
