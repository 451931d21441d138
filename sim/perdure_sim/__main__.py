"""`python -m perdure_sim` is the command `perdure-sim`."""

from __future__ import annotations

from .command.cli import main

if __name__ == "__main__":  # the processes that it starts import this file as well
    main()
