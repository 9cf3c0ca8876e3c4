"""Which ids were read already: kept on disk, so that memory stays the same at any number of them.

A job can go on without this: ids are read from the input again for every shard of which they are not there whole.
"""

import sqlite3
import threading
from collections.abc import Sequence
from contextlib import closing
from hashlib import blake2b
from pathlib import Path

# Among a billion ids two have the same digest with a probability of 10^-11.
DIGEST_BYTES = 12
CACHE_KIBIBYTES = 65_536
# Ids fall anywhere in the table: the fewer the checkpoints, the more of them change a page together. 100 MB.
CHECKPOINT_PAGES = 25_000


class SeenIds:
    """The ids of all rows that were read, each with the place that it was first read at, as a number.

    A row that is read again, after a kill, finds itself and is no duplicate. Safe for threads.

    Args:
        file: Where they are kept, one that is damaged is begun anew; None keeps them in memory, for a job that leaves
            nothing behind.

    Attributes:
        shards: The ids of so many shards are there, those of the first ones.
    """

    def __init__(self, file: Path | None) -> None:
        if file is not None and _is_damaged(file):
            for each in (file, *(file.with_name(f"{file.name}-{kind}") for kind in ("wal", "shm"))):
                each.unlink(missing_ok=True)
        self._lock = threading.Lock()
        self._table = sqlite3.connect(file or ":memory:", isolation_level=None, check_same_thread=False)
        self._table.execute("PRAGMA journal_mode=WAL")
        self._table.execute("PRAGMA synchronous=FULL")
        self._table.execute(f"PRAGMA cache_size=-{CACHE_KIBIBYTES}")
        self._table.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
        self._table.execute("CREATE TABLE IF NOT EXISTS seen (id BLOB PRIMARY KEY, place INTEGER) WITHOUT ROWID")
        self._table.execute("BEGIN")
        self.shards: int = self._table.execute("PRAGMA user_version").fetchone()[0]

    def add(self, ids: Sequence[str], places: Sequence[int]) -> list[int | None]:
        """Note ids; of each that was seen before at another place return that place, of the others None."""
        digests = [blake2b(name.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest() for name in ids]
        rows = list(zip(digests, places, strict=True))
        with self._lock:
            added = self._table.executemany("INSERT OR IGNORE INTO seen VALUES (?, ?)", rows).rowcount
            if added == len(rows):
                return [None] * len(rows)
            query = "SELECT place FROM seen WHERE id = ?"
            found = [self._table.execute(query, [digest]).fetchone()[0] for digest, _ in rows]
        return [None if first == place else first for first, place in zip(found, places, strict=True)]

    def commit(self, shards: int) -> None:
        """Make all that was noted safe on the disk, with those of so many shards."""
        with self._lock:
            self._table.execute(f"PRAGMA user_version={shards}")
            self._table.execute("COMMIT")
            self._table.execute("BEGIN")

    def close(self) -> None:
        """Close the file; what was noted since the last commit is forgotten. Threads that go on get errors."""
        with self._lock:
            self._table.close()


def _is_damaged(file: Path) -> bool:
    """Whether a file is no whole table: cut off or overwritten. One that is empty or missing is whole, with no ids.

    Its structure tells, at a third of a second for a million ids; a bit that flips within an id is not seen.
    """
    try:
        with closing(sqlite3.connect(file)) as table:
            return bool(table.execute("PRAGMA integrity_check(1)").fetchone() != ("ok",))
    except sqlite3.OperationalError:  # the disk, which is no fault of the file
        raise
    except sqlite3.DatabaseError:
        return True
