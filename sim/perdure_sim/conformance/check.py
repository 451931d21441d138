"""`check_store`: the conformance suite of a store adapter, for the contract of perdure.store.base.

Each check is a small function with the promise it is about as its docstring; they are in
store.py, rows.py, events.py, cuts.py, taken.py and alone.py. All share one database and so use ids,
names and events of their own; they expect nothing of what else is in it.

What does not belong here: speed, crashes of processes, and what only one database can do.
"""

from __future__ import annotations

from collections.abc import Callable

from perdure.store.base import Store

from . import alone, cuts, events, rows, store, taken
from .bench import Bench, Broken, Check

#: All checks by name, in the order in which they are run.
CHECKS: dict[str, Check] = {
    check.name: check
    for suite in (store.suite, rows.suite, events.suite, cuts.suite, taken.suite, alone.suite)
    for check in suite.checks
}


def check_store(make_store: Callable[[], Store], *, only: str | None = None) -> None:
    """Check that a store adapter keeps the whole contract of `perdure.store.base`.

    Call it from one test::

        def test_the_store_keeps_the_contract(tmp_path):
            check_store(lambda: MyStore(tmp_path / "app.db"))

    Args:
        make_store: makes a new store, not opened, on the **same** database at each call: some
            checks look at the work of one through another. (If what it makes cannot share its
            database, `reads_need_engine`, these checks are left out.)
        only: the name of the one check to run, as failures give it.

    Raises:
        AssertionError: the names of the checks that failed, each with the promise broken.
        ValueError: there is no check called `only`.
    """
    if only is not None and only not in CHECKS:
        raise ValueError(f"only={only!r}: give one of {', '.join(CHECKS)}")
    failures: list[tuple[str, Exception]] = []
    for name in CHECKS if only is None else [only]:
        try:
            _run(name, make_store)
        except Exception as error:
            failures.append((name, error))
    if failures:
        lines = [_failure_text(name, error) for name, error in failures]
        head = f"the store breaks {len(lines)} of {len(CHECKS)} promises:"
        raise AssertionError("\n".join([head, *lines])) from failures[0][1]


def _failure_text(name: str, error: Exception) -> str:
    detail = str(error) if isinstance(error, Broken) else f"raised {error!r}"
    return f"* {name}: {CHECKS[name].promise}\n    {detail}"


def _run(name: str, make_store: Callable[[], Store]) -> None:
    check = CHECKS[name]
    store = make_store()
    store.open(max_parallelism=None)
    bench = Bench(make_store=make_store, store=store, prefix="", epoch=0)
    try:
        if check.needs_two and store.reads_need_engine:
            return
        with store.transaction() as tx:
            bench.epoch = tx.take_epochs(1)
        bench.prefix = f"{name}/{bench.epoch}"
        check.fn(bench)
    finally:
        for opened in (*bench.others, store):
            opened.close()
