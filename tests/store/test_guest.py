"""What users' own transactions have in common on every database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from perdure.errors import StoreBusy
from perdure.store.base import TransactionLost
from perdure.store.guest import UserTransaction


class Noting(UserTransaction):
    """One that notes what became of its savepoints."""

    def __init__(self) -> None:
        self.noted: list[str] = []
        self.ended = False

    @property
    def is_open(self) -> bool:
        return not self.ended

    @contextmanager
    def savepoint(self, name: str) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.noted.append(f"{name} is undone")
            raise
        self.noted.append(f"{name} is kept")


def test_what_a_callback_gives_is_kept() -> None:
    """Under a savepoint of its own, inside that of the verb."""
    guest = Noting()
    assert guest.run_user_code(lambda: 7, read_only=False) == 7
    assert guest.noted == ["perdure_over_user is kept"]


@pytest.mark.parametrize("error", [LookupError("no"), StoreBusy("wait"), SystemExit(3)])
def test_what_a_callback_raises_is_passed_on(error: BaseException) -> None:
    """As it is, as long as the transaction is there."""
    guest = Noting()

    def fails() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        guest.run_user_code(fails, read_only=False)
    assert caught.value is error
    assert guest.noted == ["perdure_over_user is undone"]


def test_a_callback_that_ends_the_transaction_is_told_apart() -> None:
    """Then the verb cannot be undone, and whoever called it is to know."""
    guest = Noting()

    def ends() -> None:
        guest.ended = True
        raise LookupError("no")

    with pytest.raises(TransactionLost):
        guest.run_user_code(ends, read_only=False)
