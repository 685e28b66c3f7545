"""The database of a folder of runs: opening it, its version, transactions, and clear messages for its errors.

A transaction is written as a whole or not at all, whatever happens to the process. WAL mode lets readers read while a
worker writes.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from encore_core.errors import InputError
from encore_core.runs.schema import SCHEMA_VERSION, bring_up_to_date

BUSY_SECONDS = 30.0


class StoreError(InputError):
    """The store cannot be read or written: disk full, damaged, locked or of a newer version. One line."""


class Database:
    """The file `runs.sqlite` in a folder of runs. Holds no connection: each use opens its own.

    Args:
        folder: its folder, absolute; made when it is missing.
        read_only: open a database that never changes. It must exist, and no file is made beside it.

    Raises:
        StoreError: when the folder cannot be written, or holds a damaged store or one of a newer version.
    """

    def __init__(self, folder: Path, read_only: bool = False):
        self.folder, self.read_only = folder, read_only
        self.file = folder / "runs.sqlite"
        self.version = SCHEMA_VERSION
        """Of its tables: a database that is only read may be older than the program."""
        if read_only:
            self.version = self._check_version()
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"The folder of runs {self.folder} cannot be made ({error.strerror}); give one you can write to."
            ) from error
        self._make_schema()

    def query(self, sql: str, values: Sequence[Any] = ()) -> tuple[list[str], list[tuple]]:
        """Column names and rows of a SELECT."""
        with self.reading() as db:
            db.row_factory = None
            cursor = db.execute(sql, values)
            return [column[0] for column in cursor.description], cursor.fetchall()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection for the duration of the block."""
        with self._clear_errors():
            # Immutable: SQLite then opens no other files and takes no locks, so the folder may be read-only, too.
            uri = f"{self.file.as_uri()}{'?mode=ro&immutable=1' if self.read_only else ''}"
            db = sqlite3.connect(uri, timeout=BUSY_SECONDS, isolation_level=None, uri=True)
            try:
                db.row_factory = sqlite3.Row
                db.execute("PRAGMA foreign_keys = ON")
                # A state file that the cursor points to must not be lost by a power cut after the older one is gone.
                db.execute("PRAGMA synchronous = FULL")
                yield db
            finally:
                db.close()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all or nothing."""
        if self.read_only:
            raise InputError("Recorded runs come with the program and cannot be changed; start a run of your own.")
        with self.reading() as db, transaction(db):
            yield db

    def _check_version(self) -> int:
        with self.reading() as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"The store {self.file} has version {version}, but this program knows {SCHEMA_VERSION}; use the newer "
                "program, or another folder."
            )
        return version

    def _make_schema(self) -> None:
        if self._check_version() < SCHEMA_VERSION:
            # Two processes that find no store, or an old one, must not both make one.
            lock = FileLock(self.folder / "store.lock", timeout=BUSY_SECONDS)
            with self._clear_errors(), lock_errors_told(self.folder), lock, self.reading() as db:
                if db.execute("PRAGMA user_version").fetchone()[0] == 0:
                    db.execute("PRAGMA journal_mode = WAL")
                bring_up_to_date(db)

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except Timeout as error:
            raise StoreError(f"The store {self.file} is being made by another process; try again.") from error
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError):
            raise  # our own defects
        except sqlite3.DatabaseError as error:
            raise StoreError(self._said(error)) from error

    def _said(self, error: sqlite3.DatabaseError) -> str:
        """One line about an error of the database, chosen by its code, because the library may change its texts."""
        # The lowest byte is the kind; the higher ones refine some kinds.
        code = (getattr(error, "sqlite_errorcode", None) or sqlite3.SQLITE_ERROR) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            return f"The disk of {self.folder} is full; free some space and try again."
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return f"The store {self.file} has been locked by another process for {BUSY_SECONDS:.0f} s; end that one."
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            return f"The store {self.file} is damaged ({error}); move it away, or give another folder."
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN):
            return f"The store {self.file} cannot be written ({error}); give a folder that you can write to."
        return f"The store {self.file} cannot be used ({error}); check the folder, or give another."


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All of the block or nothing."""
    # Take the lock at once: a transaction that first reads and then writes could be refused in the middle.
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


@contextmanager
def lock_errors_told(folder: Path) -> Iterator[None]:
    """Report a lock whose file cannot be written as a `StoreError`; the caller handles `Timeout`."""
    try:
        yield
    except Timeout:
        raise
    except OSError as error:
        raise StoreError(
            f"The folder of runs {folder} cannot be written ({error.strerror or error}); give one you can write to."
        ) from error


def as_json(value: Any) -> str:
    """A value as it is stored in a column."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
