"""How what still runs on a handler's loop is ended, piece by piece.

A coroutine may answer its closing with one more await, or with an error; none of that may reach the
engine, or be reported when the remains are collected.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from types import CoroutineType
from typing import Any

#: A task may answer its cancelling or closing with one more await: so often it is asked again.
ROUNDS_MAX = 10


def close_coroutine(coro: Coroutine[Any, Any, Any]) -> None:
    # Those that it waits for are looked up first: it ends with the first await that one of them
    # answers its closing with, and then holds it no more.
    chain: list[Coroutine[Any, Any, Any]] = []
    inner: Any = coro
    while isinstance(inner, CoroutineType):
        chain.append(inner)
        inner = inner.cr_await
    for each in chain or [coro]:
        _close(each)


def _close(coro: Coroutine[Any, Any, Any]) -> None:
    for _ in range(ROUNDS_MAX):
        try:
            coro.close()
        except RuntimeError:
            continue  # perhaps because it awaits something again; on an ended one close() is empty
        except BaseException:
            pass
        return


def end_task(task: asyncio.Task[Any]) -> None:
    waiter = task._fut_waiter  # type: ignore[attr-defined]
    # From 3.14 on a future holds who waits for it, which holds what it awaits.
    let_go: Any = getattr(asyncio, "future_discard_from_awaited_by", None)
    for future in (task, waiter) if let_go is not None else ():
        for waiting in getattr(future, "_asyncio_awaited_by", None) or ():
            let_go(future, waiting)
    # As a Future: a task that is done is not reported as destroyed while pending. Its waiter too,
    # which drops the callback by which the two hold each other.
    asyncio.Future.cancel(task)
    if isinstance(waiter, asyncio.Future) and not isinstance(waiter, asyncio.Task):
        asyncio.Future.cancel(waiter)


def close_asyncgen(generator: AsyncGenerator[Any, Any]) -> None:
    if isinstance(inner := getattr(generator, "ag_await", None), Coroutine):
        # It stands within an await. Before 3.13 closing whoever waits for it does not reach it, and
        # its own aclose() is refused; what it waits for would be left to the collector.
        close_coroutine(inner)
    closer: Any = generator.aclose()
    try:
        closer.send(None)
        for _ in range(ROUNDS_MAX):
            closer.throw(GeneratorExit())
    except BaseException:
        pass  # StopIteration, GeneratorExit or what its `finally` raised: it has ended


def asyncgen_collected(generator: AsyncGenerator[Any, Any]) -> None:
    """Only to keep the interpreter from closing it: the loop has done, or tried, that."""
