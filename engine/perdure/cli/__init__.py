"""The command ``perdure``: run a worker, start workflows, look at them, check code, and the demo.

Each command is a call of the manager that ``--app`` names, and a way to show what it gave: tables
for people, JSON for programs. What cannot be done with `import perdure` is not done here either.
"""

from __future__ import annotations

try:
    from perdure.cli.entry import main
except ModuleNotFoundError as missing:
    package = (missing.name or "").partition(".")[0]
    if package not in ("click", "rich"):
        raise
    # An exit, not an ImportError: the script that pip installs imports this module first.
    raise SystemExit(
        f"The command perdure needs {package}, which is not installed: pip install 'perdure[cli]'"
    ) from None

__all__ = ["main"]
