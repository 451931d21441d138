"""Where the command begins and ends: exit codes, and errors as people or as programs want them."""

from __future__ import annotations

import codecs
import io
import json
import os
import sys

import click

from perdure import PerdureError
from perdure.cli.commands import command_line
from perdure.cli.options import AppBroken

#: What a shell gives for a process that SIGINT or SIGPIPE has ended.
INTERRUPTED, PIPE_CLOSED = 130, 141


def main() -> None:
    """The command itself: exits with 0 done, 1 the thing failed, 2 bad usage.

    130 after Ctrl-C, 141 when whoever reads the output has gone. With ``--json`` an error is a
    JSON object on stderr, and stdout is empty.
    """
    _escape_what_cannot_be_printed()
    if "_PERDURE_COMPLETE" in os.environ:
        command_line.main(prog_name="perdure")  # a shell asks how to go on
    try:
        # Not by click's own `main`, which takes a reader that has gone for a success.
        with command_line.make_context("perdure", sys.argv[1:]) as context:
            code = command_line.invoke(context)
        if sys.stdout is not None:  # None where the shell has closed it: nothing is to be shown
            sys.stdout.flush()
    except click.exceptions.Exit as ended:
        sys.exit(ended.exit_code)
    except click.UsageError as error:
        # Looked for by hand: an option that could not be read has not been understood.
        if "--json" in sys.argv[1:]:
            _tell("UsageError", error.format_message())
        else:
            error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _tell(type(error).__name__, error.format_message())
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    except OSError as error:  # of the output: trouble of a store is a PerdureError
        # Python flushes stdout once more at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            sys.exit(PIPE_CLOSED)
        _tell("OSError", f"the output could not be written: {error}")
        sys.exit(1)
    except (PerdureError, AppBroken) as error:
        _tell(type(error).__name__, str(error))
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def _escape_what_cannot_be_printed() -> None:
    """Print characters that the encoding of the output lacks as JSON writes them: it stays JSON."""

    def escape(error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeEncodeError)
        return json.dumps(error.object[error.start : error.end])[1:-1], error.end

    codecs.register_error("perdure.cli", escape)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="perdure.cli")


def _tell(kind: str, message: str) -> None:
    if "--json" in sys.argv[1:]:
        text = json.dumps({"error": {"type": kind, "message": message}}, ensure_ascii=False)
    else:
        text = f"{kind}: {message}"
    click.echo(text, err=True)
