"""`simulate`: a test function of a user's, made a Hypothesis test over plans and arguments."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

from hypothesis import given as hypothesis_given
from hypothesis import is_hypothesis_test
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from perdure.definitions import Definer

from .disks import Setup, store_of
from .endless import EVENTS_MAX
from .fault_sets import ALL, FaultSet
from .manager_settings import rules_of
from .trial import Trial

Test = TypeVar("Test", bound=Callable[..., None])

#: Arguments of a test that are the simulator's own.
OWN = ("sim", "plan")

#: Fixtures of pytest's own are no arguments to be drawn, whatever their annotation says.
PYTEST_FIXTURES = frozenset(
    {"cache", "capfd", "capfdbinary", "caplog", "capsys", "capsysbinary", "monkeypatch"}
    | {"doctest_namespace", "pytestconfig", "record_property", "record_testsuite_property"}
    | {"record_xml_attribute", "recwarn", "request", "subtests", "testdir", "pytester"}
    | {"tmp_path", "tmp_path_factory", "tmpdir", "tmpdir_factory"}
)


def simulate(
    manager: Definer,
    *,
    setup: Setup | None = None,
    workers: int = 2,
    faults: FaultSet | Iterable[str] = ALL,
    max_examples: int | None = None,
    sweep: bool | int = True,
    store: str | None = None,
    events_max: int = EVENTS_MAX,
    given: Mapping[str, Any] | None = None,
    **strategies: Any,
) -> Callable[[Test], Test]:
    """Make a test of workflows: its function runs in simulated worlds where things go wrong.

    The function gets a `Simulation` as ``sim``, and the arguments that strategies draw. It is an
    ordinary Hypothesis test: `@settings`, `@example(amount=1, plan="…")`, fixtures and parametrize
    work on it. It is run without faults twice, then with single faults (the sweep), then with what
    Hypothesis draws of faults and arguments together.

    Args:
        manager: whose workflows are run, with its settings. Nothing of its store is touched.
        setup: makes the application's tables, given a `sqlite3.Connection`, once for all runs; on
            PostgreSQL given a `psycopg.Connection`, and before each run.
        workers: how many worker processes there are.
        faults: what may go wrong: a set such as `ALL`, ``ALL - {"raises"}`` or `CRASH`, or names of
            kinds (``"raises"``, ``"commit=lost_ack"``).
        max_examples: of Hypothesis; without it, what its settings say.
        sweep: False for none; a number for about so many simulated events.
        store: ``"sqlite"`` (in memory), ``"memory"`` (the simulator's model store, faster),
            ``"postgresql"`` (schemas of their own in the database whose address is in the
            environment variable ``PERDURE_SIM_POSTGRESQL``, else in the manager's own), or None for
            the manager's kind.
        events_max: a run of more simulated events than this, or of a twentieth as many steps of one
            workflow, is taken for one that does not end, and fails as `NoEnd`. With faults it may
            have twenty times the events of the run without.
        given: strategies by name, for arguments whose names are options here. ``given={}`` says
            that nothing is drawn beside plans.
        strategies: for the other arguments; ``...`` for "as its annotation says". Where there are
            none at all, all arguments with annotations are drawn.

    Raises:
        TypeError, ValueError: an option, or the function, cannot be used.
    """
    rules_of(manager)
    if not isinstance(workers, int) or isinstance(workers, bool) or workers < 1:
        raise ValueError(f"workers={workers!r}: give a number from 1 on")
    if max_examples is not None and (not isinstance(max_examples, int) or max_examples < 1):
        raise ValueError(f"max_examples={max_examples!r}: give a number from 1 on, or None")
    if not isinstance(events_max, int) or isinstance(events_max, bool) or events_max < 1:
        raise ValueError(f"events_max={events_max!r}: give a number from 1 on")
    kinds = FaultSet.of(faults)
    name = store_of(manager, store)
    has_strategies = bool(strategies) or given is not None
    wanted: dict[str, Any] = {**strategies, **(given or {})}

    def decorate(test: Test) -> Test:
        drawn = _strategies(test, wanted, infer=not has_strategies)
        trial = Trial(
            test=test,
            manager=manager,
            setup=setup,
            workers=workers,
            faults=kinds,
            max_examples=max_examples,
            sweep=sweep,
            store=name,
            events_max=events_max,
            strategies=drawn,
        )
        return _dressed(test, trial)

    return decorate


def _strategies(
    test: Callable[..., None], wanted: Mapping[str, Any], *, infer: bool
) -> dict[str, SearchStrategy[Any]]:
    """The strategy of each argument that is drawn.

    Raises:
        TypeError: the function is none that can be a test, or an argument cannot be drawn.
    """
    name = getattr(test, "__name__", repr(test))
    if inspect.isclass(test) or not callable(test):
        raise TypeError(f"simulate: {name} is no function: decorate a test function")
    if inspect.iscoroutinefunction(test):
        raise TypeError(
            f"simulate: {name} is an `async def`: write a plain `def`; nothing is awaited on `sim`"
        )
    if is_hypothesis_test(test):
        raise TypeError(f"simulate: {name} has @given: give its strategies to simulate instead")
    parameters = inspect.signature(test).parameters
    if "sim" not in parameters:
        raise TypeError(f"simulate: {name} has no parameter `sim`: write `def {name}(sim, …)`")
    reserved = [each for each in OWN if each in wanted] + ["plan"] * ("plan" in parameters)
    if reserved:
        raise TypeError(f"simulate: {reserved[0]!r} is the simulator's own: rename that argument")
    unknown = [each for each in wanted if each not in parameters]
    if unknown:
        there = ", ".join(each for each in parameters if each != "sim") or "none"
        raise TypeError(
            f"simulate: {name} has no argument {unknown[0]!r}; its arguments: {there}; options are"
            " setup, workers, faults, max_examples, sweep, store, events_max and given"
        )
    hints = _hints(test)
    chosen: Collection[str] = [each for each, strategy in wanted.items() if strategy is ...]
    if infer:
        fixed = _parametrized(test) | PYTEST_FIXTURES | {"self", *OWN}
        chosen = [each for each in parameters if each in hints and each not in fixed]
    found = {each: strategy for each, strategy in wanted.items() if strategy is not ...}
    for each in chosen:
        if each not in hints:
            raise TypeError(f"simulate: {each}=... and the argument of {name} has no annotation")
        found[each] = st.from_type(hints[each])
    for each, strategy in found.items():
        if not isinstance(strategy, SearchStrategy):
            raise TypeError(f"simulate: {each}={strategy!r} is no strategy of Hypothesis")
    return {each: found[each] for each in parameters if each in found}


def _hints(test: Callable[..., None]) -> dict[str, Any]:
    from typing import get_type_hints

    try:
        return get_type_hints(test)
    except NameError:  # one that only type checkers see
        return {k: v for k, v in inspect.get_annotations(test).items() if not isinstance(v, str)}


def _parametrized(test: Callable[..., None]) -> set[str]:
    names: set[str] = set()
    for mark in getattr(test, "pytestmark", ()):
        if mark.name == "parametrize" and mark.args:
            first = mark.args[0]
            names |= set(first.split(",")) if isinstance(first, str) else set(first)
    return {name.strip() for name in names}


def _dressed(test: Test, trial: Trial) -> Test:
    """A Hypothesis test, around which there is the sweep. The two share their attributes: so
    whatever decorates the outer one decorates the inner one."""

    @functools.wraps(test)
    def example(*args: Any, plan: str, **kwargs: Any) -> None:
        __tracebackhide__ = True
        trial.example(dict(zip(positional, args, strict=False)) | kwargs, plan)

    signature = inspect.signature(test)
    positional = [
        name
        for name, each in signature.parameters.items()
        if name != "sim" and each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    ]
    kept = [each for each in signature.parameters.values() if each.name != "sim"]
    own = inspect.Parameter("plan", inspect.Parameter.KEYWORD_ONLY, annotation=str)
    place = len(kept) - (bool(kept) and kept[-1].kind is inspect.Parameter.VAR_KEYWORD)
    kept.insert(place, own)
    example.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=kept, return_annotation=signature.empty
    )
    inner = hypothesis_given(plan=trial.plan_strategy(), **trial.strategies)(example)

    def outer(*args: Any, **kwargs: Any) -> None:
        __tracebackhide__ = True
        trial(inner, args, kwargs)

    found: Any = outer
    found.__signature__ = inspect.signature(inner)
    inner.__dict__.update(found.__dict__)
    found.__dict__ = inner.__dict__
    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        setattr(found, name, getattr(test, name))
    found.simulation = trial
    result: Test = found
    return result
