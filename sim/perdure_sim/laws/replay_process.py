"""Replay in a process of its own, whose strings hash differently, in another time zone.

A handler that iterates over a set asks for the same steps as long as its process lives, and for
others after a restart: no replay in one process can show that. So a child is started once, and
gets finished journals to replay; nothing but JSON goes to and fro.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
import sys
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

import msgspec

from perdure.core.journal import TickRecord
from perdure.store.base import Loaded
from perdure.store.rows import (
    command_row,
    end_row,
    header_row,
    is_open,
    run_row,
    state_from_row,
    state_row,
    step_from_row,
)

from .history import History
from .replaying import ReplayDiffers, check_replay, check_whole

#: How long a child that was told to end may take to do so, in seconds.
END_SECONDS = 10

#: Set in the environment of the other process.
_MARK = "PERDURE_SIM_REPLAYS"

#: Whether this is the other process, or one that it has started: it starts no more of them.
IS_CHILD = _MARK in os.environ


class _Journal(msgspec.Struct, frozen=True):
    """A workflow as rows of a store."""

    state: list[Any]
    steps: list[list[Any]]
    ticks: list[tuple[int, int]]


class _Request(msgspec.Struct, frozen=True):
    """Journals to replay, by the definitions of ``module:attribute``."""

    definer: str
    journals: list[_Journal]
    modules: list[str] = []
    is_brief: bool = False


class _Answer(msgspec.Struct, frozen=True):
    """What is wrong with the journals, and why they could not be replayed at all."""

    differences: list[str] = []
    trouble: str = ""


def recorded(history: History) -> list[Loaded]:
    """The journals of a run, as they are in its store."""
    return [
        Loaded(
            state=known.state,
            steps=tuple(known.steps.values()),
            ticks=tuple(TickRecord(*tick) for tick in known.ticks.items()),
        )
        for known in history.workflows.values()
    ]


class ReplayProcess:
    """A child that replays journals; a context manager, which ends it.

    Attributes:
        hash_seed: of the child, and not of this process.
        has_answered: whether it has come so far that an answer comes at once.
    """

    def __init__(self) -> None:
        self.has_answered = False
        self._sent = self._unwanted = 0
        self.hash_seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
        known = {"PYTHONHASHSEED": self.hash_seed, "TZ": "ELSEWHERE-11:30", _MARK: "1"}
        known["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self._child = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **known},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked."""
        return self._child.poll() is None

    def check(
        self,
        definer: str,
        journals: Iterable[Loaded],
        *,
        modules: Iterable[str] = (),
        is_brief: bool = False,
    ) -> None:
        """Replay journals there, as `check_replay` does here.

        Args:
            definer: ``module:attribute`` of what the workflows are defined with.
            modules: others to be imported, which define more of them.
            is_brief: each journal whole only, and not its prefixes.

        Raises:
            ReplayDiffers: a replay asked for something else than what is recorded.
            RuntimeError: the child could not do it; the message says why.
        """
        self.forget()
        self.send(definer, journals, modules=modules, is_brief=is_brief)
        self.receive(definer)

    def send(
        self,
        definer: str,
        journals: Iterable[Loaded],
        *,
        modules: Iterable[str] = (),
        is_brief: bool = False,
    ) -> None:
        """Ask as `check` does, and do not wait for the answer: while the child starts, there is
        something else to do. `receive` gives the answers, in turn."""
        rows = [_to_rows(loaded) for loaded in journals]
        line = msgspec.json.encode(_Request(definer, rows, list(modules), is_brief)) + b"\n"
        stdin = self._child.stdin
        assert stdin is not None
        self._sent += 1
        with contextlib.suppress(BrokenPipeError, ValueError):  # it has ended: told by `receive`
            stdin.write(line)
            stdin.flush()

    def receive(self, definer: str) -> None:
        """Wait for the answer to the first request that has none.

        Raises:
            ReplayDiffers, RuntimeError: as `check` does.
        """
        answer = self._answer()
        if answer.trouble:
            raise RuntimeError(f"no replay of {definer} in another process: {answer.trouble}")
        if answer.differences:
            raise ReplayDiffers(
                f"in another process, with PYTHONHASHSEED={self.hash_seed}: "
                + "; ".join(answer.differences)
            )

    def close(self) -> None:
        """End the child, and wait for that. More than once does no harm."""
        child = self._child
        assert child.stdin is not None and child.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has died with a request unread
            child.stdin.close()
        try:
            child.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        child.stdout.close()

    def forget(self) -> None:
        """Nobody wants the answers any more to what was sent until now."""
        self._unwanted = self._sent

    def _answer(self) -> _Answer:
        while self._unwanted:
            self._unwanted -= 1
            self._line()
        return msgspec.json.decode(self._line(), type=_Answer)

    def _line(self) -> bytes:
        stdout = self._child.stdout
        assert stdout is not None
        line = b""
        if self._sent:
            self._sent -= 1
            with contextlib.suppress(ValueError):  # it was closed
                line = stdout.readline()
        if not line:
            self._sent = self._unwanted = 0
            raise RuntimeError("the process that replays journals has ended; start another one")
        self.has_answered = True
        return line


def _to_rows(loaded: Loaded) -> _Journal:
    state, workflow_id = loaded.state, loaded.state.workflow_id
    return _Journal(
        state=[*header_row(state.header), *state_row(state)],
        steps=[
            [*command_row(workflow_id, record), *run_row(record), *end_row(record)]
            for record in loaded.steps
        ],
        ticks=[(tick.position, tick.now) for tick in loaded.ticks],
    )


def _from_rows(journal: _Journal) -> Loaded:
    steps = tuple(step_from_row(tuple(row)) for row in journal.steps)
    return Loaded(
        state=state_from_row(tuple(journal.state), live=filter(is_open, steps)),
        steps=steps,
        ticks=tuple(TickRecord(*tick) for tick in journal.ticks),
    )


# --- in the child ---------------------------------------------------------------------------------


def _answer(request: _Request) -> _Answer:
    try:
        from ..testing.manager_settings import rules_of

        module, _, attribute = request.definer.partition(":")
        found = getattr(importlib.import_module(module), attribute)
        for name in request.modules:
            importlib.import_module(name)
        rules = rules_of(found)
        check = check_whole if request.is_brief else check_replay
        differences = []
        for journal in request.journals:
            try:
                check(rules, _from_rows(journal))
            except ReplayDiffers as error:
                differences.append(str(error))
    except Exception as error:  # of the user's module, most likely: whoever asked has to know
        return _Answer(trouble=f"{type(error).__name__}: {error}")
    return _Answer(differences)


def main() -> None:
    """Answer requests, one a line, until there are no more."""
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # what user code prints must not get between the answers
        for line in sys.stdin.buffer:
            request = msgspec.json.decode(line, type=_Request)
            answers.write(msgspec.json.encode(_answer(request)) + b"\n")
            answers.flush()


if __name__ == "__main__":
    main()
