"""Requests: what clients ask for, carried out inside a turn's transaction."""

from __future__ import annotations

from collections.abc import Callable

from tests.runtime.harness import Rig

from perdure.definitions import Definer
from perdure.errors import WorkflowNotFound
from perdure.runtime.contexts import QueryContext
from perdure.runtime.requests import Cancel, Read, RunFunction, UpdateConfig

Make = Callable[..., Rig]
d = Definer()


@d.query
def one(ctx: QueryContext) -> list[int]:
    return [1]


def test_each_request_gets_its_own_answer(rigs: Make) -> None:
    """Several in one transaction; the error of one is not that of the others."""
    rig = rigs(d)
    replies = [
        rig.ask(Cancel("nobody")),
        rig.ask(RunFunction(one, "{}")),
        rig.ask(UpdateConfig(7)),
        rig.ask(Read(lambda reader: reader.config().max_parallelism)),
    ]
    rig.turn()
    assert isinstance(replies[0].error, WorkflowNotFound)
    assert [rig.value(reply) for reply in replies[1:]] == ["[1]", None, 7]


def test_equal_requests_are_answered_one_by_one(rigs: Make) -> None:
    """Two callers with the same wish get an answer each."""
    rig = rigs(d)
    replies = [rig.ask(RunFunction(one, "{}")) for _ in range(3)]
    rig.turn()
    assert [reply.count for reply in replies] == [1, 1, 1]


def test_a_function_from_outside_is_named_once(rigs: Make) -> None:
    """For warnings of slow ones: by itself, and that no workflow has asked for it."""
    seen: list[str] = []
    definer = Definer()

    @definer.query
    def look(ctx: QueryContext) -> None:
        seen.append(rig.worker.env.watch.function)

    rig = rigs(definer)
    rig.ask(RunFunction(look, "{}"))
    rig.turn()
    assert seen == [f"{look!r} (called from outside)"]


def test_a_setting_reaches_every_worker(rigs: Make) -> None:
    """A client changes it; the workers look when another process has committed."""
    rig, client = rigs(d), rigs(d, works=False)
    rig.settle()
    client.limit(3)
    rig.settle()
    assert rig.worker._claims.permits == 3
