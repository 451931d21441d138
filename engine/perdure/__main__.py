"""``python -m perdure``: the same as the command ``perdure``."""

from __future__ import annotations

from perdure.cli import main

main()
