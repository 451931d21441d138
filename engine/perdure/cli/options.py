"""What all commands share: the options around them, the manager, and how it is opened."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
import traceback
import warnings
from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeVar

import click

from perdure import DeterminismWarning, PerdureError, WorkflowManager

R = TypeVar("R")
Command = TypeVar("Command", bound=Callable[..., Any])


class AppBroken(Exception):
    """The module of ``--app`` cannot be imported: the text shows where in it."""


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    # The commands of one call share `meta`; what is given later, after the command, wins.
    if value not in (None, False):
        context.meta[f"perdure.{parameter.name}"] = value


def shared_options(command: Command) -> Command:
    """Give a command --app, --store and --json, which may stand before it or after it; `given`
    reads them."""
    options = (
        click.option(
            "--app",
            metavar="MODULE:MANAGER",
            help="Where the manager is; else PERDURE_APP says it.",
            expose_value=False,
            callback=_remember,
        ),
        click.option(
            "--store",
            metavar="STORE",
            help="Use this store instead of the manager's own.",
            expose_value=False,
            callback=_remember,
        ),
        click.option(
            "--json",
            "as_json",
            is_flag=True,
            help="Print JSON only.",
            expose_value=False,
            callback=_remember,
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def given(name: str) -> Any:
    """The value of a shared option: "app", "store" or "as_json"."""
    return click.get_current_context().meta.get(f"perdure.{name}")


def find_manager(*, quiet: bool = False) -> WorkflowManager:
    """The manager that --app or PERDURE_APP names, on the store that --store names.

    Args:
        quiet: give no warnings about clocks in workflows: they are told in another way.

    Raises:
        click.UsageError: it names no manager.
        AppBroken: its module cannot be imported.
    """
    app = given("app") or os.environ.get("PERDURE_APP")
    if not app:
        raise click.UsageError("say where the manager is: --app MODULE:MANAGER, or PERDURE_APP")
    module_name, _, path = app.partition(":")
    if not module_name or not path:
        raise click.UsageError(f"--app {app}: give MODULE:MANAGER, such as app:manager")
    if (folder := os.getcwd()) not in sys.path:
        sys.path.insert(0, folder)  # the script of a virtual environment does not look here
    with warnings.catch_warnings():
        if quiet or given("as_json"):
            warnings.simplefilter("ignore", DeterminismWarning)
        found = _import(module_name, app)
    for name in path.split("."):
        if not hasattr(found, name):
            raise click.UsageError(f"--app {app}: {found!r} has no {name}")
        found = getattr(found, name)
    if not isinstance(found, WorkflowManager):
        raise click.UsageError(f"--app {app}: that is not a WorkflowManager: {found!r}")
    if store := given("store"):
        found.store_url = store
    return found


def _import(module_name: str, app: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise click.UsageError(f"--app {app}: there is no module {error.name}") from None
        raise AppBroken(_spell(error, app)) from None
    except (Exception, SystemExit) as error:
        raise AppBroken(_spell(error, app)) from None


def _spell(error: BaseException, app: str) -> str:
    """An error of the user's module, with the lines that are his."""
    trace = error.__traceback__
    while trace is not None and (
        trace.tb_frame.f_code.co_filename == __file__
        or trace.tb_frame.f_globals.get("__name__", "").startswith("importlib")
    ):
        trace = trace.tb_next
    lines = traceback.format_exception(type(error), error, trace)
    return f"--app {app} cannot be imported:\n{''.join(lines).rstrip()}"


def run_client(
    manager: WorkflowManager,
    work: Callable[[], Awaitable[R]],
    access: Literal["create", "write", "read"] = "read",
) -> R:
    """Run a coroutine while the manager is open as a client.

    Args:
        access: what `WorkflowManager.client` may do with the store: a mistyped path shall not
            become an empty database.
    """

    async def run() -> R:
        async with manager.client(access=access):
            return await work()

    try:
        return asyncio.run(run())
    except PerdureError:
        raise  # a ValidationError is a ValueError too
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from None


def parse_json(text: str, what: str) -> Any:
    """A value that was typed as JSON."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise click.UsageError(f"{what} is not JSON: {error}: {text}") from None
